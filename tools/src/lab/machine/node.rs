//! A machine as a Millrace node: its uplink, its files, its daemon and its pods.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::super::command::{Finished, last_lines, wait_until};
use super::super::manifest::{MillraceOptions, node_file, node_objects, pod_object};
use super::super::plan::{NodePlan, PREFIX_LENGTH, UPLINK};
use super::super::pod::{POD_NAMESPACE, address_v6};
use super::super::{Lab, LabError};
use super::{CORES, Machine};

/// The node's files, inside.
const FOLDER: &str = "/etc/millrace";
const STATE: &str = "/run/millrace";
const LOG: &str = "/var/log/millrace.log";
/// The NIC's name before it becomes the uplink.
const NIC: &str = "eth0";
/// The NIC's driver, for who takes devices off it and gives it some.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";
/// A flow table that the machine's memory has room for twice: a start writes the new file before the old one goes.
const FLOWS: &str = "\n[flows]\nipv4 = 65536\nipv6 = 4096\n";
/// The end of the line by which the daemon says that it works.
const READY: &str = " ready";
/// How long a start may take until the admin socket answers.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the daemon may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a client command may take.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(90);

/// A pod inside a machine: its namespace has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePod {
    /// `metadata.name`, and the name of the namespace inside.
    pub name: String,
    /// `status.podIP`.
    pub address: Ipv4Addr,
}

/// A machine that is a Millrace node.
#[derive(Debug)]
pub struct MachineNode {
    machine: Machine,
    plan: NodePlan,
    queues: u32,
    mtu: u32,
    pid: Option<u32>,
    pods: Vec<MachinePod>,
}

impl MachineNode {
    /// Starts a machine on the lab's rack in the place after its nodes, makes it a node the others know, and writes its
    /// files. The daemon does not run yet.
    pub fn join(lab: &Lab, queues: u32, pauses: bool) -> Result<Self, LabError> {
        let plan = NodePlan::of(lab.nodes().len())?;
        let machine = Machine::boot(lab, plan, queues, pauses)?;
        let node = Self {
            machine,
            plan,
            queues,
            mtu: lab.switch().wire().mtu,
            pid: None,
            pods: Vec::new(),
        };
        node.machine.run(&[
            "sysctl",
            "-w",
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.default.rp_filter=2",
        ])?;
        node.set_uplink_up()?;
        for other in lab.nodes() {
            other.introduce(plan)?;
            node.write_manifest(&other.name(), &node_objects(other.plan()))?;
            for pod in other.pods() {
                let object = pod_object(other.plan(), pod.name(), pod.addresses());
                node.write_manifest(&format!("pod-{}", pod.name()), &object)?;
            }
        }
        node.write_manifest(&plan.name(), &node_objects(plan))?;
        Ok(node)
    }

    /// As many queues as the machine has cores, if the NIC has more: that is the driver's own choice too, but QEMU's RSS
    /// (seen with 7.2) takes note of it only once it is made anew with the link up, and hands over nothing until then.
    fn set_queues(&self) -> Result<(), LabError> {
        if self.queues > CORES {
            for count in [self.queues, CORES] {
                let count = count.to_string();
                self.machine.run(&["ethtool", "-L", NIC, "combined", &count])?;
            }
        }
        Ok(())
    }

    /// The NIC as the uplink of a node of the lab.
    fn set_uplink_up(&self) -> Result<(), LabError> {
        let (mtu, address) = (self.mtu, self.plan.underlay_address());
        let run = |line: &str| self.machine.run(&line.split(' ').collect::<Vec<_>>()).map(drop);
        // A switch that waits for the uplink is to find it as it will be.
        run(&format!("ip link set {NIC} up"))?;
        self.set_queues()?;
        run(&format!("ip link set {NIC} down"))?;
        run(&format!("ip link set {NIC} name {UPLINK} mtu {mtu}"))?;
        run(&format!("ip address add {address}/{PREFIX_LENGTH} dev {UPLINK}"))?;
        run(&format!("ip link set {UPLINK} up"))
    }

    /// Takes the driver off the NIC, so that the uplink is gone with all that was set on it, and answers the device's name.
    pub fn unbind_driver(&self) -> Result<String, LabError> {
        let device = format!("/sys/class/net/{UPLINK}/device");
        let target = self.machine.run(&["readlink", &device])?;
        let name = target.trim().rsplit('/').next().unwrap_or_default().to_owned();
        self.tell_driver("unbind", &name)?;
        Ok(name)
    }

    /// Gives the NIC its driver again, which resets it and makes a new interface, and makes that the uplink.
    pub fn bind_driver(&self, device: &str) -> Result<(), LabError> {
        self.tell_driver("bind", device)?;
        self.set_uplink_up()
    }

    fn tell_driver(&self, what: &str, device: &str) -> Result<(), LabError> {
        let line = format!("echo {device} >{DRIVER}/{what}");
        self.machine.run(&["busybox", "sh", "-c", &line]).map(drop)
    }

    /// The machine itself.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The node's name and addresses.
    #[must_use]
    pub fn plan(&self) -> NodePlan {
        self.plan
    }

    /// The node's pods.
    #[must_use]
    pub fn pods(&self) -> &[MachinePod] {
        &self.pods
    }

    fn write_manifest(&self, name: &str, text: &str) -> Result<(), LabError> {
        self.machine
            .write(&format!("{FOLDER}/manifests/{name}.yaml"), text)
    }

    /// The path of the node file, inside.
    #[must_use]
    pub fn config(&self) -> String {
        format!("{FOLDER}/millrace.toml")
    }

    /// Writes the node file, with more lines in its tables: each of `more` is a table's name, and lines. The next start
    /// reads it.
    pub fn configure(&self, options: &MillraceOptions, more: &[(&str, &str)]) -> Result<(), LabError> {
        let manifests = format!("{FOLDER}/manifests");
        let mut text = node_file(self.plan, Path::new(&manifests), Path::new(STATE), options);
        text.push_str(FLOWS);
        for (table, lines) in more {
            let head = format!("[{table}]\n");
            text = text.replace(&head, &format!("{head}{lines}\n"));
        }
        self.machine.write(&self.config(), &text)
    }

    /// Starts the daemon and waits until its admin socket answers.
    ///
    /// # Errors
    /// [`LabError::Machine`] with the end of its log if it ends or does not answer.
    pub fn start(&mut self) -> Result<(), LabError> {
        let (config, before) = (self.config(), self.readies()?);
        let pid = self
            .machine
            .spawn(&["millrace", "run", "--config", &config], LOG)?;
        self.pid = Some(pid);
        let what = format!("an answer from millrace on {}", self.plan.name());
        wait_until(&what, START_TIMEOUT, || {
            if !self.is_running()? {
                return Err(LabError::Machine {
                    doing: "start millrace".to_owned(),
                    problem: "it ended".to_owned(),
                    console: self.log_end(),
                });
            }
            // Its own word first: a client of it for each look would take its cores away.
            Ok(self.readies()? > before && self.ask(&["stats", "--json"])?.status.success())
        })
    }

    /// How often the daemon has said that it is ready.
    fn readies(&self) -> Result<usize, LabError> {
        let log = self.log()?;
        Ok(log.lines().filter(|line| line.ends_with(READY)).count())
    }

    /// Whether the daemon that was started runs.
    pub fn is_running(&self) -> Result<bool, LabError> {
        let Some(pid) = self.pid else { return Ok(false) };
        let status = self.machine.read(&format!("/proc/{pid}/stat"))?;
        // The state follows the program's name, which stands in parentheses; Z is one that has ended and is not reaped yet.
        let state = status.as_deref().and_then(|line| line.rsplit_once(") "));
        Ok(state.is_some_and(|(_, state)| !state.starts_with('Z')))
    }

    /// Sends the daemon a signal by name (`TERM`, `KILL`) and waits for its end.
    pub fn end(&mut self, signal: &str) -> Result<(), LabError> {
        let pid = self.pid.ok_or_else(|| LabError::Unknown {
            what: "running millrace",
            name: self.plan.name(),
        })?;
        self.machine
            .run(&["kill", &format!("-{signal}"), &pid.to_string()])?;
        wait_until("the end of millrace", STOP_TIMEOUT, || Ok(!self.is_running()?))?;
        self.pid = None;
        Ok(())
    }

    /// Runs `millrace ARGUMENTS` with the daemon's socket, and returns how it ended.
    pub fn ask(&self, arguments: &[&str]) -> Result<Finished, LabError> {
        let socket = format!("{STATE}/millrace.sock");
        let mut words = vec!["millrace", "--socket", &socket];
        words.extend(arguments);
        self.machine.complete(&words, CLIENT_TIMEOUT)
    }

    /// Like [`ask`](Self::ask) with `--json` added: a failure is an error, and the answer is parsed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, LabError> {
        let mut words = arguments.to_vec();
        words.push("--json");
        let told = self.ask(&words)?;
        let command = told.command.clone();
        serde_json::from_str(&told.success()?).map_err(|error| LabError::Output {
            command,
            problem: error.to_string(),
        })
    }

    /// Makes a pod: its namespace, its object and its port. The daemon must run.
    pub fn add_pod(&mut self, name: &str) -> Result<MachinePod, LabError> {
        let taken: Vec<Ipv4Addr> = self.pods.iter().map(|pod| pod.address).collect();
        let pod = MachinePod {
            name: name.to_owned(),
            address: self.plan.free_pod_address(&taken)?,
        };
        let addresses = (pod.address, address_v6(self.plan, pod.address));
        self.write_manifest(&format!("pod-{name}"), &pod_object(self.plan, name, addresses))?;
        self.machine.run(&["ip", "netns", "add", name])?;
        self.machine.run(&["ip", "-n", name, "link", "set", "lo", "up"])?;
        let (path, reference) = (format!("/run/netns/{name}"), format!("{POD_NAMESPACE}/{name}"));
        let address = pod.address.to_string();
        let attach = ["attach", &reference, "--netns", &path, "--address", &address];
        self.ask(&attach)?.success()?;
        self.pods.push(pod.clone());
        Ok(pod)
    }

    /// The daemon's log so far.
    pub fn log(&self) -> Result<String, LabError> {
        Ok(self.machine.read(LOG)?.unwrap_or_default())
    }

    /// The last lines of the daemon's log, or why they cannot be had.
    #[must_use]
    pub fn log_end(&self) -> String {
        match self.log() {
            Ok(text) => last_lines(&text),
            Err(error) => error.to_string(),
        }
    }
}
