//! The forwarding database in words: a table of fixed size that is written by one and read by many, without a lock.
//!
//! A place is a key and a value beside it, four to a cache line. They are two words, so a reader might see the key of one
//! entry and the value of another. What it believes is only ever one entry's, since a value bears its place's *generation*:
//! how often a key was put there. The writer takes the old key away, writes the value of the next generation, and then the
//! new key; a reader reads value, key and value again, and believes them if both values are of one generation and the key is
//! the one it asks for. Between the two looks the place held that generation all along, and a generation has one key. (It
//! is told by 25 bits: to meet the same one again, a place would have to be written 33 million times between two loads.)
//!
//! Who reads may also write a value of the same key and generation, by a compare-and-exchange: it fails if the writer was
//! there meanwhile.
//!
//! Built for `loom` (`--cfg crossbeam_loom`), this file ends in a model.

#[cfg(crossbeam_loom)]
use loom::sync::atomic::Ordering;
#[cfg(crossbeam_loom)]
use modelled::AtomicU64;
#[cfg(not(crossbeam_loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(crossbeam_loom))]
use crate::table::flow::prefetch;

#[cfg(crossbeam_loom)]
#[path = "../flow/store/modelled.rs"]
mod modelled;

/// Entries in a cache line. The model is about one place.
const WAYS: usize = if cfg!(crossbeam_loom) { 1 } else { 4 };
/// Cache lines, one behind the other, in one of which an entry is, from where its hash says.
const REACH: usize = if cfg!(crossbeam_loom) { 1 } else { 4 };
/// Bits of a value that are the caller's; above them is the generation.
pub(super) const PAYLOAD_BITS: u32 = 39;
const PAYLOAD: u64 = (1 << PAYLOAD_BITS) - 1;
/// The key of an empty place.
const NONE: u64 = 0;

#[derive(Default)]
#[repr(align(64))]
struct Line {
    keys: [AtomicU64; WAYS],
    values: [AtomicU64; WAYS],
}

/// The table. Keys are any but 0.
pub(super) struct Shelf {
    /// A power of two.
    lines: Box<[Line]>,
}

/// An entry as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    place: u32,
    word: u64,
}

impl Found {
    /// What the caller put in.
    #[inline]
    pub(super) fn payload(self) -> u64 {
        self.word & PAYLOAD
    }
}

impl Shelf {
    /// An empty table with at least so many places; `places` is bounded by what numbers of 32 bits can tell.
    pub(super) fn new(places: u32) -> Self {
        let lines = (places as usize).div_ceil(WAYS).max(REACH).next_power_of_two();
        Self {
            lines: (0..lines).map(|_| Line::default()).collect(),
        }
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.lines.len() * WAYS
    }

    /// The place of a line of its keys, and that line.
    #[inline(always)]
    fn line(&self, hash: u64, step: usize) -> Option<(usize, &Line)> {
        // INVARIANT: the number of lines is a power of two, and a machine's word holds what is masked.
        #[allow(clippy::cast_possible_truncation)]
        let at = (hash as usize).wrapping_add(step) & (self.lines.len() - 1);
        Some((at, self.lines.get(at)?))
    }

    fn at(&self, place: usize) -> Option<(&AtomicU64, &AtomicU64)> {
        let line = self.lines.get(place / WAYS)?;
        Some((line.keys.get(place % WAYS)?, line.values.get(place % WAYS)?))
    }

    /// Asks the memory for the line where a key's entry begins to be looked for, so that it is on its way while others are
    /// asked for.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        #[cfg(not(crossbeam_loom))]
        if let Some((_, line)) = self.line(hash, 0) {
            prefetch(&line.keys[0]);
        }
        #[cfg(crossbeam_loom)]
        let _ = hash;
    }

    /// The entry of a key.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, key: u64) -> Option<Found> {
        self.find_near(hash, key).or_else(|| self.find_far(hash, key))
    }

    /// The entry of a key, if it is in the first line, as nearly all are.
    #[inline(always)]
    pub(super) fn find_near(&self, hash: u64, key: u64) -> Option<Found> {
        let (at, line) = self.line(hash, 0)?;
        Self::find_in(line, at, key)
    }

    #[inline(never)]
    fn find_far(&self, hash: u64, key: u64) -> Option<Found> {
        (1..REACH).find_map(|step| {
            let (at, line) = self.line(hash, step)?;
            Self::find_in(line, at, key)
        })
    }

    /// All of a line are compared before one is chosen: which it is no processor can foretell.
    #[inline(always)]
    fn find_in(line: &Line, at: usize, key: u64) -> Option<Found> {
        let hits = line.keys.iter().enumerate().fold(0, |hits, (way, named)| {
            hits | u32::from(named.load(Ordering::Relaxed) == key) << way
        });
        if hits == 0 {
            return None;
        }
        let way = hits.trailing_zeros() as usize & (WAYS - 1);
        let word = Self::read(&line.keys[way], &line.values[way], key)?;
        // INVARIANT: made for a number of places of 32 bits.
        #[allow(clippy::cast_possible_truncation)]
        let place = (at * WAYS + way) as u32;
        Some(Found { place, word })
    }

    /// The value that belongs to `key` at a place, if the place is that key's.
    #[inline(always)]
    fn read(named: &AtomicU64, value: &AtomicU64, key: u64) -> Option<u64> {
        // A value of the next generation brings with it that the key before is gone; and a key, its own value.
        let before = value.load(Ordering::Acquire);
        let is_key = named.load(Ordering::Acquire) == key;
        let after = value.load(Ordering::Relaxed);
        (is_key && before >> PAYLOAD_BITS == after >> PAYLOAD_BITS).then_some(after)
    }

    /// Gives an entry another payload unless it has changed since it was found; whether that was so.
    #[inline]
    pub(super) fn exchange(&self, found: Found, payload: u64) -> bool {
        let Some((_, value)) = self.at(found.place as usize) else {
            return false;
        };
        let word = found.word & !PAYLOAD | payload & PAYLOAD;
        // What is read of the value is the value alone, and what went before it stays visible with it (a release sequence).
        value
            .compare_exchange(found.word, word, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Puts an entry in that is not there. Only the writer may call it. `None` if there is no place within reach.
    pub(super) fn insert(&self, hash: u64, key: u64, payload: u64) -> Option<()> {
        let free = (0..REACH).find_map(|step| {
            let (_, line) = self.line(hash, step)?;
            let mut places = line.keys.iter().zip(&line.values);
            places.find(|(named, _)| named.load(Ordering::Relaxed) == NONE)
        });
        let (named, value) = free?;
        let generation = (value.load(Ordering::Relaxed) >> PAYLOAD_BITS).wrapping_add(1);
        // Who sees this value sees that the key before it is gone; who sees the key sees the value. It is exchanged, so that
        // it comes after what a reader has exchanged meanwhile by that alone, which the model knows too.
        value.swap(generation << PAYLOAD_BITS | payload & PAYLOAD, Ordering::AcqRel);
        named.store(key, Ordering::Release);
        Some(())
    }

    /// Gives an entry another payload, whatever readers do. Only the writer may call it, with what it found itself.
    pub(super) fn set(&self, found: Found, payload: u64) {
        if let Some((_, value)) = self.at(found.place as usize) {
            value.swap(found.word & !PAYLOAD | payload & PAYLOAD, Ordering::AcqRel);
        }
    }

    /// Takes an entry away. Only the writer may call it, with what it found itself.
    pub(super) fn remove(&self, found: Found) {
        if let Some((named, _)) = self.at(found.place as usize) {
            named.store(NONE, Ordering::Relaxed);
        }
    }

    /// The entry at a place, counted from 0, and its key.
    pub(super) fn entry(&self, place: usize) -> Option<(u64, Found)> {
        let (named, value) = self.at(place)?;
        let key = named.load(Ordering::Relaxed);
        if key == NONE {
            return None;
        }
        let word = Self::read(named, value, key)?;
        let place = u32::try_from(place).ok()?;
        Some((key, Found { place, word }))
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_reach_is_found_and_no_more_fits_there() {
        let shelf = Shelf::new(64);
        assert_eq!(shelf.places(), 64);
        let all = (WAYS * REACH) as u64;
        for key in 1..=all {
            // From the last line on it goes round.
            assert_eq!(shelf.insert(15, key, key * 3), Some(()));
        }
        assert_eq!(shelf.insert(15, 100, 0), None);
        assert_eq!(shelf.insert(3, 100, 0), Some(()));
        for key in 1..=all {
            assert_eq!(shelf.find(15, key).unwrap().payload(), key * 3);
        }
        assert_eq!(shelf.find(15, 200), None);
        let fifth = shelf.find(15, 5).unwrap();
        shelf.remove(fifth);
        assert_eq!(shelf.find(15, 5), None);
        assert_eq!(shelf.insert(15, 201, 7), Some(()));
        assert_eq!(shelf.find(15, 201).unwrap().payload(), 7);
        assert_eq!((0..64).filter_map(|place| shelf.entry(place)).count(), 17);
    }

    #[test]
    fn who_comes_late_changes_nothing() {
        let shelf = Shelf::new(16);
        shelf.insert(0, 1, 10);
        let old = shelf.find(0, 1).unwrap();
        assert!(shelf.exchange(old, 11));
        assert!(!shelf.exchange(old, 12), "changed meanwhile");
        let old = shelf.find(0, 1).unwrap();
        shelf.set(old, 20);
        assert!(!shelf.exchange(old, 12), "moved meanwhile");
        let old = shelf.find(0, 1).unwrap();
        shelf.remove(old);
        shelf.insert(0, 2, 20);
        assert!(!shelf.exchange(old, 12), "another's now, with the same payload");
        assert_eq!(shelf.find(0, 2).unwrap().payload(), 20);
    }
}

#[cfg(all(test, crossbeam_loom))]
mod model {
    use loom::sync::Arc;

    use super::*;

    /// Threads switch at most this often where they need not, so that the model ends.
    const PREEMPTIONS: usize = 3;

    /// One place is one key's, another's and the first one's again, with other payloads; who reads sees one of each key's own.
    #[test]
    fn no_reader_sees_the_value_of_another_key() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(PREEMPTIONS);
        model.check(|| {
            let shelf = Arc::new(Shelf::new(1));
            shelf.insert(0, 1, 10);
            let writer = {
                let shelf = Arc::clone(&shelf);
                loom::thread::spawn(move || {
                    for (gone, key, payload) in [(1, 2, 20), (2, 1, 12)] {
                        shelf.remove(shelf.find(0, gone).unwrap());
                        shelf.insert(0, key, payload).unwrap();
                    }
                })
            };
            for (key, own) in [(1, [10, 12]), (2, [20, 20])] {
                if let Some(found) = shelf.find(0, key) {
                    assert!(own.contains(&found.payload()), "{key}: {found:?}");
                }
            }
            writer.join().unwrap();
            assert_eq!(shelf.find(0, 1).unwrap().payload(), 12);
            assert_eq!(shelf.find(0, 2), None);
        });
    }

    /// Who refreshes an entry that moves, or gives way to another, meanwhile, takes neither back.
    #[test]
    fn a_refresh_never_undoes_what_the_writer_did() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(PREEMPTIONS);
        model.check(|| {
            let shelf = Arc::new(Shelf::new(1));
            shelf.insert(0, 1, 10);
            let reader = {
                let shelf = Arc::clone(&shelf);
                loom::thread::spawn(move || {
                    if let Some(found) = shelf.find(0, 1) {
                        // The last digit is the moment; all before it is where.
                        shelf.exchange(found, found.payload() / 10 * 10 + 1);
                    }
                })
            };
            shelf.set(shelf.find(0, 1).unwrap(), 30);
            let moved = shelf.find(0, 1).unwrap();
            assert!([30, 31].contains(&moved.payload()), "{moved:?}");
            shelf.remove(moved);
            shelf.insert(0, 2, 40).unwrap();
            reader.join().unwrap();
            assert_eq!(shelf.find(0, 2).unwrap().payload(), 40);
        });
    }
}
