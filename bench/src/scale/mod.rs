//! What a packet costs, and what the tables take, as a node grows: in flows, Services, policies, ports and workers.
//!
//! The cases are `memory`'s, of 64-byte packets. Everything but what grows stays as it is. The sizes of one axis take
//! turns, round by round.

mod axis;
mod workers;

use std::path::Path;

use clap::Args;
use millrace_dataplane::clock::Clock;
use millrace_tools::pktgen::{check_core, pin};
use serde_json::{Map, Value, json};

use crate::statistics::{median, rounded};
use crate::summary;
use axis::{Axis, Point};

/// How growth is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What is to grow [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    axes: Vec<Axis>,
    /// Rounds over all sizes of an axis
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Timed laps of a size in each round
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    laps: u32,
    /// Core to run on
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of the second worker, where there are two
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    second_core: usize,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a walk does not do what it has to.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    check_core(options.core)?;
    check_core(options.second_core)?;
    let axes = if options.axes.is_empty() {
        Axis::ALL.to_vec()
    } else {
        options.axes.clone()
    };
    println!(
        "{:<24}{:>12}{:>12}{:>16}{:>20}",
        "axis/size", "ns", "cycles", "first, ns", "tables, bytes"
    );
    let mut figures = Map::new();
    for axis in axes {
        for point in measure(options, axis)? {
            let (key, figure) = show(axis, &point);
            figures.insert(key, figure);
        }
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

fn measure(options: &Options, axis: Axis) -> anyhow::Result<Vec<Point>> {
    if axis == Axis::Workers {
        return workers::measure(options.rounds, options.laps, [options.core, options.second_core]);
    }
    pin(Some(options.core));
    let mut points = axis
        .sizes()
        .iter()
        .map(|size| Point::new(axis, *size))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for _ in 0..options.rounds {
        for point in &mut points {
            point.round(options.laps)?;
        }
    }
    Ok(points)
}

/// Prints a size, and answers its key and its figure.
fn show(axis: Axis, point: &Point) -> (String, Value) {
    // INVARIANT: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let cycles_per_ns = Clock::calibrated().cycles_per_second() as f64 / 1e9;
    let key = format!("{}/{}", axis.word(), point.size);
    let cycles = median(&point.cycles);
    let mut figure = json!({
        "cycles": rounded(cycles, 1),
        "ns": rounded(cycles / cycles_per_ns, 2),
        "laps": point.cycles.len(),
    });
    let first = (!point.first_cycles.is_empty()).then(|| median(&point.first_cycles) / cycles_per_ns);
    if let Some(ns) = first {
        figure["first_ns"] = rounded(ns, 1).into();
    }
    if let Some(bytes) = point.bytes {
        figure["bytes"] = bytes.into();
    }
    if axis == Axis::Workers {
        // INVARIANT: there are one or two.
        let workers = f64::from(point.size);
        figure["per_second"] = rounded(workers * cycles_per_ns * 1e9 / cycles, 0).into();
    }
    println!(
        "{key:<24}{:>12.1}{cycles:>12.1}{:>16}{:>20}",
        cycles / cycles_per_ns,
        first.map_or("-".to_owned(), |ns| format!("{ns:.1}")),
        point.bytes.map_or("-".to_owned(), |bytes| bytes.to_string()),
    );
    (format!("scale/{key}"), figure)
}
