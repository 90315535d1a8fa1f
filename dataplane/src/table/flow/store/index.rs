//! From keys to places: buckets of one cache line.
//!
//! A bucket has a control word and seven slots. A slot holds 32 bits of hash and a place; zero is empty. A key is in
//! one of two buckets; the *first* is taken unless it is nearly full, and nothing ever moves, so a reader that looks at
//! both cannot miss a key that is there.
//!
//! **A key is inserted once**, decided by the control word of its first bucket, which counts insertions: an inserter
//! reads the control word, looks for the key in both buckets, puts its slot, and raises the control word by a
//! compare-and-exchange from what it read. Of two who insert the same key one raises it first. The other, if it had
//! read the word before, fails, takes its slot back and looks again; or it reads the word afterwards, and then sees
//! the slot that was put before: raising is a release, reading an acquire, and since the word is changed by
//! read-modify-writes alone, whichever later value is read is of the same release sequence.
//!
//! The control word also counts the keys of its bucket that went to their second one, so that looking there is needed
//! for few keys.

use std::io;

use super::memory::{Memory, prefetch, with_upper_half};
use super::{AtomicU64, GOLDEN, Ordering, Place};

/// Slots of a bucket.
const SLOTS: usize = if cfg!(crossbeam_loom) { 2 } else { 7 };
const BUCKET_WORDS: usize = SLOTS + 1;
const CONTROL: usize = 0;
/// A key goes to its second bucket if the first has this many slots taken and the second has fewer.
///
/// Simulated with 0.75 buckets to a connection, full, and ten times all connections replaced: no key without room in
/// 10^6, 9 % of them in their second bucket; right after filling, 3 %.
const SPILL_FROM: usize = SLOTS - 2 + cfg!(crossbeam_loom) as usize;

/// The lower bits of a control word: keys in their second bucket. The rest counts insertions.
const SPILLED: u64 = 0xffff;
const INSERTION: u64 = SPILLED + 1;

/// How often an insertion begins again because of others in the same bucket.
const INSERT_TRIES: usize = 8;
/// The bit that tells a slot from an empty one.
const OCCUPIED: u64 = 1 << 63;

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table::flow) enum Insert {
    /// The key is in, for this one alone.
    Done,
    /// The entry at this place has the key, or is getting it.
    Taken(Place),
    /// Both buckets are full.
    NoRoom,
    /// Others inserted into the same bucket all the while.
    Contended,
}

/// A control word and slots.
type Bucket = [AtomicU64; BUCKET_WORDS];

/// The buckets.
pub(super) struct Index {
    words: Memory,
    buckets: u64,
}

/// A bucket, and what a look through it found.
struct Room<'s> {
    bucket: &'s Bucket,
    taken: usize,
    empty: Option<usize>,
}

impl Index {
    /// An index for `capacity` connections of two keys each.
    pub(super) fn new(capacity: u32) -> io::Result<Self> {
        // Three quarters of a cache line for each connection: 38 % of the slots are taken when all are there.
        let buckets = (u64::from(capacity) * 3).div_ceil(4).max(1);
        let len = usize::try_from(buckets).map_err(|_| io::ErrorKind::InvalidInput)? * BUCKET_WORDS;
        Ok(Self {
            words: Memory::anonymous(len)?,
            buckets,
        })
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Bucket number `half` of 2^32: a product's upper half is below the number of buckets.
    #[inline]
    fn bucket(&self, half: u64) -> &Bucket {
        let (buckets, _) = self.words.as_chunks();
        // INVARIANT: a slab's records have 32 bits, so this has fewer than 64.
        #[allow(clippy::cast_possible_truncation)]
        let place = ((half * self.buckets) >> 32) as usize;
        &buckets[place]
    }

    #[inline]
    fn first(&self, hash: u64) -> &Bucket {
        self.bucket(hash >> 32)
    }

    #[inline]
    fn second(&self, hash: u64) -> &Bucket {
        self.bucket(hash & 0xffff_ffff)
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&self.first(hash)[CONTROL]);
    }

    /// The slot that a key of this hash at this place has: the factor spreads the whole hash over the tag.
    #[inline]
    fn slot(hash: u64, place: Place) -> u64 {
        (hash.wrapping_mul(GOLDEN) | OCCUPIED) & 0xffff_ffff << 32 | u64::from(place)
    }

    /// The place of the first slot that fits a hash.
    ///
    /// Relaxed: a slot is a hint. What is at its place, the entry's version tells, and who must not miss a key that
    /// was inserted before has learnt so from whoever inserted it.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64) -> Option<Place> {
        let first = self.first(hash);
        Self::find_in(first, hash).or_else(|| self.find_spilled(first, hash))
    }

    /// The same in the second bucket, where few are.
    #[cold]
    fn find_spilled(&self, first: &Bucket, hash: u64) -> Option<Place> {
        if first[CONTROL].load(Ordering::Relaxed) & SPILLED == 0 {
            return None;
        }
        Self::find_in(self.second(hash), hash)
    }

    #[inline(always)]
    fn find_in(bucket: &Bucket, hash: u64) -> Option<Place> {
        // All slots at once: which of them fits cannot be foretold. The control word is none.
        let tag = (Self::slot(hash, 0) >> 32) as u32;
        let fitting = with_upper_half(bucket, tag) & !(3 << (2 * CONTROL));
        let slot = bucket.get(fitting.trailing_zeros() as usize / 2)?;
        Some((slot.load(Ordering::Relaxed) & 0xffff_ffff) as Place)
    }

    /// Shows every place in both buckets.
    pub(super) fn each(&self, hash: u64, mut see: impl FnMut(Place) -> bool) {
        for bucket in [self.first(hash), self.second(hash)] {
            for slot in &bucket[CONTROL + 1..] {
                let slot = slot.load(Ordering::Acquire);
                if slot != 0 {
                    see((slot & 0xffff_ffff) as Place);
                }
            }
        }
    }

    /// The place with this hash that `holds` says holds the key.
    pub(super) fn holder(&self, hash: u64, holds: impl Fn(Place) -> bool) -> Option<Place> {
        [self.first(hash), self.second(hash)]
            .into_iter()
            .find_map(|bucket| Self::look(bucket, hash, &holds).err())
    }

    /// Looks through a bucket for a key; answers the room that there is, or who has it.
    fn look<'s>(bucket: &'s Bucket, hash: u64, holds: impl Fn(Place) -> bool) -> Result<Room<'s>, Place> {
        let wanted = Self::slot(hash, 0) >> 32;
        let mut room = Room {
            bucket,
            taken: 0,
            empty: None,
        };
        for (at, slot) in bucket.iter().enumerate().skip(CONTROL + 1) {
            // Acquire: the key at the place was written before the slot was put. If the record is another's by now
            // then the key was removed since the control word was read; should it be in again, elsewhere, then that
            // word has been raised. If the words of two keys are seen mixed and fit, the insertion is refused for
            // nothing: harmless, and it takes the same 31 bits of tag, too.
            let slot = slot.load(Ordering::Acquire);
            let place = (slot & 0xffff_ffff) as Place;
            if slot == 0 {
                room.empty = room.empty.or(Some(at));
            } else if slot >> 32 == wanted && holds(place) {
                return Err(place);
            } else {
                room.taken += 1;
            }
        }
        Ok(room)
    }

    /// Inserts the key at `place`, whose entry is filled, unless somebody has it.
    pub(super) fn insert(&self, hash: u64, place: Place, holds: impl Fn(Place) -> bool) -> Insert {
        let value = Self::slot(hash, place);
        let (first, second) = (self.first(hash), self.second(hash));
        let is_same = std::ptr::eq(first, second);
        for _ in 0..INSERT_TRIES {
            let control = first[CONTROL].load(Ordering::Acquire);
            let mut room = match Self::look(first, hash, &holds) {
                Ok(room) => room,
                Err(place) => return Insert::Taken(place),
            };
            let mut spills = 0;
            // The second bucket has to be seen if a key of the first may be there, or to find room.
            if !is_same && (control & SPILLED != 0 || room.taken >= SPILL_FROM) {
                match Self::look(second, hash, &holds) {
                    Ok(other) if room.taken >= SPILL_FROM && other.taken < room.taken => {
                        room = other;
                        spills = 1;
                    }
                    Ok(_) => {}
                    Err(place) => return Insert::Taken(place),
                }
            }
            let Some(slot) = room.empty.filter(|_| control & SPILLED != SPILLED) else {
                return Insert::NoRoom;
            };
            let slot = &room.bucket[slot];
            // Release: who sees the slot sees the key at its place.
            if slot
                .compare_exchange(0, value, Ordering::Release, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            // Release, for the slot to be seen by whoever reads the new word. See the top.
            let raised = control.wrapping_add(INSERTION) + spills;
            if first[CONTROL]
                .compare_exchange(control, raised, Ordering::Release, Ordering::Relaxed)
                .is_ok()
            {
                return Insert::Done;
            }
            // Nobody but the owner of the place takes its slot out.
            slot.store(0, Ordering::Relaxed);
        }
        Insert::Contended
    }

    /// Takes the slot of the key at `place` out, for the owner of the place.
    pub(super) fn remove(&self, hash: u64, place: Place) {
        let value = Self::slot(hash, place);
        let (first, second) = (self.first(hash), self.second(hash));
        if Self::remove_from(first, value) || std::ptr::eq(first, second) {
            return;
        }
        if Self::remove_from(second, value) {
            // After the slot, so that no key is missed. Release, to keep the release sequence of the word: a
            // read-modify-write.
            first[CONTROL].fetch_sub(1, Ordering::Release);
        }
    }

    fn remove_from(bucket: &[AtomicU64], value: u64) -> bool {
        let mut slots = bucket[CONTROL + 1..].iter();
        slots.any(|slot| {
            slot.load(Ordering::Relaxed) == value
                && slot
                    .compare_exchange(value, 0, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
        })
    }
}
