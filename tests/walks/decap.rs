//! Rows of `decap`: who may send us what through which tunnel.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::verdict::DropReason;

use crate::packets::{Body, Family, Ip, Outer, ethernet, patch, patch_ipv4};
use crate::rows::{Row, delivered};
use crate::world::{
    VNI, VXLAN_PORT, WINDOWS_PORT, WINDOWS_VNI, host, node_address, outer, pod, pod_port, router_mac,
    switch_mac, uplink, vtep_mac, world,
};

/// The outer UDP ports of the packets here.
pub const PORTS: (u16, u16) = (40_000, VXLAN_PORT);

/// A packet of node 2 in VXLAN, as it comes to node 1.
fn vxlan(ip: &Ip) -> Vec<u8> {
    outer(2, 1).vxlan(PORTS, VNI, &inner(ip))
}

/// The inner frame of a packet from node 2 to node 1.
pub fn inner(ip: &Ip) -> Vec<u8> {
    ip.frame(vtep_mac(1), vtep_mac(2))
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        rows.extend(vxlan_rows(family));
        rows.extend(sender_rows(family));
    }
    rows.extend(frame_rows());
    rows.extend(ipip_rows());
    rows
}

fn vxlan_rows(family: Family) -> Vec<Row> {
    let row =
        |name: &str, packet, expect| Row::new(format!("{family:?}: VXLAN: {name}"), uplink(), packet, expect);
    let ip = Ip::udp(pod(family, 2, 2), pod(family, 1, 2));
    let there = delivered(&ip.clone().ttl(63), pod_port(2));
    let good = vxlan(&ip);
    let windows = Ip::udp(pod(family, 5, 2), pod(family, 1, 2));
    let windows_frame = windows.frame(vtep_mac(1), vtep_mac(5));
    let with_options = {
        let mut packet = good.clone();
        packet.splice(34..34, [1, 1, 1, 0]);
        let total = u16::from_be_bytes([packet[16], packet[17]]) + 4;
        patch_ipv4(patch(packet, 14, &[0x46]), 16, &total.to_be_bytes())
    };
    let to_host = Ip::udp(pod(family, 2, 2), pod(family, 1, 0));
    let echo = Ip::udp(pod(family, 2, 2), pod(family, 1, 2)).body(Body::Echo(7, vec![1; 56]));
    vec![
        row("to a pod", good.clone(), there.clone()),
        row(
            "with an outer UDP checksum, right or wrong",
            patch(good.clone(), 40, &[0xab, 0xcd]),
            there.clone(),
        ),
        row(
            "reserved bits set",
            patch(patch(good.clone(), 42, &[0xff, 0xff]), 49, &[0xff]),
            there.clone(),
        ),
        row("outer options", with_options, there.clone()),
        row(
            "any inner source MAC",
            patch(good, 56, &[2, 9, 9, 9, 9, 9]),
            there,
        ),
        row(
            "to the node itself, no hop",
            vxlan(&to_host),
            delivered(&to_host, host()),
        ),
        row(
            "echo",
            vxlan(&echo),
            delivered(&echo.clone().ttl(63), pod_port(2)),
        ),
        row(
            "second endpoint",
            outer(5, 1).vxlan((40_000, WINDOWS_PORT), WINDOWS_VNI, &windows_frame),
            delivered(&windows.ttl(63), pod_port(2)),
        ),
    ]
}

/// Who sends, and from which inner address (CVE-2020-10136 and its like).
fn sender_rows(family: Family) -> Vec<Row> {
    let to = pod(family, 1, 2);
    let good = inner(&Ip::udp(pod(family, 2, 2), to));
    let from = |source: IpAddr| vxlan(&Ip::udp(source, to));
    let stranger = Outer {
        source: Ipv4Addr::new(192, 0, 2, 66),
        ..outer(2, 1)
    };
    let windows = (40_000, WINDOWS_PORT);
    let mut rows = vec![
        (
            "unknown outer source",
            stranger.vxlan(PORTS, VNI, &good),
            DropReason::TunnelUnknownPeer,
        ),
        (
            "peer of another kind",
            outer(3, 1).vxlan(PORTS, VNI, &good),
            DropReason::TunnelWrongKind,
        ),
        (
            "peer of another port",
            outer(2, 1).vxlan(windows, WINDOWS_VNI, &good),
            DropReason::TunnelWrongKind,
        ),
        (
            "another network",
            outer(2, 1).vxlan(PORTS, 2, &good),
            DropReason::TunnelWrongVni,
        ),
        (
            "network with a high bit",
            outer(2, 1).vxlan(PORTS, VNI | 0x80_0000, &good),
            DropReason::TunnelWrongVni,
        ),
    ];
    for (name, source) in [
        ("another peer's pod", pod(family, 3, 2)),
        ("our own pod", pod(family, 1, 3)),
        ("our own node", node_address(family, 1)),
        ("another peer's node", node_address(family, 3)),
        ("the world", world(family)),
        ("loopback", family.pick("127.0.0.1", "::1")),
    ] {
        rows.push((name, from(source), DropReason::TunnelSpoofedAddress));
    }
    let row = |(name, packet, reason)| {
        Row::drop(format!("{family:?}: VXLAN from {name}"), uplink(), packet, reason)
    };
    rows.into_iter().map(row).collect()
}

/// Lies in the outer packet and in the frame inside.
fn frame_rows() -> Vec<Row> {
    let ip = Ip::udp(pod(Family::V4, 2, 2), pod(Family::V4, 1, 2));
    let (good, frame) = (vxlan(&ip), inner(&ip));
    let tunnel = |frame: &[u8]| outer(2, 1).vxlan(PORTS, VNI, frame);
    let (local, remote) = (vtep_mac(1), vtep_mac(2));
    let inner_arp = ethernet(local, remote, 0x0806, &[0; 28]);
    let inner_tag = ethernet(local, remote, 0x8100, &[&[0, 5, 8, 0], &frame[14..]].concat());
    let elsewhere = Outer {
        destination: Ipv4Addr::new(192, 0, 2, 77),
        ..outer(2, 1)
    };
    let multicast = Outer {
        destination: Ipv4Addr::new(239, 1, 1, 1),
        ..outer(2, 1)
    };
    let rows = [
        (
            "another inner MAC",
            tunnel(&patch(frame.clone(), 5, &[9])),
            DropReason::TunnelWrongMac,
        ),
        (
            "inner broadcast",
            tunnel(&patch(frame.clone(), 0, &[0xff; 6])),
            DropReason::TunnelWrongMac,
        ),
        ("inner ARP", tunnel(&inner_arp), DropReason::TunnelInnerUnknown),
        (
            "inner VLAN tag",
            tunnel(&inner_tag),
            DropReason::TunnelInnerUnknown,
        ),
        (
            "inner frame cut short",
            tunnel(&frame[..13]),
            DropReason::TunnelMalformed,
        ),
        (
            "inner header cut short",
            tunnel(&frame[..33]),
            DropReason::Ipv4Truncated,
        ),
        (
            "inner packet cut short",
            tunnel(&frame[..60]),
            DropReason::Ipv4Malformed,
        ),
        (
            "inner checksum wrong",
            tunnel(&patch(frame.clone(), 24, &[0xde, 0xad])),
            DropReason::Ipv4Checksum,
        ),
        (
            "no I flag",
            patch(good.clone(), 42, &[0]),
            DropReason::TunnelMalformed,
        ),
        (
            "VXLAN header cut short",
            outer(2, 1).udp(PORTS, &[8, 0, 0, 0, 0, 0, 1]),
            DropReason::TunnelMalformed,
        ),
        (
            "UDP length beyond",
            patch(good.clone(), 38, &[0xff, 0xff]),
            DropReason::TransportMalformed,
        ),
        (
            "UDP length below",
            patch(good.clone(), 38, &[0, 7]),
            DropReason::TransportMalformed,
        ),
        (
            "outer checksum wrong",
            patch(good.clone(), 24, &[0, 0]),
            DropReason::Ipv4Checksum,
        ),
        (
            "outer header cut short",
            good[..33].to_vec(),
            DropReason::Ipv4Truncated,
        ),
        (
            "outer packet cut short",
            good[..good.len() - 1].to_vec(),
            DropReason::Ipv4Malformed,
        ),
        (
            "first outer fragment",
            patch_ipv4(good.clone(), 20, &[0x20, 0]),
            DropReason::TunnelFragment,
        ),
        (
            "later outer fragment",
            patch_ipv4(good, 20, &[0, 100]),
            DropReason::FragmentUnknown,
        ),
        (
            "to a UDP port without a tunnel",
            outer(2, 1).udp((1, 53), &frame),
            DropReason::NotForUs,
        ),
        (
            "TCP to the node",
            Ip::udp(world(Family::V4), node_address(Family::V4, 1))
                .body(Body::Tcp(1, 22, vec![]))
                .frame(switch_mac(1, uplink()), router_mac()),
            DropReason::NotForUs,
        ),
        (
            "to another node",
            elsewhere.vxlan(PORTS, VNI, &frame),
            DropReason::NotForUs,
        ),
        (
            "to a group",
            multicast.vxlan(PORTS, VNI, &frame),
            DropReason::MartianDestination,
        ),
    ];
    let row = |(name, packet, reason)| Row::drop(format!("tunnel: {name}"), uplink(), packet, reason);
    rows.into_iter().map(row).collect()
}

fn ipip_rows() -> Vec<Row> {
    let ip = Ip::udp(pod(Family::V4, 3, 2), pod(Family::V4, 1, 2));
    let good = outer(3, 1).ipip(&ip.build());
    let from = |source| Ip::udp(source, pod(Family::V4, 1, 2)).build();
    let stranger = Outer {
        source: Ipv4Addr::new(192, 0, 2, 66),
        ..outer(3, 1)
    };
    let longer = outer(3, 1).ipip(&[ip.build(), vec![0]].concat());
    let v6 = Ip::udp(pod(Family::V6, 3, 2), pod(Family::V6, 1, 2)).build();
    let mut rows = vec![Row::new(
        "IPIP to a pod",
        uplink(),
        good.clone(),
        delivered(&ip.ttl(63), pod_port(2)),
    )];
    for (name, packet, reason) in [
        (
            "unknown outer source",
            stranger.ipip(&from(pod(Family::V4, 3, 2))),
            DropReason::TunnelUnknownPeer,
        ),
        (
            "peer of another kind",
            outer(2, 1).ipip(&from(pod(Family::V4, 2, 2))),
            DropReason::TunnelWrongKind,
        ),
        (
            "another peer's pod",
            outer(3, 1).ipip(&from(pod(Family::V4, 2, 2))),
            DropReason::TunnelSpoofedAddress,
        ),
        (
            "our own pod",
            outer(3, 1).ipip(&from(pod(Family::V4, 1, 3))),
            DropReason::TunnelSpoofedAddress,
        ),
        (
            "loopback",
            outer(3, 1).ipip(&from([127, 0, 0, 1].into())),
            DropReason::TunnelSpoofedAddress,
        ),
        (
            "bytes behind the inner packet",
            longer,
            DropReason::TunnelMalformed,
        ),
        ("IPv6 inside", outer(3, 1).ipip(&v6), DropReason::Ipv4Malformed),
        ("nothing inside", outer(3, 1).ipip(&[]), DropReason::Ipv4Truncated),
        (
            "first fragment",
            patch_ipv4(good.clone(), 20, &[0x20, 0]),
            DropReason::TunnelFragment,
        ),
        (
            "later fragment",
            patch_ipv4(good, 20, &[0, 9]),
            DropReason::TunnelFragment,
        ),
    ] {
        rows.push(Row::drop(format!("IPIP: {name}"), uplink(), packet, reason));
    }
    rows
}
