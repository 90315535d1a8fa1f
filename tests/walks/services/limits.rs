//! A full table, a pod's share of it, and time that runs out.

use millrace_dataplane::table::flow::FlowOptions;
use millrace_dataplane::verdict::{DropReason, Verdict};

use super::{From, To, UDP, hop, node, packet, say, tables};
use crate::packets::{Body, Family, Ip, Segment};
use crate::rows::Expect;
use crate::world::{Node, pod, pod_port};

fn node_of(options: &FlowOptions) -> Node {
    Node::with_flows(tables(&[]), options)
}

const ROOM: u32 = 64;

/// When the table is full the half-open go first and the established stay.
#[test]
fn a_full_table_keeps_what_both_sides_have_spoken() {
    for family in Family::BOTH {
        let mut node = node_of(&FlowOptions {
            ipv4: ROOM,
            ipv6: ROOM,
            ..FlowOptions::default()
        });
        let (own, other) = (pod(family, 1, 2), pod(family, 1, 3));
        let established: Vec<_> = (0..16)
            .map(|port| packet(UDP, (own, 1000 + port), (other, 80)))
            .collect();
        for (ip, port) in established.iter().zip(1000..) {
            say(&mut node, "first", From::Pod(2), ip, To::Pod(3).expect(&hop(ip)));
            let answer = packet(UDP, (other, 80), (own, port));
            say(
                &mut node,
                "answer",
                From::Pod(3),
                &answer,
                To::Pod(2).expect(&hop(&answer)),
            );
        }
        for port in 0..1000 {
            let one_sided = packet(UDP, (own, 5000 + port), (other, 80));
            let (verdict, _) = node.receive(pod_port(2), &From::Pod(2).frame(&one_sided));
            let is_full = Verdict::Drop(DropReason::FlowTableFull);
            assert!(
                verdict == Verdict::Forward(pod_port(3)) || verdict == is_full,
                "{verdict:?}"
            );
        }
        for (ip, port) in established.iter().zip(1000..) {
            let answer = packet(UDP, (other, 80), (own, port));
            say(
                &mut node,
                "still there",
                From::Pod(2),
                ip,
                To::Pod(3).expect(&hop(ip)),
            );
            say(
                &mut node,
                "still there",
                From::Pod(3),
                &answer,
                To::Pod(2).expect(&hop(&answer)),
            );
        }
    }
}

/// Where all have spoken, a new connection is dropped under a reason of its own.
#[test]
fn a_table_full_of_established_connections_takes_no_more() {
    for family in Family::BOTH {
        let mut node = node_of(&FlowOptions {
            ipv4: ROOM,
            ipv6: ROOM,
            ..FlowOptions::default()
        });
        let (own, other) = (pod(family, 1, 2), pod(family, 1, 3));
        let mut full = 0;
        for port in 0..200 {
            let ip = packet(UDP, (own, 1000 + port), (other, 80));
            let (verdict, _) = node.receive(pod_port(2), &From::Pod(2).frame(&ip));
            full += u32::from(verdict == Verdict::Drop(DropReason::FlowTableFull));
            let answer = packet(UDP, (other, 80), (own, 1000 + port));
            node.receive(pod_port(3), &From::Pod(3).frame(&answer));
        }
        assert!(full > 0, "200 connections fit into {ROOM} places");
    }
}

/// A pod has its share of the table, and no more; others have theirs.
#[test]
fn a_pod_fills_its_share_and_not_the_table() {
    for family in Family::BOTH {
        let mut node = node_of(&FlowOptions {
            ipv4: 4096,
            ipv6: 4096,
            per_pod: 10,
            ..FlowOptions::default()
        });
        let (own, other) = (pod(family, 1, 2), pod(family, 1, 3));
        for port in 0..10 {
            let ip = packet(UDP, (own, 1000 + port), (other, 80));
            say(
                &mut node,
                "its share",
                From::Pod(2),
                &ip,
                To::Pod(3).expect(&hop(&ip)),
            );
        }
        let more = packet(UDP, (own, 2000), (other, 80));
        let capped = Expect::Drop(DropReason::FlowPodCap);
        say(&mut node, "beyond it", From::Pod(2), &more, capped);
        let others = packet(UDP, (other, 2000), (own, 80));
        say(
            &mut node,
            "another pod",
            From::Pod(3),
            &others,
            To::Pod(2).expect(&hop(&others)),
        );
        node.wait(200);
        say(
            &mut node,
            "later",
            From::Pod(2),
            &more,
            To::Pod(3).expect(&hop(&more)),
        );
    }
}

/// UDP 30 s, 120 s once both sides spoke; TCP half-open 60 s; ICMP 30 s.
#[test]
fn what_is_silent_is_forgotten_in_its_time() {
    for family in Family::BOTH {
        let (own, other) = (pod(family, 1, 2), pod(family, 1, 3));
        let syn = Segment {
            ports: (4000, 80),
            sequence: 1000,
            window: 5000,
            syn: true,
            ..Segment::default()
        };
        let half_open = Ip::udp(own, other).body(Body::Segment(syn));
        let ping = Ip::udp(own, other).body(Body::Echo(7, vec![0; 8]));
        let udp = packet(UDP, (own, 4000), (other, 80));
        for (name, packets, seconds) in [
            ("UDP", vec![(From::Pod(2), udp.clone())], 30),
            (
                "UDP of both sides",
                vec![
                    (From::Pod(2), udp.clone()),
                    (From::Pod(3), packet(UDP, (other, 80), (own, 4000))),
                ],
                120,
            ),
            ("TCP half-open", vec![(From::Pod(2), half_open)], 60),
            ("ping", vec![(From::Pod(2), ping)], 30),
        ] {
            let mut node = node(&[]);
            let count = |node: &Node| node.connections.flows.v4().len() + node.connections.flows.v6().len();
            for (from, ip) in packets {
                node.receive(from.port(), &from.frame(&ip));
            }
            assert_eq!(count(&node), 1, "{name}");
            node.wait(seconds - 1);
            node.wait(0);
            assert_eq!(count(&node), 1, "{name}: too early");
            for _ in 0..15 {
                node.wait(1);
            }
            assert_eq!(count(&node), 0, "{name}: too late");
        }
    }
}
