//! Binding a port's sockets, each on the memory of the worker that owns its queue.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_dataplane::frame::Holder;
use millrace_dataplane::port::QueueId;
use millrace_dataplane::port::tagged::TaggedPort;
use millrace_dataplane::port::xsk::{BindError, BindMode, OwnBind, XskPort};
use millrace_dataplane::stats::QueueStats;
use millrace_dataplane::worker::{Command, WorkerError};
use millrace_dataplane::xdp::{AttachedMode, Packets};

use super::spec::{OwnSockets, PortSpec, Seat, Sockets};
use super::{ANSWER, Fabric, FabricError, Queue, ordinary};
use crate::config;

/// A power of two of frames that leaves so many when those of runs are taken off.
fn enough(packets: Packets, needed: usize) -> usize {
    let mut frames = needed.next_power_of_two();
    while ordinary(packets, frames) < needed {
        frames *= 2;
    }
    frames
}

/// Queues bound, not handed out yet.
pub(super) struct BoundQueues {
    pub(super) seats: Vec<Seat>,
    pub(super) sockets: Vec<Queue>,
    pub(super) refusal: Option<String>,
}

impl Fabric {
    /// Binds a socket to each queue, on the memory of the worker that owns it.
    pub(super) fn bind(
        &mut self,
        spec: &PortSpec,
        attached: AttachedMode,
    ) -> Result<BoundQueues, FabricError> {
        let Sockets::Own(own) = spec.sockets else {
            return self.bind_all(spec, BindMode::Copy, None);
        };
        if own.mode == config::BindMode::Auto
            && let Some(fault) = super::super::nic::fault_of_zero_copy(&spec.interface)
        {
            return self.bind_all(spec, BindMode::Copy, Some(fault.to_owned()));
        }
        let native = attached == AttachedMode::Native;
        let tried = match own.mode {
            config::BindMode::Copy => return self.bind_all(spec, BindMode::Copy, None),
            config::BindMode::ZeroCopy | config::BindMode::Auto if !native => {
                Err(FabricError::ZeroCopyInGeneric(spec.interface.clone()))
            }
            config::BindMode::ZeroCopy | config::BindMode::Auto => self
                .check_frames(spec, &own)
                .and_then(|()| self.bind_all(spec, BindMode::ZeroCopy, None)),
        };
        let refusal = match tried {
            Err(error) if own.mode == config::BindMode::Auto => error.refusal_of_zero_copy()?,
            other => return other,
        };
        self.bind_all(spec, BindMode::Copy, Some(refusal))
    }

    /// Whether each worker has frames for its queues of a NIC, and as many again for everybody else.
    fn check_frames(&self, spec: &PortSpec, own: &OwnSockets) -> Result<(), FabricError> {
        let needed = self.queues_per_worker(spec) * own.frames() as usize * 2;
        if needed <= self.frames {
            return Ok(());
        }
        Err(FabricError::TooFewFrames {
            interface: spec.interface.clone(),
            queues: spec.queues,
            each: own.frames(),
            frames: self.frames,
            enough: enough(self.packets, needed),
        })
    }

    fn queues_per_worker(&self, spec: &PortSpec) -> usize {
        (spec.queues as usize).div_ceil(self.workers.len().max(1)).max(1)
    }

    fn bind_all(
        &mut self,
        spec: &PortSpec,
        mode: BindMode,
        refusal: Option<String>,
    ) -> Result<BoundQueues, FabricError> {
        let mut bound = BoundQueues {
            seats: Vec::new(),
            sockets: Vec::new(),
            refusal,
        };
        for queue in (0..spec.queues).filter(|queue| !spec.kernel_queues.contains(queue)) {
            let queue = QueueId(queue);
            let worker = queue.worker(self.workers.len());
            let result = self.seat(spec, queue, worker, mode).and_then(|seat| {
                let io = self.bind_one(spec, &seat);
                bound.seats.push(seat);
                bound
                    .sockets
                    .push(TaggedPort::new(io?, spec.vlan.map(|vlan| vlan.id)));
                Ok(())
            });
            if let Err(error) = result {
                drop(bound.sockets);
                self.give_back(spec, bound.seats.iter(), |_| true)?;
                return Err(error);
            }
        }
        Ok(bound)
    }

    fn seat(
        &mut self,
        spec: &PortSpec,
        queue: QueueId,
        worker: usize,
        mode: BindMode,
    ) -> Result<Seat, FabricError> {
        let free = self.free_holders.get_mut(worker);
        let holder = free
            .and_then(BTreeSet::pop_first)
            .ok_or(FabricError::NoHolder(worker))?;
        Ok(Seat {
            queue,
            worker,
            mode,
            stats: Arc::new(QueueStats::new(spec.id, queue)),
            holder,
        })
    }

    fn bind_one(&self, spec: &PortSpec, seat: &Seat) -> Result<XskPort, FabricError> {
        let worker = seat.worker;
        let umem = self.umems.get(worker).ok_or(FabricError::NoHolder(worker))?;
        let holder = Holder::port(seat.holder);
        let own = match spec.sockets {
            Sockets::Shared(fill) => {
                return Ok(XskPort::bind(umem, &spec.interface, seat.queue, holder, fill)?);
            }
            Sockets::Own(own) => own,
        };
        let handle = self.workers.get(worker).ok_or(WorkerError::Gone(worker))?;
        // All queues of the port together leave most frames to others.
        let share = self.frames / (4 * self.queues_per_worker(spec));
        let fill = own.fill(seat.mode, u32::try_from(share).unwrap_or(u32::MAX));
        let room = Vec::with_capacity(fill.base as usize);
        let lent = handle.ask(|lent| Command::Lend { holder, room, lent }, ANSWER)?;
        let wanted = OwnBind {
            mode: seat.mode,
            rings: own.rings(),
            busy_poll: own.busy_poll,
        };
        let interface = (spec.interface.as_str(), spec.ifindex);
        let bound: Result<_, BindError> =
            XskPort::bind_own(umem, interface, seat.queue, (holder, &lent), fill, wanted);
        let mut io = bound?;
        if !spec.sends_by(seat.queue) {
            io.only_receive();
        }
        Ok(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_are_said_to_do_are_enough_beside_runs() {
        for needed in [1, 1000, 1024, 5632, 5633, 11_264, 11_265, 16_384] {
            for packets in [Packets::Whole, Packets::InPieces] {
                let frames = enough(packets, needed);
                assert!(frames.is_power_of_two() && ordinary(packets, frames) >= needed);
                assert!(frames == 1 || ordinary(packets, frames / 2) < needed, "{needed}");
            }
        }
        assert_eq!(enough(Packets::Whole, 16_384), 16_384);
        assert_eq!(enough(Packets::InPieces, 11_265), 32_768, "11 of 16 are left");
    }
}
