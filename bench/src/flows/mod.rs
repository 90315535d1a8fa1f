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
use millrace_dataplane::clock::{self, Clock};
use millrace_tools::pktgen::{check_core, pin};
use serde_json::{Map, Value, json};

use crate::statistics::{median, rounded};
use crate::summary;
use scene::{Family, Scene, Work};

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
    println!(
        "{:<32}{:>10}{:>22}",
        "family, operation, flows", "ns", "ns, best-worst"
    );
    for flows in FLOWS {
        measure::<Ipv4Addr>(options, flows, &mut figures)?;
        measure::<Ipv6Addr>(options, flows, &mut figures)?;
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

/// Measures everything with so many flows of a family.
fn measure<A: Family>(options: &Options, flows: u32, figures: &mut Map<String, Value>) -> anyhow::Result<()> {
    let mut scene = Scene::<A>::new(flows, STEPS)?;
    let mut laps = vec![Vec::new(); Work::ALL.len()];
    // The first round warms up.
    for round in 0..=options.rounds {
        for (work, laps) in Work::ALL.into_iter().zip(&mut laps) {
            let took = lap(&mut scene, work)?;
            if round > 0 {
                laps.push(took);
            }
        }
    }
    for (work, laps) in Work::ALL.into_iter().zip(&laps) {
        let key = format!("flows/{}/{}/{flows}", A::NAME, work.name());
        let (best, worst) = laps.iter().fold((f64::MAX, 0f64), |(best, worst), lap| {
            (best.min(*lap), worst.max(*lap))
        });
        println!(
            "{key:<32}{:>10.1}{:>22}",
            median(laps),
            format!("{best:.1}-{worst:.1}")
        );
        figures.insert(key, json!({"ns": rounded(median(laps), 2), "laps": laps.len()}));
    }
    Ok(())
}

/// One lap of some work, in nanoseconds for each step.
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
    let per_step = Clock::calibrated().to_ns(cycles) as f64 / steps as f64;
    Ok(per_step)
}
