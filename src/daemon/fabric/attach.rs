//! Attaching ports to the workers, and taking them back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::frame::Holder;
use millrace_dataplane::port::own::await_release;
use millrace_dataplane::worker::{Command, QUEUES_PER_PORT_MAX, WorkerError};
use millrace_dataplane::xdp::{self, Attachment, Packets, ProgramKind, SteeringProgram, XdpError, XdpMode};

use super::spec::{AttachedPort, PortSpec, Seat, Sockets, Steered};
use super::{ANSWER, Fabric, FabricError, Queue};

/// How long the kernel may take to let go of a NIC's queue whose socket was closed.
const RELEASE: Duration = Duration::from_secs(2);
/// Puts the steering program on an interface; `limit` is the most queues it can come to have, and `prepare` fills the
/// program's tables before it decides over the first packet. What is ours is dropped until [`Fabric::serve`].
///
/// # Errors
/// [`FabricError::Xdp`]; the interface is as it was.
pub fn steer(
    (packets, (ifindex, kind, mode)): (Packets, (u32, ProgramKind, XdpMode)),
    limit: u32,
    prepare: impl FnOnce(&mut SteeringProgram) -> Result<(), XdpError>,
) -> Result<Steered, FabricError> {
    let mut program = SteeringProgram::load_for(packets, kind, limit)?;
    prepare(&mut program)?;
    let attachment = program.attach(ifindex, mode)?;
    Ok(Steered { program, attachment })
}

impl Steered {
    /// How the program is attached.
    #[must_use]
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Takes the program off again, unless an earlier one of ours was there.
    pub fn undo(self, ifindex: u32) {
        if self.attachment.replaced.is_none() {
            // An interface that is gone, or a program that somebody took off: either is off.
            let _ = xdp::detach_ours(ifindex);
        }
    }
}

impl Fabric {
    /// Whether an interface with so many queues can be served.
    ///
    /// # Errors
    /// [`FabricError::NoSuchQueue`], [`FabricError::NoQueue`] or [`FabricError::TooManyQueues`].
    pub fn check_queues(
        interface: &str,
        queues: u32,
        kernel_queues: &[u32],
        workers: usize,
    ) -> Result<(), FabricError> {
        let interface = interface.to_owned();
        if let Some(queue) = kernel_queues.iter().copied().find(|queue| *queue >= queues) {
            return Err(FabricError::NoSuchQueue {
                interface,
                queue,
                queues,
            });
        }
        if kernel_queues.len() >= queues as usize {
            return Err(FabricError::NoQueue { interface, queues });
        }
        let most = workers * QUEUES_PER_PORT_MAX;
        if queues as usize > most {
            return Err(FabricError::TooManyQueues {
                interface,
                queues,
                most,
                workers,
            });
        }
        Ok(())
    }

    /// Attaches a port.
    ///
    /// # Errors
    /// [`FabricError`]; whatever was done is undone, except that a program of ours which was on the interface before
    /// stays there.
    pub fn attach(&mut self, spec: PortSpec) -> Result<AttachedPort, FabricError> {
        let kind = (spec.ifindex, spec.kind, spec.mode);
        let steered = steer((self.packets, kind), spec.queues, |_| Ok(()))?;
        self.serve(spec, steered)
    }

    /// Binds a socket to each queue of an interface that has its program, and gives it to the worker that owns it.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn serve(&mut self, spec: PortSpec, mut steered: Steered) -> Result<AttachedPort, FabricError> {
        let bound = Self::check_queues(
            &spec.interface,
            spec.queues,
            &spec.kernel_queues,
            self.workers.len(),
        )
        .and_then(|()| spec.check_exit())
        .and_then(|()| self.bind(&spec, steered.attachment.mode));
        let bound = match bound {
            Ok(bound) => bound,
            Err(error) => {
                steered.undo(spec.ifindex);
                return Err(error);
            }
        };
        let registered =
            bound.seats.iter().zip(&bound.sockets).try_for_each(|(seat, io)| {
                steered.program.register_socket(seat.queue.0, io.inner().socket())
            });
        if let Err(error) = registered {
            steered.undo(spec.ifindex);
            drop(bound.sockets);
            self.give_back(&spec, bound.seats.iter(), |_| true)?;
            return Err(error.into());
        }
        let port = AttachedPort {
            spec,
            program: steered.program,
            attachment: steered.attachment,
            zero_copy_refusal: bound.refusal,
            seats: bound.seats,
        };
        match self.hand_out(&port, bound.sockets) {
            Ok(()) => Ok(port),
            Err(error) => {
                // A worker that is gone or drowned: take back what the others have, and report the first error. The
                // program stays where it is: without sockets it drops what is ours.
                let undone = self.detach(port);
                undone.and(Err(error.into()))
            }
        }
    }

    /// Takes a port from the workers, closes its sockets, and takes back its frames. The steering program stays on
    /// the interface: without sockets it drops what is ours.
    ///
    /// # Errors
    /// [`FabricError::Worker`] when a worker does not answer: it goes on serving its queues of the port.
    /// [`FabricError::Held`] when the kernel does not let go of a NIC's queue. In either case the frames and holder
    /// numbers of those queues are not given to anybody else.
    pub fn detach(&mut self, port: AttachedPort) -> Result<(), FabricError> {
        let mut first_error = Ok(());
        let mut closed = Vec::new();
        let mut let_go = BTreeSet::new();
        for worker in &self.workers {
            let id = port.spec.id;
            match worker.ask(|queues| Command::Remove { port: id, queues }, ANSWER) {
                Ok(queues) => {
                    closed.extend(queues);
                    let_go.insert(worker.index());
                }
                Err(error) => first_error = first_error.and(Err(error.into())),
            }
        }
        // The sockets must be gone before their frames are anybody's again. (The very first socket of a worker's
        // memory, on the host port, is closed by libxdp only with the memory; so that port is never detached while
        // the workers go on.)
        drop(closed);
        let given = self.give_back(&port.spec, port.seats.iter(), |seat| {
            let_go.contains(&seat.worker)
        });
        first_error.and(given)
    }

    /// Takes back frames and holder numbers of queues whose sockets are closed.
    pub(super) fn give_back<'a>(
        &mut self,
        spec: &PortSpec,
        seats: impl Iterator<Item = &'a Seat>,
        closed: impl Fn(&Seat) -> bool,
    ) -> Result<(), FabricError> {
        let mut first_error = Ok(());
        for seat in seats.filter(|seat| closed(seat)) {
            // A NIC may go on reading and writing frames until the kernel has taken the socket apart.
            let is_nic = matches!(spec.sockets, Sockets::Own(_));
            if is_nic && !await_release(spec.ifindex, seat.queue, RELEASE) {
                first_error = first_error.and(Err(FabricError::Held {
                    interface: spec.interface.clone(),
                    queue: seat.queue,
                }));
                continue;
            }
            if let Err(error) = self.reclaim(seat.worker, seat.holder) {
                first_error = first_error.and(Err(error.into()));
            }
        }
        first_error
    }

    fn reclaim(&mut self, worker: usize, number: u16) -> Result<(), WorkerError> {
        let handle = self.workers.get(worker).ok_or(WorkerError::Gone(worker))?;
        let holder = Holder::port(number);
        handle.ask(|frames| Command::Reclaim { holder, frames }, ANSWER)?;
        if let Some(free) = self.free_holders.get_mut(worker) {
            free.insert(number);
        }
        Ok(())
    }

    /// Gives each queue to its worker, and tells a worker without one that sends to whom to hand over.
    fn hand_out(&self, port: &AttachedPort, sockets: Vec<Queue>) -> Result<(), WorkerError> {
        for (seat, io) in port.seats.iter().zip(sockets) {
            let handle = self
                .workers
                .get(seat.worker)
                .ok_or(WorkerError::Gone(seat.worker))?;
            handle.tell(Command::Add {
                port: port.spec.id,
                io,
                holder: Holder::port(seat.holder),
                stats: Arc::clone(&seat.stats),
            })?;
        }
        let sending = port.seats.iter().filter(|seat| port.spec.sends_by(seat.queue));
        let owners: BTreeSet<usize> = sending.map(|seat| seat.worker).collect();
        let owners: Vec<_> = owners
            .iter()
            .filter_map(|owner| self.workers.get(*owner))
            .collect();
        for worker in &self.workers {
            if owners.iter().any(|owner| owner.index() == worker.index()) {
                continue;
            }
            let to = worker
                .index()
                .checked_rem(owners.len())
                .and_then(|place| owners.get(place));
            if let Some(owner) = to {
                let (port, to) = (port.spec.id, owner.relay());
                worker.tell(Command::Relay { port, to })?;
            }
        }
        Ok(())
    }
}
