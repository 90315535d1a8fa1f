//! A Millrace node with pods that have second interfaces in a bridged network, and a stock node with a bridge in the same.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use millrace_tools::lab::{Daemon, Lab, Namespace, Node, NodeKind, Process, Topology, wait_until};

use crate::station::{Scene, Station};
use crate::stock::{self, FAR};

/// Longer than anything takes that is to come about at all: a machine may be emulated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where stations echo.
pub(crate) const ECHO_PORT: u16 = 7000;
/// The network, and the largest packet in it: what the uplink's 1500 bytes leave in a tunnel.
pub(crate) const BLUE: &str = "lab/blue";
pub(crate) const MTU: u32 = 1450;
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
        let far = stock::bridge(&lab, "100", "learning");
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

    /// Does something between the namespaces of two stations.
    pub(crate) fn between<T>(&self, from: u8, to: u8, work: impl FnOnce(&Namespace, &Namespace) -> T) -> T {
        let place = |host: u8| match host {
            FAR => &self.far,
            pod => self.pods.get(usize::from(pod - 1)).unwrap(),
        };
        work(place(from), place(to))
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

    /// A pod more of a node's in the cluster's own network, and its address.
    pub(crate) fn cluster_pod(&self, node: &str, name: &str) -> (PathBuf, IpAddr) {
        let mut lab = self.lab.borrow_mut();
        let pod = lab.add_pod(node, name).unwrap();
        (pod.namespace().path(), pod.address().into())
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
    fn tell(&self) -> String {
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

    pub(crate) fn told(&self) -> String {
        self.tell()
    }

    pub(crate) fn finish(self) {
        drop(self.echoes);
        drop((self.pods, self.far));
        self.lab.into_inner().close().unwrap();
    }
}

impl Scene for Rig {
    fn told(&self) -> String {
        self.tell()
    }

    fn folder(&self) -> PathBuf {
        self.with(|lab| lab.folder().to_owned())
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
