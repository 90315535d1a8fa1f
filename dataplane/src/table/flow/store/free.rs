//! The free records: a stack through the records themselves, and above it those that were never used.

use super::{Form, LOWER, Ordering, Store, lower, places};

/// How often the list of free records is tried: once for every other worker that might be in the way, and then some.
const FREE_TRIES: usize = 256;
/// The upper half of the head of the free list counts its changes, so that an old head is never taken for the
/// present one (for 2^32 changes).
const FREE_COUNT: u64 = 1 << 32;
const UPPER: u64 = !LOWER;

impl<F: Form> Store<F> {
    /// Takes a free record, for its one owner; `None` if there is none, or too many want one at once.
    pub(super) fn pop(&self) -> Option<u32> {
        for _ in 0..FREE_TRIES {
            // Acquire: what the record's last owner wrote, its link above all, is seen.
            let head = self.ends.free.load(Ordering::Acquire);
            let Some(record) = lower(head).checked_sub(1) else {
                return self.pop_unused();
            };
            // Another may own the record by now and the link be anything: then the head's count has moved on, and
            // the exchange fails.
            let next = self.record(record).next_free();
            let new = (head & UPPER).wrapping_add(FREE_COUNT) | next;
            let taken = self
                .ends
                .free
                .compare_exchange(head, new, Ordering::Acquire, Ordering::Relaxed);
            if taken.is_ok() {
                // Without a next one this is beyond all.
                self.prefetch_free(lower(next).wrapping_sub(1));
                return Some(record);
            }
        }
        None
    }

    /// Asks the memory for a record that will be taken next, unless another worker is first. Nobody has touched it for long;
    /// by the time it is taken it is near.
    fn prefetch_free(&self, record: u32) {
        if record < self.capacity {
            self.record(record).prefetch();
            places(record)
                .into_iter()
                .for_each(|place| self.prefetch_entry(place));
        }
    }

    fn pop_unused(&self) -> Option<u32> {
        let used = &self.slab[0];
        let capacity = u64::from(self.capacity);
        for _ in 0..FREE_TRIES {
            let next = used.load(Ordering::Relaxed);
            if next >= capacity {
                return None;
            }
            // Relaxed: a record that was never used holds nothing to be seen.
            let taken = used.compare_exchange(next, next + 1, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                self.prefetch_free(lower(next + 1));
                return Some(lower(next));
            }
        }
        None
    }

    /// Gives a record back.
    pub(super) fn push(&self, record: u32) {
        let mut head = self.ends.free.load(Ordering::Relaxed);
        // Unbounded, as a record must not be lost; each turn means that another worker has got on.
        loop {
            self.record(record).set_next_free(head & LOWER);
            let new = (head & UPPER).wrapping_add(FREE_COUNT) | u64::from(record + 1);
            // Release: the next owner sees everything that this one did.
            match self
                .ends
                .free
                .compare_exchange(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(other) => head = other,
            }
        }
    }
}
