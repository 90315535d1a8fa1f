//! Ports: where frames come from and go to.
//!
//! A port is an interface with one or more queues; a worker sees one queue at a time, as a [`Port`]. What is
//! behind it (an AF_XDP socket, rings in memory, a capture file) is the implementation's own secret.

mod join;
pub mod memory;
pub mod nic;
pub mod own;
pub mod pcap;
pub mod ring;
pub mod tagged;
pub mod tun;
pub mod umem;
pub mod xsk;

use std::fmt;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::frame::{Frame, Pool};
use crate::stats::DeviceStatistics;

/// A port's number: dense, reused only after the port is gone from every worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortId(u16);

impl PortId {
    /// How many ports a switch can have at once.
    pub const LIMIT: u16 = 4096;

    /// The port with this number; `None` from [`Self::LIMIT`] on.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::LIMIT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number as an index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A queue's number on its interface, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueId(pub u32);

impl QueueId {
    /// The worker that owns this queue when there are `workers` of them: queue q belongs to worker q mod N.
    #[must_use]
    pub fn worker(self, workers: usize) -> usize {
        self.0 as usize % workers.max(1)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What [`Port::settle`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// Frames whose transmission finished and that went back to the pool.
    pub completed: usize,
    /// Empty frames lent to the port to receive into.
    pub refilled: usize,
    /// The pool ran out before the port had all it wanted.
    pub starved: bool,
}

/// How far a queue is with what it was given to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transmission {
    /// Frames in the transmit ring that the device has not taken.
    pub waiting: u32,
    /// Frames that have not come back, those that wait included.
    pub under_way: u32,
    /// Frames the device has taken; the number wraps.
    pub taken: u32,
    /// Frames that have come back; the number wraps.
    pub completed: u32,
}

/// One queue of a port, as its worker sees it.
///
/// Frames go in and out as owned tokens of the worker's one [`Pool`]. Nothing here blocks.
pub trait Port {
    /// Appends up to `max` received frames to `into`; returns how many.
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize;

    /// Queues one frame for transmission, in order. Nothing is sent before [`Self::flush`].
    ///
    /// # Errors
    /// The frame itself, when the transmit ring is full.
    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame>;

    /// Hands what was queued to the device. An error of the device is kept for [`Self::last_error`]; frames it did
    /// not take stay in the ring and go with a later flush.
    fn flush(&mut self);

    /// Whether frames wait in the transmit ring that a flush could not hand over; they go with a later one.
    fn pending(&mut self) -> bool {
        false
    }

    /// How far it is with what it was given to send; nothing for a port that sends at once.
    fn transmission(&mut self) -> Transmission {
        Transmission::default()
    }

    /// Calls on a device that has frames and does not move, whether it asks for that or not: a wake-up may be lost.
    fn urge(&mut self) {}

    /// Gives back what it keeps for itself, before it is taken from its worker.
    fn let_go(&mut self, _pool: &mut Pool) {}

    /// Whether frames leave by this queue; one that only receives is no exit of its port.
    fn sends(&self) -> bool {
        true
    }

    /// Descriptors that came back although this port did not hold them. Anything but zero is a bug.
    fn strays(&self) -> u64 {
        0
    }

    /// Takes finished transmissions back into the pool and lends empty frames to receive into.
    fn settle(&mut self, pool: &mut Pool) -> Settled;

    /// What to poll for input while the worker sleeps; `None` for a port that never wakes anyone.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// The last error the device reported, as an `errno`; reading it clears it.
    fn last_error(&mut self) -> Option<i32>;

    /// The kernel's own counters of this queue; `None` for a port without any.
    fn device_statistics(&self) -> Option<DeviceStatistics> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_dealt_to_workers_in_turn() {
        let dealt: Vec<_> = (0..5).map(|q| QueueId(q).worker(2)).collect();
        assert_eq!(dealt, [0, 1, 0, 1, 0]);
        assert_eq!(PortId::new(PortId::LIMIT), None);
    }
}
