//! How long batches take and how large they are, and a histogram in a few numbers.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest batch time that is told apart: one second.
const BATCH_NS_MAX: u64 = 1_000_000_000;
/// Significant digits of the histograms.
const DIGITS: u8 = 2;

/// How batches were: their time and their size.
#[derive(Debug, Clone)]
pub struct Histograms {
    /// Nanoseconds per batch, from the first frame in hand to the last exit.
    pub batch_ns: Histogram<u64>,
    /// Packets per batch.
    pub batch_packets: Histogram<u64>,
}

impl Histograms {
    /// Empty; `None` only if the bounds made no sense, which they do.
    #[must_use]
    pub fn new() -> Option<Self> {
        let batch_ns = Histogram::new_with_bounds(1, BATCH_NS_MAX, DIGITS).ok()?;
        let batch_packets = Histogram::new_with_bounds(1, 1024, DIGITS).ok()?;
        Some(Self {
            batch_ns,
            batch_packets,
        })
    }

    pub(crate) fn record(&mut self, ns: u64, packets: u64) {
        self.batch_ns.saturating_record(ns.max(1));
        self.batch_packets.saturating_record(packets);
    }
}

/// A histogram in a few numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Samples.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Summary {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}
