//! Pods that leave the cluster do so under the node's address, and their answers find back.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::{Local, NodeTables, Prefix};
use millrace_dataplane::verdict::{Awaited, DropReason, PuntDetail, PuntReason, Verdict};

use super::{Exchange, From, SCTP, TCP, To, UDP, UDP_LITE, hop, node, packet, say, tables};
use crate::packets::{Body, Family, Ip};
use crate::rows::{Expect, Row};
use crate::world::{
    Node, after_steering, node_address, pod, pod_port, router_mac, switch_mac, uplink, world,
};

#[test]
fn a_pod_is_the_node_to_the_world_and_keeps_a_port_that_may_be_kept() {
    for family in Family::BOTH {
        let mut node = node(&[]);
        for protocol in [UDP, TCP, SCTP, UDP_LITE] {
            Exchange {
                name: format!("{family:?} {protocol}: to the world"),
                protocol,
                from: From::Pod(2),
                to: To::World,
                comes: ((pod(family, 1, 2), 61_234), (world(family), 53)),
                leaves: ((node_address(family, 1), 61_234), (world(family), 53)),
            }
            .run(&mut node);
        }
    }
}

/// The source port that a frame leaves with.
fn source_port(family: Family, frame: &[u8]) -> u16 {
    let at = if family == Family::V4 { 34 } else { 54 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn other_ports_come_from_the_range_that_the_node_leaves_alone_and_never_twice() {
    for family in Family::BOTH {
        let mut node = node(&[]);
        let mut taken = std::collections::HashSet::new();
        for from in 0..200 {
            let ip = packet(UDP, (pod(family, 1, 2), 1000 + from), (world(family), 53));
            let (verdict, left) = node.receive(pod_port(2), &From::Pod(2).frame(&ip));
            assert_eq!(verdict, Verdict::Forward(uplink()));
            let port = source_port(family, &left);
            assert!(port >= 61_000 && taken.insert(port), "{port}");
            let answer = packet(UDP, (world(family), 53), (node_address(family, 1), port));
            let returned = packet(UDP, (world(family), 53), (pod(family, 1, 2), 1000 + from));
            say(
                &mut node,
                "the answer",
                From::World,
                &answer,
                To::Pod(2).expect(&hop(&returned)),
            );
        }
    }
}

/// A range of few ports that are all taken is a drop of its own; another destination has them all again.
#[test]
fn a_range_that_is_full_drops_and_never_stalls() {
    for family in Family::BOTH {
        let base = tables(&[]);
        let local = Local {
            uplink_ports: (61_000, 61_002),
            ..Local::clone(&base.local)
        };
        let mut node = Node::with(NodeTables {
            local: Arc::new(local),
            ..base
        });
        let ip = |from| packet(UDP, (pod(family, 1, 2), from), (world(family), 53));
        for from in 0..3 {
            let (verdict, _) = node.receive(pod_port(2), &From::Pod(2).frame(&ip(1000 + from)));
            assert_eq!(verdict, Verdict::Forward(uplink()));
        }
        let exhausted = Expect::Drop(DropReason::SnatExhausted);
        say(&mut node, "all taken", From::Pod(2), &ip(2000), exhausted);
        let elsewhere = packet(UDP, (pod(family, 1, 2), 2000), (world(family), 54));
        let (verdict, _) = node.receive(pod_port(2), &From::Pod(2).frame(&elsewhere));
        assert_eq!(verdict, Verdict::Forward(uplink()));
        // Once they are forgotten there is room again.
        node.wait(200);
        let (verdict, _) = node.receive(pod_port(2), &From::Pod(2).frame(&ip(2000)));
        assert_eq!(verdict, Verdict::Forward(uplink()));
    }
}

/// ICMP ids likewise; the first request waits until the uplink's steering knows the id.
#[test]
fn a_ping_leaves_with_an_id_of_ours_once_its_reply_is_steered() {
    for family in Family::BOTH {
        let mut node = node(&[]);
        let data = vec![0x5a; 56];
        let request = Ip::udp(pod(family, 1, 2), world(family)).body(Body::Echo(7, data.clone()));
        let frame = From::Pod(2).frame(&request);
        let (verdict, left) = node.receive(pod_port(2), &frame);
        let Verdict::Punt(PuntReason::EchoId, PuntDetail::Answers(Awaited::Echo(id), remote)) = verdict
        else {
            panic!("{verdict:?}")
        };
        assert_eq!((left, remote), (frame.clone(), world(family)));
        assert!(id >= 61_000);
        let again = node.receive(pod_port(2), &frame).0;
        assert_eq!(again, verdict, "until somebody has seen to it");
        let sent = hop(&Ip::udp(node_address(family, 1), world(family)).body(Body::Echo(id, data.clone())));
        let expect = Expect::Forward(uplink(), sent.frame(router_mac(), switch_mac(1, uplink())));
        let (verdict, left) = node.originate(after_steering(pod_port(2)), &frame);
        Row::new("steered", pod_port(2), vec![], expect.clone()).check(verdict, &left);
        say(&mut node, "the second request", From::Pod(2), &request, expect);
        let reply = Ip::udp(world(family), node_address(family, 1)).body(Body::EchoReply(id, data.clone()));
        let returned = Ip::udp(world(family), pod(family, 1, 2)).body(Body::EchoReply(7, data.clone()));
        say(
            &mut node,
            "the reply",
            From::World,
            &reply,
            To::Pod(2).expect(&hop(&returned)),
        );
        let stray = Ip::udp(world(family), node_address(family, 1)).body(Body::EchoReply(8, data));
        let dropped = Expect::Drop(DropReason::NotForUs);
        say(&mut node, "another's reply", From::World, &stray, dropped);
    }
}

/// Whom a pod is itself to: pods of any node, its own node, and everyone where masquerading is off.
#[test]
fn inside_the_cluster_a_pod_is_itself() {
    for family in Family::BOTH {
        let own = pod(family, 1, 2);
        let same = |name: &str, to, (destination, port)| Exchange {
            name: format!("{family:?}: {name}"),
            protocol: UDP,
            from: From::Pod(2),
            to,
            comes: ((own, 4000), (destination, port)),
            leaves: ((own, 4000), (destination, port)),
        };
        let mut node = node(&[]);
        same("a pod of this node", To::Pod(3), (pod(family, 1, 3), 80)).run(&mut node);
        same("a pod of another node", To::Peer, (pod(family, 2, 3), 80)).run(&mut node);
        same("its own node", To::Host, (node_address(family, 1), 53)).run(&mut node);
        let masked = |edit: fn(&mut Local, IpAddr), address| {
            let base = tables(&[]);
            let mut local = Local::clone(&base.local);
            edit(&mut local, address);
            Node::with(NodeTables {
                local: Arc::new(local),
                ..base
            })
        };
        let mut node = masked(|local, _| local.masquerade = false, own);
        same("the world, as it is", To::World, (world(family), 53)).run(&mut node);
        let without_nat = |local: &mut Local, address| local.unmasqueraded = vec![Prefix::host(address)];
        let mut node = masked(without_nat, own);
        same(
            "the world, from a pool without NAT",
            To::World,
            (world(family), 53),
        )
        .run(&mut node);
    }
}
