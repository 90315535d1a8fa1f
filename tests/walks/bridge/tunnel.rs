//! Into tunnels and out of them.

use super::*;
use crate::packets::patch;
use crate::world::{VNI, pod, vtep_mac};

/// Whether a frame is `inner` in the tunnel from node 1 to another, as a stranger would build it.
pub fn assert_wrapped(frame: &[u8], node: u8, vni: u32, inner: &[u8]) {
    let is_v6 = underlay(1, node) == Family::V6;
    let udp = if is_v6 { 54 } else { 34 };
    let from = u16::from_be_bytes([frame[udp], frame[udp + 1]]);
    assert!((32_768..61_000).contains(&from), "{from}");
    let id = if is_v6 {
        0
    } else {
        u16::from_be_bytes([frame[18], frame[19]])
    };
    let ecn = match (&inner[12..14], inner.get(15)) {
        ([8, 0], Some(byte)) => byte & 3,
        ([0x86, 0xdd], Some(byte)) => byte >> 4 & 3,
        _ => 0,
    };
    let outer = Outer {
        destination_mac: router_mac(),
        source_mac: switch_mac(1, uplink()),
        id,
        ecn,
        ..outer(1, node)
    };
    assert_eq!(frame, outer.vxlan((from, UDP_PORT), vni, inner));
}

#[test]
fn what_is_for_a_station_behind_a_node_goes_into_its_tunnel_whole() {
    for node in [2, 6] {
        let mut switch = switch();
        switch.know(RED, station(2), behind(node));
        let mut rows = vec![
            frame(station(1), station(2)),
            ethernet(station(2), station(1), 0x1234, &[]),
        ];
        for family in Family::BOTH {
            for ecn in 0..4 {
                let packet = udp(family, guarded(family)).ecn(ecn);
                rows.push(packet.frame(station(2), station(1)));
                rows.push(packet.len(usize::from(MTU)).frame(station(2), station(1)));
            }
        }
        for sent in rows {
            let (verdict, left) = switch.receive(port(10), &sent);
            assert_eq!(verdict, Verdict::Forward(uplink()));
            assert_wrapped(&left, node, RED_VNI, &sent);
        }
    }
}

#[test]
fn flows_spread_over_outer_ports_and_each_keeps_its_own() {
    let mut switch = switch();
    switch.know(RED, station(2), behind(2));
    let mut port_of = |ports: (u16, u16)| {
        let body = crate::packets::Body::Udp(ports.0, ports.1, vec![1; 30]);
        let packet = udp(Family::V4, guarded(Family::V4)).body(body);
        let (_, left) = switch.receive(port(10), &packet.frame(station(2), station(1)));
        u16::from_be_bytes([left[34], left[35]])
    };
    let first = port_of((1000, 53));
    assert_eq!(port_of((1000, 53)), first);
    let others: std::collections::HashSet<_> = (0..64).map(|n| port_of((2000 + n, 53))).collect();
    assert!(others.len() > 56, "{}", others.len());
}

#[test]
fn what_comes_out_of_a_tunnel_is_the_frame_that_went_in() {
    for node in [2, 6] {
        let mut switch = switch();
        switch.know(RED, station(2), at(11));
        let sent = frame(station(1), station(2));
        let tunnelled = tunnelled(node, RED_VNI, &sent);
        let whole = (Verdict::Forward(port(11)), sent.clone());
        assert_eq!(switch.receive(uplink(), &tunnelled), whole);
        // Padding of the underlay's stays outside.
        let padded = [&tunnelled[..], &[0; 9]].concat();
        assert_eq!(switch.receive(uplink(), &padded), whole);
        switch.lessons();
    }
}

#[test]
fn marks_of_congestion_go_in_and_come_out() {
    // Outer, inner, and what becomes of it (RFC 6040 figure 4).
    let rows = [
        (0, 0, Some(0)),
        (3, 0, None),
        (3, 1, Some(3)),
        (3, 2, Some(3)),
        (1, 2, Some(1)),
        (2, 1, Some(1)),
        (0, 3, Some(3)),
    ];
    for family in Family::BOTH {
        for (outer_ecn, inner_ecn, result) in rows {
            let mut switch = switch();
            switch.know(RED, station(2), at(11));
            let packet = |ecn| {
                udp(family, guarded(family))
                    .ecn(ecn)
                    .frame(station(2), station(1))
            };
            let outer = Outer {
                ecn: outer_ecn,
                ..outer(2, 1)
            };
            let sent = outer.vxlan((40_000, UDP_PORT), RED_VNI, &packet(inner_ecn));
            let (verdict, left) = switch.receive(uplink(), &sent);
            match result {
                Some(ecn) => assert_eq!((verdict, left), (Verdict::Forward(port(11)), packet(ecn))),
                None => assert_eq!(verdict, dropped(DropReason::TunnelEcn)),
            }
        }
    }
    // What is no IP packet has none.
    let mut switch = switch();
    let outer = Outer {
        ecn: 3,
        ..outer(2, 1)
    };
    let sent = outer.vxlan((40_000, UDP_PORT), RED_VNI, &frame(station(1), station(2)));
    assert_eq!(switch.verdict(0, &sent), cast(RED, behind(2)));
}

#[test]
fn only_a_networks_own_nodes_put_anything_in() {
    let mut switch = switch();
    let inner = frame(station(1), station(2));
    let unknown = dropped(DropReason::TunnelUnknownPeer);
    assert_eq!(
        switch.verdict(0, &tunnelled(4, RED_VNI, &inner)),
        unknown,
        "no node of any network"
    );
    assert_eq!(
        switch.verdict(0, &tunnelled(3, BLUE_VNI, &inner)),
        unknown,
        "of another one"
    );
    assert_eq!(
        switch.verdict(0, &tunnelled(5, BLUE_VNI, &inner)),
        cast(BLUE, behind(5))
    );
    assert_eq!(switch.lessons().len(), 1);
    // In a network, a tunnel packet is a frame like any other.
    assert_eq!(
        switch.verdict(10, &tunnelled(2, RED_VNI, &inner)),
        cast(RED, at(10))
    );
}

#[test]
fn what_is_in_a_tunnel_is_checked_as_what_comes_in_at_a_port() {
    let reserved = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]);
    let plain = frame(station(1), station(2));
    let rows = [
        (plain[..13].to_vec(), DropReason::TunnelMalformed),
        (vec![], DropReason::TunnelMalformed),
        (frame(MacAddr::ZERO, station(2)), DropReason::BridgeSource),
        (frame(MacAddr::BROADCAST, station(2)), DropReason::BridgeSource),
        (frame(station(1), reserved), DropReason::BridgeReserved),
        (tagged(&plain, 10), DropReason::VlanTagged),
    ];
    let mut switch = switch();
    for (inner, reason) in rows {
        for node in [2, 6] {
            let verdict = switch.verdict(0, &tunnelled(node, RED_VNI, &inner));
            assert_eq!(verdict, dropped(reason), "{inner:02x?}");
        }
    }
    assert_eq!(switch.lessons(), []);
    // Over IPv6 the checksum is a must; the outer IPv4 header's own is checked.
    let unchecked = patch(tunnelled(6, RED_VNI, &plain), 60, &[0, 0]);
    assert_eq!(
        switch.verdict(0, &unchecked),
        dropped(DropReason::TunnelNoChecksum)
    );
    let damaged = patch(tunnelled(2, RED_VNI, &plain), 18, &[0xff]);
    assert_eq!(switch.verdict(0, &damaged), dropped(DropReason::Ipv4Checksum));
}

#[test]
fn the_wire_is_shared_with_what_is_routed_frame_by_frame() {
    let mut switch = switch();
    switch.know(RED, station(2), at(11));
    let bridged = tunnelled(2, RED_VNI, &frame(station(1), station(2)));
    let packet = Ip::udp(pod(Family::V4, 2, 9), pod(Family::V4, 1, 3));
    let routed = tunnelled(2, VNI, &packet.frame(vtep_mac(1), vtep_mac(2)));
    let strange = tunnelled(2, 77, &frame(station(1), station(2)));
    let batch = [&routed, &bridged, &bridged, &routed, &strange, &bridged, &routed].map(Clone::clone);
    let ends = switch.receive_all(uplink(), &batch);
    let verdicts: Vec<_> = ends.iter().map(|(verdict, _)| *verdict).collect();
    let (pod, member) = (Verdict::Forward(port(3)), Verdict::Forward(port(11)));
    let stranger = dropped(DropReason::TunnelWrongVni);
    assert_eq!(verdicts, [pod, member, member, pod, stranger, member, pod]);
    assert_ne!(
        VNI, RED_VNI,
        "flannel's network has the same UDP port and another VNI"
    );
}
