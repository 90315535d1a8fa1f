//! Rows of `encap`, and how outer headers differ from packet to packet.

use std::collections::HashSet;

use millrace_dataplane::frame::{HEADROOM, Pool};
use millrace_dataplane::table::{HashKey, Publisher, Tick};
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason, Verdict};
use millrace_dataplane::worker::Pipeline;
use millrace_pipelines::{NodePipeline, OUTER_SOURCE_PORT_FIRST, OUTER_SOURCE_PORT_LAST};

use crate::packets::{Body, Family, IPV6, Ip, Outer, cut, patch, patch_ipv4, payload_at};
use crate::rows::{Expect, Row, sent};
use crate::world::{
    LINK_MTU, Node, VNI, VXLAN_PEERS, VXLAN_PORT, WINDOWS_PORT, WINDOWS_VNI, connections, host, outer, pod,
    pod_port, tables, uplink, vtep_mac, vxlan_mtu,
};

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, peer) in VXLAN_PEERS {
        let ip = Ip::udp(pod(family, 1, 2), pod(family, peer, 2));
        let wrapped = |ip: &Ip| {
            let mark = Outer {
                ecn: ip.ecn,
                ..outer(1, peer)
            };
            let inner = ip.clone().frame(vtep_mac(peer), vtep_mac(1));
            Expect::Tunnel(uplink(), mark.vxlan((0, VXLAN_PORT), VNI, &inner))
        };
        for (name, ip) in [
            ("UDP", ip.clone()),
            ("TCP", ip.clone().body(Body::Tcp(1, 2, vec![7; 900]))),
            ("echo", ip.clone().body(Body::Echo(1, vec![7; 56]))),
            ("no ports", ip.clone().body(Body::Raw(253, vec![]))),
            ("exactly the MTU", ip.clone().len(usize::from(vxlan_mtu(1, peer)))),
            ("a byte more than even", ip.clone().len(101)),
            ("SCTP", ip.clone().body(Body::Sctp(1, 2, vec![7; 33]))),
            ("UDP-Lite", ip.clone().body(Body::UdpLite((1, 2), 8, vec![7; 33]))),
            ("ECT(0)", ip.clone().ecn(2)),
            ("ECT(1)", ip.clone().ecn(1)),
            ("CE", ip.clone().ecn(3)),
            ("TTL 2", ip.clone().ttl(2)),
        ] {
            let expect = wrapped(&ip.clone().ttl(ip.ttl - 1));
            rows.push(Row::new(
                format!("{family:?}: VXLAN push to {peer}, {name}"),
                pod_port(2),
                sent(&ip, pod_port(2)),
                expect,
            ));
        }
        let from_node = Ip::udp(pod(family, 1, 0), pod(family, peer, 2)).ttl(1);
        let name = format!("{family:?}: VXLAN push to {peer} from the node, no hop");
        rows.push(Row::new(
            name,
            host(),
            sent(&from_node, host()),
            wrapped(&from_node),
        ));
    }
    for family in Family::BOTH {
        let windows = Ip::udp(pod(family, 1, 2), pod(family, 5, 2));
        let inner = windows.clone().ttl(63).frame(vtep_mac(5), vtep_mac(1));
        let expect = Expect::Tunnel(
            uplink(),
            outer(1, 5).vxlan((0, WINDOWS_PORT), WINDOWS_VNI, &inner),
        );
        rows.push(Row::new(
            format!("{family:?}: second VNI"),
            pod_port(2),
            sent(&windows, pod_port(2)),
            expect,
        ));
    }
    rows.extend(ipip_rows());
    let v6 = sent(
        &Ip::udp(pod(Family::V6, 1, 2), pod(Family::V6, 3, 2)),
        pod_port(2),
    );
    let expect = Expect::Punt(PuntReason::Unreachable, PuntDetail::Nothing, v6.clone());
    rows.push(Row::new("IPIP carries no IPv6", pod_port(2), v6, expect));
    // What came out of one tunnel may go on through another: a peer's route may be older than ours.
    let on = Ip::udp(pod(Family::V4, 2, 2), pod(Family::V4, 3, 2));
    let packet = outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &on.frame(vtep_mac(1), vtep_mac(2)));
    let expect = Expect::Tunnel(uplink(), outer(1, 3).ipip(&on.ttl(63).build()));
    rows.push(Row::new("from tunnel to tunnel", uplink(), packet, expect));
    rows
}

/// Outer headers as the kernel's `tunl0` writes them: TTL and "don't fragment" are those of the packet inside.
fn ipip_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, ecn, ttl, len) in [
        ("short", 0, 64, 20 + 8 + 21),
        ("exactly the MTU", 3, 64, usize::from(LINK_MTU) - 20),
        ("last hop but one", 1, 2, 100),
        ("TTL 255", 2, 255, 100),
    ] {
        let ip = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 3, 2))
            .ecn(ecn)
            .ttl(ttl)
            .len(len);
        let packet = sent(&ip, pod_port(2));
        let pieces_allowed = patch_ipv4(packet.clone(), 20, &[0, 0]);
        for (may, packet) in [("DF", packet), ("no DF", pieces_allowed)] {
            let inner = patch_ipv4(packet.clone(), 22, &[ttl - 1])[14..].to_vec();
            let expect = Outer { ecn, ..outer(1, 3) }.ipip(&inner);
            rows.push(Row::new(
                format!("IPIP push, {name}, {may}"),
                pod_port(2),
                packet,
                Expect::Tunnel(uplink(), expect),
            ));
        }
    }
    let from_node = Ip::udp(pod(Family::V4, 1, 0), pod(Family::V4, 3, 2)).ttl(1);
    rows.push(Row::new(
        "IPIP push from the node, no hop",
        host(),
        sent(&from_node, host()),
        Expect::Tunnel(uplink(), outer(1, 3).ipip(&from_node.build())),
    ));
    rows
}

/// The UDP source port of a pushed packet.
fn source_port(node: &mut Node, ip: &Ip) -> u16 {
    source_port_of(node, &sent(ip, pod_port(2)))
}

fn source_port_of(node: &mut Node, frame: &[u8]) -> u16 {
    let (verdict, left) = node.receive(pod_port(2), frame);
    assert_eq!(verdict, Verdict::Forward(uplink()));
    let udp = if left[12..14] == IPV6.to_be_bytes() {
        54
    } else {
        34
    };
    u16::from_be_bytes([left[udp], left[udp + 1]])
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_spread() {
    let mut node = Node::new(1);
    for (family, peer) in VXLAN_PEERS {
        let flow = |port| Ip::udp(pod(family, 1, 2), pod(family, peer, 2)).body(Body::Udp(port, 53, vec![1]));
        let first = source_port(&mut node, &flow(1));
        let longer = flow(1).ttl(9).len(1000);
        assert_eq!(source_port(&mut node, &longer), first, "the same flow");
        let ports: HashSet<u16> = (0..2000)
            .map(|port| source_port(&mut node, &flow(port)))
            .collect();
        assert!(ports.len() > 1800, "2000 flows share {} ports", ports.len());
        let range = OUTER_SOURCE_PORT_FIRST..=OUTER_SOURCE_PORT_LAST;
        assert!(ports.iter().all(|port| range.contains(port)));
        let width = OUTER_SOURCE_PORT_LAST - OUTER_SOURCE_PORT_FIRST;
        let (low, high) = (ports.iter().min().unwrap(), ports.iter().max().unwrap());
        assert!(high - low > width / 10 * 9, "the range {low}-{high} is not used");
    }
}

#[test]
fn all_fragments_of_a_packet_take_one_source_port() {
    let mut node = Node::new(1);
    let datagram = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 2, 2)).body(Body::Udp(9, 9, vec![3; 64]));
    let whole = sent(&datagram, pod_port(2));
    let first = cut(Family::V4, &whole, 0..64, true);
    let later = cut(Family::V4, &whole, 64..72, false);
    assert_eq!(
        source_port_of(&mut node, &first),
        source_port_of(&mut node, &later)
    );
}

/// What no checksum covers, or one that covers more than this: the outer one is of all the bytes.
#[test]
fn what_no_checksum_tells_is_pushed_whole() {
    for (family, peer) in VXLAN_PEERS {
        let mut node = Node::new(1);
        let ip = Ip::udp(pod(family, 1, 2), pod(family, peer, 2)).len(101);
        let unsummed = |frame: &[u8]| patch(frame.to_vec(), payload_at(family) + 6, &[0, 0]);
        let kinds = |frame: &[u8]| {
            [
                cut(family, frame, 0..40, true),
                cut(family, frame, 40..48, true),
                unsummed(frame),
            ]
        };
        let there = kinds(&ip.clone().ttl(63).frame(vtep_mac(peer), vtep_mac(1)));
        for (packet, inner) in kinds(&sent(&ip, pod_port(2))).into_iter().zip(there) {
            let (verdict, left) = node.receive(pod_port(2), &packet);
            let expect = Expect::Tunnel(uplink(), outer(1, peer).vxlan((0, VXLAN_PORT), VNI, &inner));
            Row::new(format!("{family:?} to {peer}"), pod_port(2), packet, expect).check(verdict, &left);
        }
    }
}

#[test]
fn outer_identifications_count_and_workers_begin_apart() {
    let publisher = Publisher::new(tables(1));
    let key = HashKey::random();
    let ip = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 3, 2));
    let mut pool = Pool::on_heap(4);
    let mut id_of = |pipeline: &mut NodePipeline| {
        let mut frames = vec![pool.take_with(&sent(&ip, pod_port(2))).unwrap()];
        pipeline.process(pod_port(2), &mut frames, &mut Vec::new(), Tick::from_seconds(1));
        let frame = frames.remove(0);
        let id = u16::from_be_bytes([frame.bytes()[18], frame.bytes()[19]]);
        pool.give(frame);
        id
    };
    let mut one = NodePipeline::new(publisher.reader(), connections(), key, 0);
    let ids: Vec<u16> = (0..70_000).map(|_| id_of(&mut one)).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
    let starts: HashSet<u16> = (0..16)
        .map(|worker| {
            id_of(&mut NodePipeline::new(
                publisher.reader(),
                connections(),
                key,
                worker,
            ))
        })
        .collect();
    assert!(starts.len() > 14, "{starts:?}");
}

/// A frame whose headroom an earlier owner used up. Received ones always have enough.
#[test]
fn a_push_without_headroom_drops_the_packet() {
    let publisher = Publisher::new(tables(1));
    let mut pipeline = NodePipeline::new(publisher.reader(), connections(), HashKey::random(), 0);
    let mut pool = Pool::on_heap(1);
    for (peer, room) in [(2, 50), (3, 20), (6, 70)] {
        for missing in [0, 1] {
            let mut frame = pool.take().unwrap();
            let ip = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, peer, 2));
            let packet = sent(&ip, pod_port(2));
            frame.fill(&packet).unwrap();
            while frame.headroom() > room - missing {
                frame.push::<1>().unwrap();
            }
            assert!(frame.len() - packet.len() <= HEADROOM);
            let len = packet.len();
            frame.truncate(len);
            frame.bytes_mut().copy_from_slice(&packet);
            let mut frames = vec![frame];
            let mut verdicts = Vec::new();
            pipeline.process(pod_port(2), &mut frames, &mut verdicts, Tick::from_seconds(1));
            let expected = if missing == 0 {
                Verdict::Forward(uplink())
            } else {
                Verdict::Drop(DropReason::NoRoom)
            };
            assert_eq!(verdicts, [expected]);
            pool.give(frames.remove(0));
        }
    }
}

#[test]
fn a_flow_keeps_its_lane_and_flows_spread_over_lanes() {
    let mut node = Node::new(1);
    let mut lane = |ip: &Ip| node.end_of(pod_port(2), &sent(ip, pod_port(2))).lane;
    for family in Family::BOTH {
        let flow = |port| Ip::udp(pod(family, 1, 2), pod(family, 2, 2)).body(Body::Udp(port, 53, vec![1]));
        let first = lane(&flow(1));
        assert_eq!(lane(&flow(1).ttl(9).len(1000)), first, "the same flow");
        // As a worker with so many queues of the uplink deals them.
        for queues in [2u16, 3, 16] {
            let mut taken = vec![0; usize::from(queues)];
            (0..1600).for_each(|port| taken[usize::from(lane(&flow(port)) % queues)] += 1);
            let fair = 1600 / usize::from(queues);
            let even = taken.iter().all(|count| (fair / 2..fair * 2).contains(count));
            assert!(even, "{queues} queues took {taken:?}");
        }
    }
    let ipip = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 3, 2)).body(Body::Udp(1, 53, vec![1]));
    let other = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 3, 2)).body(Body::Udp(2, 53, vec![1]));
    assert_ne!(lane(&ipip), lane(&other), "flows through IPIP spread too");
}
