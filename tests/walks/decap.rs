//! Rows of `decap`: who may send us what through which tunnel.

use std::net::IpAddr;

use millrace_dataplane::verdict::DropReason;

use crate::packets::{
    Body, Family, Ip, Outer, cut, ethernet, patch, patch_ipv4, payload_at, with_udp_checksum_v6,
};
use crate::rows::{Row, delivered};
use crate::world::{
    VNI, VXLAN_PEERS, VXLAN_PORT, WINDOWS_PORT, WINDOWS_VNI, host, node_address, outer, pod, pod_port,
    router_mac, switch_mac, underlay, uplink, vtep_mac, world,
};

/// The outer UDP ports of the packets here.
pub const PORTS: (u16, u16) = (40_000, VXLAN_PORT);

/// A packet of another node in VXLAN, as it comes to node 1.
fn vxlan(from: u8, ip: &Ip) -> Vec<u8> {
    outer(from, 1).vxlan(PORTS, VNI, &inner(ip))
}

/// The address of a node that nobody knows, in the underlay to a peer.
fn stranger(peer: u8) -> IpAddr {
    node_address(underlay(1, peer), 66)
}

/// The inner frame of a packet to node 1. Whose inner source address is the sender's does not matter.
pub fn inner(ip: &Ip) -> Vec<u8> {
    ip.frame(vtep_mac(1), vtep_mac(2))
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, peer) in VXLAN_PEERS {
        rows.extend(vxlan_rows(family, peer));
        rows.extend(sender_rows(family, peer));
    }
    rows.extend(frame_rows());
    rows.extend(frame_rows_v6());
    rows.extend(ipip_rows());
    rows
}

fn vxlan_rows(family: Family, peer: u8) -> Vec<Row> {
    let row = |name: &str, packet, expect| {
        let name = format!("{family:?}: VXLAN from {peer}: {name}");
        Row::new(name, uplink(), packet, expect)
    };
    let ip = Ip::udp(pod(family, peer, 2), pod(family, 1, 2));
    let there = delivered(&ip.clone().ttl(63), pod_port(2));
    let good = vxlan(peer, &ip);
    let udp = payload_at(underlay(1, peer));
    let windows = Ip::udp(pod(family, 5, 2), pod(family, 1, 2));
    let windows_frame = windows.frame(vtep_mac(1), vtep_mac(5));
    let with_options = {
        let mut packet = good.clone();
        if underlay(1, peer) == Family::V4 {
            packet.splice(34..34, [1, 1, 1, 0]);
            let total = u16::from_be_bytes([packet[16], packet[17]]) + 4;
            patch_ipv4(patch(packet, 14, &[0x46]), 16, &total.to_be_bytes())
        } else {
            // Destination options: six bytes of padding.
            packet.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
            let len = u16::from_be_bytes([packet[18], packet[19]]) + 8;
            patch(patch(packet, 20, &[60]), 18, &len.to_be_bytes())
        }
    };
    let to_host = Ip::udp(pod(family, peer, 2), pod(family, 1, 0));
    let echo = Ip::udp(pod(family, peer, 2), pod(family, 1, 2)).body(Body::Echo(7, vec![1; 56]));
    vec![
        row("to a pod", good.clone(), there.clone()),
        row(
            "with an outer UDP checksum, right or wrong",
            patch(good.clone(), udp + 6, &[0xab, 0xcd]),
            there.clone(),
        ),
        row(
            "reserved bits set",
            patch(patch(good.clone(), udp + 8, &[0xff, 0xff]), udp + 15, &[0xff]),
            there.clone(),
        ),
        row("outer options", with_options, there.clone()),
        row(
            "any inner source MAC",
            patch(good, udp + 22, &[2, 9, 9, 9, 9, 9]),
            there,
        ),
        row(
            "to the node itself, no hop",
            vxlan(peer, &to_host),
            delivered(&to_host, host()),
        ),
        row(
            "echo",
            vxlan(peer, &echo),
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
fn sender_rows(family: Family, peer: u8) -> Vec<Row> {
    let to = pod(family, 1, 2);
    let good = inner(&Ip::udp(pod(family, peer, 2), to));
    let from = |source: IpAddr| vxlan(peer, &Ip::udp(source, to));
    let stranger = Outer {
        source: stranger(peer),
        ..outer(peer, 1)
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
            outer(peer, 1).vxlan(windows, WINDOWS_VNI, &good),
            DropReason::TunnelWrongKind,
        ),
        (
            "another network",
            outer(peer, 1).vxlan(PORTS, 2, &good),
            DropReason::TunnelWrongVni,
        ),
        (
            "network with a high bit",
            outer(peer, 1).vxlan(PORTS, VNI | 0x80_0000, &good),
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
    if family == Family::V6 {
        // A peer's pod is no more a router than one of ours (CVE-2020-10749).
        let advertises = |source: IpAddr, to: IpAddr| {
            let message = Body::Raw(58, [&[134, 0, 0, 0][..], &[0; 12]].concat());
            vxlan(peer, &Ip::udp(source, to).body(message).ttl(255))
        };
        let (router, all) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
        rows.extend([
            (
                "a router advertisement to a pod",
                advertises(pod(family, peer, 2), to),
                DropReason::RouterAdvertisement,
            ),
            (
                "a router advertisement to all",
                advertises(router, all),
                DropReason::TunnelSpoofedAddress,
            ),
        ]);
    }
    let row = |(name, packet, reason)| {
        let name = format!("{family:?}: VXLAN from {peer}: {name}");
        Row::drop(name, uplink(), packet, reason)
    };
    rows.into_iter().map(row).collect()
}

/// Lies in the outer packet and in the frame inside.
fn frame_rows() -> Vec<Row> {
    let ip = Ip::udp(pod(Family::V4, 2, 2), pod(Family::V4, 1, 2));
    let (good, frame) = (vxlan(2, &ip), inner(&ip));
    let tunnel = |frame: &[u8]| outer(2, 1).vxlan(PORTS, VNI, frame);
    let (local, remote) = (vtep_mac(1), vtep_mac(2));
    let inner_arp = ethernet(local, remote, 0x0806, &[0; 28]);
    let inner_tag = ethernet(local, remote, 0x8100, &[&[0, 5, 8, 0], &frame[14..]].concat());
    let elsewhere = Outer {
        destination: node_address(Family::V4, 77),
        ..outer(2, 1)
    };
    let multicast = Outer {
        destination: [239, 1, 1, 1].into(),
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

/// Lies in an outer packet of IPv6.
fn frame_rows_v6() -> Vec<Row> {
    let ip = Ip::udp(pod(Family::V6, 6, 2), pod(Family::V6, 1, 2));
    let (good, frame) = (vxlan(6, &ip), inner(&ip));
    let elsewhere = Outer {
        destination: node_address(Family::V6, 77),
        ..outer(6, 1)
    };
    let with_next = |next: u8, headers: &[u8]| {
        let mut packet = patch(good.clone(), 20, &[next]);
        packet.splice(54..54, headers.iter().copied());
        let len = u16::try_from(packet.len() - 54).unwrap();
        patch(packet, 18, &len.to_be_bytes())
    };
    // A routing header of an unknown type with one address to go.
    let routed = with_next(43, &[17, 0, 253, 1, 0, 0, 0, 0]);
    let options: Vec<u8> = (0..9)
        .flat_map(|n| [if n == 8 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0])
        .collect();
    let rows = [
        (
            "no outer checksum",
            patch(good.clone(), 60, &[0, 0]),
            DropReason::TunnelNoChecksum,
        ),
        (
            "IPv4's peer over IPv6",
            Outer {
                source: node_address(Family::V6, 2),
                ..outer(6, 1)
            }
            .vxlan(
                PORTS,
                VNI,
                &inner(&Ip::udp(pod(Family::V6, 2, 2), pod(Family::V6, 1, 2))),
            ),
            DropReason::TunnelUnknownPeer,
        ),
        (
            "another inner MAC",
            with_udp_checksum_v6(patch(good.clone(), 75, &[9])),
            DropReason::TunnelWrongMac,
        ),
        (
            "inner packet cut short",
            outer(6, 1).vxlan(PORTS, VNI, &frame[..60]),
            DropReason::Ipv6Malformed,
        ),
        (
            "no I flag",
            patch(good.clone(), 62, &[0]),
            DropReason::TunnelMalformed,
        ),
        (
            "first outer fragment",
            cut(Family::V6, &good, 0..32, true),
            DropReason::TunnelFragment,
        ),
        (
            "later outer fragment",
            cut(Family::V6, &good, 32..40, false),
            DropReason::FragmentUnknown,
        ),
        ("outer source route", routed, DropReason::NotForUs),
        (
            "outer chain too long",
            with_next(60, &options),
            DropReason::Ipv6ExtensionChain,
        ),
        (
            "to another node",
            elsewhere.vxlan(PORTS, VNI, &frame),
            DropReason::NotForUs,
        ),
        (
            "to a UDP port without a tunnel",
            outer(6, 1).udp((1, 53), &frame),
            DropReason::NotForUs,
        ),
        (
            "IPIP over IPv6",
            outer(6, 1).ipip(&Ip::udp(pod(Family::V4, 6, 2), pod(Family::V4, 1, 2)).build()),
            DropReason::NotForUs,
        ),
    ];
    let row =
        |(name, packet, reason)| Row::drop(format!("tunnel over IPv6: {name}"), uplink(), packet, reason);
    rows.into_iter().map(row).collect()
}

fn ipip_rows() -> Vec<Row> {
    let ip = Ip::udp(pod(Family::V4, 3, 2), pod(Family::V4, 1, 2));
    let good = outer(3, 1).ipip(&ip.build());
    let from = |source| Ip::udp(source, pod(Family::V4, 1, 2)).build();
    let stranger = Outer {
        source: stranger(3),
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
