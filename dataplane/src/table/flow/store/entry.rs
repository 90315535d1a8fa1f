//! One direction of a connection: a key, a body that never changes, an answer that does, and a stamp, whose upper half
//! is written with the answer and whose lower half by whoever likes.
//!
//! The version word has the record's incarnation above and a count of writes below; an odd count means that the entry
//! is being written, and [`DEAD`] that it is no connection's. The count wraps, past `DEAD`: a read would have to be
//! interrupted for 2^31 writes of the entry to be fooled.

use std::marker::PhantomData;

use super::memory::prefetch;
use super::{AtomicU64, Content, Form, LINE_WORDS, Ordering, Words, fence};

/// The count of an entry that holds nothing: odd, and no writer's.
const DEAD: u64 = 0xffff_ffff;
const COUNT: u64 = 0xffff_ffff;
/// The half of the stamp that anybody writes.
const LOWER: u64 = 0xffff_ffff;
const INCARNATION_SHIFT: u32 = 32;

/// How often a reader begins again before it calls the entry missing.
const READ_TRIES: usize = if cfg!(crossbeam_loom) { 2 } else { 16 };
/// How often a touch tries: an answer may be written in between, and hardly two.
const TOUCH_TRIES: usize = 2;
/// How often a removal looks whether a writer is done.
const KILL_TRIES: usize = if cfg!(crossbeam_loom) { 1 } else { 128 };

/// What became of a read.
#[derive(Debug, Clone, Copy)]
pub(in crate::table::flow) enum Look<B> {
    /// The entry of the key.
    Hit(Seen<B>),
    /// Another key's.
    Other,
    /// Nobody's, or it is being written all the while.
    Missing,
}

/// An entry as it was at one moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::table::flow) struct Seen<B> {
    pub(in crate::table::flow) version: u64,
    pub(in crate::table::flow) body: B,
    pub(in crate::table::flow) answer: [u64; 2],
    pub(in crate::table::flow) stamp: u64,
}

/// The words of one entry.
pub(super) struct Entry<'s, F> {
    words: &'s [AtomicU64],
    form: PhantomData<F>,
}

/// The incarnation in a version.
#[inline]
pub(in crate::table::flow) const fn incarnation(version: u64) -> u32 {
    (version >> INCARNATION_SHIFT) as u32
}

/// The version with which an entry is first found.
#[inline]
pub(super) const fn first_version(incarnation: u32) -> u64 {
    (incarnation as u64) << INCARNATION_SHIFT | 2
}

#[inline]
const fn is_odd(version: u64) -> bool {
    version & 1 == 1
}

/// The version after a write of an entry with this one.
#[inline]
const fn next_version(version: u64) -> u64 {
    let count = (version & COUNT) + 2;
    // The count before `DEAD`, too, is never an entry's: its writer would look dead.
    let count = if count >= DEAD - 1 { 2 } else { count };
    version & !COUNT | count
}

/// Lets another thread get on.
#[inline]
pub(super) fn pause() {
    #[cfg(crossbeam_loom)]
    loom::thread::yield_now();
    #[cfg(not(crossbeam_loom))]
    std::hint::spin_loop();
}

impl<'s, F: Form> Entry<'s, F> {
    const KEY: usize = 1;
    const BODY: usize = Self::KEY + F::Key::LEN;
    const ANSWER: usize = Self::BODY + F::Body::LEN;
    const STAMP: usize = Self::ANSWER + 2;

    #[inline]
    pub(super) fn new(words: &'s [AtomicU64]) -> Self {
        Self {
            words,
            form: PhantomData,
        }
    }

    #[inline]
    pub(super) fn prefetch(&self) {
        for line in self.words.chunks(LINE_WORDS) {
            prefetch(&line[0]);
        }
    }

    /// A word of the entry. Relaxed: what it is worth, the version tells.
    #[inline]
    fn load(&self, place: usize) -> u64 {
        self.words[place].load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, place: usize, word: u64) {
        self.words[place].store(word, Ordering::Relaxed);
    }

    /// Whether the words of the key are these, without a look at the version.
    #[inline]
    pub(super) fn has_key(&self, key: &F::Key) -> bool {
        // No early end: the words are in one or two cache lines, and a jump for each costs more than a comparison.
        (0..F::Key::LEN)
            .map(|place| self.load(Self::KEY + place) ^ key.word(place))
            .fold(0, |all, word| all | word)
            == 0
    }

    /// The key, for the entry's owner.
    pub(super) fn key(&self) -> F::Key {
        F::Key::from_words(|place| self.load(Self::KEY + place))
    }

    #[inline(always)]
    pub(super) fn read(&self, key: &F::Key) -> Look<F::Body> {
        self.read_if(|| self.has_key(key))
    }

    /// Reads the entry whose key has these words, at the first try.
    #[inline(always)]
    pub(super) fn glance(&self, key: impl Fn(usize) -> u64) -> Option<Seen<F::Body>> {
        let version = self.words[0].load(Ordering::Acquire); // see `read_if`
        let differs = (0..F::Key::LEN)
            .map(|place| self.load(Self::KEY + place) ^ key(place))
            .fold(version & 1, |all, word| all | word);
        let seen = self.seen(version);
        fence(Ordering::Acquire); // see `read_if`
        let is_whole = self.words[0].load(Ordering::Relaxed) == version;
        (differs == 0 && is_whole).then_some(seen)
    }

    /// All but the key, of an entry with this version.
    #[inline(always)]
    fn seen(&self, version: u64) -> Seen<F::Body> {
        Seen {
            version,
            body: F::Body::from_words(|place| self.load(Self::BODY + place)),
            answer: [self.load(Self::ANSWER), self.load(Self::ANSWER + 1)],
            stamp: self.load(Self::STAMP),
        }
    }

    pub(super) fn read_any(&self) -> Option<(F::Key, Seen<F::Body>)> {
        let key = std::cell::Cell::new(None);
        match self.read_if(|| {
            key.set(Some(self.key()));
            true
        }) {
            Look::Hit(seen) => key.get().map(|key| (key, seen)),
            Look::Other | Look::Missing => None,
        }
    }

    /// Reads the entry if its key is wanted.
    #[inline(always)]
    fn read_if(&self, is_wanted: impl Fn() -> bool) -> Look<F::Body> {
        for _ in 0..READ_TRIES {
            // Acquire: who sees the version that a writer left sees what it wrote.
            let version = self.words[0].load(Ordering::Acquire);
            if is_odd(version) {
                if version & COUNT == DEAD {
                    return Look::Missing;
                }
                pause();
                continue;
            }
            let is_wanted = is_wanted();
            let seen = self.seen(version);
            // If any word above is of a later write, then this fence meets the one that the writer set between its odd
            // version and that word, and the load below sees that version or a later one.
            fence(Ordering::Acquire);
            if self.words[0].load(Ordering::Relaxed) == version {
                return if is_wanted { Look::Hit(seen) } else { Look::Other };
            }
        }
        Look::Missing
    }

    #[inline]
    pub(super) fn stamp(&self) -> u64 {
        self.load(Self::STAMP)
    }

    /// Writes the lower half of the stamp, which was `old` when the version was `version`. The upper half stays what an
    /// answer made of it meanwhile; whoever has written the lower one meanwhile, or another connection, is let alone.
    #[inline]
    pub(super) fn touch(&self, version: u64, mut old: u64, lower: u32) {
        for _ in 0..TOUCH_TRIES {
            let new = old & !LOWER | u64::from(lower);
            let exchanged =
                self.words[Self::STAMP].compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
            let Err(now) = exchanged else { return };
            fence(Ordering::Acquire); // see `read_if`
            let of = incarnation(self.words[0].load(Ordering::Relaxed));
            if now & LOWER != old & LOWER || of != incarnation(version) {
                return;
            }
            old = now;
        }
    }

    /// Writes both halves of the stamp, if the version is `version` still: at the price of a touch. A touch that comes
    /// in between is of the same moment.
    #[inline]
    pub(super) fn restamp(&self, version: u64, upper: u32, lower: u32) -> bool {
        if is_odd(version) || !self.exchange_version(version, version | 1) {
            return false;
        }
        fence(Ordering::Release); // see `read_if`
        self.store(Self::STAMP, u64::from(upper) << 32 | u64::from(lower));
        self.words[0].store(next_version(version), Ordering::Release); // see `write`
        true
    }

    /// Writes the answer and the upper half of the stamp, if the version is `version` still.
    #[inline]
    pub(super) fn write(&self, version: u64, [first, second]: [u64; 2], upper: u32) -> bool {
        if is_odd(version) || !self.exchange_version(version, version | 1) {
            return false;
        }
        fence(Ordering::Release); // see `read_if`
        self.store(Self::ANSWER, first);
        self.store(Self::ANSWER + 1, second);
        // The upper half is its writer's alone, the lower anybody's: so exchange the upper where it differs.
        let differs = self.load(Self::STAMP) >> 32 ^ u64::from(upper);
        self.words[Self::STAMP].fetch_xor(differs << 32, Ordering::Relaxed);
        // Release: who sees this version sees what was written. Nobody else changes an odd version: a removal waits
        // its while, and then leaves the record as dying.
        self.words[0].store(next_version(version), Ordering::Release);
        true
    }

    /// Acquire: this write follows whatever the last writer wrote.
    #[inline]
    fn exchange_version(&self, old: u64, new: u64) -> bool {
        self.words[0]
            .compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Makes the entry nobody's, for the one who removes its connection: no reader finds it, and no writer gets in.
    /// `false` if one is in and does not come out for a while.
    pub(super) fn kill(&self) -> bool {
        for _ in 0..KILL_TRIES {
            let version = self.words[0].load(Ordering::Relaxed);
            if version & COUNT == DEAD {
                return true; // by an earlier attempt
            }
            if !is_odd(version) && self.exchange_version(version, version | DEAD) {
                return true;
            }
            pause();
        }
        false
    }

    /// Begins to fill an entry that is nobody's.
    pub(super) fn begin(&self, incarnation: u32) {
        let version = u64::from(incarnation) << INCARNATION_SHIFT | 1;
        self.words[0].store(version, Ordering::Relaxed);
        fence(Ordering::Release); // see `read_if`
    }

    /// Fills an entry that was begun. Its answer is none.
    #[inline]
    pub(super) fn fill(&self, content: &Content<F::Key, F::Body>) {
        for place in 0..F::Key::LEN {
            self.store(Self::KEY + place, content.key.word(place));
        }
        for place in 0..F::Body::LEN {
            self.store(Self::BODY + place, content.body.word(place));
        }
        self.store(Self::ANSWER, 0);
        self.store(Self::ANSWER + 1, 0);
        self.store(Self::STAMP, content.stamp);
    }

    /// Lets a filled entry be read. Release: who sees this version sees what was filled in.
    #[inline]
    pub(super) fn publish(&self, incarnation: u32) {
        self.words[0].store(first_version(incarnation), Ordering::Release);
    }

    /// Key and stamp of an entry of a process that has ended, if they are this incarnation's: the key is written
    /// before the record is live, and not again.
    pub(super) fn salvage(&self, of: u32) -> Option<(F::Key, u64)> {
        let version = self.words[0].load(Ordering::Acquire);
        let is_whole = incarnation(version) == of && version & COUNT != DEAD;
        is_whole.then(|| (self.key(), self.stamp()))
    }
}
