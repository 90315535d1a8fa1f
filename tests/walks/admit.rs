//! Rows of `admit`: what a port may send.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason};
use millrace_dataplane::wire::MacAddr;

use crate::packets::{ArpPacket, Body, Family, Ip, cut, ethernet, patch};
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

/// A solicitation that is honest is answered by the slow path, and nothing else of neighbour discovery goes anywhere, however
/// it is wrapped.
fn neighbour_discovery_rows() -> Vec<Row> {
    let named = |kind| match kind {
        134 => DropReason::RouterAdvertisement,
        137 => DropReason::RouterRedirect,
        _ => DropReason::Icmpv6NotTaken,
    };
    let port = pod_port(2);
    let (group, own) = (MacAddr([0x33, 0x33, 0, 0, 0, 1]), pod(Family::V6, 1, 2));
    let mut rows = Vec::new();
    for kind in 133..=137 {
        let message = Body::Raw(58, [&[kind, 0, 0, 0][..], &[0; 20]].concat());
        let to_all = Ip::udp("fe80::2".parse().unwrap(), "ff02::1".parse().unwrap()).body(message.clone());
        let packet = to_all.frame(group, station_mac(1, port));
        let expect = match kind {
            // From a link-local address of the pod's, about `::`.
            135 => Expect::Punt(
                PuntReason::NeighbourSolicitation,
                PuntDetail::Nothing,
                packet.clone(),
            ),
            136 => Expect::Drop(DropReason::NeighbourSpoofed),
            other => Expect::Drop(named(other)),
        };
        rows.push(Row::new(
            format!("ICMPv6 type {kind} to all"),
            port,
            packet,
            expect,
        ));
        let routed = sent(&Ip::udp(own, pod(Family::V6, 1, 3)).body(message), port);
        let expect = match kind {
            135 => Expect::Punt(
                PuntReason::NeighbourSolicitation,
                PuntDetail::Nothing,
                routed.clone(),
            ),
            136 => Expect::Drop(DropReason::NeighbourSpoofed),
            other => Expect::Drop(named(other)),
        };
        rows.push(Row::new(
            format!("ICMPv6 type {kind} to a pod"),
            port,
            routed,
            expect,
        ));
        let hidden = Body::Raw(
            60,
            [&[58, 0, 1, 4, 0, 0, 0, 0, kind, 0, 0, 0][..], &[0; 20]].concat(),
        );
        let hidden = sent(&Ip::udp(own, node_address(Family::V6, 1)).body(hidden), port);
        // Cut up, its first piece is refused for what it is, or for not showing what it is (RFC 6980, RFC 7112).
        let pieces = [
            ("in pieces", 0..24, named(kind)),
            (
                "in the second piece, options in the first",
                0..8,
                DropReason::FragmentTiny,
            ),
        ];
        for (name, part, reason) in pieces {
            let piece = cut(Family::V6, &hidden, part, true);
            rows.push(Row::drop(
                format!("ICMPv6 type {kind} {name}"),
                port,
                piece,
                reason,
            ));
        }
        rows.push(Row::drop(
            format!("ICMPv6 type {kind} behind options"),
            port,
            hidden,
            named(kind),
        ));
    }
    rows.extend(neighbour_rows());
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

/// Who may ask or say what about neighbours (CVE-2020-10749 and what ARP has of the kind).
fn neighbour_rows() -> Vec<Row> {
    let port = pod_port(2);
    let (own, other, gateway) = (
        pod(Family::V6, 1, 2),
        pod(Family::V6, 1, 3),
        pod(Family::V6, 1, 1),
    );
    let (local, nobody) = ("fe80::2".parse().unwrap(), "::".parse().unwrap());
    let (mine, foreign) = (station_mac(1, port), station_mac(1, pod_port(3)));
    let octets = |address: IpAddr| match address {
        IpAddr::V4(_) => vec![],
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let say = |kind: u8, from: IpAddr, target: IpAddr, option: Option<(u8, MacAddr)>| {
        let option = option.map_or(vec![], |(kind, link)| [&[kind, 1][..], &link.0].concat());
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &octets(target), &option].concat();
        Ip::udp(from, "ff02::1:ff00:1".parse().unwrap())
            .ttl(255)
            .body(Body::Raw(58, message))
            .frame(MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), mine)
    };
    let asks = |from, target, link| say(135, from, target, Some((1, link)));
    let tells = |from, target, link| say(136, from, target, Some((2, link)));
    let mut rows = Vec::new();
    for (name, packet) in [
        ("asks for its gateway", asks(own, gateway, mine)),
        ("asks from a link-local address", asks(local, gateway, mine)),
        ("asks for anyone", asks(own, other, mine)),
        ("asks without its link address", say(135, own, gateway, None)),
        ("probes for its own address", say(135, nobody, own, None)),
        ("probes for a link-local address", say(135, nobody, local, None)),
        ("probes for another's address", say(135, nobody, other, None)),
    ] {
        let expect = Expect::Punt(
            PuntReason::NeighbourSolicitation,
            PuntDetail::Nothing,
            packet.clone(),
        );
        rows.push(Row::new(format!("a pod {name}"), port, packet, expect));
    }
    let asked = asks(own, gateway, mine);
    for (name, packet, reason) in [
        (
            "asks as another pod",
            asks(other, gateway, mine),
            DropReason::NeighbourSpoofed,
        ),
        (
            "asks as its gateway",
            asks(gateway, other, mine),
            DropReason::NeighbourSpoofed,
        ),
        (
            "asks for another's link address",
            asks(own, gateway, foreign),
            DropReason::NeighbourSpoofed,
        ),
        (
            "claims another's address",
            tells(own, other, mine),
            DropReason::NeighbourSpoofed,
        ),
        (
            "claims its gateway's address as the gateway",
            tells(gateway, gateway, mine),
            DropReason::NeighbourSpoofed,
        ),
        (
            "claims its own address for another",
            tells(own, own, foreign),
            DropReason::NeighbourSpoofed,
        ),
        (
            "announces its own address",
            tells(own, own, mine),
            DropReason::Icmpv6NotTaken,
        ),
        (
            "announces a link-local address",
            tells(local, local, mine),
            DropReason::Icmpv6NotTaken,
        ),
        (
            "asks with an option of no length",
            patch(asked.clone(), 79, &[0]),
            DropReason::TransportMalformed,
        ),
        (
            "asks in half a message",
            Ip::udp(own, gateway)
                .body(Body::Raw(58, vec![135; 12]))
                .frame(switch_mac(1, port), mine),
            DropReason::TransportMalformed,
        ),
        (
            "asks another station",
            patch(asked, 0, &[2, 9]),
            DropReason::NotForUs,
        ),
    ] {
        rows.push(Row::drop(format!("a pod {name}"), port, packet, reason));
    }
    // The host is no router of the switch's either.
    let message = Body::Raw(58, [&[134, 0, 0, 0][..], &[0; 12]].concat());
    let advertised = Ip::udp("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap()).body(message);
    let advertised = advertised.frame(MacAddr([0x33, 0x33, 0, 0, 0, 1]), station_mac(1, host()));
    let reason = DropReason::RouterAdvertisement;
    rows.push(Row::drop(
        "the host advertises itself",
        host(),
        advertised,
        reason,
    ));
    rows
}
