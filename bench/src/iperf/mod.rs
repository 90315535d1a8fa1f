//! iperf3 between pods, through the switch and through the kernel.
//!
//! The kernel forwards with all that it has: segments merged into 64 KiB, checksums left to nobody, and once without. An
//! AF_XDP socket takes packets as a wire carries them, so the switch has to do without.

mod arm;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use millrace_tools::lab::traffic::{Load, bulk_transfer};
use serde_json::{Map, json};

use crate::arms::{heed_signals, machine_busy};
use crate::statistics::{median, rounded};
use crate::summary;
use arm::{Arm, Nodes, Path as Way};

/// Connections of a TCP transfer over several.
const STREAMS: u32 = 4;
/// How long a transfer may take beyond what it is told to.
const PATIENCE: Duration = Duration::from_secs(15);

/// How iperf3 is run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; each runs every transfer once by every way
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// How long a transfer takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// What is sent: its key in the summary, and the load.
fn loads(arm: &Arm) -> [(&'static str, Load); 3] {
    [
        ("tcp-1", Load::Tcp { streams: 1 }),
        ("tcp-4", Load::Tcp { streams: STREAMS }),
        (
            "udp",
            Load::Udp {
                payload: arm.udp_payload(),
            },
        ),
    ]
}

/// What was seen of one load by one way, a value for each round.
#[derive(Default)]
struct Seen {
    gbps: Vec<f64>,
    sent_gbps: Vec<f64>,
    /// Busy cores, of all there are.
    cores: Vec<f64>,
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a node cannot be set up, or a connection fails.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    heed_signals()?;
    let mut figures = Map::new();
    println!(
        "{:<8}{:<14}{:<8}{:>10}{:>14}{:>12}",
        "nodes", "way", "load", "Gbit/s", "sent Gbit/s", "busy cores"
    );
    for nodes in Nodes::ALL {
        let arms = Way::ALL
            .into_iter()
            .map(|way| Arm::bring_up(nodes, way))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for ((way, load), seen) in measure(options, &arms)? {
            let (gbps, sent, cores) = (median(&seen.gbps), median(&seen.sent_gbps), median(&seen.cores));
            println!(
                "{:<8}{:<14}{load:<8}{gbps:>10.2}{sent:>14.2}{cores:>12.2}",
                nodes.word(),
                way.word()
            );
            let figure = json!({
                "gbps": rounded(gbps, 3),
                "sent_gbps": rounded(sent, 3),
                "busy_cores": rounded(cores, 2),
                "rounds": seen.gbps.iter().map(|gbps| rounded(*gbps, 3)).collect::<Vec<_>>(),
            });
            figures.insert(format!("iperf/{}/{}/{load}", nodes.word(), way.word()), figure);
        }
    }
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    Ok(())
}

/// Which way, and which load.
type Case = (Way, &'static str);

/// Runs every load by every way, round by round.
fn measure(options: &Options, arms: &[Arm]) -> anyhow::Result<Vec<(Case, Seen)>> {
    let mut all: Vec<(Case, Seen)> = Vec::new();
    for _ in 0..options.rounds {
        for arm in arms {
            for (name, load) in loads(arm) {
                let timeout = Duration::from_secs(options.seconds.into()) + PATIENCE;
                let (began, before) = (Instant::now(), machine_busy()?);
                let report = bulk_transfer(arm.ends()?, load, options.seconds, timeout);
                let cores = (machine_busy()? - before) / began.elapsed().as_secs_f64();
                let report =
                    report.with_context(|| format!("{name} by the way `{}` failed", arm.way().word()))?;
                let case = (arm.way(), name);
                let place = all.iter().position(|(known, _)| *known == case);
                let place = place.unwrap_or_else(|| {
                    all.push((case, Seen::default()));
                    all.len() - 1
                });
                if let Some((_, seen)) = all.get_mut(place) {
                    seen.gbps.push(report.bits_per_second / 1e9);
                    seen.sent_gbps.push(report.sent_bits_per_second / 1e9);
                    seen.cores.push(cores);
                }
            }
        }
    }
    Ok(all)
}
