#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::flows::FlowSpace;
use super::super::marker::Runs;
use super::super::recognise::{Recognised, Wrapping, recognise, recognise_of};
use super::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const LINK: Link = Link {
    source: MacAddr([2, 0, 0, 0, 0, 1]),
    destination: MacAddr([2, 0, 0, 0, 0, 2]),
};
const RUN: u16 = 0xbeef;
const PROTOCOLS: [Protocol; 4] = [Protocol::Udp, Protocol::Tcp, Protocol::TcpSyn, Protocol::Icmp];

fn flows(is_ipv4: bool, count: u32) -> Flows {
    let [source, destinations] = if is_ipv4 {
        ["10.244.1.2", "10.244.2.0-10.244.2.255"]
    } else {
        ["2001:db8::2", "2001:db8:1::-2001:db8:1::ff"]
    };
    let space = FlowSpace {
        sources: source.parse().unwrap(),
        destinations: destinations.parse().unwrap(),
        source_ports: "1024-65535".parse().unwrap(),
        destination_ports: "9".parse().unwrap(),
    };
    Flows::new(space, count).unwrap()
}

fn outer(tunnel: Tunnel) -> Outer {
    let source = Ipv4Addr::new(192, 0, 2, 1);
    Outer {
        source,
        destination: Ipv4Addr::new(192, 0, 2, 2),
        tunnel,
    }
}

fn vxlan() -> Tunnel {
    Tunnel::Vxlan {
        inner: LINK,
        vni: Vni::try_from(1).unwrap(),
        port: vxlan::LINUX_PORT,
    }
}

fn shape(outer: Option<Outer>, flows: Flows, frame_len: usize) -> Shape {
    Shape {
        link: LINK,
        outer,
        flows,
        frame_len,
        run: RUN,
    }
}

/// Every kind of packet there is, with how it arrives and by how much the tunnel makes it longer.
fn kinds() -> Vec<(Option<Outer>, Wrapping, usize, bool, Protocol)> {
    let mut kinds = Vec::new();
    for protocol in PROTOCOLS {
        for is_ipv4 in [true, false] {
            kinds.push((None, Wrapping::Plain, 0, is_ipv4, protocol));
            kinds.push((Some(outer(vxlan())), Wrapping::Vxlan, 50, is_ipv4, protocol));
        }
        kinds.push((Some(outer(Tunnel::Ipip)), Wrapping::Ipip, 20, true, protocol));
    }
    kinds
}

/// What etherparse says of a packet without a tunnel: both addresses, both ports or what stands for them.
fn read(frame: &[u8]) -> Flow {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            assert_eq!(
                ip.header().to_header().calc_header_checksum(),
                ip.header().header_checksum()
            );
            (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            )
        }
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        other => panic!("{other:?}"),
    };
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (source_port, destination_port) = match sliced.transport.unwrap() {
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        TransportSlice::Icmpv4(icmp) => (word(icmp.slice(), 4), word(icmp.slice(), 6)),
        TransportSlice::Icmpv6(icmp) => (word(icmp.slice(), 4), word(icmp.slice(), 6)),
        TransportSlice::Igmp(igmp) => panic!("{igmp:?}"),
    };
    let ports = Ports {
        source: source_port,
        destination: destination_port,
    };
    Flow {
        source,
        destination,
        ports,
    }
}

#[test]
fn every_stamped_packet_is_whole_and_carries_its_flow_number_and_time() {
    for (outer, wrapping, grown, is_ipv4, protocol) in kinds() {
        let flows = flows(is_ipv4, 65_536);
        let least = shortest(&flows, protocol);
        for len in [least, least + 1, 200, 1400] {
            let template = Template::of(&shape(outer, flows, len), protocol).unwrap();
            assert_eq!(template.bytes().len(), len + grown);
            for (flow, sequence, time) in [
                (0, 0, 0),
                (1, 1, 2),
                (65_535, 0x12_3456_789a, 1),
                (777, (1 << 40) - 1, 99),
            ] {
                let mut packet = template.bytes().to_vec();
                template.stamp_at(&mut packet, flow, sequence, time).unwrap();
                let case = format!("{protocol:?} in {wrapping:?}, IPv4 {is_ipv4}, {len} bytes, flow {flow}");
                let marker = Marker {
                    run: RUN,
                    sequence,
                    time,
                };
                let expected = Recognised {
                    marker,
                    wrapping,
                    flow: recognise(&packet).unwrap().flow,
                    is_credible: true,
                    is_intact: true,
                };
                assert_eq!(recognise(&packet).unwrap(), expected, "{case}");
                // The inner frame, with a link of its own where IPIP has none.
                let mut inner = packet[template.ip_at - eth::HEADER_LEN..].to_vec();
                inner[..eth::HEADER_LEN].copy_from_slice(match wrapping {
                    Wrapping::Ipip => &packet[..eth::HEADER_LEN],
                    _ => &packet[template.ip_at - eth::HEADER_LEN..template.ip_at],
                });
                assert_eq!(read(&inner), flows.flow(flow), "{case}");
            }
        }
    }
}

#[test]
fn the_shortest_packet_is_the_shortest_ethernet_frame() {
    assert_eq!(shortest(&flows(true, 1), Protocol::Udp), 60);
    assert_eq!(shortest(&flows(true, 1), Protocol::TcpSyn), 72);
    assert_eq!(shortest(&flows(false, 1), Protocol::Udp), 80);
}

#[test]
fn a_packet_whose_head_is_written_anew_can_be_stamped_again() {
    let template = Template::new(&shape(Some(outer(vxlan())), flows(true, 256), 200)).unwrap();
    let (mut twice, mut once) = (template.bytes().to_vec(), template.bytes().to_vec());
    template.stamp(&mut twice, 9, 9).unwrap();
    twice[..template.head().len()].copy_from_slice(template.head());
    template.stamp(&mut twice, 200, 200).unwrap();
    template.stamp(&mut once, 200, 200).unwrap();
    assert_eq!(twice, once);
}

/// Which bytes of a packet no checksum covers: the links' addresses, the hop limit and labels of IPv6, the VXLAN header, and
/// the outer UDP header over IPv4, whose checksum is zero.
fn is_uncovered(template: &Template, outer: Option<Outer>, byte: usize) -> bool {
    let links = 0..12;
    let mut free = vec![links];
    if let Some(Tunnel::Vxlan { .. }) = outer.map(|outer| outer.tunnel) {
        let inner = template.ip_at - eth::HEADER_LEN;
        free.push(34..inner);
        free.push(inner..inner + 12);
    }
    if !template.flows().is_ipv4() {
        let ip = template.ip_at;
        // Traffic class and flow label, and the hop limit.
        free.push(ip..ip + 4);
        free.push(ip + 7..ip + 8);
    }
    free.iter().any(|range| range.contains(&byte))
}

#[test]
fn every_damaged_bit_that_a_checksum_covers_shows_and_the_packet_is_still_known() {
    let runs = Some(Runs { first: RUN, count: 1 });
    for (outer, wrapping, _, is_ipv4, protocol) in kinds() {
        let template = Template::of(&shape(outer, flows(is_ipv4, 1), 128), protocol).unwrap();
        for bit in 0..template.bytes().len() * 8 {
            let mut packet = template.bytes().to_vec();
            packet[bit / 8] ^= 1 << (bit % 8);
            let case = format!(
                "{protocol:?} in {wrapping:?}, IPv4 {is_ipv4}, byte {}, bit {}",
                bit / 8,
                bit % 8
            );
            let found = recognise_of(&packet, runs).unwrap_or_else(|| panic!("not known: {case}"));
            if !is_uncovered(&template, outer, bit / 8) {
                assert!(!found.is_intact, "{case}");
            }
            if found.is_credible {
                assert_eq!(found.marker.sequence, 0, "{case}");
            }
        }
    }
}

#[test]
fn a_packet_is_known_behind_headers_that_are_not_looked_into() {
    let template = Template::new(&shape(None, flows(true, 1), 100)).unwrap();
    let wrapped =
        |outer: etherparse::PacketBuilderStep<etherparse::IpHeaders>, number: IpNumber, more: &[u8]| {
            let mut frame = Vec::new();
            outer
                .write(&mut frame, number, &[more, template.bytes()].concat())
                .unwrap();
            frame
        };
    let ip = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1, 1, 1, 1], [2, 2, 2, 2], 9);
    // GRE with an Ethernet frame in it (RFC 7637), and UDP by a port that is not VXLAN's.
    let gre = wrapped(ip(), IpNumber::GRE, &[0x20, 0, 0x65, 0x58, 0, 0, 1, 0]);
    let mut other_port = Vec::new();
    let inside = [&[0, 8, 0, 0, 0, 0, 1, 0][..], template.bytes()].concat();
    ip().udp(1, 6081).write(&mut other_port, &inside).unwrap();
    for frame in [gre, other_port] {
        let found = recognise(&frame).unwrap();
        assert_eq!((found.wrapping, found.is_intact), (Wrapping::Other, true));
    }
    let mut tagged = template.bytes().to_vec();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let found = recognise(&tagged).unwrap();
    assert_eq!((found.wrapping, found.is_intact), (Wrapping::Plain, true));
}

proptest! {
    /// A frame that is no generator's is not taken for one, whatever is in it.
    #[test]
    fn strangers_are_not_known(frame in prop::collection::vec(any::<u8>(), 0..300)) {
        let runs = Runs { first: RUN, count: 1 };
        prop_assert!(recognise_of(&frame, Some(runs)).is_none());
        prop_assert!(recognise(&frame).is_none());
    }

    /// What a NAT does: other addresses and ports, checksums brought up to date (by etherparse, from nothing).
    #[test]
    fn translated_packets_are_whole(source: u32, destination: u32, ports: (u16, u16), len in 60usize..400) {
        let template = Template::new(&shape(None, flows(true, 1), len)).unwrap();
        let payload = &template.bytes()[template.head().len() - MARKER_LEN..];
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source.to_be_bytes(), destination.to_be_bytes(), 63)
            .udp(ports.0, ports.1)
            .write(&mut frame, payload)
            .unwrap();
        let found = recognise(&frame).unwrap();
        prop_assert!(found.is_intact && found.wrapping == Wrapping::Plain);
    }
}

#[test]
fn flows_are_told_apart_and_packets_of_one_are_not() {
    for (outer, wrapping, _, is_ipv4, protocol) in kinds() {
        let template = Template::of(&shape(outer, flows(is_ipv4, 2000), 128), protocol).unwrap();
        let flow_of = |flow, sequence| {
            let mut packet = template.bytes().to_vec();
            template.stamp(&mut packet, flow, sequence).unwrap();
            recognise(&packet).unwrap().flow
        };
        let apart: std::collections::HashSet<_> = (0..2000).map(|flow| flow_of(flow, 1)).collect();
        // Of 2000 numbers below 65,536 about 30 fall together.
        assert!(
            apart.len() > 1900,
            "{protocol:?} in {wrapping:?}: {}",
            apart.len()
        );
        assert_eq!(flow_of(7, 1), flow_of(7, 9999));
    }
}

#[test]
fn lengths_that_no_frame_has_are_refused() {
    for (outer, len) in [
        (None, SHORTEST - 1),
        (None, MAX_PACKET_LEN + 1),
        (Some(outer(vxlan())), MAX_PACKET_LEN - 49),
        (None, usize::MAX),
    ] {
        let refused = Template::new(&shape(outer, flows(true, 1), len)).unwrap_err();
        assert!(
            matches!(refused, TemplateError::Length { .. }),
            "{len}: {refused}"
        );
    }
    let six_in_four = Template::new(&shape(Some(outer(Tunnel::Ipip)), flows(false, 1), 100));
    assert_eq!(six_in_four.unwrap_err(), TemplateError::Family);
}

#[test]
fn flows_of_a_tunnel_spread_over_its_source_ports() {
    let ports: std::collections::HashSet<u16> = (0..4096).map(spread).collect();
    assert!(ports.len() > 3500, "{} ports for 4096 flows", ports.len());
    assert!(ports.iter().all(|port| *port < OUTER_SOURCE_PORTS));
}
