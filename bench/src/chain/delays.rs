//! How long packets were under way at one rate, over some trials.

use millrace_tools::pktgen::Latency;
use millrace_tools::pktgen::search::Tried;
use serde_json::{Map, Value, json};

use crate::statistics::{median, rounded};

/// One number of a distribution.
type Number = fn(&Latency) -> u64;

/// What is told of a trial, by its key.
const WHAT: [(&str, Number); 5] = [
    ("p50", |latency| latency.p50),
    ("p90", |latency| latency.p90),
    ("p99", |latency| latency.p99),
    ("p99.9", |latency| latency.p999),
    ("max", |latency| latency.max),
];

/// Trials at one rate.
#[derive(Debug, Clone, Default)]
pub(super) struct Delays {
    /// Packets per second that were asked for.
    rate: f64,
    sent: Vec<f64>,
    loss: Vec<f64>,
    /// The share of the packets that the reading end had no room for: then it was the limit.
    overrun: Vec<f64>,
    latency: Vec<Latency>,
}

impl Delays {
    /// None yet, at this rate.
    pub(super) fn at(rate: f64) -> Self {
        Self {
            rate,
            ..Self::default()
        }
    }

    /// Packets per second that are to be asked for.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes a trial down.
    #[allow(clippy::cast_precision_loss)] // INVARIANT: counts of packets are far below 2^52.
    pub(super) fn note(&mut self, tried: &Tried) {
        self.sent.push(tried.sent_per_second);
        self.loss.push(tried.loss);
        let arrived = tried
            .latency
            .as_ref()
            .map_or(0.0, |latency| latency.packets as f64);
        let overrun = tried.overrun as f64;
        self.overrun.push(overrun / (arrived + overrun).max(1.0));
        self.latency.extend(tried.latency.clone());
    }

    /// The median of one of [`WHAT`], in nanoseconds.
    #[allow(clippy::cast_precision_loss)] // INVARIANT: hours of nanoseconds are far below 2^52.
    fn ns(&self, of: Number) -> Option<f64> {
        let values: Vec<f64> = self.latency.iter().map(|latency| of(latency) as f64).collect();
        (!values.is_empty()).then(|| median(&values))
    }

    /// How long the slowest packet of all trials was under way, in nanoseconds.
    fn worst(&self) -> Option<u64> {
        self.latency.iter().map(|latency| latency.max).max()
    }

    /// The head of [`Self::row`].
    pub(super) fn head() -> String {
        let names: String = WHAT
            .iter()
            .map(|(name, _)| format!("{:>11}", format!("{name} us")))
            .collect();
        format!(
            "{:>12}{names}{:>11}{:>9}{:>9}",
            "sent/s", "worst us", "loss", "overrun"
        )
    }

    /// A line of a table.
    pub(super) fn row(&self) -> String {
        let cells: String = WHAT
            .iter()
            .map(|(_, of)| {
                self.ns(*of)
                    .map_or(format!("{:>11}", "-"), |ns| format!("{:>11.1}", ns / 1000.0))
            })
            .collect();
        #[allow(clippy::cast_precision_loss)] // INVARIANT: hours of nanoseconds are far below 2^52.
        let worst = self.worst().map_or(0.0, |ns| ns as f64 / 1000.0);
        format!(
            "{:>12.0}{cells}{worst:>11.1}{:>8.2}%{:>8.2}%",
            median(&self.sent),
            median(&self.loss) * 100.0,
            median(&self.overrun) * 100.0
        )
    }

    /// For the summary: nanoseconds, medians over all trials, and the worst of all.
    pub(super) fn figures(&self) -> Value {
        let mut figures = Map::from_iter([
            (
                "packets_per_second".to_owned(),
                json!(rounded(median(&self.sent), 0)),
            ),
            ("loss".to_owned(), json!(rounded(median(&self.loss), 6))),
            ("overrun".to_owned(), json!(rounded(median(&self.overrun), 6))),
            ("worst_ns".to_owned(), json!(self.worst())),
        ]);
        for (name, of) in WHAT {
            figures.insert(format!("{name}_ns"), json!(self.ns(of).map(|ns| rounded(ns, 0))));
        }
        Value::Object(figures)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tried(ns: u64, overrun: u64) -> Tried {
        let latency = Latency {
            packets: 300,
            min: ns,
            mean: 0.0,
            p50: ns,
            p90: ns + 1,
            p99: ns + 2,
            p999: ns + 3,
            max: ns + 4,
            curve: Vec::new(),
        };
        Tried {
            asked_per_second: Some(1000.0),
            sent_per_second: 1000.0,
            received_per_second: 1000.0,
            loss: 0.25,
            is_reached: true,
            overrun,
            latency: Some(latency),
        }
    }

    #[test]
    fn figures_are_medians_of_all_trials() {
        let mut delays = Delays::at(1000.0);
        for (ns, overrun) in [(5000, 0), (90_000, 100), (7000, 100)] {
            delays.note(&tried(ns, overrun));
        }
        let figures = delays.figures();
        assert_eq!(figures["p50_ns"], json!(7000.0));
        assert_eq!(figures["max_ns"], json!(7004.0));
        assert_eq!(figures["worst_ns"], json!(90_004));
        assert_eq!(figures["overrun"], json!(0.25));
        assert!(delays.row().contains("7.0"), "{}", delays.row());
    }

    #[test]
    fn without_a_packet_there_is_no_latency() {
        let mut delays = Delays::at(1000.0);
        delays.note(&Tried {
            latency: None,
            ..tried(1, 0)
        });
        assert_eq!(delays.figures()["p99_ns"], Value::Null);
    }
}
