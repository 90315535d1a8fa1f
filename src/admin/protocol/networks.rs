//! Networks beside the cluster's own, and ports in them.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Bandwidth, Container};

/// See [`Request::Join`](super::Request::Join).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// What is at the other end of the port.
    pub end: MemberEnd,
    /// The network, `NAMESPACE/NAME`, of frames without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The networks of frames with a tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<TrunkVlan>,
    /// The only MAC address that may send; a pod gets one that follows from its name where it is absent, and from a tap any may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The only addresses that may send, and a pod's own. From a tap any may where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Whose it is, where a container runtime asks. Such a request may be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// What it may send and be sent in a second.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// What is at the other end of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MemberEnd {
    /// Whoever opens a tap device: a virtual machine's program.
    Tap(TapDevice),
    /// A pod, by an interface beside its first.
    Pod(PodInterface),
}

/// A tap device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TapDevice {
    /// Its name; it is made where it is not there.
    pub name: String,
    /// The number of the only user that may open it, where it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// The number of the only group that may, where it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// An interface of a pod beside its first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PodInterface {
    /// The pod, `NAMESPACE/NAME`.
    pub pod: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// What the interface is called inside the pod.
    pub interface: String,
}

/// A network of frames with a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrunkVlan {
    /// The number in the tag.
    pub vlan: u16,
    /// The network, `NAMESPACE/NAME`.
    pub network: String,
}

/// The answer to [`Request::Join`](super::Request::Join).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The interface on the node.
    pub interface: String,
    /// Its own MAC address.
    pub host_mac: String,
    /// The MAC address of the other end, where it is known.
    pub mac: Option<String>,
    /// The addresses of the other end, with their subnets' prefixes.
    pub addresses: Vec<IpNet>,
    /// The network's routers.
    pub gateways: Vec<IpAddr>,
    /// The routes that a pod was given, to networks that its own is routed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<MemberRoute>,
    /// The longest packet that may be sent, in bytes, without the Ethernet header.
    pub mtu: u32,
}

/// A route of a pod's interface beside its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRoute {
    /// Where to.
    pub destination: IpNet,
    /// By which router.
    pub gateway: IpAddr,
}

/// A port in networks beside the cluster's own, to be taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MemberName {
    /// By the interface on the node, such as a tap's name.
    Interface(String),
    /// By pod and network.
    Pod {
        /// The pod, `NAMESPACE/NAME`.
        pod: String,
        /// The network, `NAMESPACE/NAME`.
        network: String,
    },
}

/// The answer to [`Request::NetworkFacts`](super::Request::NetworkFacts).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// The network, `NAMESPACE/NAME`.
    pub network: String,
    /// The prefixes of its addresses.
    pub subnets: Vec<IpNet>,
    /// The parts of them from which this node gives addresses.
    pub blocks: Vec<IpNet>,
    /// Addresses that nobody may be given.
    pub reserved: Vec<IpAddr>,
    /// Its routers.
    pub gateways: Vec<IpAddr>,
    /// The longest packet, in bytes; `None` while the uplink is gone.
    pub mtu: Option<u32>,
    /// How many ports there is room for still.
    pub ports_free: usize,
}

/// A row of [`Request::ShowNetworks`](super::Request::ShowNetworks).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    /// The network, `NAMESPACE/NAME`.
    pub network: String,
    /// bridged or routed.
    pub kind: String,
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// The UDP port of its tunnels.
    pub port: u16,
    /// The prefixes of its addresses.
    pub subnets: Vec<IpNet>,
    /// The longest packet, in bytes; `None` while the uplink is gone.
    pub mtu: Option<u32>,
    /// Its ports on this node: the interface, behind it the pod or the VLAN where there is one.
    pub members: Vec<String>,
    /// Stations of a bridged network that are known, wherever they are.
    pub stations: usize,
    /// The networks that a routed one is routed to, as its definition names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_to: Vec<String>,
    /// The switch's own addresses in a routed network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Where its frames go beside this node.
    pub remotes: Vec<RemoteRow>,
    /// Why it is not served, one line; `None` if it is.
    pub fault: Option<String>,
}

/// Another end of a network's tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRow {
    /// Its address on the underlay.
    pub address: IpAddr,
    /// The node, if it is one.
    pub node: Option<String>,
    /// The MAC address of its router, in a routed network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Whether frames can be sent to it now.
    pub ready: bool,
}
