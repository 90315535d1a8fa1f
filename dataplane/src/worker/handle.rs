//! How the outside reaches a worker: bounded queues, and an event that wakes it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use rustix::event::{EventfdFlags, eventfd};

use super::{Limits, Origin, Spread};
use crate::capture::{PacketCopy, Tap};
use crate::frame::Holder;
use crate::port::PortId;
use crate::stats::{QueueStats, SharedStats};
use crate::table::NetworkId;
use crate::verdict::{PuntDetail, PuntReason};

/// Commands that may wait for a worker at once.
const COMMANDS: usize = 256;
/// Packets of other workers that may wait for a worker at once, copied.
const HANDOVERS: usize = 512;

/// A packet on its way to the slow path, copied out of its frame.
#[derive(Debug)]
pub struct Punt {
    /// Which worker sent it.
    pub worker: usize,
    /// Where the packet came in.
    pub ingress: PortId,
    /// The routed network that it came in; means nothing for what [`PuntDetail::Segment`] says is in a bridged one.
    pub network: NetworkId,
    /// Why it is here.
    pub reason: PuntReason,
    /// What else there is to know.
    pub detail: PuntDetail,
    /// The packet: Ethernet header first, decapsulated if it came in a tunnel.
    pub packet: PacketCopy,
}

/// A packet on its way from a worker without a queue of the exit port to one that has, copied out of its frame.
#[derive(Debug)]
pub struct Handover {
    /// The port it leaves by.
    pub(super) port: PortId,
    /// The port it came in at.
    pub(super) from: Option<PortId>,
    /// See [`Frame::lane`](crate::frame::Frame::lane).
    pub(super) lane: u16,
    pub(super) packet: PacketCopy,
}

/// The way to hand packets over to another worker.
#[derive(Debug, Clone)]
pub struct Relay {
    pub(super) handovers: Sender<Handover>,
    wake: Arc<OwnedFd>,
}

impl Relay {
    /// Wakes the other worker if it sleeps.
    pub(super) fn wake(&self) {
        wake(&self.wake);
    }
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
        /// One of its queues.
        io: P,
        /// Who holds its frames in the ledger.
        holder: Holder,
        /// Its counters.
        stats: Arc<QueueStats>,
    },
    /// Hand over what leaves by this port, of which this worker has no queue.
    Relay {
        /// The port.
        port: PortId,
        /// To a worker that has one.
        to: Relay,
    },
    /// Hold what comes in at a port, and what leaves by it, to these limits from now on.
    Limit {
        /// The port.
        port: PortId,
        /// Its limits, which all workers share.
        limits: Limits,
    },
    /// Lend empty frames to a holder whose socket is about to be bound.
    Lend {
        /// The holder.
        holder: Holder,
        /// Where the frames' addresses are put: as many as it has room for, or as the pool has left.
        room: Vec<u64>,
        /// Where they go.
        lent: Sender<Vec<u64>>,
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
    /// Give packets to others and take theirs.
    Spread(Spread),
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
    handovers: Sender<Handover>,
    wake: Arc<OwnedFd>,
    stats: SharedStats,
}

impl<P> Clone for WorkerHandle<P> {
    fn clone(&self) -> Self {
        Self {
            index: self.index,
            commands: self.commands.clone(),
            injections: self.injections.clone(),
            handovers: self.handovers.clone(),
            wake: Arc::clone(&self.wake),
            stats: Arc::clone(&self.stats),
        }
    }
}

/// The worker's own end.
pub(super) struct Inbox<P> {
    pub(super) commands: Receiver<Command<P>>,
    pub(super) injections: Receiver<Injection>,
    pub(super) handovers: Receiver<Handover>,
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
    let (handovers_in, handovers) = bounded(HANDOVERS);
    let handle = WorkerHandle {
        index,
        commands: commands_in,
        injections: injections_in,
        handovers: handovers_in,
        wake: Arc::clone(&wake),
        stats,
    };
    Ok((
        handle,
        Inbox {
            commands,
            injections,
            handovers,
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

    /// The way for other workers to hand packets over to this one.
    #[must_use]
    pub fn relay(&self) -> Relay {
        Relay {
            handovers: self.handovers.clone(),
            wake: Arc::clone(&self.wake),
        }
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

    /// Wakes the worker if it sleeps.
    fn wake(&self) {
        wake(&self.wake);
    }
}

/// Wakes whoever waits for the event. A counter that is full already wakes it as well, so errors do not matter.
fn wake(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}
