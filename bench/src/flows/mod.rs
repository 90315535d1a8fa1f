//! The flow table by itself: what a lookup, a step of TCP, a claim and the expiry cost, with few flows and with many.
//!
//! Flows are drawn at random from all there are, so with many of them each lookup meets cold memory. `batch` is the
//! way of the pipeline, a batch of lookups in three steps with the memory asked for in between; `single` asks for one
//! after the other.

mod scene;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::bail;
use clap::Args;
use millrace_dataplane::clock;
use millrace_tools::pktgen::{check_core, pin};
use serde_json::{Map, Value};

use crate::measure::Laps;
use crate::summary;
pub(crate) use scene::{Family, Scene, Work};

/// Numbers of live flows measured.
const FLOWS: [u32; 3] = [64, 65_536, 1_000_000];
/// What a lap does, so many times.
const STEPS: usize = 1 << 16;

/// How the flow table is measured.
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
/// When the table does not do what it has to, or allocates.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    if let Some(core) = options.core {
        check_core(core)?;
    }
    pin(options.core);
    let mut figures = Map::new();
    Laps::print_head();
    measure_all(&Work::ALL, options.rounds, &mut figures)?;
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

/// Measures the lookups alone, as [`run`] measures everything.
///
/// # Errors
/// As [`run`].
pub(crate) fn lookups(rounds: u32, figures: &mut Map<String, Value>) -> anyhow::Result<()> {
    measure_all(&Work::LOOKUPS, rounds, figures)
}

fn measure_all(works: &[Work], rounds: u32, figures: &mut Map<String, Value>) -> anyhow::Result<()> {
    for flows in FLOWS {
        measure::<Ipv4Addr>(works, rounds, flows, figures)?;
        measure::<Ipv6Addr>(works, rounds, flows, figures)?;
    }
    Ok(())
}

/// Measures this with so many flows of a family.
fn measure<A: Family>(
    works: &[Work],
    rounds: u32,
    flows: u32,
    figures: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let mut scene = Scene::<A>::new(flows, STEPS)?;
    let mut laps = vec![Laps::default(); works.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (work, laps) in works.iter().zip(&mut laps) {
            let took = lap(&mut scene, *work)?;
            if round > 0 {
                laps.push(took);
            }
        }
    }
    for (work, laps) in works.iter().zip(&laps) {
        let key = format!("flows/{}/{}/{flows}", A::NAME, work.name());
        laps.print(&key);
        figures.insert(key, laps.figures());
    }
    Ok(())
}

/// One lap of some work, in cycles for each step.
fn lap<A: Family>(scene: &mut Scene<A>, work: Work) -> anyhow::Result<f64> {
    scene.draw();
    let (mut cycles, mut steps) = (0, 0);
    let info = allocation_counter::measure(|| {
        let began = clock::cycles();
        steps = scene.run(work);
        cycles = clock::cycles().wrapping_sub(began);
    });
    scene.restore(work)?;
    if info.count_total > 0 {
        bail!(
            "{} allocates, and must not: {} times",
            work.name(),
            info.count_total
        );
    }
    // INVARIANT: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let per_step = cycles as f64 / steps as f64;
    Ok(per_step)
}
