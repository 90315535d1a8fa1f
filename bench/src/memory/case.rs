//! One case: a worker of its own, and frames that take one walk round and round.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use crossbeam::channel::{Receiver, bounded};
use hdrhistogram::Histogram;
use millrace_dataplane::clock::{self, Clock};
use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::memory::LoopPort;
use millrace_dataplane::port::{PortId, QueueId};
use millrace_dataplane::stats::QueueStats;
use millrace_dataplane::table::{AffinityTable, FlowTable, HashKey, NodeTables, Publisher};
use millrace_dataplane::worker::{BATCH_MAX, Idle, Punt, Worker, WorkerConfig, WorkerHandle};
use millrace_pipelines::{Bridging, Connections, SwitchPipeline};
use millrace_tools::pktgen::Template;

use super::answers::Answers;
use super::bridge;
use super::head::renew;
use super::scene::{PORTS, Size, changed_elsewhere, flow_table, for_ever, tables};
use super::walk::Walk;
use crate::random::Random;

/// As in a worker's own loop: turns between two looks at ports that had nothing to do.
const SETTLE_ALL_TURNS: u64 = 256;
/// Longest turn that is told apart, in nanoseconds.
const TURN_NS_MAX: u64 = 1_000_000_000;
/// Packets that may wait for a slow path that nobody serves: one shows that something is wrong.
const PUNTS: usize = 1;
/// So often something changes in a case that churns: a hundred times in a second of walking.
const CHANGE_EVERY_NS: u64 = 10_000_000;
/// Clients that session affinity can be remembered for.
const AFFINITIES: usize = 1024;

/// What one lap of all frames cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lap {
    /// Time-stamp counter cycles per packet.
    pub(crate) cycles: f64,
    /// Allocations in all.
    pub(crate) allocations: u64,
}

/// A case of the bench.
pub(crate) struct Case {
    walk: Walk,
    frame_len: usize,
    flows: u32,
    templates: Vec<Template>,
    /// The answers to what has left, where they are to be measured.
    answers: Option<Answers>,
    publisher: Publisher<NodeTables>,
    /// The newest tables.
    tables: NodeTables,
    worker: Worker<LoopPort, SwitchPipeline>,
    handle: WorkerHandle<LoopPort>,
    _punts: Receiver<Punt>,
    /// Which of how many workers it is.
    share: (u32, u32),
    frames: u32,
    /// The frames between two laps; empty otherwise.
    resting: Vec<Frame>,
    random: Random,
    /// The flow that the next packet takes, where flows are taken in order.
    next_flow: u32,
    is_random: bool,
    turns: u64,
    /// Time spent walking in all, and the changes made meanwhile.
    walked_cycles: u64,
    changes: u64,
    clock: Clock,
    turn_ns: Histogram<u64>,
}

impl Case {
    /// A case with so many frames on their way round.
    pub(super) fn new(walk: Walk, frame_len: usize, flows: u32, frames: u32) -> anyhow::Result<Self> {
        let table = Arc::new(flow_table(walk.family(), flows)?);
        Self::on(walk, frame_len, flows, frames, &walk.size(), 0, table)
    }

    /// The case of a worker of a node. Its workers share `table` and deal the flows among them.
    pub(crate) fn on(
        walk: Walk,
        frame_len: usize,
        flows: u32,
        frames: u32,
        size: &Size,
        index: usize,
        table: Arc<FlowTable>,
    ) -> anyhow::Result<Self> {
        let tables = tables(walk, size)?;
        let publisher = Publisher::new(tables.clone());
        let connections = Connections {
            flows: table,
            affinity: Arc::new(AffinityTable::new(AFFINITIES)),
            timeouts: for_ever(),
            workers: size.workers,
        };
        let bridging = Bridging {
            fdb: bridge::fdb(if walk.is_bridged() { flows } else { 1 })?,
            storms: Arc::default(),
        };
        let pipeline = SwitchPipeline::new(
            publisher.reader(),
            connections,
            bridging,
            HashKey::random(),
            index,
        );
        let config = WorkerConfig {
            index,
            core: 0,
            batch: BATCH_MAX,
            idle: Idle::Poll,
            injections: 1,
        };
        let (punts_in, punts) = bounded(PUNTS);
        let (mut worker, handle) =
            Worker::new(config, Pool::on_heap(frames), pipeline, punts_in, bounded(1).0)?;
        for number in 0..size.ports {
            let port = PortId::new(number).context("there is no such port number")?;
            let (queue, holder) = (QueueId(0), Holder::port(number));
            let stats = Arc::new(QueueStats::new(port, queue));
            worker.add(port, LoopPort::with_capacity(frames as usize), holder, stats);
        }
        let first = walk.answers().unwrap_or(walk);
        let templates = first.templates(frame_len, flows, size.called)?;
        let answers = walk.answers().map(|asked| -> anyhow::Result<Answers> {
            let head = templates.first().context("a walk has packets")?.head();
            Ok(Answers::new(walk.family(), flows, head.len() + asked.growth()))
        });
        let mut case = Self {
            walk: first,
            frame_len,
            flows,
            templates,
            answers: answers.transpose()?,
            publisher,
            tables,
            worker,
            handle,
            _punts: punts,
            share: (u32::try_from(index)?, u32::try_from(size.workers)?),
            frames,
            resting: Vec::with_capacity(frames as usize),
            random: Random::new(),
            next_flow: 0,
            is_random: false,
            turns: 0,
            walked_cycles: 0,
            changes: 0,
            clock: Clock::calibrated(),
            turn_ns: Histogram::new_with_bounds(1, TURN_NS_MAX, 3)?,
        };
        case.prepare(walk)?;
        Ok(case)
    }

    /// Fills the frames, opens the connections, and makes answers of the packets where those are to be measured.
    fn prepare(&mut self, walk: Walk) -> anyhow::Result<()> {
        self.fill()?;
        if !walk.opens() {
            self.establish()?;
        }
        if self.answers.is_some() {
            self.walk = walk;
            self.turn_around()?;
        }
        Ok(())
    }

    /// Its key in the summary.
    pub(super) fn key(&self) -> String {
        format!("{}/{}/{}", self.walk.name(), self.frame_len, self.flows)
    }

    /// Whether it is this walk, with so many flows.
    pub(super) fn is(&self, walk: Walk, flows: u32) -> bool {
        (self.walk, self.flows) == (walk, flows)
    }

    /// Laps before those that count: as many packets as there are flows, so that the caches hold of them what they would
    /// hold if no other case were measured in between. Each connection can be opened once only.
    pub(crate) fn warm_up(&self) -> u32 {
        if self.opens() {
            1
        } else {
            self.flows.div_ceil(self.frames)
        }
    }

    /// Whether each packet is the first of its connection.
    pub(super) fn opens(&self) -> bool {
        self.walk.opens()
    }

    /// Whether something else changes while it walks.
    pub(super) fn churns(&self) -> bool {
        self.walk.churns()
    }

    /// The 99th percentile of the time a batch took, in nanoseconds.
    pub(super) fn batch_p99_ns(&self) -> u64 {
        self.turn_ns.value_at_quantile(0.99)
    }

    /// Takes every frame from the pool and writes a packet into it. Frames that follow each other lie at random
    /// places, as they do after a while in a switch at work.
    fn fill(&mut self) -> anyhow::Result<()> {
        let template = self.templates.first().context("a walk has packets")?;
        while let Some(mut frame) = self.worker.pool_mut().take() {
            let filled = frame.fill(template.bytes());
            self.resting.push(frame);
            filled?;
        }
        for place in (1..self.resting.len()).rev() {
            let other = self.random.below(u32::try_from(place)? + 1) as usize;
            self.resting.swap(place, other);
        }
        Ok(())
    }

    /// Sends a packet of every flow, so that all of them are known.
    fn establish(&mut self) -> anyhow::Result<()> {
        while self.next_flow < self.flows / self.share.1 {
            self.lap(false)?;
        }
        self.is_random = true;
        Ok(())
    }

    /// Makes every frame an answer.
    fn turn_around(&mut self) -> anyhow::Result<()> {
        let answer = self.answers.as_ref().map_or(&[][..], Answers::whole);
        for frame in &mut self.resting {
            frame.fill(answer)?;
        }
        Ok(())
    }

    /// The length of the frames before their walk, in bytes.
    fn len_before(&self) -> usize {
        match &self.answers {
            Some(answers) if self.walk.answers().is_some() => answers.whole().len(),
            _ => self
                .templates
                .first()
                .map_or(0, |template| template.bytes().len()),
        }
    }

    /// The flow of the next packet: one at random of those that are known, or one that is not known yet.
    fn draw(&mut self) -> anyhow::Result<u32> {
        let (own, workers) = self.share;
        if self.is_random {
            return Ok(self.random.below(self.flows / workers) * workers + own);
        }
        let flow = self.next_flow * workers + own;
        self.next_flow += 1;
        ensure!(
            flow < self.flows || !self.walk.opens(),
            "all {} flows are open: fewer rounds or laps would be right",
            self.flows
        );
        Ok(flow % self.flows)
    }

    /// How many changes were made in each second of walking.
    pub(super) fn changes_per_second(&self) -> f64 {
        // INVARIANT: both are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let (changes, ns) = (self.changes as f64, self.clock.to_ns(self.walked_cycles) as f64);
        changes * 1e9 / ns
    }

    /// Publishes tables in which something changed that no packet has to do with, as often as is due. There is one at most
    /// before each lap, which takes less than that.
    fn change_something_else(&mut self) {
        if self.clock.to_ns(self.walked_cycles) < self.changes * CHANGE_EVERY_NS {
            return;
        }
        self.changes += 1;
        self.tables = changed_elsewhere(&self.tables, self.changes);
        self.publisher.publish(self.tables.clone());
    }

    /// One lap: every frame gets a flow drawn at random, and walks. Only the walk is timed. `is_measured` tells
    /// whether its batches count for the percentile.
    pub(super) fn lap(&mut self, is_measured: bool) -> anyhow::Result<Lap> {
        self.lap_after(is_measured, || {})
    }

    /// A lap that calls `ready` before its frames walk, when everything is prepared.
    pub(crate) fn lap_after(&mut self, is_measured: bool, ready: impl FnOnce()) -> anyhow::Result<Lap> {
        if self.walk.churns() {
            self.change_something_else();
        }
        self.load()?;
        ready();
        let (mut cycles, mut packets) = (0, 0);
        let info = allocation_counter::measure(|| {
            loop {
                self.turns += 1;
                let began = clock::cycles();
                let work = self.worker.turn(self.turns.is_multiple_of(SETTLE_ALL_TURNS));
                let took = clock::cycles().wrapping_sub(began);
                if work == 0 {
                    break;
                }
                cycles += took;
                packets += work;
                if is_measured {
                    self.turn_ns.saturating_record(self.clock.to_ns(took).max(1));
                }
            }
        });
        self.walked_cycles += cycles;
        self.unload()?;
        ensure!(
            packets == self.frames as usize,
            "{}: {packets} of {} frames walked",
            self.key(),
            self.frames
        );
        // INVARIANT: a lap's cycles and packets are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let cycles = cycles as f64 / packets as f64;
        let allocations = info.count_total;
        Ok(Lap { cycles, allocations })
    }

    /// Writes the packets' heads anew, each with a flow of its own, and puts the frames at the start of the walk.
    fn load(&mut self) -> anyhow::Result<()> {
        let mut failed = Ok(());
        let mut resting = std::mem::take(&mut self.resting);
        for mut frame in resting.drain(..) {
            let flow = self.draw()?;
            let count = u32::try_from(self.templates.len())?;
            let renewed = match (&self.answers, self.templates.get((flow % count) as usize)) {
                (Some(answers), _) if self.walk.answers().is_some() => answers.write(flow, frame.bytes_mut()),
                (_, Some(template)) => renew(&mut frame, template, flow / count, flow),
                (_, None) => Ok(()),
            };
            let renewed = match self.walk.is_bridged() {
                true => renewed.and_then(|()| bridge::address(&mut frame, flow, self.flows)),
                false => renewed,
            };
            if let Err(error) = renewed {
                failed = Err(error);
            }
            let (port, _) = self
                .worker
                .port_mut(usize::from(self.walk.ingress()))
                .context("no such port")?;
            port.load(frame);
        }
        self.resting = resting;
        failed
    }

    /// Takes the frames from the end of the walk, and undoes what it did to their bounds.
    fn unload(&mut self) -> anyhow::Result<()> {
        let before = self.len_before();
        let (port, _) = self
            .worker
            .port_mut(usize::from(self.walk.egress()))
            .context("no such port")?;
        let mut wrong = Ok(());
        while let Some(mut frame) = port.take_sent() {
            // Every frame's length, and a few frames' bytes: all of them would warm the cache with what the switch
            // never reads.
            if frame.index() % 256 == 0 {
                wrong = wrong.and(self.walk.check(before, frame.bytes()));
            }
            if let Some(answers) = &mut self.answers
                && self.walk.answers().is_none()
            {
                wrong = wrong.and(answers.note(frame.bytes()));
            }
            let undone = self.walk.undo(&mut frame);
            let restored = undone.is_ok() && frame.len() == before;
            self.resting.push(frame);
            if !restored {
                bail!("{}: a frame left with a wrong length", self.walk.name());
            }
        }
        wrong?;
        let counters = self.handle.stats().read();
        ensure!(
            self.resting.len() == self.frames as usize && counters.received == counters.transmitted,
            "{}: {} of {} frames came out; dropped {:?}, punted {:?}",
            self.walk.name(),
            self.resting.len(),
            self.frames,
            counters.dropped,
            counters.punted
        );
        Ok(())
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        self.resting
            .drain(..)
            .for_each(|frame| self.worker.pool_mut().give(frame));
        for slot in 0..usize::from(PORTS) {
            if let Some((port, pool)) = self.worker.port_mut(slot) {
                port.drain(pool);
            }
        }
    }
}
