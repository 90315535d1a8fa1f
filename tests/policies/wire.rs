//! The truth table's cluster with packets in it: each node's whole pipeline, between ports in memory. What one node sends
//! into the tunnel, the next receives.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::FlowOptions;
use millrace_dataplane::table::{NodeTables, PortFacts, PortTable, Prefix, Role, RouteTable, Target};
use millrace_dataplane::verdict::{DropReason, PuntReason, Verdict};
use serde_json::Value;

use super::oracle::{End, Sent};
use super::packets::{Body, Ip, Segment};
use super::rack::{LINK_MTU, Node, host, port, router_mac, station_mac, switch_mac, tables, uplink};
use super::switch::Switches;
use super::world::{NODES, NUMBERS};

/// Connections of one family that a node has room for: those of a whole matrix.
const CONNECTIONS: u32 = 1 << 13;
/// Packets of one batch.
const BATCH: usize = 64;
/// From where everything is sent: a port that nothing is sent to.
const SOURCE_PORT: u16 = 40_000;

/// A packet to be sent.
pub(crate) struct Sending<'o> {
    pub(crate) from: End<'o>,
    pub(crate) to: End<'o>,
    pub(crate) sent: Sent<'o>,
}

/// What became of a packet: the node and port at which it came, the number of what is sent, the verdict, and the frame.
type Received = ((usize, PortId), usize, Verdict, Vec<u8>);
/// A frame that waits for its batch, with the number of what is sent.
type Waiting = BTreeMap<(usize, PortId), Vec<(usize, Vec<u8>)>>;

impl Sending<'_> {
    /// Whether it comes by a switch at all: what a pod sends to itself does not, nor what is no pod's.
    pub(crate) fn is_for_a_switch(&self) -> bool {
        self.from.address != self.to.address && (self.from.pod.is_some() || self.to.pod.is_some())
    }

    /// The packet. `number` tells echoes from others'.
    fn ip(&self, number: usize) -> Ip {
        let to = self.sent.port;
        let data = b"what a packet carries".to_vec();
        Ip::udp(self.from.address, self.to.address).body(match self.sent.protocol {
            "TCP" => Body::Segment(Segment {
                ports: (SOURCE_PORT, to),
                sequence: 1,
                window: 1000,
                syn: true,
                ..Segment::default()
            }),
            "UDP" => Body::Udp(SOURCE_PORT, to, data),
            "SCTP" => Body::Sctp(SOURCE_PORT, to, data),
            _ => Body::Echo(u16::try_from(number).unwrap(), data),
        })
    }

    /// Where it comes to a switch first, and the frame in which it does.
    fn first(&self, number: usize) -> ((usize, PortId), Vec<u8>) {
        let ip = self.ip(number);
        if let Some(pod) = self.from.pod {
            let (place, id) = (place(self.from.node), pod_port(pod));
            let node = NUMBERS[place];
            return ((place, id), ip.frame(switch_mac(node, id), station_mac(node, id)));
        }
        let place = place(self.to.node);
        let node = NUMBERS[place];
        if self.from.node == self.to.node {
            let frame = ip.frame(switch_mac(node, host()), station_mac(node, host()));
            ((place, host()), frame)
        } else {
            let frame = ip.frame(switch_mac(node, uplink()), router_mac());
            ((place, uplink()), frame)
        }
    }
}

/// The nodes.
pub(crate) struct Wire {
    nodes: Vec<Node>,
    /// What stays the same of their tables.
    tables: Vec<NodeTables>,
}

impl Wire {
    /// Nodes with these pods and without policies.
    pub(crate) fn new(objects: &[Value]) -> Self {
        let tables: Vec<NodeTables> = (0..NODES.len()).map(|place| with_pods(place, objects)).collect();
        let options = FlowOptions {
            ipv4: CONNECTIONS,
            ipv6: CONNECTIONS,
            ..FlowOptions::default()
        };
        let nodes = tables
            .iter()
            .map(|tables| Node::with_flows(tables.clone(), &options))
            .collect();
        Self { nodes, tables }
    }

    /// Puts the switches' policies in force, and what has changed up for another judgement: nothing else.
    pub(crate) fn update(&mut self, switches: &mut Switches) {
        let nodes = self.nodes.iter_mut().zip(&self.tables);
        for ((node, tables), (policies, changed)) in nodes.zip(switches.take()) {
            let tables = NodeTables {
                policies,
                ..tables.clone()
            };
            node.publish_changed(tables, &changed);
        }
    }

    /// Sends everything, each packet as far as it comes; answers what arrived.
    pub(crate) fn send(&mut self, case: &str, sendings: &[(String, Sending<'_>)]) -> Vec<bool> {
        let mut passed = vec![false; sendings.len()];
        let mut waiting = Waiting::new();
        for (number, (_, sending)) in sendings.iter().enumerate() {
            let (way, frame) = sending.first(number);
            waiting.entry(way).or_default().push((number, frame));
        }
        let mut tunnelled = Waiting::new();
        for ((at, ingress), number, verdict, left) in self.receive(waiting) {
            let (name, sending) = &sendings[number];
            let is_tunnelled = ingress != uplink() && sending.to.pod.is_some();
            if is_tunnelled && verdict == Verdict::Forward(uplink()) {
                let way = (place(sending.to.node), uplink());
                assert_ne!(way.0, at, "{case}: {name} went into the tunnel");
                tunnelled.entry(way).or_default().push((number, left));
            } else {
                passed[number] = has_passed(case, name, sending, verdict);
            }
        }
        for (_, number, verdict, _) in self.receive(tunnelled) {
            let (name, sending) = &sendings[number];
            passed[number] = has_passed(case, name, sending, verdict);
        }
        passed
    }

    fn receive(&mut self, waiting: Waiting) -> Vec<Received> {
        let mut received = Vec::new();
        for (way, frames) in waiting {
            for batch in frames.chunks(BATCH) {
                let packets: Vec<Vec<u8>> = batch.iter().map(|(_, frame)| frame.clone()).collect();
                let verdicts = self.nodes[way.0].receive_all(way.1, &packets);
                let numbers = batch.iter().map(|(number, _)| *number);
                received.extend(
                    numbers
                        .zip(verdicts)
                        .map(|(number, (verdict, left))| (way, number, verdict, left)),
                );
            }
        }
        received
    }
}

/// Whether a packet is where it was to go, or was denied; nothing else may become of it.
fn has_passed(case: &str, name: &str, sending: &Sending<'_>, verdict: Verdict) -> bool {
    let expected = match sending.to.pod {
        Some(pod) => pod_port(pod),
        None if sending.to.node == sending.from.node => host(),
        None => uplink(),
    };
    match verdict {
        Verdict::Drop(DropReason::PolicyEgress | DropReason::PolicyIngress) => false,
        Verdict::Forward(to) if to == expected => true,
        // Nobody has told this node of the other's link address.
        Verdict::Punt(PuntReason::NeighbourUnresolved, _) if expected == uplink() => true,
        Verdict::Drop(_) | Verdict::Forward(_) | Verdict::Punt(..) | Verdict::Replicate(_) => {
            panic!("{case}: {name}, on the wire: {verdict:?}")
        }
    }
}

fn place(node: &str) -> usize {
    NODES.iter().position(|name| *name == node).unwrap()
}

/// A pod's port has the number with which its addresses end.
fn pod_port(pod: &Value) -> PortId {
    let address = pod["status"]["podIPs"][0]["ip"].as_str().unwrap();
    port(address.rsplit('.').next().unwrap().parse().unwrap())
}

/// A node of the rack, with the truth table's pods in the place of its own.
fn with_pods(place: usize, objects: &[Value]) -> NodeTables {
    let node = NUMBERS[place];
    let base = tables(node);
    let own = |object: &&Value| {
        object["kind"] == "Pod"
            && object["spec"]["nodeName"] == NODES[place]
            && object["spec"]["hostNetwork"] != true
    };
    let pods: Vec<(PortId, Vec<IpAddr>)> = objects
        .iter()
        .filter(own)
        .map(|pod| {
            let ips = pod["status"]["podIPs"].as_array().unwrap();
            let ips = ips.iter().map(|ip| ip["ip"].as_str().unwrap().parse().unwrap());
            (pod_port(pod), ips.collect())
        })
        .collect();
    let facts = |(id, sources): &(PortId, Vec<IpAddr>)| {
        let facts = PortFacts {
            role: Role::Pod,
            mac: switch_mac(node, *id),
            peer_mac: station_mac(node, *id),
            sources: sources.clone(),
            mtu: LINK_MTU,
            finish_checksums: true,
        };
        (*id, facts)
    };
    let kept = base.ports.iter().filter(|(_, facts)| facts.role != Role::Pod);
    let kept = kept.map(|(id, facts)| (id, facts.clone()));
    let own_ports: HashSet<PortId> = base.ports.iter().map(|(id, _)| id).collect();
    let is_kept = |target: &Target| match target {
        Target::Port(id) => !own_ports.contains(id) || [uplink(), host()].contains(id),
        _ => true,
    };
    let routes = base.routes.routes().iter().filter(|(_, target)| is_kept(target));
    let to_pods = pods.iter().flat_map(|(id, addresses)| {
        addresses
            .iter()
            .map(|address| (Prefix::host(*address), Target::Port(*id)))
    });
    NodeTables {
        ports: Arc::new(PortTable::build(kept.chain(pods.iter().map(facts)))),
        routes: Arc::new(RouteTable::build(routes.copied().chain(to_pods))),
        ..base.clone()
    }
}
