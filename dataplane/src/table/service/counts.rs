//! How many connections each Service and each backend were given: private to a worker, read from outside.

use std::sync::Arc;

use super::{BackendId, Choice, ServiceId};
use crate::stats::Counter;

/// Counters that are added at a time, as numbers come into use.
const CHUNK: usize = 1024;

/// One worker's counters of consecutive numbers.
type Chunk = Arc<[Counter]>;

/// The counters of all workers. A copy shares them: a new table goes on where the last one was.
#[derive(Debug, Clone, Default)]
pub struct ServiceCounts {
    /// By worker.
    workers: Vec<WorkerCounts>,
}

/// The counters of one worker.
#[derive(Debug, Clone, Default)]
struct WorkerCounts {
    services: Vec<Chunk>,
    backends: Vec<Chunk>,
}

/// What was counted for one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CountRow {
    /// Connections, by all workers together. Numbers are used again, and counters never go back: keep the value at
    /// which a number came into use, and subtract it.
    pub connections: u64,
}

impl ServiceCounts {
    /// Counters for `workers`, without room for any number yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: vec![WorkerCounts::default(); workers],
        }
    }

    /// Makes room for Services and backends with numbers below these; answers whether any had to be made.
    pub fn grow(&mut self, services: usize, backends: usize) -> bool {
        let mut grown = false;
        for worker in &mut self.workers {
            grown |= grow(&mut worker.services, services);
            grown |= grow(&mut worker.backends, backends);
        }
        grown
    }

    /// Counts a connection that a worker made by this choice; only that worker may call it.
    #[inline]
    pub fn connection(&self, worker: usize, choice: &Choice) {
        if let Some(counts) = self.workers.get(worker) {
            add(&counts.services, choice.service.get());
            add(&counts.backends, choice.backend.get());
        }
    }

    /// What a Service was given.
    #[must_use]
    pub fn of_service(&self, id: ServiceId) -> CountRow {
        self.sum(id.get(), |worker| &worker.services)
    }

    /// What a backend was given.
    #[must_use]
    pub fn of_backend(&self, id: BackendId) -> CountRow {
        self.sum(id.get(), |worker| &worker.backends)
    }

    fn sum(&self, number: u32, of: fn(&WorkerCounts) -> &Vec<Chunk>) -> CountRow {
        let counters = self
            .workers
            .iter()
            .filter_map(|worker| counter(of(worker), number));
        CountRow {
            connections: counters.map(Counter::get).fold(0, u64::wrapping_add),
        }
    }
}

fn grow(chunks: &mut Vec<Chunk>, numbers: usize) -> bool {
    let before = chunks.len();
    while chunks.len() * CHUNK < numbers {
        chunks.push((0..CHUNK).map(|_| Counter::default()).collect());
    }
    chunks.len() > before
}

#[inline]
fn counter(chunks: &[Chunk], number: u32) -> Option<&Counter> {
    let number = number as usize;
    chunks.get(number / CHUNK)?.get(number % CHUNK)
}

#[inline]
fn add(chunks: &[Chunk], number: u32) {
    if let Some(counter) = counter(chunks, number) {
        counter.add(1);
    }
}
