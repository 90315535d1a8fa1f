//! The demo's table, and the list of what failed.

use std::fmt::Write;

use super::checks::{Outcome, Protocol, median};
use super::flows::{Family, Row};

/// Width of the column with the kind of traffic.
const NAME_WIDTH: usize = 34;
/// Width of a column that counts.
const COUNT_WIDTH: usize = 9;
/// Width of a column that measures.
const MEASURE_WIDTH: usize = 13;

/// Width of the column with the family.
const FAMILY_WIDTH: usize = 4;

/// Lays out what passed, by kind of traffic, family and protocol. A kind that does not occur has no row.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!("{:NAME_WIDTH$}{:FAMILY_WIDTH$}", "traffic", "");
    for protocol in Protocol::ALL {
        text.push_str(&format!(
            "{:>COUNT_WIDTH$}{:>MEASURE_WIDTH$}",
            protocol.name(),
            "median"
        ));
    }
    let rows = Row::ALL
        .into_iter()
        .flat_map(|row| Family::ALL.map(|family| (row, family)));
    for (row, family) in rows {
        let is_of_row = |outcome: &&Outcome| (outcome.row, outcome.family) == (row, family);
        let of_row: Vec<&Outcome> = outcomes.iter().filter(is_of_row).collect();
        if of_row.is_empty() {
            continue;
        }
        let (name, family) = (row.name(), family.name());
        text.push_str(&format!("\n{name:NAME_WIDTH$}{family:FAMILY_WIDTH$}"));
        for protocol in Protocol::ALL {
            let (count, measure) = cells(&of_row, protocol);
            text.push_str(&format!("{count:>COUNT_WIDTH$}{measure:>MEASURE_WIDTH$}"));
        }
    }
    text.push('\n');
    text
}

/// The two cells of a protocol in a row: how many passed of how many, and the median of those.
fn cells(of_row: &[&Outcome], protocol: Protocol) -> (String, String) {
    let tried = of_row.iter().filter(|outcome| outcome.protocol == protocol);
    let total = tried.clone().count();
    let passed: Vec<f64> = tried.filter_map(|outcome| outcome.result.clone().ok()).collect();
    let count = format!("{}/{total}", passed.len());
    let measure = match (median(passed), protocol) {
        (None, _) => "-".to_owned(),
        (Some(value), Protocol::Ping) => format!("{value:.2} {}", protocol.unit()),
        (Some(value), Protocol::Udp | Protocol::Tcp) => format!("{value:.0} {}", protocol.unit()),
    };
    (count, measure)
}

/// Lists what failed, and why; nothing if nothing did.
pub(crate) fn failures(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for Outcome {
        protocol,
        label,
        result,
        ..
    } in outcomes
    {
        if let Err(reason) = result {
            // Writing to a string does not fail.
            let _ = writeln!(text, "FAILED {} {label}: {reason}", protocol.name());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(row: Row, protocol: Protocol, result: Result<f64, &str>) -> Outcome {
        Outcome {
            row,
            family: Family::V4,
            protocol,
            label: "pod-a1 -> pod-b1".into(),
            result: result.map_err(str::to_owned),
        }
    }

    #[test]
    fn rows_count_what_passed_and_take_its_median() {
        let outcomes = [
            outcome(Row::SameNode, Protocol::Ping, Ok(0.1)),
            outcome(Row::SameNode, Protocol::Ping, Ok(0.3)),
            outcome(Row::SameNode, Protocol::Ping, Ok(0.2)),
            outcome(Row::SameNode, Protocol::Tcp, Ok(941.4)),
            outcome(Row::PodToNode, Protocol::Ping, Err("0 answers")),
            Outcome {
                family: Family::V6,
                ..outcome(Row::SameNode, Protocol::Udp, Ok(500.0))
            },
        ];
        let text = table(&outcomes);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[0],
            ["traffic", "ping", "median", "UDP", "median", "TCP", "median"]
        );
        let expected = [
            "pod -> pod, same node IPv4 3/3 0.20 ms 0/0 - 1/1 941 Mbit/s",
            "pod -> pod, same node IPv6 0/0 - 1/1 500 Mbit/s 0/0 -",
            "pod -> node IPv4 0/1 - 0/0 - 0/0 -",
        ];
        for (line, expected) in lines.iter().skip(1).zip(expected) {
            assert_eq!(*line, expected.split(' ').collect::<Vec<_>>());
        }
        assert_eq!(lines.len(), 4, "kinds that do not occur have no row");
    }

    #[test]
    fn each_failure_is_named_with_its_reason() {
        let outcomes = [
            outcome(Row::SameNode, Protocol::Ping, Ok(0.1)),
            outcome(
                Row::SameNode,
                Protocol::Udp,
                Err("of 200 datagrams 199 came back whole"),
            ),
        ];
        assert_eq!(
            failures(&outcomes),
            "FAILED UDP pod-a1 -> pod-b1: of 200 datagrams 199 came back whole\n"
        );
    }
}
