//! Pods that leave the cluster in protocols without ports: under the node's address where the node file lists the protocol,
//! one pod to a remote; else not at all, since it would be under their own.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::{Local, NodeTables};
use millrace_dataplane::verdict::{Awaited, DropReason, PuntDetail, PuntReason, Verdict};
use millrace_dataplane::wire::IpProtocol;

use super::errors::too_big;
use super::pieces::check;
use super::{At, From, Sketch, To, UDP_LITE, hop, local, node, say, tables, vip};
use crate::packets::{Body, Family, Ip, cut, payload_at};
use crate::rows::{Expect, punt};
use crate::world::{
    Node, after_steering, node_address, pod, pod_port, router_mac, switch_mac, uplink, world,
};

const GRE: u8 = IpProtocol::GRE.0;
const ESP: u8 = IpProtocol::ESP.0;

/// A node whose file lists GRE.
fn listing(sketches: &[Sketch]) -> Node {
    let base = tables(sketches);
    let local = Local {
        masquerade_protocols: vec![IpProtocol::GRE],
        ..Local::clone(&base.local)
    };
    Node::with(NodeTables {
        local: Arc::new(local),
        ..base
    })
}

fn raw(protocol: u8, source: IpAddr, destination: IpAddr) -> Ip {
    // The first bytes are where others have ports.
    let data = [&[0, 0, 8, 0][..], b"what a tunnel carries"].concat();
    Ip::udp(source, destination).body(Body::Raw(protocol, data))
}

fn held(from: From, ip: &Ip) -> Expect {
    let detail = PuntDetail::Answers(Awaited::Protocol(IpProtocol::GRE), ip.destination);
    punt(PuntReason::Portless, detail, &from.frame(ip))
}

/// Sends the first packet of a conversation, as the slow path does once steering knows of it.
fn steered(node: &mut Node, from: From, ip: &Ip) -> Verdict {
    say(node, "first", from, ip, held(from, ip));
    let (verdict, _) = node.originate(after_steering(from.port()), &from.frame(ip));
    verdict
}

#[test]
fn a_listed_protocol_leaves_under_the_node_s_address_and_answers_find_back() {
    for family in Family::BOTH {
        let mut node = listing(&[]);
        let (own, remote, other) = (pod(family, 1, 2), world(family), pod(family, 1, 3));
        let elsewhere = family.pick("198.51.100.77", "2001:db8:77::1");
        let request = raw(GRE, own, remote);
        let sent = hop(&raw(GRE, node_address(family, 1), remote));
        say(
            &mut node,
            "first",
            From::Pod(2),
            &request,
            held(From::Pod(2), &request),
        );
        assert_eq!(
            steered(&mut node, From::Pod(2), &request),
            Verdict::Forward(uplink())
        );
        for name in ["second", "third"] {
            say(&mut node, name, From::Pod(2), &request, To::World.expect(&sent));
        }
        let answer = raw(GRE, remote, node_address(family, 1));
        let returned = To::Pod(2).expect(&hop(&raw(GRE, remote, own)));
        say(&mut node, "answer", From::World, &answer, returned.clone());
        // What belongs to nobody's conversation.
        let not_ours = || Expect::Drop(DropReason::NotForUs);
        let stray = raw(GRE, elsewhere, node_address(family, 1));
        say(&mut node, "from somebody else", From::World, &stray, not_ours());
        let stray = raw(ESP, remote, node_address(family, 1));
        say(&mut node, "in another protocol", From::World, &stray, not_ours());
        // Nothing would tell a second pod's answers from the first's.
        let second = raw(GRE, other, remote);
        let taken = Expect::Drop(DropReason::MasqueradeTaken);
        say(&mut node, "another pod", From::Pod(3), &second, taken);
        let second_elsewhere = raw(GRE, other, elsewhere);
        let forwarded = steered(&mut node, From::Pod(3), &second_elsewhere);
        assert_eq!(forwarded, Verdict::Forward(uplink()));
        say(&mut node, "still the first's", From::World, &answer, returned);
        // Once the first has been silent for long, the second can have the remote.
        node.wait(601);
        assert_eq!(
            steered(&mut node, From::Pod(3), &second),
            Verdict::Forward(uplink())
        );
    }
}

#[test]
fn what_is_not_listed_does_not_leave_under_a_pod_s_address() {
    /// ICMP timestamp, its checksum right.
    const TIMESTAMP: [u8; 20] = [13, 0, 0xf2, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for family in Family::BOTH {
        let own = pod(family, 1, 2);
        let refused = || Expect::Drop(DropReason::MasqueradeProtocol);
        for (name, make, protocol) in [
            ("GRE", node as fn(&[Sketch]) -> Node, GRE),
            ("ESP", listing, ESP),
            ("IP in IP", listing, 4),
        ] {
            let mut node = make(&[]);
            let ip = raw(protocol, own, world(family));
            say(&mut node, name, From::Pod(2), &ip, refused());
            // Inside the cluster everybody is himself.
            let inside = raw(protocol, own, pod(family, 1, 3));
            let delivered = To::Pod(3).expect(&hop(&inside));
            say(&mut node, name, From::Pod(2), &inside, delivered);
            let afar = raw(protocol, own, pod(family, 2, 3));
            say(&mut node, name, From::Pod(2), &afar, To::Peer.expect(&hop(&afar)));
        }
        if family == Family::V4 {
            let ip = Ip::udp(own, world(family)).body(Body::Raw(1, TIMESTAMP.to_vec()));
            say(&mut node(&[]), "ICMP timestamp", From::Pod(2), &ip, refused());
        }
    }
}

#[test]
fn a_listed_protocol_goes_between_pods_and_to_no_service() {
    for family in Family::BOTH {
        let (address, port) = local(family);
        let sketch = Sketch::new(1, At::Cluster(vip(family, 1)), 80, &[(address, port, true)]);
        let mut node = listing(&[sketch]);
        let (own, other) = (pod(family, 1, 2), pod(family, 1, 3));
        for _ in 0..2 {
            let request = raw(GRE, own, other);
            say(
                &mut node,
                "request",
                From::Pod(2),
                &request,
                To::Pod(3).expect(&hop(&request)),
            );
            let answer = raw(GRE, other, own);
            say(
                &mut node,
                "answer",
                From::Pod(3),
                &answer,
                To::Pod(2).expect(&hop(&answer)),
            );
        }
        let to_service = raw(GRE, own, vip(family, 1));
        let refused = punt(
            PuntReason::ServiceReject,
            PuntDetail::Nothing,
            &From::Pod(2).frame(&to_service),
        );
        say(&mut node, "a Service", From::Pod(2), &to_service, refused);
    }
}

#[test]
fn its_errors_and_pieces_follow_it() {
    const FIRST: usize = 1000;
    for family in Family::BOTH {
        let mut node = listing(&[]);
        let (own, remote) = (pod(family, 1, 2), world(family));
        let large = |source| Ip::udp(source, remote).body(Body::Raw(GRE, vec![0x5a; 1400]));
        assert_eq!(
            steered(&mut node, From::Pod(2), &large(own)),
            Verdict::Forward(uplink())
        );
        let router = family.pick("198.51.100.9", "2001:db8:9::1");
        let forwarded = hop(&large(node_address(family, 1)));
        let error = too_big(router, node_address(family, 1), &forwarded, 1200);
        let heard = too_big(router, own, &hop(&large(own)), 1200);
        say(
            &mut node,
            "too big",
            From::World,
            &error,
            To::Pod(2).expect(&hop(&heard)),
        );
        let came = From::Pod(2).frame(&large(own));
        let left = forwarded.frame(router_mac(), switch_mac(1, uplink()));
        for (part, more) in [(0..FIRST, true), (FIRST..came.len() - payload_at(family), false)] {
            let piece = cut(family, &came, part.clone(), more);
            let expected = cut(family, &left, part, more);
            check(
                &mut node,
                "piece",
                pod_port(2),
                &piece,
                Expect::Forward(uplink(), expected),
            );
        }
    }
}

/// Ports and addresses are always covered, whatever else is (RFC 3828 section 3.1).
#[test]
fn udp_lite_keeps_its_checksum_whatever_that_covers() {
    for family in Family::BOTH {
        for coverage in [0, 8, 9, 20, 29] {
            let mut node = node(&[]);
            let data = b"what a packet carries".to_vec();
            let datagram = |(source, from), (destination, to)| {
                Ip::udp(source, destination).body(Body::UdpLite((from, to), coverage, data.clone()))
            };
            let (own, remote) = ((pod(family, 1, 2), 1000), (world(family), 53));
            let sent = datagram(own, remote);
            assert_eq!(sent.build()[payload_at(family) - 14..].len(), 29);
            let (verdict, left) = node.receive(pod_port(2), &From::Pod(2).frame(&sent));
            assert_eq!(verdict, Verdict::Forward(uplink()));
            let at = payload_at(family);
            let nat = (
                node_address(family, 1),
                u16::from_be_bytes([left[at], left[at + 1]]),
            );
            assert!(nat.1 >= 61_000, "{nat:?}");
            let name = format!("{family:?}: {coverage} bytes covered");
            let expect = To::World.expect(&hop(&datagram(nat, remote)));
            say(&mut node, &name, From::Pod(2), &sent, expect);
            let answer = datagram(remote, nat);
            let returned = To::Pod(2).expect(&hop(&datagram(remote, own)));
            say(&mut node, &name, From::World, &answer, returned);
        }
    }
    assert_eq!(UDP_LITE, IpProtocol::UDP_LITE.0);
}
