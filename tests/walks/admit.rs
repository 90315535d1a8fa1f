//! Rows of `admit`: what a port may send.

use std::net::Ipv4Addr;

use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason};
use millrace_dataplane::wire::MacAddr;

use crate::packets::{ArpPacket, Body, Family, Ip, ethernet, patch};
use crate::rows::{Expect, Row, sent};
use crate::world::{gone, host, node_address, outer, pod, pod_port, station_mac, switch_mac, uplink, world};

fn arp(operation: u16, sender: MacAddr, from: [u8; 4], to: [u8; 4]) -> ArpPacket {
    ArpPacket {
        operation,
        sender: (sender, Ipv4Addr::from_octets(from)),
        target: (MacAddr::ZERO, Ipv4Addr::from_octets(to)),
    }
}

pub fn rows() -> Vec<Row> {
    let mut rows = link_rows();
    rows.extend(arp_rows());
    for family in Family::BOTH {
        rows.extend(family_rows(family));
    }
    rows.extend(neighbour_discovery_rows());
    rows
}

fn link_rows() -> Vec<Row> {
    let port = pod_port(2);
    let (ours, pods) = (switch_mac(1, port), station_mac(1, port));
    let good = sent(&Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 1, 3)), port);
    let tagged = |tag: u16| ethernet(ours, pods, tag, &[&[0, 5, 8, 0], &good[14..]].concat());
    let tunnel = outer(2, 1).vxlan((40_000, 8472), 1, &good);
    let mut rows = vec![
        Row::drop("empty frame", port, vec![], DropReason::EthernetTruncated),
        Row::drop(
            "one byte short of a header",
            port,
            good[..13].to_vec(),
            DropReason::EthernetTruncated,
        ),
        Row::drop("802.1Q tag", port, tagged(0x8100), DropReason::VlanTagged),
        Row::drop("802.1ad tag", port, tagged(0x88a8), DropReason::VlanTagged),
        Row::drop(
            "tag cut short",
            port,
            ethernet(ours, pods, 0x8100, &[0]),
            DropReason::VlanTagged,
        ),
        Row::drop(
            "EtherType of LLDP",
            port,
            ethernet(ours, pods, 0x88cc, &[0; 46]),
            DropReason::EtherTypeUnknown,
        ),
        Row::drop(
            "802.3 length",
            port,
            ethernet(ours, pods, 46, &[0; 46]),
            DropReason::EtherTypeUnknown,
        ),
        Row::drop(
            "another's source MAC",
            port,
            patch(good.clone(), 11, &[0x99]),
            DropReason::SpoofedMac,
        ),
        Row::drop(
            "multicast destination",
            port,
            patch(good.clone(), 0, &[1, 0, 0x5e]),
            DropReason::NotForUs,
        ),
        Row::drop(
            "broadcast destination",
            port,
            patch(good.clone(), 0, &[0xff; 6]),
            DropReason::NotForUs,
        ),
        Row::drop(
            "another's destination MAC",
            port,
            patch(good.clone(), 5, &[0x99]),
            DropReason::NotForUs,
        ),
        Row::drop(
            "to another on the wire",
            uplink(),
            patch(tunnel.clone(), 5, &[9]),
            DropReason::NotForUs,
        ),
        Row::drop(
            "tag on the wire",
            uplink(),
            patch(tunnel, 12, &[0x81, 0]),
            DropReason::VlanTagged,
        ),
        Row::drop("the port has left", gone(), good.clone(), DropReason::PortGone),
    ];
    // The host is one station too, though with any address.
    let from_host = sent(
        &Ip::udp(node_address(Family::V4, 1), pod(Family::V4, 1, 3)),
        host(),
    );
    rows.push(Row::drop(
        "host with another MAC",
        host(),
        patch(from_host, 11, &[0x99]),
        DropReason::SpoofedMac,
    ));
    rows
}

fn arp_rows() -> Vec<Row> {
    let port = pod_port(2);
    let (ours, pods, all) = (switch_mac(1, port), station_mac(1, port), MacAddr::BROADCAST);
    let (own, gateway, foreign) = ([10, 244, 1, 2], [10, 244, 1, 1], [10, 244, 1, 3]);
    let punt = |packet: &[u8]| Expect::Punt(PuntReason::Arp, PuntDetail::Nothing, packet.to_vec());
    let mut rows = Vec::new();
    for (name, packet) in [
        ("broadcast request", arp(1, pods, own, gateway).frame(all, pods)),
        ("unicast request", arp(1, pods, own, gateway).frame(ours, pods)),
        (
            "request for any address",
            arp(1, pods, own, [192, 0, 2, 77]).frame(all, pods),
        ),
        ("probe", arp(1, pods, [0; 4], own).frame(all, pods)),
        (
            "announcement of the own address",
            arp(1, pods, own, own).frame(all, pods),
        ),
        ("reply", arp(2, pods, own, gateway).frame(ours, pods)),
    ] {
        rows.push(Row::new(
            format!("ARP: {name}"),
            port,
            packet.clone(),
            punt(&packet),
        ));
    }
    let good = arp(1, pods, own, gateway).frame(all, pods);
    let other_mac = station_mac(1, pod_port(3));
    for (name, packet, reason) in [
        (
            "foreign announcement",
            arp(1, pods, foreign, foreign).frame(all, pods),
            DropReason::ArpSpoofed,
        ),
        (
            "reply for the gateway",
            arp(2, pods, gateway, own).frame(all, pods),
            DropReason::ArpSpoofed,
        ),
        (
            "sender with another MAC",
            arp(1, other_mac, own, gateway).frame(all, pods),
            DropReason::ArpSpoofed,
        ),
        (
            "frame with another MAC",
            arp(1, pods, own, gateway).frame(all, other_mac),
            DropReason::SpoofedMac,
        ),
        (
            "to a third station",
            arp(1, pods, own, gateway).frame(other_mac, pods),
            DropReason::NotForUs,
        ),
        ("cut short", good[..41].to_vec(), DropReason::ArpMalformed),
        (
            "for another protocol",
            patch(good.clone(), 16, &[0x86, 0xdd]),
            DropReason::ArpMalformed,
        ),
        (
            "with longer addresses",
            patch(good.clone(), 18, &[8]),
            DropReason::ArpMalformed,
        ),
    ] {
        rows.push(Row::drop(format!("ARP: {name}"), port, packet, reason));
    }
    let from_host = arp(1, station_mac(1, host()), [192, 0, 2, 1], own).frame(all, station_mac(1, host()));
    rows.push(Row::new(
        "ARP of the host",
        host(),
        from_host.clone(),
        punt(&from_host),
    ));
    let wire = arp(1, station_mac(1, uplink()), [192, 0, 2, 2], [192, 0, 2, 1]);
    let wire = wire.frame(switch_mac(1, uplink()), station_mac(1, uplink()));
    rows.push(Row::drop(
        "ARP on the wire is the kernel's",
        uplink(),
        wire,
        DropReason::EtherTypeUnknown,
    ));
    rows
}

fn family_rows(family: Family) -> Vec<Row> {
    let port = pod_port(2);
    let to = pod(family, 1, 3);
    let mut rows = Vec::new();
    for (name, source) in [
        ("the other pod's", pod(family, 1, 3)),
        ("the gateway's", pod(family, 1, 1)),
        ("the node's", node_address(family, 1)),
        ("the world's", world(family)),
        ("loopback", family.pick("127.0.0.1", "::1")),
        ("unspecified", family.pick("0.0.0.0", "::")),
    ] {
        let packet = sent(&Ip::udp(source, to), port);
        let name = format!("{family:?}: a pod sends from an address that is {name}");
        rows.push(Row::drop(name, port, packet, DropReason::SpoofedAddress));
    }
    rows
}

/// No pod and no host speaks neighbour discovery with us yet, however it is wrapped; and never is any forwarded.
fn neighbour_discovery_rows() -> Vec<Row> {
    let port = pod_port(2);
    let (group, own) = (MacAddr([0x33, 0x33, 0, 0, 0, 1]), pod(Family::V6, 1, 2));
    let mut rows = Vec::new();
    for kind in 133..=137 {
        let message = Body::Raw(58, [&[kind, 0, 0, 0][..], &[0; 20]].concat());
        let to_all = Ip::udp("fe80::2".parse().unwrap(), "ff02::1".parse().unwrap()).body(message.clone());
        let packet = to_all.frame(group, station_mac(1, port));
        rows.push(Row::drop(
            format!("ICMPv6 type {kind} to all"),
            port,
            packet,
            DropReason::Icmpv6NotTaken,
        ));
        let routed = sent(&Ip::udp(own, pod(Family::V6, 1, 3)).body(message), port);
        rows.push(Row::drop(
            format!("ICMPv6 type {kind} routed"),
            port,
            routed,
            DropReason::Icmpv6NotTaken,
        ));
        let hidden = Body::Raw(
            60,
            [&[58, 0, 1, 4, 0, 0, 0, 0, kind, 0, 0, 0][..], &[0; 20]].concat(),
        );
        let hidden = sent(&Ip::udp(own, node_address(Family::V6, 1)).body(hidden), port);
        rows.push(Row::drop(
            format!("ICMPv6 type {kind} behind options"),
            port,
            hidden,
            DropReason::Icmpv6NotTaken,
        ));
    }
    // What only looks like it: an echo request, and a message cut before its type.
    let report =
        Ip::udp("fe80::2".parse().unwrap(), "ff02::16".parse().unwrap()).body(Body::Raw(58, vec![143; 8]));
    let report = report.frame(group, station_mac(1, port));
    rows.push(Row::drop(
        "multicast listener report",
        port,
        report,
        DropReason::NotForUs,
    ));
    rows
}
