//! Workers: one per core, each taking its queues' packets through the pipeline to their exits.
//!
//! A worker owns its frames, its queues and its counters; nobody else touches them. It is told what to do, and
//! given packets to send, through bounded queues ([`WorkerHandle`]). It knows rings and batches, and no protocol.

mod beat;
mod belt;
mod handle;
mod limit;
mod orders;
mod origin;
mod relay;
mod replicate;
mod rota;
mod share;
mod sleep;
mod slow;
mod spread;
mod stall;
mod trial;
mod turn;

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::Sender;

pub use handle::{Command, Handover, Injection, Punt, Relay, Way, WorkerError, WorkerHandle};
pub use limit::Limits;
pub use origin::{Lesson, Origin};
pub use spread::{Spread, SpreadMode, spread};

use crate::capture::Tap;
use crate::clock::{Clock, TickWatch};
use crate::frame::{Frame, Holder, Pool};
use crate::port::{Port, PortId};
use crate::stats::{Histograms, QueueStats, SharedStats, WorkerStats};
use crate::table::Tick;
use crate::verdict::{Cast, DropReason, Verdict};
use handle::Inbox;
use relay::Outlet;
use rota::Rota;
use sleep::Bed;
use stall::StallWatch;

/// The largest batch.
pub const BATCH_MAX: usize = 64;

/// Queues of one port that one worker can own.
pub const QUEUES_PER_PORT_MAX: usize = 16;

/// What a worker asks of a pipeline.
pub trait Pipeline {
    /// Walks a batch that came in at `ingress` at the moment `now`; pushes exactly one verdict per frame, in order, to
    /// `verdicts` (empty on entry).
    fn process(&mut self, ingress: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>, now: Tick);

    /// Finds the way of a packet (Ethernet header present, its addresses ignored) that does not come in at a port now.
    fn originate(&mut self, frame: &mut Frame, origin: Origin, now: Tick) -> Verdict;

    /// Tells packets' flows apart where all of them may come in by one queue, which others have to share then: pushes for each
    /// frame the hash of its flow to `flows` (empty on entry), or `None` for one that has none and stays. Pushes nothing if
    /// nothing that comes in at `ingress` is to be shared.
    fn flows(&self, ingress: PortId, frames: &[Frame], flows: &mut Vec<Option<u32>>) {
        let _ = (ingress, frames, flows);
    }

    /// The place of the first destination of a frame's copies at `from` or behind, in the list that `cast` stands for. Places
    /// are asked for from 0 on, and each answer is beyond the one before.
    fn destination(&mut self, cast: Cast, from: usize) -> Option<usize> {
        let _ = (cast, from);
        None
    }

    /// Finishes the copy of a frame that goes to the destination at `place`: it is forwarded or dropped.
    fn finish_copy(&mut self, frame: &mut Frame, cast: Cast, place: usize) -> Verdict {
        let _ = (frame, cast, place);
        Verdict::Drop(DropReason::PortGone)
    }

    /// The next lesson from the batch that was walked last.
    #[inline]
    fn lesson(&mut self) -> Option<Lesson> {
        None
    }

    /// Clears up a bounded piece of what it remembers; called once per turn. Answers whether more is due at once, so
    /// that the worker does not go to sleep over it.
    fn sweep(&mut self, now: Tick) -> bool;
}

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Look again at once, for ever: lowest latency, a whole core.
    Poll,
    /// Look for a while, then sleep until there is work.
    Sleep,
}

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its number, from 0.
    pub index: usize,
    /// The core it is pinned to.
    pub core: usize,
    /// Packets per batch, `1..=BATCH_MAX`.
    pub batch: usize,
    /// What it does when idle.
    pub idle: Idle,
    /// Packets from the slow path that may wait for it.
    pub injections: usize,
}

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The core is not there, or not ours.
    #[error(
        "worker {index} cannot be pinned to core {core}: there is no such core for this process; [workers] cores may name {available}"
    )]
    Core {
        /// The worker.
        index: usize,
        /// The core asked for.
        core: usize,
        /// What could be named.
        available: String,
    },
    /// The system refused a thread, an event or memory.
    #[error("worker {index} cannot start: {source}")]
    System {
        /// The worker.
        index: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Where a packet came in.
#[derive(Debug, Clone, Copy)]
enum Ingress {
    /// By the queue at this place.
    Queue(usize),
    /// At this port, by a queue of another worker, which gave it away.
    Given(PortId),
    /// Nowhere: the switch originated it.
    Switch,
}

/// One queue that a worker serves.
struct Slot<P> {
    port: PortId,
    /// Its place among this worker's queues of the port: the lane of what comes in by it, unless the pipeline knows
    /// the flow.
    ordinal: u16,
    /// What comes in by it has to be looked at before it walks: it has a lane of its own, or a limit.
    is_special: bool,
    io: P,
    holder: Holder,
    stats: Arc<QueueStats>,
    /// Frames queued for transmission since the last flush, and their bytes.
    queued: u32,
    queued_bytes: u64,
    /// Whether any found no room since then.
    tried: bool,
    /// Its socket ends the worker's sleep.
    armed: bool,
    /// Frames went in or out since the last settling: it is listed in [`Worker::stirred`].
    stirred: bool,
    limits: Limits,
    watch: StallWatch,
}

impl<P> Slot<P> {
    /// Lists the queue, whose place is `slot`, among those that are to be settled when the turn ends.
    #[inline(always)]
    fn stir(&mut self, slot: usize, stirred: &mut Vec<usize>) {
        if !self.stirred {
            self.stirred = true;
            stirred.push(slot);
        }
    }

    /// Notes that a frame of `bytes` was queued.
    #[inline(always)]
    fn sent(&mut self, bytes: usize) {
        self.queued += 1;
        self.queued_bytes += bytes as u64;
    }
}

/// The slots through which a worker can send to a port.
#[derive(Clone, Copy)]
struct ExitSlots {
    len: u8,
    slots: [u16; QUEUES_PER_PORT_MAX],
}

impl ExitSlots {
    const NONE: Self = Self {
        len: 0,
        slots: [0; QUEUES_PER_PORT_MAX],
    };

    /// The slot for packets of a lane: always the same one, so that a flow stays in order.
    #[inline(always)]
    fn pick(&self, lane: u16) -> Option<usize> {
        let place = match self.len {
            0 => return None,
            // Nearly always, and a division takes longer than all the rest.
            1 => 0,
            len => usize::from(lane % u16::from(len)),
        };
        self.slots.get(place).map(|slot| usize::from(*slot))
    }
}

/// A core's whole world.
pub struct Worker<P, L> {
    config: WorkerConfig,
    pool: Pool,
    pipeline: L,
    slots: Vec<Slot<P>>,
    rota: Rota,
    /// The slots that frames went in or out of since they were last settled.
    stirred: Vec<usize>,
    /// Through which slots each port is reached.
    exits: Vec<ExitSlots>,
    /// The same, without ports that have a limit: what needs no look when it is sent.
    free_exits: Vec<ExitSlots>,
    relays: Vec<Outlet>,
    frames: Vec<Frame>,
    verdicts: Vec<Verdict>,
    spread: Spread,
    flows: Vec<Option<u32>>,
    inbox: Inbox<P>,
    punts: Sender<Punt>,
    lessons: Sender<Lesson>,
    tap: Option<Tap>,
    bed: Bed,
    clock: Clock,
    tick: TickWatch,
    histograms: Histograms,
    stats: SharedStats,
    /// The pipeline has more to clear up at once.
    sweeps_on: bool,
    stopping: bool,
}

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// A worker without ports, and the handle to reach it. All its memory is taken here. Packets for the slow path go to
    /// `punts`, and what it is to learn to `lessons`.
    ///
    /// # Errors
    /// [`StartError::System`] when the system has no event left for it.
    pub fn new(
        config: WorkerConfig,
        pool: Pool,
        pipeline: L,
        punts: Sender<Punt>,
        lessons: Sender<Lesson>,
    ) -> Result<(Self, WorkerHandle<P>), StartError> {
        let index = config.index;
        let failed = |source| StartError::System { index, source };
        let bounds = || failed(std::io::Error::other("histogram bounds"));
        let stats = Arc::new(WorkerStats::new(config.core).ok_or_else(bounds)?);
        let (handle, inbox) =
            handle::connect(index, config.injections, Arc::clone(&stats)).map_err(failed)?;
        let bed = Bed::new(Arc::clone(&inbox.wake)).map_err(failed)?;
        let batch = config.batch.clamp(1, BATCH_MAX);
        let clock = Clock::calibrated();
        let worker = Self {
            config: WorkerConfig { batch, ..config },
            pool,
            pipeline,
            slots: Vec::with_capacity(usize::from(PortId::LIMIT)),
            rota: Rota::with_capacity(usize::from(PortId::LIMIT)),
            stirred: Vec::with_capacity(usize::from(PortId::LIMIT)),
            exits: vec![ExitSlots::NONE; usize::from(PortId::LIMIT)],
            free_exits: vec![ExitSlots::NONE; usize::from(PortId::LIMIT)],
            relays: Vec::with_capacity(usize::from(PortId::LIMIT)),
            frames: Vec::with_capacity(BATCH_MAX),
            verdicts: Vec::with_capacity(BATCH_MAX),
            spread: Spread::new(SpreadMode::Off),
            flows: Vec::with_capacity(BATCH_MAX),
            inbox,
            punts,
            lessons,
            tap: None,
            bed,
            clock,
            tick: TickWatch::new(&clock),
            histograms: Histograms::new().ok_or_else(bounds)?,
            stats,
            sweeps_on: false,
            stopping: false,
        };
        Ok((worker, handle))
    }

    /// The worker's frames, for a test or a benchmark that owns the worker.
    pub fn pool_mut(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// A queue's port, for a test or a benchmark that owns the worker; `slot` counts from 0 in the order of adding.
    pub fn port_mut(&mut self, slot: usize) -> Option<(&mut P, &mut Pool)> {
        let slot = self.slots.get_mut(slot)?;
        Some((&mut slot.io, &mut self.pool))
    }
}

impl<P, L> Worker<P, L>
where
    P: Port + Send + 'static,
    L: Pipeline + Send + 'static,
{
    /// Starts the worker's thread, pinned to its core; `first` is the first thing it does.
    ///
    /// # Errors
    /// [`StartError`] when there is no such core or no thread.
    pub fn spawn(self, first: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
        let (index, core) = (self.config.index, self.config.core);
        check_core(index, core)?;
        let body = move || {
            first();
            let mut worker = self;
            // Checked a moment ago; a core that leaves in between costs speed, not correctness.
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
            worker.run();
        };
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(body)
            .map_err(|source| StartError::System { index, source })
    }
}

/// Whether this process may run on `core`.
///
/// # Errors
/// [`StartError::Core`] naming the cores that there are.
pub fn check_core(index: usize, core: usize) -> Result<(), StartError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.iter().any(|id| id.id == core) {
        return Ok(());
    }
    let available = cores
        .iter()
        .map(|id| id.id.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    Err(StartError::Core {
        index,
        core,
        available,
    })
}

#[cfg(test)]
mod tests;
