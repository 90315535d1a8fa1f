//! A word as loom is to see it.
//!
//! Loom runs another thread first where two accesses of a word depend on each other, and remembers one access of each
//! word, the last. So a thread that reads a word and then exchanges it hides from loom that another had read it in
//! between: half of the orders are never run. Here every read takes a turn at a word of its own first, by a
//! read-modify-write: that loom never misses, and being relaxed it orders nothing.

use loom::sync::atomic::{AtomicU64 as Word, AtomicUsize, Ordering};

/// A word, and whose turn it was to read it.
#[derive(Debug, Default)]
pub(in crate::table) struct AtomicU64 {
    word: Word,
    turns: AtomicUsize,
}

impl AtomicU64 {
    pub(super) fn load(&self, order: Ordering) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.word.load(order)
    }

    pub(super) fn store(&self, value: u64, order: Ordering) {
        self.word.store(value, order);
    }

    pub(super) fn compare_exchange(
        &self,
        old: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.word.compare_exchange(old, new, success, failure)
    }

    pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.word.swap(value, order)
    }

    pub(super) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.word.fetch_add(value, order)
    }

    pub(super) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.word.fetch_sub(value, order)
    }

    pub(super) fn fetch_xor(&self, value: u64, order: Ordering) -> u64 {
        self.word.fetch_xor(value, order)
    }
}
