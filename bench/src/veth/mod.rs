//! The whole switch between real interfaces, beside a forwarder that does nothing else, and beside the kernel.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use millrace_tools::lab::plan::NodePlan;
use millrace_tools::pktgen::AddressRange;
use serde_json::{Map, Value, json};

use crate::arms::{
    Bed, Calls, Cores, Direction, Forwarder, Kernel, Measured, Objects, PEER_PLACE, Subject, Switch, Window,
    afloat, find_share, heed_signals,
};
use crate::statistics::rounded;
use crate::summary;

/// By which port the second node's pod is called (discard), in how many flows.
const DESTINATION_PORT: u16 = 9;
const FLOWS: u32 = 1024;

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
    /// Hundredths of its core that the node's process gets [default: as many as leave everyone the bottleneck]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(5..=100))]
    share: Option<u32>,
    /// Fail unless the switch reaches this share of the bare forwarder's packets
    #[arg(long, value_name = "RATIO")]
    at_least: Option<f64>,
}

/// The arms, in the order they are measured in: the forwarder, the switch, the kernel.
fn subjects() -> [Box<dyn Subject>; 3] {
    [
        Box::new(Forwarder::default()),
        Box::new(Switch::new("switch", Objects::default())),
        Box::new(Kernel::new("kernel", None)),
    ]
}

/// Measures, prints a table, and writes the figures down.
///
/// # Errors
/// When a node cannot be set up or does not do its work, and when the forwarder cannot be made the bottleneck.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    heed_signals()?;
    let cores = Cores::new(options.core, options.generator_core)?;
    let calls = Calls {
        destinations: AddressRange::one(NodePlan::of(PEER_PLACE)?.free_pod_address(&[])?),
        port: DESTINATION_PORT,
        flows: FLOWS,
        frame_len: options.size,
    };
    let mut beds = Vec::new();
    for subject in subjects() {
        beds.push(Bed::bring_up(subject, cores, &calls)?);
    }
    let share = match options.share {
        Some(share) => share,
        None => find_share(|share| {
            for bed in beds.iter_mut().filter(|bed| bed.is_limited()) {
                bed.limit(share);
                if let Some(who) = afloat(bed, Direction::Out, WARM_UP)? {
                    return Ok(Some(who));
                }
            }
            Ok(None)
        })?,
    };
    for bed in &mut beds {
        bed.limit(share);
    }
    let mut measured: Vec<Measured> = beds.iter().map(|bed| Measured::of(bed.name(), bed)).collect();
    for _ in 0..options.rounds {
        for (bed, measured) in beds.iter_mut().zip(&mut measured) {
            let duration = Duration::from_secs(options.seconds);
            let window = Window::measure(bed, Direction::Out, WARM_UP, duration)?;
            measured.windows.push(window);
        }
    }
    drop(beds);
    report(options, share, &measured, output)
}

fn report(options: &Options, share: u32, measured: &[Measured], output: &Path) -> anyhow::Result<()> {
    let [forwarder, switch, kernel] = measured else {
        bail!("an arm was not measured");
    };
    println!(
        "{} rounds of {} s, frames of {} bytes, {share} % of core {} for a process",
        options.rounds, options.seconds, options.size, options.core
    );
    println!("{}", Measured::head());
    for arm in measured {
        println!("{}", arm.row());
    }
    let of_forwarder = switch.rate() / forwarder.rate();
    let of_forwarder_per_core = switch.efficiency() / forwarder.efficiency();
    let of_kernel = switch.efficiency() / kernel.efficiency();
    println!("switch / forwarder: {of_forwarder:.3} (per core second {of_forwarder_per_core:.3})");
    println!("switch / kernel, per core second: {of_kernel:.2}");
    let arms: Map<String, Value> = measured
        .iter()
        .map(|arm| (arm.name.clone(), arm.figures()))
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
            arm.name
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
