//! A switch's pipeline: the node's own, which routes, and the bridge's, side by side.
//!
//! A port belongs to one of them, by its role, and one of the node's is in one of the networks that it routes in. The wire belongs
//! to all: where there are other networks with tunnels than the cluster's own, their packets are told by UDP port and VNI, and
//! each run of equals goes to its pipeline, or walks in its tables, in order. Where there are none, all that is done here is to
//! look whether there are.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{HashKey, Listeners, NetworkId, NodeTables, Reader, Role, Tick};
use millrace_dataplane::verdict::{Cast, DropReason, Verdict};
use millrace_dataplane::worker::{Lesson, Origin, Pipeline};

use crate::bridge::{Bridge, Entrance, destination, network_of};
use crate::bridging::Bridging;
use crate::connections::Connections;
use crate::node::NodePipeline;

/// The pipeline of one worker of a node with bridged networks, or without.
#[derive(Debug)]
pub struct SwitchPipeline {
    tables: Reader<NodeTables>,
    node: NodePipeline,
    bridge: Bridge,
    listeners: Reader<Listeners>,
}

impl SwitchPipeline {
    /// A pipeline over the newest `tables`; see [`NodePipeline::new`]. All workers share `bridging`, too.
    #[must_use]
    pub fn new(
        tables: Reader<NodeTables>,
        connections: Connections,
        bridging: Bridging,
        key: HashKey,
        worker: usize,
    ) -> Self {
        Self {
            node: NodePipeline::new(tables.clone(), connections, key, worker),
            listeners: bridging.listeners.clone(),
            bridge: Bridge::new(bridging, key, worker),
            tables,
        }
    }

    /// Takes no packet onto an express lane from now on, routed or bridged, so that a test can compare it with the stages.
    pub fn walk_every_stage(&mut self) {
        self.node.walk_every_stage();
        self.bridge.walk_every_stage();
    }
}

/// Whose packet from the wire it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The node's, in the cluster's own network.
    Cluster,
    /// The bridge's.
    Bridge,
    /// The node's, in this other network.
    Network(NetworkId),
}

impl Whose {
    #[inline]
    fn of(tables: &NodeTables, frame: &Frame) -> Self {
        match network_of(tables, frame) {
            None => Self::Cluster,
            Some(network) if tables.networks.segment(network).is_some() => Self::Bridge,
            Some(network) if tables.routed.get(network).is_some() => Self::Network(network),
            // Of a network without tables, as any other stranger.
            Some(_) => Self::Cluster,
        }
    }
}

/// Gives each run of a batch from the wire to its pipeline.
#[inline(never)]
fn process_wire(
    (node, bridge): (&mut NodePipeline, &mut Bridge),
    tables: &NodeTables,
    ingress: PortId,
    mut frames: &mut [Frame],
    verdicts: &mut Vec<Verdict>,
    now: Tick,
) {
    let mut next = frames.first().map(|frame| Whose::of(tables, frame));
    while let Some(whose) = next.take() {
        let mut count = 1;
        for frame in frames.iter().skip(1) {
            let other = Whose::of(tables, frame);
            if other != whose {
                next = Some(other);
                break;
            }
            count += 1;
        }
        // INVARIANT: as many have been counted.
        let (run, others) = frames.split_at_mut(count);
        match whose {
            Whose::Cluster => node.process_in::<false>((tables, tables), ingress, run, verdicts, now),
            Whose::Bridge => bridge.process(tables, Entrance::Wire, run, verdicts, now),
            Whose::Network(network) => process_second(node, (tables, network), ingress, run, verdicts, now),
        }
        frames = others;
    }
}

/// Gives a batch from a pod's port to the node's pipeline, in the network that the port is in.
#[inline(never)]
fn process_pod(
    node: &mut NodePipeline,
    tables: &NodeTables,
    ingress: PortId,
    frames: &mut [Frame],
    verdicts: &mut Vec<Verdict>,
    now: Tick,
) {
    match tables.routed.of_port(ingress) {
        Some(network) => process_second(node, (tables, network), ingress, frames, verdicts, now),
        None => node.process_in::<false>((tables, tables), ingress, frames, verdicts, now),
    }
}

/// Walks a batch that is in another network than the cluster's own.
fn process_second(
    node: &mut NodePipeline,
    (top, network): (&NodeTables, NetworkId),
    ingress: PortId,
    frames: &mut [Frame],
    verdicts: &mut Vec<Verdict>,
    now: Tick,
) {
    let Some(tables) = top.routed.get(network) else {
        // It has left the tables, or is not in them yet.
        verdicts.extend(frames.iter().map(|_| Verdict::Drop(DropReason::PortGone)));
        return;
    };
    for frame in &mut *frames {
        frame.set_network(network);
    }
    node.process_in::<true>((top, tables), ingress, frames, verdicts, now);
}

impl Pipeline for SwitchPipeline {
    fn process(&mut self, ingress: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>, now: Tick) {
        let tables = self.tables.pin();
        match tables.ports.get(ingress) {
            Some(facts) if facts.role == Role::Segment => match tables.networks.member(ingress) {
                Some(member) => {
                    let entrance = Entrance::Member(ingress, facts, member);
                    self.bridge.process(&tables, entrance, frames, verdicts, now);
                }
                // It is in no network any more, or in none yet.
                None => verdicts.extend(frames.iter().map(|_| Verdict::Drop(DropReason::PortGone))),
            },
            Some(facts) if facts.role == Role::Uplink && tables.networks.has_tunnels() => {
                let both = (&mut self.node, &mut self.bridge);
                process_wire(both, &tables, ingress, frames, verdicts, now);
            }
            Some(facts) if facts.role == Role::Pod && !tables.routed.is_empty() => {
                process_pod(&mut self.node, &tables, ingress, frames, verdicts, now);
            }
            Some(_) | None => {
                let both = (&*tables, &*tables);
                self.node
                    .process_in::<false>(both, ingress, frames, verdicts, now);
            }
        }
    }

    fn originate(&mut self, frame: &mut Frame, origin: Origin, now: Tick) -> Verdict {
        match origin {
            Origin::Switch(_) | Origin::Held { .. } | Origin::Steered { .. } => {
                self.node.originate(frame, origin, now)
            }
            Origin::Bridged { network, from } => {
                let tables = self.tables.pin();
                let sent = self.bridge.originate(&tables, (network, from), frame);
                sent.unwrap_or_else(Verdict::from)
            }
        }
    }

    fn flows(&self, ingress: PortId, frames: &[Frame], flows: &mut Vec<Option<u32>>) {
        self.node.flows(ingress, frames, flows);
    }

    fn destination(&mut self, cast: Cast, from: usize) -> Option<usize> {
        destination(&self.tables.pin(), &self.listeners.pin(), cast, from)
    }

    fn finish_copy(&mut self, frame: &mut Frame, cast: Cast, place: usize) -> Verdict {
        let tables = self.tables.pin();
        let left = self.bridge.finish_copy(&tables, frame, cast, place);
        left.map_or_else(Verdict::from, Verdict::Forward)
    }

    #[inline]
    fn lesson(&mut self) -> Option<Lesson> {
        self.bridge.lesson()
    }

    fn sweep(&mut self, now: Tick) -> bool {
        self.node.sweep(now)
    }
}
