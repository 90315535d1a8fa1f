//! Rows of `classify`, `route`, `limit` and `rewrite`: pods, host and world, outside of any tunnel.

use std::net::IpAddr;

use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason};

use crate::packets::{Body, Family, Ip, patch_ipv4};
use crate::rows::{Expect, Row, delivered, punt, sent};
use crate::world::{
    VXLAN_PORT, WINDOWS_PORT, host, node_address, outer, pod, pod_port, router_mac, switch_mac, uplink,
    vtep_mac, world,
};

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        rows.extend(way_rows(family));
        rows.extend(end_rows(family));
        rows.extend(guard_rows(family));
    }
    rows
}

/// Every kind of way out.
fn way_rows(family: Family) -> Vec<Row> {
    let own = pod(family, 1, 2);
    let wire = |ip: &Ip, to| Expect::Forward(uplink(), ip.frame(to, switch_mac(1, uplink())));
    let mut rows = Vec::new();
    let mut row = |name: &str, from: PortId, ip: &Ip, expect| {
        rows.push(Row::new(
            format!("{family:?}: {name}"),
            from,
            sent(ip, from),
            expect,
        ));
    };
    for (name, body) in [
        ("UDP", Body::Udp(4000, 53, vec![1, 2, 3])),
        ("TCP", Body::Tcp(4000, 80, vec![4; 100])),
        ("echo", Body::Echo(9, vec![5; 56])),
        ("SCTP", Body::Raw(132, vec![6; 12])),
        ("a protocol without ports", Body::Raw(253, vec![])),
    ] {
        let ip = Ip::udp(own, pod(family, 1, 3)).body(body);
        row(
            &format!("pod to pod, {name}"),
            pod_port(2),
            &ip,
            delivered(&ip.clone().ttl(63), pod_port(3)),
        );
    }
    let to_world = Ip::udp(own, world(family));
    row(
        "pod to world by the router",
        pod_port(2),
        &to_world,
        wire(&to_world.clone().ttl(63), router_mac()),
    );
    let to_link = Ip::udp(own, node_address(family, 2));
    let there = switch_mac(2, uplink());
    row(
        "pod to a node on the link",
        pod_port(2),
        &to_link,
        wire(&to_link.clone().ttl(63), there),
    );
    let to_node = Ip::udp(own, node_address(family, 1));
    row(
        "pod to its node, no hop",
        pod_port(2),
        &to_node,
        delivered(&to_node, host()),
    );
    let from_node = Ip::udp(node_address(family, 1), own).ttl(1);
    row(
        "node to its pod, no hop",
        host(),
        &from_node,
        delivered(&from_node, pod_port(2)),
    );
    let node_to_world = Ip::udp(node_address(family, 1), world(family));
    row(
        "node to world, no hop",
        host(),
        &node_to_world,
        wire(&node_to_world, router_mac()),
    );
    rows
}

/// Every way that ends here.
fn end_rows(family: Family) -> Vec<Row> {
    let own = pod(family, 1, 2);
    let mut rows = Vec::new();
    let mut row = |name: &str, to: IpAddr, expect: &dyn Fn(&[u8]) -> Expect| {
        let packet = sent(&Ip::udp(own, to), pod_port(2));
        let expect = expect(&packet);
        rows.push(Row::new(
            format!("{family:?}: to {name}"),
            pod_port(2),
            packet,
            expect,
        ));
    };
    let nothing = PuntDetail::Nothing;
    row("the gateway", pod(family, 1, 1), &|p| {
        punt(PuntReason::ToSwitch, nothing, p)
    });
    row("a pod that is not there", pod(family, 1, 50), &|p| {
        punt(PuntReason::Unreachable, nothing, p)
    });
    let hole = family.pick("198.51.100.1", "2001:db8:a::1");
    row("a black hole", hole, &|_| Expect::Drop(DropReason::Blackhole));
    let no_peer = family.pick("198.51.100.2", "2001:db8:a::2");
    row("a peer that is not there", no_peer, &|_| {
        Expect::Drop(DropReason::NoRoute)
    });
    row("a port that has left", pod(family, 1, 77), &|_| {
        Expect::Drop(DropReason::PortGone)
    });
    row("the link of a port that has left", pod(family, 1, 78), &|_| {
        Expect::Drop(DropReason::PortGone)
    });
    let stranger = node_address(family, 9);
    let asked = PuntDetail::NextHop(uplink(), stranger);
    row("a stranger on the link", stranger, &|p| {
        punt(PuntReason::NeighbourUnresolved, asked, p)
    });
    let direct = family.pick("198.51.100.3", "2001:db8:a::3");
    let asked = PuntDetail::NextHop(uplink(), direct);
    row("the uplink as if it had one station", direct, &|p| {
        punt(PuntReason::NeighbourUnresolved, asked, p)
    });
    let asked = PuntDetail::NextHop(uplink(), node_address(Family::V4, 4));
    row("an unresolved peer", pod(family, 4, 2), &|p| {
        punt(PuntReason::NeighbourUnresolved, asked, p)
    });
    for (name, v4, v6) in [
        ("loopback", "127.0.0.1", "::1"),
        ("a group", "224.0.0.5", "ff02::5"),
        ("nobody", "0.0.0.0", "::"),
        ("all or the link", "255.255.255.255", "fe80::1"),
    ] {
        row(name, family.pick(v4, v6), &|_| {
            Expect::Drop(DropReason::MartianDestination)
        });
    }
    // A tunnel's packet for the world: a node is no router for its peers' pods.
    let hairpin = Ip::udp(pod(family, 2, 2), world(family)).frame(vtep_mac(1), vtep_mac(2));
    let hairpin = outer(2, 1).vxlan((40_000, VXLAN_PORT), 1, &hairpin);
    rows.push(Row::drop(
        format!("{family:?}: hairpin"),
        uplink(),
        hairpin,
        DropReason::UplinkHairpin,
    ));
    rows
}

/// Tunnel packets of pods.
fn guard_rows(family: Family) -> Vec<Row> {
    let own = pod(family, 1, 2);
    let datagram = |port| Body::Udp(4000, port, vec![8, 0, 0, 0, 0, 0, 1, 0]);
    let packet = |to, body: Body| sent(&Ip::udp(own, to).body(body), pod_port(2));
    let drop = |name: &str, packet| {
        Row::drop(
            format!("{family:?}: pod's tunnel packet {name}"),
            pod_port(2),
            packet,
            DropReason::PodTunnel,
        )
    };
    let inner = Ip::udp(pod(Family::V4, 2, 2), pod(Family::V4, 1, 3)).build();
    let mut rows = vec![
        drop("to a peer", packet(node_address(family, 2), datagram(VXLAN_PORT))),
        drop(
            "to our node",
            packet(node_address(family, 1), datagram(VXLAN_PORT)),
        ),
        drop(
            "to an unresolved node's second port",
            packet(node_address(family, 4), datagram(WINDOWS_PORT)),
        ),
        drop(
            "IPIP to a peer",
            packet(node_address(family, 3), Body::Raw(4, inner.clone())),
        ),
        drop(
            "IPIP to our node",
            packet(node_address(family, 1), Body::Raw(4, inner)),
        ),
    ];
    if family == Family::V4 {
        let whole = packet(node_address(family, 2), datagram(VXLAN_PORT));
        rows.push(drop("as first fragment", patch_ipv4(whole, 20, &[0x20, 0])));
    } else {
        let first = [
            &[17, 0, 0, 1, 0, 0, 0, 7][..],
            &[0x10, 0, 0x21, 0x18, 0, 16, 0, 0],
        ]
        .concat();
        rows.push(drop(
            "as first fragment",
            packet(node_address(family, 2), Body::Raw(44, first)),
        ));
    }
    for (name, ip) in [
        (
            "another port of a node",
            Ip::udp(own, node_address(family, 1)).body(datagram(53)),
        ),
        (
            "a pod's tunnel port",
            Ip::udp(own, pod(family, 1, 0)).body(datagram(VXLAN_PORT)),
        ),
    ] {
        let name = format!("{family:?}: pod may send to {name}");
        rows.push(Row::new(
            name,
            pod_port(2),
            sent(&ip, pod_port(2)),
            delivered(&ip, host()),
        ));
    }
    rows
}
