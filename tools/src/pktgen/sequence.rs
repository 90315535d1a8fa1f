//! Which packets of one stream arrived: every sequence number once, more than once, too late, or never.
//!
//! A window of the newest sequence numbers has a bit for each, so the count is exact as long as no packet is overtaken by
//! as many as the window holds; one that is, is told apart.

/// How many sequence numbers a window holds: more than a second of ten gigabits a second of the smallest packets would be
/// under way between two ends.
const WINDOW: u64 = 1 << 22;
const WORD_BITS: u64 = 64;
const WORDS: usize = (WINDOW / WORD_BITS) as usize;

/// What the arrival of a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first of its number. `late_by` says how far below the highest number before it is, or 0: anything else makes
    /// it reordered (RFC 4737 section 3.3).
    First {
        /// Sequence numbers between it and the next expected, itself included.
        late_by: u64,
    },
    /// Its number had arrived already.
    Duplicate,
    /// Older than the window: a first or a duplicate, nobody knows.
    TooOld,
}

/// The arrivals of one stream.
#[derive(Debug)]
pub struct Tracker {
    bits: Box<[u64]>,
    /// One above the highest number that arrived.
    next: u64,
    distinct: u64,
}

impl Default for Tracker {
    fn default() -> Self {
        Self {
            bits: vec![0; WORDS].into_boxed_slice(),
            next: 0,
            distinct: 0,
        }
    }
}

impl Tracker {
    /// Notes an arrival at a queue whose next expected number (RFC 4737's `NextExp`) is `expected`; that is moved on.
    ///
    /// Queues are read one after the other, so packets of two of them say nothing about the order they came in.
    pub fn note(&mut self, sequence: u64, expected: &mut u64) -> Arrival {
        if sequence >= self.next {
            self.clear(self.next, sequence);
            self.next = sequence + 1;
        } else if sequence + WINDOW < self.next {
            return Arrival::TooOld;
        }
        let (word, bit) = place(sequence);
        let Some(word) = self.bits.get_mut(word) else {
            return Arrival::TooOld; // INVARIANT: a place is within the window.
        };
        if *word & bit != 0 {
            return Arrival::Duplicate;
        }
        *word |= bit;
        self.distinct += 1;
        let late_by = expected.saturating_sub(sequence);
        *expected = (*expected).max(sequence + 1);
        Arrival::First { late_by }
    }

    /// Numbers that arrived, each counted once. Those too old are not among them.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    /// Numbers below the highest that arrived which did not: missing where nobody knows how many were sent.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.next - self.distinct
    }

    /// Forgets the numbers that stood where `from..=to` come to stand.
    fn clear(&mut self, from: u64, to: u64) {
        if to - from >= WINDOW {
            self.bits.fill(0);
            return;
        }
        let mut number = from;
        while number <= to {
            let (word, bit) = place(number);
            let whole = bit == 1 && to - number >= WORD_BITS - 1;
            if let Some(word) = self.bits.get_mut(word) {
                *word = if whole { 0 } else { *word & !bit };
            }
            number += if whole { WORD_BITS } else { 1 };
        }
    }
}

/// The word and the bit of a number.
fn place(sequence: u64) -> (usize, u64) {
    // INVARIANT: below WORDS.
    #[allow(clippy::cast_possible_truncation)]
    let word = (sequence % WINDOW / WORD_BITS) as usize;
    (word, 1 << (sequence % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// The same by remembering everything.
    #[derive(Default)]
    struct Model {
        seen: HashSet<u64>,
        expected: u64,
    }

    impl Model {
        fn note(&mut self, sequence: u64) -> Arrival {
            if !self.seen.insert(sequence) {
                return Arrival::Duplicate;
            }
            let late_by = self.expected.saturating_sub(sequence);
            self.expected = self.expected.max(sequence + 1);
            Arrival::First { late_by }
        }
    }

    proptest! {
        /// Any order with losses and duplicates, over the end of a word and of the window.
        #[test]
        fn it_counts_as_one_who_remembers_everything(
            base in prop_oneof![Just(0u64), Just(WINDOW - 40), Just(5 * WINDOW + 3)],
            steps in prop::collection::vec((0u64..200, 0u64..150), 1..400),
        ) {
            let (mut tracker, mut model, mut expected) = (Tracker::default(), Model::default(), 0);
            let mut front = base;
            for (ahead, behind) in steps {
                front += ahead / 40;
                let sequence = front.saturating_sub(behind / 10).max(base);
                prop_assert_eq!(tracker.note(sequence, &mut expected), model.note(sequence));
            }
            let highest = model.seen.iter().max().copied().unwrap_or(0);
            prop_assert_eq!(tracker.distinct(), model.seen.len() as u64);
            prop_assert_eq!(tracker.gaps(), highest + 1 - model.seen.len() as u64);
        }
    }

    #[test]
    fn what_the_window_has_left_is_too_old_and_what_it_comes_to_hold_is_new() {
        let (mut tracker, mut expected) = (Tracker::default(), 0);
        for sequence in 0..3 {
            assert_eq!(
                tracker.note(sequence, &mut expected),
                Arrival::First { late_by: 0 }
            );
        }
        assert_eq!(
            tracker.note(WINDOW + 1, &mut expected),
            Arrival::First { late_by: 0 }
        );
        assert_eq!(tracker.note(0, &mut expected), Arrival::TooOld);
        assert_eq!(
            tracker.note(2, &mut expected),
            Arrival::Duplicate,
            "the oldest it holds"
        );
        assert_eq!(
            tracker.note(3, &mut expected),
            Arrival::First { late_by: WINDOW - 1 }
        );
        assert_eq!(
            tracker.note(9 * WINDOW, &mut expected),
            Arrival::First { late_by: 0 }
        );
        assert_eq!(
            tracker.note(9 * WINDOW - 7, &mut expected),
            Arrival::First { late_by: 8 }
        );
        assert_eq!(tracker.distinct(), 7);
    }

    #[test]
    fn two_queues_have_no_order_between_them() {
        let (mut tracker, mut one, mut other) = (Tracker::default(), 0, 0);
        assert_eq!(tracker.note(5, &mut one), Arrival::First { late_by: 0 });
        assert_eq!(tracker.note(3, &mut other), Arrival::First { late_by: 0 });
        assert_eq!(tracker.note(4, &mut one), Arrival::First { late_by: 2 });
        assert_eq!(tracker.note(5, &mut other), Arrival::Duplicate);
    }
}
