//! IP-in-IP that all comes in by one queue: what two workers do with it together, and what one does alone.
//!
//! A queue in memory never runs dry, and another worker has nothing to do. The modes of `[workers] spread` take turns, round by
//! round, each with workers of its own on two cores.

pub(crate) mod interfaces;
mod quota;
mod stand;

use std::path::Path;

use clap::Args;
use millrace_dataplane::worker::SpreadMode;
use millrace_tools::pktgen::check_core;
use serde_json::{Map, json};

use crate::memory::{Outcome, drown};
use crate::statistics::{median, rounded};
use crate::summary;

/// Flows between the two nodes.
const FLOWS: u32 = 4096;
/// Lengths of frames as they come in, in bytes.
const FRAME_LENS: [usize; 2] = [100, 1500];
/// The modes, as the node file has them.
const MODES: [(&str, SpreadMode); 3] = [
    ("off", SpreadMode::Off),
    ("auto", SpreadMode::Auto),
    ("always", SpreadMode::Always),
];

/// How sharing is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds over all modes, of four seconds for each and length of frame
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Core of the worker that has the queue
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of the other worker
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    second_core: usize,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When packets are lost otherwise than by workers that are too slow.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    check_core(options.core)?;
    check_core(options.second_core)?;
    let cores = [options.core, options.second_core];
    let mut cases: Vec<(usize, (&str, SpreadMode), Vec<Outcome>)> = FRAME_LENS
        .into_iter()
        .flat_map(|len| MODES.map(|mode| (len, mode, Vec::new())))
        .collect();
    for _ in 0..options.rounds {
        for (len, (_, mode), outcomes) in &mut cases {
            outcomes.push(drown(*mode, FLOWS, *len, cores)?);
        }
    }
    println!(
        "{:<20}{:>16}{:>14}{:>20}",
        "mode/bytes", "packets/s", "the other's", "loads, permille"
    );
    let mut figures = Map::new();
    for (len, (word, _), outcomes) in &cases {
        let of = |part: fn(&Outcome) -> f64| median(&outcomes.iter().map(part).collect::<Vec<_>>());
        let (per_second, shared) = (of(|outcome| outcome.per_second), of(|outcome| outcome.shared));
        let loads = outcomes
            .last()
            .map(|outcome| outcome.loads.clone())
            .unwrap_or_default();
        println!(
            "{:<20}{per_second:>16.0}{:>13.0}%{:>20}",
            format!("{word}/{len}"),
            100.0 * shared,
            format!("{loads:?}"),
        );
        let figure = json!({
            "per_second": rounded(per_second, 0),
            "shared": rounded(shared, 3),
            "loads_permille": loads,
            "rounds": outcomes.len(),
        });
        figures.insert(format!("spread/{word}/{len}"), figure);
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}
