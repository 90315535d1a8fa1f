//! A node's pipeline: the stages of a packet's walk, in order.

use std::net::{Ipv4Addr, Ipv6Addr};

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::Candidate;
use millrace_dataplane::table::{HashKey, NodeTables, Reader, Role, Tick};
use millrace_dataplane::verdict::{DropReason, Exit, Verdict};
use millrace_dataplane::wire::eth;
use millrace_dataplane::worker::{BATCH_MAX, Origin, Pipeline};

use crate::admit::admit;
use crate::apart::inner_flow;
use crate::classify::classify;
use crate::connections::{Connections, Context};
use crate::converse::converse;
use crate::decap::decap;
use crate::depart::depart;
use crate::encap::Wrapper;
use crate::entry::Entry;
use crate::express::{self, Gate, Plain, Senders};
use crate::family::Family;
use crate::packet::{Addresses, Packet};
use crate::pieces::Pieces;
use crate::scout::{Place, Scouted, tuple};
use crate::sweep::Sweeper;
use crate::track::track_at_once;

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

/// A packet that walks the stages, between the two halves of its walk.
#[derive(Debug)]
struct Step {
    /// How its walk has ended already, if it has; the rest then means nothing.
    end: Option<Exit>,
    packet: Packet,
    scouted: Scouted,
}

impl Step {
    const FIRST: Self = Self {
        end: None,
        packet: Packet::UNREAD,
        scouted: Scouted::NOTHING,
    };

    /// The first half of a walk.
    #[inline(never)]
    fn enter(&mut self, cx: &Context<'_>, frame: &mut Frame) {
        let Self { end, packet, scouted } = self;
        match enter(cx, frame, Place { packet, scouted }) {
            Ok(()) => *end = None,
            Err(exit) => *end = Some(exit),
        }
    }

    /// Looks for the packet's flow, on the way between the two halves.
    #[inline]
    fn look(&mut self, cx: &Context<'_>) {
        if self.end.is_none() {
            self.scouted.look(cx, &self.packet);
        }
    }

    /// A whole walk at once.
    #[inline(never)]
    fn walk(&mut self, cx: &Context<'_>, own: &mut Own, frame: &mut Frame) -> Result<PortId, Exit> {
        self.enter(cx, frame);
        self.look(cx);
        self.finish(cx, own, frame)
    }

    /// The walk of a packet that the lane has read and does not take.
    #[inline(never)]
    fn walk_plain(
        &mut self,
        cx: &Context<'_>,
        own: &mut Own,
        frame: &mut Frame,
        plain: &Plain,
    ) -> Result<PortId, Exit> {
        let Some((packet, hash)) = plain.unwrapped() else {
            return self.walk(cx, own, frame);
        };
        frame.truncate(eth::HEADER_LEN + usize::from(packet.len));
        *self = Self {
            end: None,
            packet,
            scouted: Scouted::by(hash),
        };
        self.look(cx);
        self.finish(cx, own, frame)
    }

    /// The second half of a walk; answers the port that the packet leaves by.
    #[inline(never)]
    fn finish(&self, cx: &Context<'_>, own: &mut Own, frame: &mut Frame) -> Result<PortId, Exit> {
        if let Some(exit) = self.end {
            return Err(exit);
        }
        match self.packet.addresses {
            Addresses::V4 { source, destination } => {
                self.leave::<Ipv4Addr>(cx, own, frame, (source, destination))
            }
            Addresses::V6 { source, destination } => {
                self.leave::<Ipv6Addr>(cx, own, frame, (source, destination))
            }
        }
    }

    /// Its connection (`track`, `balance`, `police`, `route`, `limit`), then what changes in it; answers the port it leaves by.
    #[inline]
    fn leave<A: Family>(
        &self,
        cx: &Context<'_>,
        own: &mut Own,
        frame: &mut Frame,
        addresses: (A, A),
    ) -> Result<PortId, Exit> {
        let packet = &self.packet;
        // Pieces are noted down, which is more than to follow a connection.
        if let (Some(candidate), None) = (self.scouted.candidate, packet.fragment)
            && let Some(tuple) = tuple(packet, addresses)
            && let Some(left) = track_at_once(cx, &mut own.wrapper, frame, packet, &tuple, candidate)
        {
            return left;
        }
        leave_slowly(cx, own, frame, packet, addresses, self.scouted.candidate)
    }
}

/// The second half of a walk whose course is not known yet, or about which there is more to say than the port.
#[inline(never)]
fn leave_slowly<A: Family>(
    cx: &Context<'_>,
    own: &mut Own,
    frame: &mut Frame,
    packet: &Packet,
    addresses: (A, A),
    candidate: Option<Candidate>,
) -> Result<PortId, Exit> {
    let course = converse(cx, &mut own.pieces, frame, packet, addresses, candidate)?;
    depart(cx, &mut own.wrapper, frame, packet, course)
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

    /// [`Pipeline::process`] with tables that are pinned already.
    #[inline(always)]
    pub(crate) fn process_in(
        &mut self,
        tables: &NodeTables,
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
        walker.walk(tables, ingress, frames, verdicts, now);
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
    fn walk(
        self,
        tables: &NodeTables,
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
            connections: self.connections,
            entry: Entry::Port(ingress, facts),
            worker: self.worker,
            now,
        };
        let gate = Gate::of(&cx, facts).filter(|_| self.has_express);
        for batch in frames.chunks_mut(BATCH_MAX) {
            self.batch.walk(&cx, gate.as_ref(), self.own, batch, verdicts);
        }
    }
}

/// The first half of a walk: everything that needs nothing but the packet and the tables.
#[inline]
fn enter(cx: &Context<'_>, frame: &mut Frame, place: Place<'_>) -> Result<(), Exit> {
    let mut is_tunnelled = false;
    if let Entry::Port(_, ingress) = cx.entry {
        admit(ingress, frame)?;
        if ingress.role == Role::Uplink {
            is_tunnelled = decap(cx.tables, ingress, frame)?;
        }
    }
    let packet = classify(cx, is_tunnelled, frame, place)?;
    if let Entry::Held { .. } = cx.entry {
        packet.is_tunnelled = came_by_tunnel(cx, packet);
    }
    Ok(())
}

/// Whether a packet that waited had come out of a tunnel, as its source tells: what a peer may send is let in by no
/// other way, but for the peers' own addresses, which the wire may use as well.
#[cold]
fn came_by_tunnel(cx: &Context<'_>, packet: &Packet) -> bool {
    let source = packet.addresses.source();
    cx.entry.is(Role::Uplink)
        && cx.tables.peers.by_inner_source(source).is_some()
        && !cx.tables.peers.comes_plain(source)
        && !cx.tables.local.node_addresses.contains(&source)
}

impl Batch {
    const NONE: Self = Self {
        plains: [None; BATCH_MAX],
        steps: [const { Step::FIRST }; BATCH_MAX],
    };

    /// Walks a batch: while one packet's flow is fetched from memory, others are read.
    fn walk(
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
        self.read(cx, gate, own, frames);
        self.look(cx, frames.len());
        self.go(cx, gate, own, frames, verdicts);
    }

    /// Takes each packet onto the express lane, or else through the first half of its walk.
    ///
    /// Like its two sisters by itself: each is a loop whose values fit the processor's registers.
    #[inline(never)]
    fn read(&mut self, cx: &Context<'_>, gate: Option<&Gate>, own: &mut Own, frames: &mut [Frame]) {
        let flows = cx.connections.flows.v4();
        for ((plain, step), frame) in self.plains.iter_mut().zip(&mut self.steps).zip(frames) {
            *plain = gate.and_then(|gate| express::read(gate, cx.tables, flows, &mut own.senders, frame));
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
        walker.walk(&tables, ingress, frames, verdicts, now);
    }

    fn originate(&mut self, frame: &mut Frame, origin: Origin, now: Tick) -> Verdict {
        let tables = self.tables.pin();
        let entry = match Entry::of(&tables, origin) {
            Ok(entry) => entry,
            Err(exit) => return Verdict::from(exit),
        };
        let cx = Context {
            tables: &tables,
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
            let flow = |frame: &Frame| inner_flow(key, &tables.local, frame.bytes());
            flows.extend(frames.iter().map(flow));
        }
    }

    fn sweep(&mut self, now: Tick) -> bool {
        self.sweeper.sweep(&self.connections, now)
    }
}
