//! Ports in memory that offer frames at a rate, or without end, and forget what is sent by them.
//!
//! Time is the worker's own, that of its thread on a core: while something else has the core, nothing comes, and nothing is lost for it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_dataplane::frame::{Frame, Pool};
use millrace_dataplane::port::{Port, Settled};

use rustix::time::{ClockId, clock_gettime};

use super::frames::Frames;

/// Frames that wait at a port for the worker; what comes on top of that is lost, as in the rings of a NIC.
const RING: u64 = 2048;
/// The bit of a group's link address (IEEE 802 section 8.2).
const GROUP: u8 = 1;

/// What a port counts, for who looks on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// The worker's time, in nanoseconds, when the port was looked at last; of one that offers nothing, none.
    pub(super) ns: AtomicU64,
    /// Frames that were to be sent by now, whether they found room or not.
    pub(super) offered: AtomicU64,
    /// Frames that the worker took.
    pub(super) taken: AtomicU64,
    /// Frames to one station that the worker sent by the port.
    pub(super) sent: AtomicU64,
}

/// How much a port offers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Offer {
    /// Nothing.
    Silent,
    /// As much as is taken.
    Endless,
    /// So many frames a second.
    Paced(f64),
}

/// A port.
pub(super) struct StormPort {
    frames: Frames,
    offer: Offer,
    counts: Arc<Counts>,
    began: Option<u64>,
    taken: u64,
    lost: u64,
}

impl StormPort {
    pub(super) fn new(frames: Frames, offer: Offer, counts: Arc<Counts>) -> Self {
        Self {
            frames,
            offer,
            counts,
            began: None,
            taken: 0,
            lost: 0,
        }
    }

    /// How many frames wait.
    fn waiting(&mut self) -> u64 {
        let rate = match self.offer {
            Offer::Silent => return 0,
            Offer::Endless => {
                self.counts.ns.store(thread_ns(), Ordering::Relaxed);
                return RING;
            }
            Offer::Paced(rate) => rate,
        };
        let now = thread_ns();
        self.counts.ns.store(now, Ordering::Relaxed);
        let ns = now - *self.began.get_or_insert(now);
        // INVARIANT: both are far below 2^52, and neither is negative.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let offered = (ns as f64 * rate / 1e9) as u64;
        self.counts.offered.store(offered, Ordering::Relaxed);
        let waiting = offered - self.taken - self.lost;
        let over = waiting.saturating_sub(RING);
        self.lost += over;
        waiting - over
    }
}

/// How long the thread has been on a core.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // INVARIANT: neither is negative.
    let [seconds, ns] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap_or_default());
    seconds * 1_000_000_000 + ns
}

impl Port for StormPort {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let wanted = usize::try_from(self.waiting()).unwrap_or(max).min(max);
        let mut count = 0;
        while count < wanted {
            let Some(frame) = pool.take_with(self.frames.next()) else {
                break;
            };
            into.push(frame);
            count += 1;
        }
        self.taken += count as u64;
        self.counts.taken.store(self.taken, Ordering::Relaxed);
        count
    }

    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        if frame.bytes().first().is_some_and(|first| first & GROUP == 0) {
            self.counts.sent.fetch_add(1, Ordering::Relaxed);
        }
        pool.give(frame);
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
mod tests {
    use super::super::frames::{PORT_A, PORT_B, frames_between};
    use super::*;

    #[test]
    fn what_is_not_taken_in_time_is_lost_and_counted_as_offered() {
        let counts = Arc::new(Counts::default());
        let frames = frames_between(PORT_A, PORT_B);
        let mut port = StormPort::new(frames, Offer::Paced(1e9), Arc::clone(&counts));
        let (mut pool, mut into) = (Pool::on_heap(64), Vec::new());
        port.receive(&mut pool, &mut into, 64);
        let began = thread_ns();
        while thread_ns() - began < 5_000_000 {}
        assert_eq!(port.receive(&mut pool, &mut into, 8), 8);
        assert!(counts.offered.load(Ordering::Relaxed) > 4_000_000);
        assert_eq!(counts.taken.load(Ordering::Relaxed), into.len() as u64);
        assert!(port.lost > 4_000_000 - 2 * RING && port.waiting() <= RING);
        into.drain(..).for_each(|frame| pool.give(frame));
    }
}
