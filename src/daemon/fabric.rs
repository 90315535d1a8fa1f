//! The workers, their memory, and which queues they serve.
//!
//! Attaching a port means: load its steering program, bind a socket to each queue and put it into the program's
//! map, attach the program, and give each socket to the worker that owns its queue. Detaching goes the other way
//! round. Either is done wholly or not at all.

mod attach;
mod bind;
mod error;
mod spec;

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use millrace_dataplane::capture::{Captured, Tap};
use millrace_dataplane::frame::RUN_CHUNKS;
use millrace_dataplane::port::PortId;
use millrace_dataplane::port::tagged::TaggedPort;
use millrace_dataplane::port::umem::{HugePages, Placement, Umem};
use millrace_dataplane::port::xsk::XskPort;
use millrace_dataplane::table::{HashKey, NodeTables, Reader};
use millrace_dataplane::worker::{
    BATCH_MAX, Command, Idle, Lesson, Limits, Punt, SpreadMode, Worker, WorkerConfig, WorkerError,
    WorkerHandle, spread,
};
use millrace_dataplane::xdp::Packets;
use millrace_pipelines::{Bridging, Connections, SwitchPipeline};
use tracing::info;

use crate::config::{self, Config};
use crate::privileges;
pub use attach::steer;
pub use error::FabricError;
pub use spec::{AttachedPort, OwnSockets, PortSpec, Seat, Sockets, Steered, Vlan};

/// A queue as its worker has it.
pub type Queue = TaggedPort<XskPort>;

/// How long a worker may take to answer before it counts as silent.
const ANSWER: Duration = Duration::from_secs(2);
/// How often a worker that is to end is looked at.
const JOIN_PAUSE: Duration = Duration::from_millis(5);
/// Packets from the slow path that may wait for one worker.
const INJECTIONS: usize = 1024;
/// Copies of packets that may wait for a capture.
const CAPTURE_QUEUE: usize = 2048;
/// Lessons of all workers that may wait at once.
const LESSONS: usize = 4096;

/// One run for so many frames of a worker, where packets may be longer than a frame: together they take nearly a third of them.
const FRAMES_PER_RUN: u32 = 16;

/// How many frames a worker has that are no run's, of so many in all.
fn ordinary(packets: Packets, frames: usize) -> usize {
    let all = u32::try_from(frames).unwrap_or(u32::MAX);
    frames.saturating_sub(runs(packets, all) as usize * RUN_CHUNKS)
}

/// How many runs a worker has.
fn runs(packets: Packets, frames: u32) -> u32 {
    match packets {
        Packets::Whole => 0,
        Packets::InPieces => frames / FRAMES_PER_RUN,
    }
}

/// What workers have for the slow path.
pub struct FromWorkers {
    /// Packets that need thought.
    pub punts: Receiver<Punt>,
    /// Stations of bridged networks to be learned.
    pub lessons: Receiver<Lesson>,
}

/// All workers, from outside.
pub struct Fabric {
    workers: Vec<WorkerHandle<Queue>>,
    threads: Vec<JoinHandle<()>>,
    umems: Vec<Umem>,
    free_holders: Vec<BTreeSet<u16>>,
    /// Frames of each worker, those of runs left out.
    frames: usize,
    /// Whether a packet may be longer than a frame.
    packets: Packets,
}

impl Fabric {
    /// Takes all memory, on the NUMA node of the uplink if that is known, and starts the workers, with nothing to serve
    /// yet.
    ///
    /// # Errors
    /// [`FabricError`] for a core that is not there, or memory that cannot be had; nothing is left behind.
    pub fn start(
        config: &Config,
        tables: &Reader<NodeTables>,
        (connections, bridging): (&Connections, &Bridging),
        key: HashKey,
        (numa_node, packets): (Option<u32>, Packets),
    ) -> Result<(Self, FromWorkers), FabricError> {
        let cores = config.workers.cores.as_slice();
        let (punts_in, punts) = bounded(config.slow_path.queue.get() * cores.len());
        let (lessons_in, lessons) = bounded(LESSONS);
        let mut fabric = Self {
            workers: Vec::new(),
            threads: Vec::new(),
            umems: Vec::new(),
            free_holders: Vec::new(),
            frames: ordinary(packets, config.workers.frames.get()),
            packets,
        };
        let placement = Placement {
            huge_pages: match config.workers.hugepages {
                config::HugePages::Auto => HugePages::Auto,
                config::HugePages::Always => HugePages::Always,
                config::HugePages::Never => HugePages::Never,
            },
            numa_node,
        };
        for (index, core) in cores.iter().enumerate() {
            let frames = u32::try_from(config.workers.frames.get()).unwrap_or(u32::MAX);
            let (umem, pool) = Umem::with_runs(frames, placement, runs(packets, frames))?;
            info!(
                worker = index,
                core,
                frames,
                huge_pages = umem.on_huge_pages(),
                numa_node,
                "packet memory taken"
            );
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
            let pipeline =
                SwitchPipeline::new(tables.clone(), connections.clone(), bridging.clone(), key, index);
            let (worker, handle) = Worker::new(
                worker_config,
                pool,
                pipeline,
                punts_in.clone(),
                lessons_in.clone(),
            )?;
            fabric.threads.push(worker.spawn(privileges::drop_all)?);
            fabric.workers.push(handle);
            fabric.umems.push(umem);
            fabric.free_holders.push((0..PortId::LIMIT * 4).collect());
        }
        fabric.spread(config)?;
        Ok((fabric, FromWorkers { punts, lessons }))
    }

    /// Has the workers share what one of them cannot do alone.
    fn spread(&self, config: &Config) -> Result<(), WorkerError> {
        let mode = match config.workers.spread {
            config::Spread::Auto => SpreadMode::Auto,
            config::Spread::Always => SpreadMode::Always,
            config::Spread::Off => SpreadMode::Off,
        };
        for (worker, share) in
            self.workers
                .iter()
                .zip(spread(&self.workers, mode, super::links::longest(self.packets)))
        {
            worker.tell(Command::Spread(share))?;
        }
        Ok(())
    }

    /// Whether a packet may be longer than a frame.
    #[must_use]
    pub fn packets(&self) -> Packets {
        self.packets
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &[WorkerHandle<Queue>] {
        &self.workers
    }

    /// Holds a port to limits, which all workers share, from now on.
    ///
    /// # Errors
    /// [`WorkerError`] when a worker cannot be told.
    pub fn limit(&self, port: PortId, limits: &Limits) -> Result<(), WorkerError> {
        self.workers.iter().try_for_each(|worker| {
            let limits = limits.clone();
            worker.tell(Command::Limit { port, limits })
        })
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

    /// The workers that do not answer in time.
    #[must_use]
    pub fn silent_workers(&self) -> Vec<usize> {
        let silent = self
            .workers
            .iter()
            .filter(|worker| worker.ask(Command::Beat, ANSWER).is_err());
        silent
            .map(millrace_dataplane::worker::WorkerHandle::index)
            .collect()
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
}
