//! `millrace-bench`: how fast the switch is, and beside what.
//!
//! `memory` takes packets through the walks of the node's pipeline, in a real worker, between ports in memory: what the
//! switch's own code costs. `flows` measures the flow table by itself, `tables` the lookups in all of them. `services` loads
//! and changes Services, and asks for backends; `policies` compiles and changes policies, and judges connections. `dpdk`
//! sets DPDK's own pieces beside ours. `veth` sends packets through the whole switch, between real interfaces, beside a
//! forwarder that does nothing else and beside the Linux kernel; `chain` does that with all the work there is, and many
//! objects, and beside Open vSwitch too. `README.md` says how each figure is got and what limits it.
#![forbid(unsafe_code)]

#[allow(
    dead_code,
    unused_imports,
    reason = "the part `chain`, which is next, needs all of it"
)]
mod arms;
mod chain;
mod dpdk;
mod flows;
mod measure;
mod memory;
mod policies;
mod random;
mod services;
mod statistics;
mod summary;
mod tables;
mod veth;

use std::path::PathBuf;
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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match &cli.command {
        Command::Memory(options) => memory::run(options, &cli.output),
        Command::Policies(options) => policies::run(options, &cli.output),
        Command::Services(options) => services::run(options, &cli.output),
        Command::Flows(options) => flows::run(options, &cli.output),
        Command::Tables(options) => tables::run(options, &cli.output),
        Command::Dpdk(options) => dpdk::run(options, &cli.output),
        Command::Veth(options) => veth::run(options, &cli.output),
        Command::Chain(options) => chain::run(options, &cli.output),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
