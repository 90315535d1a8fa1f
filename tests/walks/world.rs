//! A small cluster: what each node's tables say, and one node's switch run on single packets.
//!
//! Node n has the underlay address 192.0.2.n, pods 10.244.n.0/24 and fd00:n::/64 (pod p: .p and ::p), and gateways
//! .1 and ::1. Nodes 1 and 2 (and 4, whose underlay address is unresolved, and 5, on the Windows port) are joined by
//! VXLAN, 1 and 3 by IP-in-IP, and node 6 with all others by VXLAN over IPv6, where node n is 2001:db8::n. Node 7 is on the
//! same subnet and wraps nothing that goes there; it has borrowed pod 66 of node 1, and node 1 its pod 61.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use millrace_dataplane::frame::{Census, Frame, Pool};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::SubjectId;
use millrace_dataplane::table::flow::{Address, FlowOptions, FlowShard, Timeouts};
use millrace_dataplane::table::service::BackendId;
use millrace_dataplane::table::{
    AffinityTable, Endpoint, EndpointKind, Fdb, FlowTable, HashKey, Listeners, Local, NeighbourId,
    NeighbourTable, NetworkId, NodeTables, OuterLink, Peer, PeerId, PeerTable, PortFacts, PortTable, Prefix,
    Publisher, Role, RouteTable, Target, Tick, Tunnel, TunnelEnds, Underlay,
};
use millrace_dataplane::verdict::Verdict;
use millrace_dataplane::wire::{MacAddr, Vni};
use millrace_dataplane::worker::{Origin, Pipeline};
use millrace_pipelines::{Bridging, Connections, SwitchPipeline};

use crate::packets::{Family, Outer};

pub const VNI: u32 = 1;
pub const VXLAN_PORT: u16 = 8472;
pub const WINDOWS_VNI: u32 = 4096;
pub const WINDOWS_PORT: u16 = 4789;
pub const LINK_MTU: u16 = 1500;
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub const ROUTER_V6: &str = "fe80::254";

pub fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

pub fn uplink() -> PortId {
    port(0)
}

pub fn host() -> PortId {
    port(1)
}

/// The port of pod 2 or 3.
pub fn pod_port(pod: u8) -> PortId {
    port(u16::from(pod))
}

/// A port with a small MTU, to 10.244.n.9 and fd00:n::9.
pub fn narrow() -> PortId {
    port(9)
}

/// A port that the routes still name and that has left.
pub fn gone() -> PortId {
    port(77)
}

pub const NARROW_MTU: u16 = 1280;

fn mac(kind: u8, node: u8, number: u8) -> MacAddr {
    MacAddr([0x02, kind, 0, 0, node, number])
}

/// The switch's address on a port of node `n`; that of the uplink is also the kernel's.
pub fn switch_mac(node: u8, port: PortId) -> MacAddr {
    mac(0xaa, node, u8::try_from(port.index()).unwrap())
}

/// The station behind a port of node `n`.
pub fn station_mac(node: u8, port: PortId) -> MacAddr {
    mac(0xbb, node, u8::try_from(port.index()).unwrap())
}

pub fn vtep_mac(node: u8) -> MacAddr {
    mac(0xcc, node, 0)
}

pub fn router_mac() -> MacAddr {
    mac(0xdd, 0, 254)
}

pub fn node_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// A node's address in the underlay.
pub fn node_address(family: Family, node: u8) -> IpAddr {
    family.pick(&format!("192.0.2.{node}"), &format!("2001:db8::{node}"))
}

/// A pod's address; pod 1 is the gateway, pod 0 the node's own address in the overlay.
pub fn pod(family: Family, node: u8, pod: u8) -> IpAddr {
    family.pick(&format!("10.244.{node}.{pod}"), &format!("fd00:{node}::{pod}"))
}

/// A gateway that every pod of every node has, outside of all pod prefixes.
pub fn link_gateway(family: Family) -> IpAddr {
    family.pick("169.254.1.1", "fd00:ffff::1")
}

/// Somewhere in the world.
pub fn world(family: Family) -> IpAddr {
    family.pick("203.0.113.7", "2001:db8:f::7")
}

/// Every node.
pub const NODES: RangeInclusive<u8> = 1..=6;

/// Pods of each family behind VXLAN over each family, by node.
pub const VXLAN_PEERS: [(Family, u8); 4] =
    [(Family::V4, 2), (Family::V6, 2), (Family::V4, 6), (Family::V6, 6)];

/// The family of the underlay between two nodes.
pub fn underlay(one: u8, other: u8) -> Family {
    if one == 6 || other == 6 {
        Family::V6
    } else {
        Family::V4
    }
}

/// The largest packet in a VXLAN tunnel between two nodes.
pub fn vxlan_mtu(one: u8, other: u8) -> u16 {
    match underlay(one, other) {
        Family::V4 => LINK_MTU - 50,
        Family::V6 => LINK_MTU - 70,
    }
}

/// The outer header of a tunnel packet from node to node, as it is on the link when both are on one.
pub fn outer(from: u8, to: u8) -> Outer {
    Outer {
        destination_mac: switch_mac(to, uplink()),
        source_mac: switch_mac(from, uplink()),
        source: node_address(underlay(from, to), from),
        destination: node_address(underlay(from, to), to),
        id: 0x4242,
        ecn: 0,
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

/// The tunnel between two nodes.
fn tunnel(local: u8, remote: u8) -> Tunnel {
    let (local_mac, remote_mac) = (vtep_mac(local), vtep_mac(remote));
    if (local == 3 || remote == 3) && underlay(local, remote) == Family::V4 {
        Tunnel::Ipip
    } else if (local == 5 || remote == 5) && underlay(local, remote) == Family::V4 {
        Tunnel::Vxlan {
            vni: vni(WINDOWS_VNI),
            port: WINDOWS_PORT,
            local_mac,
            remote_mac,
        }
    } else {
        Tunnel::Vxlan {
            vni: vni(VNI),
            port: VXLAN_PORT,
            local_mac,
            remote_mac,
        }
    }
}

fn peers(node: u8, link_mtu: u16) -> PeerTable {
    let others: Vec<u8> = NODES.filter(|other| *other != node).collect();
    let peer = |remote: u8| {
        let link = OuterLink {
            source: switch_mac(node, uplink()),
            destination: switch_mac(remote, uplink()),
        };
        let kind = tunnel(node, remote);
        let mtu = if kind == Tunnel::Ipip {
            link_mtu - 20
        } else {
            vxlan_mtu(node, remote) + link_mtu - LINK_MTU
        };
        let family = underlay(node, remote);
        let underlay = Underlay {
            port: uplink(),
            next_hop: node_address(family, remote),
        };
        let ends = match (node_address(family, node), node_address(family, remote)) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => TunnelEnds::from((local, remote)),
            (IpAddr::V6(local), IpAddr::V6(remote)) => TunnelEnds::from((local, remote)),
            _ => panic!("ends of two families"),
        };
        Peer::new(ends, kind, underlay, mtu, (remote != 4).then_some(link))
    };
    let id = |remote: u8| PeerId::new(u16::from(remote));
    let inner = others.iter().flat_map(|n| {
        let blocks = [format!("10.244.{n}.0/24"), format!("fd00:{n}::/64")];
        let node = Prefix::host(node_address(underlay(node, *n), *n));
        let blocks = blocks.map(|block| prefix(&block));
        blocks.into_iter().chain([node]).map(|block| (block, id(*n)))
    });
    let table = PeerTable::build(others.iter().map(|n| (id(*n), peer(*n))), inner);
    if node != 1 {
        return table;
    }
    let plain = Family::BOTH.into_iter().flat_map(|family| {
        [
            (block_of(family, ROUTED), true),
            (Prefix::host(pod(family, node, LENT)), true),
            (Prefix::host(pod(family, ROUTED, BORROWED)), false),
        ]
    });
    table.with_plain_sources(plain)
}

/// The node whose packets come in no tunnel.
pub const ROUTED: u8 = 7;
/// The pod of node 1 with which [`ROUTED`] has one of its own.
pub const LENT: u8 = 66;
/// The pod of [`ROUTED`] which node 1 has.
pub const BORROWED: u8 = 61;

/// A node's pods.
fn block_of(family: Family, node: u8) -> Prefix {
    let bits = if family == Family::V4 { 24 } else { 64 };
    Prefix::containing(pod(family, node, 0), bits).unwrap()
}

fn ports(node: u8, link_mtu: u16) -> PortTable {
    let facts = |port: PortId, role, pods: &[u8]| PortFacts {
        role,
        mac: switch_mac(node, port),
        peer_mac: station_mac(node, port),
        sources: pods
            .iter()
            .flat_map(|p| Family::BOTH.map(|family| pod(family, node, *p)))
            .collect(),
        mtu: if port == narrow() { NARROW_MTU } else { link_mtu },
        finish_checksums: port != pod_port(3),
    };
    PortTable::build([
        (uplink(), facts(uplink(), Role::Uplink, &[])),
        (host(), facts(host(), Role::Host, &[])),
        (pod_port(2), facts(pod_port(2), Role::Pod, &[2])),
        (pod_port(3), facts(pod_port(3), Role::Pod, &[3])),
        (narrow(), facts(narrow(), Role::Pod, &[9])),
    ])
}

fn routes(node: u8) -> RouteTable {
    let mut routes = Vec::new();
    for family in Family::BOTH {
        let everything = [Prefix::ALL_V4, Prefix::ALL_V6][usize::from(family == Family::V6)];
        let underlay = family.pick("192.0.2.0", "2001:db8::");
        let router = family.pick("192.0.2.254", ROUTER_V6);
        let bits = if family == Family::V4 { 24 } else { 64 };
        let to = |address| Prefix::host(address);
        routes.extend([
            (
                everything,
                Target::Via {
                    port: uplink(),
                    next_hop: router,
                },
            ),
            (
                Prefix::new(underlay, bits).unwrap(),
                Target::OnLink { port: uplink() },
            ),
            (to(node_address(family, node)), Target::Port(host())),
            (to(pod(family, node, 0)), Target::Port(host())),
            (to(pod(family, node, 1)), Target::Switch),
            (to(link_gateway(family)), Target::Switch),
            (to(pod(family, node, 2)), Target::Port(pod_port(2))),
            (to(pod(family, node, 3)), Target::Port(pod_port(3))),
            (to(pod(family, node, 9)), Target::Port(narrow())),
            (to(pod(family, node, 77)), Target::Port(gone())),
            (to(pod(family, node, 78)), Target::OnLink { port: gone() }),
            (
                Prefix::containing(pod(family, node, 0), bits).unwrap(),
                Target::Unreachable,
            ),
            (
                to(family.pick("198.51.100.1", "2001:db8:a::1")),
                Target::Blackhole,
            ),
            (
                to(family.pick("198.51.100.2", "2001:db8:a::2")),
                Target::Tunnel(PeerId::new(999)),
            ),
            (
                to(family.pick("198.51.100.3", "2001:db8:a::3")),
                Target::Port(uplink()),
            ),
        ]);
        if node == 1 {
            let direct = Target::Via {
                port: uplink(),
                next_hop: node_address(family, ROUTED),
            };
            routes.extend([
                (block_of(family, ROUTED), direct),
                (to(pod(family, node, LENT)), direct),
                (to(pod(family, ROUTED, BORROWED)), Target::Port(pod_port(3))),
            ]);
        }
        for other in NODES.filter(|other| *other != node) {
            let block = Prefix::containing(pod(family, other, 0), bits).unwrap();
            routes.push((block, Target::Tunnel(PeerId::new(u16::from(other)))));
        }
    }
    RouteTable::build(routes)
}

/// A node's pods, those of node 1 with what it has borrowed.
fn pod_prefixes(node: u8) -> Vec<Prefix> {
    let borrowed = |family| Prefix::host(pod(family, ROUTED, BORROWED));
    let own = Family::BOTH.map(|family| block_of(family, node));
    let borrowed = Family::BOTH.map(borrowed).into_iter().filter(|_| node == 1);
    own.into_iter().chain(borrowed).collect()
}

/// The tables of node `n`.
pub fn tables(node: u8) -> NodeTables {
    tables_of_mtu(node, LINK_MTU)
}

/// The same where all links have this MTU, but for the narrow one.
pub fn tables_of_mtu(node: u8, link_mtu: u16) -> NodeTables {
    let end_at = |family, kind| Endpoint {
        local: node_address(family, node),
        kind,
    };
    let mac = vtep_mac(node);
    let vxlan = |number, port| EndpointKind::Vxlan {
        vni: vni(number),
        port,
        mac,
    };
    let both = |address: fn(Family, u8) -> IpAddr, node| Family::BOTH.map(|family| address(family, node));
    let local = Local {
        addresses: both(node_address, node).to_vec(),
        node_addresses: NODES.flat_map(|n| both(node_address, n)).collect(),
        endpoints: vec![
            end_at(Family::V4, vxlan(VNI, VXLAN_PORT)),
            end_at(Family::V4, vxlan(WINDOWS_VNI, WINDOWS_PORT)),
            end_at(Family::V4, EndpointKind::Ipip),
            end_at(Family::V6, vxlan(VNI, VXLAN_PORT)),
        ],
        gateways: Family::BOTH
            .iter()
            .flat_map(|f| [pod(*f, node, 1), link_gateway(*f)])
            .collect(),
        pod_prefixes: pod_prefixes(node),
        uplink: Some(uplink()),
        host: Some(host()),
        ..Local::default()
    };
    let known = |family, n| (uplink(), node_address(family, n), switch_mac(n, uplink()));
    let neighbours = [
        (uplink(), IpAddr::V4(ROUTER), router_mac()),
        (uplink(), ROUTER_V6.parse().unwrap(), router_mac()),
        known(Family::V4, 2),
        known(Family::V6, 2),
        known(Family::V4, ROUTED),
        known(Family::V6, ROUTED),
    ];
    let neighbours = (0..).map(NeighbourId::new).zip(neighbours);
    let neighbours = neighbours.map(|(id, (port, address, mac))| (id, port, address, mac));
    NodeTables {
        ports: Arc::new(ports(node, link_mtu)),
        routes: Arc::new(routes(node)),
        neighbours: Arc::new(NeighbourTable::build(HashKey::random(), neighbours)),
        peers: Arc::new(peers(node, link_mtu)),
        local: Arc::new(local),
        ..NodeTables::default()
    }
}

/// What the switch itself sends.
pub const FROM_SWITCH: Origin = Origin::Switch(NetworkId::CLUSTER);

/// What came in at this port, and waited.
pub fn waited(port: PortId) -> Origin {
    let network = NetworkId::CLUSTER;
    Origin::Held { port, network }
}

/// The same, once its answers are steered.
pub fn after_steering(port: PortId) -> Origin {
    let network = NetworkId::CLUSTER;
    Origin::Steered { port, network }
}

/// Few enough connections for a test that makes a node again and again.
fn few() -> FlowOptions {
    FlowOptions {
        ipv4: 4096,
        ipv6: 4096,
        ..FlowOptions::default()
    }
}

/// Connections of one worker.
pub fn connections() -> Connections {
    connections_in(FlowTable::in_memory(&few()).unwrap(), 256)
}

fn connections_in(flows: FlowTable, affinity: usize) -> Connections {
    Connections {
        flows: Arc::new(flows),
        affinity: Arc::new(AffinityTable::new(affinity)),
        timeouts: Timeouts::default(),
        workers: 1,
    }
}

/// What bridged networks take, of which there are none.
fn bridging() -> Bridging {
    Bridging {
        fdb: Arc::new(Fdb::new(1, HashKey::random())),
        storms: Arc::default(),
        listeners: Publisher::new(Listeners::default()).reader(),
    }
}

/// What became of a packet.
#[derive(Debug, PartialEq)]
pub struct End {
    pub verdict: Verdict,
    /// What lies in its frame afterwards.
    pub left: Vec<u8>,
    pub lane: u16,
    /// Whose packet it is, if it is punted.
    pub network: NetworkId,
}

/// One node's switch, and the frames to run it on.
///
/// Behind it stands a second one that walks every packet through every stage, and must not differ: what the express lane
/// knows is what the stages do.
pub struct Node {
    publisher: Publisher<NodeTables>,
    /// On the heap, as a worker's is: a test thread's stack is small.
    pipeline: Box<SwitchPipeline>,
    pub connections: Connections,
    stages: Option<Box<SwitchPipeline>>,
    /// The second one's.
    connections_by_stages: Option<Connections>,
    pool: Pool,
    now: Tick,
}

impl Node {
    pub fn new(node: u8) -> Self {
        Self::with(tables(node))
    }

    pub fn with(tables: NodeTables) -> Self {
        Self::with_flows(tables, &few())
    }

    /// A node with a flow table of another size.
    pub fn with_flows(tables: NodeTables, options: &FlowOptions) -> Self {
        Self::of_size(tables, options, 256)
    }

    /// The same, and with an affinity table of another size.
    pub fn of_size(tables: NodeTables, options: &FlowOptions, affinity: usize) -> Self {
        // Both choose the same ports by it.
        let key = HashKey::random();
        let table = || connections_in(FlowTable::in_memory_with(options, key).unwrap(), affinity);
        let mut node = Self::keyed(tables, table(), key);
        let connections = table();
        let reader = node.publisher.reader();
        let mut stages = Box::new(SwitchPipeline::new(
            reader,
            connections.clone(),
            bridging(),
            key,
            0,
        ));
        stages.walk_every_stage();
        node.stages = Some(stages);
        node.connections_by_stages = Some(connections);
        node
    }

    /// A node with these connections, without a second one behind it.
    pub fn sharing(tables: NodeTables, connections: Connections) -> Self {
        Self::keyed(tables, connections, HashKey::random())
    }

    /// The same node without the second one behind it, which counts in the same tables.
    #[allow(dead_code, reason = "the fuzzer has no use for it")]
    pub fn alone(mut self) -> Self {
        self.stages = None;
        self.connections_by_stages = None;
        self
    }

    fn keyed(tables: NodeTables, connections: Connections, key: HashKey) -> Self {
        let publisher = Publisher::new(tables);
        let reader = publisher.reader();
        let pipeline = Box::new(SwitchPipeline::new(
            reader,
            connections.clone(),
            bridging(),
            key,
            0,
        ));
        Self {
            publisher,
            pipeline,
            connections,
            stages: None,
            connections_by_stages: None,
            pool: packet_memory(),
            now: Tick::from_seconds(1_000_000),
        }
    }

    /// Lets time pass, and the pipeline clear up after it.
    pub fn wait(&mut self, seconds: u32) {
        self.assert_alike();
        let now = Tick::from_seconds(self.now.seconds() + seconds);
        self.now = now;
        for pipeline in self.pipelines() {
            while pipeline.sweep(now) {}
        }
    }

    pub fn publish(&mut self, tables: NodeTables) {
        self.publisher.publish(tables);
    }

    /// The newest tables.
    pub fn tables(&self) -> NodeTables {
        NodeTables::clone(&self.publisher.reader().pin())
    }

    /// Publishes tables in which only these backends changed, and what the routes tell.
    pub fn publish_next(&mut self, tables: NodeTables, backends: &[BackendId]) {
        let changed = backends.iter().map(|backend| backend.subject()).collect();
        self.publish_changed(tables, &changed);
    }

    /// Publishes tables in which these subjects changed.
    pub fn publish_changed(&mut self, tables: NodeTables, changed: &HashSet<SubjectId>) {
        let old = self.tables();
        let epoch = old.epoch.next();
        self.publisher.publish(NodeTables {
            subjects: old.subjects.with_changes(changed, epoch),
            epoch,
            ..tables
        });
    }

    /// The switch, and the one behind it.
    fn pipelines(&mut self) -> impl Iterator<Item = &mut Box<SwitchPipeline>> {
        [&mut self.pipeline].into_iter().chain(&mut self.stages)
    }

    /// Has both switches take packets; answers what became of each, as the first one has it.
    fn take(
        &mut self,
        packets: &[Vec<u8>],
        mut walk: impl FnMut(&mut SwitchPipeline, &mut [Frame], &mut Vec<Verdict>, Tick),
    ) -> Vec<End> {
        let Self {
            pipeline,
            stages,
            pool,
            now,
            ..
        } = self;
        let mut run = |pipeline: &mut Box<SwitchPipeline>| {
            let taken = packets.iter().map(|bytes| pool.take_with(bytes).unwrap());
            let (mut frames, mut verdicts): (Vec<_>, _) = (taken.collect(), Vec::new());
            walk(pipeline, &mut frames, &mut verdicts, *now);
            assert_eq!(verdicts.len(), packets.len(), "one verdict for each packet");
            let ends = verdicts.iter().zip(frames).map(|(verdict, frame)| {
                let end = End {
                    verdict: *verdict,
                    left: frame.bytes().to_vec(),
                    lane: frame.lane(),
                    network: frame.network(),
                };
                pool.give(frame);
                end
            });
            ends.collect::<Vec<_>>()
        };
        let ends = run(pipeline);
        for (end, other) in ends.iter().zip(stages.as_mut().map_or(Vec::new(), run)) {
            // What lies in the frame of a packet that is dropped, nobody looks at.
            let is_same = match end.verdict {
                Verdict::Drop(_) => end.verdict == other.verdict,
                Verdict::Forward(_) | Verdict::Punt(..) | Verdict::Replicate(_) => *end == other,
            };
            assert!(is_same, "by the express lane {end:?}, by every stage {other:?}");
        }
        self.assert_whole();
        ends
    }

    /// Walks a batch; answers what became of each packet.
    pub fn ends_of(&mut self, ingress: PortId, packets: &[Vec<u8>]) -> Vec<End> {
        self.take(packets, |pipeline, frames, verdicts, now| {
            pipeline.process(ingress, frames, verdicts, now);
        })
    }

    /// The same of one.
    #[allow(dead_code, reason = "the fuzzer has no use for it")]
    pub fn end_of(&mut self, ingress: PortId, packet: &[u8]) -> End {
        self.ends_of(ingress, &[packet.to_vec()]).remove(0)
    }

    /// Walks a batch; answers each packet's verdict, and what lies in its frame afterwards.
    pub fn receive_all(&mut self, ingress: PortId, packets: &[Vec<u8>]) -> Vec<(Verdict, Vec<u8>)> {
        let ends = self.ends_of(ingress, packets).into_iter();
        ends.map(|end| (end.verdict, end.left)).collect()
    }

    pub fn receive(&mut self, ingress: PortId, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.receive_all(ingress, &[packet.to_vec()]).remove(0)
    }

    pub fn originate(&mut self, origin: Origin, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut ends = self.take(&[packet.to_vec()], |pipeline, frames, verdicts, now| {
            verdicts.push(pipeline.originate(&mut frames[0], origin, now));
        });
        let end = ends.remove(0);
        (end.verdict, end.left)
    }

    /// Both switches remember the same of every connection.
    fn assert_alike(&self) {
        if let Some(other) = &self.connections_by_stages {
            let (flows, others) = (&self.connections.flows, &other.flows);
            assert_eq!(remembered(flows.v4()), remembered(others.v4()));
            assert_eq!(remembered(flows.v6()), remembered(others.v6()));
        }
    }

    fn assert_whole(&self) {
        let free = self.pool.frames();
        assert_eq!(
            self.pool.census(),
            Census {
                free,
                in_tokens: 0,
                in_ports: 0
            }
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_alike();
        }
    }
}

/// Room for more than a batch, and for a few long packets.
fn packet_memory() -> Pool {
    let mut pool = Pool::on_heap(168);
    pool.keep_runs(8);
    pool
}

/// All that a table tells of its connections, but for the places they have in it.
fn remembered<A: Address>(flows: &FlowShard<A>) -> Vec<String> {
    let mut all: Vec<_> = flows
        .connections()
        .map(|connection| {
            let text = format!("{connection:?}");
            let (_, all_but_id) = text.split_once("original:").unwrap();
            all_but_id.to_owned()
        })
        .collect();
    all.sort_unstable();
    all
}
