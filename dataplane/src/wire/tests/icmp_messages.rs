//! ICMP and ICMPv6.

use core::net::Ipv4Addr;

use super::checksum::{Delta, Sum, addresses_v6};
use super::*;

/// Echo requests of both families with the whole ICMP message each.
fn echo_requests() -> [(IcmpFamily, Vec<u8>); 2] {
    let v4 = built!(
        etherparse::PacketBuilder::ipv4(CLIENT_V4, SERVER_V4, 64).icmpv4_echo_request(0x1234, 0x5678),
        PAYLOAD
    );
    let v6 = built!(
        etherparse::PacketBuilder::ipv6(CLIENT_V6, SERVER_V6, 64).icmpv6_echo_request(0x1234, 0x5678),
        PAYLOAD
    );
    [
        (IcmpFamily::V4, v4[ipv4::HEADER_LEN..].to_vec()),
        (IcmpFamily::V6, v6[ipv6::HEADER_LEN..].to_vec()),
    ]
}

/// The sum of the addresses that [`echo_requests`] go between; ICMP for IPv4 must not look at it.
fn addresses() -> Sum {
    addresses_v6(CLIENT_V6.into(), SERVER_V6.into())
}

#[test]
fn echo_requests_read_as_etherparse_wrote_them() {
    for (family, bytes) in echo_requests() {
        let view = Icmp::parse(family, &bytes).unwrap();
        assert_eq!((view.family(), view.code(), view.body()), (family, 0, PAYLOAD));
        assert!(view.is_echo_request() && !view.is_echo_reply() && !view.is_error());
        assert_eq!(
            view.echo(),
            Some(Echo {
                id: 0x1234,
                sequence: 0x5678
            })
        );
        assert_eq!((view.quoted(), view.next_hop_mtu()), (None, None));
        assert_eq!(view.verify_checksum(addresses()), Ok(()));
        cut_everywhere(
            &bytes[..icmp::HEADER_LEN],
            |bytes| Icmp::parse(family, bytes),
            |_| Malformed::IcmpTruncated,
        );
        cut_everywhere(
            &bytes[..icmp::HEADER_LEN],
            |bytes| IcmpMut::parse(family, &mut bytes.to_vec()).map(drop),
            |_| Malformed::IcmpTruncated,
        );
    }
}

#[test]
fn a_flipped_bit_breaks_the_checksum() {
    for (family, bytes) in echo_requests() {
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let view = Icmp::parse(family, &wrong).unwrap();
            assert_eq!(
                view.verify_checksum(addresses()),
                Err(Malformed::IcmpChecksum),
                "bit {bit}"
            );
        }
    }
    let [_, (family, v6)] = echo_requests();
    let swapped_in = addresses_v6(CLIENT_V6.into(), CLIENT_V6.into());
    let view = Icmp::parse(family, &v6).unwrap();
    assert_eq!(
        view.verify_checksum(swapped_in),
        Err(Malformed::IcmpChecksum),
        "ICMPv6 covers the addresses"
    );
}

#[test]
fn a_request_becomes_its_reply_in_place() {
    let kinds = [IcmpType::V4_ECHO_REPLY, IcmpType::V6_ECHO_REPLY];
    for ((family, mut bytes), kind) in echo_requests().into_iter().zip(kinds) {
        let mut view = IcmpMut::parse(family, &mut bytes).unwrap();
        view.set_kind(kind);
        view.set_echo_id(0xffff);
        assert!(view.view().is_echo_reply());
        let reply = match family {
            IcmpFamily::V4 => built!(
                etherparse::PacketBuilder::ipv4(CLIENT_V4, SERVER_V4, 64).icmpv4_echo_reply(0xffff, 0x5678),
                PAYLOAD
            )[ipv4::HEADER_LEN..]
                .to_vec(),
            IcmpFamily::V6 => built!(
                etherparse::PacketBuilder::ipv6(CLIENT_V6, SERVER_V6, 64).icmpv6_echo_reply(0xffff, 0x5678),
                PAYLOAD
            )[ipv6::HEADER_LEN..]
                .to_vec(),
        };
        assert_eq!(bytes, reply);
    }
}

#[test]
fn the_identifier_of_another_message_is_left_alone() {
    let mut bytes = vec![IcmpType::V4_UNREACHABLE.0, 1, 0x12, 0x34, 1, 2, 3, 4];
    let before = bytes.clone();
    IcmpMut::parse(IcmpFamily::V4, &mut bytes).unwrap().set_echo_id(7);
    assert_eq!(bytes, before);
}

#[test]
fn an_error_is_emitted_and_quotes_the_packet() {
    let offending = &udp_v4_frame(PAYLOAD)[eth::HEADER_LEN..];
    let mut message = vec![DIRT; icmp::HEADER_LEN];
    let header: &mut [u8; icmp::HEADER_LEN] = message.first_chunk_mut().unwrap();
    icmp::emit(
        header,
        IcmpType::V4_UNREACHABLE,
        icmp::code_v4::FRAGMENTATION_NEEDED,
        [0, 0, 0x05, 0xaa],
    );
    message.extend_from_slice(&offending[..28]);
    message[2..4].fill(DIRT); // what stood in the field must not count
    assert!(icmp::fill_checksum(IcmpFamily::V4, Sum::ZERO, &mut message));

    let theirs = etherparse::Icmpv4Slice::from_slice(&message).unwrap();
    let expected = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1450 },
    );
    assert_eq!(theirs.icmp_type(), expected);
    assert_eq!(theirs.checksum(), expected.calc_checksum(&offending[..28]));

    let view = Icmp::parse(IcmpFamily::V4, &message).unwrap();
    assert_eq!(
        (view.is_error(), view.next_hop_mtu(), view.echo()),
        (true, Some(1450), None)
    );
    let quoted = Ipv4::parse_quoted(view.quoted().unwrap()).unwrap();
    assert_eq!(quoted.source(), Ipv4Addr::from(CLIENT_V4));
    assert_eq!(
        Ports::parse(quoted.payload()),
        Ok(Ports {
            source: 5353,
            destination: 53
        })
    );
}

#[test]
fn an_icmpv6_error_is_emitted_and_quotes_the_packet() {
    let offending = &udp_v6_frame(PAYLOAD)[eth::HEADER_LEN..];
    let mut message = vec![DIRT; icmp::HEADER_LEN];
    let header: &mut [u8; icmp::HEADER_LEN] = message.first_chunk_mut().unwrap();
    icmp::emit(header, IcmpType::V6_PACKET_TOO_BIG, 0, 1430_u32.to_be_bytes());
    message.extend_from_slice(offending);
    assert!(icmp::fill_checksum(IcmpFamily::V6, addresses(), &mut message));

    let theirs = etherparse::Icmpv6Slice::from_slice(&message).unwrap();
    assert_eq!(
        theirs.icmp_type(),
        etherparse::Icmpv6Type::PacketTooBig { mtu: 1430 }
    );
    assert!(theirs.is_checksum_valid(CLIENT_V6, SERVER_V6));
    let view = Icmp::parse(IcmpFamily::V6, &message).unwrap();
    assert_eq!(
        (view.next_hop_mtu(), view.verify_checksum(addresses())),
        (Some(1430), Ok(()))
    );
    assert_eq!(
        Ipv6::parse_quoted(view.quoted().unwrap()).unwrap().payload(),
        &offending[40..]
    );
}

#[test]
fn a_quoted_packet_is_translated_with_the_error_around_it() {
    // The checksum of the quoted header changes too, so that header's own change adds up to nothing.
    let offending = &udp_v4_frame(PAYLOAD)[eth::HEADER_LEN..];
    let mut message = vec![
        IcmpType::V4_UNREACHABLE.0,
        icmp::code_v4::PORT_UNREACHABLE,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    message.extend_from_slice(offending);
    assert!(icmp::fill_checksum(IcmpFamily::V4, Sum::ZERO, &mut message));
    let mut view = IcmpMut::parse(IcmpFamily::V4, &mut message).unwrap();
    let mut quoted = Ipv4Mut::parse_quoted(view.body_mut()).unwrap();
    let _ = quoted.set_destination(Ipv4Addr::new(10, 96, 0, 10));
    let delta = PortsMut::parse(quoted.payload_mut())
        .unwrap()
        .set_destination(8053);
    view.adjust_checksum(delta);
    assert_eq!(view.view().verify_checksum(Sum::ZERO), Ok(()));
}

#[test]
fn which_messages_are_errors() {
    let errors = |family| -> Vec<u8> {
        let message = |kind| [kind, 0, 0, 0, 0, 0, 0, 0];
        (0..=u8::MAX)
            .filter(|&kind| Icmp::parse(family, &message(kind)).unwrap().is_error())
            .collect()
    };
    assert_eq!(errors(IcmpFamily::V4), [3, 4, 5, 11, 12]);
    assert_eq!(errors(IcmpFamily::V6), (0..128).collect::<Vec<u8>>());
}

#[test]
fn a_message_without_a_header_is_not_filled() {
    for family in [IcmpFamily::V4, IcmpFamily::V6] {
        let mut bytes = [DIRT; 3];
        assert!(!icmp::fill_checksum(family, addresses(), &mut bytes));
        assert_eq!(bytes, [DIRT; 3]);
    }
}

#[test]
fn no_change_changes_nothing() {
    for (family, bytes) in echo_requests() {
        let mut same = bytes.clone();
        IcmpMut::parse(family, &mut same)
            .unwrap()
            .adjust_checksum(Delta::ZERO);
        assert_eq!(same, bytes);
    }
}

/// Found by the fuzzer: when all that is summed is zero, an increment ends at the wrong one of the two zeros.
#[test]
fn an_echo_of_zeros_keeps_a_right_checksum() {
    for body in [vec![], vec![0; 7]] {
        let mut message = vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        message.extend(&body);
        let mut icmp = IcmpMut::parse(IcmpFamily::V4, &mut message).unwrap();
        icmp.set_kind(IcmpType(0));
        assert_eq!(message[..4], [0, 0, 0xff, 0xff], "{} bytes of body", body.len());
        let mut icmp = IcmpMut::parse(IcmpFamily::V4, &mut message).unwrap();
        icmp.set_kind(IcmpType(8));
        assert_eq!(message[..4], [8, 0, 0xf7, 0xff], "and back");
    }
}
