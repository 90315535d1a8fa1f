//! Results for a person: lines and columns.

use std::fmt::Write as _;

use super::latency::Latency;
use super::outcome::Outcome;
use super::receiver::Received;
use super::search::{Findings, Found, Tried};
use super::sender::Sent;
use super::session::Progress;

/// A number of packets or bits a second, with three or four digits that matter.
fn scaled(number: f64) -> String {
    for (factor, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if number >= factor {
            return format!("{:.3} {unit}", number / factor);
        }
    }
    format!("{number:.1} ")
}

/// A time in the unit that suits it.
#[allow(clippy::cast_precision_loss)] // INVARIANT: latencies are far below 2^52 ns.
fn time(ns: u64) -> String {
    let ns = ns as f64;
    for (factor, unit) in [(1e9, "s"), (1e6, "ms"), (1e3, "us")] {
        if ns >= factor {
            return format!("{:.1} {unit}", ns / factor);
        }
    }
    format!("{ns:.0} ns")
}

fn percent(share: f64) -> String {
    format!("{:.4} %", share * 100.0)
}

/// The table of a run.
#[must_use]
pub fn of_run(outcome: &Outcome) -> String {
    let mut rows: Vec<Row> = outcome.ends.iter().map(|end| ("end", end.clone())).collect();
    rows.push(("time", format!("{:.3} s", outcome.seconds)));
    if let (Some(sent), Some(rate)) = (&outcome.sent, outcome.sent_per_second) {
        rows.extend(rows_of_sent(outcome, sent, rate));
    }
    if let (Some(received), Some(rate)) = (&outcome.received, outcome.received_per_second) {
        rows.extend(rows_of_received(received, rate));
    }
    if let Some(lost) = outcome.lost {
        let loss = outcome
            .loss
            .map(|loss| format!(" (lost or corrupt: {})", percent(loss)));
        rows.push(("lost", format!("{lost}{}", loss.unwrap_or_default())));
    }
    if let Some(latency) = &outcome.latency {
        rows.push(("latency", percentiles(latency)));
    }
    rows.into_iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<12} {value}");
        text
    })
}

/// A name and a value.
type Row = (&'static str, String);

fn rows_of_sent(outcome: &Outcome, sent: &Sent, rate: f64) -> Vec<Row> {
    let bits = |bits: Option<f64>| scaled(bits.unwrap_or(0.0));
    let (l2, l1) = (bits(outcome.sent_bits_l2), bits(outcome.sent_bits_l1));
    let (packets, rates) = (sent.packets, scaled(rate));
    let mut rows = vec![
        ("sent", format!("{packets} packets, {} bytes", sent.bytes)),
        (
            "rate",
            format!("{rates}packets/s, {l2}bit/s of frames, {l1}bit/s on the wire"),
        ),
    ];
    if let (Some(asked), Some(false)) = (outcome.asked_per_second, outcome.is_reached) {
        let (share, asked) = (rate / asked * 100.0, scaled(asked));
        rows.push((
            "not reached",
            format!("{asked}packets/s were asked for; {share:.1} % of that was sent"),
        ));
    }
    let more = [
        (
            "unmarked",
            sent.unmarked,
            "packets of the recording without a mark, which are not counted",
        ),
        (
            "refused",
            sent.refused,
            "more packets, which the sending interface did not take",
        ),
        (
            "errors",
            sent.device_errors,
            "times the device reported an error while sending",
        ),
    ];
    let more = more.into_iter().filter(|(_, count, _)| *count > 0);
    rows.extend(more.map(|(name, count, what)| (name, format!("{count} {what}"))));
    rows
}

fn rows_of_received(received: &Received, rate: f64) -> Vec<Row> {
    let (packets, bytes, rates) = (received.packets, received.bytes, scaled(rate));
    let counts = [
        ("duplicates", received.duplicates),
        ("reordered", received.reordered),
        ("corrupt", received.corrupt),
        ("too old", received.too_old),
        ("in VXLAN", received.vxlan),
        ("in IPIP", received.ipip),
        ("of others", received.strangers),
        ("overrun here", received.overrun),
    ];
    let told = counts
        .into_iter()
        .filter(|(name, count)| *count > 0 || ALWAYS.contains(name));
    let rows = told.map(|(name, count)| match name {
        "reordered" if count > 0 => (
            name,
            format!(
                "{count}, {} of them within their flow; by {} at most",
                received.reordered_in_flow, received.reordered_by_max
            ),
        ),
        _ => (name, count.to_string()),
    });
    let first = (
        "received",
        format!("{packets} packets, {bytes} bytes, {rates}packets/s"),
    );
    [first].into_iter().chain(rows).collect()
}

/// Rows that are there even when nothing was counted.
const ALWAYS: [&str; 3] = ["duplicates", "reordered", "corrupt"];

fn percentiles(latency: &Latency) -> String {
    format!(
        "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
        time(latency.p50),
        time(latency.p90),
        time(latency.p99),
        time(latency.p999),
        time(latency.max)
    )
}

/// The line of one trial of a search.
#[must_use]
pub fn of_trial(tried: &Tried) -> String {
    let asked = tried
        .asked_per_second
        .map_or_else(|| "as fast as it goes: ".to_owned(), |_| String::new());
    let reached = if tried.is_reached {
        ""
    } else {
        ", not as fast as asked"
    };
    let overrun = if tried.overrun > 0 {
        format!(", {} overrun here", tried.overrun)
    } else {
        String::new()
    };
    format!(
        "{asked}{}packets/s sent, {}packets/s received, {} lost{reached}{overrun}",
        scaled(tried.sent_per_second),
        scaled(tried.received_per_second),
        percent(tried.loss)
    )
}

/// The table of a search.
#[must_use]
pub fn of_search(findings: &Findings) -> String {
    let mut text = String::new();
    let bits = |rate: f64| scaled(rate * 8.0 * (findings.mean_frame_len + 24.0));
    let mut rate = |name: &str, found: Option<&Found>| {
        let value = match found {
            None => "not found before the stop".to_owned(),
            Some(found) if found.rate <= 0.0 => "none: the lowest rate tried loses packets".to_owned(),
            Some(found) => {
                let limit = if found.is_generators_limit {
                    "; nothing faster was sent, what is tested may do more"
                } else {
                    ""
                };
                format!(
                    "{}packets/s, {}bit/s on the wire, {} lost, passed {} times more{limit}",
                    scaled(found.rate),
                    bits(found.rate),
                    percent(found.loss),
                    found.verified
                )
            }
        };
        let _ = writeln!(text, "{name:<12} {value}");
    };
    rate("NDR", findings.ndr.as_ref());
    rate("PDR", findings.pdr.as_ref());
    for at in &findings.latency {
        let name = format!("at {:.0} %", at.share * 100.0);
        let latency = at
            .latency
            .as_ref()
            .map_or_else(|| "nothing arrived".to_owned(), percentiles);
        let _ = writeln!(text, "{name:<12} {}packets/s: {latency}", scaled(at.rate));
    }
    let _ = writeln!(text, "{:<12} {}", "trials", findings.trials.len());
    text
}

/// The line of a run that is going on.
#[must_use]
pub fn of_progress(progress: &Progress) -> String {
    let mut line = format!(
        "{:.0} of {:.0} s",
        progress.elapsed.as_secs_f64(),
        progress.duration.as_secs_f64()
    );
    let (sent, received) = (progress.sent, progress.received);
    if let (Some(_), Some(rates)) = (sent, progress.rates) {
        let _ = write!(line, "; sent {}packets/s", scaled(rates.sent_per_second));
    }
    if let (Some(received), Some(rates)) = (received, progress.rates) {
        let _ = write!(line, "; received {}packets/s", scaled(rates.received_per_second));
        for (name, count) in [
            ("duplicates", received.duplicates),
            ("reordered", received.reordered),
            ("corrupt", received.corrupt),
        ] {
            if count > 0 {
                let _ = write!(line, ", {count} {name}");
            }
        }
    }
    if let (Some(sent), Some(received)) = (sent, received) {
        let _ = write!(
            line,
            "; {} under way or lost",
            sent.saturating_sub(received.packets)
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_the_unit_that_suits_them() {
        assert_eq!(scaled(14_880_952.4), "14.881 M");
        assert_eq!(scaled(1e10), "10.000 G");
        assert_eq!(scaled(12.5), "12.5 ");
        assert_eq!(
            [999, 1_500, 2_000_000, 3_000_000_000].map(time),
            ["999 ns", "1.5 us", "2.0 ms", "3.0 s"]
        );
        assert_eq!(percent(0.005), "0.5000 %");
    }
}
