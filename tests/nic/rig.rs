//! A virtual machine as a node, a stock Linux node beside it, and a log of the steps that a test takes with them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use millrace_tools::lab::machine::MachineNode;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::traffic::talk::{Talk, TalkReport};
use millrace_tools::lab::{
    Lab, MillraceOptions, Namespace, NodeKind, Process, Topology, find_program, interrupt, wait_until,
};
use serde_json::Value;

use crate::session::Session;

/// Longer than anything takes that is to come about at all: the machine is emulated, and QEMU may have to wait for a processor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The pods inside the machine, and the one on the stock node.
pub(crate) const PODS: [&str; 2] = ["pod-b1", "pod-b2"];
pub(crate) const STOCK_POD: &str = "pod-a1";
/// Where pods echo, and where the machine's own kernel does.
const ECHO_PORT: u16 = 7000;

/// One machine at a time: each has as many cores as many a test machine.
static TURN: Mutex<()> = Mutex::new(());

/// The lab of a test. The order of the fields is the order in which it ends.
pub(crate) struct Rig {
    pub(crate) node: MachineNode,
    echo: Option<Process>,
    client: Namespace,
    pub(crate) lab: Lab,
    queues: u32,
    pub(crate) title: String,
    _turn: MutexGuard<'static, ()>,
}

/// Says which step a test is at; if the step panics, what there is to be known.
pub(crate) struct Step<'a> {
    rig: &'a Rig,
    what: String,
    started: Instant,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let (title, what, took) = (&self.rig.title, &self.what, self.started.elapsed());
        if thread::panicking() {
            eprintln!("nic: FAILED after {took:.1?}: {title}: {what}");
            self.rig.tell();
        } else {
            eprintln!("nic: {took:>6.1?}  {title}: {what}");
        }
    }
}

impl Rig {
    /// A machine whose NIC has so many queue pairs, with a stock node on its rack. The switch does not run yet.
    pub(crate) fn new(queues: u32, pauses: bool) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        interrupt::heed_signals().unwrap();
        let started = Instant::now();
        let topology = Topology {
            pods_per_node: 1,
            ..Topology::of(&[NodeKind::Stock])
        };
        let lab = Lab::bring_up("nic", &topology).unwrap_or_else(|error| panic!("{error}"));
        let node = MachineNode::join(&lab, queues, pauses).unwrap_or_else(|error| panic!("{error}"));
        let client = client(&lab);
        let title = format!("{queues} queues");
        eprintln!("nic: {:>6.1?}  {title}: the machine is up", started.elapsed());
        let mut rig = Self {
            node,
            echo: None,
            client,
            lab,
            queues,
            title,
            _turn: turn,
        };
        let own = SocketAddrV4::new(rig.node.plan().underlay_address(), ECHO_PORT);
        let words = ["millrace-guest", "echo", &own.to_string()];
        rig.node.machine().spawn(&words, "/var/log/echo.log").unwrap();
        rig.echo = Some(rig.start_stock_echo());
        rig
    }

    /// Begins a step, which ends when what is returned is dropped.
    pub(crate) fn step(&self, what: impl Into<String>) -> Step<'_> {
        Step {
            rig: self,
            what: what.into(),
            started: Instant::now(),
        }
    }

    /// What is done next is done in this setting.
    pub(crate) fn entitle(&mut self, setting: &str) {
        self.title = format!("{} queues, {setting}", self.queues);
    }

    /// Prints the ends of the daemon's log and of the machine's console.
    pub(crate) fn tell(&self) {
        for question in [&["show", "ports"][..], &["stats"]] {
            let told = match self.node.ask(question) {
                Ok(told) => told.stdout + &told.stderr,
                Err(error) => error.to_string(),
            };
            eprintln!("-- millrace {}\n{told}", question.join(" "));
        }
        // Where packets were last seen: in the machine, on its NIC, on the rack.
        let nic = ["ethtool", "-S", UPLINK];
        for words in [&["ip", "-s", "link"][..], &["ip", "neigh"], &nic] {
            let told = self.node.machine().run(words);
            let told = told.unwrap_or_else(|error| error.to_string());
            eprintln!("-- machine: {}\n{told}", words.join(" "));
        }
        let rack = self.lab.switch().namespace().ip(&["-s", "link"]);
        let rack = rack.unwrap_or_else(|error| error.to_string());
        eprintln!("-- rack: ip -s link\n{rack}");
        let (log, console) = (self.node.log_end(), self.node.machine().console_end());
        eprintln!("-- log of millrace\n{log}\n-- console of the machine\n{console}\n--");
    }

    /// Writes the node file with these lines in its tables, and starts the switch.
    pub(crate) fn start(&mut self, xdp_mode: &str, more: &[(&str, &str)]) {
        self.configure(xdp_mode, more);
        self.restart("start");
    }

    /// Writes the node file with these lines in its tables.
    pub(crate) fn configure(&self, xdp_mode: &str, more: &[(&str, &str)]) {
        let options = MillraceOptions {
            cores: vec![0, 1],
            xdp_mode: xdp_mode.to_owned(),
            ..MillraceOptions::default()
        };
        self.node.configure(&options, more).unwrap();
    }

    /// A start with this line in `[uplink]` is refused, and the log says so in these words.
    pub(crate) fn assert_refused(&mut self, uplink: &str, words: &str) {
        self.configure("native", &[("uplink", uplink)]);
        assert!(self.node.start().is_err(), "a start with {uplink}");
        self.assert_said(words);
    }

    /// Starts the switch as the node file says.
    pub(crate) fn restart(&mut self, what: &str) {
        let started = Instant::now();
        if let Err(error) = self.node.start() {
            self.tell();
            panic!("{}: {what}: {error}", self.title);
        }
        eprintln!("nic: {:>6.1?}  {}: {what}", started.elapsed(), self.title);
    }

    /// Ends the switch by a signal.
    pub(crate) fn end(&mut self, signal: &str) {
        let started = Instant::now();
        if let Err(error) = self.node.end(signal) {
            self.tell();
            panic!("{}: SIG{signal}: {error}", self.title);
        }
        eprintln!("nic: {:>6.1?}  {}: SIG{signal}", started.elapsed(), self.title);
    }

    /// Runs a command of one line, without quotes, inside.
    pub(crate) fn inside(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        self.node
            .machine()
            .run(&words)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Like [`inside`](Self::inside), whatever its end: some files of a folder may not be read.
    pub(crate) fn told_inside(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let ended = self.node.machine().complete(&words, PATIENCE);
        ended.unwrap_or_else(|error| panic!("{error}")).stdout
    }

    /// The row of the uplink in `millrace show ports`.
    pub(crate) fn uplink(&self) -> Value {
        self.find_uplink().expect("an uplink among the ports")
    }

    /// The same, if the switch has an uplink.
    pub(crate) fn find_uplink(&self) -> Option<Value> {
        let rows = self.node.json(&["show", "ports"]).unwrap();
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["role"] == "uplink").cloned()
    }

    /// How many packets the uplink's steering program counted under this name.
    pub(crate) fn steering(&self, name: &str) -> u64 {
        let stats = self.node.json(&["stats"]).unwrap();
        let mut ports = stats["ports"].as_array().unwrap().iter();
        let uplink = ports.find(|port| port["name"] == UPLINK).expect("an uplink");
        uplink["steering"][name].as_u64().unwrap_or_default()
    }

    /// The switch's log has these words.
    pub(crate) fn assert_said(&self, words: &str) {
        let log = self.node.log().unwrap();
        assert!(log.contains(words), "the log does not say that {words}:\n{log}");
    }

    /// Makes the machine's pods, each with an echo in it.
    pub(crate) fn add_pods(&mut self) {
        for name in PODS {
            let pod = self.node.add_pod(name).unwrap_or_else(|error| panic!("{error}"));
            let at = SocketAddrV4::new(pod.address, ECHO_PORT).to_string();
            let words = ["ip", "netns", "exec", name, "millrace-guest", "echo", &at];
            self.node.machine().spawn(&words, "/var/log/echo.log").unwrap();
        }
    }

    /// The address of a pod of the machine.
    pub(crate) fn address(&self, name: &str) -> Ipv4Addr {
        let found = self.node.pods().iter().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("no pod {name}")).address
    }

    /// The stock node's pod.
    pub(crate) fn stock_pod(&self) -> (&Namespace, Ipv4Addr) {
        let pod = self.lab.pod(STOCK_POD).unwrap();
        (pod.namespace(), pod.address())
    }

    /// A conversation of a machine on the rack, which is no node, with the machine's own kernel.
    pub(crate) fn open_session(&self) -> Session {
        let at = SocketAddrV4::new(self.node.plan().underlay_address(), ECHO_PORT);
        Session::open(&self.client, at)
    }

    /// TCP and UDP on many flows, by connections from outside and by connections from inside.
    pub(crate) fn assert_talks(&self, what: &Talk) {
        let at = SocketAddrV4::new(self.address(PODS[0]), ECHO_PORT).to_string();
        let words = talk_words(&at, what);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let told = self
            .stock_pod()
            .0
            .complete(&guest_program(), &words, 2 * PATIENCE);
        check_talk(
            &format!("{STOCK_POD} -> {}", PODS[0]),
            what,
            &told.unwrap().success().unwrap(),
        );

        let at = SocketAddrV4::new(self.stock_pod().1, ECHO_PORT).to_string();
        let mut inside: Vec<String> = ["ip", "netns", "exec", PODS[0], "millrace-guest"]
            .map(str::to_owned)
            .into();
        inside.extend(talk_words(&at, what));
        let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
        let told = self.node.machine().complete(&inside, 2 * PATIENCE);
        check_talk(
            &format!("{} -> {STOCK_POD}", PODS[0]),
            what,
            &told.unwrap().success().unwrap(),
        );
    }

    /// The echo in the stock node's pod.
    fn start_stock_echo(&self) -> Process {
        let (pod, address) = self.stock_pod();
        let mut line = pod.command(guest_program());
        line.args(["echo", &SocketAddrV4::new(address, ECHO_PORT).to_string()]);
        Process::spawn(line, &self.lab.folder().join("echo.log")).unwrap()
    }

    /// Takes all down and makes sure that nothing is left.
    pub(crate) fn close(self) {
        let pid = self.node.machine().pid();
        let Self {
            node,
            echo,
            client,
            lab,
            ..
        } = self;
        drop((node, echo, client));
        lab.close().unwrap();
        assert!(
            !PathBuf::from(format!("/proc/{pid}")).exists(),
            "QEMU outlived its machine"
        );
    }
}

/// Waits until a condition holds; a panic in it is the failure.
pub(crate) fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, PATIENCE, || Ok(condition())).unwrap_or_else(|error| panic!("{error}"));
}

/// A machine on the rack that is no node.
fn client(lab: &Lab) -> Namespace {
    use millrace_tools::lab::WireEnd;
    use millrace_tools::lab::plan::PREFIX_LENGTH;
    let namespace = lab.namespace("client").unwrap();
    let end = WireEnd {
        namespace: &namespace,
        interface: UPLINK,
        mac: None,
    };
    lab.switch().join("client", end).unwrap();
    let address = format!("192.0.2.100/{PREFIX_LENGTH}");
    namespace
        .ip(&["address", "add", &address, "dev", UPLINK])
        .unwrap();
    namespace
}

/// The program that echoes and talks, which is built beside the switch's.
fn guest_program() -> String {
    let program = find_program().unwrap().with_file_name("millrace-guest");
    program.to_str().unwrap().to_owned()
}

pub(crate) fn talk_words(to: &str, what: &Talk) -> Vec<String> {
    let (flows, bytes, datagrams) = (
        what.flows.to_string(),
        what.bytes.to_string(),
        what.datagrams.to_string(),
    );
    let words = [
        "talk",
        to,
        "--flows",
        &flows,
        "--bytes",
        &bytes,
        "--datagrams",
        &datagrams,
    ];
    words.map(str::to_owned).into()
}

pub(crate) fn check_talk(who: &str, what: &Talk, line: &str) {
    let report = TalkReport::from_json(line).unwrap();
    assert!(report.is_whole(what), "{who}: {report:#?}");
}
