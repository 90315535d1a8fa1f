//! The switch at rest: what it takes of a core without traffic, what waking up adds to a packet's way, and whether the
//! load that it tells of a worker means what it says.

mod load;
mod node;
mod probe;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use millrace_tools::lab::interrupt;
use serde_json::{Map, Value, json};

use crate::arms::{Cores, heed_signals, thread_times};
use crate::statistics::{median, rounded};
use crate::summary;
use node::{Idle, Node};
use probe::{Probe, Sleeper, Times, measure};

/// How the worker's threads are called, before their number.
const WORKER: &str = "worker-";
/// How long a node is left alone before its rest is measured.
const SETTLING: Duration = Duration::from_secs(3);

/// How the switch's rest is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds; each measures everything once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..))]
    rounds: u32,
    /// How long a node without traffic is looked at in a round, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Packets sent one at a time to each node in a round
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(100..))]
    packets: u32,
    /// Core of the worker under test
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    core: usize,
    /// Core of whoever sends
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    generator_core: usize,
}

/// Measures, prints, and writes the figures down.
///
/// # Errors
/// When a node cannot be set up, a packet is lost that had all the time there is, or the load says something else than
/// what goes on.
pub(crate) fn run(options: &Options, output: &Path) -> anyhow::Result<()> {
    Cores::new(options.core, options.generator_core)?;
    heed_signals()?;
    let mut figures = Map::new();
    figures.insert("idle/asleep".to_owned(), asleep(options)?);
    figures.insert("idle/wake-up".to_owned(), wake_up(options)?);
    let loads = load::measure(options.rounds, options.core, options.generator_core)?;
    load::show(&loads, &mut figures);
    summary::merge(output, figures)?;
    println!("written to {}", output.display());
    load::judge(&loads)
}

/// What a node with a worker on each core takes of a core while nothing is sent.
fn asleep(options: &Options) -> anyhow::Result<Value> {
    let node = Node::bring_up(
        "idle-rest",
        Idle::Sleep,
        vec![options.generator_core, options.core],
    )?;
    let pid = node.pid()?;
    wait(SETTLING)?;
    let (mut workers, mut daemon) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let (began, before) = (Instant::now(), thread_times(pid)?);
        wait(Duration::from_secs(options.seconds))?;
        let (seconds, after) = (began.elapsed().as_secs_f64(), thread_times(pid)?);
        let total = |times: &[(String, f64)]| times.iter().map(|(_, time)| time).sum::<f64>();
        daemon.push((total(&after) - total(&before)) / seconds);
        let of = |times: &[(String, f64)], name: &str| {
            times
                .iter()
                .find(|(known, _)| known == name)
                .map_or(0.0, |(_, time)| *time)
        };
        let names = after
            .iter()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with(WORKER));
        let busiest = names
            .map(|name| of(&after, name) - of(&before, name))
            .reduce(f64::max);
        workers.push(busiest.context("the daemon has no worker")? / seconds);
    }
    let (worker, daemon) = (median(&workers), median(&daemon));
    println!(
        "without traffic, of one core: the busier worker {:.2} %, the whole daemon {:.2} %",
        worker * 100.0,
        daemon * 100.0
    );
    Ok(json!({
        "worker_core_share": rounded(worker, 5),
        "daemon_core_share": rounded(daemon, 5),
        "rounds": workers.len(),
    }))
}

/// What a packet that finds the worker asleep takes longer than one that finds it polling; and, beside them, what it takes
/// to wake a thread that does nothing else.
fn wake_up(options: &Options) -> anyhow::Result<Value> {
    let mut arms = Vec::new();
    for idle in [Idle::Sleep, Idle::Poll] {
        let mut node = Node::bring_up(&format!("idle-{}", idle.word()), idle, vec![options.core])?;
        let probe = Probe::new(&node)?;
        // Who polls would keep the core from the others.
        node.halt()?;
        arms.push((node, probe, Vec::new()));
    }
    let (sleeper, mut thread) = (Sleeper::new(options.core)?, Vec::new());
    let (packets, core) = (options.packets, options.generator_core);
    for _ in 0..options.rounds {
        for (node, probe, rounds) in &mut arms {
            node.go_on()?;
            rounds.push(measure(packets, core, |number| probe.one(number))?);
            node.halt()?;
        }
        thread.push(measure(packets, core, |number| sleeper.one(number))?);
    }
    println!(
        "{:<14}{:>12}{:>12}{:>12}{:>12}",
        "one packet", "p50 us", "p90 us", "p99 us", "max us"
    );
    let mut figures = Map::new();
    let named = arms.iter().map(|(node, _, rounds)| (node.idle().word(), rounds));
    for (name, rounds) in named.chain([("thread", &thread)]) {
        figures.insert(name.to_owned(), distribution(name, rounds));
    }
    let p99 = |name: &str| {
        let figure = figures.get(name).and_then(|figure| figure.get("p99_us"));
        figure.and_then(Value::as_f64).unwrap_or_default()
    };
    let (added, of_thread) = (p99("sleep") - p99("poll"), p99("thread"));
    println!("waking up adds {added:.1} us at p99; to wake a thread alone takes {of_thread:.1} us");
    figures.insert("added_p99_us".to_owned(), rounded(added, 2).into());
    figures.insert("packets".to_owned(), (options.packets * options.rounds).into());
    Ok(Value::Object(figures))
}

/// Prints the medians over the rounds, and answers them.
fn distribution(name: &str, rounds: &[Times]) -> Value {
    let at = |quantile: f64| {
        let values: Vec<_> = rounds.iter().map(|round| round.us_at(quantile)).collect();
        rounded(median(&values), 2)
    };
    let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), at(1.0));
    println!("{name:<14}{p50:>12.1}{p90:>12.1}{p99:>12.1}{max:>12.1}");
    json!({"p50_us": p50, "p90_us": p90, "p99_us": p99, "max_us": max})
}

/// Waits, unless it is interrupted.
fn wait(duration: Duration) -> anyhow::Result<()> {
    const BEAT: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + duration;
    loop {
        interrupt::check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(BEAT));
    }
}
