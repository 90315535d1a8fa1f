//! What the walk knows of the packet it carries: found once, by `classify`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::table::{HashKey, NetworkId};
use millrace_dataplane::wire::{Ecn, EtherType, Fragment, IpProtocol, Ports};

/// Source and destination, of one family.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Addresses {
    V4 { source: Ipv4Addr, destination: Ipv4Addr },
    V6 { source: Ipv6Addr, destination: Ipv6Addr },
}

impl Addresses {
    /// Both addresses, if they are of one family.
    pub(crate) fn of(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 { source, destination }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    #[inline]
    pub(crate) fn source(&self) -> IpAddr {
        match *self {
            Addresses::V4 { source, .. } => IpAddr::V4(source),
            Addresses::V6 { source, .. } => IpAddr::V6(source),
        }
    }

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

/// What a packet carries, as far as connections are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// A packet of a connection, or the first piece of one: its ports are known.
    Connection,
    /// A later piece of such a packet, whose ports stand in the first.
    LaterPiece,
    /// An ICMP error, whole: it is about another packet.
    Error,
    /// Something that belongs to no connection.
    Other,
}

/// An IP packet, out of its tunnel if it came through one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) addresses: Addresses,
    /// The transport, behind any extension headers.
    pub(crate) protocol: IpProtocol,
    pub(crate) carries: Carries,
    /// The transport's ports, if it has any and this piece of the packet holds them. An echo request has its id as
    /// source port and 0 as destination port, an echo reply the other way round; of a protocol that has none and is
    /// followed all the same both are 0.
    pub(crate) ports: Option<Ports>,
    /// Where the transport begins, in bytes from the IP header's start.
    pub(crate) transport_at: u16,
    /// Which piece of a packet this is, if it is one; a whole one in a fragment's clothes is none.
    pub(crate) fragment: Option<Fragment>,
    /// Length of the IP packet, in bytes.
    pub(crate) len: u16,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    pub(crate) ecn: Ecn,
    /// Whether it came through a tunnel.
    pub(crate) is_tunnelled: bool,
}

impl Packet {
    /// What stands where no packet has been read yet: one that nothing is known of and that nobody sends.
    pub(crate) const UNREAD: Self = Self {
        addresses: Addresses::V4 {
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::UNSPECIFIED,
        },
        protocol: IpProtocol(0),
        carries: Carries::Other,
        ports: None,
        transport_at: 0,
        fragment: None,
        len: 0,
        hops: 0,
        ecn: Ecn::NotEct,
        is_tunnelled: false,
    };

    /// The keyed hash of the packet's flow in its network. A fragment counts without its ports, since only the first of them has
    /// any and all must go the same way.
    #[inline]
    pub(crate) fn flow_hash(&self, key: &HashKey, network: NetworkId) -> u64 {
        let has_ports = self.fragment.is_none() && self.protocol.has_ports();
        let ports = self.ports.filter(|_| has_ports);
        let last = transport_word(self.protocol, ports) | u64::from(network.number());
        match self.addresses {
            Addresses::V4 { source, destination } => {
                let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                key.hash([addresses, last])
            }
            Addresses::V6 { source, destination } => {
                let [a, b] = halves(source);
                let [c, d] = halves(destination);
                key.hash([a, b, c, d, last])
            }
        }
    }
}

/// Ports and protocol in one word, as in the key of a flow of the cluster's own network (`KeyV4`).
#[inline]
pub(crate) fn transport_word(protocol: IpProtocol, ports: Option<Ports>) -> u64 {
    let ports = ports.map_or(0, |ports| {
        u64::from(ports.source) << 16 | u64::from(ports.destination)
    });
    ports << 32 | u64::from(protocol.0) << 24
}

/// An IPv6 address as two words.
#[inline]
pub(crate) fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    // INVARIANT: both are halves of 128 bits.
    #[allow(clippy::cast_possible_truncation)]
    [(bits >> 64) as u64, bits as u64]
}
