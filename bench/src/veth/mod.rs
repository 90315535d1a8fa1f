//! The whole switch between real interfaces, beside a forwarder that does nothing else, and beside the kernel.

mod arm;
pub(crate) mod processor;
mod quota;
pub(crate) mod setting;
mod window;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use millrace_dataplane::worker::BATCH_MAX;
use millrace_tools::lab::interrupt;
use millrace_tools::pktgen::check_core;
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::statistics::{median, rounded};
use crate::summary;
use arm::{Arm, Cores, Kind};
use window::Window;

/// The shares of its core that the node's process gets, in hundredths, until the forwarder is the bottleneck.
const SHARES: [u32; 6] = [100, 75, 50, 35, 25, 15];
/// A node that loses less than this share of the packets may not be the bottleneck.
const LOSS_MIN: f64 = 0.05;
/// Neither may one whose batches are less full than this: who is faster than its packets takes a few at a time.
const BATCH_FILL_MIN: f64 = 0.5;
/// The kernel, which holds the generator up rather than lose packets, is the bottleneck when its core is this busy.
const KERNEL_CORE_SHARE_MIN: f64 = 0.9;
/// How long the forwarder is tried with one share.
const TRIAL: Duration = Duration::from_secs(1);
/// How long packets flow before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// How the whole switch is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; each measures the forwarder, the switch and the kernel once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// How long each is measured in a round, in seconds
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Length of the pod's frames, in bytes, without the frame check sequence
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
    /// Core of the node under test
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of the generator
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    generator_core: usize,
    /// Hundredths of its core that the node's process gets [default: as many as leave the forwarder the bottleneck]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(5..=100))]
    share: Option<u32>,
    /// Fail unless the switch reaches this share of the bare forwarder's packets
    #[arg(long, value_name = "RATIO")]
    at_least: Option<f64>,
}

/// What was measured of one arm.
struct Measured {
    kind: Kind,
    windows: Vec<Window>,
}

impl Measured {
    fn median(&self, of: impl Fn(&Window) -> f64) -> f64 {
        median(&self.windows.iter().map(of).collect::<Vec<_>>())
    }

    /// Whether it was the bottleneck, by medians, as all figures are: something else on the machine may spoil a round.
    fn is_saturated(&self) -> bool {
        let busy = self.kind == Kind::Kernel && self.median(Window::core_share) >= KERNEL_CORE_SHARE_MIN;
        let batches: Vec<f64> = self
            .windows
            .iter()
            .filter_map(|window| window.mean_batch)
            .collect();
        let full = batches.is_empty() || median(&batches) >= full_batch();
        busy || (self.median(Window::loss) >= LOSS_MIN && full)
    }

    fn figures(&self) -> Value {
        let rates: Vec<f64> = self
            .windows
            .iter()
            .map(|window| rounded(window.delivered_per_second(), 0))
            .collect();
        json!({
            "packets_per_second": rounded(self.median(Window::delivered_per_second), 0),
            "offered_per_second": rounded(self.median(Window::offered_per_second), 0),
            "loss": rounded(self.median(Window::loss), 4),
            "core_share": rounded(self.median(Window::core_share), 4),
            "packets_per_core_second": rounded(self.median(Window::per_core_second), 0),
            "mean_batch": self.windows.last().and_then(|window| window.mean_batch).map(|mean| rounded(mean, 1)),
            "saturated": self.is_saturated(),
            "rounds": rates,
        })
    }
}

/// Whether whoever forwards was the bottleneck: packets were lost, and its batches did not wait for packets.
fn is_saturated(window: &Window) -> bool {
    window.loss() >= LOSS_MIN && window.mean_batch.is_none_or(|mean| mean >= full_batch())
}

/// How many packets a batch has at least that did not wait for packets.
fn full_batch() -> f64 {
    // INVARIANT: a small constant.
    #[allow(clippy::cast_precision_loss)]
    let most = BATCH_MAX as f64;
    most * BATCH_FILL_MIN
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a node cannot be set up or does not do its work, and when the forwarder cannot be made the bottleneck.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    check_core(options.core)?;
    check_core(options.generator_core)?;
    ensure!(
        options.core != options.generator_core,
        "the node under test and the generator need a core each"
    );
    heed_signals()?;
    let cores = Cores {
        node: options.core,
        generator: options.generator_core,
    };
    let mut arms = Vec::new();
    for kind in Kind::ALL {
        let arm = Arm::bring_up(kind, cores, options.size);
        arms.push(arm.with_context(|| format!("cannot set up the {}", kind.name()))?);
    }
    let share = match options.share {
        Some(share) => share,
        None => find_share(&mut arms)?,
    };
    for arm in &arms {
        arm.limit(share)?;
    }
    let mut measured: Vec<Measured> = arms
        .iter()
        .map(|arm| Measured {
            kind: arm.kind(),
            windows: Vec::new(),
        })
        .collect();
    for _ in 0..options.rounds {
        for (arm, measured) in arms.iter_mut().zip(&mut measured) {
            let window = Window::measure(arm, WARM_UP, Duration::from_secs(options.seconds))?;
            measured.windows.push(window);
        }
    }
    drop(arms);
    report(options, share, &measured, output)
}

/// Tries smaller and smaller shares of the core until the bare forwarder loses packets for want of it.
fn find_share(arms: &mut [Arm]) -> anyhow::Result<u32> {
    let arm = arms
        .iter_mut()
        .find(|arm| arm.kind() == Kind::Forwarder)
        .context("there is no forwarder")?;
    for share in SHARES {
        arm.limit(share)?;
        if is_saturated(&Window::measure(arm, WARM_UP, TRIAL)?) {
            return Ok(share);
        }
    }
    bail!(
        "the generator is too slow to make the forwarder the bottleneck, even with {} % of a core",
        SHARES[SHARES.len() - 1]
    )
}

fn report(options: &Options, share: u32, measured: &[Measured], output: &Path) -> anyhow::Result<()> {
    let of = |kind| {
        measured
            .iter()
            .find(|measured| measured.kind == kind)
            .context("an arm was not measured")
    };
    let (forwarder, switch, kernel) = (of(Kind::Forwarder)?, of(Kind::Switch)?, of(Kind::Kernel)?);
    println!(
        "{} rounds of {} s, frames of {} bytes, {share} % of core {} for a process",
        options.rounds, options.seconds, options.size, options.core
    );
    println!(
        "{:<12}{:>14}{:>14}{:>9}{:>12}{:>22}{:>12}",
        "", "packets/s", "offered/s", "loss", "core share", "packets/core second", "mean batch"
    );
    for arm in measured {
        let batch = arm.windows.last().and_then(|window| window.mean_batch);
        println!(
            "{:<12}{:>14.0}{:>14.0}{:>8.1}%{:>11.1}%{:>22.0}{:>12}",
            arm.kind.name(),
            arm.median(Window::delivered_per_second),
            arm.median(Window::offered_per_second),
            arm.median(Window::loss) * 100.0,
            arm.median(Window::core_share) * 100.0,
            arm.median(Window::per_core_second),
            batch.map_or("-".to_owned(), |batch| format!("{batch:.1}")),
        );
    }
    let rate = |arm: &Measured| arm.median(Window::delivered_per_second);
    let efficiency = |arm: &Measured| arm.median(Window::per_core_second);
    let of_forwarder = rate(switch) / rate(forwarder);
    let of_forwarder_per_core = efficiency(switch) / efficiency(forwarder);
    let of_kernel = efficiency(switch) / efficiency(kernel);
    println!("switch / forwarder: {of_forwarder:.3} (per core second {of_forwarder_per_core:.3})");
    println!("switch / kernel, per core second: {of_kernel:.2}");
    let arms: Map<String, Value> = measured
        .iter()
        .map(|arm| (arm.kind.name().to_owned(), arm.figures()))
        .collect();
    let figures = json!({
        "frame_bytes": options.size,
        "share_percent": share,
        "arms": arms,
        "switch_of_forwarder": rounded(of_forwarder, 4),
        "switch_of_forwarder_per_core_second": rounded(of_forwarder_per_core, 4),
        "switch_of_kernel_per_core_second": rounded(of_kernel, 4),
    });
    summary::merge(
        output,
        Map::from_iter([(format!("veth/{}", options.size), figures)]),
    )?;
    println!("written to {}", output.display());
    if let Some(arm) = measured.iter().find(|arm| !arm.is_saturated()) {
        bail!(
            "the {} was not the bottleneck: its figures do not count",
            arm.kind.name()
        );
    }
    match options.at_least {
        Some(wanted) if of_forwarder < wanted => {
            bail!(
                "the switch reaches {of_forwarder:.3} of the bare forwarder; at least {wanted} would be right"
            )
        }
        _ => Ok(()),
    }
}

/// Turns the signals that end a program into an interrupt of the labs, so that they are taken down in order.
pub(crate) fn heed_signals() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot heed signals")?;
    let heed = move || {
        for _ in signals.forever() {
            interrupt::raise();
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(heed)
        .context("cannot start a thread")?;
    Ok(())
}
