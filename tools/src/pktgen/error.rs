//! What can go wrong with a generator, each with what it was doing and to what.

use std::io;

use millrace_dataplane::port::umem::UmemError;
use millrace_dataplane::port::xsk::BindError;
use millrace_dataplane::xdp::XdpError;

use super::flows::InvalidFlows;
use super::replay::ReplayError;
use super::template::TemplateError;

/// A failure of a generator or of a counting end.
#[derive(Debug, thiserror::Error)]
pub enum PktgenError {
    /// The packets asked for cannot be built.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The flows asked for are not there.
    #[error(transparent)]
    Flows(#[from] InvalidFlows),
    /// The recording cannot be sent.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Packets are longer than the interface takes.
    #[error(
        "frames of {len} bytes by {place}, whose MTU is {mtu}: {} bytes at most, tunnel included, or a larger MTU would be right",
        mtu + 14
    )]
    TooLong {
        /// The longest frame, in bytes without frame check sequence.
        len: usize,
        /// The interface and its namespace.
        place: String,
        /// What it takes behind the Ethernet header, in bytes.
        mtu: u32,
    },
    /// The interface is down.
    #[error("{0} is down: `ip link set {0} up` would be right")]
    Down(String),
    /// One queue cannot have two sockets of two memories.
    #[error(
        "{place} is to send and to receive by queue {queue}: queues of its own for each, or two interfaces, would be right"
    )]
    SameQueue {
        /// The interface and its namespace.
        place: String,
        /// The queue.
        queue: u32,
    },
    /// What was asked for makes no sense together.
    #[error("{0}")]
    Settings(String),
    /// A file of results cannot be written.
    #[error("cannot write {path}: {source}")]
    Output {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A network namespace cannot be entered.
    #[error("cannot enter the network namespace {namespace}: {source}")]
    Namespace {
        /// Its file.
        namespace: String,
        /// What the system said.
        source: io::Error,
    },
    /// An interface cannot be asked about.
    #[error("cannot look at {place}: {reason}")]
    Interface {
        /// The interface and its namespace.
        place: String,
        /// What was wrong.
        reason: String,
    },
    /// Somebody's XDP program is on the interface already: it would have to go.
    #[error("{place} has an XDP program already ({program}): stop its owner, or choose another interface")]
    Occupied {
        /// The interface and its namespace.
        place: String,
        /// The program's name.
        program: String,
    },
    /// No packet memory.
    #[error(transparent)]
    Umem(#[from] UmemError),
    /// A socket cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The steering program cannot be loaded or attached.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A core is not there, or not ours.
    #[error("there is no core {core} for this process: {available} would be right")]
    Core {
        /// The core asked for.
        core: usize,
        /// What could be named.
        available: String,
    },
    /// No thread.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// What it was to do.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread of ours ended with a panic.
    #[error("the thread {0} panicked")]
    Panicked(&'static str),
}
