//! A Millrace node with pods that have second interfaces in a bridged network, and a stock node with a bridge in the same.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use millrace_tools::lab::machine::Machine;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::traffic::talk::TalkReport;
use millrace_tools::lab::{
    Daemon, Lab, Namespace, Node, NodeKind, Process, Topology, find_program, wait_until,
};

use crate::WORDS;

/// Longer than anything takes that is to come about at all: a machine may be emulated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where stations echo.
pub(crate) const ECHO_PORT: u16 = 7000;
/// The network, and the largest packet in it: what the uplink's 1500 bytes leave in a tunnel.
pub(crate) const BLUE: &str = "lab/blue";
pub(crate) const MTU: u32 = 1450;
/// The host number of the station on the stock node.
const FAR: u8 = 22;
/// The network's definition.
pub(crate) const DEFINITION: &str = r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: blue, namespace: lab}
spec:
  config: |
    {"cniVersion": "1.0.0", "name": "blue", "type": "millrace-cni",
     "network": {"kind": "bridged", "vni": 100, "subnets": ["10.9.0.0/16", "fd09::/64"]}}
"#;

/// A station's address.
pub(crate) fn address(host: u8, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        Ipv4Addr::new(10, 9, 0, host).into()
    } else {
        Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, host.into()).into()
    }
}

pub(crate) struct Rig {
    lab: RefCell<Lab>,
    pods: Vec<Namespace>,
    far: Namespace,
    echoes: RefCell<Vec<Process>>,
}

impl Rig {
    /// A Millrace node and a stock one.
    pub(crate) fn new(name: &str) -> Self {
        Self::of(name, &[NodeKind::Millrace, NodeKind::Stock])
    }

    /// Such nodes: the first is Millrace's and has two pods, the second is stock, others of Millrace's have one pod each.
    pub(crate) fn of(name: &str, nodes: &[NodeKind]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the tests of networks make network namespaces and load XDP programs: run them as root"
        );
        let topology = Topology {
            pods_per_node: 0,
            ..Topology::of(nodes)
        };
        let lab = Lab::bring_up(name, &topology).unwrap_or_else(|error| panic!("lab {name}: {error}"));
        let daemons = || lab.nodes().iter().filter_map(Node::daemon);
        for daemon in daemons() {
            daemon.write_manifest("blue.yaml", DEFINITION).unwrap();
        }
        for daemon in daemons() {
            wait_until("the network", PATIENCE, || {
                let networks = daemon.json(&["show", "networks"])?;
                Ok(networks.as_array().is_some_and(|all| !all.is_empty()))
            })
            .unwrap();
        }
        let first = daemons().take(1).chain(daemons());
        let pods: Vec<Namespace> = (1..)
            .zip(first)
            .map(|(host, daemon)| attach(&lab, daemon, BLUE, host))
            .collect();
        let far = stock_bridge(&lab);
        let rig = Self {
            lab: RefCell::new(lab),
            pods,
            far,
            echoes: RefCell::default(),
        };
        let pods = (1..).zip(&rig.pods).map(|(host, pod)| Station::within(pod, host));
        let stations = pods.chain([rig.far()]);
        let echoes = stations.flat_map(|station| station.echo(&rig)).collect();
        *rig.echoes.borrow_mut() = echoes;
        rig
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&Lab) -> T) -> T {
        work(&self.lab.borrow())
    }

    pub(crate) fn pod(&self, host: u8) -> Station {
        let place = usize::from(host - 1);
        Station::within(self.pods.get(place).unwrap(), host)
    }

    pub(crate) fn far(&self) -> Station {
        Station::within(&self.far, FAR)
    }

    pub(crate) fn ask(&self, words: &[&str]) -> String {
        self.with(|lab| {
            let daemon = lab.node("node-a").unwrap().daemon().unwrap();
            daemon
                .client_output(words)
                .unwrap_or_else(|error| panic!("{error}"))
        })
    }

    pub(crate) fn daemon(&self) -> Asked<'_> {
        Asked(self)
    }

    /// Defines another network.
    pub(crate) fn define(&self, network: &str, definition: &str) {
        self.with(|lab| {
            let daemon = lab.node("node-a").unwrap().daemon().unwrap();
            let file = format!("{}.yaml", network.trim_start_matches("lab/"));
            daemon.write_manifest(&file, definition).unwrap();
        });
        wait_until("another network", PATIENCE, || {
            let networks = self.daemon().json(&["show", "networks"]).unwrap();
            let served = |row: &serde_json::Value| row["network"] == network;
            Ok(networks.as_array().unwrap().iter().any(served))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.told()));
    }

    /// A pod more of node-a's, in another network.
    pub(crate) fn pod_in(&self, network: &str, host: u8) -> Namespace {
        self.with(|lab| attach(lab, lab.node("node-a").unwrap().daemon().unwrap(), network, host))
    }

    /// Ends the daemon and starts it again.
    pub(crate) fn restart(&self) {
        let mut lab = self.lab.borrow_mut();
        let daemon: &mut Daemon = lab.node_mut("node-a").unwrap().daemon_mut().unwrap();
        daemon.stop().unwrap();
        daemon
            .start()
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_end()));
    }

    /// What there is to be known when something fails.
    pub(crate) fn told(&self) -> String {
        self.with(|lab| {
            let daemon = lab.node("node-a").unwrap().daemon().unwrap();
            let ask = |words: &[&str]| match daemon.ask(words) {
                Ok(told) => told.stdout + &told.stderr,
                Err(error) => error.to_string(),
            };
            let own = [&["show", "networks"][..], &["show", "ports"], &["stats"]].map(ask);
            let node = lab.node("node-b").unwrap().namespace();
            let fdb = node.bridge(&["fdb", "show"]).unwrap_or_default();
            format!("{}\n-- node-b: fdb\n{fdb}\n{}", own.join("\n"), daemon.log_end())
        })
    }

    pub(crate) fn finish(self) {
        drop(self.echoes);
        drop((self.pods, self.far));
        self.lab.into_inner().close().unwrap();
    }
}

/// The daemon, asked for JSON.
pub(crate) struct Asked<'a>(&'a Rig);

impl Asked<'_> {
    pub(crate) fn json(&self, words: &[&str]) -> Result<serde_json::Value, String> {
        self.0.with(|lab| {
            let daemon = lab.node("node-a").unwrap().daemon().unwrap();
            daemon.json(words).map_err(|error| error.to_string())
        })
    }

    /// A count of the slow path's.
    pub(crate) fn slow_path(&self, name: &str) -> u64 {
        let stats = self.json(&["stats"]).unwrap();
        stats["slow_path"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {stats}"))
    }
}

/// Attaches a pod's second interface, which is in this network.
fn attach(lab: &Lab, daemon: &Daemon, network: &str, host: u8) -> Namespace {
    let name = format!("{network}-{host}");
    let pod = lab.namespace(name.trim_start_matches("lab/")).unwrap();
    let path = pod.path().to_string_lossy().into_owned();
    let addresses = [true, false].map(|is_ipv4| address(host, is_ipv4).to_string());
    let mut words = vec!["attach", &name, "--netns", &path, "--network", network];
    words.extend(addresses.iter().flat_map(|address| ["--address", address]));
    daemon
        .client_output(&words)
        .unwrap_or_else(|error| panic!("{error}"));
    pod
}

/// A bridge of the stock node with a VXLAN device that learns, and a station on it.
fn stock_bridge(lab: &Lab) -> Namespace {
    let node = lab.node("node-b").unwrap();
    let own = node.plan().underlay_address().to_string();
    let (node, far) = (node.namespace(), lab.namespace("far").unwrap());
    let mtu = MTU.to_string();
    let ip = |words: &[&str]| {
        node.ip(words).unwrap_or_else(|error| panic!("{error}"));
    };
    let device = [
        "link", "add", "vx100", "mtu", &mtu, "type", "vxlan", "id", "100", "dstport", "8472",
    ];
    ip(&[&device[..], &["local", &own, "dev", UPLINK, "learning"]].concat());
    for other in lab
        .nodes()
        .iter()
        .filter_map(|node| node.daemon().map(|_| node.plan()))
    {
        let to = other.underlay_address().to_string();
        let anybody = ["fdb", "append", "00:00:00:00:00:00", "dev", "vx100", "dst", &to];
        node.bridge(&anybody).unwrap();
    }
    ip(&["link", "add", "br100", "mtu", &mtu, "type", "bridge"]);
    ip(&["link", "set", "vx100", "master", "br100", "up"]);
    ip(&["link", "set", "br100", "up"]);
    plug(lab, "far0", &far);
    for (is_ipv4, length) in [(true, 16), (false, 64)] {
        let address = format!("{}/{length}", address(FAR, is_ipv4));
        let mut words = vec!["address", "add", &address, "dev", "net1"];
        words.extend((!is_ipv4).then_some("nodad"));
        far.ip(&words).unwrap();
    }
    far
}

/// Plugs a namespace's `net1` into the stock node's bridge, and waits until frames go through.
pub(crate) fn plug(lab: &Lab, port: &str, namespace: &Namespace) {
    let node = lab.node("node-b").unwrap().namespace();
    let (path, mtu) = (namespace.path().to_string_lossy().into_owned(), MTU.to_string());
    let pair = ["link", "add", port, "mtu", &mtu, "type", "veth"];
    let peer = ["peer", "name", "net1", "mtu", &mtu, "netns", &path];
    node.ip(&[&pair[..], &peer].concat()).unwrap();
    node.ip(&["link", "set", port, "master", "br100", "up"]).unwrap();
    namespace.ip(&["link", "set", "net1", "up"]).unwrap();
    wait_until("the bridge's port", PATIENCE, || {
        Ok(node
            .bridge(&["link", "show", "dev", port])?
            .contains("state forwarding"))
    })
    .unwrap();
}

/// Where a station's programs run.
enum Place {
    Namespace(PathBuf),
    Machine(Box<Machine>),
}

/// A station of the network.
pub(crate) struct Station {
    host: u8,
    place: Place,
}

impl Station {
    pub(crate) fn within(namespace: &Namespace, host: u8) -> Self {
        Self {
            host,
            place: Place::Namespace(namespace.path()),
        }
    }

    pub(crate) fn machine(machine: Machine, host: u8) -> Self {
        Self {
            host,
            place: Place::Machine(Box::new(machine)),
        }
    }

    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [true, false].map(|is_ipv4| address(self.host, is_ipv4))
    }

    /// Its echoes, where they do not run in a machine.
    pub(crate) fn echo(&self, rig: &Rig) -> Vec<Process> {
        if let Place::Machine(_) = self.place {
            return Vec::new();
        }
        let start = |at: IpAddr| {
            let mut line = self.command("millrace-guest");
            line.args(["echo", &SocketAddr::new(at, ECHO_PORT).to_string()]);
            let log = rig.with(|lab| lab.folder().join("echoes.log"));
            Process::spawn(line, &log).unwrap()
        };
        self.addresses().into_iter().map(start).collect()
    }

    /// A command line where the station is, which is no machine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let Place::Namespace(path) = &self.place else {
            panic!("{program} in a machine");
        };
        let program = match program {
            "millrace-guest" => guest_program(),
            other => PathBuf::from(other),
        };
        let mut line = Command::new("nsenter");
        line.arg(format!("--net={}", path.display())).arg(program);
        line
    }

    /// Runs a command where the station is; whether it went well, and what it said.
    pub(crate) fn run(&self, program: &str, words: &[&str]) -> (bool, String) {
        match &self.place {
            Place::Namespace(_) => {
                let mut line = self.command(program);
                line.args(words);
                let told = line.output().unwrap();
                let said =
                    [told.stdout, told.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                (told.status.success(), said.concat())
            }
            Place::Machine(machine) => {
                let line: Vec<&str> = [program].into_iter().chain(words.iter().copied()).collect();
                let told = machine.complete(&line, PATIENCE).unwrap();
                (told.status.success(), format!("{}{}", told.stdout, told.stderr))
            }
        }
    }

    /// Echo requests of so many bytes until one is answered: a station has to be found first.
    pub(crate) fn ping(&self, rig: &Rig, to: IpAddr, payload: u32) {
        let (to, size) = (to.to_string(), payload.to_string());
        let words = ["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to];
        let mut said = String::new();
        let answered = wait_until("an answer", PATIENCE, || {
            let (answered, told) = self.run("ping", &words);
            said = told;
            Ok(answered)
        });
        assert!(answered.is_ok(), "from {}: {said}\n{}", self.host, rig.told());
    }

    /// One echo request, which is answered.
    pub(crate) fn ping_once(&self, rig: &Rig, to: IpAddr) {
        let to = to.to_string();
        let (answered, said) = self.run("ping", &["-n", "-c", "1", "-W", "20", &to]);
        assert!(answered, "from {}: {said}\n{}", self.host, rig.told());
    }

    /// That nothing answers.
    pub(crate) fn cannot_ping(&self, to: IpAddr) {
        let to = to.to_string();
        let (answered, said) = self.run("ping", &["-n", "-c", "1", "-W", "1", &to]);
        assert!(!answered, "from {}: {said}", self.host);
    }

    /// Has an address more.
    pub(crate) fn takes(&self, address: &str) {
        let (done, said) = self.run("ip", &["address", "add", address, "dev", "net1"]);
        assert!(done, "{said}");
    }

    /// TCP and UDP with another's echo.
    pub(crate) fn talk(&self, rig: &Rig, to: IpAddr) {
        let to = SocketAddr::new(to, ECHO_PORT).to_string();
        let [flows, bytes, datagrams] = [
            WORDS.flows.to_string(),
            WORDS.bytes.to_string(),
            WORDS.datagrams.to_string(),
        ];
        let words = [
            "talk",
            &to,
            "--flows",
            &flows,
            "--bytes",
            &bytes,
            "--datagrams",
            &datagrams,
        ];
        let (done, said) = self.run("millrace-guest", &words);
        assert!(done, "from {}: {said}\n{}", self.host, rig.told());
        let report = TalkReport::from_json(&said).unwrap();
        assert!(
            report.is_whole(&WORDS),
            "from {}: {report:#?}\n{}",
            self.host,
            rig.told()
        );
    }

    /// Ends a machine.
    pub(crate) fn end(self) {
        drop(self.place);
    }
}

fn guest_program() -> PathBuf {
    find_program().unwrap().with_file_name("millrace-guest")
}
