//! A shorter way to a flow of IPv4, for packets that need no more than what its entry says.
//!
//! It answers what [`FlowShard::read`] does, or nothing: where an entry is being written, or the first slot that fits is
//! another tuple's, the caller takes the long way.

use std::net::Ipv4Addr;

use super::answer::{onward, packed_freshness, unpack};
use super::flow::is_due;
use super::shard::seen_at;
use super::store::Words;
use super::tuple::upper;
use super::{Answer, Flow, FlowId, FlowShard, Freshness, Hash, Onward, Rewrite, TupleV4};
use crate::table::{Epoch, NetworkId, Subjects, Tick};
use crate::wire::IpProtocol;

/// A tuple of IPv4 as the words by which its flow is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyV4 {
    words: [u64; 2],
}

/// Where a flow probably is, or nowhere.
#[derive(Debug, Clone, Copy)]
pub struct Spot(u32);

/// A flow as its entry was at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    /// Names it.
    pub id: FlowId,
    rewrite: Rewrite<Ipv4Addr>,
    memory: FlowMemory,
}

/// What a flow remembers of where its packets go, and of when the last was seen; as the words that its entry keeps.
#[derive(Debug, Clone, Copy)]
pub struct FlowMemory {
    answer: [u64; 2],
    stamp: u64,
}

impl Spot {
    /// Beyond the last place of the largest table.
    pub const NOWHERE: Self = Self(u32::MAX);
}

impl KeyV4 {
    /// The key of a packet in the cluster's own network: both addresses, the source's above, and both ports, the source's above, as the headers have
    /// them in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn new(addresses: u64, ports: u32, protocol: IpProtocol) -> Self {
        Self {
            words: [addresses, (ports as u64) << 32 | (protocol.0 as u64) << 24],
        }
    }

    /// The same packet's key in another network.
    #[inline(always)]
    #[must_use]
    pub const fn in_network(self, network: NetworkId) -> Self {
        let [addresses, ports] = self.words;
        Self {
            words: [addresses, ports | network.number() as u64],
        }
    }

    /// The words: both addresses; both ports, the protocol and the network.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        self.words
    }

    /// The protocol.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> IpProtocol {
        IpProtocol((self.words[1] >> 24 & 0xff) as u8)
    }

    /// The tuple.
    #[inline(always)]
    #[must_use]
    pub fn tuple(&self) -> TupleV4 {
        TupleV4::from_words(|place| self.words[place])
    }
}

impl Glance {
    /// Whether nothing is to be found out about the flow or noted down: its answer was found or confirmed in the snapshot
    /// `epoch`, and a packet of it has been seen in this second.
    #[inline(always)]
    #[must_use]
    pub const fn is_settled(&self, epoch: Epoch, now: Tick) -> bool {
        self.memory.stamp == (epoch.0 as u64) << 32 | now.seconds() as u64
    }

    /// Where its packets go; `None` until the first has found out.
    #[inline(always)]
    #[must_use]
    pub fn onward(&self) -> Option<Onward> {
        onward(self.memory.answer)
    }

    /// What is written into its packets; `None` if they pass as they are.
    #[inline(always)]
    #[must_use]
    pub fn rewrite(&self, key: &KeyV4) -> Option<Rewrite<Ipv4Addr>> {
        self.rewrite
            .changes_words(|place| key.words[place])
            .then_some(self.rewrite)
    }

    /// What it remembers.
    #[inline(always)]
    #[must_use]
    pub const fn memory(&self) -> FlowMemory {
        self.memory
    }

    /// All that there is to know of the flow.
    #[must_use]
    pub fn flow(&self, key: &KeyV4) -> Flow<Ipv4Addr> {
        Flow {
            id: self.id,
            rewrite: self.rewrite(key),
            answer: self.memory.answer(),
            last_seen: seen_at(self.memory.stamp),
            stamp: self.memory.stamp,
        }
    }
}

impl FlowMemory {
    /// The stored answer; `None` until the first packet has found out.
    #[inline]
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        unpack(self.answer, Epoch(upper(self.stamp)))
    }

    /// Whether the stored answer holds in the snapshot `epoch`, as [`Answer::freshness`] says; means nothing if there is none.
    #[inline(always)]
    #[must_use]
    pub fn freshness(&self, epoch: Epoch, subjects: &Subjects) -> Freshness {
        packed_freshness(self.answer, Epoch(upper(self.stamp)), epoch, subjects)
    }

    /// Whether a packet of now is to be noted, as [`Flow::is_due`] says.
    #[inline(always)]
    #[must_use]
    pub fn is_due(&self, now: Tick) -> bool {
        is_due(seen_at(self.stamp), now)
    }
}

impl FlowShard<Ipv4Addr> {
    /// The hash of a key's tuple.
    #[inline(always)]
    #[must_use]
    pub fn hash_of(&self, key: &KeyV4) -> Hash {
        Hash(self.store.form().secret().hash(key.words))
    }

    /// Where the flow with this hash probably is, asked of the memory already.
    #[inline(always)]
    #[must_use]
    pub fn spot(&self, hash: Hash) -> Spot {
        let Some(place) = self.store.find(hash.0) else {
            return Spot::NOWHERE;
        };
        self.store.prefetch_line(place);
        Spot(place)
    }

    /// The flow of a key, if it is at this spot.
    #[inline(always)]
    #[must_use]
    pub fn glance(&self, spot: Spot, key: &KeyV4) -> Option<Glance> {
        let seen = self.store.glance(spot.0, |place| key.words[place])?;
        Some(Glance {
            id: FlowId {
                place: spot.0,
                version: seen.version,
            },
            rewrite: seen.body,
            memory: FlowMemory {
                answer: seen.answer,
                stamp: seen.stamp,
            },
        })
    }
}
