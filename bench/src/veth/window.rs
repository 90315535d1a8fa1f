//! What happened while packets flowed through one arm for a while.

use std::thread;
use std::time::{Duration, Instant};

use millrace_tools::lab::interrupt;
use millrace_tools::pktgen::Sender;

use super::arm::Arm;

/// How long a wait goes on before it looks at the interrupt flag again.
const BEAT: Duration = Duration::from_millis(50);

/// What one arm did in some seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    seconds: f64,
    sent: u64,
    delivered: u64,
    /// Processor time that forwarding took, in seconds.
    time: f64,
    /// Packets in a batch, where there are batches.
    pub(super) mean_batch: Option<f64>,
}

/// All counters at one moment.
struct Reading {
    at: Instant,
    sent: u64,
    delivered: u64,
    time: f64,
}

impl Reading {
    fn take(arm: &Arm, sender: &Sender) -> anyhow::Result<Self> {
        let time = arm.time()?;
        Ok(Self {
            at: Instant::now(),
            sent: sender.sent().packets,
            delivered: arm.delivered()?,
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
    /// When the sender or the arm fails, and on an interrupt.
    pub(super) fn measure(arm: &mut Arm, warm_up: Duration, duration: Duration) -> anyhow::Result<Self> {
        let sender = arm.start_sender()?;
        wait(warm_up)?;
        let batches_before = arm.batches()?;
        let first = Reading::take(arm, &sender)?;
        wait(duration)?;
        let last = Reading::take(arm, &sender)?;
        let batches_after = arm.batches()?;
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
    pub(super) fn delivered_per_second(&self) -> f64 {
        self.delivered as f64 / self.seconds
    }

    /// Packets that were sent, per second.
    pub(super) fn offered_per_second(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// The share of packets that never arrived.
    pub(super) fn loss(&self) -> f64 {
        1.0 - (self.delivered as f64 / self.sent.max(1) as f64).min(1.0)
    }

    /// The share of one core that forwarding took.
    pub(super) fn core_share(&self) -> f64 {
        self.time / self.seconds
    }

    /// Packets that arrived, per second of processor time.
    pub(super) fn per_core_second(&self) -> f64 {
        self.delivered as f64 / self.time.max(f64::MIN_POSITIVE)
    }
}

/// Waits, unless it is interrupted.
fn wait(duration: Duration) -> anyhow::Result<()> {
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
