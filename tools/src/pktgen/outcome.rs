//! What came of a run.

use std::time::Duration;

use serde::Serialize;

use super::latency::Latency;
use super::rate::{FCS_LEN, PREAMBLE_AND_GAP_LEN};
use super::receiver::Received;
use super::sender::Sent;

/// A rate that is this near to the one asked for is said to be reached.
const REACHED: f64 = 0.99;

/// Rates of one second of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// Its end, in seconds since the beginning.
    pub at: f64,
    /// Packets sent per second.
    pub sent_per_second: f64,
    /// Packets received per second.
    pub received_per_second: f64,
}

impl Sample {
    #[allow(clippy::cast_precision_loss)] // INVARIANT: counts of packets are far below 2^52.
    pub(crate) fn between(at: Duration, seconds: f64, sent: u64, received: u64) -> Self {
        let seconds = seconds.max(f64::MIN_POSITIVE);
        Self {
            at: at.as_secs_f64(),
            sent_per_second: sent as f64 / seconds,
            received_per_second: received as f64 / seconds,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// How interfaces were opened.
    pub ends: Vec<String>,
    /// How long packets were sent, or waited for where none were, in seconds.
    pub seconds: f64,
    /// Packets per second that were asked for, where it was a number.
    pub asked_per_second: Option<f64>,
    /// Packets per second that were sent.
    pub sent_per_second: Option<f64>,
    /// Bits per second that were sent, frame check sequences included.
    pub sent_bits_l2: Option<f64>,
    /// The same with preambles and gaps.
    pub sent_bits_l1: Option<f64>,
    /// Whether what was asked for was reached; nothing where no number was.
    pub is_reached: Option<bool>,
    /// What was sent in all.
    pub sent: Option<Sent>,
    /// What arrived in all. Counted in the kernel, only the number of packets is known.
    pub received: Option<Received>,
    /// Packets received, per second that packets were sent.
    pub received_per_second: Option<f64>,
    /// Packets sent that never arrived; where nothing was sent, sequence numbers that are missing.
    pub lost: Option<u64>,
    /// Packets sent that never arrived or arrived damaged, as a share of those sent.
    pub loss: Option<f64>,
    /// How long they were under way.
    pub latency: Option<Latency>,
    /// How it went.
    pub samples: Vec<Sample>,
}

impl Outcome {
    #[allow(clippy::cast_precision_loss)] // INVARIANT: counts of packets are far below 2^52.
    pub(crate) fn of(
        asked: Option<f64>,
        sent: Option<Sent>,
        received: Option<Received>,
        is_steered: bool,
        elapsed: Duration,
    ) -> Self {
        let seconds = sent.map_or(elapsed.as_secs_f64(), |sent| sent.active_ns as f64 / 1e9);
        let rate = |count: u64| count as f64 / seconds.max(1e-9);
        let lost = received.map(|received| match sent {
            None => received.gaps,
            Some(sent) if is_steered => sent.packets.saturating_sub(received.packets),
            Some(sent) => (sent.packets - sent.unmarked)
                .saturating_sub(received.distinct + received.unplaced + received.too_old),
        });
        let failed = |lost: u64| lost + received.map_or(0, |received| received.corrupt);
        let marked = sent.map(|sent| sent.packets - sent.unmarked);
        let sent_per_second = sent.map(|sent| rate(sent.packets));
        let bits = |more: usize| {
            sent.map(|sent| rate(sent.bytes * 8) + rate(sent.packets * 8 * (FCS_LEN + more) as u64))
        };
        Self {
            ends: Vec::new(),
            seconds,
            asked_per_second: asked,
            sent_per_second,
            sent_bits_l2: bits(0),
            sent_bits_l1: bits(PREAMBLE_AND_GAP_LEN),
            is_reached: asked
                .zip(sent_per_second)
                .map(|(asked, sent)| sent >= asked * REACHED),
            sent,
            received,
            received_per_second: received.map(|received| rate(received.packets)),
            lost,
            loss: lost
                .zip(marked)
                .map(|(lost, marked)| failed(lost) as f64 / marked.max(1) as f64),
            latency: None,
            samples: Vec::new(),
        }
    }
}
