//! `millrace stats` for people.

mod ports;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use millrace_dataplane::stats::Summary;
use millrace_dataplane::verdict::{DropReason, PuntReason};
use serde::Deserialize;
use serde_json::Value;

use super::output::{Table, grouped, understand};
use super::services;
use super::show::percent;
use crate::admin::client::ClientError;
use crate::admin::openmetrics;
use crate::admin::protocol::{Failure, SourceStatus, Stats, Totals};
use ports::{Port, device_table, port_table, steering_table};

type Counts = BTreeMap<String, u64>;

/// What is shown of `dataplane::stats::WorkerCounters`.
#[derive(Debug, Deserialize)]
struct Worker {
    core: usize,
    received: u64,
    originated: u64,
    transmitted: u64,
    dropped: Counts,
    punted: Counts,
    sleeps: u64,
    load_permille: u64,
    captured: u64,
    capture_lost: u64,
    handed_over: u64,
    taken_over: u64,
    spread_out: u64,
    stray_descriptors: u64,
    device_errors: u64,
    batch_ns: Summary,
    batch_packets: Summary,
}

/// The counters for monitoring systems.
///
/// # Errors
/// The answer is not that of [`Stats`].
pub(super) fn openmetrics(answer: Value) -> Result<String, Failure> {
    let stats: Stats = understand(answer)?;
    openmetrics::render(&stats).map_err(|error| ClientError::NotUnderstood(error).into())
}

/// The daemon's answer as a page of tables.
///
/// # Errors
/// The answer is not that of [`Stats`].
pub(super) fn render(answer: Value) -> Result<String, Failure> {
    let stats: Stats = understand(answer)?;
    let workers: Vec<Worker> = stats
        .workers
        .into_iter()
        .map(understand)
        .collect::<Result<_, _>>()?;
    let ports: Vec<Port> = stats.ports.into_iter().map(Port::new).collect::<Result<_, _>>()?;
    let mut page = format!("node {}, up {}\n", stats.node, duration(stats.uptime_seconds));
    page.push_str(&stats.source.as_ref().map(source).unwrap_or_default());
    page.push_str(&totals(&stats.totals));
    section(
        &mut page,
        "Dropped",
        &reasons(&stats.totals.dropped, drop_meaning),
    );
    section(
        &mut page,
        "To the slow path",
        &reasons(&stats.totals.punted, punt_meaning),
    );
    section(&mut page, "Workers", &worker_table(&workers));
    section(&mut page, "Batches", &batch_table(&workers));
    section(&mut page, "Ports", &port_table(&ports));
    section(
        &mut page,
        "Kernel's statistics of the AF_XDP sockets",
        &device_table(&ports),
    );
    section(&mut page, "Steering programs", &steering_table(&ports));
    section(&mut page, "Slow path", &count_table(&stats.slow_path));
    if !stats.dns.is_empty() {
        section(&mut page, "Resolver", &count_table(&stats.dns));
    }
    section(&mut page, "Connections", &count_table(&stats.connections));
    section(&mut page, "Services", &services::counts(&stats.services));
    if !stats.load_balancers.is_empty() {
        section(
            &mut page,
            "Load balancers' addresses",
            &count_table(&stats.load_balancers),
        );
    }
    if let Some(source) = stats.source.filter(|source| !source.counts.is_empty()) {
        section(&mut page, "API server", &count_table(&source.counts));
    }
    Ok(page)
}

/// Where objects come from, on one line.
fn source(source: &SourceStatus) -> String {
    let Some(reachable) = source.reachable else {
        return format!("objects from {}\n", source.place);
    };
    let heard = match (source.last_contact_seconds, reachable) {
        (None, _) => "not heard of yet".to_owned(),
        (Some(age), true) => format!("last heard of {} ago", duration(age)),
        (Some(age), false) => format!("cannot be reached, last heard of {} ago", duration(age)),
    };
    let copy = if source.from_copy {
        "; in force is the copy of an earlier state"
    } else {
        ""
    };
    format!("objects from the API server {} ({heard}{copy})\n", source.place)
}

fn section(page: &mut String, title: &str, table: &Table) {
    if table.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "\n{title}: none");
    } else {
        let _ = write!(page, "\n{title}\n{}", table.render("  "));
    }
}

fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn sum(counts: &Counts) -> u64 {
    counts.values().sum()
}

fn totals(totals: &Totals) -> String {
    let (dropped, punted) = (sum(&totals.dropped), sum(&totals.punted));
    let came = i128::from(totals.received) + i128::from(totals.originated);
    let left = i128::from(totals.transmitted) + i128::from(dropped) + i128::from(punted);
    let mut table = Table::new(&["", ">PACKETS", ""]);
    let rows = [
        ("received", totals.received, "taken from ports"),
        (
            "originated",
            totals.originated,
            "made by the switch itself, or sent on after waiting",
        ),
        ("transmitted", totals.transmitted, "put into transmit rings"),
        ("dropped", dropped, "by reason below"),
        ("punted", punted, "handed to the slow path, by reason below"),
    ];
    for (name, packets, meaning) in rows {
        table.row([name.to_owned(), grouped(packets), meaning.to_owned()]);
    }
    let sign = if came < left { "-" } else { "" };
    let rest = u64::try_from(came.abs_diff(left)).unwrap_or(u64::MAX);
    let meaning = "received + originated - transmitted - dropped - punted; zero between batches";
    table.row([
        "difference".to_owned(),
        format!("{sign}{}", grouped(rest)),
        meaning.to_owned(),
    ]);
    format!("\nTotals\n{}", table.render("  "))
}

/// Reasons, the most frequent first, with what they mean.
fn reasons(counts: &Counts, meaning: impl Fn(&str) -> Option<&'static str>) -> Table {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    let mut table = Table::new(&["REASON", ">PACKETS", "MEANING"]);
    for (name, count) in counts {
        table.row([
            name.clone(),
            grouped(*count),
            meaning(name).unwrap_or_default().to_owned(),
        ]);
    }
    table
}

fn drop_meaning(name: &str) -> Option<&'static str> {
    DropReason::ALL
        .iter()
        .find(|reason| reason.name() == name)
        .map(|reason| reason.meaning())
}

fn punt_meaning(name: &str) -> Option<&'static str> {
    PuntReason::ALL
        .iter()
        .find(|reason| reason.name() == name)
        .map(|reason| reason.meaning())
}

fn worker_table(workers: &[Worker]) -> Table {
    let mut table = Table::new(&[
        ">WORKER",
        ">CORE",
        ">LOAD",
        ">SLEEPS",
        ">RECEIVED",
        ">ORIGINATED",
        ">TRANSMITTED",
        ">DROPPED",
        ">PUNTED",
        ">HANDED-OVER",
        ">TAKEN-OVER",
        ">SHARED",
        ">CAPTURED",
        ">COPIES-LOST",
        ">STRAY",
        ">TX-ERRORS",
    ]);
    for (number, worker) in workers.iter().enumerate() {
        let counts = [
            worker.sleeps,
            worker.received,
            worker.originated,
            worker.transmitted,
            sum(&worker.dropped),
            sum(&worker.punted),
            worker.handed_over,
            worker.taken_over,
            worker.spread_out,
            worker.captured,
            worker.capture_lost,
            worker.stray_descriptors,
            worker.device_errors,
        ];
        let head = [
            number.to_string(),
            worker.core.to_string(),
            percent(worker.load_permille),
        ];
        table.row(head.into_iter().chain(counts.map(grouped)));
    }
    table
}

fn batch_table(workers: &[Worker]) -> Table {
    let mut table = Table::new(&[
        ">WORKER",
        ">BATCHES",
        ">PACKETS-P50",
        ">P99",
        ">MAX",
        ">TIME-P50",
        ">P99",
        ">P99.9",
        ">MAX",
    ]);
    for (
        number,
        Worker {
            batch_ns: time,
            batch_packets: size,
            ..
        },
    ) in workers.iter().enumerate()
    {
        let sizes = [size.count, size.p50, size.p99, size.max].map(grouped);
        let times = [time.p50, time.p99, time.p999, time.max].map(microseconds);
        table.row([number.to_string()].into_iter().chain(sizes).chain(times));
    }
    table
}

/// Nanoseconds in microseconds.
fn microseconds(ns: u64) -> String {
    format!("{}.{} us", grouped(ns / 1000), ns % 1000 / 100)
}

fn count_table(counts: &Counts) -> Table {
    let mut table = Table::new(&["COUNTER", ">COUNT"]);
    for (name, count) in counts {
        table.row([name.clone(), grouped(*count)]);
    }
    table
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
