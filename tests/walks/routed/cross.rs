//! From one network into another: where a route leads there, through the policies of both, as one hop.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::Side;
use millrace_dataplane::table::{Local, Lpm, NetworkId, NodeTables, Prefix, RouteTable, Target};
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason, Verdict};
use millrace_dataplane::worker::Origin;

use super::scene::*;
use crate::packets::{Body, Family, Ip, Segment, cut, payload_at};
use crate::rows::{Expect, Row, delivered, punt, sent};
use crate::services::errors::{port_unreachable, too_big};
use crate::services::{At, Sketch, client, external, services, vip};
use crate::world::{
    self, NARROW_MTU, Node, host, node_address, pod, pod_port, uplink, vxlan_mtu, waited, world as the_world,
};

const UNREACHABLE: Verdict = Verdict::Punt(PuntReason::Unreachable, PuntDetail::Nothing);

fn check(node: &mut Node, name: &str, ingress: PortId, frame: &[u8], expect: Expect) {
    let (verdict, left) = node.receive(ingress, frame);
    Row::new(name, ingress, Vec::new(), expect).check(verdict, &left);
}

fn datagram(from: (IpAddr, u16), to: (IpAddr, u16)) -> Ip {
    Ip::udp(from.0, to.0).body(Body::Udp(from.1, to.1, vec![0x11; 40]))
}

/// The networks of all connections there are, those of one opened by so many.
fn networks(node: &Node) -> Vec<NetworkId> {
    let flows = &node.connections.flows;
    let v4 = flows
        .v4()
        .connections()
        .map(|connection| connection.original.network);
    let mut all: Vec<_> = v4
        .chain(
            flows
                .v6()
                .connections()
                .map(|connection| connection.original.network),
        )
        .collect();
    all.sort();
    all
}

#[test]
fn a_pod_of_the_cluster_and_one_of_green_on_this_node() {
    for family in Family::BOTH {
        let mut node = node();
        let (own, green) = ((pod(family, 1, 2), 4000), (GREEN.pod(family, 1, 2), 80));
        let (there, back) = (datagram(own, green), datagram(green, own));
        for round in 0..3 {
            let expect = delivered(&there.clone().ttl(63), GREEN.port(2));
            let name = format!("{family:?} there, {round}");
            check(&mut node, &name, pod_port(2), &sent(&there, pod_port(2)), expect);
            let expect = delivered(&back.clone().ttl(63), pod_port(2));
            check(
                &mut node,
                "back",
                GREEN.port(2),
                &sent(&back, GREEN.port(2)),
                expect,
            );
        }
        assert_eq!(
            networks(&node),
            [NetworkId::CLUSTER, GREEN.id],
            "one connection in each"
        );
        let opened = |port| node.connections.flows.opened_by(port);
        assert_eq!(
            (opened(pod_port(2)), opened(GREEN.port(2))),
            (1, 0),
            "and one charge"
        );
    }
}

#[test]
fn between_nodes_a_packet_crosses_at_the_clusters_end() {
    for family in Family::BOTH {
        for far in [2, 6] {
            let mut node = node();
            let (own, green) = ((pod(family, 1, 2), 4000), (GREEN.pod(family, far, 7), 80));
            let (there, back) = (datagram(own, green), datagram(green, own));
            for _ in 0..3 {
                let expect = GREEN.to_node(far, &there.clone().ttl(63));
                check(
                    &mut node,
                    "there",
                    pod_port(2),
                    &sent(&there, pod_port(2)),
                    expect,
                );
                let expect = delivered(&back.clone().ttl(63), pod_port(2));
                check(&mut node, "back", uplink(), &GREEN.tunnelled(far, &back), expect);
            }
            assert_eq!(networks(&node), [NetworkId::CLUSTER, GREEN.id]);
            // At green's end there is green alone.
            let (own, cluster) = ((GREEN.pod(family, 1, 2), 4000), (pod(family, far, 7), 80));
            let (there, back) = (datagram(own, cluster), datagram(cluster, own));
            let expect = GREEN.to_node(far, &there.clone().ttl(63));
            check(
                &mut node,
                "there",
                GREEN.port(2),
                &sent(&there, GREEN.port(2)),
                expect,
            );
            let expect = delivered(&back.clone().ttl(63), GREEN.port(2));
            check(&mut node, "back", uplink(), &GREEN.tunnelled(far, &back), expect);
            assert_eq!(networks(&node), [NetworkId::CLUSTER, GREEN.id, GREEN.id]);
        }
    }
}

fn segment(from: (IpAddr, u16), to: (IpAddr, u16), syn: bool, numbers: (u32, Option<u32>)) -> Ip {
    Ip::udp(from.0, to.0).body(Body::Segment(Segment {
        ports: (from.1, to.1),
        sequence: numbers.0,
        acknowledgment: numbers.1,
        window: 1000,
        syn,
        options: if syn {
            [&[2, 4][..], &1460_u16.to_be_bytes()].concat()
        } else {
            Vec::new()
        },
        ..Segment::default()
    }))
}

/// Whichever side begins, both flows see both directions, so windows are followed; and what fits the tunnel is told.
#[test]
fn tcp_is_followed_in_both_networks() {
    for (family, is_reversed) in Family::BOTH
        .into_iter()
        .flat_map(|f| [false, true].map(|r| (f, r)))
    {
        let mut node = node();
        let cluster = ((pod(family, 1, 2), 4000), false);
        let green = ((GREEN.pod(family, 2, 7), 80), true);
        let (one, other) = if is_reversed {
            (green, cluster)
        } else {
            (cluster, green)
        };
        let fits = vxlan_mtu(1, 2) - if family == Family::V4 { 40 } else { 60 };
        let mut say =
            |(from, is_green): ((IpAddr, u16), bool), (to, _): ((IpAddr, u16), bool), syn, numbers| {
                let ip = segment(from, to, syn, numbers);
                let (verdict, left) = if is_green {
                    node.receive(uplink(), &GREEN.tunnelled(2, &ip))
                } else {
                    node.receive(pod_port(2), &sent(&ip, pod_port(2)))
                };
                if syn && verdict == Verdict::Forward(if is_green { pod_port(2) } else { uplink() }) {
                    let told = left
                        .windows(4)
                        .any(|bytes| bytes[..2] == [2, 4] && bytes[2..] == fits.to_be_bytes());
                    assert!(told, "{family:?}: the segment size is lowered");
                }
                verdict
            };
        let to = |is_green: bool| Verdict::Forward(if is_green { uplink() } else { pod_port(2) });
        assert_eq!(say(one, other, true, (100, None)), to(other.1));
        assert_eq!(say(other, one, true, (500, Some(101))), to(one.1));
        assert_eq!(say(one, other, false, (101, Some(501))), to(other.1));
        assert_eq!(say(other, one, false, (501, Some(101))), to(one.1));
        let beyond = say(one, other, false, (900_000, Some(501)));
        assert_eq!(beyond, Verdict::Drop(DropReason::TcpWindow));
        assert_eq!(networks(&node), [NetworkId::CLUSTER, GREEN.id]);
    }
}

#[test]
fn both_networks_policies_are_asked() {
    for family in Family::BOTH {
        let (own, green) = ((pod(family, 1, 2), 4000), (GREEN.pod(family, 1, 2), 80));
        let there = datagram(own, green);
        let cluster = [2, 3].map(|number| (pod_port(number), pod(family, 1, number)));
        let of_green = [2, 3].map(|number| (GREEN.port(number), GREEN.pod(family, 1, number)));
        let cases = [
            (
                NetworkId::CLUSTER,
                Side::Egress,
                None,
                Err(DropReason::PolicyEgress),
            ),
            (NetworkId::CLUSTER, Side::Egress, Some(green.0), Ok(())),
            (NetworkId::CLUSTER, Side::Ingress, None, Ok(())),
            (GREEN.id, Side::Ingress, None, Err(DropReason::PolicyIngress)),
            (GREEN.id, Side::Ingress, Some(own.0), Ok(())),
            (GREEN.id, Side::Egress, None, Ok(())),
        ];
        for (network, side, but, expected) in cases {
            let pods = if network == GREEN.id { of_green } else { cluster };
            let tables = with_policies(network, policies(pods, &[(2, side, but)]));
            let mut node = Node::with(tables).alone();
            let expected = expected.map_or_else(Verdict::Drop, |()| Verdict::Forward(GREEN.port(2)));
            for _ in 0..2 {
                let (verdict, _) = node.receive(pod_port(2), &sent(&there, pod_port(2)));
                assert_eq!(verdict, expected, "{family:?} {network} {side:?} but {but:?}");
            }
            // What is answered is allowed with what it answers.
            if let Verdict::Forward(_) = expected {
                let back = datagram(green, own);
                let (verdict, _) = node.receive(GREEN.port(2), &sent(&back, GREEN.port(2)));
                assert_eq!(verdict, Verdict::Forward(pod_port(2)));
            }
        }
        // A protocol that belongs to no connection is judged twice as well.
        let gre = Ip::udp(own.0, green.0).body(Body::Raw(47, vec![0; 20]));
        let tables = with_policies(GREEN.id, policies(of_green, &[(2, Side::Ingress, None)]));
        let mut node = Node::with(tables).alone();
        let (verdict, _) = node.receive(pod_port(2), &sent(&gre, pod_port(2)));
        assert_eq!(verdict, Verdict::Drop(DropReason::PolicyIngress));
        let mut node = super::scene::node();
        let expect = delivered(&gre.clone().ttl(63), GREEN.port(2));
        check(&mut node, "GRE", pod_port(2), &sent(&gre, pod_port(2)), expect);
    }
}

/// The cluster's routes, or green's, and more.
fn with_routes(top_routes: &[(Prefix, Target)], green_routes: &[(Prefix, Target)]) -> NodeTables {
    let more = |tables: NodeTables, routes: &[(Prefix, Target)]| {
        let all = tables
            .routes
            .routes()
            .iter()
            .copied()
            .chain(routes.iter().copied());
        let routes = Arc::new(RouteTable::build(all));
        NodeTables { routes, ..tables }
    };
    let top = more(top(1), top_routes);
    let green = more(tables_of(GREEN, 1, &top), green_routes);
    let yellow = tables_of(YELLOW, 1, &top);
    with(top, [green, yellow])
}

#[test]
fn from_the_second_network_nothing_goes_on_into_a_third() {
    for family in Family::BOTH {
        // Yellow may be reached from green, and somebody has led the cluster there by way of green.
        let to_yellow = [(subnet(YELLOW.ten, family), Target::Network(GREEN.id))];
        let mut node = Node::with(with_routes(&to_yellow, &[]));
        let ip = datagram((pod(family, 1, 2), 4000), (YELLOW.pod(family, 1, 2), 80));
        for _ in 0..3 {
            let (verdict, _) = node.receive(pod_port(2), &sent(&ip, pod_port(2)));
            assert_eq!(verdict, Verdict::Drop(DropReason::NetworkTransit), "{family:?}");
        }
        assert_eq!(networks(&node), [NetworkId::CLUSTER], "no connection of green's");
        // From green itself it is fine.
        let own = datagram((GREEN.pod(family, 1, 2), 4000), (YELLOW.pod(family, 1, 2), 80));
        let expect = delivered(&own.clone().ttl(63), YELLOW.port(2));
        check(
            &mut node,
            "green",
            GREEN.port(2),
            &sent(&own, GREEN.port(2)),
            expect,
        );
        // Not even when green remembers such a connection, and the cluster's pod has the same address.
        let to_itself = [(subnet(GREEN.ten, family), Target::Network(GREEN.id))];
        let mut node = Node::with(with_routes(&[], &to_itself));
        let ip = datagram((GREEN.pod(family, 1, 2), 4000), (GREEN.pod(family, 77, 2), 80));
        let (verdict, _) = node.receive(GREEN.port(2), &sent(&ip, GREEN.port(2)));
        assert_eq!(
            verdict,
            Verdict::Drop(DropReason::NetworkTransit),
            "{family:?}: into itself"
        );
    }
}

#[test]
fn a_network_that_is_gone_is_unreachable() {
    for family in Family::BOTH {
        let mut node = node();
        let ip = datagram((pod(family, 1, 2), 4000), (GREEN.pod(family, 1, 2), 80));
        let frame = sent(&ip, pod_port(2));
        assert_eq!(
            node.receive(pod_port(2), &frame).0,
            Verdict::Forward(GREEN.port(2))
        );
        node.publish(with(top(1), []));
        for _ in 0..2 {
            assert_eq!(node.receive(pod_port(2), &frame), (UNREACHABLE, frame.clone()));
        }
    }
}

/// What is said to the sender is said in its network, about the packet as it sent it.
#[test]
fn what_the_slow_path_gets_is_as_it_came_and_of_the_first_network() {
    for family in Family::BOTH {
        let own = pod(family, 1, 2);
        let next_hop = PuntDetail::NextHop(uplink(), node_address(Family::V4, 4));
        let tunnel = vxlan_mtu(1, 2);
        let green = |node, pod| GREEN.pod(family, node, pod);
        let rows = [
            (
                "too old",
                Ip::udp(own, green(1, 2)).ttl(1),
                PuntReason::TimeExceeded,
                PuntDetail::Nothing,
            ),
            (
                "too large for the pod",
                Ip::udp(own, green(1, 9)).len(usize::from(NARROW_MTU) + 1),
                PuntReason::PacketTooBig,
                PuntDetail::Mtu(NARROW_MTU),
            ),
            (
                "too large for the tunnel",
                Ip::udp(own, green(2, 9)).len(usize::from(tunnel) + 1),
                PuntReason::PacketTooBig,
                PuntDetail::Mtu(tunnel),
            ),
            (
                "nobody",
                Ip::udp(own, green(1, 99)),
                PuntReason::Unreachable,
                PuntDetail::Nothing,
            ),
            (
                "its gateway",
                Ip::udp(own, GREEN.gateway(family)),
                PuntReason::ToSwitch,
                PuntDetail::Nothing,
            ),
            (
                "unresolved",
                Ip::udp(own, green(4, 9)),
                PuntReason::NeighbourUnresolved,
                next_hop,
            ),
        ];
        let mut node = node();
        for (name, ip, reason, detail) in rows {
            let frame = sent(&ip, pod_port(2));
            for _ in 0..2 {
                let end = node.end_of(pod_port(2), &frame);
                let expect = punt(reason, detail, &frame);
                Row::new(name, pod_port(2), Vec::new(), expect).check(end.verdict, &end.left);
                assert_eq!(end.network, NetworkId::CLUSTER, "{name}");
            }
        }
        // What has waited crosses when it goes on, and is one hop older.
        let ip = Ip::udp(own, green(2, 9));
        let (verdict, left) = node.originate(waited(pod_port(2)), &sent(&ip, pod_port(2)));
        Row::new("waited", pod_port(2), Vec::new(), GREEN.to_node(2, &ip.ttl(63))).check(verdict, &left);
    }
}

#[test]
fn what_the_switch_says_itself_crosses_and_is_no_connection() {
    for family in Family::BOTH {
        let mut node = node();
        let ip = Ip::udp(pod(family, 1, 1), GREEN.pod(family, 1, 2));
        let (verdict, left) = node.originate(world::FROM_SWITCH, &sent(&ip, pod_port(2)));
        Row::new("own", pod_port(2), Vec::new(), delivered(&ip, GREEN.port(2))).check(verdict, &left);
        let back = Ip::udp(GREEN.gateway(family), pod(family, 1, 2));
        let (verdict, left) = node.originate(Origin::Switch(GREEN.id), &GREEN.inner(&back));
        Row::new("green's", pod_port(2), Vec::new(), delivered(&back, pod_port(2))).check(verdict, &left);
        assert_eq!(networks(&node), []);
        // The node's own network stack and the switch are one router, so what comes from it is not a hop older.
        let from_host = Ip::udp(pod(family, 1, 0), GREEN.pod(family, 1, 2)).ttl(1);
        let expect = delivered(&from_host, GREEN.port(2));
        check(&mut node, "host", host(), &sent(&from_host, host()), expect);
        let back = Ip::udp(GREEN.pod(family, 1, 2), pod(family, 1, 0)).body(Body::Udp(53, 4000, vec![1; 9]));
        let expect = delivered(&back.clone().ttl(63), host());
        check(
            &mut node,
            "to the host",
            GREEN.port(2),
            &sent(&back, GREEN.port(2)),
            expect,
        );
    }
}

#[test]
fn pieces_cross_with_the_first() {
    for family in Family::BOTH {
        let mut node = node();
        let whole = Ip::udp(pod(family, 1, 2), GREEN.pod(family, 1, 2)).body(Body::Udp(7, 8, vec![3; 200]));
        let came = sent(&whole, pod_port(2));
        let Expect::Forward(exit, left) = delivered(&whole.clone().ttl(63), GREEN.port(2)) else {
            panic!("to a port");
        };
        let len = came.len() - payload_at(family);
        for (part, more) in [(0..64, true), (64..len, false)] {
            let piece = cut(family, &came, part.clone(), more);
            let expect = Expect::Forward(exit, cut(family, &left, part, more));
            check(&mut node, "piece", pod_port(2), &piece, expect);
        }
        let again = cut(family, &came, 0..64, true);
        let expect = Expect::Forward(exit, cut(family, &left, 0..64, true));
        check(
            &mut node,
            "all of it has passed, so it may come again",
            pod_port(2),
            &again,
            expect,
        );
        let (verdict, _) = node.receive(pod_port(2), &again);
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentOverlap));
    }
}

/// A piece that waits in the network into which it goes has passed in neither, and goes on when it comes again.
#[test]
fn a_piece_that_waits_behind_the_boundary_may_come_again() {
    for family in Family::BOTH {
        let mut node = node();
        let to = GREEN.pod(family, 4, 9);
        let whole = Ip::udp(pod(family, 1, 2), to).body(Body::Udp(7, 8, vec![3; 200]));
        let piece = cut(family, &sent(&whole, pod_port(2)), 0..64, true);
        let detail = PuntDetail::NextHop(uplink(), node_address(Family::V4, 4));
        for _ in 0..2 {
            let (verdict, left) = node.receive(pod_port(2), &piece);
            let expect = punt(PuntReason::NeighbourUnresolved, detail, &piece);
            Row::new("first", pod_port(2), Vec::new(), expect).check(verdict, &left);
        }
    }
}

#[test]
fn errors_cross_back() {
    for family in Family::BOTH {
        let mut node = node();
        let (own, green) = ((pod(family, 1, 2), 4000), (GREEN.pod(family, 1, 2), 80));
        let there = datagram(own, green);
        let seen = there.clone().ttl(63);
        check(&mut node, "there", pod_port(2), &sent(&there, pod_port(2)), {
            delivered(&seen, GREEN.port(2))
        });
        let error = port_unreachable(green.0, own.0, &seen);
        let expect = delivered(&error.clone().ttl(63), pod_port(2));
        check(
            &mut node,
            "error",
            GREEN.port(2),
            &sent(&error, GREEN.port(2)),
            expect,
        );
        // About nothing that was sent it crosses no boundary where pods are isolated; a pod is no router.
        let other = datagram(own, (GREEN.pod(family, 1, 3), 81));
        check(&mut node, "there", pod_port(2), &sent(&other, pod_port(2)), {
            delivered(&other.clone().ttl(63), GREEN.port(3))
        });
        let forged = port_unreachable(green.0, own.0, &other.ttl(63));
        let (verdict, _) = node.receive(GREEN.port(2), &sent(&forged, GREEN.port(2)));
        assert_eq!(verdict, Verdict::Drop(DropReason::IcmpUnrelated));
        // From a router on another node, in green's tunnel.
        let far = datagram(own, (GREEN.pod(family, 2, 7), 80));
        check(&mut node, "far", pod_port(2), &sent(&far, pod_port(2)), {
            GREEN.to_node(2, &far.clone().ttl(63))
        });
        let error = too_big(GREEN.gateway(family), own.0, &far.ttl(63), 1000);
        let expect = delivered(&error.clone().ttl(63), pod_port(2));
        check(&mut node, "error", uplink(), &GREEN.tunnelled(2, &error), expect);
    }
}

/// Two pods of the cluster talk, or one of them with a Service; a pod of green quotes that to one of them.
#[test]
fn an_error_says_nothing_of_what_was_not_sent_into_its_network() {
    for family in Family::BOTH {
        let mut node = Node::with(served(family, (pod(family, 1, 3), 8080)));
        let (own, other) = ((pod(family, 1, 2), 4000), (pod(family, 1, 3), 80));
        let direct = datagram(own, other).ttl(63);
        let called = datagram((own.0, 4001), (other.0, 8080)).ttl(63);
        for (to, seen) in [(other, &direct), ((vip(family, 1), 80), &called)] {
            let from = if to == other { own } else { (own.0, 4001) };
            let expect = delivered(seen, pod_port(3));
            check(
                &mut node,
                "talk",
                pod_port(2),
                &sent(&datagram(from, to), pod_port(2)),
                expect,
            );
        }
        let green = GREEN.pod(family, 1, 2);
        let far = GREEN.pod(family, 2, 7);
        for seen in [&direct, &called] {
            let near = port_unreachable(green, own.0, seen);
            let (verdict, _) = node.receive(GREEN.port(2), &sent(&near, GREEN.port(2)));
            assert_eq!(verdict, Verdict::Drop(DropReason::IcmpUnrelated), "{family:?}");
            for from in [far, GREEN.gateway(family)] {
                let error = too_big(from, own.0, seen, 1000);
                let (verdict, _) = node.receive(uplink(), &GREEN.tunnelled(2, &error));
                assert_eq!(
                    verdict,
                    Verdict::Drop(DropReason::IcmpUnrelated),
                    "{family:?} {from}"
                );
            }
        }
    }
}

/// A Service of the cluster's whose endpoint is in green.
fn served(family: Family, endpoint: (IpAddr, u16)) -> NodeTables {
    let sketch = Sketch::new(
        1,
        At::Cluster(vip(family, 1)),
        80,
        &[(endpoint.0, endpoint.1, false)],
    );
    let tables = tables(1);
    NodeTables {
        services: Arc::new(services(&[sketch])),
        ..tables
    }
}

#[test]
fn a_service_may_have_its_endpoint_in_another_network() {
    for family in Family::BOTH {
        let endpoint = (GREEN.pod(family, 1, 2), 8080);
        let mut node = Node::with(served(family, endpoint));
        let (own, service) = ((pod(family, 1, 2), 4000), (vip(family, 1), 80));
        let (call, called) = (datagram(own, service), datagram(own, endpoint).ttl(63));
        for _ in 0..3 {
            let expect = delivered(&called, GREEN.port(2));
            check(&mut node, "call", pod_port(2), &sent(&call, pod_port(2)), expect);
            let answer = datagram(endpoint, own);
            let expect = delivered(&datagram(service, own).ttl(63), pod_port(2));
            check(
                &mut node,
                "answer",
                GREEN.port(2),
                &sent(&answer, GREEN.port(2)),
                expect,
            );
        }
        // The caller is told of the packet that it sent, from the address that it called.
        let error = port_unreachable(endpoint.0, own.0, &called);
        let expected = port_unreachable(service.0, own.0, &call.clone().ttl(63)).ttl(63);
        let expect = delivered(&expected, pod_port(2));
        check(
            &mut node,
            "error",
            GREEN.port(2),
            &sent(&error, GREEN.port(2)),
            expect,
        );
        // Too large for what is behind: as it came, of the caller's network.
        let narrow = (GREEN.pod(family, 1, 9), 8080);
        let mut node = Node::with(served(family, narrow));
        let large = datagram(own, service).len(usize::from(NARROW_MTU) + 1);
        let frame = sent(&large, pod_port(2));
        let end = node.end_of(pod_port(2), &frame);
        let expect = punt(PuntReason::PacketTooBig, PuntDetail::Mtu(NARROW_MTU), &frame);
        Row::new("large", pod_port(2), Vec::new(), expect).check(end.verdict, &end.left);
    }
}

/// A client outside of the cluster calls by this node, under whose gateway's address it goes on: so the answer comes back here. Also
/// where the traffic policy would have the endpoint see the client.
#[test]
fn the_world_reaches_a_services_endpoint_in_another_network() {
    for family in Family::BOTH {
        let here = GREEN.pod(family, 1, 2);
        for (endpoint, is_far, external_local) in [
            (here, false, false),
            (GREEN.pod(family, 2, 7), true, false),
            (here, false, true),
        ] {
            let called = (external(family, 8), 80);
            let sketch = Sketch {
                external_local,
                ..Sketch::new(
                    1,
                    At::External(called.0),
                    called.1,
                    &[(endpoint, 8080, external_local)],
                )
            };
            let tables = tables(1);
            let gateway = pod(family, 1, 1);
            let mut local = Local::clone(&tables.local);
            match gateway {
                IpAddr::V4(gateway) => local.sources_v4.gateway = Some(gateway),
                IpAddr::V6(gateway) => local.sources_v6.gateway = Some(gateway),
            }
            let mut node = Node::with(NodeTables {
                local: Arc::new(local),
                services: Arc::new(services(&[sketch])),
                ..tables
            });
            let client = client(family);
            let call = datagram(client, called);
            for _ in 0..3 {
                let frame = call.frame(world::switch_mac(1, uplink()), world::router_mac());
                let expect = datagram((gateway, client.1), (endpoint, 8080)).ttl(63);
                let expect = if is_far {
                    GREEN.to_node(2, &expect)
                } else {
                    delivered(&expect, GREEN.port(2))
                };
                check(&mut node, "call", uplink(), &frame, expect);
                let answer = datagram((endpoint, 8080), (gateway, client.1));
                let (at, frame) = if is_far {
                    (uplink(), GREEN.tunnelled(2, &answer))
                } else {
                    (GREEN.port(2), sent(&answer, GREEN.port(2)))
                };
                let left = datagram(called, client).ttl(63);
                let left = left.frame(world::router_mac(), world::switch_mac(1, uplink()));
                check(&mut node, "answer", at, &frame, Expect::Forward(uplink(), left));
            }
        }
    }
}

#[test]
fn other_networks_have_no_services_and_do_not_leave_by_the_clusters_uplink() {
    for family in Family::BOTH {
        // Green is led into the cluster with more than the cluster's pods.
        let everything = Prefix::containing(the_world(family), 0).unwrap();
        let tables = with_routes(&[], &[(everything, Target::Network(NetworkId::CLUSTER))]);
        let local = Local {
            masquerade: true,
            pod_networks: Lpm::build([(subnet(244, family), ())]),
            ..Local::clone(&tables.local)
        };
        let sketch = Sketch::new(
            1,
            At::Cluster(vip(family, 1)),
            80,
            &[(pod(family, 1, 3), 80, true)],
        );
        let mut node = Node::with(NodeTables {
            local: Arc::new(local),
            services: Arc::new(services(&[sketch])),
            ..tables
        });
        for to in [the_world(family), vip(family, 1), node_address(family, 2)] {
            let ip = datagram((GREEN.pod(family, 1, 2), 4000), (to, 80));
            let frame = sent(&ip, GREEN.port(2));
            for _ in 0..2 {
                let end = node.end_of(GREEN.port(2), &frame);
                assert_eq!((end.verdict, end.network), (UNREACHABLE, GREEN.id), "{to}");
            }
        }
    }
}

/// A pod keeps its address where it goes into another network, although it would not on the way to the world.
#[test]
fn what_crosses_is_not_masqueraded() {
    for family in Family::BOTH {
        let tables = tables(1);
        let local = Local {
            masquerade: true,
            ..Local::clone(&tables.local)
        };
        let mut node = Node::with(NodeTables {
            local: Arc::new(local),
            ..tables
        });
        let ip = datagram((pod(family, 1, 2), 4000), (GREEN.pod(family, 2, 2), 80));
        let expect = GREEN.to_node(2, &ip.clone().ttl(63));
        check(&mut node, "green", pod_port(2), &sent(&ip, pod_port(2)), expect);
        let seen: BTreeSet<_> = networks(&node).into_iter().collect();
        assert_eq!(seen, BTreeSet::from([NetworkId::CLUSTER, GREEN.id]));
    }
}
