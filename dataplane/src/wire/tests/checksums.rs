//! Checksums: against `etherparse`, incremental against full.

use core::net::{Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;
use proptest::prelude::*;

use super::checksum::{self, Delta, Sum, addresses_v4, addresses_v6};
use super::frames::transport_of;
use super::*;

#[test]
fn the_example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::ZERO.add_bytes(&bytes).fold(), 0xddf2);
    assert_eq!(checksum::checksum(&bytes), 0x220d);
}

#[test]
fn the_example_of_rfc_1624() {
    // Section 4: the checksum 0xdd2f, a word that goes from 0x5555 to 0x3285; equation 3 answers 0x0000.
    assert_eq!(Delta::u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
}

#[test]
fn extreme_sums_fold() {
    assert_eq!(Sum::ZERO.fold(), 0);
    assert_eq!(Sum::ZERO.add_bytes(&[0; 64]).fold(), 0);
    assert_eq!(Sum::ZERO.add_u32(u32::MAX).fold(), 0xffff);
    // A sum that is 0x0001_0000_ffff_ffff inside carries at every fold, the last one included.
    let carries = (0..=0x1_0000).fold(Sum::ZERO, |sum, _| sum.add_u32(u32::MAX));
    let carries = carries.add_u32(u32::from_be(0x1_0000));
    assert_eq!(carries.fold(), u16::from_be(1));
    let most = vec![0xff; 65_535];
    // The padded last byte is 0xff00.
    assert_eq!(Sum::ZERO.add_bytes(&most).fold(), 0xff00);
    let mut sum = Sum::ZERO;
    for _ in 0..1000 {
        sum = sum.add_bytes(&most[..65_534]).add_u32(u32::MAX).add_u16(u16::MAX);
    }
    assert!(sum.is_valid());
}

proptest! {
    #[test]
    fn sums_equal_etherparse(bytes in proptest::collection::vec(any::<u8>(), 0..2000), skip in 0..9_usize) {
        // `skip` moves the slice to addresses of any alignment.
        let bytes = &bytes[skip.min(bytes.len())..];
        let theirs = Sum16BitWords::new().add_slice(bytes).ones_complement();
        prop_assert_eq!(checksum::checksum(bytes), u16::from_be(theirs));
    }

    #[test]
    fn sums_may_be_taken_in_even_pieces(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in 0..150_usize,
    ) {
        let (head, tail) = bytes.split_at((at * 2).min(bytes.len() & !1));
        let whole = Sum::ZERO.add_bytes(&bytes).fold();
        prop_assert_eq!(Sum::ZERO.add_bytes(head).add_bytes(tail).fold(), whole);
        if tail.len().is_multiple_of(2) {
            prop_assert_eq!(Sum::ZERO.add_bytes(tail).add_bytes(head).fold(), whole);
        }
    }

    #[test]
    fn incremental_equals_full(
        mut bytes in proptest::collection::vec(any::<u8>(), 32..200),
        at in 0..1000_usize,
        short in any::<u16>(),
        word in any::<u32>(),
        address in any::<u128>(),
    ) {
        // The field is somewhere else; here it stands beside the bytes. One byte that never changes is not
        // zero, as in any header with a version: the sum of nothing but zeros has no second form.
        bytes.push(1);
        let places = bytes.len() - 17;
        let mut field = checksum::checksum(&bytes);

        let at = at % (places / 2) * 2;
        let old = u16::from_be_bytes(*bytes[at..].first_chunk().unwrap());
        bytes[at..at + 2].copy_from_slice(&short.to_be_bytes());
        field = Delta::u16(old, short).apply(field);
        prop_assert_eq!(field, checksum::checksum(&bytes));

        let old = u32::from_be_bytes(*bytes[at..].first_chunk().unwrap());
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        let first = Delta::u32(old, word);
        prop_assert_eq!(first.apply(field), checksum::checksum(&bytes));

        let old = Ipv6Addr::from(u128::from_be_bytes(*bytes[at..].first_chunk().unwrap()));
        bytes[at..at + 16].copy_from_slice(&address.to_be_bytes());
        field = first.and(Delta::ipv6(old, Ipv6Addr::from(address))).apply(field);
        prop_assert_eq!(field, checksum::checksum(&bytes));
    }

    #[test]
    fn translation_keeps_transport_checksums_v4(
        source in any::<u32>(), destination in any::<u32>(), port in any::<u16>(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        for mut frame in [udp_v4_frame(&payload), tcp_v4_frame(&payload)] {
            let mut ip = Ipv4Mut::parse(&mut frame[eth::HEADER_LEN..]).unwrap();
            let delta = ip.set_source(source.into()).and(ip.set_destination(destination.into()));
            let protocol = ip.view().protocol();
            if protocol == IpProtocol::UDP {
                let mut udp = UdpMut::parse(ip.payload_mut()).unwrap();
                udp.adjust_checksum(delta);
                udp.set_source_port(port);
            } else {
                let mut tcp = TcpMut::parse(ip.payload_mut()).unwrap();
                tcp.adjust_checksum(delta);
                tcp.set_destination_port(port);
            }
            let view = ip.view();
            prop_assert_eq!(view.verify_checksum(), Ok(()));
            prop_assert!(checksum::is_transport_valid(view.address_sum(), protocol, view.payload()));
            let theirs = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            assert_checksum_as_etherparse(&theirs);
        }
    }

    #[test]
    fn translation_keeps_transport_checksums_v6(
        source in any::<u128>(), destination in any::<u128>(), port in any::<u16>(),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        for mut frame in [udp_v6_frame(&payload), tcp_v6_frame(&payload)] {
            let mut ip = Ipv6Mut::parse(&mut frame[eth::HEADER_LEN..]).unwrap();
            let delta = ip.set_source(source.into()).and(ip.set_destination(destination.into()));
            if ip.view().next_header() == IpProtocol::UDP {
                let mut udp = UdpMut::parse(ip.payload_mut()).unwrap();
                udp.adjust_checksum(delta);
                udp.set_destination_port(port);
            } else {
                let mut tcp = TcpMut::parse(ip.payload_mut()).unwrap();
                tcp.adjust_checksum(delta);
                tcp.set_source_port(port);
            }
            let theirs = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            assert_checksum_as_etherparse(&theirs);
        }
    }
}

/// The checksum of a UDP or TCP packet is the one that `etherparse` computes anew.
fn assert_checksum_as_etherparse(packet: &etherparse::SlicedPacket<'_>) {
    use etherparse::{NetSlice, TransportSlice};
    let (ours, theirs) = match (packet.net.as_ref().unwrap(), packet.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => (
            udp.checksum(),
            udp.to_header()
                .calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                .unwrap(),
        ),
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => (
            tcp.checksum(),
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                .unwrap(),
        ),
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => (
            udp.checksum(),
            udp.to_header()
                .calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                .unwrap(),
        ),
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => (
            tcp.checksum(),
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                .unwrap(),
        ),
        other => panic!("{other:?}"),
    };
    assert_eq!(ours, theirs);
}
#[test]
fn a_udp_checksum_that_would_become_zero_by_an_edit_is_all_ones() {
    let field = 0x1234;
    // The complement of the field goes to 0xffff when the covered word grows by the field itself.
    let delta = Delta::u16(0, field);
    assert_eq!(
        (delta.apply(field), delta.apply_udp(field), delta.apply_udp(0)),
        (0, 0xffff, 0)
    );
}

#[test]
fn filled_checksums_are_those_of_etherparse() {
    let frame_v4 = tcp_v4_frame(PAYLOAD);
    let frame_v6 = udp_v6_frame(PAYLOAD);
    for packet in [&frame_v4[eth::HEADER_LEN..], &frame_v6[eth::HEADER_LEN..]] {
        let (start, protocol, addresses) = transport_of(packet);
        let mut again = packet.to_vec();
        let at = start + if protocol == IpProtocol::UDP { 6 } else { 16 };
        again[at..at + 2].fill(DIRT);
        assert!(!checksum::is_transport_valid(
            addresses,
            protocol,
            &again[start..]
        ));
        assert!(checksum::fill_transport(addresses, protocol, &mut again[start..]));
        assert_eq!(again, packet);
        assert!(checksum::is_transport_valid(addresses, protocol, &again[start..]));
        assert!(!checksum::fill_transport(
            addresses,
            IpProtocol::SCTP,
            &mut again[start..]
        ));
        assert_eq!(again, packet);
    }
}

#[test]
fn pseudo_headers_are_the_sum_of_their_parts() {
    let (source, destination) = (Ipv4Addr::from(CLIENT_V4), Ipv4Addr::from(SERVER_V4));
    let v4 = checksum::pseudo_v4(source, destination, IpProtocol::TCP, 99);
    assert_eq!(
        v4.fold(),
        addresses_v4(source, destination)
            .add_transport(IpProtocol::TCP, 99)
            .fold()
    );
    let (source, destination) = (Ipv6Addr::from(CLIENT_V6), Ipv6Addr::from(SERVER_V6));
    let v6 = checksum::pseudo_v6(source, destination, IpProtocol::UDP, 70_000);
    let theirs = Sum16BitWords::new()
        .add_slice(&CLIENT_V6)
        .add_slice(&SERVER_V6)
        .add_slice(&70_000_u32.to_be_bytes())
        .add_2bytes([0, 17])
        .ones_complement();
    assert_eq!(v6.checksum(), u16::from_be(theirs));
    assert_eq!(
        v6.fold(),
        addresses_v6(source, destination)
            .add_transport(IpProtocol::UDP, 70_000)
            .fold()
    );
}
