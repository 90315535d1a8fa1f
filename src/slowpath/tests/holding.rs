//! Packets that wait for a next hop.

use std::time::Duration;

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use etherparse::{Icmpv4Type, Icmpv6Type, icmpv6};

use super::hold::{HELD_PER_NEXT_HOP, HOLD_TIME};
use super::*;

fn unresolved(packet: &Packet, ingress: PortId, next_hop: &str) -> Punt {
    packet.punt(
        ingress,
        PuntReason::NeighbourUnresolved,
        PuntDetail::NextHop(UPLINK, ip(next_hop)),
    )
}

fn request(next_hop: &str) -> Option<NeighbourRequest> {
    Some(NeighbourRequest {
        port: UPLINK,
        address: ip(next_hop),
    })
}

fn bytes(sent: Vec<(usize, Injection)>) -> Vec<(usize, Way, Vec<u8>)> {
    sent.into_iter()
        .map(|(worker, sent)| (worker, sent.way, sent.packet.bytes().to_vec()))
        .collect()
}

#[test]
fn packets_wait_for_their_next_hop_and_go_on_in_order() {
    let start = Instant::now();
    let none = tables(&[]);
    let mut slow_path = slow_path();
    let rows = [
        ("on the link", NEIGHBOUR, NEIGHBOUR, POD_A),
        ("behind a router", WORLD, ROUTER, POD_B),
        ("through the tunnel", REMOTE, PEER, POD_A),
        ("the host's own", WORLD, ROUTER, HOST),
    ];
    let mut expected = BTreeMap::<&str, Vec<_>>::new();
    for (number, (name, destination, next_hop, ingress)) in rows.into_iter().enumerate() {
        for len in [1, 2] {
            let mut punt = unresolved(&Packet::udp(A, destination, len), ingress, next_hop);
            punt.worker = number;
            let actions = slow_path.handle(&punt, &none, start);
            let is_new = len == 1 && name != "the host's own";
            assert_eq!(actions.request, request(next_hop).filter(|_| is_new), "{name}");
            assert!(actions.injection.is_none(), "{name}");
            let way = Way::Walk(waited(ingress));
            let waits = (number, way, punt.packet.bytes().to_vec());
            expected.entry(next_hop).or_default().push(waits);
        }
    }
    assert!(slow_path.is_keeping());
    assert!(slow_path.tables_changed(&none).is_empty());
    for next_hop in [ROUTER, NEIGHBOUR, PEER] {
        let released = bytes(slow_path.tables_changed(&tables(&[next_hop])));
        assert_eq!(released, expected[next_hop], "{next_hop}");
    }
    assert!(!slow_path.is_keeping());
    assert!(slow_path.tick(&none, start + HOLD_TIME).is_empty());
    let moved = moved(&slow_path);
    assert_eq!(
        moved,
        BTreeMap::from([("held", 8), ("neighbour_requests", 3), ("released", 8)])
    );
}

#[test]
fn a_next_hop_that_is_known_by_now_is_not_waited_for() {
    let punt = unresolved(&Packet::udp(A, REMOTE, 5), POD_A, PEER);
    let (sent, counter) = handle_one("resolved meanwhile", &punt, &tables(&[PEER]));
    assert_eq!(
        sent,
        Some((Way::Walk(waited(POD_A)), punt.packet.bytes().to_vec()))
    );
    assert_eq!(counter, "released");
}

#[test]
fn a_neighbour_entry_without_the_outer_header_does_not_release_tunnel_packets() {
    let start = Instant::now();
    let mut slow_path = slow_path();
    slow_path.handle(
        &unresolved(&Packet::udp(A, REMOTE, 5), POD_A, PEER),
        &tables(&[]),
        start,
    );
    let half = NodeTables {
        neighbours: tables(&[PEER]).neighbours,
        ..tables(&[])
    };
    assert!(slow_path.tables_changed(&half).is_empty());
    assert_eq!(slow_path.tables_changed(&tables(&[PEER])).len(), 1);
}

#[test]
fn packets_follow_a_route_that_moves() {
    let start = Instant::now();
    let mut slow_path = slow_path();
    slow_path.handle(
        &unresolved(&Packet::udp(A, WORLD, 5), POD_A, ROUTER),
        &tables(&[]),
        start,
    );
    let other = Target::Via {
        port: UPLINK,
        next_hop: ip(NEIGHBOUR),
    };
    let moved_to = |known: &[&str]| {
        let routes = RouteTable::build([("198.51.100.0/24".parse().unwrap(), other)]);
        NodeTables {
            routes: Arc::new(routes),
            ..tables(known)
        }
    };
    assert!(
        slow_path.tables_changed(&moved_to(&[])).is_empty(),
        "the new next hop is not known either"
    );
    assert!(
        slow_path.tables_changed(&moved_to(&[ROUTER])).is_empty(),
        "the old one does not matter any more"
    );
    assert_eq!(slow_path.tables_changed(&moved_to(&[NEIGHBOUR])).len(), 1);
}

#[test]
fn who_waited_in_vain_is_told() {
    let start = Instant::now();
    let none = tables(&[]);
    let mut slow_path = slow_path();
    let (first, second) = (Packet::udp(A, WORLD, 5), Packet::udp(A, NEIGHBOUR, 6));
    let reset = Packet::icmp_v4(
        A,
        WORLD,
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
        &[],
    );
    let v6 = Packet::udp(A_V6, "2001:db8:2::9", 7);
    let later = start + Duration::from_millis(500);
    for (packet, next_hop, now) in [
        (&first, ROUTER, start),
        (&reset, ROUTER, start),
        (&v6, "2001:db8:2::9", start),
        (&second, NEIGHBOUR, later),
    ] {
        let punt = Punt {
            worker: 3,
            ..unresolved(packet, POD_A, next_hop)
        };
        assert_eq!(
            slow_path.handle(&punt, &none, now).request,
            request(next_hop).filter(|_| packet.payload != reset.payload)
        );
    }
    let told = |original: &Packet, id| {
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
        let error = Packet {
            class: 0xc0,
            id,
            ..Packet::icmp_v4(GATEWAY, A, kind, &original.bytes())
        };
        (3, Way::Walk(Origin::Switch(NetworkId::CLUSTER)), error.walking())
    };
    let told_v6 = {
        let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address);
        let error = Packet {
            class: 0xc0,
            ..Packet::icmp_v6(GATEWAY_V6, A_V6, kind, &v6.bytes())
        };
        (3, Way::Walk(Origin::Switch(NetworkId::CLUSTER)), error.walking())
    };
    assert!(
        slow_path
            .tick(&none, start + HOLD_TIME - Duration::from_millis(1))
            .is_empty()
    );
    assert_eq!(
        bytes(slow_path.tick(&none, start + HOLD_TIME)),
        [told(&first, 1), told_v6]
    );
    assert_eq!(
        bytes(slow_path.tick(&none, later + HOLD_TIME)),
        [told(&second, 3)]
    );
    assert!(!slow_path.is_keeping());
    assert!(slow_path.tables_changed(&tables(&[ROUTER, NEIGHBOUR])).is_empty());
    let expected = [
        ("held", 4),
        ("held_expired", 4),
        ("ignored_icmp_error", 1),
        ("neighbour_requests", 3),
        ("unreachable_sent", 3),
    ];
    assert_eq!(moved(&slow_path), BTreeMap::from(expected));
}

#[test]
fn what_cannot_go_on_anyway_does_not_wait() {
    let none = tables(&[]);
    let last_hop = Packet {
        hops: 1,
        ..Packet::udp(A, WORLD, 0)
    };
    let big = Packet::udp(A, REMOTE, usize::from(TUNNEL_MTU) - 27);
    let fits = Packet::udp(A, REMOTE, usize::from(TUNNEL_MTU) - 28);
    let lost = Packet::udp(A, LOST, 0);
    let error = |original: &Packet, kind| {
        let quote = original.bytes();
        let quote = &quote[..quote.len().min(548)];
        Packet {
            class: 0xc0,
            id: 1,
            ..Packet::icmp_v4(GATEWAY, A, kind, quote)
        }
    };
    let exceeded = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
    let unreachable = Icmpv4Type::DestinationUnreachable;
    let too_big = unreachable(DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu: TUNNEL_MTU,
    });
    let no_route = unreachable(DestUnreachableHeader::Network);
    let rows = [
        answered(
            "TTL",
            unresolved(&last_hop, POD_A, ROUTER),
            &error(&last_hop, exceeded),
            "time_exceeded_sent",
        ),
        answered(
            "length",
            unresolved(&big, POD_A, PEER),
            &error(&big, too_big),
            "too_big_sent",
        ),
        answered(
            "route",
            unresolved(&lost, POD_A, ROUTER),
            &error(&lost, no_route),
            "unreachable_sent",
        ),
        silent("port", unresolved(&lost, GONE, ROUTER), "port_gone"),
    ];
    check(rows, &none);
    let mut slow_path = slow_path();
    for punt in [
        unresolved(&fits, POD_A, PEER),
        unresolved(&last_hop, HOST, ROUTER),
    ] {
        assert!(slow_path.handle(&punt, &none, Instant::now()).injection.is_none());
    }
    assert_eq!(
        slow_path.stats().read()["held"],
        2,
        "one that just fits, and one that is not forwarded yet"
    );
}

#[test]
fn a_flood_to_one_next_hop_is_bounded_and_asks_once_a_second() {
    let start = Instant::now();
    let none = tables(&[]);
    let mut slow_path = slow_path();
    let punt = unresolved(&Packet::udp(A, WORLD, 0), POD_A, ROUTER);
    let mut asked = Vec::new();
    for ms in (0..2500).step_by(10) {
        let actions = slow_path.handle(&punt, &none, start + Duration::from_millis(ms));
        if actions.request.is_some() {
            asked.push(ms);
        }
    }
    assert_eq!(asked, [0, 1000, 2000]);
    let held = HELD_PER_NEXT_HOP as u64;
    let expected = [
        ("held", held),
        ("hold_full", 250 - held),
        ("neighbour_requests", 3),
    ];
    assert_eq!(moved(&slow_path), BTreeMap::from(expected));
}

#[test]
fn a_request_that_got_lost_is_made_again() {
    let now = Instant::now();
    let none = tables(&[]);
    let mut slow_path = slow_path();
    let punt = unresolved(&Packet::udp(A, WORLD, 0), POD_A, ROUTER);
    let asked = slow_path.handle(&punt, &none, now).request.unwrap();
    assert_eq!(slow_path.handle(&punt, &none, now).request, None);
    slow_path.request_lost(asked);
    assert_eq!(slow_path.handle(&punt, &none, now).request, Some(asked));
    assert_eq!(slow_path.stats().read()["neighbour_requests_lost"], 1);
}
