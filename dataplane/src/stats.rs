//! Counters: private to a core, read from outside without stopping it.
//!
//! Each worker writes its own counters with plain loads and stores (one writer, so no locked instruction) and
//! anyone may read them at any time. Totals of a worker obey, whenever it is between two batches,
//! `received + originated + taken over = transmitted + dropped + punted + handed over`;
//! [`WorkerCounters::balance`] says by how much not. What one worker hands over another takes over, so that over all of
//! them both terms fall out.

mod histogram;
mod queue;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

pub use histogram::{Histograms, Summary};
pub use queue::{DeviceStatistics, QueueCounters, QueueStats};

use crate::frame::Census;
use crate::verdict::{DropReason, PuntReason};

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`; only the owner may call it.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Sets the value; only the owner may call it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Every exit of a packet, counted.
#[derive(Debug)]
struct Exits {
    dropped: [Counter; DropReason::COUNT],
    punted: [Counter; PuntReason::COUNT],
}

impl Default for Exits {
    fn default() -> Self {
        Self {
            dropped: std::array::from_fn(|_| Counter::default()),
            punted: Default::default(),
        }
    }
}

impl Exits {
    fn dropped(&self) -> BTreeMap<&'static str, u64> {
        let all = DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.dropped[reason.index()].get()));
        all.filter(|(_, count)| *count > 0).collect()
    }

    fn punted(&self) -> BTreeMap<&'static str, u64> {
        let all = PuntReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.punted[reason.index()].get()));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

/// Counters of one worker.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerStats {
    core: usize,
    received: Counter,
    originated: Counter,
    transmitted: Counter,
    exits: Exits,
    pub(crate) sleeps: Counter,
    pub(crate) busy_cycles: Counter,
    pub(crate) total_cycles: Counter,
    pub(crate) load_permille: Counter,
    pub(crate) captured: Counter,
    pub(crate) capture_lost: Counter,
    pub(crate) handed_over: Counter,
    pub(crate) taken_over: Counter,
    pub(crate) spread_out: Counter,
    pub(crate) spread_in: Counter,
    pub(crate) recent_load: Counter,
    pub(crate) strays: Counter,
    pub(crate) device_errors: Counter,
    pub(crate) replicated: Counter,
    pub(crate) lessons: Counter,
    pub(crate) lessons_lost: Counter,
    frames: [Counter; 3],
    histograms: Mutex<Histograms>,
}

impl WorkerStats {
    /// All zero, for the worker on `core`.
    #[must_use]
    pub fn new(core: usize) -> Option<Self> {
        Some(Self {
            core,
            received: Counter::default(),
            originated: Counter::default(),
            transmitted: Counter::default(),
            exits: Exits::default(),
            sleeps: Counter::default(),
            busy_cycles: Counter::default(),
            total_cycles: Counter::default(),
            load_permille: Counter::default(),
            captured: Counter::default(),
            capture_lost: Counter::default(),
            handed_over: Counter::default(),
            taken_over: Counter::default(),
            spread_out: Counter::default(),
            spread_in: Counter::default(),
            recent_load: Counter::default(),
            strays: Counter::default(),
            device_errors: Counter::default(),
            replicated: Counter::default(),
            lessons: Counter::default(),
            lessons_lost: Counter::default(),
            frames: Default::default(),
            histograms: Mutex::new(Histograms::new()?),
        })
    }

    pub(crate) fn received(&self, packets: u64) {
        self.received.add(packets);
    }

    pub(crate) fn originated(&self) {
        self.originated.add(1);
    }

    pub(crate) fn transmitted(&self, packets: u64) {
        self.transmitted.add(packets);
    }

    /// Counts a drop for the worker and, if it is still there, for the queue the packet came in at.
    pub(crate) fn dropped(&self, reason: DropReason, ingress: Option<&QueueStats>) {
        self.exits.dropped[reason.index()].add(1);
        if let Some(queue) = ingress {
            queue.dropped(reason);
        }
    }

    /// Counts a punt, as [`Self::dropped`] does a drop.
    pub(crate) fn punted(&self, reason: PuntReason, ingress: Option<&QueueStats>) {
        self.exits.punted[reason.index()].add(1);
        if let Some(queue) = ingress {
            queue.punted(reason);
        }
    }

    pub(crate) fn set_census(&self, census: Census) {
        for (counter, value) in self
            .frames
            .iter()
            .zip([census.free, census.in_tokens, census.in_ports])
        {
            counter.set(u64::from(value));
        }
    }

    /// Shows the worker's histograms to the outside; skipped, never waited for, while somebody reads.
    pub(crate) fn publish(&self, histograms: &Histograms) {
        if let Ok(mut shown) = self.histograms.try_lock() {
            // Same bounds on both sides, so these neither fail nor allocate.
            let _ = shown.batch_ns.set_to(&histograms.batch_ns);
            let _ = shown.batch_packets.set_to(&histograms.batch_packets);
        }
    }

    /// Packet copies that captures lost; cheaper to ask for than [`Self::read`].
    #[must_use]
    pub fn capture_lost(&self) -> u64 {
        self.capture_lost.get()
    }

    /// Share of busy cycles in the last fraction of a second, in thousandths.
    pub(crate) fn recent_load(&self) -> u64 {
        self.recent_load.get()
    }

    /// Packets dropped since the start because there was no frame for them, or no place at a device.
    pub(crate) fn want_of_room(&self) -> u64 {
        let count = |reason: DropReason| self.exits.dropped[reason.index()].get();
        count(DropReason::NoRoom) + count(DropReason::TransmitRingFull) + count(DropReason::HandoverFull)
    }

    /// Packets taken from ports, but for those dropped for want of room.
    pub(crate) fn received_in_room(&self) -> u64 {
        self.received.get().saturating_sub(self.want_of_room())
    }

    /// The values now; histograms and frames as of the worker's last beat.
    #[must_use]
    pub fn read(&self) -> WorkerCounters {
        let shown = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        let [free, in_tokens, in_ports] =
            std::array::from_fn(|i| u32::try_from(self.frames[i].get()).unwrap_or(u32::MAX));
        WorkerCounters {
            core: self.core,
            received: self.received.get(),
            originated: self.originated.get(),
            transmitted: self.transmitted.get(),
            dropped: self.exits.dropped(),
            punted: self.exits.punted(),
            frames: Census {
                free,
                in_tokens,
                in_ports,
            },
            sleeps: self.sleeps.get(),
            busy_cycles: self.busy_cycles.get(),
            total_cycles: self.total_cycles.get(),
            load_permille: self.load_permille.get(),
            captured: self.captured.get(),
            capture_lost: self.capture_lost.get(),
            handed_over: self.handed_over.get(),
            taken_over: self.taken_over.get(),
            spread_out: self.spread_out.get(),
            spread_in: self.spread_in.get(),
            stray_descriptors: self.strays.get(),
            device_errors: self.device_errors.get(),
            replicated: self.replicated.get(),
            lessons: self.lessons.get(),
            lessons_lost: self.lessons_lost.get(),
            batch_ns: Summary::from(&shown.batch_ns),
            batch_packets: Summary::from(&shown.batch_packets),
        }
    }
}

/// A reading of [`WorkerStats`]. Reasons that never happened are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerCounters {
    /// The core it is pinned to.
    pub core: usize,
    /// Packets taken from ports.
    pub received: u64,
    /// Packets the switch made itself, copies too, or sent on after they had waited in the slow path.
    pub originated: u64,
    /// Packets put into transmit rings.
    pub transmitted: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Packets handed to the slow path, by reason.
    pub punted: BTreeMap<&'static str, u64>,
    /// Where the worker's frames are.
    pub frames: Census,
    /// Times it went to sleep for want of work.
    pub sleeps: u64,
    /// Cycles spent on turns that found work.
    pub busy_cycles: u64,
    /// Cycles since its start.
    pub total_cycles: u64,
    /// Share of busy cycles in the last beat, in thousandths: the load that means something.
    pub load_permille: u64,
    /// Packet copies handed to captures.
    pub captured: u64,
    /// Packet copies that captures lost because their queue was full.
    pub capture_lost: u64,
    /// Packets copied to another worker: because this one has no queue of their exit port, or is drowned.
    pub handed_over: u64,
    /// Packets that other workers handed over to this one.
    pub taken_over: u64,
    /// Of those handed over, the ones that another worker is to walk in this one's place.
    pub spread_out: u64,
    /// Of those taken over, the ones that were walked here in another worker's place.
    pub spread_in: u64,
    /// Descriptors that came back from a port that did not hold them. Anything but zero is a bug.
    pub stray_descriptors: u64,
    /// Errors that devices reported on transmission.
    pub device_errors: u64,
    /// Of those originated, the ones that are copies of a frame of a bridged network with several destinations.
    pub replicated: u64,
    /// Stations of bridged networks told to the slow path, which learns them.
    pub lessons: u64,
    /// Stations that were not, because its queue was full; they are told again when they are seen again.
    pub lessons_lost: u64,
    /// Time per batch.
    pub batch_ns: Summary,
    /// Packets per batch.
    pub batch_packets: Summary,
}

impl WorkerCounters {
    /// `received + originated + taken_over - transmitted - dropped - punted - handed_over`: zero whenever the worker is
    /// between two turns: what a turn sends is counted at its end.
    #[must_use]
    pub fn balance(&self) -> i128 {
        let sum = |exits: &BTreeMap<&str, u64>| exits.values().map(|count| i128::from(*count)).sum::<i128>();
        i128::from(self.received) + i128::from(self.originated) + i128::from(self.taken_over)
            - i128::from(self.transmitted)
            - i128::from(self.handed_over)
            - sum(&self.dropped)
            - sum(&self.punted)
    }
}

/// Counters of a worker, shared with those who read them.
pub type SharedStats = Arc<WorkerStats>;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::port::{PortId, QueueId};

    #[test]
    fn exits_balance_and_are_named() {
        let stats = WorkerStats::new(1).unwrap();
        let queue = QueueStats::new(PortId::new(3).unwrap(), QueueId(0));
        stats.received(3);
        stats.originated();
        stats.transmitted(1);
        stats.dropped(DropReason::NoRoute, Some(&queue));
        stats.dropped(DropReason::NoRoute, None);
        assert_eq!(stats.read().balance(), 1);
        stats.punted(PuntReason::Arp, Some(&queue));
        let read = stats.read();
        assert_eq!(read.balance(), 0);
        assert_eq!(read.dropped, BTreeMap::from([("no_route", 2)]));
        assert_eq!(queue.read().dropped, BTreeMap::from([("no_route", 1)]));
        assert_eq!(queue.read().punted, BTreeMap::from([("arp", 1)]));
    }

    #[test]
    fn histograms_are_seen_after_they_are_published() {
        let stats = WorkerStats::new(0).unwrap();
        let mut own = Histograms::new().unwrap();
        own.record(1000, 64);
        own.record(u64::MAX, 1);
        assert_eq!(stats.read().batch_ns.count, 0);
        stats.publish(&own);
        let read = stats.read();
        assert_eq!((read.batch_ns.count, read.batch_packets.max), (2, 64));
    }
}
