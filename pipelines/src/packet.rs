//! What the walk knows of the packet it carries: found once, by `classify`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::table::HashKey;
use millrace_dataplane::wire::{Ecn, EtherType, IpProtocol, Ports};

/// Source and destination, of one family.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Addresses {
    V4 { source: Ipv4Addr, destination: Ipv4Addr },
    V6 { source: Ipv6Addr, destination: Ipv6Addr },
}

impl Addresses {
    #[inline]
    pub(crate) fn destination(&self) -> IpAddr {
        match *self {
            Addresses::V4 { destination, .. } => IpAddr::V4(destination),
            Addresses::V6 { destination, .. } => IpAddr::V6(destination),
        }
    }

    #[inline]
    pub(crate) fn ether_type(&self) -> EtherType {
        match self {
            Addresses::V4 { .. } => EtherType::IPV4,
            Addresses::V6 { .. } => EtherType::IPV6,
        }
    }
}

/// An IP packet, out of its tunnel if it came through one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) addresses: Addresses,
    /// The transport, behind any extension headers.
    pub(crate) protocol: IpProtocol,
    /// The transport's ports, if it has any and this piece of the packet holds them.
    pub(crate) ports: Option<Ports>,
    /// Whether this is a piece of a packet, the first one included.
    pub(crate) is_fragment: bool,
    /// Length of the IP packet, in bytes.
    pub(crate) len: u16,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    pub(crate) ecn: Ecn,
}

impl Packet {
    /// The keyed hash of the packet's flow. A fragment counts without its ports, since only the first of them has
    /// any and all must go the same way.
    #[inline]
    pub(crate) fn flow_hash(&self, key: &HashKey) -> u64 {
        let ports = match self.ports {
            Some(ports) if !self.is_fragment => u64::from(ports.source) << 16 | u64::from(ports.destination),
            Some(_) | None => 0,
        };
        let transport = u64::from(self.protocol.0) << 32 | ports;
        match self.addresses {
            Addresses::V4 { source, destination } => {
                let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                key.hash([addresses, transport])
            }
            Addresses::V6 { source, destination } => {
                let [a, b] = halves(source);
                let [c, d] = halves(destination);
                key.hash([a, b, c, d, transport])
            }
        }
    }
}

/// An IPv6 address as two words.
#[inline]
fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    // INVARIANT: both are halves of 128 bits.
    #[allow(clippy::cast_possible_truncation)]
    [(bits >> 64) as u64, bits as u64]
}
