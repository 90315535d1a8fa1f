//! What an earlier process left in its slab.

use super::entry::Entry;
use super::record::Record;
use super::{
    Form, HEAD_WORDS, Life, Memory, Notes, Ordering, Store, TRACKING_WORDS, entry_words, record_words,
};

/// What a record of an earlier process held.
#[derive(Debug, Clone, Copy)]
pub(in crate::table::flow) struct Salvaged<K> {
    /// Of both directions.
    pub(in crate::table::flow) keys: [K; 2],
    pub(in crate::table::flow) stamps: [u64; 2],
    pub(in crate::table::flow) notes: Notes,
    /// `None` if the process ended in the middle of writing them.
    pub(in crate::table::flow) tracking: Option<[u64; TRACKING_WORDS]>,
    pub(in crate::table::flow) opened: u64,
    pub(in crate::table::flow) bound: u64,
}

impl<F: Form> Store<F> {
    /// The words of a live record that outlive its process, if both its entries are whole.
    pub(in crate::table::flow) fn salvage(slab: &Memory, record: u32) -> Option<Salvaged<F::Key>> {
        let begin = HEAD_WORDS + record as usize * record_words::<F>();
        let words = slab.get(begin..begin + record_words::<F>())?;
        let (entries, shared) = words.split_at(2 * entry_words::<F>());
        let (original, reply) = entries.split_at(entry_words::<F>());
        let shared = Record::new(shared);
        let state = shared.state();
        if state.life() != Life::Live {
            return None;
        }
        let whole = |words| Entry::<F>::new(words).salvage(state.incarnation());
        let (original, reply) = (whole(original)?, whole(reply)?);
        let (opened, bound) = shared.opened_and_bound();
        Some(Salvaged {
            keys: [original.0, reply.0],
            stamps: [original.1, reply.1],
            notes: state.notes(),
            tracking: (!state.is_locked()).then(|| shared.tracking()),
            opened,
            bound,
        })
    }

    /// How many records of a slab were ever used, as it says itself.
    pub(in crate::table::flow) fn used_of(slab: &Memory, capacity: u32) -> u32 {
        let used = slab.first().map_or(0, |word| word.load(Ordering::Relaxed));
        u32::try_from(used).map_or(capacity, |used| used.min(capacity))
    }
}
