//! Packets of up to 9000 bytes, in runs of chunks: they walk as any other, by the lane too.

use millrace_dataplane::verdict::{PuntDetail, PuntReason};

use crate::packets::{Body, Family, Ip};
use crate::rows::{Expect, Row, delivered, punt, sent};
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
