//! A node's pipeline: the stages of a packet's walk, in order.

mod step;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{HashKey, NodeTables, Reader, Role, Tick};
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_dataplane::worker::{BATCH_MAX, Origin, Pipeline};

use crate::apart::inner_flow;
use crate::connections::{Connections, Context};
use crate::encap::Wrapper;
use crate::entry::Entry;
use crate::express::{self, Gate, Plain, Senders};
use crate::pieces::Pieces;
use crate::sweep::Sweeper;
use step::Step;

/// The pipeline of one worker of a node.
#[derive(Debug)]
pub struct NodePipeline {
    tables: Reader<NodeTables>,
    connections: Connections,
    worker: usize,
    own: Own,
    has_express: bool,
    batch: Batch,
    sweeper: Sweeper,
}

/// What one worker alone remembers from packet to packet.
#[derive(Debug)]
struct Own {
    wrapper: Wrapper,
    pieces: Pieces,
    senders: Senders,
}

/// Where the packets of the batch at hand are on their walk.
#[derive(Debug)]
struct Batch {
    /// Those on the express lane; of the others, what is in `steps`.
    plains: [Option<Plain>; BATCH_MAX],
    steps: [Step; BATCH_MAX],
}

impl NodePipeline {
    /// A pipeline over the newest `tables`. All workers share one `key`, so that a flow keeps its outer source port
    /// whichever worker it lands on, and `connections`; `worker` is this one's number, from 0.
    #[must_use]
    pub fn new(tables: Reader<NodeTables>, connections: Connections, key: HashKey, worker: usize) -> Self {
        Self {
            tables,
            sweeper: Sweeper::new(&connections, worker),
            connections,
            worker,
            has_express: true,
            own: Own {
                wrapper: Wrapper::new(key, worker),
                pieces: Pieces::new(key),
                senders: Senders::NONE,
            },
            batch: Batch::NONE,
        }
    }

    /// [`Pipeline::process`] with tables that are pinned already. `IS_SECOND` says whether they are another network's than
    /// the cluster's own, whose tables are `top`.
    #[inline(always)]
    pub(crate) fn process_in<const IS_SECOND: bool>(
        &mut self,
        (top, tables): (&NodeTables, &NodeTables),
        ingress: PortId,
        frames: &mut [Frame],
        verdicts: &mut Vec<Verdict>,
        now: Tick,
    ) {
        let walker = Walker {
            connections: &self.connections,
            worker: self.worker,
            has_express: self.has_express,
            own: &mut self.own,
            batch: &mut self.batch,
        };
        walker.walk::<IS_SECOND>((top, tables), ingress, frames, verdicts, now);
    }

    /// Takes no packet onto the express lane from now on, so that a test can compare it with the stages.
    pub fn walk_every_stage(&mut self) {
        self.has_express = false;
    }
}

/// All that a batch's walk takes, but for the tables.
struct Walker<'p> {
    connections: &'p Connections,
    worker: usize,
    has_express: bool,
    own: &'p mut Own,
    batch: &'p mut Batch,
}

impl Walker<'_> {
    #[inline(always)]
    fn walk<const IS_SECOND: bool>(
        self,
        (top, tables): (&NodeTables, &NodeTables),
        ingress: PortId,
        frames: &mut [Frame],
        verdicts: &mut Vec<Verdict>,
        now: Tick,
    ) {
        let Some(facts) = tables.ports.get(ingress) else {
            // The port has left the tables, and its last packets arrive after it.
            verdicts.extend(frames.iter().map(|_| Verdict::Drop(DropReason::PortGone)));
            return;
        };
        let cx = Context {
            tables,
            top,
            connections: self.connections,
            entry: Entry::Port(ingress, facts),
            worker: self.worker,
            now,
        };
        let gate = Gate::of(&cx, facts).filter(|_| self.has_express);
        for batch in frames.chunks_mut(BATCH_MAX) {
            self.batch
                .walk::<IS_SECOND>(&cx, gate.as_ref(), self.own, batch, verdicts);
        }
    }
}

impl Batch {
    const NONE: Self = Self {
        plains: [None; BATCH_MAX],
        steps: [const { Step::FIRST }; BATCH_MAX],
    };

    /// Walks a batch: while one packet's flow is fetched from memory, others are read.
    fn walk<const IS_SECOND: bool>(
        &mut self,
        cx: &Context<'_>,
        gate: Option<&Gate>,
        own: &mut Own,
        frames: &mut [Frame],
        verdicts: &mut Vec<Verdict>,
    ) {
        // The whole batch at once: as good as a few frames ahead of the one that is read, and simpler.
        frames.iter().for_each(Frame::prefetch);
        if gate.is_some_and(Gate::is_wire) {
            frames.iter().for_each(Frame::prefetch_second_line);
        }
        self.read::<IS_SECOND>(cx, gate, own, frames);
        self.look(cx, frames.len());
        self.go(cx, gate, own, frames, verdicts);
    }

    /// Takes each packet onto the express lane, or else through the first half of its walk.
    ///
    /// Like its two sisters by itself: each is a loop whose values fit the processor's registers.
    #[inline(never)]
    fn read<const IS_SECOND: bool>(
        &mut self,
        cx: &Context<'_>,
        gate: Option<&Gate>,
        own: &mut Own,
        frames: &mut [Frame],
    ) {
        let flows = cx.connections.flows.v4();
        for ((plain, step), frame) in self.plains.iter_mut().zip(&mut self.steps).zip(frames) {
            *plain = gate
                .and_then(|gate| express::read::<IS_SECOND>(gate, cx.tables, flows, &mut own.senders, frame));
            if plain.is_none() {
                step.enter(cx, frame);
            }
        }
    }

    /// Looks for the flow of each.
    #[inline(never)]
    fn look(&mut self, cx: &Context<'_>, count: usize) {
        let flows = cx.connections.flows.v4();
        let mut before: Option<&mut Plain> = None;
        for (plain, step) in self.plains.iter_mut().zip(&mut self.steps).take(count) {
            match plain {
                Some(plain) => {
                    plain.look(flows, before);
                    before = Some(plain);
                }
                None => {
                    step.look(cx);
                    before = None;
                }
            }
        }
    }

    /// Takes each to the end of the express lane, or of its walk.
    #[inline(never)]
    fn go(
        &mut self,
        cx: &Context<'_>,
        gate: Option<&Gate>,
        own: &mut Own,
        frames: &mut [Frame],
        verdicts: &mut Vec<Verdict>,
    ) {
        let count = frames.len().min(BATCH_MAX);
        let mut at = 0;
        while at < count {
            let (Some(frame), Some(plain), Some(step)) =
                (frames.get_mut(at), self.plains.get(at), self.steps.get_mut(at))
            else {
                break;
            };
            at += 1;
            let left = match (plain, gate) {
                // Each is made in its place: see `express::go`.
                (Some(plain), Some(gate)) => match express::go(cx, gate, &mut own.wrapper, frame, plain) {
                    Some(left) => left,
                    None => step.walk_plain(cx, own, frame, plain),
                },
                (None, _) | (_, None) => step.finish(cx, own, frame),
            };
            match left {
                Ok(port) => verdicts.push(Verdict::Forward(port)),
                Err(exit) => verdicts.push(Verdict::from(exit)),
            }
            if let (Some(plain), Some(gate)) = (plain, gate)
                && plain.leads
                && let (Some(frames), Some(plains)) = (frames.get_mut(at..), self.plains.get(at..))
            {
                at += express::go_on(cx, gate, &mut own.wrapper, (frames, plains), verdicts);
            }
        }
    }
}

impl Pipeline for NodePipeline {
    fn process(&mut self, ingress: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>, now: Tick) {
        let tables = self.tables.pin();
        let walker = Walker {
            connections: &self.connections,
            worker: self.worker,
            has_express: self.has_express,
            own: &mut self.own,
            batch: &mut self.batch,
        };
        walker.walk::<false>((&tables, &tables), ingress, frames, verdicts, now);
    }

    fn originate(&mut self, frame: &mut Frame, origin: Origin, now: Tick) -> Verdict {
        let top = self.tables.pin();
        let network = match origin {
            Origin::Switch(network) | Origin::Held { network, .. } | Origin::Steered { network, .. } => {
                network
            }
            // Not routed; whoever takes it for that has the wrong pipeline.
            Origin::Bridged { .. } => return Verdict::Drop(DropReason::OriginatedStuck),
        };
        let Some(tables) = top.of(network) else {
            // The network has left the tables, and with it all ports in it.
            return Verdict::Drop(DropReason::PortGone);
        };
        frame.set_network(network);
        let entry = match Entry::of(tables, origin) {
            Ok(entry) => entry,
            Err(exit) => return Verdict::from(exit),
        };
        let cx = Context {
            tables,
            top: &top,
            connections: &self.connections,
            entry,
            worker: self.worker,
            now,
        };
        let mut step = Step::FIRST;
        match step.walk(&cx, &mut self.own, frame) {
            Ok(port) => Verdict::Forward(port),
            Err(exit) => Verdict::from(exit),
        }
    }

    fn flows(&self, ingress: PortId, frames: &[Frame], flows: &mut Vec<Option<u32>>) {
        let tables = self.tables.pin();
        if tables
            .ports
            .get(ingress)
            .is_some_and(|facts| facts.role == Role::Uplink)
        {
            let key = self.own.wrapper.key();
            let flow = |frame: &Frame| inner_flow(key, &tables, frame.bytes());
            flows.extend(frames.iter().map(flow));
        }
    }

    fn sweep(&mut self, now: Tick) -> bool {
        self.sweeper.sweep(&self.connections, now)
    }
}
