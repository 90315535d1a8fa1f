//! What a packet of a flow carries when it arrives: the key of the flow table.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::store::Words;
use crate::table::{HashKey, NetworkId};
use crate::wire::{IpProtocol, Ports};

/// Which of a connection's two flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// As the first packet went.
    Original = 0,
    /// Back.
    Reply = 1,
}

impl Direction {
    /// The other one.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// An address of either family, as words of the table.
pub trait Address:
    sealed::Sealed + Copy + Eq + std::hash::Hash + Into<IpAddr> + fmt::Debug + fmt::Display
{
    /// How many words two addresses take.
    #[doc(hidden)]
    const PAIR_WORDS: usize;

    /// The words of a tuple: those of two addresses, and one.
    #[doc(hidden)]
    type TupleWords: Copy + fmt::Debug + std::ops::Index<usize, Output = u64>;

    /// The words of a tuple, one by one.
    #[doc(hidden)]
    fn tuple_words(word: impl Fn(usize) -> u64) -> Self::TupleWords;

    /// Word `place` of a source and a destination.
    #[doc(hidden)]
    fn pair_word(source: Self, destination: Self, place: usize) -> u64;

    /// The source and the destination that such words are.
    #[doc(hidden)]
    fn pair_from(word: impl Fn(usize) -> u64) -> (Self, Self);

    /// The hash of both addresses and one more word.
    #[doc(hidden)]
    fn hash_pair(key: &HashKey, source: Self, destination: Self, last: u64) -> u64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::net::Ipv4Addr {}
    impl Sealed for std::net::Ipv6Addr {}
}

impl Address for Ipv4Addr {
    const PAIR_WORDS: usize = 1;
    type TupleWords = [u64; 2];

    #[inline]
    fn tuple_words(word: impl Fn(usize) -> u64) -> [u64; 2] {
        std::array::from_fn(word)
    }

    #[inline]
    fn pair_word(source: Self, destination: Self, _place: usize) -> u64 {
        u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits())
    }

    #[inline]
    fn pair_from(word: impl Fn(usize) -> u64) -> (Self, Self) {
        let pair = word(0);
        (Self::from_bits(upper(pair)), Self::from_bits(lower(pair)))
    }

    #[inline]
    fn hash_pair(key: &HashKey, source: Self, destination: Self, last: u64) -> u64 {
        key.hash([Self::pair_word(source, destination, 0), last])
    }
}

impl Address for Ipv6Addr {
    const PAIR_WORDS: usize = 4;
    type TupleWords = [u64; 5];

    #[inline]
    fn tuple_words(word: impl Fn(usize) -> u64) -> [u64; 5] {
        std::array::from_fn(word)
    }

    #[inline]
    fn pair_word(source: Self, destination: Self, place: usize) -> u64 {
        let address = if place < 2 { source } else { destination };
        halves(address)[place % 2]
    }

    #[inline]
    fn pair_from(word: impl Fn(usize) -> u64) -> (Self, Self) {
        let address = |at| Self::from_bits(u128::from(word(at)) << 64 | u128::from(word(at + 1)));
        (address(0), address(2))
    }

    #[inline]
    fn hash_pair(key: &HashKey, source: Self, destination: Self, last: u64) -> u64 {
        let ([a, b], [c, d]) = (halves(source), halves(destination));
        key.hash([a, b, c, d, last])
    }
}

/// Upper and lower half of an address.
#[inline]
const fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    // INVARIANT: both are halves of 128 bits.
    #[allow(clippy::cast_possible_truncation)]
    let halves = [(bits >> 64) as u64, bits as u64];
    halves
}

/// The upper half of a word.
#[inline]
pub(super) const fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The lower half of a word.
#[inline]
pub(super) const fn lower(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// The tuple that a packet carries when it arrives at the switch, its tunnel header taken off.
///
/// An ICMP echo request has its id as the source port and 0 as the destination port, an echo reply the other way
/// round, so that reversing a tuple exchanges both pairs and needs to know no protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Protocol of the payload.
    pub protocol: IpProtocol,
    /// Source and destination port.
    pub ports: Ports,
    /// The network in which the addresses mean something: equal ones in two networks are two tuples.
    pub network: NetworkId,
}

/// A tuple of IPv4.
pub type TupleV4 = Tuple<Ipv4Addr>;
/// A tuple of IPv6.
pub type TupleV6 = Tuple<Ipv6Addr>;

impl<A: Address> Tuple<A> {
    /// The tuple of the answer to a packet that carries this one.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            ports: self.ports.reversed(),
            network: self.network,
        }
    }

    /// Ports, protocol and network in one word; between the last two are eight zeros. In the cluster's own network, whose
    /// number is zero, that is the word of a tuple as it was before there were others: in an older flow file all are its own.
    #[inline]
    fn ports_word(&self) -> u64 {
        u64::from(self.ports.source) << 48
            | u64::from(self.ports.destination) << 32
            | u64::from(self.protocol.0) << 24
            | u64::from(self.network.number())
    }

    /// The keyed hash of the tuple.
    #[inline]
    #[must_use]
    pub fn hash_with(&self, key: &HashKey) -> u64 {
        A::hash_pair(key, self.source, self.destination, self.ports_word())
    }
}

impl<A: Address> Words for Tuple<A> {
    const LEN: usize = A::PAIR_WORDS + 1;

    #[inline]
    fn word(&self, place: usize) -> u64 {
        if place < A::PAIR_WORDS {
            A::pair_word(self.source, self.destination, place)
        } else {
            self.ports_word()
        }
    }

    #[inline]
    fn from_words(word: impl Fn(usize) -> u64) -> Self {
        let (source, destination) = A::pair_from(&word);
        let ports = word(A::PAIR_WORDS);
        Self {
            source,
            destination,
            protocol: IpProtocol((ports >> 24 & 0xff) as u8),
            ports: Ports {
                source: (ports >> 48) as u16,
                destination: (ports >> 32 & 0xffff) as u16,
            },
            network: NetworkId::new((ports & 0xffff) as u16),
        }
    }
}

impl<A: Address> fmt::Display for Tuple<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address: A, port| std::net::SocketAddr::new(address.into(), port);
        let Ports { source, destination } = self.ports;
        let (from, to) = (end(self.source, source), end(self.destination, destination));
        write!(f, "{} {from} -> {to}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::flow::KeyV4;

    fn words<A: Address>(tuple: &Tuple<A>) -> Vec<u64> {
        (0..Tuple::<A>::LEN).map(|place| tuple.word(place)).collect()
    }

    fn tuple<A>(source: A, destination: A, network: u16) -> Tuple<A> {
        Tuple {
            source,
            destination,
            protocol: IpProtocol::SCTP,
            ports: Ports {
                source: 0xa1b2,
                destination: 0xc3d4,
            },
            network: NetworkId::new(network),
        }
    }

    /// The words of the cluster's own tuples are those of flow files from before there were other networks, and the other way
    /// round: the layout's version stays.
    #[test]
    fn an_older_files_tuples_are_the_clusters() {
        let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let old = [0x0a00_0001_0a00_0002, 0xa1b2_c3d4_8400_0000];
        let own = tuple(source, destination, 0);
        assert_eq!(words(&own), old);
        assert_eq!(Tuple::from_words(|place| old[place]), own);
    }

    #[test]
    fn a_networks_tuple_is_read_as_it_was_written_and_is_no_others() {
        let v4 = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let v6 = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let key = HashKey::from_words([1, 2, 3]);
        let mut hashes = std::collections::HashSet::new();
        for network in [0, 1, 4096, u16::MAX] {
            let (short, long) = (tuple(v4.0, v4.1, network), tuple(v6.0, v6.1, network));
            let (short_words, long_words) = (words(&short), words(&long));
            assert_eq!(Tuple::from_words(|place| short_words[place]), short);
            assert_eq!(Tuple::from_words(|place| long_words[place]), long);
            assert_eq!(short.reversed().network, short.network);
            assert!(hashes.insert(short.hash_with(&key)) && hashes.insert(long.hash_with(&key)));
            let plain = KeyV4::new(short_words[0], 0xa1b2_c3d4, IpProtocol::SCTP);
            assert_eq!(plain.in_network(short.network).words()[..], short_words[..]);
            assert_eq!(plain.in_network(short.network).tuple(), short);
        }
    }
}
