//! What the flow table takes and answers: connections to be, flows as they were read, and their names.

use super::tuple::{Address, Direction, Tuple, lower, upper};
use super::{Answer, ProtocolState, Rewrite, TcpSegment};
use crate::port::PortId;
use crate::table::Tick;

/// A tuple's keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub(super) u64);

impl Hash {
    /// The bits, for a choice of which a peer sees no more than a few bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// Where a tuple's entry probably is.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub(super) hash: Hash,
    pub(super) place: u32,
}

/// Names a flow as it was read: its record, its direction, and in what version of both.
///
/// After the connection is removed every use answers that it is gone, also when the record is another's by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowId {
    pub(super) place: u32,
    pub(super) version: u64,
}

impl FlowId {
    /// The flow's direction.
    #[inline]
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.place & 1 == 0 {
            Direction::Original
        } else {
            Direction::Reply
        }
    }

    /// The number of the connection's record, below the shard's capacity.
    #[inline]
    #[must_use]
    pub const fn record(self) -> u32 {
        self.place >> 1
    }
}

/// A flow, as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Flow<A: Address> {
    /// Names it.
    pub id: FlowId,
    /// What is written into its packets; `None` if they pass as they are.
    pub rewrite: Option<Rewrite<A>>,
    /// Where they go; `None` until the first has found out.
    pub answer: Option<Answer>,
    /// When one was last seen; never, perhaps.
    pub last_seen: Tick,
    pub(super) stamp: u64,
}

impl<A: Address> Flow<A> {
    /// Whether a packet of now is to be noted: the first of a tick is.
    #[inline]
    #[must_use]
    pub fn is_due(&self, now: Tick) -> bool {
        is_due(self.last_seen, now)
    }
}

/// Whether a packet of now is to be noted, the last one having been seen then.
#[inline]
pub(super) fn is_due(last_seen: Tick, now: Tick) -> bool {
    last_seen.is_never() || now.since(last_seen) > 0
}

/// What a connection was balanced to. The table keeps it and asks nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Binding {
    /// The Service's number.
    pub service: u32,
    /// The backend's number.
    pub backend: u32,
}

impl Binding {
    /// No binding, as a word: both numbers are the largest, which stand for nothing.
    const NONE: u64 = u64::MAX;

    pub(super) fn word(binding: Option<Self>) -> u64 {
        binding.map_or(Self::NONE, |binding| {
            u64::from(binding.service) << 32 | u64::from(binding.backend)
        })
    }

    pub(super) fn from_word(word: u64) -> Option<Self> {
        (word != Self::NONE).then_some(Self {
            service: upper(word),
            backend: lower(word),
        })
    }
}

/// Who opened a connection, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) at: Tick,
    pub(super) by: Option<PortId>,
}

impl Opened {
    /// As a word; never zero, since no moment is.
    pub(super) fn word(self) -> u64 {
        // INVARIANT: a port's number has 16 bits.
        let by = self.by.map_or(0, |port| port.index() as u64 + 1);
        u64::from(self.at.seconds()) << 32 | by
    }

    pub(super) fn from_word(word: u64) -> Self {
        let by = lower(word)
            .checked_sub(1)
            .and_then(|number| u16::try_from(number).ok());
        Self {
            at: Tick::from_bits(upper(word)),
            by: by.and_then(PortId::new),
        }
    }
}

/// A connection to be.
#[derive(Debug, Clone, Copy)]
pub struct New<A> {
    /// The tuple of its first packet, as it arrived.
    pub original: Tuple<A>,
    /// The tuple that replies will arrive with. Packets of the original flow leave with its reverse, replies with the
    /// reverse of `original`.
    pub reply: Tuple<A>,
    /// The port of the local pod that opened it; `None` for anyone else, who is not counted.
    pub opener: Option<PortId>,
    /// The Service and backend it is bound to.
    pub binding: Option<Binding>,
    /// The first packet's segment, if it is TCP.
    pub segment: Option<TcpSegment>,
}

/// A connection that was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// Its original flow.
    pub original: FlowId,
    /// Its reply flow.
    pub reply: FlowId,
    /// Whether a half-open connection had to go for it.
    pub evicted: bool,
}

/// Why a connection could not be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another connection has the reply tuple: try another port.
    #[error("another connection has the reply tuple")]
    ReplyTaken,
    /// Another worker claims the same connection: look it up again.
    #[error("another worker claims the same connection")]
    Raced,
    /// Every place is taken, and no half-open connection was found within the bounds of the search.
    #[error("the flow table is full")]
    Full,
    /// The pod has as many connections as one pod may.
    #[error("the pod has as many connections as one pod may")]
    PodCap,
    /// A TCP segment that begins no connection.
    #[error("the segment begins no connection")]
    TcpInvalid,
    /// Both directions have one tuple: a connection of a port with itself.
    #[error("the connection leads from a port to itself")]
    Loop,
}

/// A connection, for who shows it or judges it again.
#[derive(Debug, Clone, Copy)]
pub struct Connection<A> {
    /// Names its original flow.
    pub id: FlowId,
    /// The tuple of its first packet.
    pub original: Tuple<A>,
    /// The tuple of its replies.
    pub reply: Tuple<A>,
    /// The local pod's port that it is charged to.
    pub opener: Option<PortId>,
    /// The Service and backend it is bound to.
    pub binding: Option<Binding>,
    /// How far it has come.
    pub state: ProtocolState,
    /// Whether it stays when the table is full.
    pub is_kept: bool,
    /// When it was claimed.
    pub created: Tick,
    /// When a packet of the original flow was last seen.
    pub original_seen: Tick,
    /// When a reply was last seen; never, perhaps.
    pub reply_seen: Tick,
    /// The answers of both flows, as they are stored.
    pub answers: [Option<Answer>; 2],
}

/// A worker's share of the expiry, and where in it the worker is.
#[derive(Debug, Clone)]
pub struct SweepCursor {
    pub(super) first: u32,
    pub(super) step: u32,
    pub(super) next: u32,
}

impl SweepCursor {
    /// The share of worker `worker` of `workers`: every record whose number leaves that remainder.
    pub(super) fn new(worker: u32, workers: u32) -> Self {
        Self {
            first: worker,
            step: workers.max(1),
            next: worker,
        }
    }
}

/// What a [`sweep`](super::FlowShard::sweep) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Connections forgotten after their timeout.
    pub expired: u32,
    /// Whether the end of the share was reached; the next sweep begins at its start.
    pub is_round: bool,
}
