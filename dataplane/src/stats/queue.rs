//! Counters of one queue of a port, ours and the kernel's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Counter, Exits};
use crate::port::{PortId, QueueId, Transmission};
use crate::verdict::{DropReason, PuntReason};

/// What the kernel counts for an AF_XDP socket (`XDP_STATISTICS`), and what is lost before it is a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceStatistics {
    /// Received packets dropped for other reasons than the next ones.
    pub rx_dropped: u64,
    /// Received packets dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring had no frame for a packet.
    pub rx_fill_ring_empty: u64,
    /// Fill ring entries that made no sense to the kernel.
    pub rx_invalid_descriptors: u64,
    /// Transmit ring entries that made no sense to the kernel.
    pub tx_invalid_descriptors: u64,
    /// Times the kernel looked for something to send and found nothing.
    pub tx_ring_empty: u64,
    /// Frames that the device took from the transmit ring and dropped, because its own queue was full.
    pub tx_dropped: u64,
    /// Packets received in several frames that found no run of frames free to be joined in.
    pub rx_no_run: u64,
    /// Packets received in more frames than a run has room for.
    pub rx_too_long: u64,
}

impl DeviceStatistics {
    fn fields(self) -> [u64; 9] {
        [
            self.rx_dropped,
            self.rx_ring_full,
            self.rx_fill_ring_empty,
            self.rx_invalid_descriptors,
            self.tx_invalid_descriptors,
            self.tx_ring_empty,
            self.tx_dropped,
            self.rx_no_run,
            self.rx_too_long,
        ]
    }

    fn from_fields(fields: [u64; 9]) -> Self {
        let [
            rx_dropped,
            rx_ring_full,
            rx_fill_ring_empty,
            rx_invalid,
            tx_invalid,
            tx_ring_empty,
            tx_dropped,
            rx_no_run,
            rx_too_long,
        ] = fields;
        Self {
            rx_dropped,
            rx_ring_full,
            rx_fill_ring_empty,
            rx_invalid_descriptors: rx_invalid,
            tx_invalid_descriptors: tx_invalid,
            tx_ring_empty,
            tx_dropped,
            rx_no_run,
            rx_too_long,
        }
    }
}

/// Counters of one queue of a port; exits are counted where the packet came in.
#[derive(Debug)]
#[repr(align(128))]
pub struct QueueStats {
    port: PortId,
    queue: QueueId,
    rx_packets: Counter,
    rx_bytes: Counter,
    tx_packets: Counter,
    tx_bytes: Counter,
    exits: Exits,
    device: [Counter; 9],
    tx_waiting: Counter,
    tx_under_way: Counter,
    tx_completed: Counter,
    stalled_ms: Counter,
}

impl QueueStats {
    /// All zero.
    #[must_use]
    pub fn new(port: PortId, queue: QueueId) -> Self {
        Self {
            port,
            queue,
            rx_packets: Counter::default(),
            rx_bytes: Counter::default(),
            tx_packets: Counter::default(),
            tx_bytes: Counter::default(),
            exits: Exits::default(),
            device: Default::default(),
            tx_waiting: Counter::default(),
            tx_under_way: Counter::default(),
            tx_completed: Counter::default(),
            stalled_ms: Counter::default(),
        }
    }

    pub(crate) fn received(&self, packets: u64, bytes: u64) {
        self.rx_packets.add(packets);
        self.rx_bytes.add(bytes);
    }

    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.add(packets);
        self.tx_bytes.add(bytes);
    }

    pub(super) fn dropped(&self, reason: DropReason) {
        self.exits.dropped[reason.index()].add(1);
    }

    pub(super) fn punted(&self, reason: PuntReason) {
        self.exits.punted[reason.index()].add(1);
    }

    pub(crate) fn set_device(&self, statistics: DeviceStatistics) {
        for (counter, value) in self.device.iter().zip(statistics.fields()) {
            counter.set(value);
        }
    }

    /// Shows how far transmission is, and for how long it has stood still, in milliseconds.
    pub(crate) fn set_transmission(&self, now: Transmission, stalled_ms: u64) {
        // The count wraps where it is kept, so what it grew by is added.
        #[allow(clippy::cast_possible_truncation)]
        let before = self.tx_completed.get() as u32;
        self.tx_completed
            .add(u64::from(now.completed.wrapping_sub(before)));
        self.tx_waiting.set(u64::from(now.waiting));
        self.tx_under_way.set(u64::from(now.under_way));
        self.stalled_ms.set(stalled_ms);
    }

    /// The values now.
    #[must_use]
    pub fn read(&self) -> QueueCounters {
        QueueCounters {
            port: self.port,
            queue: self.queue,
            rx_packets: self.rx_packets.get(),
            rx_bytes: self.rx_bytes.get(),
            tx_packets: self.tx_packets.get(),
            tx_bytes: self.tx_bytes.get(),
            dropped: self.exits.dropped(),
            punted: self.exits.punted(),
            device: DeviceStatistics::from_fields(std::array::from_fn(|i| self.device[i].get())),
            tx_waiting: self.tx_waiting.get(),
            tx_under_way: self.tx_under_way.get(),
            tx_completed: self.tx_completed.get(),
            stalled_ms: self.stalled_ms.get(),
        }
    }
}

/// A reading of [`QueueStats`]. Reasons that never happened are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueCounters {
    /// The port.
    pub port: PortId,
    /// The queue of it.
    pub queue: QueueId,
    /// Packets taken from the queue.
    pub rx_packets: u64,
    /// Their bytes, Ethernet header included.
    pub rx_bytes: u64,
    /// Packets put into the transmit ring.
    pub tx_packets: u64,
    /// Their bytes, Ethernet header included.
    pub tx_bytes: u64,
    /// Packets that came in here and were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Packets that came in here and went to the slow path, by reason.
    pub punted: BTreeMap<&'static str, u64>,
    /// The kernel's own counters.
    pub device: DeviceStatistics,
    /// Frames in the transmit ring that the device has not taken.
    pub tx_waiting: u64,
    /// Frames that were given to the device and have not come back, those that wait included.
    pub tx_under_way: u64,
    /// Frames that have come back.
    pub tx_completed: u64,
    /// For how long frames have waited without any being taken or coming back, in milliseconds; 0 for a queue that sends.
    pub stalled_ms: u64,
}
