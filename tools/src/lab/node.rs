//! A node: its namespace, what makes it a node, and its pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde_json::json;

use super::daemon::Daemon;
use super::manifest::{MillraceOptions, node_objects, pod_object};
use super::plan::{NodePlan, PREFIX_LENGTH_V6, UPLINK};
use super::pod::{Pod, address_v6, container};
use super::runtime::{PLUGIN, Runtime, addresses};
use super::switch::{Switch, WireEnd};
use super::{Attachment, LabError, Namespace, stock};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A node that runs Millrace.
    Millrace,
    /// A stock Linux node in flannel's shape.
    Stock,
}

impl NodeKind {
    /// The word for it on a command line and in a table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Millrace => "millrace",
            Self::Stock => "stock",
        }
    }
}

/// What makes a node work.
#[derive(Debug)]
enum Works {
    Millrace(Box<Daemon>),
    Stock,
}

/// A node of a lab. Dropping it stops its daemon, removes its pods, and then itself.
#[derive(Debug)]
pub struct Node {
    // The order of the fields is the order in which a node ends.
    works: Works,
    pods: Vec<Pod>,
    namespace: Namespace,
    plan: NodePlan,
    underlay_mtu: u32,
    /// Attaches its pods through the CNI plugin, if they are attached so.
    runtime: Option<Runtime>,
}

impl Node {
    /// Makes a node on the switch. It knows no peers yet, and its daemon does not run.
    pub(crate) fn join(
        switch: &Switch,
        plan: NodePlan,
        namespace: Namespace,
        kind: NodeKind,
        (folder, options, attachment): (&Path, &MillraceOptions, Attachment),
    ) -> Result<Self, LabError> {
        become_kubernetes_node(&namespace, plan)?;
        let end = WireEnd {
            namespace: &namespace,
            interface: UPLINK,
            mac: Some(plan.uplink_mac()),
        };
        switch.join_as(&plan.name(), end, &plan.underlay_address().to_string())?;
        if let Some(v6) = plan.v6() {
            let prefix = format!("{}/{PREFIX_LENGTH_V6}", v6.underlay_address());
            namespace.ip(&["address", "add", &prefix, "dev", UPLINK, "nodad"])?;
        }
        let underlay_mtu = switch.wire().mtu;
        let (works, runtime) = match kind {
            NodeKind::Millrace => {
                let folder = folder.join(plan.name());
                let store = folder.join("ipam");
                let daemon = Daemon::prepare(plan, &namespace, folder, options)?;
                let through_plugin = attachment == Attachment::Plugin;
                let runtime = through_plugin.then(|| Runtime::new(&namespace, &daemon, store, None));
                (Works::Millrace(Box::new(daemon)), runtime)
            }
            NodeKind::Stock => {
                stock::install(&namespace, plan, underlay_mtu)?;
                (Works::Stock, None)
            }
        };
        Ok(Self {
            works,
            pods: Vec::new(),
            namespace,
            plan,
            underlay_mtu,
            runtime,
        })
    }

    /// What the node is.
    #[must_use]
    pub fn kind(&self) -> NodeKind {
        match self.works {
            Works::Millrace(_) => NodeKind::Millrace,
            Works::Stock => NodeKind::Stock,
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.plan.name()
    }

    /// The node's name and addresses.
    #[must_use]
    pub fn plan(&self) -> NodePlan {
        self.plan
    }

    /// The node's own namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The node's pods, in the order they came.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pod of that name.
    pub fn pod(&self, name: &str) -> Result<&Pod, LabError> {
        let found = self.pods.iter().find(|pod| pod.name() == name);
        found.ok_or_else(|| LabError::Unknown {
            what: "pod",
            name: name.to_owned(),
        })
    }

    /// The MTU of the node's pods, in bytes.
    #[must_use]
    pub fn pod_mtu(&self) -> u32 {
        stock::pod_mtu(self.plan, self.underlay_mtu)
    }

    /// The daemon of a Millrace node.
    #[must_use]
    pub fn daemon(&self) -> Option<&Daemon> {
        match &self.works {
            Works::Millrace(daemon) => Some(daemon),
            Works::Stock => None,
        }
    }

    /// The daemon of a Millrace node, to be stopped, killed or started.
    #[must_use]
    pub fn daemon_mut(&mut self) -> Option<&mut Daemon> {
        match &mut self.works {
            Works::Millrace(daemon) => Some(daemon),
            Works::Stock => None,
        }
    }

    /// Tells the node of a node of the cluster; a Millrace node is told of itself too, as the cluster would.
    pub(crate) fn introduce(&self, other: NodePlan) -> Result<(), LabError> {
        match &self.works {
            Works::Millrace(daemon) => daemon.write_manifest(&node_file_name(other), &node_objects(other)),
            Works::Stock if other == self.plan => Ok(()),
            Works::Stock => stock::add_peer(&self.namespace, other),
        }
    }

    /// Tells the node of a pod of the cluster.
    pub(crate) fn announce(&self, host: NodePlan, pod: &Pod) -> Result<(), LabError> {
        match &self.works {
            Works::Millrace(daemon) => {
                let object = pod_object(host, pod.name(), pod.addresses());
                daemon.write_manifest(&pod_file_name(pod.name()), &object)
            }
            Works::Stock => Ok(()),
        }
    }

    /// Tells the node that a pod of the cluster is gone.
    pub(crate) fn withdraw(&self, pod: &str) -> Result<(), LabError> {
        match &self.works {
            Works::Millrace(daemon) => daemon.remove_manifest(&pod_file_name(pod)),
            Works::Stock => Ok(()),
        }
    }

    /// Starts the daemon, if the node has one.
    pub(crate) fn start(&mut self) -> Result<(), LabError> {
        self.daemon_mut().map_or(Ok(()), Daemon::start)
    }

    /// The runtime that attaches the node's pods through the CNI plugin, if they are attached so.
    #[must_use]
    pub fn runtime(&self) -> Option<&Runtime> {
        self.runtime.as_ref()
    }

    /// A pod as it is to be. A runtime has it attached first, since the plugin chooses its addresses; else it has the lowest
    /// free one, and is still to be attached.
    pub(crate) fn prepare(&self, name: &str, namespace: Namespace) -> Result<Pod, LabError> {
        let addresses = match &self.runtime {
            Some(runtime) => add(runtime, name, &namespace)?,
            None => {
                let taken: Vec<Ipv4Addr> = self.pods.iter().map(Pod::address).collect();
                let address = self.plan.free_pod_address(&taken)?;
                (address, address_v6(self.plan, address))
            }
        };
        Ok(Pod {
            name: name.to_owned(),
            address: addresses.0,
            address_v6: addresses.1,
            namespace,
        })
    }

    /// Connects a pod, unless the runtime has done so.
    pub(crate) fn attach(&mut self, pod: Pod) -> Result<&Pod, LabError> {
        match &self.works {
            Works::Millrace(_) if self.runtime.is_some() => {}
            Works::Millrace(daemon) => {
                let (path, address) = (pod.namespace.path(), pod.address.to_string());
                let (path, reference) = (path.to_string_lossy(), pod.reference());
                let mut words = vec!["attach", &reference, "--netns", &path, "--address", &address];
                let v6 = pod.address_v6.map(|v6| v6.to_string());
                words.extend(v6.iter().flat_map(|v6| ["--address", v6]));
                daemon.client_output(&words)?;
            }
            Works::Stock => {
                let place = (pod.name(), &pod.namespace, pod.address);
                stock::attach(&self.namespace, self.plan, place, self.pod_mtu())?;
            }
        }
        let name = pod.name.clone();
        self.pods.push(pod);
        self.pod(&name)
    }

    /// Disconnects a pod and removes its namespace.
    pub(crate) fn detach(&mut self, name: &str) -> Result<(), LabError> {
        let pod = self.pod(name)?;
        match (&self.works, &self.runtime) {
            (Works::Millrace(_), Some(runtime)) => runtime.del(pod.container())?,
            (Works::Millrace(daemon), None) => drop(daemon.client_output(&["detach", &pod.reference()])?),
            (Works::Stock, _) => stock::detach(&self.namespace, pod)?,
        }
        self.pods.retain(|pod| pod.name() != name);
        Ok(())
    }
}

/// Has a pod attached through the CNI plugin, and answers which addresses it was given.
fn add(
    runtime: &Runtime,
    name: &str,
    namespace: &Namespace,
) -> Result<(Ipv4Addr, Option<Ipv6Addr>), LabError> {
    let result = runtime.add(container(name, namespace), &json!({}))?;
    let given = addresses(&result);
    let v4 = given.iter().find_map(|ip| match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    let v6 = given.iter().find_map(|ip| match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(*v6),
    });
    let v4 = v4.ok_or_else(|| LabError::Output {
        command: format!("{PLUGIN} ADD {name}"),
        problem: format!("no IPv4 address in {result}"),
    })?;
    Ok((v4, v6))
}

/// Gives a namespace the settings every Kubernetes node has, before its interfaces come: they inherit them.
fn become_kubernetes_node(namespace: &Namespace, plan: NodePlan) -> Result<(), LabError> {
    namespace.set("ipv4/ip_forward", "1")?;
    if plan.v6().is_some() {
        namespace.set("ipv6/conf/all/forwarding", "1")?;
        // While an interface's link-local address is being looked for, for a second or two, the kernel asks for no neighbour
        // of packets that it forwards. Nodes that have been up for long are past that.
        namespace.set("ipv6/conf/default/accept_dad", "0")?;
    }
    // Loose, as systemd's own sysctl file sets it on the common distributions.
    namespace.set("ipv4/conf/default/rp_filter", "2")
}

/// The file that a node's objects are in.
fn node_file_name(plan: NodePlan) -> String {
    format!("{}.yaml", plan.name())
}

/// The file a pod's Pod object is in.
fn pod_file_name(pod: &str) -> String {
    format!("pod-{pod}.yaml")
}
