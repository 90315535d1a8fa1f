//! What a port is to be attached to, and what an attached one is.

use std::sync::Arc;

use millrace_dataplane::port::own::{BusyPoll, RingSizes};
use millrace_dataplane::port::xsk::{BindMode, FillPolicy};
use millrace_dataplane::port::{PortId, QueueId};
use millrace_dataplane::stats::QueueStats;
use millrace_dataplane::xdp::{Attachment, ProgramKind, SteeringProgram, XdpMode};

use crate::config;

/// Frames that a NIC's queue holds at least beyond those in the socket's receive ring.
const DEVICE_FRAMES_MIN: u32 = 256;

/// What a port is to be attached to.
#[derive(Debug, Clone)]
pub struct PortSpec {
    /// The port's number.
    pub id: PortId,
    /// The interface.
    pub interface: String,
    /// Its number in the kernel.
    pub ifindex: u32,
    /// How many queues it receives by.
    pub queues: u32,
    /// Which of them get no socket.
    pub kernel_queues: Vec<u32>,
    /// Which steering program it gets.
    pub kind: ProgramKind,
    /// In which mode the program is attached.
    pub mode: XdpMode,
    /// What its sockets are like.
    pub sockets: Sockets,
}

/// What the sockets of a port are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// On the memory that all sockets of a worker share, in copy mode: for veths.
    Shared(FillPolicy),
    /// Each with a registration of its own: for a NIC.
    Own(OwnSockets),
}

/// See [`Sockets::Own`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnSockets {
    /// Whether the device reads and writes packet memory.
    pub mode: config::BindMode,
    /// Entries of a socket's receive and transmit ring; a power of two.
    pub ring: u32,
    /// Receive descriptors of each of the device's queues, as far as that is known.
    pub device_ring: u32,
    /// Whether the driver works in the workers' calls.
    pub busy_poll: Option<BusyPoll>,
}

impl OwnSockets {
    /// Frames that each queue holds to receive into. More than its socket's receive ring has entries: so when a worker
    /// hangs, what is ours fills that ring and no more, and the rest goes on to serve what a zero-copy device receives
    /// for the kernel. The node does not lose its own traffic with its switch.
    pub(super) fn frames(&self) -> u32 {
        self.ring + self.device_ring.max(DEVICE_FRAMES_MIN)
    }

    pub(super) fn rings(&self) -> RingSizes {
        RingSizes {
            socket: self.ring,
            umem: self.frames().next_power_of_two(),
        }
    }

    /// In copy mode the device has memory of its own, so a queue makes do with the `share` there is for it.
    pub(super) fn fill(&self, mode: BindMode, share: u32) -> FillPolicy {
        FillPolicy {
            base: match mode {
                BindMode::ZeroCopy => self.frames(),
                BindMode::Copy => self.ring.min(share),
            },
            max: self.rings().umem,
        }
    }
}

/// A queue with a socket: whose it is, and how it is bound.
#[derive(Debug)]
pub struct Seat {
    /// The queue.
    pub queue: QueueId,
    /// The worker that owns it.
    pub worker: usize,
    /// How packets get between device and memory.
    pub mode: BindMode,
    /// Its counters.
    pub stats: Arc<QueueStats>,
    /// The number by which its worker's ledger knows it.
    pub(super) holder: u16,
}

/// An interface with its steering program, whose queues have no sockets yet.
pub struct Steered {
    pub(super) program: SteeringProgram,
    pub(super) attachment: Attachment,
}

/// A port that is attached: its program, and who has which of its queues.
pub struct AttachedPort {
    /// What it was attached to.
    pub spec: PortSpec,
    /// The steering program on it.
    pub program: SteeringProgram,
    /// How the program is attached.
    pub attachment: Attachment,
    /// Why the device does not read and write packet memory, where it was asked to.
    pub zero_copy_refusal: Option<String>,
    /// The queues that are served.
    pub seats: Vec<Seat>,
}

impl AttachedPort {
    /// How its queues are bound.
    #[must_use]
    pub fn bind_mode(&self) -> BindMode {
        let copies = self.seats.iter().any(|seat| seat.mode == BindMode::Copy);
        if copies {
            BindMode::Copy
        } else {
            BindMode::ZeroCopy
        }
    }
}
