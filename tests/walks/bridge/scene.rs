//! A node with bridged networks, and its switch run on single frames.
//!
//! Node 1 has two networks. *Red* (VNI 100) is on ports 10 and 11, on the guarded port 14, on port 15, whose link takes little,
//! and on the trunk 13 as VLAN 10; nodes 2, 3, and 6 by IPv6, are in it too. *Blue* (VNI 200) is on port 12, on the trunk as
//! VLAN 20, and on node 2, and node 5, whose link address nobody knows. Port 16 is in none.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use millrace_dataplane::frame::{Frame, Pool};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Fdb, Guard, HashKey, Learnt, Listeners, Location, Member, NetworkId, Networks, NodeTables, OuterLink,
    PortFacts, PortTable, Publisher, RemoteExit, RemoteId, Role, Segment, SegmentTunnel, StormLimit, Tick,
    TunnelEnds,
};
use millrace_dataplane::verdict::{Audience, Cast, DropReason, PuntDetail, PuntReason, Verdict};
use millrace_dataplane::wire::vlan::VlanId;
use millrace_dataplane::wire::{MacAddr, Vni};
use millrace_dataplane::worker::{Lesson, Origin, Pipeline};
use millrace_pipelines::{Bridging, SwitchPipeline};

use crate::packets::{Family, Ip, Outer, ethernet};
use crate::world::{self, connections, node_address, port, router_mac, switch_mac, underlay, uplink};

pub const RED: NetworkId = NetworkId::new(1);
pub const BLUE: NetworkId = NetworkId::new(2);
pub const RED_VNI: u32 = 100;
pub const BLUE_VNI: u32 = 200;
/// The port of flannel's network, too.
pub const UDP_PORT: u16 = 8472;
pub const MTU: u16 = 1450;
pub const NARROW_MTU: u16 = 600;
pub const TRUNK: u16 = 13;
pub const GUARDED: u16 = 14;
pub const NARROW: u16 = 15;
pub const IN_NONE: u16 = 16;

/// The station that a test has behind a port or node.
pub fn station(number: u8) -> MacAddr {
    MacAddr([0x02, 0x5e, 0, 0, 0, number])
}

/// The address of the guarded station.
pub fn guarded(family: Family) -> IpAddr {
    family.pick("10.9.0.14", "fd09::14")
}

pub fn at(number: u16) -> Location {
    Location::Port(port(number))
}

/// The number of a node among the remotes.
pub fn remote(node: u8) -> RemoteId {
    RemoteId::new(u16::from(node) * 10).unwrap()
}

pub fn behind(node: u8) -> Location {
    Location::Remote(remote(node))
}

pub fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

pub fn member_of(network: NetworkId) -> Member {
    Member::Access {
        network,
        guard: Guard::default(),
    }
}

/// The way from one node to another.
fn way(node: u8, other: u8, vni: u32, is_resolved: bool) -> RemoteExit {
    let family = underlay(node, other);
    let ends = match (node_address(family, node), node_address(family, other)) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => TunnelEnds::V4 { local, remote },
        (IpAddr::V6(local), IpAddr::V6(remote)) => TunnelEnds::V6 { local, remote },
        _ => panic!("of one family"),
    };
    let link = OuterLink {
        source: switch_mac(node, uplink()),
        destination: router_mac(),
    };
    let tunnel = SegmentTunnel {
        vni: Vni::try_from(vni).unwrap(),
        port: UDP_PORT,
    };
    RemoteExit::new(remote(other), uplink(), ends, tunnel, is_resolved.then_some(link))
}

/// A segment of a node that learns from everywhere and does nothing else.
pub fn segment(node: u8, vni: u32, others: &[(u8, bool)]) -> Segment {
    Segment {
        tunnel: Some(SegmentTunnel {
            vni: Vni::try_from(vni).unwrap(),
            port: UDP_PORT,
        }),
        remotes: others
            .iter()
            .map(|(other, is_resolved)| way(node, *other, vni, *is_resolved))
            .collect(),
        learns_from_ports: true,
        learns_from_remotes: true,
        suppresses: false,
        snoops: false,
        storm: None,
        mtu: MTU,
    }
}

pub fn red() -> Segment {
    segment(1, RED_VNI, &[(2, true), (3, true), (6, true)])
}

pub fn blue() -> Segment {
    segment(1, BLUE_VNI, &[(2, true), (5, false)])
}

pub fn facts(node: u8, number: u16, mtu: u16) -> (PortId, PortFacts) {
    let facts = PortFacts {
        role: Role::Segment,
        mac: switch_mac(node, port(number)),
        peer_mac: MacAddr::ZERO,
        sources: Vec::new(),
        mtu,
        finish_checksums: true,
    };
    (port(number), facts)
}

/// Node 1, with these segments.
pub fn tables(segments: [(NetworkId, Segment); 2]) -> NodeTables {
    let base = world::tables(1);
    let guard = Guard {
        mac: Some(station(14)),
        sources: Family::BOTH.map(guarded).to_vec(),
    };
    let members = [
        (10, member_of(RED)),
        (11, member_of(RED)),
        (12, member_of(BLUE)),
        (TRUNK, Member::trunk([(vlan(10), RED), (vlan(20), BLUE)], None)),
        (GUARDED, Member::Access { network: RED, guard }),
        (NARROW, member_of(RED)),
    ];
    let numbers = [10, 11, 12, TRUNK, GUARDED, NARROW, IN_NONE].into_iter();
    let own = numbers.map(|number| facts(1, number, if number == NARROW { NARROW_MTU } else { 1500 }));
    let ports = base.ports.iter().map(|(id, facts)| (id, facts.clone()));
    let addresses = [2, 3, 5, 6].map(|node| (node_address(underlay(1, node), node), remote(node)));
    let members = members.map(|(number, member)| (port(number), member));
    NodeTables {
        ports: Arc::new(PortTable::build(ports.chain(own))),
        networks: Arc::new(Networks::build(members, segments, addresses, [])),
        ..base
    }
}

/// A switch, its forwarding database, and the frames to run it on.
///
/// Behind it stands a second one that walks every frame through every stage, and must not differ: what the lane knows is what
/// the stages do.
pub struct Switch {
    publisher: Publisher<NodeTables>,
    listeners: Publisher<Listeners>,
    pub pipeline: Box<SwitchPipeline>,
    stages: Box<SwitchPipeline>,
    pub fdb: Arc<Fdb>,
    pub pool: Pool,
    pub now: Tick,
}

/// Node 1 as it is described above.
pub fn switch() -> Switch {
    Switch::with(tables([(RED, red()), (BLUE, blue())]))
}

/// Node 1 whose red segment is another one.
pub fn switch_with(red: Segment) -> Switch {
    Switch::with(tables([(RED, red), (BLUE, blue())]))
}

impl Switch {
    pub fn with(tables: NodeTables) -> Self {
        let key = HashKey::random();
        let (publisher, fdb) = (Publisher::new(tables), Arc::new(Fdb::new(1024, key)));
        let listeners = Publisher::new(Listeners::default());
        let pipeline = || {
            let bridging = Bridging {
                fdb: Arc::clone(&fdb),
                storms: Arc::default(),
                listeners: listeners.reader(),
            };
            let pipeline = SwitchPipeline::new(publisher.reader(), connections(), bridging, key, 0);
            Box::new(pipeline)
        };
        let mut stages = pipeline();
        stages.walk_every_stage();
        Self {
            pipeline: pipeline(),
            stages,
            publisher,
            listeners,
            fdb,
            pool: Pool::on_heap(128),
            now: Tick::from_seconds(1000),
        }
    }

    pub fn listen(&mut self, listeners: Listeners) {
        self.listeners.publish(listeners);
    }

    pub fn publish(&mut self, tables: NodeTables) {
        self.publisher.publish(tables);
    }

    /// Walks a batch; answers each frame's verdict, and what lies in it afterwards.
    pub fn receive_all(&mut self, ingress: PortId, frames: &[Vec<u8>]) -> Vec<(Verdict, Vec<u8>)> {
        let Self {
            pipeline,
            stages,
            pool,
            now,
            ..
        } = self;
        let mut run = |pipeline: &mut SwitchPipeline| -> Vec<_> {
            let taken = frames.iter().map(|bytes| pool.take_with(bytes).unwrap());
            let (mut taken, mut verdicts): (Vec<Frame>, _) = (taken.collect(), Vec::new());
            pipeline.process(ingress, &mut taken, &mut verdicts, *now);
            assert_eq!(verdicts.len(), frames.len(), "one verdict for each frame");
            let ends = verdicts.into_iter().zip(taken).map(|(verdict, frame)| {
                let left = frame.bytes().to_vec();
                pool.give(frame);
                (verdict, left)
            });
            ends.collect()
        };
        let ends = run(pipeline);
        assert_eq!(ends, run(stages), "the lane, and every stage");
        ends
    }

    pub fn receive(&mut self, ingress: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.receive_all(ingress, &[frame.to_vec()]).remove(0)
    }

    /// Has both switches do something with a frame; answers the verdict and what lies in it afterwards.
    fn with_both(
        &mut self,
        frame: &[u8],
        what: impl Fn(&mut SwitchPipeline, &mut Frame) -> Verdict,
    ) -> (Verdict, Vec<u8>) {
        let ends = [&mut self.pipeline, &mut self.stages].map(|pipeline| {
            let mut taken = self.pool.take_with(frame).unwrap();
            let verdict = what(pipeline, &mut taken);
            let left = taken.bytes().to_vec();
            self.pool.give(taken);
            (verdict, left)
        });
        let [end, by_stages] = ends;
        assert_eq!(end, by_stages);
        end
    }

    pub fn originate(&mut self, frame: &[u8], network: NetworkId, from: Location) -> (Verdict, Vec<u8>) {
        let now = self.now;
        let origin = Origin::Bridged { network, from };
        self.with_both(frame, |pipeline, taken| pipeline.originate(taken, origin, now))
    }

    /// What becomes of the copies of a frame, by destination, as a worker makes them.
    pub fn copies(&mut self, cast: Cast, frame: &[u8]) -> Vec<(Verdict, Vec<u8>)> {
        let mut copies = Vec::new();
        let mut next = self.pipeline.destination(cast, 0);
        while let Some(place) = next {
            copies.push(self.with_both(frame, |pipeline, copy| pipeline.finish_copy(copy, cast, place)));
            next = self.pipeline.destination(cast, place + 1);
        }
        copies
    }

    /// What leaves of a frame in the end, whichever way, in the order of destinations; nothing of what was dropped.
    pub fn forward(&mut self, ingress: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        let (verdict, left) = self.receive(ingress, frame);
        let ends = match verdict {
            Verdict::Replicate(cast) => self.copies(cast, &left),
            Verdict::Forward(_) | Verdict::Drop(_) | Verdict::Punt(..) => vec![(verdict, left)],
        };
        let ends = ends.into_iter().filter_map(|(verdict, left)| match verdict {
            Verdict::Forward(port) => Some((port, left)),
            Verdict::Drop(_) => None,
            Verdict::Punt(..) | Verdict::Replicate(_) => panic!("{verdict:?}"),
        });
        ends.collect()
    }

    pub fn lessons(&mut self) -> Vec<Lesson> {
        std::iter::from_fn(|| self.pipeline.lesson()).collect()
    }

    /// Does what the slow path does with lessons.
    pub fn learn(&mut self) {
        for Lesson {
            network,
            mac,
            location,
        } in self.lessons()
        {
            self.fdb.write().learn(network, mac, location, self.now);
        }
    }

    /// Has a station known.
    pub fn know(&mut self, network: NetworkId, mac: MacAddr, location: Location) {
        let learnt = self.fdb.write().learn(network, mac, location, self.now);
        assert!(!matches!(learnt, Learnt::Refused(_)), "{learnt:?}");
    }

    /// What becomes of one frame, the rest of it aside.
    pub fn verdict(&mut self, ingress: u16, frame: &[u8]) -> Verdict {
        self.receive(port(ingress), frame).0
    }
}

/// A frame between two stations, of a kind that means nothing to a bridge.
pub fn frame(source: MacAddr, destination: MacAddr) -> Vec<u8> {
    ethernet(
        destination,
        source,
        0x88b5,
        b"what stations say to each other, long enough",
    )
}

/// The same with a tag.
pub fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    [
        &frame[..12],
        &0x8100_u16.to_be_bytes(),
        &tag.to_be_bytes(),
        &frame[12..],
    ]
    .concat()
}

/// The same in the tunnel of another node's to node 1.
pub fn tunnelled(node: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
    outer(node, 1).vxlan((40_000, UDP_PORT), vni, inner)
}

/// The outer header between two nodes.
pub fn outer(from: u8, to: u8) -> Outer {
    let family = underlay(from, to);
    Outer {
        destination_mac: switch_mac(to, uplink()),
        source_mac: router_mac(),
        source: node_address(family, from),
        destination: node_address(family, to),
        id: 0,
        ecn: 0,
    }
}

pub fn cast(network: NetworkId, from: Location) -> Verdict {
    Verdict::Replicate(Cast {
        network,
        from,
        audience: Audience::Everybody,
    })
}

pub fn udp(family: Family, source: IpAddr) -> Ip {
    Ip::udp(source, family.pick("10.9.0.1", "fd09::1"))
}

/// A limit that lets `burst` frames pass and then hardly ever one.
pub fn nearly_none(burst: u32) -> StormLimit {
    StormLimit::new(NonZeroU32::MIN, burst, u64::MAX / 1_000_000)
}

pub fn punt(reason: PuntReason, network: NetworkId, from: Location) -> Verdict {
    Verdict::Punt(reason, PuntDetail::Segment(network, from))
}

pub fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}
