//! Packets of up to 9000 bytes, in runs of chunks: they walk as any other, by the lane too.

use millrace_dataplane::table::NodeTables;
use millrace_dataplane::verdict::{PuntDetail, PuntReason};

use crate::checksum::pseudo_sum;
use crate::packets::{Body, Family, Ip, patch};
use crate::rows::{Expect, Row, delivered, punt, sent};
use crate::services::{At, From, Sketch, TCP, To, UDP, hop, local, packet, remote, say, tables, vip};
use crate::world::{Node, VNI, VXLAN_PORT, outer, pod, pod_port, tables_of_mtu, uplink, vtep_mac};

const LINK_MTU: u16 = 9000;
/// The last that fits a chunk behind its link's header, the first that does not, and more than two chunks.
const LENS: [usize; 4] = [1778, 1779, 4000, 8950];

fn check(rows: Vec<Row>) {
    for row in rows {
        let mut node = Node::with(tables_of_mtu(1, LINK_MTU));
        // Once through the stages, and then as a packet of a known connection.
        for _ in 0..2 {
            let (verdict, left) = node.receive(row.ingress, &row.packet);
            row.check(verdict, &left);
        }
    }
}

fn bodies() -> [Body; 2] {
    [Body::Udp(4000, 53, vec![7]), Body::Tcp(4000, 80, vec![7])]
}

#[test]
fn from_pod_to_pod() {
    let mut rows = Vec::new();
    for (family, body) in Family::BOTH
        .into_iter()
        .flat_map(|family| bodies().map(|body| (family, body)))
    {
        for len in LENS {
            let ip = Ip::udp(pod(family, 1, 2), pod(family, 1, 3))
                .body(body.clone())
                .len(len);
            let name = format!("{family:?}, {len} bytes");
            rows.push(Row::new(
                name,
                pod_port(2),
                sent(&ip, pod_port(2)),
                delivered(&ip.ttl(63), pod_port(3)),
            ));
        }
    }
    check(rows);
}

#[test]
fn into_a_tunnel_and_out_of_one() {
    let mut rows = Vec::new();
    for (family, body) in Family::BOTH
        .into_iter()
        .flat_map(|family| bodies().map(|body| (family, body)))
    {
        for len in LENS {
            let away = Ip::udp(pod(family, 1, 2), pod(family, 2, 2))
                .body(body.clone())
                .len(len);
            let inner = away.clone().ttl(63).frame(vtep_mac(2), vtep_mac(1));
            let expect = Expect::Tunnel(uplink(), outer(1, 2).vxlan((0, VXLAN_PORT), VNI, &inner));
            let name = format!("{family:?}: VXLAN push, {len} bytes");
            rows.push(Row::new(name, pod_port(2), sent(&away, pod_port(2)), expect));
            let back = Ip::udp(pod(family, 2, 2), pod(family, 1, 2))
                .body(body.clone())
                .len(len);
            let packet = outer(2, 1).vxlan(
                (40_000, VXLAN_PORT),
                VNI,
                &back.clone().frame(vtep_mac(1), vtep_mac(2)),
            );
            let name = format!("{family:?}: VXLAN pull, {len} bytes");
            rows.push(Row::new(
                name,
                uplink(),
                packet,
                delivered(&back.ttl(63), pod_port(2)),
            ));
        }
    }
    for len in [1778, 1779, 8980] {
        let away = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 3, 2)).len(len);
        let expect = Expect::Tunnel(uplink(), outer(1, 3).ipip(&away.clone().ttl(63).build()));
        let name = format!("IPIP push, {len} bytes");
        rows.push(Row::new(name, pod_port(2), sent(&away, pod_port(2)), expect));
        let back = Ip::udp(pod(Family::V4, 3, 2), pod(Family::V4, 1, 2)).len(len);
        let name = format!("IPIP pull, {len} bytes");
        let packet = outer(3, 1).ipip(&back.build());
        rows.push(Row::new(
            name,
            uplink(),
            packet,
            delivered(&back.ttl(63), pod_port(2)),
        ));
    }
    check(rows);
}

#[test]
fn one_byte_more_than_the_tunnel_takes_is_told() {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        let ip = Ip::udp(pod(family, 1, 2), pod(family, 2, 2)).len(8951);
        let packet = sent(&ip, pod_port(2));
        let told = punt(PuntReason::PacketTooBig, PuntDetail::Mtu(8950), &packet);
        rows.push(Row::new(format!("{family:?}"), pod_port(2), packet, told));
    }
    check(rows);
}

#[test]
fn one_byte_more_than_a_link_takes_is_told() {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        let ip = Ip::udp(pod(family, 2, 2), pod(family, 1, 2)).len(usize::from(LINK_MTU) + 1);
        let inner = ip.frame(vtep_mac(1), vtep_mac(2));
        let packet = outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner);
        let told = punt(PuntReason::PacketTooBig, PuntDetail::Mtu(LINK_MTU), &inner);
        rows.push(Row::new(format!("{family:?}"), uplink(), packet, told));
    }
    check(rows);
}

/// What a kernel left half computed is finished over all of a packet, wherever chunks begin.
#[test]
fn checksums_are_finished() {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        let l4 = if family == Family::V4 { 34 } else { 54 };
        for (body, field) in bodies().into_iter().zip([6, 16]) {
            for len in LENS {
                let half = |frame: Vec<u8>, ip: &Ip| patch(frame, l4 + field, &pseudo_sum(ip).to_be_bytes());
                let name = |what| format!("{family:?}, field at {field}, {len} bytes: {what}");
                let away = Ip::udp(pod(family, 1, 2), pod(family, 1, 3))
                    .body(body.clone())
                    .len(len);
                let packet = half(sent(&away, pod_port(2)), &away);
                let expect = delivered(&away.ttl(63), pod_port(3));
                rows.push(Row::new(name("from a pod"), pod_port(2), packet, expect));
                let inner = Ip::udp(pod(family, 2, 2), pod(family, 1, 2))
                    .body(body.clone())
                    .len(len);
                let frame = half(inner.frame(vtep_mac(1), vtep_mac(2)), &inner);
                let packet = outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &frame);
                let expect = delivered(&inner.ttl(63), pod_port(2));
                rows.push(Row::new(name("in a tunnel"), uplink(), packet, expect));
            }
        }
    }
    check(rows);
}

fn with_services(sketches: &[Sketch]) -> NodeTables {
    let (services, long) = (tables(sketches), tables_of_mtu(1, LINK_MTU));
    NodeTables {
        ports: long.ports,
        peers: long.peers,
        ..services
    }
}

/// Addresses and ports change, both ways, and so do sums of all lengths: by the stages, and then by the lane.
#[test]
fn a_service_is_called_and_answers() {
    for family in Family::BOTH {
        let (near, far) = (local(family), remote(family));
        let at = |number| At::Cluster(vip(family, number));
        let mut node = Node::with(with_services(&[
            Sketch::new(10, at(10), 53, &[(far.0, far.1, false)]),
            Sketch::new(11, at(11), 80, &[(near.0, near.1, true)]),
            Sketch::new(12, at(12), 80, &[(pod(family, 1, 2), 80, true)]),
        ]));
        let client = pod(family, 1, 2);
        // A pod that calls itself sees the gateway.
        let (itself, gateway) = ((client, 80), pod(family, 1, 1));
        for protocol in [UDP, TCP] {
            for len in LENS.into_iter().chain(LENS) {
                for (number, port, backend, source, to, back) in [
                    (10, 53, far, client, To::Peer, From::Peer),
                    (11, 80, near, client, To::Pod(3), From::Pod(3)),
                    (12, 80, itself, gateway, To::Pod(2), From::Pod(2)),
                ] {
                    let service = (vip(family, number), port);
                    let ways = [
                        (
                            From::Pod(2),
                            to,
                            [(client, 4000), service, (source, 4000), backend],
                        ),
                        (
                            back,
                            To::Pod(2),
                            [backend, (source, 4000), service, (client, 4000)],
                        ),
                    ];
                    for (from, to, [comes_from, comes_to, leaves_from, leaves_to]) in ways {
                        let comes = packet(protocol, comes_from, comes_to).len(len);
                        let leaves = packet(protocol, leaves_from, leaves_to).len(len);
                        let name = format!("{family:?} {protocol}, Service {number}, {len} bytes, {from:?}");
                        say(&mut node, &name, from, &comes, to.expect(&hop(&leaves)));
                    }
                }
            }
        }
    }
}
