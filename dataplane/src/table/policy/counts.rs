//! How many connections each rule decided about: private to a worker, read from outside.

use std::sync::Arc;

use super::{Judgement, RuleId};
use crate::stats::Counter;

/// Counters that are added at a time, as numbers come into use.
const CHUNK: usize = 1024;

/// The counters of all workers. A copy shares them: a new table goes on where the last one was.
#[derive(Debug, Clone, Default)]
pub struct PolicyCounts {
    /// By worker, then by the rule's number.
    workers: Vec<Vec<Arc<[Counter]>>>,
}

impl PolicyCounts {
    /// Counters for `workers`, without room for any number yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: vec![Vec::new(); workers],
        }
    }

    /// Makes room for numbers below `rules`; answers whether any had to be made.
    pub fn grow(&mut self, rules: usize) -> bool {
        let mut grown = false;
        for chunks in &mut self.workers {
            while chunks.len() * CHUNK < rules {
                chunks.push((0..CHUNK).map(|_| Counter::default()).collect());
                grown = true;
            }
        }
        grown
    }

    /// Counts a judgement of a worker; only that worker may call it.
    #[inline]
    pub fn judged(&self, worker: usize, judgement: &Judgement) {
        let Some(chunks) = self.workers.get(worker) else {
            return;
        };
        let rules = match judgement.denied() {
            // What one side forbids, the other has not let through.
            Some((_, rule)) => [Some(rule), None],
            None => [judgement.egress.rule(), judgement.ingress.rule()],
        };
        for rule in rules.into_iter().flatten() {
            if let Some(counter) = counter(chunks, rule) {
                counter.add(1);
            }
        }
    }

    /// How often a rule decided, by all workers together. Numbers are used again, and counters never go back: keep the
    /// value at which a number came into use, and subtract it.
    #[must_use]
    pub fn of(&self, rule: RuleId) -> u64 {
        let counters = self.workers.iter().filter_map(|chunks| counter(chunks, rule));
        counters.map(Counter::get).fold(0, u64::wrapping_add)
    }
}

#[inline]
fn counter(chunks: &[Arc<[Counter]>], rule: RuleId) -> Option<&Counter> {
    let number = rule.get() as usize;
    chunks.get(number / CHUNK)?.get(number % CHUNK)
}
