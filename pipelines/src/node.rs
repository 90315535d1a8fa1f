//! A node's pipeline: the stages of a packet's walk, in order.

use std::net::{Ipv4Addr, Ipv6Addr};

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::Candidate;
use millrace_dataplane::table::{HashKey, NodeTables, Reader, Role, Tick};
use millrace_dataplane::verdict::{DropReason, Exit, Verdict};
use millrace_dataplane::worker::{BATCH_MAX, Origin, Pipeline};

use crate::admit::admit;
use crate::classify::classify;
use crate::connections::{Connections, Context};
use crate::converse::converse;
use crate::decap::decap;
use crate::encap::{Wrapper, encap};
use crate::entry::Entry;
use crate::family::Family;
use crate::packet::{Addresses, Packet};
use crate::pieces::Pieces;
use crate::rewrite::rewrite;
use crate::scout::{Scouted, scout};
use crate::sweep::Sweeper;
use crate::translate::translate;

/// How many frames ahead of the one that walks the processor is asked to fetch.
const PREFETCH_AHEAD: usize = 4;

/// The pipeline of one worker of a node.
#[derive(Debug)]
pub struct NodePipeline {
    tables: Reader<NodeTables>,
    connections: Connections,
    worker: usize,
    own: Own,
    /// Where the packets of the batch at hand are on their walk.
    steps: [Step; BATCH_MAX],
    sweeper: Sweeper,
}

/// What one worker alone remembers from packet to packet.
#[derive(Debug)]
struct Own {
    wrapper: Wrapper,
    pieces: Pieces,
}

/// A packet between the two halves of its walk: let in and read, and where its flow is looked for; or at its end.
type Step = Result<(Packet, Scouted), Exit>;

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
            own: Own {
                wrapper: Wrapper::new(key, worker),
                pieces: Pieces::new(key),
            },
            steps: [const { Err(Exit::Drop(DropReason::NoRoute)) }; BATCH_MAX],
        }
    }
}

/// The first half of a walk: everything that needs nothing but the packet and the tables.
#[inline]
fn enter(cx: &Context<'_>, frame: &mut Frame) -> Result<Packet, Exit> {
    let mut is_tunnelled = false;
    if let Entry::Port(_, ingress) = cx.entry {
        admit(ingress, frame)?;
        if ingress.role == Role::Uplink {
            is_tunnelled = decap(cx.tables, ingress, frame)?;
        }
    }
    let mut packet = classify(cx.tables, cx.entry, is_tunnelled, frame)?;
    if let Entry::Held { .. } = cx.entry {
        packet.is_tunnelled = came_by_tunnel(cx, &packet);
    }
    Ok(packet)
}

/// Whether a packet that waited had come out of a tunnel, as its source tells: what a peer may send is let in by no
/// other way, but for the peers' own addresses, which the wire may use as well.
#[cold]
fn came_by_tunnel(cx: &Context<'_>, packet: &Packet) -> bool {
    let source = packet.addresses.source();
    cx.entry.is(Role::Uplink)
        && cx.tables.peers.by_inner_source(source).is_some()
        && !cx.tables.local.node_addresses.contains(&source)
}

/// The second half: its connection (`track`, `balance`, `police`, `route`, `limit`), then what changes in it; answers the port it
/// leaves by.
#[inline]
fn leave<A: Family>(
    cx: &Context<'_>,
    own: &mut Own,
    frame: &mut Frame,
    packet: &Packet,
    addresses: (A, A),
    candidate: Option<Candidate>,
) -> Result<PortId, Exit> {
    let course = converse(cx, &mut own.pieces, frame, packet, addresses, candidate)?;
    if let Some(change) = &course.rewrite {
        translate(frame, packet, change)?;
    }
    rewrite(frame, packet, &course.way, course.hop)?;
    encap(&mut own.wrapper, frame, packet, &course.way)?;
    Ok(course.way.port())
}

/// The second half, for either family.
#[inline]
fn finish(
    cx: &Context<'_>,
    own: &mut Own,
    frame: &mut Frame,
    (packet, scouted): &(Packet, Scouted),
) -> Result<PortId, Exit> {
    let candidate = scouted.candidate;
    match packet.addresses {
        Addresses::V4 { source, destination } => {
            leave::<Ipv4Addr>(cx, own, frame, packet, (source, destination), candidate)
        }
        Addresses::V6 { source, destination } => {
            leave::<Ipv6Addr>(cx, own, frame, packet, (source, destination), candidate)
        }
    }
}

/// A walk's end as a verdict.
#[inline]
fn verdict(end: Result<PortId, Exit>) -> Verdict {
    match end {
        Ok(port) => Verdict::Forward(port),
        Err(exit) => Verdict::from(exit),
    }
}

/// Walks a batch: while one packet's flow is fetched from memory, others are read.
fn walk(
    cx: &Context<'_>,
    own: &mut Own,
    steps: &mut [Step],
    frames: &mut [Frame],
    verdicts: &mut Vec<Verdict>,
) {
    frames.iter().take(PREFETCH_AHEAD).for_each(Frame::prefetch);
    for index in 0..frames.len() {
        if let Some(later) = frames.get(index + PREFETCH_AHEAD) {
            later.prefetch();
        }
        let (Some(frame), Some(step)) = (frames.get_mut(index), steps.get_mut(index)) else {
            break;
        };
        *step = enter(cx, frame).map(|packet| (packet, scout(cx, &packet)));
    }
    let steps = &mut steps[..frames.len().min(BATCH_MAX)];
    for (packet, scouted) in steps.iter_mut().flatten() {
        scouted.look(cx, packet);
    }
    for (step, frame) in steps.iter().zip(frames) {
        let end = match step {
            Ok(step) => finish(cx, own, frame, step),
            Err(exit) => Err(*exit),
        };
        verdicts.push(verdict(end));
    }
}

impl Pipeline for NodePipeline {
    fn process(&mut self, ingress: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>, now: Tick) {
        let tables = self.tables.pin();
        let Some(facts) = tables.ports.get(ingress) else {
            // The port has left the tables, and its last packets arrive after it.
            verdicts.extend(frames.iter().map(|_| Verdict::Drop(DropReason::PortGone)));
            return;
        };
        let cx = Context {
            tables: &tables,
            connections: &self.connections,
            entry: Entry::Port(ingress, facts),
            worker: self.worker,
            now,
        };
        for batch in frames.chunks_mut(BATCH_MAX) {
            walk(&cx, &mut self.own, &mut self.steps, batch, verdicts);
        }
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
        let end = enter(&cx, frame).and_then(|packet| {
            let mut scouted = scout(&cx, &packet);
            scouted.look(&cx, &packet);
            finish(&cx, &mut self.own, frame, &(packet, scouted))
        });
        verdict(end)
    }

    fn sweep(&mut self, now: Tick) -> bool {
        self.sweeper.sweep(&self.connections, now)
    }
}
