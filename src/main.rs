//! The `millrace` program: takes the command line apart and does what it says.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use millrace::admin::protocol::Failure;
use millrace::cli::{self, Cli, Command, UninstallArguments};
use millrace::config::Config;
use millrace::objects::NodeName;
use millrace::{daemon, objects};
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. kube-rs has a line for every request that fails; that a server is away is
/// said once, by whoever asked.
const LOGGED: &str = "info,kube_client=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let name = cli.node_name.as_ref();
    cli::exit_code(match cli.command {
        Command::Run(argument) => run(&argument.config, name),
        Command::Check(argument) => check(&argument.file, name),
        Command::Doctor(arguments) => cli::doctor(arguments, name),
        Command::Install(arguments) => cli::install(&arguments, &cli.socket),
        Command::Uninstall(arguments) => uninstall(&arguments, name),
        Command::Completions { shell } => cli::print_completions(shell),
        Command::Client(command) => cli::execute(&cli.socket, command),
    })
}

fn run(config: &Path, name: Option<&NodeName>) -> Result<(), Failure> {
    let config = load(config, name)?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let error_output = std::io::stderr();
    let colour = error_output.is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
    daemon::run(config).map_err(failed)
}

/// Prints what was understood, and ends with 2 if anything is wrong.
fn check(config: &Path, name: Option<&NodeName>) -> Result<(), Failure> {
    let report = objects::check(config, name);
    cli::print(&format!("{report}\n"))?;
    if report.is_good() {
        return Ok(());
    }
    let wrong = report.errors.len() + report.counts.refused;
    Err(Failure::wrong(format!(
        "{}: {wrong} thing(s) to put right, named above",
        config.display()
    )))
}

/// The container runtime's files first, so that it makes no pod while the switch goes.
fn uninstall(arguments: &UninstallArguments, name: Option<&NodeName>) -> Result<(), Failure> {
    if arguments.cni_files {
        cli::uninstall_cni(arguments)?;
    }
    let Some(config) = &arguments.config else {
        return Ok(());
    };
    let done = daemon::uninstall(&load(config, name)?, arguments.stop).map_err(failed)?;
    if done.is_empty() {
        return cli::print("nothing of Millrace was left here\n");
    }
    cli::print(
        &done
            .iter()
            .map(|what| format!("removed: {what}\n"))
            .collect::<String>(),
    )
}

fn load(config: &Path, name: Option<&NodeName>) -> Result<Config, Failure> {
    Config::load_for(config, name).map_err(|error| Failure::wrong(error.to_string()))
}

/// A start that was kept back by what the node file or the manifests say ends with 2, anything else with 1.
fn failed(error: anyhow::Error) -> Failure {
    let message = format!("{error:#}");
    if error.is::<daemon::Misconfigured>() {
        Failure::wrong(message)
    } else {
        Failure::failed(message)
    }
}
