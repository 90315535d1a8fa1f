//! `millrace-bench`: how fast the switch is, and beside what.
//!
//! `memory` takes packets through the walks of the node's pipeline, in a real worker, between ports in memory: what the
//! switch's own code costs. `flows` measures the flow table by itself, `tables` the lookups in all of them. `services` loads
//! and changes Services, and asks for backends; `policies` compiles and changes policies, and judges connections. `dpdk`
//! sets DPDK's own pieces beside ours. `veth` sends packets through the whole switch, between real interfaces, beside a
//! forwarder that does nothing else and beside the Linux kernel; `chain` does that with all the work there is, and many
//! objects, and beside Open vSwitch too; `iperf` sends what people send; `idle` is about the switch's rest, `scale` about its
//! growth, `spread` about one queue that two workers share, `storms` about what floods leave of established traffic. `report` writes what was measured into the project's pages. `README.md` says how each figure is got and what limits
//! it.
#![forbid(unsafe_code)]

mod arms;
mod chain;
mod dpdk;
mod facts;
mod flows;
mod idle;
mod iperf;
mod measure;
mod memory;
mod policies;
mod random;
mod report;
mod scale;
mod services;
mod spread;
mod statistics;
mod storms;
mod summary;
mod tables;
mod veth;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How fast the switch is, and beside what.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// File the figures are written to; those of other runs in it stay
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "target/bench/summary.json"
    )]
    output: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Walks between ports in memory: nanoseconds, cycles and allocations per packet. Needs no privileges
    Memory(memory::Options),
    /// Policies: compiling them, changing a pod or a policy, and judging connections. Needs no privileges
    Policies(policies::Options),
    /// Services: loading them, changing one, and asking for a backend. Needs no privileges
    Services(services::Options),
    /// The flow table by itself: nanoseconds for each lookup, claim and so on. Needs no privileges
    Flows(flows::Options),
    /// Lookups in each table by itself: nanoseconds and cycles. Needs no privileges
    Tables(tables::Options),
    /// DPDK's own pieces, and ours beside them: packets from memory to memory, hash and longest-prefix match
    Dpdk(dpdk::Options),
    /// The whole switch between real interfaces, beside a bare forwarder and the kernel. Needs root
    Veth(veth::Options),
    /// The whole chain between real interfaces, proven and beside the kernel; searches, latency, idle ports. Needs root
    Chain(chain::Options),
    /// The switch at rest: its processor time, its wake-up, and what its load figure says. Needs root
    Idle(idle::Options),
    /// iperf3 between pods, through the switch and through the kernel. Needs root
    Iperf(iperf::Options),
    /// Cost per packet and memory against flows, Services, policies, ports and workers, in memory. Needs no privileges
    Scale(scale::Options),
    /// IP-in-IP that all comes in by one queue, shared by two workers or not, in memory. Needs no privileges
    Spread(spread::Options),
    /// The same between real interfaces, each worker with a fixed part of its core. Needs root, and the `millrace` program beside
    /// this one
    SpreadVeth(spread::interfaces::Options),
    /// Established traffic of a bridged network beside MAC floods, moves and broadcast storms, in memory. Needs no privileges
    Storms(storms::Options),
    /// Writes the summary's figures into the tables of the project's pages, and draws them
    Report(report::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = run(&cli.command, &cli.output);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures one part and notes what it was measured on; or reports.
fn run(command: &Command, output: &Path) -> anyhow::Result<()> {
    let part = match command {
        Command::Memory(options) => memory::run(options, output).map(|()| "memory"),
        Command::Policies(options) => policies::run(options, output).map(|()| "policies"),
        Command::Services(options) => services::run(options, output).map(|()| "services"),
        Command::Flows(options) => flows::run(options, output).map(|()| "flows"),
        Command::Tables(options) => tables::run(options, output).map(|()| "tables"),
        Command::Dpdk(options) => dpdk::run(options, output).map(|()| "dpdk"),
        Command::Veth(options) => veth::run(options, output).map(|()| "veth"),
        Command::Chain(options) => chain::run(options, output).map(|()| "chain"),
        Command::Idle(options) => idle::run(options, output).map(|()| "idle"),
        Command::Iperf(options) => iperf::run(options, output).map(|()| "iperf"),
        Command::Scale(options) => scale::run(options, output).map(|()| "scale"),
        Command::Spread(options) => spread::run(options, output).map(|()| "spread"),
        Command::SpreadVeth(options) => spread::interfaces::run(options, output).map(|()| "spread-veth"),
        Command::Storms(options) => storms::run(options, output).map(|()| "storms"),
        Command::Report(options) => return report::run(options, output),
    };
    facts::note(part?, output)
}
