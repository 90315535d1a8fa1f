//! Whom to let go when there is no room: of those whose connection need not stay, the oldest of a few.

use super::{Form, GOLDEN, Ordering, State, Store, lower};

/// How many records a search for one that can go looks at.
const SEARCH_MAX: u32 = 64;
/// How many that can go it compares by age.
const CANDIDATES_MAX: u32 = 4;

impl<F: Form> Store<F> {
    /// A record whose connection can go for a new one, and its state, among those in both buckets of a hash; of
    /// several, the one whose `age` is the greatest.
    pub(in crate::table::flow) fn expendable_near(
        &self,
        hash: u64,
        age: impl Fn(u32) -> u32,
    ) -> Option<(u32, State)> {
        let mut best = None;
        self.index
            .each(hash, |place| self.weigh(place >> 1, &age, &mut best));
        best.map(|(_, record, state)| (record, state))
    }

    /// The same among some records from all over the slab, others at every call: the oldest of the first few that are
    /// expendable.
    pub(in crate::table::flow) fn expendable_by_hand(
        &self,
        age: impl Fn(u32) -> u32,
    ) -> Option<(u32, State)> {
        let used = u64::from(self.used());
        let begin = self.ends.hand.fetch_add(u64::from(SEARCH_MAX), Ordering::Relaxed);
        let (mut best, mut found) = (None, 0);
        for step in 0..u64::from(SEARCH_MAX) {
            // Multiples of the golden ratio lie as evenly as can be, wherever one begins and ends: a row of records that
            // stay is not walked along.
            let far = begin.wrapping_add(step).wrapping_mul(GOLDEN) >> 32;
            let record = lower((far * used) >> 32);
            found += u32::from(u64::from(record) < used && self.weigh(record, &age, &mut best));
            if found == CANDIDATES_MAX {
                break;
            }
        }
        best.map(|(_, record, state)| (record, state))
    }

    /// Takes a record as the best to go, if it can and is older than the best so far. Answers whether it can go.
    fn weigh(&self, record: u32, age: impl Fn(u32) -> u32, best: &mut Option<(u32, u32, State)>) -> bool {
        let state = self.state(record);
        if !state.is_expendable() {
            return false;
        }
        let age = age(record);
        if best.is_none_or(|(oldest, ..)| age > oldest) {
            *best = Some((age, record, state));
        }
        true
    }
}
