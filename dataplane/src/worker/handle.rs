//! How the outside reaches a worker: bounded queues, and an event that wakes it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use rustix::event::{EventfdFlags, eventfd};

use super::Origin;
use crate::capture::{PacketCopy, Tap};
use crate::frame::Holder;
use crate::port::{PortId, QueueId};
use crate::stats::{QueueStats, SharedStats};
use crate::verdict::{PuntDetail, PuntReason};

/// Commands that may wait for a worker at once.
const COMMANDS: usize = 256;

/// A packet on its way to the slow path, copied out of its frame.
#[derive(Debug)]
pub struct Punt {
    /// Which worker sent it.
    pub worker: usize,
    /// Where the packet came in.
    pub ingress: PortId,
    /// Why it is here.
    pub reason: PuntReason,
    /// What else there is to know.
    pub detail: PuntDetail,
    /// The packet: Ethernet header first, decapsulated if it came in a tunnel.
    pub packet: PacketCopy,
}

/// How a packet from the slow path is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As it is, out of this port.
    Exit(PortId),
    /// Through the pipeline, which finds its way.
    Walk(Origin),
}

/// A packet from the slow path, to be sent by a worker.
#[derive(Debug)]
pub struct Injection {
    /// How.
    pub way: Way,
    /// The packet, Ethernet header first.
    pub packet: PacketCopy,
}

/// What a worker is told to do between two turns.
pub enum Command<P> {
    /// Serve this queue of a port from now on.
    Add {
        /// The port it belongs to.
        port: PortId,
        /// Which of its queues.
        queue: QueueId,
        /// The queue itself.
        io: P,
        /// Who holds its frames in the ledger.
        holder: Holder,
        /// Its counters.
        stats: Arc<QueueStats>,
    },
    /// Stop serving every queue of this port, and hand them back, to be closed by the caller.
    Remove {
        /// The port.
        port: PortId,
        /// Where the queues go.
        queues: Sender<Vec<P>>,
    },
    /// The socket of this holder is closed: take back whatever frames it had.
    Reclaim {
        /// The holder.
        holder: Holder,
        /// Where the number of frames goes.
        frames: Sender<usize>,
    },
    /// Copy what passes a port.
    Tap(Tap),
    /// Take the tap off.
    Untap,
    /// Publish histograms, frame census and device counters now.
    Beat(Sender<()>),
    /// Leave the loop.
    Stop,
}

/// Why a worker could not be told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// Its queue is full; it will be emptied within a turn.
    #[error("worker {0} has too much to do: its queue is full")]
    Busy(usize),
    /// It has ended.
    #[error("worker {0} has ended")]
    Gone(usize),
    /// It did not answer in time.
    #[error("worker {0} did not answer in time")]
    Silent(usize),
}

/// The outside's end of a worker.
#[derive(Debug)]
pub struct WorkerHandle<P> {
    index: usize,
    commands: Sender<Command<P>>,
    injections: Sender<Injection>,
    wake: Arc<OwnedFd>,
    stats: SharedStats,
}

impl<P> Clone for WorkerHandle<P> {
    fn clone(&self) -> Self {
        Self {
            index: self.index,
            commands: self.commands.clone(),
            injections: self.injections.clone(),
            wake: Arc::clone(&self.wake),
            stats: Arc::clone(&self.stats),
        }
    }
}

/// The worker's own end.
pub(super) struct Inbox<P> {
    pub(super) commands: Receiver<Command<P>>,
    pub(super) injections: Receiver<Injection>,
    pub(super) wake: Arc<OwnedFd>,
}

/// Makes both ends of a worker's queues.
pub(super) fn connect<P>(
    index: usize,
    injections: usize,
    stats: SharedStats,
) -> std::io::Result<(WorkerHandle<P>, Inbox<P>)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    let (commands_in, commands) = bounded(COMMANDS);
    let (injections_in, injections) = bounded(injections);
    let handle = WorkerHandle {
        index,
        commands: commands_in,
        injections: injections_in,
        wake: Arc::clone(&wake),
        stats,
    };
    Ok((
        handle,
        Inbox {
            commands,
            injections,
            wake,
        },
    ))
}

impl<P> WorkerHandle<P> {
    /// Which worker this is, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &SharedStats {
        &self.stats
    }

    /// Tells the worker to do something after its current turn.
    ///
    /// # Errors
    /// [`WorkerError::Busy`] or [`WorkerError::Gone`]; what the command carried is dropped.
    pub fn tell(&self, command: Command<P>) -> Result<(), WorkerError> {
        let sent = self.commands.try_send(command);
        self.wake();
        sent.map_err(|error| match error {
            TrySendError::Full(_) => WorkerError::Busy(self.index),
            TrySendError::Disconnected(_) => WorkerError::Gone(self.index),
        })
    }

    /// Asks the worker for something and waits for its answer, `patience` at most.
    ///
    /// # Errors
    /// [`WorkerError::Silent`] when it took neither command nor time; it may still do as it was told later.
    pub fn ask<T>(
        &self,
        command: impl FnOnce(Sender<T>) -> Command<P>,
        patience: Duration,
    ) -> Result<T, WorkerError> {
        let (answer_in, answer) = bounded(1);
        self.wake();
        let sent = self.commands.send_timeout(command(answer_in), patience);
        self.wake();
        sent.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => WorkerError::Busy(self.index),
            SendTimeoutError::Disconnected(_) => WorkerError::Gone(self.index),
        })?;
        answer
            .recv_timeout(patience)
            .map_err(|_| WorkerError::Silent(self.index))
    }

    /// Gives the worker a packet to send.
    ///
    /// # Errors
    /// [`WorkerError::Busy`] or [`WorkerError::Gone`]; the packet is dropped.
    pub fn inject(&self, injection: Injection) -> Result<(), WorkerError> {
        let sent = self.injections.try_send(injection);
        self.wake();
        sent.map_err(|error| match error {
            TrySendError::Full(_) => WorkerError::Busy(self.index),
            TrySendError::Disconnected(_) => WorkerError::Gone(self.index),
        })
    }

    /// Wakes the worker if it sleeps. A counter that is full already wakes it as well, so errors do not matter.
    fn wake(&self) {
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}
