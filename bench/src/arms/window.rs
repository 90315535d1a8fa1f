//! What happened while packets flowed through a subject for a while.

use std::thread;
use std::time::{Duration, Instant};

use millrace_tools::lab::interrupt;
use millrace_tools::pktgen::{Sender, Sink};

use super::{Bed, Direction};

/// How long a wait goes on before it looks at the interrupt flag again.
const BEAT: Duration = Duration::from_millis(50);

/// What one subject did in some seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    seconds: f64,
    sent: u64,
    delivered: u64,
    /// Processor time that forwarding took, in seconds.
    time: f64,
    /// Packets in a batch, where there are batches.
    pub(crate) mean_batch: Option<f64>,
}

/// All counters at one moment.
struct Reading {
    at: Instant,
    sent: u64,
    delivered: u64,
    time: f64,
}

impl Reading {
    fn take(bed: &Bed, sender: &Sender, sink: &Sink) -> anyhow::Result<Self> {
        let time = bed.time()?;
        Ok(Self {
            at: Instant::now(),
            sent: sender.sent().packets,
            delivered: sink.packets()?,
            time,
        })
    }
}

// INVARIANT: counts of packets are far below 2^52, so that nothing is lost.
#[allow(clippy::cast_precision_loss)]
impl Window {
    /// Sends as fast as it goes, for `warm_up` and then for `duration`, and measures the latter.
    ///
    /// # Errors
    /// When the sender or the subject fails, and on an interrupt.
    pub(crate) fn measure(
        bed: &mut Bed,
        direction: Direction,
        warm_up: Duration,
        duration: Duration,
    ) -> anyhow::Result<Self> {
        let confined = bed.confine()?;
        let sink = bed.sink(direction)?;
        let sender = bed.start_sender(direction)?;
        wait(warm_up)?;
        let batches_before = bed.batches()?;
        let first = Reading::take(bed, &sender, &sink)?;
        wait(duration)?;
        let last = Reading::take(bed, &sender, &sink)?;
        let batches_after = bed.batches()?;
        drop(confined);
        sender.stop()?;
        let mean_batch = batches_before.zip(batches_after).map(|(before, after)| {
            let (packets, count) = (after.packets - before.packets, after.count - before.count);
            packets as f64 / count.max(1) as f64
        });
        Ok(Self {
            seconds: last.at.duration_since(first.at).as_secs_f64(),
            sent: last.sent - first.sent,
            delivered: last.delivered - first.delivered,
            time: last.time - first.time,
            mean_batch,
        })
    }

    /// Packets that arrived, per second.
    pub(crate) fn delivered_per_second(&self) -> f64 {
        self.delivered as f64 / self.seconds
    }

    /// Packets that were sent, per second.
    pub(crate) fn offered_per_second(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// The share of packets that never arrived.
    pub(crate) fn loss(&self) -> f64 {
        1.0 - (self.delivered as f64 / self.sent.max(1) as f64).min(1.0)
    }

    /// The share of one core that forwarding took.
    pub(crate) fn core_share(&self) -> f64 {
        self.time / self.seconds
    }

    /// Packets that arrived, per second of processor time.
    pub(crate) fn per_core_second(&self) -> f64 {
        self.delivered as f64 / self.time.max(f64::MIN_POSITIVE)
    }
}

/// Waits.
///
/// # Errors
/// On an interrupt.
pub(crate) fn wait(duration: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + duration;
    loop {
        interrupt::check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(BEAT));
    }
}
