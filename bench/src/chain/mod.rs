//! The whole chain between real interfaces: from a pod to a Service's ClusterIP, NAT, the pod's policies, VXLAN towards the
//! backend, and the answers back; with few and with many Services and policies, beside a bare forwarder and the kernel.

mod cluster;
mod delays;
mod highest;
mod interruptions;
mod objects;
mod openflow;
mod ports;
mod positions;
mod proof;
mod rates;
mod rules;
mod search;
mod seen;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::arms::{Cores, Direction, find_share, heed_signals};
use crate::summary;
use cluster::Cluster;
use ports::Idle;
use positions::{Arms, Given};
use rates::Rates;
use search::Searches;

/// What there is to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packets a second of every arm, both ways
    Rates,
    /// NDR, PDR and latency
    Search,
    /// What idle ports cost
    Ports,
}

/// How the whole chain is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; each measures everything once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each arm is measured in a round, and how long a trial of a search is, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 800, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    milliseconds: u64,
    /// Flows, over as many of the Services as there are or flows
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    flows: u32,
    /// Length of the pod's frames, in bytes, without the frame check sequence
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
    /// Services, and policies, of the small cluster
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    few: u32,
    /// The same of the large one
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(3..=50_000))]
    many: u32,
    /// Ports in all, of which all but two are idle
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u32).range(3..=250))]
    ports: u32,
    /// Core of the node under test
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of the generator
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    generator_core: usize,
    /// Hundredths of its core that a process gets where a share is measured [default: as many as leave everyone the
    /// bottleneck]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(5..=100))]
    share: Option<u32>,
    /// Measure only these
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Rates, Part::Search, Part::Ports])]
    only: Vec<Part>,
}

/// What came of a run.
struct Report {
    share: u32,
    compared: (usize, usize),
    facts: Map<String, Value>,
    rates: Option<Rates>,
    searches: Option<Searches>,
    idle: Option<Idle>,
}

/// Measures, prints tables, and writes the figures down.
///
/// # Errors
/// When a node cannot be set up, or does not do the work that the others do; and when something is no figure.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    ensure!(
        options.few < options.many,
        "{} Services are not more than {}: --many is to be larger than --few",
        options.many,
        options.few
    );
    heed_signals()?;
    let report = measure(options)?;
    print(options, &report)?;
    let figures = figures(options, &report)?;
    // A part that was left out keeps the figures of another run.
    let parts = figures
        .into_iter()
        .map(|(part, figures)| (format!("chain/{part}"), figures))
        .collect();
    summary::merge(output, parts)?;
    println!("written to {}", output.display());
    let unsaturated = report.rates.as_ref().map_or(Vec::new(), Rates::unsaturated);
    if !unsaturated.is_empty() {
        bail!(
            "not the bottleneck, so that their figures do not count: {}",
            unsaturated.join(", ")
        );
    }
    Ok(())
}

fn measure(options: &Options) -> anyhow::Result<Report> {
    let cores = Cores::new(options.core, options.generator_core)?;
    let duration = Duration::from_millis(options.milliseconds);
    let cluster = |size| Cluster {
        services: size,
        policies: size,
    };
    let sizes = [cluster(options.few), cluster(options.many)];
    let mut arms = Arms::bring_up(sizes, cores, (options.flows, options.size))?;
    eprintln!("comparing packets");
    let compared = arms.prove()?;
    let share = match options.share {
        Some(share) => share,
        None => find_share(|share| arms.afloat(share))?,
    };
    arms.share_percent = share;
    let wants = |part| options.only.contains(&part);
    let mut report = Report {
        share,
        compared,
        facts: arms.facts(),
        rates: None,
        searches: None,
        idle: None,
    };
    if wants(Part::Rates) {
        eprintln!("measuring rates");
        report.rates = Some(Rates::measure(&mut arms, options.rounds, duration)?);
    }
    if wants(Part::Search) {
        eprintln!("searching");
        report.searches = Some(Searches::hold(&mut arms, options.rounds, duration)?);
    }
    drop(arms);
    if wants(Part::Ports) {
        eprintln!("measuring idle ports");
        let (traffic, pace) = ((options.size, share), (options.rounds, duration));
        report.idle = Some(Idle::measure(options.ports, cores, traffic, pace)?);
    }
    Ok(report)
}

/// The ratios that are aimed at, by their keys in the summary.
fn ratios(
    options: &Options,
    rates: &Rates,
) -> anyhow::Result<Vec<(&'static str, &'static str, Direction, rates::Ratio)>> {
    let name = |kind: &str, size: u32| format!("{kind}-{size}");
    let (few, many) = (name("switch", options.few), name("switch", options.many));
    let kernel = name("kernel", options.many);
    let mut ratios = Vec::new();
    for direction in Direction::BOTH {
        for (key, title, one, other) in [
            (
                "switch_of_forwarder",
                "switch with many / forwarder, by share",
                (Given::Share, many.as_str()),
                (Given::Share, "forwarder"),
            ),
            (
                "many_of_few",
                "switch with many / with few, by share",
                (Given::Share, many.as_str()),
                (Given::Share, few.as_str()),
            ),
            (
                "switch_of_kernel",
                "switch on a core / kernel on a core, many",
                (Given::Core, many.as_str()),
                (Given::Core, kernel.as_str()),
            ),
            (
                "switch_of_kernel_on_both_cores",
                "switch on a core / kernel on both, many",
                (Given::Core, many.as_str()),
                (Given::Both, kernel.as_str()),
            ),
        ] {
            ratios.push((key, title, direction, rates.ratio(direction, one, other)?));
        }
    }
    Ok(ratios)
}

fn print(options: &Options, report: &Report) -> anyhow::Result<()> {
    let (out, back) = report.compared;
    println!(
        "{} flows, frames of {} bytes, {} and {} Services and policies; {} % of core {} is a share; {} rounds of {} ms",
        options.flows,
        options.size,
        options.few,
        options.many,
        report.share,
        options.core,
        options.rounds,
        options.milliseconds
    );
    println!("compared: {out} packets out and {back} back, the same from every arm that does the work");
    for (name, facts) in &report.facts {
        println!("{name}: {facts}");
    }
    if let Some(rates) = &report.rates {
        rates.print();
        for (_, title, direction, ratio) in ratios(options, rates)? {
            println!(
                "{}: {title}: {:.3} (per core second {:.3})",
                direction.name(),
                ratio.rate,
                ratio.per_core_second
            );
        }
    }
    if let Some(searches) = &report.searches {
        searches.print();
    }
    if let Some(idle) = &report.idle {
        idle.print();
    }
    Ok(())
}

/// For the summary, by part.
fn figures(options: &Options, report: &Report) -> anyhow::Result<Map<String, Value>> {
    let (out, back) = report.compared;
    let mut figures = Map::new();
    figures.insert(
        "setting".to_owned(),
        json!({
            "flows": options.flows,
            "frame_bytes": options.size,
            "few": options.few,
            "many": options.many,
            "share_percent": report.share,
            "packets_compared": {"out": out, "back": back},
            "arms": report.facts,
        }),
    );
    if let Some(rates) = &report.rates {
        let mut all = rates.figures();
        let by_arm = all.as_object_mut().context("figures are an object")?;
        for (key, _, direction, ratio) in ratios(options, rates)? {
            let entry = by_arm.entry(key).or_insert_with(|| json!({}));
            if let Some(entry) = entry.as_object_mut() {
                entry.insert(direction.name().to_owned(), ratio.figures());
            }
        }
        figures.insert("rates".to_owned(), all);
    }
    if let Some(searches) = &report.searches {
        figures.insert("search".to_owned(), searches.figures());
    }
    if let Some(idle) = &report.idle {
        figures.insert("ports".to_owned(), idle.figures());
    }
    Ok(figures)
}
