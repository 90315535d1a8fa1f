//! The same between real interfaces: a veth hands all IP-in-IP to one of two workers.
//!
//! Two cores are all that this asks for, so the generator shares one of them with the second worker. Both workers are given the same
//! fixed part of their cores' time, and the generator what is left of its own: what one worker takes away from it does not
//! make it send less than two workers can take. Without such parts it is counted too, at a bounded rate.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use super::MODES;
use super::stand::{End, Reading, Stand};
use crate::arms::{Cores, heed_signals, wait};
use crate::statistics::{median, rounded};
use crate::summary;

/// How long packets flow before anything is counted: flows become known, and sharing is tried.
const WARM_UP: Duration = Duration::from_millis(2500);

/// How sharing is measured between interfaces.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds over all modes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each is measured in a round, in seconds
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Core of the worker that has the queue
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of the other worker, and of the generator
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    second_core: usize,
    /// Hundredths of its core that each worker gets
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u32).range(5..=50))]
    share: u32,
    /// Flows between the two nodes
    #[arg(long, value_name = "N", default_value_t = 4096)]
    flows: u32,
}

/// What comes in, where it goes, and who may take how much time.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    frame_len: usize,
    end: End,
    is_limited: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "drop/64",
        frame_len: 64,
        end: End::Drop,
        is_limited: true,
    },
    Case {
        name: "socket/64",
        frame_len: 64,
        end: End::Socket,
        is_limited: true,
    },
    Case {
        name: "socket/1400",
        frame_len: 1400,
        end: End::Socket,
        is_limited: true,
    },
    Case {
        name: "whole-cores/64",
        frame_len: 64,
        end: End::Socket,
        is_limited: false,
    },
];

/// What was seen in one window.
#[derive(Debug, Clone)]
struct Seen {
    offered: f64,
    delivered: f64,
    shared: f64,
    full: f64,
    /// The share of a core that each worker was given.
    times: Vec<f64>,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a node cannot be set up.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    Cores::new(options.core, options.second_core)?;
    heed_signals()?;
    println!(
        "{:<26}{:>12}{:>12}{:>9}{:>14}{:>16}",
        "case/mode", "offered/s", "delivered/s", "shared", "spread_full/s", "core shares"
    );
    let mut figures = Map::new();
    for case in CASES {
        measure(options, &case, &mut figures)?;
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

fn measure(options: &Options, case: &Case, figures: &mut Map<String, Value>) -> anyhow::Result<()> {
    let mut stand = Stand::bring_up([options.core, options.second_core], options.flows, case.frame_len)?;
    stand.set_end(case.end)?;
    let mut all: Vec<(&str, Vec<Seen>)> = MODES.iter().map(|(word, _)| (*word, Vec::new())).collect();
    let mut rate = None;
    if !case.is_limited {
        // More than one worker takes, and no more than leaves the second one time on the generator's core.
        stand.start("off", 100)?;
        rate = Some(bounded(window(options, &stand, None)?.delivered));
    }
    for _ in 0..options.rounds {
        for (word, seen) in &mut all {
            stand.start(word, if case.is_limited { options.share } else { 100 })?;
            seen.push(window(options, &stand, rate)?);
        }
    }
    for (word, seen) in all {
        show(&format!("{}/{word}", case.name), &seen, figures);
    }
    Ok(())
}

/// A rate that one worker, which takes `alone`, cannot take.
fn bounded(alone: f64) -> u64 {
    // INVARIANT: a rate of packets.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (alone * 1.3) as u64;
    rate
}

fn window(options: &Options, stand: &Stand, rate: Option<u64>) -> anyhow::Result<Seen> {
    let sender = stand.send(Some(options.second_core), rate)?;
    wait(WARM_UP)?;
    let (began, sent, before) = (Instant::now(), sender.sent().packets, stand.read()?);
    wait(Duration::from_secs(options.seconds))?;
    let (took, sent_after, after) = (
        began.elapsed().as_secs_f64(),
        sender.sent().packets,
        stand.read()?,
    );
    sender.stop()?;
    // INVARIANT: counts of packets are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let count = |of: fn(&Reading) -> u64| of(&after).saturating_sub(of(&before)) as f64;
    #[allow(clippy::cast_precision_loss)]
    let offered = (sent_after - sent) as f64 / took;
    let times = before.times.iter().zip(&after.times);
    Ok(Seen {
        offered,
        delivered: count(|reading| reading.delivered) / took,
        shared: count(|reading| reading.shared) / count(|reading| reading.transmitted).max(1.0),
        full: count(|reading| reading.full) / took,
        times: times.map(|(before, after)| (after - before) / took).collect(),
    })
}

fn show(name: &str, seen: &[Seen], figures: &mut Map<String, Value>) {
    let of = |part: fn(&Seen) -> f64| median(&seen.iter().map(part).collect::<Vec<_>>());
    let (offered, delivered) = (of(|seen| seen.offered), of(|seen| seen.delivered));
    let (shared, full) = (of(|seen| seen.shared), of(|seen| seen.full));
    let times = [0, 1].map(|worker| {
        let all = seen.iter().filter_map(|seen| seen.times.get(worker).copied());
        rounded(median(&all.collect::<Vec<_>>()), 2)
    });
    println!(
        "{name:<26}{offered:>12.0}{delivered:>12.0}{:>8.0}%{full:>14.0}{:>16}",
        100.0 * shared,
        format!("{:.2} {:.2}", times[0], times[1]),
    );
    let rounds: Vec<f64> = seen.iter().map(|seen| rounded(seen.delivered, 0)).collect();
    let figure = json!({
        "offered_per_second": rounded(offered, 0),
        "packets_per_second": rounded(delivered, 0),
        "shared": rounded(shared, 3),
        "spread_full_per_second": rounded(full, 0),
        "core_shares": times,
        "rounds": rounds,
    });
    figures.insert(format!("spread-veth/{name}"), figure);
}
