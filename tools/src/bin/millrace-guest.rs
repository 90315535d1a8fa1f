//! `millrace-guest`: what runs inside a lab's virtual machine, and the talkers that its tests use on both sides.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use millrace_tools::lab::machine;
use millrace_tools::lab::traffic::{named, talk};

/// Inside a lab's virtual machine: does what the lab says, and talks to others on the network.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Follow orders from the control port until it is closed
    Serve,
    /// Send back whatever comes to an address, over TCP and UDP, until killed
    Echo {
        /// Where to listen, ADDRESS:PORT
        at: SocketAddr,
    },
    /// Answer with a name whatever comes to an address, over TCP and UDP, until killed
    Answer {
        /// The name, at most 32 bytes
        name: String,
        /// Where to listen, ADDRESS:PORT
        at: SocketAddr,
    },
    /// Ask who is at an address, over TCP and by one datagram, and print the names as JSON
    Ask {
        /// Who is asked, ADDRESS:PORT
        to: SocketAddr,
        /// What is said, again and again
        #[arg(long, value_name = "TEXT")]
        word: String,
        /// Bytes of payload of the datagram
        #[arg(long, value_name = "BYTES")]
        largest: usize,
    },
    /// Talk to an echo on many flows, check every byte that comes back, and print a report as JSON
    Talk {
        /// Where the echo is, ADDRESS:PORT
        to: SocketAddr,
        /// How many connections, and how many UDP sockets
        #[arg(long, value_name = "N", default_value_t = 16)]
        flows: u32,
        /// Bytes over each connection, each way
        #[arg(long, value_name = "BYTES", default_value_t = 100_000)]
        bytes: usize,
        /// Datagrams on each UDP socket
        #[arg(long, value_name = "N", default_value_t = 5)]
        datagrams: u32,
    },
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Serve => machine::serve(),
        Command::Echo { at } => talk::echo(at),
        Command::Answer { name, at } => named::answer(&name, at),
        Command::Ask { to, word, largest } => named::ask(to, &word, largest)
            .and_then(|answered| answered.to_json())
            .map(|line| println!("{line}")),
        Command::Talk {
            to,
            flows,
            bytes,
            datagrams,
        } => {
            let what = talk::Talk {
                flows,
                bytes,
                datagrams,
            };
            talk::talk(to, &what)
                .and_then(|report| report.to_json())
                .map(|line| println!("{line}"))
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
