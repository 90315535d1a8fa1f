//! Random and mutated bytes: no parser panics, and each accepts and reads what `etherparse` does.

use proptest::prelude::*;

use super::alike::{
    assert_same_ipv4_as_etherparse, assert_same_ipv6_as_etherparse, assert_same_transport_as_etherparse,
};
use super::frames::{KINDS, valid_frame};
use super::*;

/// Reads everything that every view of these bytes offers.
fn read_everything(bytes: &[u8]) {
    if let Ok(frame) = Ethernet::parse(bytes) {
        let _ = (
            frame.source(),
            frame.destination(),
            frame.ether_type().is_length(),
        );
        if let Ok(behind) = vlan::skip_tags(frame.payload(), frame.ether_type(), vlan::MAX_TAGS) {
            assert!(behind.tags <= vlan::MAX_TAGS && !behind.ether_type.is_vlan());
            read_network(behind.payload);
        }
    }
    read_network(bytes);
    for family in [IcmpFamily::V4, IcmpFamily::V6] {
        if let Ok(icmp) = Icmp::parse(family, bytes) {
            let _ = (icmp.code(), icmp.checksum(), icmp.echo(), icmp.next_hop_mtu());
            let _ = icmp.verify_checksum(checksum::Sum::ZERO);
            icmp.quoted().into_iter().for_each(read_network);
        }
    }
    if let Ok(tag) = VlanTag::parse(bytes) {
        assert!(tag.id() < 4096 && tag.priority() < 8 && tag.drop_eligible() == (bytes[0] & 0x10 != 0));
    }
    if let Ok(vxlan) = Vxlan::parse(bytes) {
        assert_eq!((vxlan.payload(), vxlan.vni() <= Vni::MAX), (&bytes[8..], true));
    }
}

fn read_network(bytes: &[u8]) {
    if let Ok(arp) = Arp::parse(bytes) {
        let mut out = [DIRT; arp::PACKET_LEN];
        arp.fields().emit(&mut out);
        assert_eq!(out, bytes[..arp::PACKET_LEN]);
    }
    for ip in [Ipv4::parse(bytes), Ipv4::parse_quoted(bytes)]
        .into_iter()
        .flatten()
    {
        let _ = (
            ip.verify_checksum(),
            ip.fragment(),
            ip.dont_fragment(),
            ip.dscp(),
            ip.ecn(),
            ip.checksum(),
        );
        assert!(ip.header_len() + ip.payload().len() <= bytes.len());
        assert_eq!(ip.options().len() % 4, 0);
        read_transport(ip.payload());
    }
    let _ = ipip::parse_inner(bytes);
    for ip in [Ipv6::parse(bytes), Ipv6::parse_quoted(bytes)]
        .into_iter()
        .flatten()
    {
        let _ = (ip.traffic_class(), ip.flow_label(), ip.hop_limit());
        if let Ok(upper) = ip.upper() {
            assert_eq!(&ip.payload()[upper.offset..], upper.payload);
            read_transport(upper.payload);
        }
    }
}

fn read_transport(bytes: &[u8]) {
    let ports = Ports::parse(bytes);
    if let Ok(udp) = Udp::parse(bytes) {
        assert_eq!(
            (Ok(udp.ports()), udp.payload().len() + 8),
            (ports, usize::from(udp.length()))
        );
    }
    if let Ok(tcp) = Tcp::parse(bytes) {
        assert_eq!(
            (Ok(tcp.ports()), tcp.header_len() + tcp.payload().len()),
            (ports, bytes.len())
        );
        let _ = (
            tcp.sequence(),
            tcp.acknowledgment(),
            tcp.flags(),
            tcp.window(),
            tcp.checksum(),
            tcp.options(),
        );
    }
}

/// Makes every edit that every mutable view of these bytes offers, and checks that no byte was added to or
/// taken from the checksum of an IPv4 header that it does not stand for.
fn edit_everything(bytes: &mut [u8]) {
    if let Ok(mut frame) = EthernetMut::parse(bytes) {
        frame.set_source(THERE);
        frame.set_destination(HERE);
        edit_network(frame.payload_mut());
    }
    edit_network(bytes);
    for family in [IcmpFamily::V4, IcmpFamily::V6] {
        if let Ok(mut icmp) = IcmpMut::parse(family, bytes) {
            icmp.set_kind(IcmpType::V4_ECHO_REQUEST);
            icmp.set_echo_id(1);
            edit_network(icmp.body_mut());
        }
        icmp::fill_checksum(family, checksum::Sum::ZERO, bytes);
    }
}

fn edit_network(bytes: &mut [u8]) {
    if let Ok(mut ip) = Ipv4Mut::parse(bytes) {
        let valid = ip.view().verify_checksum();
        let _ = ip.complete_partial_checksum();
        let _ = ip.decrement_ttl();
        ip.set_ecn(Ecn::Ce);
        ip.set_id(7);
        let delta = ip
            .set_source(CLIENT_V4.into())
            .and(ip.set_destination(SERVER_V4.into()));
        edit_transport(delta, ip.payload_mut());
        if valid.is_ok() {
            assert_eq!(ip.view().verify_checksum(), Ok(()));
        }
    }
    if let Ok(mut ip) = Ipv6Mut::parse(bytes) {
        let _ = ip.complete_partial_checksum();
        let _ = ip.decrement_hop_limit();
        ip.set_ecn(Ecn::Ect0);
        let delta = ip
            .set_source(CLIENT_V6.into())
            .and(ip.set_destination(SERVER_V6.into()));
        edit_transport(delta, ip.payload_mut());
    }
    let _ =
        Ipv4Mut::parse_quoted(bytes).map(|mut ip| edit_transport(checksum::Delta::ZERO, ip.payload_mut()));
    let _ =
        Ipv6Mut::parse_quoted(bytes).map(|mut ip| edit_transport(checksum::Delta::ZERO, ip.payload_mut()));
}

fn edit_transport(delta: checksum::Delta, bytes: &mut [u8]) {
    if let Ok(mut udp) = UdpMut::parse(bytes) {
        udp.adjust_checksum(delta);
        udp.set_source_port(1);
        udp.set_destination_port(2);
    }
    if let Ok(mut tcp) = TcpMut::parse(bytes) {
        tcp.adjust_checksum(delta);
        tcp.set_source_port(1);
        tcp.set_destination_port(2);
    }
    if let Ok(mut ports) = PortsMut::parse(bytes) {
        let _ = ports.set_source(3).and(ports.set_destination(4));
    }
    for protocol in [
        IpProtocol::TCP,
        IpProtocol::UDP,
        IpProtocol::ICMPV6,
        IpProtocol::SCTP,
    ] {
        checksum::fill_transport(checksum::Sum::ZERO, protocol, bytes);
        checksum::complete_partial(checksum::Sum::ZERO, protocol, bytes);
    }
}

prop_compose! {
    /// A valid frame of which some bytes are overwritten and the end is perhaps cut off.
    fn mutated_frame()(
        kind in 0..KINDS,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        // Headers are where the lies matter, so half of the changes are near the start.
        changes in proptest::collection::vec((prop_oneof![0..80_usize, 0..4096_usize], any::<u8>()), 0..6),
        keep in prop_oneof![3 => Just(usize::MAX), 1 => 0..200_usize],
    ) -> Vec<u8> {
        let mut frame = valid_frame(kind, &payload);
        for (at, byte) in changes {
            let len = frame.len();
            frame[at % len] = byte;
        }
        frame.truncate(keep);
        frame
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_everything(&bytes);
        edit_everything(&mut bytes);
    }

    #[test]
    fn random_bytes_that_claim_to_be_ip_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 1..200),
        first in prop_oneof![Just(0x45), 0x40..0x50_u8, Just(0x60)],
    ) {
        bytes[0] = first;
        read_everything(&bytes);
        assert_same_ipv4_as_etherparse(&bytes);
        assert_same_ipv6_as_etherparse(&bytes);
        edit_everything(&mut bytes);
    }

    #[test]
    fn random_transports_read_as_etherparse_reads_them(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
        length in 0..90_u16,
    ) {
        assert_same_transport_as_etherparse(&bytes);
        if let Some(field) = bytes.get_mut(4..6) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        assert_same_transport_as_etherparse(&bytes);
    }

    #[test]
    fn random_chains_read_as_etherparse_reads_them(
        kinds in proptest::collection::vec(
            prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), Just(17), Just(59)], 1..12),
        bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(2), any::<u8>()], 40..400),
        payload_len in prop_oneof![Just(None), (0..400_u16).prop_map(Some)],
    ) {
        // Units of eight bytes whose first bytes are kinds from the list, with mostly small lengths.
        let mut bytes = bytes;
        for (place, unit) in bytes[40..].chunks_mut(8).enumerate() {
            unit[0] = kinds[(place + 1) % kinds.len()];
        }
        let len = payload_len.unwrap_or(bytes.len() as u16 - 40).to_be_bytes();
        bytes[..7].copy_from_slice(&[0x60, 0, 0, 0, len[0], len[1], kinds[0]]);
        assert_same_ipv6_as_etherparse(&bytes);
        read_everything(&bytes);
        edit_everything(&mut bytes);
    }

    #[test]
    fn mutated_packets_never_panic_and_read_as_etherparse_reads_them(mut frame in mutated_frame()) {
        read_everything(&frame);
        if let Ok(ethernet) = Ethernet::parse(&frame) {
            assert_same_ipv4_as_etherparse(ethernet.payload());
            assert_same_ipv6_as_etherparse(ethernet.payload());
        }
        edit_everything(&mut frame);
    }

    #[test]
    fn valid_packets_are_accepted_whole(
        kind in 0..KINDS,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let frame = valid_frame(kind, &payload);
        let ethernet = Ethernet::parse(&frame).unwrap();
        let behind = vlan::skip_tags(ethernet.payload(), ethernet.ether_type(), vlan::MAX_TAGS).unwrap();
        let (protocol, l4, addresses) = if behind.ether_type == EtherType::IPV4 {
            let ip = Ipv4::parse(behind.payload).unwrap();
            prop_assert_eq!(ip.verify_checksum(), Ok(()));
            (ip.protocol(), ip.payload(), ip.address_sum())
        } else {
            let ip = Ipv6::parse(behind.payload).unwrap();
            let upper = ip.upper().unwrap();
            (upper.protocol, upper.payload, ip.address_sum())
        };
        match protocol {
            IpProtocol::UDP | IpProtocol::TCP => {
                prop_assert!(checksum::is_transport_valid(addresses, protocol, l4));
                prop_assert!(l4.ends_with(&payload));
            }
            IpProtocol::ICMP | IpProtocol::ICMPV6 => {
                let family = if protocol == IpProtocol::ICMP { IcmpFamily::V4 } else { IcmpFamily::V6 };
                prop_assert_eq!(Icmp::parse(family, l4).unwrap().verify_checksum(addresses), Ok(()));
            }
            other => panic!("{other}"),
        }
    }
}
