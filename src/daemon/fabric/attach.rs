//! Attaching ports to the workers, and taking them back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::frame::Holder;
use millrace_dataplane::port::own::{BusyPoll, RingSizes, await_release};
use millrace_dataplane::port::xsk::{BindError, BindMode, FillPolicy, OwnBind, XskPort};
use millrace_dataplane::port::{PortId, QueueId};
use millrace_dataplane::stats::QueueStats;
use millrace_dataplane::worker::{Command, QUEUES_PER_PORT_MAX, WorkerError};
use millrace_dataplane::xdp::{
    self, AttachedMode, Attachment, ProgramKind, SteeringProgram, XdpError, XdpMode,
};

use super::{ANSWER, Fabric, FabricError};
use crate::config;

/// How long the kernel may take to let go of a NIC's queue whose socket was closed.
const RELEASE: Duration = Duration::from_secs(2);
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
    fn frames(&self) -> u32 {
        self.ring + self.device_ring.max(DEVICE_FRAMES_MIN)
    }

    fn rings(&self) -> RingSizes {
        RingSizes {
            socket: self.ring,
            umem: self.frames().next_power_of_two(),
        }
    }

    /// In copy mode the device has memory of its own, so a queue makes do with the `share` there is for it.
    fn fill(&self, mode: BindMode, share: u32) -> FillPolicy {
        FillPolicy {
            base: match mode {
                BindMode::ZeroCopy => self.frames(),
                BindMode::Copy => self.frames().min(share),
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
    holder: u16,
}

/// An interface with its steering program, whose queues have no sockets yet.
pub struct Steered {
    program: SteeringProgram,
    attachment: Attachment,
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

/// Queues bound, not handed out yet.
struct BoundQueues {
    seats: Vec<Seat>,
    sockets: Vec<XskPort>,
    refusal: Option<String>,
}

/// Puts the steering program on an interface; `limit` is the most queues it can come to have, and `prepare` fills the
/// program's tables before it decides over the first packet. What is ours is dropped until [`Fabric::serve`].
///
/// # Errors
/// [`FabricError::Xdp`]; the interface is as it was.
pub fn steer(
    (ifindex, kind, mode): (u32, ProgramKind, XdpMode),
    limit: u32,
    prepare: impl FnOnce(&mut SteeringProgram) -> Result<(), XdpError>,
) -> Result<Steered, FabricError> {
    let mut program = SteeringProgram::load(kind, limit)?;
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
        let steered = steer(kind, spec.queues, |_| Ok(()))?;
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
        .and_then(|()| self.bind(&spec, steered.attachment.mode));
        let bound = match bound {
            Ok(bound) => bound,
            Err(error) => {
                steered.undo(spec.ifindex);
                return Err(error);
            }
        };
        let registered = bound
            .seats
            .iter()
            .zip(&bound.sockets)
            .try_for_each(|(seat, io)| steered.program.register_socket(seat.queue.0, io.socket()));
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
    fn give_back<'a>(
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

    /// Binds a socket to each queue, on the memory of the worker that owns it.
    fn bind(&mut self, spec: &PortSpec, attached: AttachedMode) -> Result<BoundQueues, FabricError> {
        let Sockets::Own(own) = spec.sockets else {
            return self.bind_all(spec, BindMode::Copy, None);
        };
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
            enough: needed.next_power_of_two(),
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
                bound.sockets.push(io?);
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
        Ok(bound?)
    }

    /// Gives each queue to its worker, and tells a worker without one to whom to hand over.
    fn hand_out(&self, port: &AttachedPort, sockets: Vec<XskPort>) -> Result<(), WorkerError> {
        for (seat, io) in port.seats.iter().zip(sockets) {
            let handle = self
                .workers
                .get(seat.worker)
                .ok_or(WorkerError::Gone(seat.worker))?;
            handle.tell(Command::Add {
                port: port.spec.id,
                queue: seat.queue,
                io,
                holder: Holder::port(seat.holder),
                stats: Arc::clone(&seat.stats),
            })?;
        }
        let owners: BTreeSet<usize> = port.seats.iter().map(|seat| seat.worker).collect();
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
