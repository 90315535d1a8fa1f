//! The flow table in words: what all workers share, without a lock.
//!
//! A [`Store`] is a slab of records, an index over their entries, and a list of free records. It knows no address and
//! no protocol: keys and bodies are words to it. Three protocols make it sound; each rests on the orderings that are
//! written where they are used, and all are run through every interleaving by the model at the end of the folder (a glance
//! at an entry reads it in the order in which `read` does).
//!
//! **A record** ([`record`]) has one owner or is live. Its state word says which, and bears the *incarnation*: how
//! many connections the record has held. Whoever wants to change something of a live record does so by a
//! compare-and-exchange of that word, or of the version of an entry, which bears the incarnation too: late comers,
//! whose connection is gone, always fail.
//!
//! **An entry** ([`entry`]) is read under its version, as a sequence lock whose every word is atomic: a torn read is
//! seen and not undefined. Writers exclude each other by making the version odd; none waits for another.
//!
//! **The index** ([`index`]) has two buckets for every key. That a key is inserted once is decided by one word: the
//! control word of the first of the two.
//!
//! Built for `loom` (`--cfg crossbeam_loom`) the folder ends in a model.

#[cfg(crossbeam_loom)]
use loom::sync::atomic::{Ordering, fence};
#[cfg(crossbeam_loom)]
use modelled::AtomicU64;
#[cfg(not(crossbeam_loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

mod entry;
mod free;
mod index;
mod memory;
#[cfg(crossbeam_loom)]
mod modelled;
mod record;
mod remove;
mod salvage;
mod search;

#[cfg(all(test, crossbeam_loom))]
mod model_tests;

pub(super) use entry::{Look, Seen, incarnation};
pub(super) use index::Insert;
pub(super) use memory::Memory;
pub(super) use record::{Life, Notes, State, TRACKING_WORDS, Unchanged};
pub(super) use remove::Removal;

use entry::Entry;
use index::Index;
#[cfg(not(crossbeam_loom))]
pub(in crate::table) use memory::prefetch;
use record::{Ends, Record};

/// What is kept as a fixed number of words.
pub(super) trait Words: Copy {
    /// How many.
    const LEN: usize;

    /// The word at `place`, below [`Self::LEN`].
    fn word(&self, place: usize) -> u64;

    /// The value of such words.
    fn from_words(word: impl Fn(usize) -> u64) -> Self;
}

/// What a store's entries hold.
pub(super) trait Form {
    /// What an entry is found by.
    type Key: Words;
    /// What an entry keeps, unchanged while its connection lives.
    type Body: Words;

    /// The keyed hash of a key.
    fn hash(&self, key: &Self::Key) -> u64;
}

/// The words of an entry: version, key, body, two of the answer, stamp; in whole cache lines.
const fn entry_words<F: Form>() -> usize {
    (F::Key::LEN + F::Body::LEN + 4).next_multiple_of(LINE_WORDS)
}

/// The words of a record: two entries, and one cache line that they share.
const fn record_words<F: Form>() -> usize {
    2 * entry_words::<F>() + LINE_WORDS
}

/// The lower half of a word.
const LOWER: u64 = 0xffff_ffff;

#[inline]
const fn lower(word: u64) -> u32 {
    (word & LOWER) as u32
}

/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Words before the first record; the first says how many records were ever used.
const HEAD_WORDS: usize = LINE_WORDS;
/// The most records: a place, record and direction, has 32 bits.
pub(super) const CAPACITY_MAX: u32 = 1 << 28;
/// How many bits of notes a connection has.
pub(super) const NOTES_BITS: u32 = record::NOTES_BITS;

/// 2^64 over the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where an entry is: its record's number, and its direction as the lowest bit.
pub(super) type Place = u32;

/// The words that a slab of so many records has.
pub(super) const fn slab_words<F: Form>(capacity: u32) -> usize {
    HEAD_WORDS + capacity as usize * record_words::<F>()
}

/// Records, their index, and those that are free.
pub(super) struct Store<F> {
    form: F,
    slab: Memory,
    index: Index,
    ends: Ends,
    capacity: u32,
}

/// A record that its claimer owns: nobody finds it yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) record: u32,
    incarnation: u32,
}

/// What an entry is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<K, B> {
    pub(super) key: K,
    pub(super) body: B,
    pub(super) stamp: u64,
}

impl<F: Form> Store<F> {
    /// A store over an empty slab of [`slab_words`] words.
    pub(super) fn new(form: F, slab: Memory, capacity: u32) -> std::io::Result<Self> {
        Ok(Self {
            form,
            slab,
            index: Index::new(capacity)?,
            ends: Ends::default(),
            capacity,
        })
    }

    pub(super) fn form(&self) -> &F {
        &self.form
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Live connections.
    pub(super) fn live(&self) -> u32 {
        // INVARIANT: at most the capacity, which has 32 bits.
        #[allow(clippy::cast_possible_truncation)]
        let live = self.ends.live.load(Ordering::Relaxed) as u32;
        live
    }

    /// How many records were ever used: those from here on hold nothing.
    pub(super) fn used(&self) -> u32 {
        // INVARIANT: at most the capacity, which has 32 bits; a slab that says otherwise is not read beyond its end.
        #[allow(clippy::cast_possible_truncation)]
        let used = self.slab[0].load(Ordering::Relaxed).min(u64::from(self.capacity)) as u32;
        used
    }

    /// Bytes of the slab and the index.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.slab) + self.index.memory()
    }

    #[inline]
    fn record(&self, record: u32) -> Record<'_> {
        let begin = HEAD_WORDS + record as usize * record_words::<F>() + 2 * entry_words::<F>();
        // INVARIANT: records are numbered below the capacity that the slab was made for.
        Record::new(&self.slab[begin..begin + LINE_WORDS])
    }

    #[inline]
    fn entry(&self, place: Place) -> Entry<'_, F> {
        let (record, direction) = (place as usize >> 1, place as usize & 1);
        let begin = HEAD_WORDS + record * record_words::<F>() + direction * entry_words::<F>();
        // INVARIANT: as above.
        Entry::new(&self.slab[begin..begin + entry_words::<F>()])
    }

    /// Asks the memory for the first bucket of a hash.
    #[inline]
    pub(super) fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Asks the memory for an entry.
    #[inline]
    pub(super) fn prefetch_entry(&self, place: Place) {
        self.entry(place).prefetch();
    }

    /// Asks the memory for what [`Self::state`] reads of a record.
    #[inline]
    pub(super) fn prefetch_record(&self, record: u32) {
        if record < self.capacity {
            self.record(record).prefetch();
        }
    }

    /// The first place whose slot fits the hash. Its entry may be another's.
    #[inline]
    pub(super) fn find(&self, hash: u64) -> Option<Place> {
        self.index.find(hash)
    }

    /// Reads the entry of `key` at `place`.
    #[inline(always)]
    pub(super) fn read(&self, place: Place, key: &F::Key) -> Look<F::Body> {
        self.entry(place).read(key)
    }

    /// Reads the entry whose key has these words, at the first try; `None` means little. For entries of one cache line.
    #[inline(always)]
    pub(super) fn glance(&self, place: Place, key: impl Fn(usize) -> u64) -> Option<Seen<F::Body>> {
        let line = self.line(place)?;
        Entry::<F>::new(line).glance(key)
    }

    /// Asks the memory for such an entry, if there is that place.
    #[inline(always)]
    pub(super) fn prefetch_line(&self, place: Place) {
        if let Some(line) = self.line(place) {
            memory::prefetch(&line[0]);
        }
    }

    /// The words of an entry of one cache line; `None` beyond the end.
    #[inline(always)]
    fn line(&self, place: Place) -> Option<&[AtomicU64; LINE_WORDS]> {
        const { assert!(entry_words::<F>() == LINE_WORDS) };
        let (record, direction) = (place as usize >> 1, place as usize & 1);
        let (lines, _) = self.slab.as_chunks();
        lines.get(HEAD_WORDS / LINE_WORDS + record * (record_words::<F>() / LINE_WORDS) + direction)
    }

    /// The place that holds `key`, by comparing keys. For when the first fitting slot was another's.
    #[cold]
    pub(super) fn find_exactly(&self, hash: u64, key: &F::Key) -> Option<Place> {
        self.index.holder(hash, |place| self.entry(place).has_key(key))
    }

    /// Whether the entry at `place` has this key, as far as can be told without its version.
    pub(super) fn has_key(&self, place: Place, key: &F::Key) -> bool {
        self.entry(place).has_key(key)
    }

    /// Key, answer and stamp of the entry at `place`, and its version.
    pub(super) fn read_any(&self, place: Place) -> Option<(F::Key, Seen<F::Body>)> {
        self.entry(place).read_any()
    }

    /// What the store knows of a record.
    #[inline]
    pub(super) fn state(&self, record: u32) -> State {
        self.record(record).state()
    }

    /// The word that says who opened a record's connection and when, and the word of its binding.
    pub(super) fn opened_and_bound(&self, record: u32) -> (u64, u64) {
        self.record(record).opened_and_bound()
    }

    /// Whether what was read of a record since its state was `state` is of one connection.
    pub(super) fn is_still(&self, record: u32, state: State) -> bool {
        // As with an entry's version: if a word was of a later connection, this meets the fence after the state in
        // which that one began.
        fence(Ordering::Acquire);
        let now = self.state(record);
        now.life() == Life::Live && now.incarnation() == state.incarnation()
    }

    /// Exchanges the word that says who opened a connection, if it is `old` still.
    pub(super) fn reopen(&self, record: u32, old: u64, new: u64) -> bool {
        self.record(record).reopen(old, new)
    }

    /// The stamp of the entry at `place`, whatever connection it is of by now.
    #[inline]
    pub(super) fn stamp(&self, place: Place) -> u64 {
        self.entry(place).stamp()
    }

    /// Writes the lower half of the stamp of the entry at `place`, whose stamp was `old` when its version was `version`.
    ///
    /// An entry that is another connection's by now, with the very same stamp, gets it too. The lower half is when the
    /// flow was last seen: it lends life and takes none.
    #[inline]
    pub(super) fn touch(&self, place: Place, version: u64, old: u64, lower: u32) {
        self.entry(place).touch(version, old, lower);
    }

    /// Writes both halves of the stamp of an entry, if its version is `version` still.
    #[inline]
    pub(super) fn restamp(&self, place: Place, version: u64, upper: u32, lower: u32) -> bool {
        self.entry(place).restamp(version, upper, lower)
    }

    /// Writes the answer of an entry and the upper half of its stamp, if its version is `version` still.
    #[inline]
    pub(super) fn write(&self, place: Place, version: u64, answer: [u64; 2], upper: u32) -> bool {
        self.entry(place).write(version, answer, upper)
    }

    /// Changes what a connection notes of its protocol, excluding every other such change.
    ///
    /// # Errors
    /// [`Unchanged`]: the connection is gone, or somebody else has been changing it for too long to wait.
    #[inline]
    pub(super) fn change<T>(
        &self,
        place: Place,
        version: u64,
        change: impl FnOnce(&mut Notes, &mut [u64; TRACKING_WORDS]) -> T,
    ) -> Result<T, Unchanged> {
        self.record(place >> 1)
            .change(entry::incarnation(version), change)
    }

    /// Takes a free record.
    pub(super) fn draft(&self) -> Option<Draft> {
        let record = self.pop()?;
        let incarnation = self.record(record).begin();
        for place in places(record) {
            self.entry(place).begin(incarnation);
        }
        Some(Draft { record, incarnation })
    }

    /// Writes an entry of a draft.
    #[inline]
    pub(super) fn fill(&self, draft: &Draft, direction: u32, content: &Content<F::Key, F::Body>) {
        self.entry(draft.record << 1 | direction).fill(content);
    }

    /// Inserts an entry of a draft, once both are filled, if nobody has its key.
    pub(super) fn insert(&self, draft: &Draft, direction: u32, hash: u64, key: &F::Key) -> Insert {
        let holds = |place| self.entry(place).has_key(key);
        self.index.insert(hash, draft.record << 1 | direction, holds)
    }

    /// Takes an entry of a draft out of the index again.
    pub(super) fn withdraw(&self, draft: &Draft, direction: u32, hash: u64) {
        self.index.remove(hash, draft.record << 1 | direction);
    }

    /// Gives a draft back of which no entry is in the index.
    pub(super) fn abandon(&self, draft: Draft) {
        self.record(draft.record).end();
        self.push(draft.record);
    }

    /// Makes a draft live, both of whose entries are in the index; answers the version of its entries.
    pub(super) fn publish(
        &self,
        draft: Draft,
        notes: Notes,
        tracking: [u64; TRACKING_WORDS],
        opened: u64,
        bound: u64,
    ) -> u64 {
        self.ends.live.fetch_add(1, Ordering::Relaxed);
        self.record(draft.record)
            .go_live(draft.incarnation, notes, tracking, opened, bound);
        // The record first: who reads an entry finds its record live.
        for place in places(draft.record) {
            self.entry(place).publish(draft.incarnation);
        }
        entry::first_version(draft.incarnation)
    }
}

/// The places of a record's entries.
#[inline]
const fn places(record: u32) -> [Place; 2] {
    [record << 1, record << 1 | 1]
}

impl<F> std::fmt::Debug for Store<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
