//! Rows of congestion marks out of a tunnel: RFC 6040 figure 4, for both families and both kinds of tunnel.

use millrace_dataplane::verdict::DropReason;

use crate::decap::{PORTS, inner};
use crate::packets::{Family, Ip, Outer};
use crate::rows::{Expect, Row, delivered};
use crate::world::{VNI, VXLAN_PEERS, outer, pod, pod_port, uplink};

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    // inner, outer, what comes out; `None`: dropped.
    let figure = [
        (0, 1, Some(0)),
        (0, 2, Some(0)),
        (0, 3, None),
        (2, 1, Some(1)),
        (2, 3, Some(3)),
        (1, 2, Some(1)),
        (1, 3, Some(3)),
        (3, 0, Some(3)),
        (3, 2, Some(3)),
    ];
    for (inner_ecn, outer_ecn, result) in figure {
        let marked = |from| Outer {
            ecn: outer_ecn,
            ..outer(from, 1)
        };
        let expect = |ip: &Ip| match result {
            Some(ecn) => delivered(&ip.clone().ecn(ecn).ttl(63), pod_port(2)),
            None => Expect::Drop(DropReason::TunnelEcn),
        };
        for (family, peer) in VXLAN_PEERS {
            let ip = Ip::udp(pod(family, peer, 2), pod(family, 1, 2)).ecn(inner_ecn);
            let name = format!("{family:?}: VXLAN from {peer}, ECN {inner_ecn} under {outer_ecn}");
            rows.push(Row::new(
                name,
                uplink(),
                marked(peer).vxlan(PORTS, VNI, &inner(&ip)),
                expect(&ip),
            ));
        }
        let ip = Ip::udp(pod(Family::V4, 3, 2), pod(Family::V4, 1, 2)).ecn(inner_ecn);
        let name = format!("IPIP ECN {inner_ecn} under {outer_ecn}");
        rows.push(Row::new(name, uplink(), marked(3).ipip(&ip.build()), expect(&ip)));
    }
    rows
}
