//! Networks beside the cluster's own, over all nodes, for second interfaces of pods and for virtual machines: bridged ones, each an
//! Ethernet, and routed ones, in which the switch is everybody's router as it is in the cluster's own.
//!
//! A network is a NetworkAttachmentDefinition (`k8s.cni.cncf.io/v1`) whose `spec.config` is a CNI configuration of this
//! program's plugin with an object `network` in it; those of other plugins are left alone.

mod fault;
mod field;
mod key;
mod kind;
mod read;
mod routed;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

pub use fault::{AttachmentFault, RouteOverlap};
pub use key::NetworkKey;
pub use kind::{Bridge, NetworkKind, RouteTo, Routing};
pub(super) use read::ATTACHMENT_API_VERSION;
pub use read::{NetworkAttachmentDefinition, PLUGIN_TYPE};

use super::address::Vni;
use super::name::NodeName;

/// UDP port of a network's tunnels unless its definition says otherwise: that of Linux' own VXLAN devices
/// (`Documentation/networking/vxlan.rst`), and of flannel's.
const PORT_DEFAULT: u16 = 8472;
/// Broadcasts, multicasts and frames to unknown stations that a port may have copied, in frames a second, unless the definition
/// says otherwise.
const STORM_LIMIT_DEFAULT: u32 = 1000;
/// Stations that are learned from one port, unless the definition says otherwise.
const MAC_LIMIT_DEFAULT: u32 = 1024;
/// For how long a silent station is remembered, in seconds, unless the definition says otherwise (IEEE 802.1Q, table 8-6).
const AGEING_DEFAULT_S: u32 = 300;

/// A network beside the cluster's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkRecord {
    /// Namespace and name of its definition.
    pub key: NetworkKey,
    /// `name` of the CNI configuration, by which a container runtime knows it; that of the definition where it has none.
    pub cni_name: String,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP port of its tunnels.
    pub port: u16,
    /// Prefixes of its stations' addresses. None overlaps another, and their host bits are zero.
    pub subnets: Vec<IpNet>,
    /// Routers of which its pods are told, each in one of the subnets; of a routed network the switch's own addresses in it, on
    /// every node.
    pub gateways: Vec<IpAddr>,
    /// The parts of the subnets from which each node gives its pods addresses; none overlaps another. In a routed network they
    /// are what is behind each node.
    pub node_blocks: BTreeMap<NodeName, Vec<IpNet>>,
    /// Where its frames go beside this node.
    pub peers: PeerChoice,
    /// Largest packet in its frames, in bytes; `None`: what the uplink takes, less the tunnel's headers.
    pub mtu: Option<u16>,
    /// What it is, and what only its kind has.
    pub kind: NetworkKind,
}

/// Where a network's frames go beside this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerChoice {
    /// Whether to every other Node, at the address of its tunnels.
    pub nodes: bool,
    /// Other ends of tunnels, such as kernels' VXLAN devices.
    pub addresses: Vec<IpAddr>,
}

impl NetworkRecord {
    /// The prefix of an address within this network.
    #[must_use]
    pub fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        self.subnets
            .iter()
            .copied()
            .find(|subnet| subnet.contains(&address))
    }

    /// What only a bridged network has; `None` if it is another kind of network.
    #[must_use]
    pub fn bridge(&self) -> Option<&Bridge> {
        match &self.kind {
            NetworkKind::Bridged(bridge) => Some(bridge),
            NetworkKind::Routed(_) => None,
        }
    }

    /// What only a routed network has; `None` if it is another kind of network.
    #[must_use]
    pub fn routing(&self) -> Option<&Routing> {
        match &self.kind {
            NetworkKind::Bridged(_) => None,
            NetworkKind::Routed(routing) => Some(routing),
        }
    }

    /// The prefixes of its addresses that are behind a node.
    #[must_use]
    pub fn blocks_of(&self, node: &NodeName) -> &[IpNet] {
        self.node_blocks.get(node).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests;
