//! What is written into a packet of a flow: the tuple it leaves with, and what that does to checksums.

use std::net::{IpAddr, Ipv4Addr};

use super::store::Words;
use super::tuple::{Address, Tuple, lower, upper};
use crate::table::NetworkId;
use crate::wire::checksum::Delta;
use crate::wire::{IpProtocol, Ports};

/// The change of a flow's packets. It is found once, when the connection is claimed, and never changes.
///
/// It stays the words that the table keeps: a tuple's, with what the change does to checksums in the lower half of the
/// last one, where a key has protocol and network. Most packets are not changed at all, and theirs need not be taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Rewrite<A: Address> {
    words: A::TupleWords,
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
        let ip = if is_v4 { addresses } else { Delta::ZERO };
        let deltas = u64::from(ip.to_word()) << 16 | u64::from(transport.to_word());
        Self {
            words: A::tuple_words(|place| match place {
                last if last == A::PAIR_WORDS => leaving.word(last) & UPPER | deltas,
                place => leaving.word(place),
            }),
        }
    }

    /// The tuple that a packet of this protocol leaves with, in the network that it came in.
    #[inline]
    #[must_use]
    pub fn tuple(&self, protocol: IpProtocol, network: NetworkId) -> Tuple<A> {
        Tuple {
            protocol,
            network,
            ..Tuple::from_words(|place| self.words[place])
        }
    }

    /// The source and destination address that a packet leaves with.
    #[inline]
    #[must_use]
    pub fn addresses(&self) -> (A, A) {
        A::pair_from(|place| self.words[place])
    }

    /// The ports that it leaves with.
    #[inline]
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.tuple(IpProtocol(0), NetworkId::CLUSTER).ports
    }

    /// What the change does to an IPv4 header's checksum; nothing for IPv6, which has none.
    #[inline]
    #[must_use]
    pub fn ip(&self) -> Delta {
        Delta::from_word((lower(self.words[A::PAIR_WORDS]) >> 16) as u16)
    }

    /// What it does to the checksum of the transport's header: TCP, UDP (by [`Delta::apply_udp`]), ICMP echo, whose one
    /// port is the id. SCTP's checksum is no such sum, and this means nothing for it.
    #[inline]
    #[must_use]
    pub fn transport(&self) -> Delta {
        Delta::from_word((lower(self.words[A::PAIR_WORDS]) & 0xffff) as u16)
    }

    /// Whether packets that arrive with `tuple` leave with another.
    #[inline]
    pub(super) fn changes(&self, tuple: &Tuple<A>) -> bool {
        self.changes_words(|place| tuple.word(place))
    }

    /// The same for a tuple in words.
    #[inline(always)]
    pub(super) fn changes_words(&self, word: impl Fn(usize) -> u64) -> bool {
        let addresses = (0..A::PAIR_WORDS).fold(0, |all, place| all | (self.words[place] ^ word(place)));
        let ports = (self.words[A::PAIR_WORDS] ^ word(A::PAIR_WORDS)) & UPPER;
        addresses | ports != 0
    }
}

impl Rewrite<Ipv4Addr> {
    /// Both addresses that a packet leaves with, the source's above, as the header has them in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn address_pair(&self) -> u64 {
        self.words[0]
    }

    /// Both ports that it leaves with, likewise.
    #[inline(always)]
    #[must_use]
    pub const fn port_pair(&self) -> u32 {
        upper(self.words[1])
    }
}

/// The upper half of a word.
const UPPER: u64 = 0xffff_ffff << 32;

/// The change of one address.
fn address_delta(old: IpAddr, new: IpAddr) -> Delta {
    match (old, new) {
        (IpAddr::V4(old), IpAddr::V4(new)) => Delta::u32(old.to_bits(), new.to_bits()),
        (IpAddr::V6(old), IpAddr::V6(new)) => Delta::ipv6(old, new),
        // INVARIANT: both addresses are of the one type `A`.
        _ => Delta::ZERO,
    }
}

impl<A: Address> Words for Rewrite<A> {
    const LEN: usize = Tuple::<A>::LEN;

    #[inline]
    fn word(&self, place: usize) -> u64 {
        self.words[place]
    }

    #[inline]
    fn from_words(word: impl Fn(usize) -> u64) -> Self {
        Self {
            words: A::tuple_words(word),
        }
    }
}
