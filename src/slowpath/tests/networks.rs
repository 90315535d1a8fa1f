//! Packets of other routed networks than the cluster's own: all that is said about one is said in its network.

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use etherparse::{IcmpEchoHeader, Icmpv4Type};
use millrace_dataplane::table::RoutedNetworks;

use super::hold::HOLD_TIME;
use super::*;

const RED: NetworkId = NetworkId::new(5);
/// Reached from the cluster.
const GREEN: NetworkId = NetworkId::new(6);
const GONE_NETWORK: NetworkId = NetworkId::new(7);

/// Behind this port is a pod of red with the address of the cluster's pod `A`.
const POD_RED: PortId = PortId::new(4).unwrap();
const RED_GATEWAY: &str = "10.244.9.1";
const GREEN_GATEWAY: &str = "10.9.0.1";
/// A pod of green on another node, and nobody on this one.
const GREEN_REMOTE: &str = "10.9.2.9";
const GREEN_NOBODY: &str = "10.9.1.77";

/// A network whose tunnels go to `PEER` with those routes.
fn second(top: &NodeTables, network: NetworkId, gateway: &str, routes: &[(&str, Target)]) -> NodeTables {
    let routes = routes.iter().map(|(text, target)| {
        let prefix = text.parse::<Prefix>().unwrap();
        (prefix, *target)
    });
    let own = (Prefix::host(ip(gateway)), Target::Switch);
    let local = Local {
        gateways: vec![ip(gateway)],
        uplink: Some(UPLINK),
        ..Local::default()
    };
    let peers = top.peers.iter().map(|(id, peer)| (id, peer.clone()));
    NodeTables {
        network,
        ports: Arc::clone(&top.ports),
        neighbours: Arc::clone(&top.neighbours),
        routes: Arc::new(RouteTable::build(routes.chain([own]))),
        peers: Arc::new(PeerTable::build(peers, [])),
        local: Arc::new(local),
        ..NodeTables::default()
    }
}

fn with_networks(known: &[&str]) -> NodeTables {
    let base = tables(known);
    let ports = base.ports.iter().map(|(id, facts)| (id, facts.clone()));
    let routes = base.routes.routes().iter().copied();
    let into_green = ("10.9.0.0/16".parse().unwrap(), Target::Network(GREEN));
    let into_nothing = ("10.8.0.0/16".parse().unwrap(), Target::Network(GONE_NETWORK));
    let top = NodeTables {
        ports: Arc::new(PortTable::build(ports.chain([facts(
            POD_RED,
            Role::Pod,
            &[A, A_V6],
        )]))),
        routes: Arc::new(RouteTable::build(routes.chain([into_green, into_nothing]))),
        ..base
    };
    let far = Target::Tunnel(PeerId::new(0));
    let host = |address: &str| format!("{address}/32");
    let red = [
        ("10.244.0.0/16", Target::Unreachable),
        ("10.244.2.0/24", far),
        (&*host(A), Target::Port(POD_RED)),
    ];
    let red = second(&top, RED, RED_GATEWAY, &red);
    let green = [
        ("10.9.0.0/16", Target::Unreachable),
        ("10.9.2.0/24", far),
        ("10.244.1.0/24", Target::Network(NetworkId::CLUSTER)),
    ];
    let green = second(&top, GREEN, GREEN_GATEWAY, &green);
    NodeTables {
        routed: Arc::new(RoutedNetworks::build([red, green], [(POD_RED, RED)])),
        ..top
    }
}

fn of(network: NetworkId, punt: Punt) -> Punt {
    Punt { network, ..punt }
}

fn said(name: &'static str, punt: Punt, answer: &Packet, counter: &'static str) -> Row {
    let way = Way::Walk(Origin::Switch(punt.network));
    Row {
        name,
        punt,
        expected: Some((way, answer.walking())),
        counter,
    }
}

fn error(gateway: &str, kind: Icmpv4Type, about: &Packet) -> Packet {
    Packet {
        class: 0xc0,
        id: 1,
        ..Packet::icmp_v4(gateway, A, kind, &about.bytes())
    }
}

#[test]
fn errors_come_from_the_gateway_of_the_network() {
    let nothing = PuntDetail::Nothing;
    let expired = || Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
    let too_big = |mtu| {
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu })
    };
    let nobody = || Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
    let no_way = || Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network);
    let packet = |to| Packet::udp(A, to, 9);
    let in_red = |to, reason, detail| of(RED, packet(to).punt(POD_RED, reason, detail));
    let in_clusters = |to, reason, detail| packet(to).punt(POD_A, reason, detail);
    let unreachable = PuntReason::Unreachable;
    let rows = [
        said(
            "too old",
            in_red(REMOTE, PuntReason::TimeExceeded, nothing),
            &error(RED_GATEWAY, expired(), &packet(REMOTE)),
            "time_exceeded_sent",
        ),
        said(
            "too large",
            in_red(REMOTE, PuntReason::PacketTooBig, PuntDetail::Mtu(1400)),
            &error(RED_GATEWAY, too_big(1400), &packet(REMOTE)),
            "too_big_sent",
        ),
        said(
            "nobody",
            in_red(NOBODY, unreachable, nothing),
            &error(RED_GATEWAY, nobody(), &packet(NOBODY)),
            "unreachable_sent",
        ),
        said(
            "no way, though the cluster has one",
            in_red(WORLD, unreachable, nothing),
            &error(RED_GATEWAY, no_way(), &packet(WORLD)),
            "unreachable_sent",
        ),
        // What is led into another network is told by the one that it knows.
        said(
            "nobody in green",
            in_clusters(GREEN_NOBODY, unreachable, nothing),
            &error(GATEWAY, nobody(), &packet(GREEN_NOBODY)),
            "unreachable_sent",
        ),
        said(
            "a network that is gone",
            in_clusters("10.8.0.9", unreachable, nothing),
            &error(GATEWAY, no_way(), &packet("10.8.0.9")),
            "unreachable_sent",
        ),
        silent(
            "its own network is gone",
            of(
                GONE_NETWORK,
                packet(REMOTE).punt(POD_RED, PuntReason::TimeExceeded, nothing),
            ),
            "port_gone",
        ),
    ];
    check(rows, &with_networks(&[]));
}

#[test]
fn a_gateway_is_pinged_from_where_it_is_known() {
    let echo = IcmpEchoHeader { id: 7, seq: 1 };
    let ping = |to| Packet::icmp_v4(A, to, Icmpv4Type::EchoRequest(echo), &[9; 20]);
    let pong = |from| Packet {
        id: 1,
        ..Packet::icmp_v4(from, A, Icmpv4Type::EchoReply(echo), &[9; 20])
    };
    let to_switch = |network, to, port| {
        let punt = ping(to).punt(port, PuntReason::ToSwitch, PuntDetail::Nothing);
        of(network, punt)
    };
    let cluster = NetworkId::CLUSTER;
    let rows = [
        said(
            "red's",
            to_switch(RED, RED_GATEWAY, POD_RED),
            &pong(RED_GATEWAY),
            "echo_replies",
        ),
        silent(
            "red's from the cluster",
            to_switch(cluster, RED_GATEWAY, POD_A),
            "ignored_to_switch",
        ),
        silent(
            "the cluster's from red",
            to_switch(RED, GATEWAY, POD_RED),
            "ignored_to_switch",
        ),
        said(
            "green's from the cluster, which leads there",
            to_switch(cluster, GREEN_GATEWAY, POD_A),
            &pong(GREEN_GATEWAY),
            "echo_replies",
        ),
    ];
    check(rows, &with_networks(&[]));
}

fn unresolved(network: NetworkId, port: PortId, to: &str) -> Punt {
    let detail = PuntDetail::NextHop(UPLINK, ip(PEER));
    let punt = Packet::udp(A, to, 9).punt(port, PuntReason::NeighbourUnresolved, detail);
    of(network, punt)
}

/// In red, in the cluster, and on the way from there into green: three packets for one next hop.
#[test]
fn what_waits_goes_on_in_its_network() {
    let start = Instant::now();
    let mut slow_path = slow_path();
    let waiting = [
        unresolved(RED, POD_RED, REMOTE),
        unresolved(NetworkId::CLUSTER, POD_A, REMOTE),
        unresolved(NetworkId::CLUSTER, POD_A, GREEN_REMOTE),
    ];
    let none = with_networks(&[]);
    for (number, punt) in waiting.iter().enumerate() {
        let actions = slow_path.handle(punt, &none, start);
        assert_eq!(actions.request.is_some(), number == 0, "one request is enough");
        assert!(actions.injection.is_none());
    }
    assert!(slow_path.tables_changed(&none).is_empty());
    let released = slow_path.tables_changed(&with_networks(&[PEER]));
    let ways: Vec<_> = released.iter().map(|(_, sent)| sent.way).collect();
    let expected = waiting.each_ref().map(|punt| {
        Way::Walk(Origin::Held {
            port: punt.ingress,
            network: punt.network,
        })
    });
    assert_eq!(ways, expected);
}

/// A Service's endpoint in green answers the gateway, and crosses: in the cluster the answer turns out to be for somebody on the
/// node's own link.
#[test]
fn what_crosses_to_somebody_on_the_link_waits_too() {
    let start = Instant::now();
    let mut slow_path = slow_path();
    let detail = PuntDetail::NextHop(UPLINK, ip(NEIGHBOUR));
    let punt = Packet::udp(GREEN_REMOTE, GATEWAY, 9).punt(UPLINK, PuntReason::NeighbourUnresolved, detail);
    let none = with_networks(&[]);
    let actions = slow_path.handle(&of(GREEN, punt), &none, start);
    assert_eq!(actions.request.map(|asked| asked.address), Some(ip(NEIGHBOUR)));
    assert!(actions.injection.is_none());
    assert!(slow_path.tables_changed(&none).is_empty());
    let released = slow_path.tables_changed(&with_networks(&[NEIGHBOUR]));
    let ways: Vec<_> = released.iter().map(|(_, sent)| sent.way).collect();
    let expected = Way::Walk(Origin::Held {
        port: UPLINK,
        network: GREEN,
    });
    assert_eq!(ways, [expected]);
}

#[test]
fn what_waits_in_a_network_that_goes_waits_in_vain() {
    let start = Instant::now();
    let mut slow_path = slow_path();
    slow_path.handle(&unresolved(RED, POD_RED, REMOTE), &with_networks(&[]), start);
    slow_path.handle(
        &unresolved(NetworkId::CLUSTER, POD_A, GREEN_REMOTE),
        &with_networks(&[]),
        start,
    );
    let without = NodeTables {
        routed: Arc::default(),
        ..with_networks(&[PEER])
    };
    assert!(slow_path.tables_changed(&without).is_empty());
    let told = slow_path.tick(&without, start + HOLD_TIME);
    let told: Vec<_> = told.iter().map(|(_, sent)| sent.way).collect();
    // Red's has nobody to tell it; the cluster's is told where it is.
    assert_eq!(told, [Way::Walk(Origin::Switch(NetworkId::CLUSTER))]);
}

/// One who asks too much in one network takes nothing from who has the same address in another.
#[test]
fn the_share_of_answers_is_one_for_each_network() {
    let start = Instant::now();
    let tables = with_networks(&[]);
    let mut slow_path = slow_path_of(100);
    let mut told = |network, port| {
        let punt = Packet::udp(A, NOBODY, 9).punt(port, PuntReason::TimeExceeded, PuntDetail::Nothing);
        let answers = (0..100).filter(|_| {
            slow_path
                .handle(&of(network, punt_again(&punt)), &tables, start)
                .injection
                .is_some()
        });
        answers.count()
    };
    let (cluster, red) = (told(NetworkId::CLUSTER, POD_A), told(RED, POD_RED));
    assert!(cluster > 0 && red == cluster, "{cluster} and {red}");
}

fn punt_again(punt: &Punt) -> Punt {
    Punt {
        packet: PacketCopy::new(punt.packet.bytes()),
        ..*punt
    }
}
