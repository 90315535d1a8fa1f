//! What both entries of a record share: its state, and what its connection notes of the protocol.
//!
//! The state word, from the top: 32 bits of incarnation, 27 of notes, whether the connection is to be kept, whether
//! somebody is changing it, and 3 bits of life:
//!
//! ```text
//! free -> claiming -> live -> removing -> free         claiming and removing have one owner
//!             |                 ^   |
//!             v                 |   v
//!            free               dying                  left by its owner because a writer was in the middle
//! ```

use super::memory::prefetch;
use super::{AtomicU64, Ordering};

/// Words of a record that are the protocol's own.
pub(in crate::table::flow) const TRACKING_WORDS: usize = 5;

/// Places in the shared line. The link of the free list lies where a live record has its last word of tracking.
const STATE: usize = 0;
const OPENED: usize = 1;
const TRACKING: usize = 2;
const NEXT_FREE: usize = TRACKING + TRACKING_WORDS - 1;
const BOUND: usize = TRACKING + TRACKING_WORDS;

const LIFE: u64 = 0x7;
const KEEP: u64 = 1 << 3;
const LOCKED: u64 = 1 << 4;
const NOTES_SHIFT: u32 = 5;
/// How many bits of notes there are.
pub(super) const NOTES_BITS: u32 = 27;
const NOTES: u64 = ((1 << NOTES_BITS) - 1) << NOTES_SHIFT;
const INCARNATION_SHIFT: u32 = 32;

/// How often a worker looks whether another is done with a record, some tens of nanoseconds' work.
const CHANGE_TRIES: usize = if cfg!(crossbeam_loom) { 2 } else { 128 };

/// Where a record is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table::flow) enum Life {
    /// In the list of free ones, or never used.
    Free,
    /// Owned by the worker that fills it.
    Claiming,
    /// A connection.
    Live,
    /// Owned by the one who removes it.
    Removing,
    /// To be removed, by whoever comes by.
    Dying,
}

impl Life {
    const fn bits(self) -> u64 {
        self as u64
    }

    const fn from_bits(bits: u64) -> Self {
        match bits {
            0 => Self::Free,
            1 => Self::Claiming,
            2 => Self::Live,
            3 => Self::Removing,
            // No other bits are written; whatever else a file might hold is no connection.
            _ => Self::Dying,
        }
    }
}

/// A record's state at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table::flow) struct State(u64);

impl State {
    #[inline]
    pub(in crate::table::flow) const fn life(self) -> Life {
        Life::from_bits(self.0 & LIFE)
    }

    #[inline]
    pub(in crate::table::flow) const fn incarnation(self) -> u32 {
        (self.0 >> INCARNATION_SHIFT) as u32
    }

    #[inline]
    pub(in crate::table::flow) const fn notes(self) -> Notes {
        Notes {
            bits: ((self.0 & NOTES) >> NOTES_SHIFT) as u32,
            is_kept: self.0 & KEEP != 0,
        }
    }

    #[inline]
    pub(super) const fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// Whether the connection may go when there is no room.
    #[inline]
    pub(super) const fn is_expendable(self) -> bool {
        self.0 & (LIFE | KEEP | LOCKED) == Life::Live.bits()
    }

    const fn with_life(self, life: Life) -> Self {
        Self(self.0 & !LIFE | life.bits())
    }
}

/// What a connection notes of its protocol, in the state word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table::flow) struct Notes {
    /// [`NOTES_BITS`] bits that mean nothing here.
    pub(in crate::table::flow) bits: u32,
    /// Whether the connection stays when there is no room.
    pub(in crate::table::flow) is_kept: bool,
}

impl Notes {
    #[inline]
    const fn word(self) -> u64 {
        let keep = if self.is_kept { KEEP } else { 0 };
        (self.bits as u64) << NOTES_SHIFT & NOTES | keep
    }
}

/// Why notes were not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table::flow) enum Unchanged {
    /// The connection is gone.
    Gone,
    /// Somebody else has been changing them all the while.
    Busy,
}

/// What all records have in common, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Ends {
    /// The head of the free list: a count of its changes, and one more than the record; 0 for none.
    pub(super) free: AtomicU64,
    /// Live connections. In the same line as the head, which every claim and every removal changes anyway.
    pub(super) live: AtomicU64,
    /// Searches for what can go.
    pub(super) hand: AtomicU64,
}

/// The shared line of a record.
#[derive(Clone, Copy)]
pub(super) struct Record<'s> {
    words: &'s [AtomicU64],
}

impl<'s> Record<'s> {
    #[inline]
    pub(super) fn new(words: &'s [AtomicU64]) -> Self {
        Self { words }
    }

    #[inline]
    pub(super) fn prefetch(self) {
        prefetch(&self.words[STATE]);
    }

    /// Acquire: who finds the record live sees all that its claimer wrote.
    #[inline]
    pub(super) fn state(self) -> State {
        State(self.words[STATE].load(Ordering::Acquire))
    }

    /// Makes a free record its owner's; answers the incarnation it begins. Relaxed: nobody but the owner goes by it.
    pub(super) fn begin(self) -> u32 {
        let last = State(self.words[STATE].load(Ordering::Relaxed));
        let incarnation = last.incarnation().wrapping_add(1);
        let state = State(u64::from(incarnation) << INCARNATION_SHIFT).with_life(Life::Claiming);
        self.words[STATE].store(state.0, Ordering::Relaxed);
        incarnation
    }

    /// Makes an owned record free; the incarnation stays, so that the next one differs from it.
    pub(super) fn end(self) {
        let state = State(self.words[STATE].load(Ordering::Relaxed)).with_life(Life::Free);
        self.words[STATE].store(state.0, Ordering::Relaxed);
    }

    /// Makes a claimed record live.
    pub(super) fn go_live(
        self,
        incarnation: u32,
        notes: Notes,
        tracking: [u64; TRACKING_WORDS],
        opened: u64,
        bound: u64,
    ) {
        self.words[OPENED].store(opened, Ordering::Relaxed);
        self.words[BOUND].store(bound, Ordering::Relaxed);
        for (word, value) in self.tracking_words().iter().zip(tracking) {
            word.store(value, Ordering::Relaxed);
        }
        let state = u64::from(incarnation) << INCARNATION_SHIFT | notes.word();
        // Release: who finds it live sees the words above, and both entries.
        self.words[STATE].store(State(state).with_life(Life::Live).0, Ordering::Release);
    }

    /// Of several who want to remove the connection whose state they saw, makes one the owner. Fails while somebody
    /// changes the notes, and after anybody has.
    pub(super) fn condemn(self, seen: State) -> bool {
        seen.life() == Life::Live && !seen.is_locked() && self.exchange(seen, Life::Removing)
    }

    /// Makes one of those who find a dying record its owner.
    pub(super) fn resume(self, seen: State) -> bool {
        self.exchange(seen, Life::Removing)
    }

    /// Acquire: the new owner sees what the last one did. Nothing is handed over by it, so no release.
    fn exchange(self, seen: State, life: Life) -> bool {
        let new = seen.with_life(life).0;
        self.words[STATE]
            .compare_exchange(seen.0, new, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// The owner leaves the record to whoever comes by.
    pub(super) fn leave_dying(self) {
        let state = State(self.words[STATE].load(Ordering::Relaxed)).with_life(Life::Dying);
        // Release: the next owner goes on where this one stopped.
        self.words[STATE].store(state.0, Ordering::Release);
    }

    /// See [`Store::change`](super::Store::change). A lock that nobody waits for: a bounded number of looks, then it is
    /// given up.
    #[inline]
    pub(super) fn change<T>(
        self,
        incarnation: u32,
        change: impl FnOnce(&mut Notes, &mut [u64; TRACKING_WORDS]) -> T,
    ) -> Result<T, Unchanged> {
        let word = &self.words[STATE];
        for _ in 0..CHANGE_TRIES {
            let state = State(word.load(Ordering::Relaxed));
            if state.incarnation() != incarnation || state.life() != Life::Live {
                return Err(Unchanged::Gone);
            }
            // Acquire: what the last one changed is seen. The incarnation is in the word, so a record that is another
            // connection's by now is never locked.
            let free = !state.is_locked()
                && word
                    .compare_exchange(state.0, state.0 | LOCKED, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok();
            if !free {
                super::entry::pause();
                continue;
            }
            let (mut notes, before) = (state.notes(), self.tracking());
            let mut tracking = before;
            let result = change(&mut notes, &mut tracking);
            for ((word, new), old) in self.tracking_words().iter().zip(tracking).zip(before) {
                if new != old {
                    word.store(new, Ordering::Relaxed);
                }
            }
            let new = state.0 & !(NOTES | KEEP) | notes.word();
            // Release: the next one sees the words above. While the lock is held nobody else writes the state:
            // a removal does not begin.
            word.store(new, Ordering::Release);
            return Ok(result);
        }
        Err(Unchanged::Busy)
    }

    fn tracking_words(self) -> &'s [AtomicU64] {
        &self.words[TRACKING..TRACKING + TRACKING_WORDS]
    }

    pub(super) fn tracking(self) -> [u64; TRACKING_WORDS] {
        let words = self.tracking_words();
        std::array::from_fn(|place| words[place].load(Ordering::Relaxed))
    }

    pub(super) fn opened_and_bound(self) -> (u64, u64) {
        (
            self.words[OPENED].load(Ordering::Relaxed),
            self.words[BOUND].load(Ordering::Relaxed),
        )
    }

    /// Takes the opener out of a record: of two who do, one gets it. Release: who reads that it is gone, and then looks
    /// at the state behind a fence, sees that the record is being removed.
    pub(super) fn take_opened(self) -> u64 {
        self.words[OPENED].swap(0, Ordering::Release)
    }

    pub(super) fn reopen(self, old: u64, new: u64) -> bool {
        self.words[OPENED]
            .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    pub(super) fn next_free(self) -> u64 {
        self.words[NEXT_FREE].load(Ordering::Relaxed) & super::LOWER
    }

    pub(super) fn set_next_free(self, next: u64) {
        self.words[NEXT_FREE].store(next, Ordering::Relaxed);
    }
}
