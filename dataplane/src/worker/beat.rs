//! What a worker shows to the outside once in a while, and how it sees that a queue's transmission stands still.

use super::stall::Course;
use super::{Pipeline, Worker};
use crate::clock;
use crate::port::Port;

const NS_PER_MS: u64 = 1_000_000;

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
