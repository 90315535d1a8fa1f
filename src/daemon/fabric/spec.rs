//! What a port is to be attached to, and what an attached one is.

use std::sync::Arc;

use millrace_dataplane::port::own::{BusyPoll, RingSizes};
use millrace_dataplane::port::xsk::{BindMode, FillPolicy};
use millrace_dataplane::port::{PortId, QueueId};
use millrace_dataplane::stats::QueueStats;
use millrace_dataplane::wire::vlan::VlanId;
use millrace_dataplane::xdp::{Attachment, ProgramKind, SteeringProgram, XdpMode};
use tracing::info;

use super::FabricError;
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
    /// The VLAN on the interface that the port is, if it is one.
    pub vlan: Option<Vlan>,
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

/// A VLAN on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// The number in its tag.
    pub id: VlanId,
    /// The number of the kernel's interface for it, which bears addresses.
    pub ifindex: u32,
}

impl PortSpec {
    /// The number of the interface that bears the port's addresses, routes and neighbours.
    #[must_use]
    pub fn bearer(&self) -> u32 {
        self.vlan.map_or(self.ifindex, |vlan| vlan.ifindex)
    }

    /// Queues with a socket by which the device sends nothing.
    fn receivers(&self) -> Vec<u32> {
        let served = (0..self.queues).filter(|queue| !self.kernel_queues.contains(queue));
        served.filter(|queue| !self.sends_by(QueueId(*queue))).collect()
    }

    /// Whether any queue with a socket sends.
    pub(super) fn check_exit(&self) -> Result<(), FabricError> {
        let served = self.queues as usize - self.kernel_queues.len();
        match self.sockets {
            Sockets::Own(own) if self.receivers().len() == served => Err(FabricError::NoneSends {
                interface: self.interface.clone(),
                sending: own.sending,
            }),
            Sockets::Own(_) | Sockets::Shared(_) => Ok(()),
        }
    }

    /// Says which queues only receive, and what would change that.
    pub fn tell_receivers(&self) {
        let receivers = self.receivers();
        if !receivers.is_empty() {
            info!(
                interface = self.interface,
                ?receivers,
                "the driver took queues for the program by which it does not send: the others send for them; [uplink] \
                 queues = {} would have all of them send",
                self.queues
            );
        }
    }

    /// Whether the device sends by this queue.
    pub(super) fn sends_by(&self, queue: QueueId) -> bool {
        match self.sockets {
            Sockets::Shared(_) => true,
            Sockets::Own(own) => queue.0 < own.sending,
        }
    }
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
    /// By how many queues, from the first, the device sends.
    pub sending: u32,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A NIC with four queues, of which the first `sending` send.
    fn spec(sending: u32, kernel_queues: &[u32]) -> PortSpec {
        PortSpec {
            id: PortId::new(1).unwrap_or_else(|| unreachable!()),
            interface: "eth1".to_owned(),
            ifindex: 2,
            vlan: None,
            queues: 4,
            kernel_queues: kernel_queues.to_vec(),
            kind: ProgramKind::Uplink,
            mode: XdpMode::Auto,
            sockets: Sockets::Own(OwnSockets {
                mode: config::BindMode::Auto,
                ring: 1024,
                sending,
                device_ring: 0,
                busy_poll: None,
            }),
        }
    }

    #[test]
    fn queues_beyond_those_that_send_only_receive_and_one_must_send() {
        assert!(spec(u32::MAX, &[]).receivers().is_empty());
        assert_eq!(spec(2, &[]).receivers(), [2, 3]);
        assert_eq!(spec(2, &[0]).receivers(), [2, 3]);
        assert!(spec(2, &[0]).check_exit().is_ok());
        let error = spec(2, &[0, 1]).check_exit().err();
        assert!(
            matches!(error, Some(FabricError::NoneSends { sending: 2, .. })),
            "{error:?}"
        );
    }
}
