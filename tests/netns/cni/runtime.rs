//! The lab's container runtime with the plugin under test, and the containers that it has it attach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use millrace_tools::lab::plan::Families;
use millrace_tools::lab::runtime::{self, Container};
use millrace_tools::lab::traffic::{Ping, ping};
use millrace_tools::lab::{
    Daemon, Lab, LabError, MillraceOptions, Namespace, NodeKind, POD_NAMESPACE, Topology, wait_until,
};
use serde_json::{Value, json};

pub(crate) use millrace_tools::lab::runtime::Refused;

/// The plugin under test.
pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_millrace-cni");
/// Longer than anything takes that is to come about at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Nodes with Millrace, of both families, without pods.
pub(crate) fn lab(name: &str, nodes: usize) -> Lab {
    assert!(
        rustix::process::geteuid().is_root(),
        "the tests of the CNI plugin make network namespaces and load XDP programs: run them as root"
    );
    let topology = Topology {
        pods_per_node: 0,
        millrace: MillraceOptions::default(),
        families: Families::Dual,
        ..Topology::of(&vec![NodeKind::Millrace; nodes])
    };
    Lab::bring_up(name, &topology).unwrap_or_else(|error| panic!("lab {name}: {error}"))
}

/// The daemon of a node.
pub(crate) fn daemon<'a>(lab: &'a Lab, node: &str) -> &'a Daemon {
    lab.node(node).unwrap().daemon().unwrap()
}

/// The daemon of a node, to be stopped and started.
pub(crate) fn daemon_mut<'a>(lab: &'a mut Lab, node: &str) -> &'a mut Daemon {
    lab.node_mut(node).unwrap().daemon_mut().unwrap()
}

/// The ports of a node's pods.
pub(crate) fn pod_ports(lab: &Lab, node: &str) -> Vec<Value> {
    let rows = daemon(lab, node).json(&["show", "ports"]).unwrap();
    let rows = rows.as_array().unwrap().iter().filter(|row| row["role"] == "pod");
    rows.cloned().collect()
}

/// A container: its network namespace, and what the runtime calls it.
pub(crate) struct Sandbox {
    pub(crate) namespace: Namespace,
    pub(crate) id: String,
    pub(crate) pod: String,
    pub(crate) interface: String,
}

impl Sandbox {
    /// A pod's first container, in a namespace of its own.
    pub(crate) fn new(lab: &Lab, pod: &str) -> Self {
        Self::again(lab, pod, 1)
    }

    /// A later container of a pod.
    pub(crate) fn again(lab: &Lab, pod: &str, count: usize) -> Self {
        Self {
            namespace: lab.namespace(&format!("{pod}-{count}")).unwrap(),
            id: format!("{pod}.{count}"),
            pod: pod.to_owned(),
            interface: "eth0".to_owned(),
        }
    }

    /// As the runtime calls a plugin for it.
    pub(crate) fn container(&self) -> Container<'_> {
        Container {
            namespace: &self.namespace,
            id: &self.id,
            pod: (POD_NAMESPACE, &self.pod),
            interface: &self.interface,
        }
    }

    /// The names of its interfaces, `lo` left out.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links = self.namespace.ip(&["-j", "link", "show"]).unwrap();
        let links: Value = serde_json::from_str(&links).unwrap();
        let names = links
            .as_array()
            .unwrap()
            .iter()
            .map(|link| link["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name != "lo").collect()
    }
}

/// A runtime on a node, whose failures are a plugin's refusals: whatever else goes wrong ends the test.
pub(crate) struct Runtime(runtime::Runtime);

impl Deref for Runtime {
    type Target = runtime::Runtime;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Runtime {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Runtime {
    /// A runtime on a node whose network is the plugin under test alone.
    pub(crate) fn new(lab: &Lab, node: &str) -> Self {
        let data = lab.folder().join(format!("{node}-ipam"));
        let namespace = lab.node(node).unwrap().namespace();
        let plugin = Some(PathBuf::from(PLUGIN));
        Self(runtime::Runtime::new(namespace, daemon(lab, node), data, plugin))
    }

    /// The command that runs a plugin for a container; its standard input is the configuration.
    pub(crate) fn command(&self, verb: &str, sandbox: Option<&Sandbox>, kind: &str) -> Command {
        self.0
            .command(verb, sandbox.map(Sandbox::container), kind)
            .unwrap()
    }

    /// Adds a container.
    pub(crate) fn add(&self, sandbox: &Sandbox) -> Result<Value, Refused> {
        self.add_with(sandbox, &json!({}))
    }

    /// Adds a container, with more in the configuration.
    pub(crate) fn add_with(&self, sandbox: &Sandbox, more: &Value) -> Result<Value, Refused> {
        judged(self.0.add(sandbox.container(), more))
    }

    /// Deletes a container.
    pub(crate) fn del(&self, sandbox: &Sandbox) -> Result<(), Refused> {
        judged(self.0.del(sandbox.container()))
    }

    /// Checks a container that was added.
    pub(crate) fn check(&self, sandbox: &Sandbox) -> Result<(), Refused> {
        judged(self.0.check(sandbox.container()))
    }

    /// Has everything taken away but these.
    pub(crate) fn gc(&self, valid: &[&Sandbox]) -> Result<(), Refused> {
        let valid: Vec<_> = valid
            .iter()
            .map(|sandbox| (sandbox.id.as_str(), sandbox.interface.as_str()))
            .collect();
        judged(self.0.gc(&valid))
    }

    /// Asks whether ADD would go well.
    pub(crate) fn status(&self) -> Result<(), Refused> {
        judged(self.0.status())
    }
}

fn judged<T>(outcome: Result<T, LabError>) -> Result<T, Refused> {
    match outcome {
        Ok(done) => Ok(done),
        Err(LabError::Refused { refused, .. }) => Err(refused),
        Err(error) => panic!("{error}"),
    }
}

/// Runs a plugin; what it prints is null or its result.
pub(crate) fn run(command: Command, config: &Value) -> Result<Value, Refused> {
    runtime::run(command, config).unwrap()
}

/// The addresses of a result, by family.
pub(crate) fn addresses(result: &Value) -> (Ipv4Addr, Ipv6Addr) {
    match runtime::addresses(result)[..] {
        [IpAddr::V4(v4), IpAddr::V6(v6)] => (v4, v6),
        _ => panic!("{result}"),
    }
}

/// Both families of a container that was added answer to another, every request of them.
pub(crate) fn assert_reaches(from: &Sandbox, to: &Value) {
    let (v4, v6) = addresses(to);
    for target in [IpAddr::V4(v4), IpAddr::V6(v6)] {
        // The first may meet a next hop that is not resolved yet.
        let first = wait_until("an answer", PATIENCE, || {
            Ok(ping(
                &from.namespace,
                target,
                &Ping {
                    count: 1,
                    ..Ping::default()
                },
            )?
            .received
                == 1)
        });
        first.unwrap_or_else(|error| panic!("{} to {target}: {error}", from.pod));
        let report = ping(&from.namespace, target, &Ping::default()).unwrap();
        assert_eq!(report.received, report.sent, "{} to {target}", from.pod);
    }
}

/// The end of every test: nothing of any container is left, and the lab leaves nothing behind.
pub(crate) fn finish(lab: Lab, runtimes: &[&Runtime], sandboxes: Vec<Sandbox>) {
    for sandbox in &sandboxes {
        assert_eq!(sandbox.interfaces(), Vec::<String>::new(), "{}", sandbox.id);
    }
    for runtime in runtimes {
        assert_eq!(runtime.stored(), 0);
    }
    let names: Vec<String> = lab.nodes().iter().map(|node| node.name()).collect();
    for name in names {
        assert_eq!(pod_ports(&lab, &name), Vec::<Value>::new(), "{name}");
    }
    drop(sandboxes);
    lab.close().unwrap();
}
