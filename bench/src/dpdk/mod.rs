//! Beside DPDK's own pieces, each in the same run as ours, on the same core: `dpdk-testpmd`, which does nothing but swap the
//! link addresses, beside our walk from pod to pod; `dpdk-test`'s hash beside our flow table; `dpdk-test-fib`'s tables
//! beside our longest-prefix match.
//!
//! What the programs print is read as strictly as it was written when this was: anything else ends the run, and is shown.

mod hash;
mod macswap;
mod memory;
mod prefixes;
mod program;

use std::path::Path;

use anyhow::{Context, ensure};
use clap::Args;
use millrace_tools::pktgen::{check_core, pin};
use serde_json::{Map, json};

use crate::arms::heed_signals;
use crate::measure::Laps;
use crate::memory::Forward;
use crate::random::Random;
use crate::summary;
use memory::Memory;
use prefixes::{Family, Prefixes};

/// Numbers of flows of our walk: one, and many.
const FLOWS: [(u32, bool); 2] = [(1, false), (65_536, true)];
/// Numbers of routes.
const ROUTES: [u32; 2] = [1_000, 10_000];

/// How DPDK's pieces are measured, and ours beside them.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; each measures everything once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// Core that everything is measured on
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of dpdk-testpmd's main thread, which waits for commands
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    main_core: usize,
}

/// What was measured, by key, in the order in which it is printed.
#[derive(Debug, Default)]
struct All(Vec<(String, Laps)>);

impl All {
    fn push(&mut self, key: String, cycles: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, laps)) => laps.push(cycles),
            None => {
                let mut laps = Laps::default();
                laps.push(cycles);
                self.0.push((key, laps));
            }
        }
    }
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a program is not there, says something else than it should, or one of our tables does not do what it has to.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    check_core(options.core)?;
    check_core(options.main_core)?;
    ensure!(
        options.core != options.main_core,
        "dpdk-testpmd's two threads need a core each"
    );
    // Huge pages are given back on the way out.
    heed_signals()?;
    pin(Some(options.core));
    let memory = Memory::take()?;
    let folder = tempfile::tempdir().context("cannot make a folder for routes")?;
    let mut random = Random::new();
    let mut routed = Vec::new();
    for family in Family::ALL {
        for count in ROUTES {
            let prefixes = Prefixes::new(folder.path(), family, count, &mut random)?;
            routed.push((format!("dpdk/prefixes/{}/{count}", family.name()), prefixes));
        }
    }
    let mut walks = Vec::new();
    for (flows, is_many) in FLOWS {
        walks.push((flows, is_many, Forward::new(flows)?));
    }
    let mut hashes = hash::Ours::new()?;
    let mut all = All::default();
    for _ in 0..options.rounds {
        for (flows, is_many, walk) in &mut walks {
            let cores = (options.main_core, options.core);
            all.push(
                format!("dpdk/macswap/{flows}/testpmd"),
                macswap::measure(&memory, cores, *is_many)?,
            );
            all.push(format!("dpdk/macswap/{flows}/forward"), walk.measure()?);
        }
        let theirs = hash::theirs(&memory, options.core)?;
        let ours = hashes.measure()?;
        for (way, theirs, ours) in [
            ("v4/single", theirs.single_v4, ours.single_v4),
            ("v4/batch", theirs.batch_v4, ours.batch_v4),
            ("v6/single", theirs.single_v6, ours.single_v6),
            ("v6/batch", theirs.batch_v6, ours.batch_v6),
        ] {
            all.push(format!("dpdk/hash/{way}/rte_hash"), theirs);
            all.push(format!("dpdk/hash/{way}/flows"), ours);
        }
        for (key, prefixes) in &routed {
            let (fib, lpm) = prefixes.theirs(&memory, options.core)?;
            all.push(format!("{key}/rte_fib"), fib);
            all.push(format!("{key}/rte_lpm"), lpm);
            all.push(format!("{key}/routes"), prefixes.ours()?);
        }
    }
    report(&memory, &all, output)
}

fn report(memory: &Memory, all: &All, output: &Path) -> anyhow::Result<()> {
    println!("DPDK has {}", memory.name());
    Laps::print_head();
    let mut figures = Map::new();
    for (key, laps) in &all.0 {
        laps.print(key);
        figures.insert(key.clone(), laps.figures());
    }
    figures.insert("dpdk/memory".to_owned(), json!(memory.name()));
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}
