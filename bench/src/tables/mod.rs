//! Lookups in each of the tables by itself.
//!
//! A lap asks a table for so many keys, one after the other, drawn uniformly at random before it: with many entries each
//! lookup meets cold memory, as far as one does not overlap the next. What is found is counted, and has to be all of it,
//! or nothing where nobody is there: no lookup can be left out. The flow table is asked as `flows` asks it.

mod case;
mod policies;
mod stations;

use std::path::Path;

use clap::Args;
use millrace_tools::pktgen::{check_core, pin};
use serde_json::Map;

use crate::flows;
use crate::measure::Laps;
use crate::random::Random;
use crate::summary;
use case::Case;

/// How lookups are measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds over all cases; each gives every case one lap
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Core to run on [default: wherever the scheduler likes]
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a table does not find what is there, finds what is not, or allocates.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    if let Some(core) = options.core {
        check_core(core)?;
    }
    pin(options.core);
    let mut figures = Map::new();
    Laps::print_head();
    flows::lookups(options.rounds, &mut figures)?;
    let mut random = Random::new();
    let mut cases = stations::routes(&mut random)?;
    cases.extend(stations::neighbours(&mut random)?);
    cases.extend(stations::services()?);
    cases.extend(policies::cases()?);
    let mut measured: Vec<(Case, Laps)> = cases.into_iter().map(|case| (case, Laps::default())).collect();
    // The first round warms up.
    for round in 0..=options.rounds {
        for (case, laps) in &mut measured {
            let took = case.lap(&mut random)?;
            if round > 0 {
                laps.push(took);
            }
        }
    }
    for (case, laps) in &measured {
        laps.print(case.key());
        figures.insert(case.key().to_owned(), laps.figures());
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}
