//! A wire in memory between two ends of a generator: what one sends the other receives, byte for byte.
//!
//! It measures the generator itself, and tests it. Packets are copied once into it and once out of it, as a veth does;
//! both ends take the lock once for a batch, and nothing is allocated once the buffers are there. A full wire
//! holds its sender up and loses nothing.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_dataplane::frame::{Frame, MAX_PACKET_LEN, Pool};
use millrace_dataplane::port::{Port, Settled};

/// Packets that may be on the wire.
const WIRE_LEN: usize = 2048;
/// Packets that an end collects before it puts them onto the wire.
const STAGE_LEN: usize = 256;

/// One direction of the wire.
#[derive(Debug, Default)]
struct Lane {
    packets: VecDeque<Vec<u8>>,
    /// Buffers that are free again.
    spare: Vec<Vec<u8>>,
    /// Nobody reads: whatever is put onto it is gone.
    swallows: bool,
}

type SharedLane = Arc<Mutex<Lane>>;

fn lock(lane: &SharedLane) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end of the wire.
#[derive(Debug)]
pub struct CableEnd {
    out: SharedLane,
    into: SharedLane,
    staged: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    taken: Vec<Vec<u8>>,
}

impl CableEnd {
    fn new(out: SharedLane, into: SharedLane) -> Self {
        let buffer = || Vec::with_capacity(MAX_PACKET_LEN);
        Self {
            out,
            into,
            staged: Vec::with_capacity(STAGE_LEN),
            spare: (0..STAGE_LEN).map(|_| buffer()).collect(),
            taken: Vec::with_capacity(STAGE_LEN),
        }
    }

    /// Both ends of a new wire.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (one, other) = (SharedLane::default(), SharedLane::default());
        (
            Self::new(Arc::clone(&one), Arc::clone(&other)),
            Self::new(other, one),
        )
    }

    /// An end whose other end swallows everything, and sends nothing.
    #[must_use]
    pub fn open_ended() -> Self {
        let lane = SharedLane::default();
        lock(&lane).swallows = true;
        Self::new(lane, SharedLane::default())
    }
}

impl Port for CableEnd {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let max = max.min(pool.available());
        let mut lane = lock(&self.into);
        lane.spare.append(&mut self.taken);
        let count = max.min(lane.packets.len());
        self.taken.extend(lane.packets.drain(..count));
        drop(lane);
        // INVARIANT: there is a frame for each, and each came out of one.
        into.extend(self.taken.iter().filter_map(|packet| pool.take_with(packet)));
        count
    }

    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        if self.staged.len() >= STAGE_LEN {
            return Err(frame);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame.bytes());
        self.staged.push(buffer);
        pool.give(frame);
        Ok(())
    }

    fn flush(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let mut lane = lock(&self.out);
        if lane.swallows {
            drop(lane);
            mem::swap(&mut self.staged, &mut self.taken);
            self.spare.append(&mut self.taken);
            return;
        }
        let room = WIRE_LEN.saturating_sub(lane.packets.len()).min(self.staged.len());
        lane.packets.extend(self.staged.drain(..room));
        let needed = STAGE_LEN.saturating_sub(self.spare.len() + self.staged.len());
        let from = lane.spare.len().saturating_sub(needed);
        self.spare.extend(lane.spare.drain(from..));
    }

    fn pending(&mut self) -> bool {
        !self.staged.is_empty()
    }

    fn settle(&mut self, _pool: &mut Pool) -> Settled {
        // What the wire had no room for.
        self.flush();
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
    fn packets_cross_in_order_and_a_full_wire_holds_its_sender_up() {
        let mut pool = Pool::on_heap(16);
        let (mut one, mut other) = CableEnd::pair();
        let mut sent = 0u32;
        loop {
            let frame = pool.take_with(&sent.to_be_bytes()).unwrap();
            match one.send(&mut pool, frame) {
                Ok(()) => sent += 1,
                Err(frame) => {
                    pool.give(frame);
                    one.flush();
                    if one.pending() {
                        break;
                    }
                }
            }
        }
        assert_eq!(sent as usize, WIRE_LEN + STAGE_LEN);
        let (mut frames, mut received) = (Vec::new(), 0u32);
        loop {
            let count = other.receive(&mut pool, &mut frames, 10);
            one.settle(&mut pool);
            for frame in frames.drain(..) {
                assert_eq!(frame.bytes(), received.to_be_bytes());
                received += 1;
                pool.give(frame);
            }
            if count == 0 {
                break;
            }
        }
        assert_eq!(received, sent);
        assert_eq!(pool.census().free, 16);
    }

    #[test]
    fn an_open_end_takes_everything() {
        let mut pool = Pool::on_heap(4);
        let mut end = CableEnd::open_ended();
        for _ in 0..3 * WIRE_LEN {
            let frame = pool.take_with(&[1; 60]).unwrap();
            assert!(end.send(&mut pool, frame).is_ok());
            end.flush();
        }
        assert!(!end.pending());
        assert_eq!(end.receive(&mut pool, &mut Vec::new(), 9), 0);
    }
}
