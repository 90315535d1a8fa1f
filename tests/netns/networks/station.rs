//! A station of a network, and what it does.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use millrace_tools::lab::machine::Machine;
use millrace_tools::lab::traffic::talk::TalkReport;
use millrace_tools::lab::{Namespace, Process, find_program, wait_until};

use crate::WORDS;
use crate::rig::{ECHO_PORT, PATIENCE, address};

/// Where a station's programs run.
enum Place {
    Namespace(PathBuf),
    Machine(Box<Machine>),
}

/// Where stations are, and what there is to be known when something fails.
pub(crate) trait Scene {
    /// What there is to be known.
    fn told(&self) -> String;
    /// Where logs go.
    fn folder(&self) -> PathBuf;
}

/// A station of the network.
pub(crate) struct Station {
    name: String,
    addresses: Vec<IpAddr>,
    place: Place,
}

impl Station {
    pub(crate) fn within(namespace: &Namespace, host: u8) -> Self {
        let addresses = [true, false].map(|is_ipv4| address(host, is_ipv4)).to_vec();
        Self::at(&host.to_string(), namespace.path(), addresses)
    }

    /// One in any network, with any addresses.
    pub(crate) fn at(name: &str, namespace: PathBuf, addresses: Vec<IpAddr>) -> Self {
        Self {
            name: name.to_owned(),
            addresses,
            place: Place::Namespace(namespace),
        }
    }

    /// One that is no station but a pod in the cluster's own network.
    pub(crate) fn stranger(namespace: PathBuf) -> Self {
        Self::at("a stranger", namespace, Vec::new())
    }

    pub(crate) fn machine(machine: Machine, addresses: Vec<IpAddr>) -> Self {
        Self {
            name: "the machine".to_owned(),
            addresses,
            place: Place::Machine(Box::new(machine)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.clone()
    }

    /// Its link address, where it is no machine.
    pub(crate) fn mac(&self) -> String {
        let mut line = self.command("ip");
        let told = line.args(["-j", "link", "show", "dev", "net1"]).output().unwrap();
        let links: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        links[0]["address"].as_str().expect("an address").to_owned()
    }

    /// Its echoes, where they do not run in a machine.
    pub(crate) fn echo(&self, rig: &dyn Scene) -> Vec<Process> {
        if let Place::Machine(_) = self.place {
            return Vec::new();
        }
        let start = |at: IpAddr| {
            let mut line = self.command("millrace-guest");
            line.args(["echo", &SocketAddr::new(at, ECHO_PORT).to_string()]);
            let log = rig.folder().join("echoes.log");
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
    pub(crate) fn ping(&self, rig: &dyn Scene, to: IpAddr, payload: u32) {
        let (to, size) = (to.to_string(), payload.to_string());
        let words = ["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to];
        let mut said = String::new();
        let answered = wait_until("an answer", PATIENCE, || {
            let (answered, told) = self.run("ping", &words);
            said = told;
            Ok(answered)
        });
        assert!(answered.is_ok(), "from {}: {said}\n{}", self.name, rig.told());
    }

    /// One echo request, which is answered.
    pub(crate) fn ping_once(&self, rig: &dyn Scene, to: IpAddr) {
        let to = to.to_string();
        let (answered, said) = self.run("ping", &["-n", "-c", "1", "-W", "20", &to]);
        assert!(answered, "from {}: {said}\n{}", self.name, rig.told());
    }

    /// That nothing answers.
    pub(crate) fn cannot_ping(&self, to: IpAddr) {
        let to = to.to_string();
        let (answered, said) = self.run("ping", &["-n", "-c", "1", "-W", "1", &to]);
        assert!(!answered, "from {}: {said}", self.name);
    }

    /// Has an address more.
    pub(crate) fn takes(&self, address: &str) {
        let (done, said) = self.run("ip", &["address", "add", address, "dev", "net1"]);
        assert!(done, "{said}");
    }

    /// The link address of its interface, and the one by which it knows another.
    pub(crate) fn link_address(&self) -> String {
        self.field(&["link", "show", "net1"], "address")
    }

    pub(crate) fn neighbour(&self, address: IpAddr) -> String {
        self.field(&["neighbour", "show", &address.to_string()], "lladdr")
    }

    fn field(&self, words: &[&str], name: &str) -> String {
        let (_, said) = self.run("ip", &[&["-j"], words].concat());
        let rows: serde_json::Value = serde_json::from_str(&said).unwrap();
        let found = rows[0][name].as_str();
        found.unwrap_or_else(|| panic!("{name}: {said}")).to_owned()
    }

    /// TCP and UDP with another's echo.
    pub(crate) fn talk(&self, rig: &dyn Scene, to: IpAddr) {
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
        assert!(done, "from {}: {said}\n{}", self.name, rig.told());
        let report = TalkReport::from_json(&said).unwrap();
        assert!(
            report.is_whole(&WORDS),
            "from {}: {report:#?}\n{}",
            self.name,
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
