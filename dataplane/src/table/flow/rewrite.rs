//! What is written into a packet of a flow: the tuple it leaves with, and what that does to checksums.

use std::net::IpAddr;

use super::store::Words;
use super::tuple::{Address, Tuple, lower};
use crate::wire::IpProtocol;
use crate::wire::checksum::Delta;

/// The change of a flow's packets. It is found once, when the connection is claimed, and never changes.
#[derive(Debug, Clone, Copy)]
pub struct Rewrite<A> {
    /// The tuple that a packet leaves with.
    pub tuple: Tuple<A>,
    /// What the change does to an IPv4 header's checksum; nothing for IPv6, which has none.
    pub ip: Delta,
    /// What it does to the checksum of the transport's header: TCP, UDP (by [`Delta::apply_udp`]), ICMP echo, whose
    /// one port is the id. SCTP's checksum is no such sum, and this means nothing for it.
    pub transport: Delta,
}

impl<A: Address> Rewrite<A> {
    /// The change from the tuple of a packet that arrives to the one that it leaves with.
    #[must_use]
    pub fn between(arriving: &Tuple<A>, leaving: &Tuple<A>) -> Self {
        let source = address_delta(arriving.source.into(), leaving.source.into());
        let addresses = source.and(address_delta(
            arriving.destination.into(),
            leaving.destination.into(),
        ));
        let ports = Delta::u16(arriving.ports.source, leaving.ports.source)
            .and(Delta::u16(arriving.ports.destination, leaving.ports.destination));
        let is_v4 = matches!(arriving.source.into(), IpAddr::V4(_));
        // ICMP for IPv4 alone has no pseudo-header in its checksum (RFC 792).
        let transport = match arriving.protocol {
            IpProtocol::ICMP => ports,
            _ => addresses.and(ports),
        };
        Self {
            tuple: *leaving,
            ip: if is_v4 { addresses } else { Delta::ZERO },
            transport,
        }
    }
}

/// The change of one address.
fn address_delta(old: IpAddr, new: IpAddr) -> Delta {
    match (old, new) {
        (IpAddr::V4(old), IpAddr::V4(new)) => Delta::u32(old.to_bits(), new.to_bits()),
        (IpAddr::V6(old), IpAddr::V6(new)) => Delta::ipv6(old, new),
        // INVARIANT: both addresses are of the one type `A`.
        _ => Delta::ZERO,
    }
}

/// A tuple's words, with both deltas in the lower half of the last one, where a key's has the protocol.
impl<A: Address> Words for Rewrite<A> {
    const LEN: usize = Tuple::<A>::LEN;

    #[inline]
    fn word(&self, place: usize) -> u64 {
        let word = self.tuple.word(place);
        if place + 1 < Self::LEN {
            return word;
        }
        let deltas = u64::from(self.ip.to_word()) << 16 | u64::from(self.transport.to_word());
        word & !0xffff_ffff | deltas
    }

    /// The protocol stays unknown (0): the key says it.
    #[inline]
    fn from_words(word: impl Fn(usize) -> u64) -> Self {
        let mut tuple = Tuple::from_words(&word);
        tuple.protocol = IpProtocol(0);
        let deltas = lower(word(Self::LEN - 1));
        Self {
            tuple,
            ip: Delta::from_word((deltas >> 16) as u16),
            transport: Delta::from_word((deltas & 0xffff) as u16),
        }
    }
}
