//! What was denied lately, for someone who looks: a bounded queue of each worker, which drops what nobody takes in time.
//! While nobody looks it costs a worker one load for each packet denied, and when it is full one more.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use super::{Query, RuleId, Side};
use crate::stats::Counter;

/// Packets that one worker's queue holds.
const DENIED_QUEUE: usize = 256;

/// A packet that a policy has denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// What it asked for, its destination that of the backend where it went to a Service.
    pub query: Query,
    /// To whom it was sent, where that was a Service.
    pub sent_to: IpAddr,
    /// Which side's policies denied it.
    pub side: Side,
    /// Which rule.
    pub rule: RuleId,
}

/// What was denied lately.
#[derive(Debug, Default)]
pub struct DeniedLog {
    is_followed: AtomicBool,
    /// By worker.
    queues: Vec<Queue>,
}

#[derive(Debug)]
struct Queue {
    packets: ArrayQueue<Denied>,
    lost: Counter,
}

impl DeniedLog {
    /// A log for so many workers, which nobody follows.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let queue = || Queue {
            packets: ArrayQueue::new(DENIED_QUEUE),
            lost: Counter::default(),
        };
        Self {
            is_followed: AtomicBool::new(false),
            queues: (0..workers).map(|_| queue()).collect(),
        }
    }

    /// Begins or ends to remember what is denied.
    pub fn follow(&self, is_followed: bool) {
        self.is_followed.store(is_followed, Ordering::Relaxed);
        if !is_followed {
            self.queues
                .iter()
                .for_each(|queue| while queue.packets.pop().is_some() {});
        }
    }

    /// Remembers a packet, if someone follows and has kept up; only this worker may call it.
    #[inline]
    pub fn note(&self, worker: usize, denied: &Denied) {
        if !self.is_followed.load(Ordering::Relaxed) {
            return;
        }
        let Some(queue) = self.queues.get(worker) else {
            return;
        };
        if queue.packets.is_full() || queue.packets.push(*denied).is_err() {
            queue.lost.add(1);
        }
    }

    /// Takes what was remembered, up to `most`.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Denied> {
        let packets = self
            .queues
            .iter()
            .flat_map(|queue| std::iter::from_fn(|| queue.packets.pop()));
        packets.take(most).collect()
    }

    /// How many packets were denied that nobody took in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.queues
            .iter()
            .map(|queue| queue.lost.get())
            .fold(0, u64::wrapping_add)
    }
}
