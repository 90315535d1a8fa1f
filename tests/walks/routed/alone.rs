//! A routed network by itself: all that a walk is in the cluster's own.

use millrace_dataplane::verdict::{PuntDetail, PuntReason, Verdict};
use millrace_dataplane::worker::Origin;

use super::scene::*;
use crate::packets::{ARP, ArpPacket, Body, Family, Ip, Segment};
use crate::rows::{Expect, Row, delivered, punt, sent};
use crate::world::{NARROW_MTU, Node, node_address, station_mac, switch_mac, uplink, vxlan_mtu, world};

fn bodies() -> [Body; 3] {
    [
        Body::Udp(4000, 53, vec![1; 30]),
        Body::Tcp(4000, 80, vec![7; 900]),
        Body::Echo(9, vec![7; 56]),
    ]
}

/// Sends a packet three times: the second and third take the express lane, if any does.
fn thrice(node: &mut Node, row: &Row) {
    for _ in 0..3 {
        let (verdict, left) = node.receive(row.ingress, &row.packet);
        row.check(verdict, &left);
    }
}

#[test]
fn pods_reach_pods_here_and_on_other_nodes() {
    let mut node = node();
    for (family, net) in Family::BOTH
        .into_iter()
        .flat_map(|family| ALL.map(|net| (family, net)))
    {
        for body in bodies() {
            let ip = |from, to| Ip::udp(from, to).body(body.clone());
            let (own, other) = (net.pod(family, 1, 2), net.pod(family, 1, 3));
            let here = ip(own, other);
            let name = |what: &str| format!("{family:?} {}: {what}", net.id);
            thrice(
                &mut node,
                &Row::new(name("here"), net.port(2), sent(&here, net.port(2)), {
                    delivered(&here.ttl(63), net.port(3))
                }),
            );
            for far in [2, 6] {
                let there = ip(own, net.pod(family, far, 7));
                let expect = net.to_node(far, &there.clone().ttl(63));
                let packet = sent(&there, net.port(2));
                thrice(&mut node, &Row::new(name("away"), net.port(2), packet, expect));
                let back = ip(net.pod(family, far, 8), own);
                let expect = delivered(&back.clone().ttl(63), net.port(2));
                let packet = net.tunnelled(far, &back);
                thrice(&mut node, &Row::new(name("from there"), uplink(), packet, expect));
            }
        }
    }
}

#[test]
fn what_the_slow_path_answers_says_whose_it_is() {
    let mut node = node();
    for (family, net) in Family::BOTH
        .into_iter()
        .flat_map(|family| ALL.map(|net| (family, net)))
    {
        let own = net.pod(family, 1, 2);
        let tunnel = vxlan_mtu(1, 2);
        let next_hop = PuntDetail::NextHop(uplink(), node_address(Family::V4, 4));
        let nobody = PuntDetail::Nothing;
        let rows = [
            (
                "the gateway",
                Ip::udp(own, net.gateway(family)),
                PuntReason::ToSwitch,
                nobody,
            ),
            (
                "nobody here",
                Ip::udp(own, net.pod(family, 1, 99)),
                PuntReason::Unreachable,
                nobody,
            ),
            (
                "no node",
                Ip::udp(own, net.pod(family, 99, 9)),
                PuntReason::Unreachable,
                nobody,
            ),
            (
                "the world",
                Ip::udp(own, world(family)),
                PuntReason::Unreachable,
                nobody,
            ),
            (
                "too old",
                Ip::udp(own, net.pod(family, 2, 9)).ttl(1),
                PuntReason::TimeExceeded,
                nobody,
            ),
            (
                "too large for the tunnel",
                Ip::udp(own, net.pod(family, 2, 9)).len(usize::from(tunnel) + 1),
                PuntReason::PacketTooBig,
                PuntDetail::Mtu(tunnel),
            ),
            (
                "too large for the pod",
                Ip::udp(own, net.pod(family, 1, 9)).len(usize::from(NARROW_MTU) + 1),
                PuntReason::PacketTooBig,
                PuntDetail::Mtu(NARROW_MTU),
            ),
            (
                "unresolved",
                Ip::udp(own, net.pod(family, 4, 9)),
                PuntReason::NeighbourUnresolved,
                next_hop,
            ),
        ];
        for (name, ip, reason, detail) in rows {
            let frame = sent(&ip, net.port(2));
            let end = node.end_of(net.port(2), &frame);
            let name = format!("{family:?} {}: {name}", net.id);
            Row::new(
                name.clone(),
                net.port(2),
                frame.clone(),
                punt(reason, detail, &frame),
            )
            .check(end.verdict, &end.left);
            assert_eq!(end.network, net.id, "{name}");
        }
        let from_there = Ip::udp(net.pod(family, 2, 7), net.pod(family, 1, 99));
        let end = node.end_of(uplink(), &net.tunnelled(2, &from_there));
        assert_eq!(end.verdict, Verdict::Punt(PuntReason::Unreachable, nobody));
        assert_eq!(
            (end.left, end.network),
            (net.inner(&from_there), net.id),
            "out of its tunnel"
        );
    }
}

#[test]
fn questions_for_link_addresses_say_whose_they_are() {
    let mut node = node();
    for net in ALL {
        let at = net.port(2);
        let (std::net::IpAddr::V4(own), std::net::IpAddr::V4(other)) =
            (net.pod(Family::V4, 1, 2), net.pod(Family::V4, 2, 9))
        else {
            panic!("of IPv4");
        };
        let arp = |sender| ArpPacket {
            operation: 1,
            sender: (station_mac(1, at), sender),
            target: (Default::default(), other),
        };
        let frame = arp(own).frame(switch_mac(1, at), station_mac(1, at));
        assert_eq!(frame[12..14], ARP.to_be_bytes());
        let end = node.end_of(at, &frame);
        assert_eq!(end.verdict, Verdict::Punt(PuntReason::Arp, PuntDetail::Nothing));
        assert_eq!(end.network, net.id);
    }
}

#[test]
fn what_waited_goes_on_in_its_network() {
    for (family, net) in Family::BOTH
        .into_iter()
        .flat_map(|family| ALL.map(|net| (family, net)))
    {
        let mut node = node();
        let (port, network) = (net.port(2), net.id);
        let ip = Ip::udp(net.pod(family, 1, 2), net.pod(family, 2, 9));
        let held = Origin::Held { port, network };
        let row = Row::new("held", port, Vec::new(), net.to_node(2, &ip.clone().ttl(63)));
        let (verdict, left) = node.originate(held, &sent(&ip, port));
        row.check(verdict, &left);
        let back = Ip::udp(net.pod(family, 2, 9), net.pod(family, 1, 2));
        let from_wire = Origin::Held {
            port: uplink(),
            network,
        };
        let (verdict, left) = node.originate(from_wire, &net.inner(&back));
        Row::new("held", uplink(), Vec::new(), delivered(&back.ttl(63), port)).check(verdict, &left);
        let own = Ip::udp(net.gateway(family), net.pod(family, 2, 9));
        let (verdict, left) = node.originate(Origin::Switch(network), &net.inner(&own));
        Row::new("own", uplink(), Vec::new(), net.to_node(2, &own)).check(verdict, &left);
        let gone = millrace_dataplane::table::NetworkId::new(99);
        let (verdict, _) = node.originate(Origin::Switch(gone), &net.inner(&own));
        assert_eq!(
            verdict,
            Verdict::Drop(millrace_dataplane::verdict::DropReason::PortGone)
        );
    }
}

#[test]
fn a_connection_through_a_tunnel_is_told_what_fits() {
    for (family, net) in Family::BOTH
        .into_iter()
        .flat_map(|family| ALL.map(|net| (family, net)))
    {
        let mut node = node();
        let syn = |mss: u16| {
            Ip::udp(net.pod(family, 1, 2), net.pod(family, 2, 9)).body(Body::Segment(Segment {
                ports: (4000, 80),
                syn: true,
                window: 1000,
                options: [&[2, 4][..], &mss.to_be_bytes()].concat(),
                ..Segment::default()
            }))
        };
        let fits = vxlan_mtu(1, 2) - if family == Family::V4 { 40 } else { 60 };
        let (verdict, left) = node.receive(net.port(2), &sent(&syn(1460), net.port(2)));
        Row::new("SYN", net.port(2), Vec::new(), net.to_node(2, &syn(fits).ttl(63))).check(verdict, &left);
    }
}

/// Nothing is forwarded by tables that are not there.
#[test]
fn a_port_or_tunnel_of_a_network_without_tables_is_nobodys() {
    let top = top(1);
    let tables = with(top.clone(), [tables_of(BLUE, 1, &top)]);
    let mut node = Node::with(tables);
    use millrace_dataplane::verdict::DropReason::{PortGone, TunnelWrongVni};
    let ip = Ip::udp(RED.pod(Family::V4, 1, 2), RED.pod(Family::V4, 1, 3));
    let (verdict, _) = node.receive(RED.port(2), &sent(&ip, RED.port(2)));
    assert_eq!(verdict, Verdict::Drop(PortGone));
    let from_there = Ip::udp(RED.pod(Family::V4, 2, 2), RED.pod(Family::V4, 1, 3));
    let (verdict, _) = node.receive(uplink(), &RED.tunnelled(2, &from_there));
    assert_eq!(verdict, Verdict::Drop(TunnelWrongVni), "as any stranger's");
    let blue = Ip::udp(BLUE.pod(Family::V4, 1, 2), BLUE.pod(Family::V4, 1, 3));
    let (verdict, left) = node.receive(BLUE.port(2), &sent(&blue, BLUE.port(2)));
    let Expect::Forward(exit, bytes) = delivered(&blue.ttl(63), BLUE.port(3)) else {
        panic!("to a port");
    };
    assert_eq!((verdict, left), (Verdict::Forward(exit), bytes));
}
