//! A port whose wire is memory: for tests, fuzzers and benchmarks, without root and without a device.
//!
//! What the other end of the wire sends is put in with [`Wire::put`]; what the switch sent comes out of
//! [`Wire::take`]. A [`LoopPort`] is the benchmark's variant: it owns frames of its own and hands them out again
//! and again, so that a run costs no copying.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Port, Settled, Transmission};
use crate::frame::{Frame, Pool};

/// The far end of a [`MemoryPort`].
#[derive(Debug, Clone, Default)]
pub struct Wire {
    ends: Arc<Mutex<Ends>>,
}

#[derive(Debug, Default)]
struct Ends {
    to_switch: VecDeque<Vec<u8>>,
    from_switch: VecDeque<Vec<u8>>,
    held: bool,
    calls: u32,
}

impl Wire {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a packet to the switch.
    pub fn put(&self, packet: &[u8]) {
        self.ends().to_switch.push_back(packet.to_vec());
    }

    /// Has the device take nothing more, or go on.
    pub fn hold(&self, held: bool) {
        self.ends().held = held;
    }

    /// How often the device was called on although it stood still ([`Port::urge`]).
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.ends().calls
    }

    /// Takes the oldest packet that the switch sent.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        self.ends().from_switch.pop_front()
    }
}

/// One queue of a port in memory.
#[derive(Debug)]
pub struct MemoryPort {
    wire: Wire,
    queued: Vec<Frame>,
    sent: Vec<Frame>,
    ring_len: usize,
    sends: bool,
    /// A flush could not hand over all.
    left: bool,
    taken: u32,
    completed: u32,
}

impl MemoryPort {
    /// A port with a transmit ring of `ring_len` frames, and the far end of its wire.
    #[must_use]
    pub fn new(ring_len: usize) -> (Self, Wire) {
        let wire = Wire::default();
        (Self::on(&wire, ring_len), wire)
    }

    /// One more queue with this wire.
    #[must_use]
    pub fn on(wire: &Wire, ring_len: usize) -> Self {
        Self {
            wire: wire.clone(),
            queued: Vec::new(),
            sent: Vec::new(),
            ring_len,
            sends: true,
            left: false,
            taken: 0,
            completed: 0,
        }
    }

    /// Makes it a queue that only receives.
    pub fn only_receive(&mut self) {
        self.sends = false;
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let mut ends = self.wire.ends();
        let mut count = 0;
        while count < max && pool.available() > 0 {
            let Some(packet) = ends.to_switch.pop_front() else {
                break;
            };
            // A packet that no frame could hold would not have got past a real device either.
            let Some(frame) = pool.take_with(&packet) else {
                continue;
            };
            into.push(frame);
            count += 1;
        }
        count
    }

    fn send(&mut self, _pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        if self.queued.len() + self.sent.len() >= self.ring_len {
            return Err(frame);
        }
        self.queued.push(frame);
        Ok(())
    }

    fn sends(&self) -> bool {
        self.sends
    }

    fn flush(&mut self) {
        let mut ends = self.wire.ends();
        self.left = ends.held && !self.queued.is_empty();
        if self.left {
            return;
        }
        for frame in self.queued.drain(..) {
            self.taken = self.taken.wrapping_add(1);
            ends.from_switch.push_back(frame.bytes().to_vec());
            self.sent.push(frame);
        }
    }

    fn settle(&mut self, pool: &mut Pool) -> Settled {
        if self.left {
            self.flush();
        }
        let completed = self.sent.len();
        self.completed = self.completed.wrapping_add(in_u32(completed));
        self.sent.drain(..).for_each(|frame| pool.give(frame));
        Settled {
            completed,
            ..Settled::default()
        }
    }

    fn pending(&mut self) -> bool {
        self.left
    }

    fn transmission(&mut self) -> Transmission {
        Transmission {
            waiting: in_u32(self.queued.len()),
            under_way: in_u32(self.queued.len() + self.sent.len()),
            taken: self.taken,
            completed: self.completed,
        }
    }

    fn urge(&mut self) {
        self.wire.ends().calls += 1;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn last_error(&mut self) -> Option<i32> {
        None
    }
}

fn in_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A port that hands out frames of its own, and takes back whatever is sent to it.
///
/// For benchmarks: [`LoopPort::load`] fills it; after each walk the harness takes the frames back and restores what the walk
/// changed (a pushed header is pulled again). The last batch that was loaded is the first to be received: two stacks cost
/// less than two queues, and less than the rings of a real port.
#[derive(Debug, Default)]
pub struct LoopPort {
    waiting: Vec<Frame>,
    sent: Vec<Frame>,
}

impl LoopPort {
    /// Adds a frame.
    pub fn load(&mut self, frame: Frame) {
        self.waiting.push(frame);
    }

    /// Takes the newest frame that was sent here.
    pub fn take_sent(&mut self) -> Option<Frame> {
        self.sent.pop()
    }

    /// Makes room once for `frames` frames, so that no later call allocates.
    #[must_use]
    pub fn with_capacity(frames: usize) -> Self {
        Self {
            waiting: Vec::with_capacity(frames),
            sent: Vec::with_capacity(frames),
        }
    }

    /// Gives every frame back to the pool.
    pub fn drain(&mut self, pool: &mut Pool) {
        self.waiting
            .drain(..)
            .chain(self.sent.drain(..))
            .for_each(|frame| pool.give(frame));
    }
}

impl Port for LoopPort {
    fn receive(&mut self, _pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let left = self.waiting.len().saturating_sub(max);
        let count = self.waiting.len() - left;
        into.extend(self.waiting.drain(left..));
        count
    }

    #[inline]
    fn send(&mut self, _pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        self.sent.push(frame);
        Ok(())
    }

    fn flush(&mut self) {}

    fn settle(&mut self, _pool: &mut Pool) -> Settled {
        Settled::default()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn last_error(&mut self) -> Option<i32> {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn long_packets_cross_the_wire_where_there_are_runs() {
        let mut pool = Pool::on_heap(12);
        pool.keep_runs(1);
        let (mut port, wire) = MemoryPort::new(2);
        let packet: Vec<u8> = (0..9000_u32).map(|n| (n % 251) as u8).collect();
        wire.put(&packet);
        let mut frames = Vec::new();
        assert_eq!(port.receive(&mut pool, &mut frames, 64), 1);
        port.send(&mut pool, frames.pop().unwrap()).unwrap();
        port.flush();
        port.settle(&mut pool);
        assert_eq!(wire.take().unwrap(), packet);
        assert_eq!((pool.census().free, pool.available_runs()), (12, 1));
    }

    #[test]
    fn packets_cross_the_wire_and_the_pool_stays_whole() {
        let mut pool = Pool::on_heap(4);
        let (mut port, wire) = MemoryPort::new(2);
        for byte in 0..3u8 {
            wire.put(&[byte; 60]);
        }
        let mut frames = Vec::new();
        assert_eq!(port.receive(&mut pool, &mut frames, 64), 3);
        let mut full = 0;
        for frame in frames.drain(..) {
            if let Err(frame) = port.send(&mut pool, frame) {
                full += 1;
                pool.give(frame);
            }
        }
        assert_eq!(full, 1, "the ring takes two");
        assert_eq!(wire.take(), None, "nothing leaves before the flush");
        port.flush();
        assert_eq!(port.settle(&mut pool).completed, 2);
        assert_eq!(wire.take().unwrap(), [0; 60]);
        assert_eq!(wire.take().unwrap(), [1; 60]);
        assert_eq!(pool.census().free, 4);
    }
}
