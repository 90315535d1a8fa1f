//! Who is there: the same machines and pods on every stage, with the same addresses.
//!
//! node-a is the node under test. node-b is a stock node of the same cluster, and the guest a machine outside of it.

use std::net::Ipv4Addr;

/// The pods' networks together: `clusterCIDR`.
pub(crate) const POD_NETWORKS: &str = "10.244.0.0/16";
/// Where ClusterIPs come from: the Service CIDR.
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/12";
/// The twins of these networks.
pub(crate) const POD_NETWORKS_V6: &str = "fd00::/16";
pub(crate) const SERVICE_CIDR_V6: &str = "fd96::/108";
pub(crate) const PUBLIC_NETWORK_V6: &str = "2001:db8:64::/64";
/// Where external and LoadBalancer addresses come from (RFC 5737, for documentation). The rack knows that node-a has them.
pub(crate) const PUBLIC_NETWORK: &str = "198.51.100.0/24";
/// node-a on the underlay.
pub(crate) const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// node-a in the overlay.
pub(crate) const TUNNEL_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
/// The gateway of node-a's pods.
pub(crate) const GATEWAY_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// node-b on the underlay.
pub(crate) const NODE_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The guest's first address, and how many it has.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
pub(crate) const GUEST_ADDRESSES: u8 = 4;

/// Ports that every server listens on, TCP and UDP.
pub(crate) const SERVED: [u16; 3] = [8080, 8081, 9000];

/// Where an endpoint may be: a pod, or a node for a pod of the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) node: &'static str,
    pub(crate) address: Ipv4Addr,
}

const fn place(name: &'static str, node: &'static str, address: Ipv4Addr) -> Place {
    Place { name, node, address }
}

/// Every pod: three on node-a, two on node-b.
pub(crate) const PODS: [Place; 5] = [
    place("pod-a1", "node-a", Ipv4Addr::new(10, 244, 1, 2)),
    place("pod-a2", "node-a", Ipv4Addr::new(10, 244, 1, 3)),
    place("pod-a3", "node-a", Ipv4Addr::new(10, 244, 1, 4)),
    place("pod-b1", "node-b", Ipv4Addr::new(10, 244, 2, 2)),
    place("pod-b2", "node-b", Ipv4Addr::new(10, 244, 2, 3)),
];

/// Whether an address is a pod's.
pub(crate) fn is_pod(address: Ipv4Addr) -> bool {
    PODS.iter().any(|pod| pod.address == address)
}

/// Endpoints in the network of a node.
pub(crate) const HOSTS: [Place; 2] = [
    place("node-a", "node-a", NODE_A),
    place("node-b", "node-b", NODE_B),
];

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caller {
    /// A pod, by its place in [`PODS`].
    Pod(usize),
    /// node-a itself.
    OwnNode,
    /// node-b, which is outside of the overlay where it calls an address that is not in it.
    OtherNode,
    /// The guest, from one of its addresses.
    Guest(u8),
}

impl Caller {
    /// The namespace of a lab that the caller is in.
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Pod(number) => PODS[number].name,
            Self::OwnNode => "node-a",
            Self::OtherNode => "node-b",
            Self::Guest(_) => "guest",
        }
    }

    /// The address the caller binds to; a node leaves that to its routes.
    pub(crate) fn binds(self) -> Ipv4Addr {
        match self {
            Self::Pod(number) => PODS[number].address,
            Self::OwnNode | Self::OtherNode => Ipv4Addr::UNSPECIFIED,
            Self::Guest(number) => guest(number),
        }
    }

    /// Whether it is a node, or one of its pods.
    pub(crate) fn is_on(self, node: &str) -> bool {
        match self {
            Self::Pod(number) => PODS[number].node == node,
            Self::OwnNode | Self::OtherNode => self.namespace() == node,
            Self::Guest(_) => false,
        }
    }
}

/// One of the guest's addresses.
pub(crate) fn guest(number: u8) -> Ipv4Addr {
    let [a, b, c, d] = GUEST.octets();
    Ipv4Addr::new(a, b, c, d + number)
}

/// Everyone who calls. Pods of the node under test come first and are drawn more often.
pub(crate) const CALLERS: [Caller; 10] = [
    Caller::Pod(0),
    Caller::Pod(1),
    Caller::Pod(2),
    Caller::Pod(3),
    Caller::OwnNode,
    Caller::OtherNode,
    Caller::Guest(0),
    Caller::Guest(1),
    Caller::Guest(2),
    Caller::Guest(3),
];
