//! The flows of one family: what a pipeline asks for every packet.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use super::charge::Charges;
use super::flow::Opened;
use super::store::{Form, Look, Memory, Place, Seen, Store, Unchanged};
use super::tuple::{Address, Direction, Tuple, lower, upper};
use super::{
    Answer, Binding, Candidate, Connection, Flow, FlowId, Hash, Rewrite, SweepCursor, TcpSegment, TcpVerdict,
    answer, protocol, store,
};
use crate::table::{Epoch, HashKey, Tick};

/// What a shard's store holds: tuples, hashed by a secret, and rewrites.
pub(super) struct Family<A> {
    key: HashKey,
    address: PhantomData<fn() -> A>,
}

impl<A> Family<A> {
    /// The secret of its hash.
    #[inline(always)]
    pub(super) fn secret(&self) -> &HashKey {
        &self.key
    }
}

impl<A: Address> Form for Family<A> {
    type Key = Tuple<A>;
    type Body = Rewrite<A>;

    #[inline]
    fn hash(&self, key: &Tuple<A>) -> u64 {
        key.hash_with(&self.key)
    }
}

/// The flows of one family.
pub struct FlowShard<A> {
    pub(super) store: Store<Family<A>>,
    pub(super) charges: Arc<Charges>,
    /// Whether TCP connections are taken up in their middle.
    pub(super) loose: bool,
}

/// When an entry was last seen, in the lower half of its stamp; the upper half is the epoch of its answer.
#[inline]
pub(super) fn seen_at(stamp: u64) -> Tick {
    Tick::from_bits(lower(stamp))
}

impl<A: Address> FlowShard<A> {
    /// The words that a slab for so many connections has.
    pub(super) const fn slab_words(capacity: u32) -> usize {
        store::slab_words::<Family<A>>(capacity)
    }

    /// A shard over an empty slab.
    pub(super) fn new(
        slab: Memory,
        capacity: u32,
        loose: bool,
        charges: Arc<Charges>,
        key: HashKey,
    ) -> io::Result<Self> {
        let form = Family {
            key,
            address: PhantomData,
        };
        Ok(Self {
            store: Store::new(form, slab, capacity)?,
            charges,
            loose,
        })
    }

    /// The hash of a tuple.
    #[inline]
    #[must_use]
    pub fn hash(&self, tuple: &Tuple<A>) -> Hash {
        Hash(self.store.form().hash(tuple))
    }

    /// Asks the memory for where the tuple of this hash is looked up first.
    #[inline]
    pub fn prefetch_bucket(&self, hash: Hash) {
        self.store.prefetch_bucket(hash.0);
    }

    /// Where the entry of the tuple with this hash probably is; `None` if there is none.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, hash: Hash) -> Option<Candidate> {
        let place = self.store.find(hash.0)?;
        Some(Candidate { hash, place })
    }

    /// Asks the memory for an entry.
    #[inline]
    pub fn prefetch_entry(&self, candidate: Candidate) {
        self.store.prefetch_entry(candidate.place);
    }

    /// Reads the entry of `tuple`; `None` if the candidate is another's, gone, or being written: a miss.
    #[inline]
    #[must_use]
    pub fn read(&self, candidate: Candidate, tuple: &Tuple<A>) -> Option<Flow<A>> {
        self.read_here(candidate, tuple)
            .or_else(|| self.read_exactly(candidate.hash, tuple))
    }

    /// The same, without a second look for a tuple whose hash another's resembles: `None` means little.
    #[inline(always)]
    #[must_use]
    pub fn read_here(&self, candidate: Candidate, tuple: &Tuple<A>) -> Option<Flow<A>> {
        match self.store.read(candidate.place, tuple) {
            Look::Hit(seen) => Some(Self::flow(candidate.place, tuple, &seen)),
            Look::Other | Look::Missing => None,
        }
    }

    /// For a tuple whose hash another's resembles.
    #[cold]
    fn read_exactly(&self, hash: Hash, tuple: &Tuple<A>) -> Option<Flow<A>> {
        let place = self.store.find_exactly(hash.0, tuple)?;
        match self.store.read(place, tuple) {
            Look::Hit(seen) => Some(Self::flow(place, tuple, &seen)),
            Look::Other | Look::Missing => None,
        }
    }

    #[inline(always)]
    fn flow(place: Place, tuple: &Tuple<A>, seen: &Seen<Rewrite<A>>) -> Flow<A> {
        Flow {
            id: FlowId {
                place,
                version: seen.version,
            },
            rewrite: seen.body.changes(tuple).then_some(seen.body),
            answer: Self::answer(seen),
            last_seen: seen_at(seen.stamp),
            stamp: seen.stamp,
        }
    }

    #[inline(always)]
    fn answer(seen: &Seen<Rewrite<A>>) -> Option<Answer> {
        answer::unpack(seen.answer, Epoch(upper(seen.stamp)))
    }

    /// All steps of a lookup at once.
    #[inline]
    #[must_use]
    pub fn lookup(&self, tuple: &Tuple<A>) -> Option<Flow<A>> {
        self.read(self.find(self.hash(tuple))?, tuple)
    }

    /// Notes that a packet of the flow was seen. Writes once per tick; the first reply of a UDP or SCTP connection
    /// makes it one that stays when the table is full.
    #[inline]
    pub fn touch(&self, flow: &Flow<A>, now: Tick) {
        if flow.is_due(now) {
            self.touch_entry(flow.id, flow.stamp, now, None);
        }
    }

    /// The same, and marks the answer of the flow, as it was read, as seen to hold in `epoch`; as seldom, since it takes
    /// as long as a look at what the answer rests on.
    #[inline]
    pub fn touch_in(&self, flow: &Flow<A>, now: Tick, epoch: Epoch) {
        if flow.is_due(now) {
            self.touch_entry(flow.id, flow.stamp, now, Some(epoch));
        }
    }

    #[cold]
    fn touch_entry(&self, id: FlowId, stamp: u64, now: Tick, epoch: Option<Epoch>) {
        let FlowId { place, version } = id;
        let is_restamped =
            epoch.is_some_and(|epoch| self.store.restamp(place, version, epoch.0, now.seconds()));
        if !is_restamped {
            self.store.touch(place, version, stamp, now.seconds());
        }
        if seen_at(stamp).is_never() && id.direction() == Direction::Reply {
            // If it is gone there is nothing to note; if somebody else is at it, they were here first.
            let _ = self
                .store
                .change(place, version, |notes, _| protocol::note_reply(notes));
        }
    }

    /// Judges a TCP segment of the flow and follows the connection. Does not [`touch`](Self::touch) the flow: who drops
    /// the segment should not keep the connection alive.
    ///
    /// Waits for nobody: a segment whose connection another worker has been changing for longer than that takes is
    /// accepted as it is.
    #[inline]
    pub fn track_tcp(&self, id: FlowId, segment: &TcpSegment) -> TcpVerdict {
        let direction = id.direction();
        let tracked = self.store.change(id.place, id.version, |notes, words| {
            protocol::track_tcp(notes, words, direction, segment)
        });
        match tracked {
            Ok(verdict) => verdict,
            Err(Unchanged::Gone) => TcpVerdict::Gone,
            Err(Unchanged::Busy) => TcpVerdict::Accept,
        }
    }

    /// Stores the answer of a flow. `false` if another was stored since the flow was read, or it is gone: the one that
    /// is there now may be as good, and the next packet will see.
    pub fn store_answer(&self, id: FlowId, answer: &Answer) -> bool {
        self.store
            .write(id.place, id.version, answer::pack(answer), answer.epoch.0)
    }

    /// All of the connection that a flow belongs to; `None` if it is gone.
    #[must_use]
    pub fn connection(&self, id: FlowId) -> Option<Connection<A>> {
        self.connection_in(id.record(), |incarnation| {
            incarnation == store::incarnation(id.version)
        })
    }

    /// The connection in a record, if there is one and its incarnation is wanted.
    pub(super) fn connection_in(
        &self,
        record: u32,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Option<Connection<A>> {
        let state = self.store.state(record);
        if state.life() != store::Life::Live || !is_wanted(state.incarnation()) {
            return None;
        }
        let (place, twin) = (record << 1, record << 1 | 1);
        let (original, there) = self.store.read_any(place)?;
        let (reply, back) = self.store.read_any(twin)?;
        let (opened, bound) = self.store.opened_and_bound(record);
        if !self.store.is_still(record, state) {
            return None;
        }
        let opened = Opened::from_word(opened);
        Some(Connection {
            id: FlowId {
                place,
                version: there.version,
            },
            original,
            reply,
            opener: opened.by,
            binding: Binding::from_word(bound),
            state: protocol::state(state.notes()),
            is_kept: state.notes().is_kept,
            created: opened.at,
            original_seen: seen_at(there.stamp),
            reply_seen: seen_at(back.stamp),
            answers: [Self::answer(&there), Self::answer(&back)],
        })
    }

    /// The share of worker `worker` of `workers` in the expiry.
    #[must_use]
    pub fn cursor(&self, worker: u32, workers: u32) -> SweepCursor {
        SweepCursor::new(worker, workers)
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.store.live()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there is room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.store.capacity()
    }

    /// What the shard takes in memory when it is full, its index included, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.store.memory()
    }
}

impl<A> fmt::Debug for FlowShard<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowShard")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
