//! The flows of one family, with their types: what a pipeline asks.

use super::tuple::{Address, Direction, Tuple};
use super::{Answer, FlowOptions, FlowTableError, Rewrite, TcpSegment, TcpState, TcpVerdict, Timeouts};
use crate::port::PortId;
use crate::table::{Epoch, HashKey, Tick};

/// A tuple's keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub(super) u64);

impl Hash {
    /// The bits, for a choice that a peer may see no more of than a few bits.
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
pub struct Flow<A> {
    /// Names it.
    pub id: FlowId,
    /// What is written into its packets; `None` if they pass as they are.
    pub rewrite: Option<Rewrite<A>>,
    /// Where they go; `None` until the first has found out.
    pub answer: Option<Answer>,
    /// When one was last seen; never, perhaps.
    pub last_seen: Tick,
}

/// What a connection was balanced to. The table keeps it and asks nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The Service's number.
    pub service: u32,
    /// The backend's number.
    pub backend: u32,
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

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtocolState {
    /// TCP.
    Tcp(TcpState),
    /// Another protocol, one side heard.
    Unreplied,
    /// Another protocol, both sides heard.
    Replied,
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
    /// When it was claimed.
    pub created: Tick,
    /// When a packet of the original flow was last seen.
    pub original_seen: Tick,
    /// When a reply was last seen; never, perhaps.
    pub reply_seen: Tick,
    /// The answers of both flows, as they are stored.
    pub answers: [Option<Answer>; 2],
}

/// Where a worker's share of the expiry is.
#[derive(Debug, Clone)]
pub struct SweepCursor {
    pub(super) first: u32,
    pub(super) end: u32,
    pub(super) next: u32,
}

/// What a [`FlowShard::sweep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Connections forgotten after their timeout.
    pub expired: u32,
    /// Whether the cursor came round to its start.
    pub is_round: bool,
}

/// The flows of one family.
#[derive(Debug)]
pub struct FlowShard<A> {
    key: HashKey,
    family: std::marker::PhantomData<A>,
}

impl<A: Address> FlowShard<A> {
    pub(super) fn new(_options: &FlowOptions) -> Result<Self, FlowTableError> {
        Ok(Self {
            key: HashKey::random(),
            family: std::marker::PhantomData,
        })
    }

    /// The hash of a tuple.
    #[inline]
    #[must_use]
    pub fn hash(&self, tuple: &Tuple<A>) -> Hash {
        Hash(tuple.hash_with(&self.key))
    }

    /// Asks the memory for where the tuple of this hash is looked up first.
    #[inline]
    pub fn prefetch_bucket(&self, hash: Hash) {
        let _ = hash;
    }

    /// Where the entry of the tuple with this hash probably is; `None` if there is none.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: Hash) -> Option<Candidate> {
        let _ = hash;
        None
    }

    /// Asks the memory for an entry.
    #[inline]
    pub fn prefetch_entry(&self, candidate: Candidate) {
        let _ = candidate;
    }

    /// Reads the entry of `tuple`; `None` if the candidate is another's, gone, or being written: a miss.
    #[inline]
    #[must_use]
    pub fn read(&self, candidate: Candidate, tuple: &Tuple<A>) -> Option<Flow<A>> {
        let _ = (candidate, tuple);
        None
    }

    /// All steps of a lookup at once.
    #[inline]
    #[must_use]
    pub fn lookup(&self, tuple: &Tuple<A>) -> Option<Flow<A>> {
        self.read(self.find(self.hash(tuple))?, tuple)
    }

    /// Claims a connection for its first packet.
    ///
    /// # Errors
    /// [`ClaimError`]. Nothing of a connection that was not claimed stays.
    pub fn claim(&self, new: &New<A>, now: Tick) -> Result<Claimed, ClaimError> {
        let _ = (new, now);
        Err(ClaimError::Full)
    }

    /// Notes that a packet of the flow was seen. Writes once per tick; the first reply of a UDP or SCTP connection
    /// makes it one that stays when the table is full.
    #[inline]
    pub fn touch(&self, flow: &Flow<A>, now: Tick) {
        let _ = (flow, now);
    }

    /// Judges a TCP segment of the flow and follows the connection. Does not [`touch`](Self::touch) the flow: who
    /// drops the segment should not keep the connection alive.
    #[inline]
    pub fn track_tcp(&self, id: FlowId, segment: &TcpSegment) -> TcpVerdict {
        let _ = (id, segment);
        TcpVerdict::Gone
    }

    /// Stores the answer of a flow. `false` if another was stored since the flow was read, or it is gone: the one
    /// that is there now may be as good, and the next packet will see.
    pub fn store_answer(&self, id: FlowId, answer: &Answer) -> bool {
        let _ = (id, answer);
        false
    }

    /// Marks the answer of a flow, as it was read, as seen to hold in `epoch`.
    pub fn restamp(&self, id: FlowId, epoch: Epoch) -> bool {
        let _ = (id, epoch);
        false
    }

    /// All of the connection that a flow belongs to; `None` if it is gone.
    #[must_use]
    pub fn connection(&self, id: FlowId) -> Option<Connection<A>> {
        let _ = id;
        None
    }

    /// Removes the connection of a flow; `false` if it was gone before.
    pub fn remove(&self, id: FlowId) -> bool {
        let _ = id;
        false
    }

    /// The share of worker `worker` of `workers` in the expiry.
    #[must_use]
    pub fn cursor(&self, worker: u32, workers: u32) -> SweepCursor {
        let _ = (worker, workers);
        SweepCursor {
            first: 0,
            end: 0,
            next: 0,
        }
    }

    /// Looks at the next `budget` records of a share and forgets the connections whose time is over.
    pub fn sweep(&self, cursor: &mut SweepCursor, budget: u32, now: Tick, timeouts: &Timeouts) -> Swept {
        let _ = (cursor, budget, now, timeouts);
        Swept::default()
    }

    /// Removes every connection that `is_over` says so of; returns how many. Looks at every record: for the control
    /// plane.
    pub fn remove_where(&self, is_over: impl FnMut(&Connection<A>) -> bool) -> u32 {
        let _ = is_over;
        0
    }

    /// Every connection, each as it was at one moment; those that come and go meanwhile may or may not be there.
    pub fn connections(&self) -> impl Iterator<Item = Connection<A>> + '_ {
        std::iter::empty()
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there is room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        0
    }

    /// What the shard takes in memory when it is full, its index included, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        0
    }
}
