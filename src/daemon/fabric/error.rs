//! Why workers or their ports could not be set up.

use millrace_dataplane::port::QueueId;
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
    /// A queue is to be left to the kernel that is not there.
    #[error(
        "{interface} has no queue {queue} that could be left to the kernel: it has {queues}, counted from 0; \
         other [uplink] kernel-queues, or [uplink] queues, would be right"
    )]
    NoSuchQueue {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Its queues.
        queues: u32,
    },
    /// All queues are to be left to the kernel, or there is none.
    #[error(
        "{interface} has {queues} queue(s), and all are left to the kernel: one for the switch is needed; fewer \
         [uplink] kernel-queues would be right"
    )]
    NoQueue {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
    },
    /// The workers have too little memory for so many queues.
    #[error(
        "{interface} has {queues} queues that hold {each} frames each, too many for workers of {frames} frames: \
         [workers] frames = {enough}, fewer queues (`ethtool -L`) or a smaller [uplink] socket-ring would be right"
    )]
    TooFewFrames {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
        /// Frames that each of them holds.
        each: u32,
        /// Frames of a worker.
        frames: usize,
        /// Frames that would do.
        enough: usize,
    },
    /// Zero-copy was asked for, and the program could only be attached in generic mode.
    #[error(
        "{0} cannot be bound in zero-copy mode: its driver refuses native XDP; [uplink] mode = \"copy\" or \"auto\" would do"
    )]
    ZeroCopyInGeneric(String),
    /// The kernel has not let go of a queue.
    #[error("the kernel still has queue {queue} of {interface}, and the frames that were lent to it")]
    Held {
        /// The interface.
        interface: String,
        /// The queue.
        queue: QueueId,
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

impl FabricError {
    /// Whether the node file asks for what this node does not have, rather than something having gone wrong.
    #[must_use]
    pub fn is_about_node_file(&self) -> bool {
        match self {
            Self::NoSuchQueue { .. }
            | Self::NoQueue { .. }
            | Self::TooManyQueues { .. }
            | Self::TooFewFrames { .. }
            | Self::ZeroCopyInGeneric(_) => true,
            Self::Umem(error) => matches!(error, UmemError::HugePages { .. }),
            Self::Bind(error) => error.is_refusal_of_zero_copy(),
            Self::Start(_) | Self::Xdp(_) | Self::Worker(_) | Self::NoHolder(_) | Self::Held { .. } => false,
        }
    }

    /// The words of an error that copy mode avoids; the error itself if it does not.
    pub(super) fn refusal_of_zero_copy(self) -> Result<String, Self> {
        match self {
            Self::Bind(error) if error.is_refusal_of_zero_copy() => Ok(error.reason),
            Self::ZeroCopyInGeneric(_) => Ok("its driver refuses native XDP".to_owned()),
            Self::TooFewFrames { .. } => Ok(self.to_string()),
            other => Err(other),
        }
    }
}
