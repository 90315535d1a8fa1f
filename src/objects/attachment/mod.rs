//! Networks beside the cluster's own: bridged ones, over all nodes, for second interfaces of pods and for virtual machines.
//!
//! A network is a NetworkAttachmentDefinition (`k8s.cni.cncf.io/v1`) whose `spec.config` is a CNI configuration of this
//! program's plugin with an object `network` in it; those of other plugins are left alone.

mod fault;
mod field;
mod key;
mod read;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;
use serde::Serialize;

pub use fault::AttachmentFault;
pub use key::NetworkKey;
pub(super) use read::ATTACHMENT_API_VERSION;
pub use read::{NetworkAttachmentDefinition, PLUGIN_TYPE};

use super::address::{UnicastMac, Vni};
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

/// A bridged network.
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
    /// Routers of which its pods are told, each in one of the subnets.
    pub gateways: Vec<IpAddr>,
    /// The parts of the subnets from which each node gives its pods addresses; none overlaps another.
    pub node_blocks: BTreeMap<NodeName, Vec<IpNet>>,
    /// Where its frames go beside this node.
    pub peers: PeerChoice,
    /// Stations elsewhere that are known without being heard.
    pub stations: Vec<(UnicastMac, IpAddr)>,
    /// Whether stations of other nodes are learned from the frames that come from there.
    pub learning: bool,
    /// Whether questions for addresses of stations that are known are answered here.
    pub suppression: bool,
    /// Whether multicasts go only to who asked for them.
    pub snooping: bool,
    /// Frames a second that a port may have copied; `None`: any number.
    pub storm_limit: Option<NonZeroU32>,
    /// Stations that are learned from one port.
    pub mac_limit: u32,
    /// For how long a silent station is remembered, in seconds.
    pub ageing_s: u32,
    /// Largest packet in its frames, in bytes; `None`: what the uplink takes, less the tunnel's headers.
    pub mtu: Option<u16>,
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
}

#[cfg(test)]
mod tests;
