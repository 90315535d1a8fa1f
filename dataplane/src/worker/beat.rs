//! What a worker shows to the outside once in a while, and how it sees that a queue's transmission stands still.

use super::stall::Course;
use super::{Pipeline, Worker};
use crate::clock::{self, Clock};
use crate::port::Port;

const NS_PER_MS: u64 = 1_000_000;
const US_PER_MS: u64 = 1000;

/// Tells every so often how much of its time a worker was busy.
pub(super) struct LoadWatch {
    every: u64,
    last: u64,
    busy: u64,
}

impl LoadWatch {
    /// Begins at `now`, in cycles; nothing was done before.
    pub(super) fn new(clock: &Clock, every_ms: u32, now: u64) -> Self {
        Self {
            every: clock.from_us(u64::from(every_ms) * US_PER_MS),
            last: now,
            busy: 0,
        }
    }

    /// The share of busy cycles since it last told, in thousandths, if that is due; `busy` are those in all.
    #[inline]
    pub(super) fn load(&mut self, now: u64, busy: u64) -> Option<u64> {
        let since = now.wrapping_sub(self.last);
        if since <= self.every {
            return None;
        }
        let load = busy.wrapping_sub(self.busy).saturating_mul(1000) / since;
        (self.last, self.busy) = (now, busy);
        Some(load.min(1000))
    }
}

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Shows to the outside what is too dear to show with every packet.
    pub(super) fn beat(&mut self) {
        self.stats.publish(&self.histograms);
        self.stats.set_census(self.pool.census());
        self.stats
            .strays
            .set(self.slots.iter().map(|slot| slot.io.strays()).sum());
        let now = clock::cycles();
        for slot in &mut self.slots {
            if let Some(device) = slot.io.device_statistics() {
                slot.stats.set_device(device);
            }
            let transmission = slot.io.transmission();
            let course = slot.watch.look(transmission, now);
            if course != Course::Moving {
                slot.io.urge();
            }
            let stalled = match course {
                Course::Standing(cycles) => self.clock.to_ns(cycles) / NS_PER_MS,
                Course::Moving | Course::Holding => 0,
            };
            slot.stats.set_transmission(transmission, stalled);
        }
    }
}
