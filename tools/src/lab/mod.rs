//! A laboratory: Kubernetes nodes with their pods on one machine, each in a network namespace of its own.
//!
//! ```text
//!    pod-a1  pod-a2      pod-b1  pod-b2      pod-c1  pod-c2       pods: one namespace each
//!       \      /            \      /            \      /
//!       millrace           millrace         cni0 + flannel.1      nodes: one namespace each
//!           |                  |                  |  eth1
//!           +---------------- rack ---------------+               the underlay: one namespace with a bridge
//! ```
//!
//! A lab touches nothing outside the namespaces it makes: even its veth pairs are born inside them. Everything it makes
//! carries its prefix, and is gone when the lab is dropped, after a start that failed too. What a lab that was
//! killed with SIGKILL left behind, [`clean_leftovers`] removes.
//!
//! ```no_run
//! use millrace_tools::lab::{Lab, NodeKind, Topology, traffic};
//!
//! let lab = Lab::bring_up("example", &Topology::of(&[NodeKind::Millrace, NodeKind::Stock]))?;
//! let (here, there) = (lab.pod("pod-a1")?, lab.pod("pod-b1")?);
//! let report = traffic::ping(here.namespace(), there.address().into(), &traffic::Ping::default())?;
//! assert_eq!(report.received, report.sent);
//! lab.close()?;
//! # Ok::<(), millrace_tools::lab::LabError>(())
//! ```

mod api;
mod calico;
mod command;
mod daemon;
mod error;
mod identity;
pub mod interrupt;
pub mod machine;
mod manifest;
mod namespace;
mod node;
pub mod plan;
mod pod;
pub mod runtime;
mod stock;
mod switch;
pub mod traffic;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

pub use api::{ADDRESS_VARIABLE, Api, CA_VARIABLE, FOLDER_VARIABLE, TOKEN_VARIABLE};
pub use command::{Finished, Process, complete, wait_until};
pub use daemon::{Daemon, PROGRAM_VARIABLE, find_program};
pub use error::LabError;
pub(crate) use identity::Identity;
use identity::check_name;
pub use identity::clean_leftovers;
pub use manifest::MillraceOptions;
pub use namespace::Namespace;
pub use node::{Node, NodeKind};
use plan::{Families, Network, NodePlan, PREFIX_LENGTH_V6, Tunnel, UPLINK};
pub use pod::{POD_INTERFACE, POD_NAMESPACE, Pod};
pub use rustix::process::Signal;
pub use stock::{POD_BRIDGE, TUNNEL, TUNNEL_V6};
pub use switch::{Offloads, Switch, Wire, WireEnd};

/// What a lab is to consist of.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The nodes: the first is `node-a`, the second `node-b`.
    pub nodes: Vec<NodeKind>,
    /// How many pods each node gets: `pod-a1`, `pod-a2`, …
    pub pods_per_node: usize,
    /// The underlay's wires.
    pub wire: Wire,
    /// How the Millrace nodes are set up.
    pub millrace: MillraceOptions,
    /// The families of its pods and its underlay.
    pub families: Families,
    /// Whose objects its nodes know each other by.
    pub network: Network,
    /// By whom pods of Millrace nodes are attached.
    pub attachment: Attachment,
}

/// By whom the pods of Millrace nodes are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    /// By `millrace attach`, with the address that the lab chose.
    #[default]
    Command,
    /// By the CNI plugin, called as a container runtime calls it; it chooses the addresses.
    Plugin,
}

impl Topology {
    /// The given nodes with two pods each, everything else as by default.
    #[must_use]
    pub fn of(nodes: &[NodeKind]) -> Self {
        let (wire, millrace) = (Wire::default(), MillraceOptions::default());
        Self {
            nodes: nodes.to_vec(),
            pods_per_node: 2,
            wire,
            millrace,
            families: Families::V4,
            network: Network::Flannel,
            attachment: Attachment::Command,
        }
    }
}

/// A machine on the underlay that is no node of the cluster.
#[derive(Debug)]
pub struct Guest {
    namespace: Namespace,
    address: Ipv4Addr,
    address_v6: Option<Ipv6Addr>,
}

impl Guest {
    /// The machine's namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The machine's underlay address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 underlay address, in a lab that has that.
    #[must_use]
    pub fn address_v6(&self) -> Option<Ipv6Addr> {
        self.address_v6
    }
}

/// The place of the control plane's machine among those that are no nodes, behind all guests.
const CONTROL_PLANE: usize = 100;

/// The API server, and the machine that it seems to be.
#[derive(Debug)]
struct ControlPlane {
    api: Arc<Api>,
    _machine: Guest,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.api.leave();
    }
}

/// A lab, and the owner of everything in it. Dropping it removes all of it.
#[derive(Debug)]
pub struct Lab {
    // The order of the fields is the order in which a lab ends.
    nodes: Vec<Node>,
    guests: Vec<Guest>,
    /// Where nodes find their objects, if not in folders.
    control_plane: Option<ControlPlane>,
    switch: Switch,
    millrace: MillraceOptions,
    families: Families,
    network: Network,
    attachment: Attachment,
    identity: Identity,
}

impl Lab {
    /// A lab with a switch and no nodes yet.
    ///
    /// # Errors
    /// [`LabError::NotRoot`], [`LabError::Unfit`] for a name that is not `[a-z0-9-]{1,24}` or a wire that cannot be, and
    /// the failure of whatever command sets it up; nothing is left behind then.
    pub fn new(name: &str, wire: Wire) -> Result<Self, LabError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        wire.check()?;
        let identity = Identity::claim(name)?;
        let switch = Switch::install(identity.namespace("switch")?, wire)?;
        Ok(Self {
            nodes: Vec::new(),
            guests: Vec::new(),
            control_plane: None,
            switch,
            millrace: MillraceOptions::default(),
            families: Families::V4,
            network: Network::Flannel,
            attachment: Attachment::Command,
            identity,
        })
    }

    /// A lab as `topology` says, with every daemon running and every pod attached.
    pub fn bring_up(name: &str, topology: &Topology) -> Result<Self, LabError> {
        let mut lab = Self::new(name, topology.wire)?;
        lab.millrace = topology.millrace.clone();
        (lab.families, lab.network) = (topology.families, topology.network);
        lab.attachment = topology.attachment;
        if let Some(api) = lab.millrace.api.clone() {
            lab.control_plane = Some(lab.add_control_plane(api)?);
        }
        for kind in &topology.nodes {
            lab.join_node(*kind)?;
        }
        for node in &mut lab.nodes {
            node.start()?;
        }
        for place in 0..lab.nodes.len() {
            let plan = NodePlan::of(place)?;
            for number in 1..=topology.pods_per_node {
                lab.add_pod(&plan.name(), &format!("pod-{}{number}", plan.letter()))?;
            }
        }
        Ok(lab)
    }

    /// Adds a node to a lab that is up, tells all nodes of each other, and starts it.
    pub fn add_node(&mut self, kind: NodeKind) -> Result<&mut Node, LabError> {
        let place = self.join_node(kind)?;
        let name = NodePlan::of(place)?.name();
        let node = self.node_mut(&name)?;
        node.start()?;
        Ok(node)
    }

    /// Adds a node whose daemon is not started, for who writes its files otherwise first.
    pub fn add_idle_node(&mut self, kind: NodeKind) -> Result<&mut Node, LabError> {
        let place = self.join_node(kind)?;
        self.node_mut(&NodePlan::of(place)?.name())
    }

    /// Makes a node, with everything but its daemon started, and returns its place.
    fn join_node(&mut self, kind: NodeKind) -> Result<usize, LabError> {
        let place = self.nodes.len();
        let plan = NodePlan::of(place)?.with(self.families);
        let plan = match (self.network, kind) {
            (Network::Flannel, _) => plan,
            (Network::Calico, NodeKind::Millrace) => plan.in_calico(Tunnel::Ipip),
            (Network::Calico, NodeKind::Stock) => plan.in_calico(Tunnel::Vxlan),
        };
        let namespace = self.identity.namespace(&plan.name())?;
        let files = (self.identity.folder(), &self.millrace, self.attachment);
        let node = Node::join(&self.switch, plan, namespace, kind, files)?;
        self.nodes.push(node);
        let Some((node, others)) = self.nodes.split_last() else {
            return Ok(place);
        };
        node.introduce(plan)?;
        for other in others {
            other.introduce(plan)?;
            node.introduce(other.plan())?;
            for pod in other.pods() {
                node.announce(other.plan(), pod)?;
            }
        }
        Ok(place)
    }

    /// Adds a pod to a node, and tells the Millrace nodes of it as a cluster would: as soon as its addresses are known.
    pub fn add_pod(&mut self, node: &str, name: &str) -> Result<&Pod, LabError> {
        check_name("pod name", name)?;
        if self.pod(name).is_ok() {
            let rule = "a pod of that name is there already";
            return Err(LabError::Unfit {
                what: "pod name",
                value: name.to_owned(),
                rule,
            });
        }
        let host = self.node(node)?;
        let (plan, pod) = (host.plan(), host.prepare(name, self.identity.namespace(name)?)?);
        for other in &self.nodes {
            other.announce(plan, &pod)?;
        }
        self.node_mut(node)?.attach(pod)
    }

    /// Removes a pod from its node, and then from what the Millrace nodes know.
    pub fn remove_pod(&mut self, name: &str) -> Result<(), LabError> {
        let node = self.nodes.iter_mut().find(|node| node.pod(name).is_ok());
        node.ok_or_else(|| LabError::Unknown {
            what: "pod",
            name: name.to_owned(),
        })?
        .detach(name)?;
        self.nodes.iter().try_for_each(|other| other.withdraw(name))
    }

    /// Adds a machine on the underlay that is no node, with an address on `eth1`.
    pub fn add_guest(&mut self, name: &str) -> Result<&Guest, LabError> {
        let guest = self.make_guest(name, self.guests.len())?;
        self.guests.push(guest);
        self.guests.last().ok_or_else(|| LabError::Unknown {
            what: "guest",
            name: name.to_owned(),
        })
    }

    /// The machine that the API server seems to be.
    fn add_control_plane(&self, api: Arc<Api>) -> Result<ControlPlane, LabError> {
        let machine = self.make_guest("control-plane", CONTROL_PLANE)?;
        api.stand_in(&machine.namespace, machine.address)?;
        Ok(ControlPlane {
            api,
            _machine: machine,
        })
    }

    /// The API server that the nodes' objects are of, if they are of one.
    #[must_use]
    pub fn api(&self) -> Option<&Api> {
        self.control_plane.as_ref().map(|plane| &*plane.api)
    }

    fn make_guest(&self, name: &str, place: usize) -> Result<Guest, LabError> {
        let (address, v6) = plan::guest_addresses(place)?;
        let namespace = self.identity.namespace(name)?;
        let end = WireEnd {
            namespace: &namespace,
            interface: UPLINK,
            mac: None,
        };
        self.switch
            .join_as(&format!("guest-{place}"), end, &address.to_string())?;
        let address_v6 = (self.families == Families::Dual).then_some(v6);
        if address_v6.is_some() {
            let prefix = format!("{v6}/{PREFIX_LENGTH_V6}");
            namespace.ip(&["address", "add", &prefix, "dev", UPLINK, "nodad"])?;
        }
        Ok(Guest {
            namespace,
            address,
            address_v6,
        })
    }

    /// Makes a bare namespace with the lab's prefix, for whatever else a test needs. It is the caller's to drop.
    pub fn namespace(&self, role: &str) -> Result<Namespace, LabError> {
        self.identity.namespace(role)
    }

    /// What the name of everything in this lab starts with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.identity.prefix()
    }

    /// The lab's folder, for logs and captures; it goes with the lab.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.identity.folder()
    }

    /// The switch of the rack.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The nodes, `node-a` first.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The machines that are no nodes, in the order they came.
    #[must_use]
    pub fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&Node, LabError> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.ok_or_else(|| LabError::Unknown {
            what: "node",
            name: name.to_owned(),
        })
    }

    /// The node of that name, to be changed.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node, LabError> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.ok_or_else(|| LabError::Unknown {
            what: "node",
            name: name.to_owned(),
        })
    }

    /// The pod of that name, on whichever node it is.
    pub fn pod(&self, name: &str) -> Result<&Pod, LabError> {
        let found = self.nodes.iter().find_map(|node| node.pod(name).ok());
        found.ok_or_else(|| LabError::Unknown {
            what: "pod",
            name: name.to_owned(),
        })
    }

    /// Takes the lab down and makes sure that nothing is left of it.
    ///
    /// # Errors
    /// [`LabError::LeftBehind`] naming what is still there.
    pub fn close(self) -> Result<(), LabError> {
        let (prefix, folder) = (self.prefix().to_owned(), self.folder().to_owned());
        drop(self);
        let mut left = identity::namespaces(&prefix)?;
        left.extend(folder.exists().then(|| folder.display().to_string()));
        if left.is_empty() {
            Ok(())
        } else {
            Err(LabError::LeftBehind(left))
        }
    }
}
