//! The largest segment that connections through tunnels announce: lowered to what fits, never raised, in both directions.

use std::sync::Arc;

use millrace_dataplane::table::{Local, NodeTables};
use millrace_dataplane::verdict::Verdict;

use crate::decap::{PORTS, inner};
use crate::packets::{Body, Family, Ip, Segment, cut};
use crate::rows::{Expect, Row, delivered, hex, sent};
use crate::world::{
    LINK_MTU, Node, VNI, VXLAN_PEERS, VXLAN_PORT, outer, pod, pod_port, tables, uplink, vtep_mac, vxlan_mtu,
};

fn clamping(clamps_mss: bool) -> Node {
    let tables = tables(1);
    let local = Local {
        clamps_mss,
        ..Local::clone(&tables.local)
    };
    Node::with(NodeTables {
        local: Arc::new(local),
        ..tables
    })
}

/// What fits a segment into a tunnel: its MTU without the two headers.
fn most(family: Family, peer: u8) -> u16 {
    let mtu = if peer == 3 {
        LINK_MTU - 20
    } else {
        vxlan_mtu(1, peer)
    };
    mtu - if family == Family::V4 { 40 } else { 60 }
}

/// Options as told, and as they are to be where a segment of `most` fits.
fn options(most: u16) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let mss = |told: u16| [&[2, 4][..], &told.to_be_bytes()].concat();
    // No operation, then the option at an odd place, window scale after it, and the end.
    let odd = |told| [&[1][..], &mss(told), &[3, 3, 7, 1, 0, 0, 0]].concat();
    let same = |name, options: Vec<u8>| (name, options.clone(), options);
    vec![
        ("more than fits", mss(most + 1), mss(most)),
        ("the largest there is", mss(u16::MAX), mss(most)),
        ("at an odd place", odd(9000), odd(most)),
        (
            "twice",
            [mss(9000), mss(8000)].concat(),
            [mss(most), mss(most)].concat(),
        ),
        same("just what fits", mss(most)),
        same("less", mss(536)),
        same("nothing", vec![]),
        same("of no length", vec![3, 0, 2, 4, 255, 255, 0, 0]),
        same("of another length", vec![2, 3, 255, 1]),
        same("behind the end", vec![0, 2, 4, 255, 255, 0, 0, 0]),
        same("beyond the end", vec![1, 1, 2, 4]),
    ]
}

/// A connection's first two segments, of which each tells its options; `port` keeps it apart from the others.
fn handshake(port: u16, options: &[u8]) -> [Segment; 2] {
    let syn = Segment {
        ports: (port, 80),
        sequence: 1000,
        window: 5000,
        syn: true,
        options: options.to_vec(),
        ..Segment::default()
    };
    let answer = Segment {
        ports: (80, port),
        sequence: 7000,
        acknowledgment: Some(1001),
        ..syn.clone()
    };
    [syn, answer]
}

/// A packet of a peer's, as it comes to node 1.
fn from_peer(peer: u8, ip: &Ip) -> Vec<u8> {
    if peer == 3 {
        outer(3, 1).ipip(&ip.build())
    } else {
        outer(peer, 1).vxlan(PORTS, VNI, &inner(ip))
    }
}

/// How a packet leaves for a peer.
fn to_peer(peer: u8, ip: &Ip) -> Expect {
    let packet = if peer == 3 {
        outer(1, 3).ipip(&ip.build())
    } else {
        let inner = ip.clone().frame(vtep_mac(peer), vtep_mac(1));
        outer(1, peer).vxlan((0, VXLAN_PORT), VNI, &inner)
    };
    Expect::Tunnel(uplink(), packet)
}

/// Both directions of a handshake, begun here or there, each segment twice: what is sent again takes the same way.
#[test]
fn both_sides_are_told_what_fits() {
    for (family, peer) in VXLAN_PEERS.into_iter().chain([(Family::V4, 3)]) {
        for clamps in [true, false] {
            let mut node = clamping(clamps);
            let (own, other) = (pod(family, 1, 2), pod(family, peer, 2));
            let numbered = (1..).zip(options(most(family, peer)));
            for (number, (name, told, lowered)) in numbered {
                let lowered = if clamps { lowered } else { told.clone() };
                for begins_here in [true, false] {
                    let port = 2000 + 2 * number + u16::from(begins_here);
                    let (told, lowered) = (handshake(port, &told), handshake(port, &lowered));
                    for (place, (told, lowered)) in told.into_iter().zip(lowered).enumerate() {
                        let outwards = begins_here == (place == 0);
                        let (from, to) = if outwards { (own, other) } else { (other, own) };
                        let came = Ip::udp(from, to).body(Body::Segment(told));
                        let leaves = Ip::udp(from, to).body(Body::Segment(lowered)).ttl(63);
                        let (ingress, packet, expect) = if outwards {
                            (pod_port(2), sent(&came, pod_port(2)), to_peer(peer, &leaves))
                        } else {
                            (uplink(), from_peer(peer, &came), delivered(&leaves, pod_port(2)))
                        };
                        let name = format!("{family:?}, node {peer}, {name}, {begins_here}, segment {place}");
                        let row = Row::new(name, ingress, packet, expect);
                        for _ in 0..2 {
                            let (verdict, left) = node.receive(row.ingress, &row.packet);
                            row.check(verdict, &left);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn only_what_goes_by_a_tunnel_is_told() {
    let mut node = clamping(true);
    for family in Family::BOTH {
        let [syn, answer] = handshake(3000, &[2, 4, 255, 255]);
        for (from, to, segment) in [(2, 3, syn), (3, 2, answer)] {
            let ip = Ip::udp(pod(family, 1, from), pod(family, 1, to)).body(Body::Segment(segment));
            let packet = sent(&ip, pod_port(from));
            let (verdict, left) = node.receive(pod_port(from), &packet);
            let expect = delivered(&ip.ttl(63), pod_port(to));
            Row::new("between pods of a node", pod_port(from), packet, expect).check(verdict, &left);
        }
    }
}

/// What is no SYN may look as if it told anything: it is left alone.
#[test]
fn segments_after_the_first_are_left_alone() {
    let mut node = clamping(true);
    for (family, peer) in VXLAN_PEERS {
        let segment = Segment {
            ports: (3001, 80),
            sequence: 1001,
            acknowledgment: Some(1),
            window: 5000,
            options: vec![2, 4, 255, 255],
            data: vec![1; 30],
            ..Segment::default()
        };
        let ip = Ip::udp(pod(family, 1, 2), pod(family, peer, 2)).body(Body::Segment(segment));
        let packet = sent(&ip, pod_port(2));
        let row = Row::new("data", pod_port(2), packet, to_peer(peer, &ip.ttl(63)));
        for _ in 0..2 {
            let (verdict, left) = node.receive(row.ingress, &row.packet);
            row.check(verdict, &left);
        }
    }
}

/// A SYN whose data are in another piece: its checksum covers more than is there.
#[test]
fn the_first_piece_of_a_syn_is_told_too() {
    for (family, peer) in VXLAN_PEERS {
        let mut node = clamping(true);
        let whole = |most: u16| {
            let [mut syn, _] = handshake(3002, &[&[2, 4][..], &most.to_be_bytes()].concat());
            syn.data = vec![7; 64];
            Ip::udp(pod(family, 1, 2), pod(family, peer, 2)).body(Body::Segment(syn))
        };
        let packet = cut(family, &sent(&whole(9000), pod_port(2)), 0..40, true);
        let lowered = whole(most(family, peer))
            .ttl(63)
            .frame(vtep_mac(peer), vtep_mac(1));
        let lowered = cut(family, &lowered, 0..40, true);
        let (verdict, left) = node.receive(pod_port(2), &packet);
        assert_eq!(verdict, Verdict::Forward(uplink()));
        let at = left.len() - lowered.len();
        assert_eq!(hex(&left[at..]), hex(&lowered), "{family:?} to {peer}");
    }
}
