//! Why workers or their ports could not be set up.

use millrace_dataplane::port::umem::UmemError;
use millrace_dataplane::port::xsk::BindError;
use millrace_dataplane::worker::{StartError, WorkerError};
use millrace_dataplane::xdp::XdpError;

/// Why workers or their ports could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// A worker could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No packet memory.
    #[error(transparent)]
    Umem(#[from] UmemError),
    /// A socket could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The steering program could not be loaded, attached or fed.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A worker did not take a command.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The interface has fewer queues than there are workers.
    #[error(
        "{interface} has {queues} queue(s), but each of the {workers} workers needs one to send by; \
         {queues} core(s) in [workers] cores, or more queues (`ethtool -L {interface} combined {workers}`), would be right"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
        /// The workers.
        workers: usize,
    },
    /// The interface has more queues than the workers can own.
    #[error(
        "{interface} has {queues} queues; {most} is the most that {workers} worker(s) serve: `ethtool -L {interface} combined {most}`"
    )]
    TooManyQueues {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
        /// The most that would do.
        most: usize,
        /// The workers.
        workers: usize,
    },
    /// All holder numbers of a worker are in use.
    #[error("worker {0} serves as many queues as it can")]
    NoHolder(usize),
}
