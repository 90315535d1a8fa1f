//! How many connections each pod has open.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::port::PortId;

/// Connections by the port of the local pod that opened them, both families together.
#[derive(Debug)]
pub(super) struct Charges {
    open: Box<[AtomicU32]>,
    /// The most that one pod may have.
    limit: u32,
}

impl Charges {
    /// Nothing is charged to anybody; 0 is no limit.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            open: (0..PortId::LIMIT).map(|_| AtomicU32::new(0)).collect(),
            limit: if limit == 0 { u32::MAX } else { limit },
        }
    }

    /// How many a pod has.
    pub(super) fn of(&self, port: PortId) -> u32 {
        self.open
            .get(port.index())
            .map_or(0, |open| open.load(Ordering::Relaxed))
    }

    /// Charges one more to a pod, if it may have one more. Two at once may both be refused the last one.
    pub(super) fn charge(&self, port: PortId) -> bool {
        let Some(open) = self.open.get(port.index()) else {
            return true;
        };
        let is_within = open.fetch_add(1, Ordering::Relaxed) < self.limit;
        if !is_within {
            open.fetch_sub(1, Ordering::Relaxed);
        }
        is_within
    }

    /// Charges one to a pod that it has already, also beyond the limit.
    pub(super) fn charge_existing(&self, port: PortId) {
        if let Some(open) = self.open.get(port.index()) {
            open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One less. Each was charged before: the word that says so is taken out of its record once.
    pub(super) fn release(&self, port: PortId) {
        if let Some(open) = self.open.get(port.index()) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
