//! How long packets were under way, summed up.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Points of the curve for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;
/// Points of the curve at most.
const CURVE_MAX: usize = 200;

/// A point of the curve: so many per cent took so long at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Per cent of the packets.
    pub percentile: f64,
    /// Nanoseconds.
    pub ns: u64,
}

/// Latency from the moment a packet was due to its being read from the receiving ring, in nanoseconds.
///
/// A sender that is held up is late, and so are its packets: what was due is stamped, not what happened, so no delay
/// hides in packets that were not sent ("coordinated omission"). At `max` every packet is due when it can be sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Packets that were measured.
    pub packets: u64,
    /// The shortest.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// Half of all packets took at most this.
    pub p50: u64,
    /// 90 % did.
    pub p90: u64,
    /// 99 % did.
    pub p99: u64,
    /// 99.9 % did.
    #[serde(rename = "p99.9")]
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// The whole distribution.
    pub curve: Vec<Point>,
}

impl Latency {
    /// Sums up; none of no packets.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |percentile: f64| histogram.value_at_percentile(percentile);
        let points = histogram.iter_quantiles(TICKS_PER_HALF).take(CURVE_MAX);
        Some(Self {
            packets: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: histogram.max(),
            curve: points
                .map(|point| Point {
                    // Without what binary fractions leave behind.
                    percentile: (point.quantile_iterated_to() * 1e9).round() / 1e7,
                    ns: point.value_iterated_to(),
                })
                .collect(),
        })
    }
}
