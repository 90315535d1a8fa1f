//! `millrace-pktgen`: sends packets from one interface, or into memory, and says exactly what became of them.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, CommandFactory, Parser, Subcommand};
use millrace_tools::lab::{LabError, clean_leftovers};
use millrace_tools::pktgen::example::{Between, Stage};
use millrace_tools::pktgen::search::{Tried, search};
use millrace_tools::pktgen::settings::{
    Packets, Receive, Search, Send, Settings, Speed, Times, Wrap, criteria, setup, trial,
};
use millrace_tools::pktgen::{PktgenError, Progress, Session, svg, table};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Exit status for what makes no sense as asked; clap uses the same for a line it cannot read.
const WRONG_USAGE: u8 = 2;
/// What the lab is called.
const LAB_NAME: &str = "pktgen";

/// Sends packets from one interface, or into memory, and says exactly what became of them.
///
/// Must run as root, except in memory. A receiving interface gets an XDP program for the time of the run and is deaf to everything
/// else meanwhile.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit status: 0 done, a run that lost packets or was stopped by Ctrl-C too; 1 it failed; 2 wrong usage.\n\
                  docs/pktgen.md has examples, without any NIC and with one."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send for a time, receive, or both, and print what became of every packet
    #[command(after_help = "Examples:\n  \
        millrace-pktgen run --send eth1 --receive eth2 --destination-mac 02:00:00:00:00:01 --rate 1Mpps --flows 10000\n  \
        millrace-pktgen run --send memory --receive memory --size imix\n  \
        millrace-pktgen run --config load.toml --seconds 60 --json")]
    Run(RunOptions),
    /// Look for the highest rates without loss (NDR) and with little (PDR), and for the latency below
    #[command(after_help = "Example:\n  \
        millrace-pktgen search --send eth1 --receive eth2 --destination-mac 02:00:00:00:00:01 --seconds 60 --svg rates.svg")]
    Search(SearchOptions),
    /// The same in network namespaces made for it, without any NIC: a search, or with --run a run
    #[command(
        after_help = "Examples:\n  millrace-pktgen lab --seconds 2\n  millrace-pktgen lab --between nothing --run --rate 100kpps"
    )]
    Lab(LabOptions),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  millrace-pktgen completions bash > /etc/bash_completion.d/millrace-pktgen"
    )]
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct RunOptions {
    #[command(flatten)]
    common: Shared,
    #[command(flatten)]
    speed: Speed,
}

#[derive(Debug, Args)]
struct SearchOptions {
    #[command(flatten)]
    common: Shared,
    #[command(flatten)]
    search: Search,
}

#[derive(Debug, Args)]
struct LabOptions {
    #[command(flatten)]
    common: Shared,
    #[command(flatten)]
    speed: Speed,
    #[command(flatten)]
    search: Search,
    /// What is between the two ends
    #[arg(long, value_enum, default_value_t = Between::Kernel)]
    between: Between,
    /// A run instead of a search
    #[arg(long)]
    run: bool,
}

/// What every kind of run has.
#[derive(Debug, Args)]
struct Shared {
    /// File of settings; what stands on the line overrides it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Draw throughput and latency into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Tell how it is going on standard error, even if that is no terminal
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    send: Send,
    #[command(flatten)]
    receive: Receive,
    #[command(flatten)]
    packets: Packets,
    #[command(flatten)]
    tunnel: Wrap,
    #[command(flatten)]
    time: Times,
}

/// Why the program failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Pktgen(#[from] PktgenError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("cannot heed signals: {0}")]
    Signals(io::Error),
    #[error("cannot write the result: {0}")]
    Result(#[from] serde_json::Error),
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Pktgen(
                PktgenError::Template(_)
                | PktgenError::Flows(_)
                | PktgenError::Replay(_)
                | PktgenError::Core { .. }
                | PktgenError::TooLong { .. }
                | PktgenError::SameQueue { .. }
                | PktgenError::Settings(_),
            ) => WRONG_USAGE,
            _ => 1,
        }
    }
}

/// How results and news are told.
struct Output {
    json: bool,
    svg: Option<PathBuf>,
    is_terminal: bool,
    tells: bool,
}

impl Output {
    fn new(common: &Shared) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            json: common.json,
            svg: common.svg.clone(),
            is_terminal,
            tells: is_terminal || common.progress,
        }
    }

    /// The line of progress: on a terminal always the same one.
    fn progress(&self, progress: &Progress) {
        if !self.tells {
            return;
        }
        let line = table::of_progress(progress);
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    fn trial(&self, tried: &Tried) {
        if self.tells {
            let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
            eprintln!("{clear}{}", table::of_trial(tried));
        }
    }

    fn result<T: Serialize>(
        &self,
        result: &T,
        table: impl Fn(&T) -> String,
        picture: impl Fn(&T) -> String,
    ) -> Result<(), Failure> {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
        if let Some(path) = &self.svg {
            write_picture(path, &picture(result))?;
        }
        let text = if self.json {
            serde_json::to_string(result)? + "\n"
        } else {
            table(result)
        };
        // Who closes the pipe has read enough.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(())
    }
}

fn write_picture(path: &Path, picture: &str) -> Result<(), PktgenError> {
    fs::write(path, picture).map_err(|source| PktgenError::Output {
        path: path.display().to_string(),
        source,
    })
}

/// The settings of the line over those of the file over those of the lab.
fn settings(common: Shared, speed: Speed, search: Search, lab: Settings) -> Result<Settings, PktgenError> {
    let file = common
        .config
        .as_deref()
        .map(Settings::read)
        .transpose()?
        .unwrap_or_default();
    let line = Settings {
        send: common.send,
        receive: common.receive,
        packets: common.packets,
        tunnel: common.tunnel,
        time: common.time,
        run: speed,
        search,
    };
    Ok(line.over(file).over(lab))
}

fn open(settings: &Settings) -> Result<Session, PktgenError> {
    let resolved = setup(settings)?;
    if resolved.skipped > 0 {
        eprintln!(
            "millrace-pktgen: {} packets of the recording are cut short or too long, and are not sent",
            resolved.skipped
        );
    }
    Session::open(resolved.setup)
}

fn one_run(settings: &Settings, output: &Output, stop: &AtomicBool) -> Result<(), Failure> {
    let (trial, warm_up) = trial(settings)?;
    let mut session = open(settings)?;
    let watch = &mut |progress: &Progress| output.progress(progress);
    if let Some(warm_up) = warm_up {
        session.run(&warm_up, stop, watch)?;
    }
    let outcome = session.run(&trial, stop, watch)?;
    drop(session);
    output.result(&outcome, table::of_run, svg::of_run)
}

fn one_search(settings: &Settings, output: &Output, stop: &AtomicBool) -> Result<(), Failure> {
    // What no search can do is said before an interface is touched.
    criteria(settings, 1.0)?;
    let mut session = open(settings)?;
    let criteria = criteria(settings, session.mean_len())?;
    let watch = &mut |progress: &Progress| output.progress(progress);
    let told = &mut |tried: &Tried| output.trial(tried);
    let findings = search(&mut session, &criteria, stop, watch, told)?;
    drop(session);
    output.result(&findings, table::of_search, svg::of_search)
}

fn in_lab(options: LabOptions, stop: &AtomicBool) -> Result<(), Failure> {
    clean_leftovers()?;
    let stage = Stage::bring_up(LAB_NAME, options.between)?;
    let output = Output::new(&options.common);
    let settings = settings(options.common, options.speed, options.search, stage.settings())?;
    if options.run {
        one_run(&settings, &output, stop)
    } else {
        one_search(&settings, &output, stop)
    }
}

/// A flag that the signals which end a program raise.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(Failure::Signals)?;
    }
    Ok(flag)
}

fn carry_out(command: Command) -> Result<(), Failure> {
    let none = Settings::default;
    let stop = stop_flag()?;
    match command {
        Command::Run(RunOptions { common, speed }) => {
            let output = Output::new(&common);
            one_run(
                &settings(common, speed, Search::default(), none())?,
                &output,
                &stop,
            )
        }
        Command::Search(SearchOptions { common, search }) => {
            let output = Output::new(&common);
            one_search(
                &settings(common, Speed::default(), search, none())?,
                &output,
                &stop,
            )
        }
        Command::Lab(options) => in_lab(options, &stop),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "millrace-pktgen", &mut script);
            let _ = io::stdout().write_all(&script);
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("millrace-pktgen: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_completion_knows_its_commands() {
        Cli::command().debug_assert();
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "millrace-pktgen", &mut script);
            let script = String::from_utf8_lossy(&script).into_owned();
            for word in ["search", "new-connections", "zipf", "outer-source"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn the_line_goes_over_the_lab() {
        let line = [
            "millrace-pktgen",
            "lab",
            "--run",
            "--send",
            "memory",
            "--promiscuous",
            "--send-queue",
            "0,2",
        ];
        let Command::Lab(options) = Cli::parse_from(line).command else {
            panic!("another command");
        };
        let mut lab = Settings::default();
        lab.send.interface = Some("out".to_owned());
        lab.send.netns = Some("left".to_owned());
        let Ok(settings) = settings(options.common, options.speed, options.search, lab) else {
            panic!("no settings");
        };
        assert_eq!(settings.send.interface.as_deref(), Some("memory"));
        assert_eq!(settings.send.netns.as_deref(), Some("left"));
        assert_eq!(settings.send.queues, Some(vec![0, 2]));
        assert_eq!(settings.receive.promiscuous, Some(true));
    }
}
