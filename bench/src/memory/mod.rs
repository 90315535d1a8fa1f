//! Walks between ports in memory.
//!
//! Each case has a worker of its own, real but for its ports, with the node's pipeline and full tables. Its frames go
//! round and round: a lap takes all of them through one walk, and what the walk changed is restored outside the time
//! that counts. Laps of the cases are interleaved, so that a disturbance of the machine hits all of them.

mod answers;
mod beside;
mod bridge;
mod case;
mod drowned;
mod family;
mod head;
mod packets;
mod pipeline;
mod policies;
mod scene;
mod second;
mod services;
mod walk;

use std::path::Path;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum as _};
use millrace_dataplane::clock::Clock;
use millrace_tools::pktgen::{check_core, pin};
use serde_json::{Map, Value, json};

use crate::statistics::{median, rounded};
use crate::summary;
pub(crate) use beside::Forward;
pub(crate) use case::{Case, Lap};
pub(crate) use drowned::{Outcome, drown};
pub(crate) use family::Family;
pub(crate) use policies::policy_table;
pub(crate) use scene::{Size, flow_table};
pub(crate) use services::service_table;
use walk::MANY_FLOWS;
pub(crate) use walk::Walk;

/// Fewer frames than this would stay in the processor's nearest caches.
const FRAMES_MIN: u32 = 4096;

/// How walks in memory are measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The walks to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    walks: Vec<Walk>,
    /// Rounds over all cases; each gives every case its warm-up and its timed laps
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Timed laps of a case in each round
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    laps: u32,
    /// Frames on their way round in each case
    #[arg(long, value_name = "N", default_value_t = FRAMES_MIN, value_parser = clap::value_parser!(u32).range(i64::from(FRAMES_MIN)..=1 << 20))]
    frames: u32,
    /// Core to run on [default: wherever the scheduler likes]
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
}

/// A case and what was measured of it.
struct Measured {
    case: Case,
    cycles: Vec<f64>,
    allocations: u64,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a walk does not do what it has to, or allocates.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    if let Some(core) = options.core {
        check_core(core)?;
    }
    pin(options.core);
    let mut cases = cases(options)?;
    for _ in 0..options.rounds {
        for measured in &mut cases {
            for _ in 0..measured.case.warm_up() {
                measured.case.lap(false)?;
            }
            for _ in 0..options.laps {
                let Lap { cycles, allocations } = measured.case.lap(true)?;
                measured.cycles.push(cycles);
                measured.allocations += allocations;
            }
        }
    }
    let packets = u64::from(options.rounds) * u64::from(options.laps) * u64::from(options.frames);
    report(&cases, packets, output)
}

fn cases(options: &Options) -> anyhow::Result<Vec<Measured>> {
    let walks = if options.walks.is_empty() {
        Walk::value_variants().to_vec()
    } else {
        options.walks.clone()
    };
    let mut cases = Vec::new();
    for walk in walks {
        for flows in walk.flows() {
            for len in walk.frame_lens(*flows) {
                let case = Case::new(walk, *len, *flows, options.frames)?;
                cases.push(Measured {
                    case,
                    cycles: Vec::new(),
                    allocations: 0,
                });
            }
        }
    }
    ensure!(!cases.is_empty(), "there is nothing to measure");
    Ok(cases)
}

/// Prints the figures and writes them down; those of a run that allocated are printed only.
fn report(cases: &[Measured], packets: u64, output: &Path) -> anyhow::Result<()> {
    // INVARIANT: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let (cycles_per_ns, packets) = (
        Clock::calibrated().cycles_per_second() as f64 / 1e9,
        packets as f64,
    );
    println!(
        "{:<24}{:>10}{:>10}{:>22}{:>16}{:>16}",
        "walk/bytes/flows", "ns", "cycles", "cycles, best-worst", "batch p99 ns", "allocations"
    );
    let mut figures = Map::new();
    let mut allocating = Vec::new();
    for Measured {
        case,
        cycles,
        allocations,
    } in cases
    {
        let key = case.key();
        let middle = median(cycles);
        let (best, worst) = cycles.iter().fold((f64::MAX, 0f64), |(best, worst), lap| {
            (best.min(*lap), worst.max(*lap))
        });
        #[allow(clippy::cast_precision_loss)]
        let per_packet = *allocations as f64 / packets;
        println!(
            "{key:<24}{:>10.1}{middle:>10.1}{:>22}{:>16}{per_packet:>16.3}",
            middle / cycles_per_ns,
            format!("{best:.1}-{worst:.1}"),
            case.batch_p99_ns(),
        );
        if *allocations > 0 {
            allocating.push(key.clone());
        }
        let mut figure = json!({
            "ns": rounded(middle / cycles_per_ns, 2),
            "cycles": rounded(middle, 2),
            "allocations": per_packet,
            "batch_p99_ns": case.batch_p99_ns(),
            "laps": cycles.len(),
        });
        if case.opens() {
            let rate = cycles_per_ns * 1e9 / middle;
            println!("{:<24}{rate:>10.0} connections a second", "");
            figure["per_second"] = rounded(rate, 0).into();
        }
        if case.churns() {
            let rate = case.changes_per_second();
            println!("{:<24}{rate:>10.1} changes a second", "");
            figure["changes_per_second"] = rounded(rate, 1).into();
        }
        figures.insert(key, figure);
    }
    if let Some(ratio) = churn_ratio(cases) {
        println!("rate under churn: {ratio:.3} of that without, at 1,000,000 flows");
        figures.insert("churn_ratio".to_owned(), rounded(ratio, 4).into());
    }
    if !allocating.is_empty() {
        bail!(
            "a walk must not allocate, and these do: {}",
            allocating.join(", ")
        );
    }
    figures.insert("cycles_per_ns".to_owned(), Value::from(rounded(cycles_per_ns, 4)));
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

/// The rate of packets that something else's changes leave, as a share of the rate without them: the median over the
/// laps, each beside the other case's lap of the same round. Both have to be measured.
fn churn_ratio(cases: &[Measured]) -> Option<f64> {
    let laps = |walk: Walk| {
        let mut found = cases.iter().filter(|measured| measured.case.is(walk, MANY_FLOWS));
        found.next().map(|measured| &measured.cycles)
    };
    let (calm, churning) = (laps(Walk::Service)?, laps(Walk::ServiceChurn)?);
    let ratios: Vec<f64> = calm
        .iter()
        .zip(churning)
        .map(|(calm, churning)| calm / churning)
        .collect();
    Some(median(&ratios))
}
