//! The families of addresses inside the underlay, which itself is IPv4: each one's plan of addresses, its header, and its
//! share of the flow table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::table::flow::FlowOptions;
use millrace_dataplane::wire::{eth, ipv4, ipv6, udp};
use millrace_tools::pktgen::MARKER_LEN;

/// What the packets of a walk are, inside the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The first addresses of a network, by family.
struct Network(Ipv4Addr, Ipv6Addr);

/// All pods of all nodes, and the last 16 bits of their addresses: a node's number, and a pod's on it.
const PODS: Network = Network(
    Ipv4Addr::new(10, 244, 0, 0),
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0),
);
const PODS_LAST: u32 = 0xffff;
/// All Services.
const SERVICES: Network = Network(
    Ipv4Addr::new(10, 96, 0, 0),
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0),
);
/// Networks that no packet comes from or goes to.
const ELSEWHERE: Network = Network(
    Ipv4Addr::new(172, 16, 0, 0),
    Ipv6Addr::new(0xfd00, 0x172, 0x16, 0, 0, 0, 0, 0),
);

impl Family {
    fn address(self, network: &Network, number: u32) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(network.0.to_bits() + number)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(network.1.to_bits() + u128::from(number))),
        }
    }

    /// An address in a node's pod network.
    pub(super) fn pod_address(self, node: u8, host: u8) -> IpAddr {
        self.address(&PODS, (u32::from(node) + 1) << u8::BITS | u32::from(host))
    }

    /// Length of a node's pod prefix, in bits.
    pub(super) fn pod_prefix_len(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 120,
        }
    }

    /// The address of the pod behind a port of this node.
    pub(super) fn local_pod(self, port: u16) -> IpAddr {
        let [_, low] = port.to_be_bytes();
        self.pod_address(0, low)
    }

    /// The first and the last address that a pod of any node may have.
    pub(super) fn all_pods(self) -> (IpAddr, IpAddr) {
        (self.address(&PODS, 0), self.address(&PODS, PODS_LAST))
    }

    /// The address of a Service.
    pub(super) fn service_address(self, number: u32) -> IpAddr {
        self.address(&SERVICES, number)
    }

    /// The first address of a network that no packet comes from or goes to.
    pub(super) fn elsewhere(self, number: u32) -> IpAddr {
        self.address(&ELSEWHERE, number << u8::BITS)
    }

    /// Length of the IP header, in bytes.
    pub(super) fn header_len(self) -> usize {
        match self {
            Self::V4 => ipv4::HEADER_LEN,
            Self::V6 => ipv6::HEADER_LEN,
        }
    }

    /// Where the source address stands in the IP header, and how long it is, in bytes. The destination follows it.
    pub(super) fn source(self) -> (usize, usize) {
        match self {
            Self::V4 => (12, size_of::<Ipv4Addr>()),
            Self::V6 => (8, size_of::<Ipv6Addr>()),
        }
    }

    /// The lengths of short and of long frames, in bytes. Behind IPv6 and UDP, 64 bytes have no room for a generator's mark:
    /// the shortest frame that has is taken instead.
    pub(crate) fn frame_lens(self) -> &'static [usize; 2] {
        const SHORTEST_V6: usize = eth::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN + MARKER_LEN;
        match self {
            Self::V4 => &[64, 1500],
            Self::V6 => &[SHORTEST_V6, 1500],
        }
    }

    /// A flow table with room for so many connections of this family, and next to none for the other.
    pub(super) fn flow_options(self, room: u32) -> FlowOptions {
        let (ipv4, ipv6) = match self {
            Self::V4 => (room, 1),
            Self::V6 => (1, room),
        };
        FlowOptions {
            ipv4,
            ipv6,
            ..FlowOptions::default()
        }
    }
}
