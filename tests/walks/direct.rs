//! Rows of a node on the same subnet to which nothing is wrapped, and which wraps nothing: Calico's `CrossSubnet`, flannel's
//! `DirectRouting`.

use millrace_dataplane::verdict::DropReason;

use crate::packets::{Body, Family, Ip};
use crate::rows::{Expect, Row, delivered, sent};
use crate::world::{
    BORROWED, LENT, ROUTED, VNI, VXLAN_PORT, outer, pod, pod_port, switch_mac, uplink, vtep_mac,
};

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        rows.extend(out(family));
        rows.extend(home(family));
    }
    rows
}

/// A packet of the routed node as it is on the link.
fn on_link(ip: &Ip) -> Vec<u8> {
    ip.frame(switch_mac(1, uplink()), switch_mac(ROUTED, uplink()))
}

fn out(family: Family) -> Vec<Row> {
    let bodies = [
        ("UDP", Body::Udp(4000, 53, vec![1; 30])),
        ("TCP", Body::Tcp(1, 2, vec![7; 900])),
        ("echo", Body::Echo(1, vec![7; 56])),
    ];
    let mut rows = Vec::new();
    for (name, body) in bodies {
        for (which, to) in [
            ("its pod", pod(family, ROUTED, 2)),
            ("a borrowed address", pod(family, 1, LENT)),
        ] {
            let ip = Ip::udp(pod(family, 1, 2), to).body(body.clone());
            let left = ip
                .clone()
                .ttl(63)
                .frame(switch_mac(ROUTED, uplink()), switch_mac(1, uplink()));
            rows.push(Row::new(
                format!("{family:?}: routed: {name} to {which}"),
                pod_port(2),
                sent(&ip, pod_port(2)),
                Expect::Forward(uplink(), left),
            ));
        }
    }
    rows
}

fn home(family: Family) -> Vec<Row> {
    let row = |name: &str, packet, expect| {
        Row::new(format!("{family:?}: routed: {name}"), uplink(), packet, expect)
    };
    let to = pod(family, 1, 2);
    let good = Ip::udp(pod(family, ROUTED, 2), to);
    let lent = Ip::udp(pod(family, 1, LENT), to);
    let to_borrowed = Ip::udp(pod(family, ROUTED, 2), pod(family, ROUTED, BORROWED));
    let borrowed = Ip::udp(pod(family, ROUTED, BORROWED), to);
    let wrapped = |ip: &Ip| {
        let inner = ip.frame(vtep_mac(1), vtep_mac(2));
        outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner)
    };
    let drop = |reason| Expect::Drop(reason);
    vec![
        row(
            "from its pod",
            on_link(&good),
            delivered(&good.clone().ttl(63), pod_port(2)),
        ),
        row(
            "from an address of ours that it has borrowed",
            on_link(&lent),
            delivered(&lent.clone().ttl(63), pod_port(2)),
        ),
        row(
            "to an address of its that we have borrowed",
            on_link(&to_borrowed),
            delivered(&to_borrowed.clone().ttl(63), pod_port(3)),
        ),
        row(
            "from an address of its that we have borrowed",
            on_link(&borrowed),
            drop(DropReason::PlainFromOverlay),
        ),
        row(
            "from the pod of a node that wraps",
            on_link(&Ip::udp(pod(family, 2, 2), to)),
            drop(DropReason::PlainFromOverlay),
        ),
        row(
            "from our own pod",
            on_link(&Ip::udp(pod(family, 1, 3), to)),
            drop(DropReason::PlainFromOverlay),
        ),
        row(
            "its pod's in another's tunnel",
            wrapped(&good),
            drop(DropReason::TunnelSpoofedAddress),
        ),
        row(
            "a borrowed one in another's tunnel",
            wrapped(&lent),
            drop(DropReason::TunnelSpoofedAddress),
        ),
    ]
}
