//! Lessons and frames in; the forwarding database, answers and counters out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use etherparse::{Icmpv6Header, Icmpv6Type, Ipv6Header, PacketBuilder, icmpv6};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::network::SegmentTunnel;
use millrace_dataplane::table::{Guard, HashKey, RemoteExit, RemoteId, Segment, TunnelEnds};
use millrace_dataplane::wire::{Arp, EtherType, Ipv6, Vni, eth, ndp};

use super::*;

mod floods;

const RED: NetworkId = NetworkId::new(1);
const BLUE: NetworkId = NetworkId::new(2);
const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
/// Of a pod at port 3, which was given this address.
const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xf]);
const POD_IP: [u8; 4] = [10, 9, 0, 15];
const A_IP: [u8; 4] = [10, 9, 0, 10];
const B_IP: [u8; 4] = [10, 9, 0, 11];

fn port(number: u16) -> Location {
    Location::Port(PortId::new(number).unwrap())
}

fn remote(number: u16) -> Location {
    Location::Remote(RemoteId::new(number).unwrap())
}

/// Ports 1 and 2 are in red, port 3 in red with a pod, port 4 in blue; red has the remotes 0 and 1.
fn tables(ports: &[u16]) -> NodeTables {
    let tunnel = SegmentTunnel {
        vni: Vni::try_from(100).unwrap(),
        port: 8472,
    };
    let ends = TunnelEnds::from((
        std::net::Ipv4Addr::new(192, 0, 2, 1),
        std::net::Ipv4Addr::new(192, 0, 2, 2),
    ));
    let exit = |number| {
        let remote = RemoteId::new(number).unwrap();
        RemoteExit::new(remote, PortId::new(0).unwrap(), ends, tunnel, None)
    };
    let segment = |remotes: &[u16]| Segment {
        tunnel: Some(tunnel),
        remotes: remotes.iter().copied().map(exit).collect(),
        learns_from_ports: true,
        learns_from_remotes: !remotes.is_empty(),
        suppresses: true,
        snoops: false,
        storm: None,
        mtu: 1450,
    };
    let pod = Guard {
        mac: Some(POD),
        sources: vec![IpAddr::from(POD_IP), "fd09::f".parse().unwrap()],
    };
    let members = ports.iter().map(|number| {
        let (network, guard) = match number {
            3 => (RED, pod.clone()),
            4 => (BLUE, Guard::default()),
            _ => (RED, Guard::default()),
        };
        (PortId::new(*number).unwrap(), Member::Access { network, guard })
    });
    let networks = Networks::build(members, [(RED, segment(&[0, 1])), (BLUE, segment(&[]))], [], []);
    NodeTables {
        networks: Arc::new(networks),
        ..NodeTables::default()
    }
}

struct Bench {
    segments: Segments,
    fdb: Arc<Fdb>,
    stats: SlowPathStats,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        Self::with_room(64)
    }

    /// With room for so many stations.
    fn with_room(stations: u32) -> Self {
        let fdb = Arc::new(Fdb::new(stations, HashKey::random()));
        let now = Now {
            at: Instant::now(),
            tick: Tick::from_seconds(1000),
        };
        let mut segments = Segments::new(Learned {
            fdb: Arc::clone(&fdb),
            listeners: Publisher::new(Listeners::default()),
        });
        segments.follow(&tables(&[1, 2, 3, 4]));
        fdb.write().set_static(RED, POD, port(3), now.tick).unwrap();
        Self {
            segments,
            fdb,
            stats: SlowPathStats::default(),
            now,
        }
    }

    fn later(&mut self, by: Duration) {
        self.now.at += by;
        let seconds = u32::try_from(by.as_secs()).unwrap();
        self.now.tick = Tick::from_seconds(self.now.tick.seconds() + seconds);
    }

    fn learn(&mut self, network: NetworkId, mac: MacAddr, location: Location) {
        let lesson = Lesson {
            network,
            mac,
            location,
        };
        self.segments.learn(lesson, &self.stats, self.now);
    }

    /// The frame that comes of one, and whether it goes on as if it came from there.
    fn hear(&mut self, frame: &[u8], from: Location) -> (Vec<u8>, Location) {
        let injection = self.segments.hear(frame, (RED, from), &self.stats, self.now);
        let Way::Walk(Origin::Bridged { network, from }) = injection.way else {
            panic!("{injection:?}");
        };
        assert_eq!(network, RED);
        (injection.packet.bytes().to_vec(), from)
    }

    #[track_caller]
    fn passes(&mut self, frame: &[u8], from: Location) {
        assert_eq!(self.hear(frame, from), (frame.to_vec(), from));
    }

    /// Who is said to have the address that is asked for.
    #[track_caller]
    fn answered(&mut self, frame: &[u8], from: Location) -> MacAddr {
        let (answer, says) = self.hear(frame, from);
        assert_eq!(says, Location::Switch, "not answered");
        let (asked, answer) = (Ethernet::parse(frame).unwrap(), Ethernet::parse(&answer).unwrap());
        assert_eq!(answer.destination(), asked.source());
        let mac = if answer.ether_type() == EtherType::ARP {
            let (asked, reply) = (
                Arp::parse(asked.payload()).unwrap(),
                Arp::parse(answer.payload()).unwrap(),
            );
            assert_eq!(reply.fields(), asked.fields().reply_with(reply.sender_hardware()));
            reply.sender_hardware()
        } else {
            let ip = Ipv6::parse(answer.payload()).unwrap();
            let message = ndp::Neighbour::parse(ip.payload()).unwrap();
            assert!(!message.is_solicitation());
            message.target_link().unwrap()
        };
        assert_eq!(answer.source(), mac, "as if it said so itself");
        mac
    }

    fn at(&self, network: NetworkId, mac: MacAddr) -> Option<Location> {
        self.fdb.lookup(network, mac).map(|entry| entry.location())
    }

    /// The counters that are not zero.
    fn counted(&self) -> BTreeMap<&'static str, u64> {
        let mut counters = self.stats.read();
        counters.retain(|_, count| *count > 0);
        counters
    }
}

fn arp(operation: u16, (mac, sender): (MacAddr, [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac.0);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac.0.iter().chain(&sender).chain(&[0; 6]).chain(&target));
    frame
}

fn neighbour(
    mac: MacAddr,
    (source, destination): (&str, &str),
    kind: Icmpv6Type,
    target: &str,
    option: Option<u8>,
) -> Vec<u8> {
    let (source, destination): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    let mut body = target.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    if let Some(option) = option {
        body.extend([option, 1]);
        body.extend(mac.0);
    }
    let header = Icmpv6Header::with_checksum(kind, source.octets(), destination.octets(), &body).unwrap();
    let ip = Ipv6Header {
        payload_length: u16::try_from(header.header_len() + body.len()).unwrap(),
        next_header: etherparse::IpNumber::IPV6_ICMP,
        hop_limit: 255,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv6Header::default()
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac.0, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6([0; 16], [0; 16], 1)
        .icmpv6_echo_request(0, 0)
        .write(&mut frame, &[])
        .unwrap();
    frame.truncate(eth::HEADER_LEN);
    frame.extend(ip.to_bytes());
    frame.extend(header.to_bytes());
    frame.extend(body);
    frame
}

fn solicitation(mac: MacAddr, source: &str, target: &str) -> Vec<u8> {
    let option = (source != "::").then_some(1);
    let kind = Icmpv6Type::NeighborSolicitation;
    neighbour(mac, (source, "ff02::1:ff00:1"), kind, target, option)
}

fn advertisement(mac: MacAddr, target: &str, router: bool) -> Vec<u8> {
    let kind = Icmpv6Type::NeighborAdvertisement(icmpv6::NeighborAdvertisementHeader {
        router,
        solicited: false,
        r#override: true,
    });
    neighbour(mac, (target, "ff02::1"), kind, target, Some(2))
}

#[test]
fn stations_are_learned_where_they_may_be() {
    let mut bench = Bench::new();
    for (network, mac, location, counter) in [
        (RED, A, port(1), "stations_learned"),
        (RED, B, remote(1), "stations_learned"),
        (BLUE, A, port(4), "stations_learned"),
        // The same place again says nothing new.
        (RED, A, port(2), "stations_moved"),
        // Not in the network, or gone, or where nothing is learned, or the switch itself.
        (RED, A, port(4), "stations_stale"),
        (RED, A, port(9), "stations_stale"),
        (RED, A, remote(2), "stations_stale"),
        (BLUE, A, remote(0), "stations_stale"),
        (RED, A, Location::Switch, "stations_stale"),
        (NetworkId::new(7), A, port(1), "stations_stale"),
        // What was given stays, and nobody is broadcast.
        (RED, POD, port(1), "stations_refused"),
        (RED, MacAddr::BROADCAST, port(1), "stations_refused"),
    ] {
        let before = bench.stats.read()[counter];
        bench.learn(network, mac, location);
        assert_eq!(
            bench.stats.read()[counter],
            before + 1,
            "{network} {mac} {location:?}"
        );
    }
    assert_eq!(bench.counted().values().sum::<u64>(), 12, "{:?}", bench.counted());
    assert_eq!(bench.at(RED, A), Some(port(2)));
    assert_eq!(
        bench.at(BLUE, A),
        Some(port(4)),
        "the same address elsewhere is another station"
    );
    assert_eq!(bench.at(RED, POD), Some(port(3)));
}

#[test]
fn one_that_goes_to_and_fro_stays_for_a_while() {
    let mut bench = Bench::new();
    bench.learn(RED, A, port(1));
    for step in 0..40 {
        bench.learn(RED, A, if step % 2 == 0 { port(2) } else { remote(0) });
    }
    // Of the 35 sightings after the last move 17 are where it is.
    let expected = [
        ("moves_refused", 18),
        ("stations_learned", 1),
        ("stations_moved", 5),
    ];
    assert_eq!(bench.counted(), BTreeMap::from(expected));
    assert_eq!(bench.at(RED, A), Some(port(2)), "where it was after five moves");
    bench.later(moves::PINNED);
    bench.learn(RED, A, remote(0));
    assert_eq!(bench.at(RED, A), Some(remote(0)));
}

#[test]
fn too_many_behind_one_port_are_not_learned() {
    let mut bench = Bench::new();
    let bounds = millrace_dataplane::table::fdb::Bounds {
        per_port: 2,
        ..Default::default()
    };
    bench.fdb.write().set_bounds(RED, bounds);
    for last in 1..6 {
        bench.learn(RED, MacAddr([6, 0, 0, 0, 0, last]), port(1));
    }
    bench.learn(RED, A, port(2));
    assert_eq!(
        bench.counted(),
        BTreeMap::from([("stations_learned", 3), ("stations_no_room", 3)])
    );
    // Nor is one that comes from somewhere else: it has not moved, and is no loop.
    for _ in 0..20 {
        bench.learn(RED, A, port(1));
    }
    assert_eq!(bench.at(RED, A), Some(port(2)));
    bench.fdb.write().remove(RED, MacAddr([6, 0, 0, 0, 0, 1]));
    bench.learn(RED, A, port(1));
    assert_eq!(bench.at(RED, A), Some(port(1)));
    assert_eq!(
        bench.counted(),
        BTreeMap::from([
            ("stations_learned", 3),
            ("stations_moved", 1),
            ("stations_no_room", 23)
        ])
    );
}

#[test]
fn the_silent_and_those_of_what_is_gone_are_forgotten() {
    let mut bench = Bench::new();
    for (mac, location) in [(A, port(1)), (B, port(2))] {
        bench.learn(RED, mac, location);
    }
    assert!(bench.segments.is_any());
    bench.later(Duration::from_secs(200));
    bench.learn(RED, B, port(2));
    bench.later(Duration::from_secs(150));
    for _ in 0..AGEING_TURNS {
        bench.segments.tick(&bench.stats, bench.now);
    }
    assert_eq!(bench.at(RED, A), None, "silent for 350 s");
    assert_eq!(bench.at(RED, B), Some(port(2)), "for 150 s");
    bench.learn(BLUE, A, port(4));
    bench.segments.follow(&tables(&[1, 3, 4]));
    assert_eq!((bench.at(RED, B), bench.at(BLUE, A)), (None, Some(port(4))));
    assert_eq!(
        bench.at(RED, POD),
        Some(port(3)),
        "given, and the control plane's"
    );
    bench.segments.follow(&NodeTables::default());
    assert!(!bench.segments.is_any());
}

#[test]
fn requests_are_answered_for_who_is_known_and_there() {
    let mut bench = Bench::new();
    let ask = |target| arp(1, (A, A_IP), target);
    assert_eq!(bench.answered(&ask(POD_IP), port(1)), POD, "was given it");
    assert_eq!(bench.at(RED, A), Some(port(1)), "who asks is learned");
    bench.passes(&ask(B_IP), port(1));
    bench.passes(&arp(2, (B, B_IP), A_IP), remote(0));
    assert_eq!(bench.answered(&ask(B_IP), port(1)), B, "heard from its reply");
    // Of A it was heard when it asked.
    assert_eq!(bench.answered(&arp(1, (B, B_IP), A_IP), remote(0)), A);
    // What is not there any more is asked for, what is long ago too.
    bench.fdb.write().remove(RED, B);
    bench.passes(&ask(B_IP), port(1));
    bench.learn(RED, B, remote(0));
    bench.later(bindings::BELIEVED);
    bench.passes(&ask(B_IP), port(1));
    assert_eq!(bench.answered(&ask(POD_IP), port(1)), POD, "given for good");
}

#[test]
fn another_nodes_stations_are_answered_for_on_this_node_alone() {
    let mut bench = Bench::new();
    let other = (MacAddr([2, 0, 0, 0, 0, 0xc]), [10, 9, 0, 12]);
    bench.passes(&arp(1, (B, B_IP), B_IP), remote(0));
    // A node that asks for what is behind another one would learn that it is here.
    bench.passes(&arp(1, other, B_IP), remote(1));
    assert_eq!(bench.answered(&arp(1, other, POD_IP), remote(1)), POD);
    // And who is on the same side hears the question itself.
    bench.passes(&arp(1, (A, A_IP), [10, 9, 0, 99]), port(1));
    bench.passes(&arp(1, other, A_IP), port(1));
}

/// The answer would go to everybody, and other nodes would learn from it that whoever is asked for is here.
#[test]
fn who_is_not_known_is_told_nothing_of_another_nodes_stations() {
    let mut bench = Bench::new();
    let bounds = millrace_dataplane::table::fdb::Bounds {
        per_port: 1,
        ..Default::default()
    };
    bench.fdb.write().set_bounds(RED, bounds);
    bench.passes(&arp(1, (B, B_IP), B_IP), remote(0));
    bench.learn(RED, MacAddr([6, 0, 0, 0, 0, 1]), port(1));
    let ask = |target| arp(1, (A, A_IP), target);
    bench.passes(&ask(B_IP), port(1));
    assert_eq!(bench.at(RED, A), None, "there is no room for it");
    assert_eq!(bench.answered(&ask(POD_IP), port(1)), POD, "that one is here");
    assert_eq!(bench.answered(&ask(B_IP), port(2)), B, "there is room there");
}

#[test]
fn what_is_no_question_goes_to_everybody_and_moves_take_effect_by_it() {
    let mut bench = Bench::new();
    bench.learn(RED, A, port(1));
    let announcement = arp(1, (A, A_IP), A_IP);
    bench.passes(&announcement, remote(1));
    assert_eq!(
        bench.at(RED, A),
        Some(remote(1)),
        "a machine that came to another node"
    );
    let probe = arp(1, (B, [0; 4]), POD_IP);
    bench.passes(&probe, port(1));
    // Who says that another one has it is not believed, nor a group's address.
    let mut lie = arp(2, (B, B_IP), A_IP);
    lie[6..12].copy_from_slice(&A.0);
    bench.passes(&lie, port(1));
    bench.passes(&arp(1, (A, A_IP), B_IP), port(1));
    bench.passes(&arp(1, (A, A_IP), B_IP)[..30], port(1));
}

#[test]
fn solicitations_are_answered_as_the_station_would() {
    let mut bench = Bench::new();
    let ask = |target| solicitation(A, "fd09::a", target);
    assert_eq!(bench.answered(&ask("fd09::f"), port(1)), POD);
    bench.passes(&ask("fd09::b"), port(1));
    // Who has only asked has not said whether it is a router; an answer for it would say that it is none.
    bench.passes(&solicitation(B, "fd09::b", "fd09::99"), port(2));
    bench.passes(&ask("fd09::b"), port(1));
    for is_router in [false, true] {
        bench.passes(&advertisement(B, "fd09::b", is_router), port(2));
        assert_eq!(bench.answered(&ask("fd09::b"), port(1)), B);
        let (answer, _) = bench.hear(&ask("fd09::b"), port(1));
        let ip = Ipv6::parse(answer.get(eth::HEADER_LEN..).unwrap()).unwrap();
        let message = ndp::Neighbour::parse(ip.payload()).unwrap();
        assert_eq!(message.is_router(), is_router);
    }
    // One that asks whether an address is free is heard by who has it.
    bench.passes(&solicitation(A, "::", "fd09::b"), port(1));
    // So is one that asks a station whether it is still there.
    let unicast = neighbour(
        A,
        ("fd09::a", "fd09::b"),
        Icmpv6Type::NeighborSolicitation,
        "fd09::b",
        Some(1),
    );
    bench.passes(&unicast, port(1));
    let mut wrong = ask("fd09::b");
    wrong[60] ^= 1;
    bench.passes(&wrong, port(1));
}

#[test]
fn workers_are_told_who_listens_at_once_and_again_when_that_changes() {
    let mut bench = Bench::new();
    let group = MacAddr([1, 0, 0x5e, 1, 2, 3]);
    let overhear = |bench: &mut Bench, kind: u8, from| {
        let mut message = [kind, 0, 0, 0, 239, 1, 2, 3];
        let sum = millrace_dataplane::wire::checksum::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 9, 0, 1, 239, 1, 2, 3];
        let link = [&group.0[..], &A.0, &[8, 0]].concat();
        let frame = [link, header.to_vec(), message.to_vec()].concat();
        let injection = bench
            .segments
            .overhear(&frame, (RED, from), &bench.stats, bench.now);
        assert_eq!(injection.packet.bytes(), frame, "it goes on");
    };
    let listeners = bench.segments.listeners.reader();
    let who = || listeners.pin().lookup(RED, group).map(<[_]>::to_vec);
    overhear(&mut bench, 0x11, remote(0));
    assert_eq!(who(), Some(vec![remote(0)]));
    // Told a moment ago: the next turn tells the rest.
    overhear(&mut bench, 0x16, port(1));
    overhear(&mut bench, 0x16, port(2));
    assert_eq!(who(), Some(vec![remote(0)]));
    bench.later(Duration::from_secs(1));
    bench.segments.tick(&bench.stats, bench.now);
    assert_eq!(who(), Some(vec![port(1), port(2), remote(0)]));
    overhear(&mut bench, 0x17, port(1));
    bench.later(groups::LEAVES);
    bench.segments.tick(&bench.stats, bench.now);
    assert_eq!(who(), Some(vec![port(2), remote(0)]));
    assert_eq!(bench.counted(), BTreeMap::from([("memberships", 4)]));
}
