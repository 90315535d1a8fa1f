//! Established traffic of a bridged network beside storms: MAC addresses without end, stations that move to and fro, broadcasts.
//!
//! The worker is real but for its ports, and the slow path is the daemon's own, on a thread and a core of its own: what a storm has
//! it learn and refuse, it learns and refuses meanwhile. Established traffic comes at a quarter of the rate that the worker
//! forwards alone, which is below its share beside two ports that always have frames; so all of it has to get through. Seconds are
//! those of the worker on its core.
//!
//! A flood wakes the slow path most often where it is slow: so there is a trickle of strangers too, beside as much established traffic
//! as is taken, and what is set beside that is an ordinary trickle.

mod frames;
mod port;
mod stand;
mod storm;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use millrace_tools::pktgen::check_core;
use serde_json::{Map, json};

use crate::statistics::{median, rounded};
use crate::summary;
use stand::{Setting, Window, window};
use storm::Storm;

/// How storms are measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; each gives every storm a window, and the traffic without one
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of a window that count
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=10_000))]
    window_ms: u64,
    /// Milliseconds of a window before that
    #[arg(long, value_name = "MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(50..=10_000))]
    warm_up_ms: u64,
    /// Core of the worker
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of the slow path
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    second_core: usize,
}

/// What was seen of a storm, round by round.
#[derive(Debug, Default)]
struct Seen {
    /// The part of what was offered that got through, beside the part that did without any storm in the same round; or the rate,
    /// beside that of another storm.
    rates: Vec<f64>,
    /// Frames of the storm that the worker took in a second.
    storm: Vec<f64>,
    /// What such a frame cost beside an ordinary one of the same round.
    costs: Vec<f64>,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a storm is none, is not held, or leaves more in memory than may be.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    check_core(options.core)?;
    check_core(options.second_core)?;
    let setting = Setting {
        cores: [options.core, options.second_core],
        warm_up: Duration::from_millis(options.warm_up_ms),
        window: Duration::from_millis(options.window_ms),
    };
    let mut seen: Vec<(Storm, Seen)> = Storm::ALL.map(|storm| (storm, Seen::default())).into();
    let mut alone = Vec::new();
    for _ in 0..options.rounds {
        round(&mut alone, &setting, &mut seen)?;
    }
    report(&alone, &seen, output)
}

/// One round over all storms.
fn round(alone: &mut Vec<f64>, setting: &Setting, seen: &mut [(Storm, Seen)]) -> anyhow::Result<()> {
    let mut windows: Vec<(Storm, Window)> = Vec::new();
    for (storm, seen) in seen {
        let window = window(*storm, median(alone), setting)?;
        storm.check(&window)?;
        let of = |wanted: Storm| windows.iter().find(|(storm, _)| *storm == wanted);
        let beside = storm.beside().and_then(of).map(|(_, beside)| beside);
        match *storm {
            Storm::Alone => alone.push(window.per_second),
            _ if storm.is_filled() => {
                seen.rates
                    .push(beside.map_or(1.0, |beside| window.per_second / beside.per_second));
            }
            _ => {
                let calm = of(Storm::None).map_or(1.0, |(_, calm)| part(calm));
                seen.rates.push(part(&window) / calm);
                seen.costs
                    .extend(beside.map(|beside| beside.storm_per_second / window.storm_per_second));
            }
        }
        seen.storm.push(window.storm_per_second);
        windows.push((*storm, window));
    }
    Ok(())
}

/// The part of what was offered that got through.
fn part(window: &Window) -> f64 {
    // INVARIANT: both are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let part = window.delivered as f64 / window.offered as f64;
    part
}

fn report(alone: &[f64], seen: &[(Storm, Seen)], output: &Path) -> anyhow::Result<()> {
    let mut figures = Map::new();
    let alone = median(alone);
    println!("alone: {alone:.0} packets a second");
    println!(
        "{:<20}{:>16}{:>16}{:>20}{:>24}",
        "beside", "gets through", "worst round", "storm's frames/s", "cost beside ordinary"
    );
    let shown = seen.iter().filter(|(storm, _)| *storm != Storm::Alone);
    for (
        storm,
        Seen {
            rates,
            storm: taken,
            costs,
        },
    ) in shown
    {
        let worst = rates.iter().copied().fold(f64::MAX, f64::min);
        let (rate, taken, cost) = (median(rates), median(taken), median(costs));
        let shown = if costs.is_empty() {
            String::new()
        } else {
            format!("{cost:.2}")
        };
        println!(
            "{:<20}{rate:>16.4}{worst:>16.4}{taken:>20.0}{shown:>24}",
            storm.name()
        );
        let mut figure = json!({
            "rate": rounded(rate, 4),
            "worst": rounded(worst, 4),
            "storm_per_second": rounded(taken, 0),
            "rounds": rates.len(),
        });
        if !costs.is_empty() {
            figure["cost"] = rounded(cost, 3).into();
        }
        figures.insert(format!("storms/{}", storm.name()), figure);
    }
    figures.insert("storms_alone_per_second".to_owned(), rounded(alone, 0).into());
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}
