//! The workers, their memory, and which queues they serve.
//!
//! Attaching a port means: load its steering program, bind a socket to each queue and put it into the program's
//! map, attach the program, and give each socket to the worker that owns its queue. Detaching goes the other way
//! round. Either is done wholly or not at all.

mod error;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use millrace_dataplane::capture::{Captured, Tap};
use millrace_dataplane::frame::Holder;
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{PortId, QueueId};
use millrace_dataplane::stats::QueueStats;
use millrace_dataplane::table::{HashKey, NodeTables, Reader};
use millrace_dataplane::worker::{
    BATCH_MAX, Command, Idle, Punt, QUEUES_PER_PORT_MAX, Worker, WorkerConfig, WorkerError, WorkerHandle,
};
use millrace_dataplane::xdp::{Attachment, ProgramKind, SteeringProgram, XdpError, XdpMode};
use millrace_pipelines::{Connections, NodePipeline};

use crate::config::{self, Config};
use crate::privileges;
pub use error::FabricError;

/// How long a worker may take to answer before it counts as silent.
const ANSWER: Duration = Duration::from_secs(2);
/// How often a worker that is to end is looked at.
const JOIN_PAUSE: Duration = Duration::from_millis(5);
/// Packets from the slow path that may wait for one worker.
const INJECTIONS: usize = 1024;
/// Copies of packets that may wait for a capture.
const CAPTURE_QUEUE: usize = 2048;

/// Who holds a port's frames: for each queue, its worker and its holder number there.
type Holders = Vec<(usize, u16)>;

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
    /// Which steering program it gets.
    pub kind: ProgramKind,
    /// In which mode the program is attached.
    pub mode: XdpMode,
    /// How many frames it holds to receive into.
    pub fill: FillPolicy,
}

/// A port that is attached: its program, its counters, and who holds its frames where.
pub struct AttachedPort {
    /// What it was attached to.
    pub spec: PortSpec,
    /// The steering program on it.
    pub program: SteeringProgram,
    /// How the program is attached.
    pub attachment: Attachment,
    /// Counters per queue.
    pub stats: Vec<Arc<QueueStats>>,
    holders: Holders,
}

/// All workers, from outside.
pub struct Fabric {
    workers: Vec<WorkerHandle<XskPort>>,
    threads: Vec<JoinHandle<()>>,
    umems: Vec<Umem>,
    free_holders: Vec<BTreeSet<u16>>,
}

impl Fabric {
    /// Takes all memory and starts the workers, with nothing to serve yet.
    ///
    /// # Errors
    /// [`FabricError`] for a core that is not there, or memory that cannot be had; nothing is left behind.
    pub fn start(
        config: &Config,
        tables: &Reader<NodeTables>,
        connections: &Connections,
        key: HashKey,
    ) -> Result<(Self, Receiver<Punt>), FabricError> {
        let cores = config.workers.cores.as_slice();
        let (punts_in, punts) = bounded(config.slow_path.queue.get() * cores.len());
        let mut fabric = Self {
            workers: Vec::new(),
            threads: Vec::new(),
            umems: Vec::new(),
            free_holders: Vec::new(),
        };
        for (index, core) in cores.iter().enumerate() {
            let frames = u32::try_from(config.workers.frames.get()).unwrap_or(u32::MAX);
            let (umem, pool) = Umem::new(frames)?;
            let worker_config = WorkerConfig {
                index,
                core: *core,
                batch: config.workers.batch.get(),
                idle: match config.workers.idle {
                    config::Idle::Sleep => Idle::Sleep,
                    config::Idle::Poll => Idle::Poll,
                },
                injections: INJECTIONS,
            };
            let pipeline = NodePipeline::new(tables.clone(), connections.clone(), key, index);
            let (worker, handle) = Worker::new(worker_config, pool, pipeline, punts_in.clone())?;
            fabric.threads.push(worker.spawn(privileges::drop_all)?);
            fabric.workers.push(handle);
            fabric.umems.push(umem);
            fabric.free_holders.push((0..PortId::LIMIT * 4).collect());
        }
        Ok((fabric, punts))
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &[WorkerHandle<XskPort>] {
        &self.workers
    }

    /// Whether an interface with so many queues can be served.
    ///
    /// # Errors
    /// [`FabricError::TooFewQueues`] or [`FabricError::TooManyQueues`].
    pub fn check_queues(interface: &str, queues: u32, workers: usize) -> Result<(), FabricError> {
        let most = workers * QUEUES_PER_PORT_MAX;
        if (queues as usize) < workers {
            return Err(FabricError::TooFewQueues {
                interface: interface.to_owned(),
                queues,
                workers,
            });
        }
        if queues as usize > most {
            return Err(FabricError::TooManyQueues {
                interface: interface.to_owned(),
                queues,
                most,
                workers,
            });
        }
        Ok(())
    }

    /// Attaches a port; `prepare` fills the program's tables before it decides over the first packet.
    ///
    /// # Errors
    /// [`FabricError`]; whatever was done is undone, except that a program of ours which was on the interface before
    /// stays there.
    pub fn attach(
        &mut self,
        spec: PortSpec,
        prepare: impl FnOnce(&mut SteeringProgram) -> Result<(), XdpError>,
    ) -> Result<AttachedPort, FabricError> {
        Self::check_queues(&spec.interface, spec.queues, self.workers.len())?;
        let mut program = SteeringProgram::load(spec.kind, spec.queues)?;
        prepare(&mut program)?;
        let (queues, holders) = self.bind(&spec)?;
        let attached = (0..)
            .zip(&queues)
            .try_for_each(|(queue, io)| program.register_socket(queue, io.socket()));
        let attachment = match attached.and_then(|()| program.attach(spec.ifindex, spec.mode)) {
            Ok(attachment) => attachment,
            Err(error) => {
                drop(queues);
                self.free(&holders);
                return Err(error.into());
            }
        };
        let stats: Vec<_> = (0..spec.queues)
            .map(|queue| Arc::new(QueueStats::new(spec.id, QueueId(queue))))
            .collect();
        let port = AttachedPort {
            spec,
            program,
            attachment,
            stats,
            holders,
        };
        match self.hand_out(&port, queues) {
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
    /// [`FabricError::Worker`] when a worker does not answer. It goes on serving its queues of the port, so their
    /// sockets stay open and their frames and holder numbers are not given to anybody else.
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
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        // The sockets must be gone before their frames are anybody's again. (The very first socket of a worker's
        // memory, on the host port, is closed by libxdp only with the memory; so that port is never detached while
        // the workers go on.)
        drop(closed);
        for (worker, number) in port.holders.iter().filter(|(worker, _)| let_go.contains(worker)) {
            let Some(handle) = self.workers.get(*worker) else {
                continue;
            };
            let holder = Holder::port(*number);
            match handle.ask(|frames| Command::Reclaim { holder, frames }, ANSWER) {
                Ok(_) => {
                    self.free_holders
                        .get_mut(*worker)
                        .map(|free| free.insert(*number));
                }
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        first_error.map_err(FabricError::from)
    }

    /// Copies what passes a port to a queue, until the receiving end is dropped.
    ///
    /// # Errors
    /// [`WorkerError`] when a worker cannot be told.
    pub fn tap(&self, port: PortId) -> Result<Receiver<Captured>, WorkerError> {
        let (copies_in, copies) = bounded(CAPTURE_QUEUE);
        for worker in &self.workers {
            worker.tell(Command::Tap(Tap::new(port, BATCH_MAX, copies_in.clone())))?;
        }
        Ok(copies)
    }

    /// Has every worker publish what it shows only on its beat, and waits for it.
    pub fn beat(&self) {
        for worker in &self.workers {
            // A silent worker shows what it showed last.
            let _ = worker.ask(Command::Beat, ANSWER);
        }
    }

    /// The first worker whose thread has ended, which none does before it is told to.
    #[must_use]
    pub fn dead_worker(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Stops the workers and waits for them, a while. Their sockets close; programs stay.
    pub fn stop(self) {
        for worker in &self.workers {
            let _ = worker.tell(Command::Stop);
        }
        let deadline = Instant::now() + ANSWER;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(JOIN_PAUSE);
            }
            // One that does not end is ended with the process.
        }
    }

    /// Binds a socket to each queue, on the memory of the worker that owns it.
    fn bind(&mut self, spec: &PortSpec) -> Result<(Vec<XskPort>, Holders), FabricError> {
        let mut queues = Vec::new();
        let mut holders = Vec::new();
        for queue in (0..spec.queues).map(QueueId) {
            let worker = queue.worker(self.workers.len());
            let bound = self.bind_one(spec, queue, worker, &mut holders);
            match bound {
                Ok(io) => queues.push(io),
                Err(error) => {
                    drop(queues);
                    self.free(&holders);
                    return Err(error);
                }
            }
        }
        Ok((queues, holders))
    }

    fn bind_one(
        &mut self,
        spec: &PortSpec,
        queue: QueueId,
        worker: usize,
        holders: &mut Holders,
    ) -> Result<XskPort, FabricError> {
        let free = self
            .free_holders
            .get_mut(worker)
            .ok_or(FabricError::NoHolder(worker))?;
        let number = free.pop_first().ok_or(FabricError::NoHolder(worker))?;
        holders.push((worker, number));
        let umem = self.umems.get(worker).ok_or(FabricError::NoHolder(worker))?;
        Ok(XskPort::bind(
            umem,
            &spec.interface,
            queue,
            Holder::port(number),
            spec.fill,
        )?)
    }

    /// Gives each queue to its worker.
    fn hand_out(&self, port: &AttachedPort, queues: Vec<XskPort>) -> Result<(), WorkerError> {
        let parts = (0..)
            .map(QueueId)
            .zip(queues)
            .zip(port.stats.iter().zip(&port.holders));
        for ((queue, io), (stats, (worker, number))) in parts {
            let handle = self.workers.get(*worker).ok_or(WorkerError::Gone(*worker))?;
            handle.tell(Command::Add {
                port: port.spec.id,
                queue,
                io,
                holder: Holder::port(*number),
                stats: Arc::clone(stats),
            })?;
        }
        Ok(())
    }

    /// Holder numbers of sockets that were never handed out, so that hold nothing.
    fn free(&mut self, holders: &[(usize, u16)]) {
        for (worker, number) in holders {
            if let Some(free) = self.free_holders.get_mut(*worker) {
                free.insert(*number);
            }
        }
    }
}
