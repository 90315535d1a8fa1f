//! Results as a picture: throughput and latency.

use super::latency::Latency;
use super::outcome::{Outcome, Sample};
use super::search::Findings;
use crate::chart::{Axis, Chart, Series, document, plain};

/// Of the decades towards 100 %: 1 is 90 %, 2 is 99 %.
fn nines(value: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-value));
    format!("{percent:.3}")
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
        + " %"
}

/// A latency distribution over the decades towards 100 %, in microseconds.
#[allow(clippy::cast_precision_loss)] // INVARIANT: latencies are far below 2^52 ns.
fn curve(name: String, latency: &Latency) -> Series {
    let last = 1.0 / latency.packets.max(1) as f64;
    let points = latency.curve.iter().map(|point| {
        let rest = (1.0 - point.percentile / 100.0).max(last);
        (-rest.log10(), point.ns as f64 / 1000.0)
    });
    Series::line(name, points.collect())
}

fn latency_chart(series: Vec<Series>) -> Chart<'static> {
    Chart {
        title: "Latency",
        x: Axis {
            label: nines,
            ..Axis::from_zero("share of packets")
        },
        y: Axis::from_zero("microseconds at most"),
        series,
    }
}

/// A run: its rates over time, and how long its packets were under way.
#[must_use]
pub fn of_run(outcome: &Outcome) -> String {
    let over_time = |name: &str, rate: fn(&Sample) -> f64| {
        let points = outcome.samples.iter().map(|sample| (sample.at, rate(sample)));
        Series::line(name, points.collect())
    };
    let throughput = Chart {
        title: "Throughput",
        x: Axis::from_zero("seconds"),
        y: Axis::from_zero("packets per second"),
        series: vec![
            over_time("sent", |sample| sample.sent_per_second),
            over_time("received", |sample| sample.received_per_second),
        ],
    };
    let latency = outcome
        .latency
        .iter()
        .map(|latency| curve("all packets".to_owned(), latency));
    document(&[throughput, latency_chart(latency.collect())])
}

/// A search: what arrived of what was sent in each trial, and the latency at shares of the PDR.
#[must_use]
pub fn of_search(findings: &Findings) -> String {
    let mut tried: Vec<_> = findings
        .trials
        .iter()
        .map(|tried| (tried.sent_per_second, tried.received_per_second))
        .collect();
    tried.sort_by(|one, other| one.0.total_cmp(&other.0));
    let most = tried.iter().map(|point| point.0).fold(0.0, f64::max);
    let mut series = vec![
        Series::dots("received", tried),
        Series::line("no loss", vec![(0.0, 0.0), (most, most)]),
    ];
    for (name, found) in [("NDR", &findings.ndr), ("PDR", &findings.pdr)] {
        if let Some(found) = found {
            let points = vec![(found.rate, 0.0), (found.rate, found.rate)];
            series.push(Series::line(format!("{name} {}", plain(found.rate)), points));
        }
    }
    let throughput = Chart {
        title: "Throughput",
        x: Axis::from_zero("packets per second sent"),
        y: Axis::from_zero("packets per second received"),
        series,
    };
    let latency = findings.latency.iter().filter_map(|at| {
        let name = format!("at {:.0} % of the PDR", at.share * 100.0);
        Some(curve(name, at.latency.as_ref()?))
    });
    document(&[throughput, latency_chart(latency.collect())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_written_as_per_cents() {
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(nines), ["0 %", "90 %", "99 %", "99.9 %"]);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let empty = document(&[latency_chart(Vec::new())]);
        assert!(empty.starts_with("<svg") && empty.ends_with("</svg>\n"));
    }
}
