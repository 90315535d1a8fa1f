//! Checksums that Linux leaves half computed.

use etherparse::checksum::Sum16BitWords;
use proptest::prelude::*;

use super::checksum::{self, addresses_v4};
use super::frames::transport_of;
use super::*;

proptest! {
    #[test]
    fn partial_checksums_come_out_as_etherparse_computes_them(
        payload in proptest::collection::vec(any::<u8>(), 0..1500),
        client in any::<u32>(),
    ) {
        let client_v4 = client.to_be_bytes();
        let mut client_v6 = CLIENT_V6;
        client_v6[12..].copy_from_slice(&client_v4);
        let frames = [
            built!(etherparse::PacketBuilder::ipv4(client_v4, SERVER_V4, 64).udp(5353, 53), &payload),
            built!(etherparse::PacketBuilder::ipv4(client_v4, SERVER_V4, 64).tcp(1, 2, 3, 4), &payload),
            built!(etherparse::PacketBuilder::ipv6(client_v6, SERVER_V6, 64).udp(5353, 53), &payload),
            built!(etherparse::PacketBuilder::ipv6(client_v6, SERVER_V6, 64).tcp(1, 2, 3, 4), &payload),
        ];
        for complete in frames {
            let mut half = leave_half_computed(&complete);
            prop_assert!(finish(&mut half), "recognised");
            prop_assert_eq!(&half, &complete);
            // What is complete is not taken for half computed, unless both are the same: then nothing
            // changes.
            finish(&mut half);
            prop_assert_eq!(&half, &complete);
        }
    }
}

/// The packet as Linux hands it over with `CHECKSUM_PARTIAL`, the pseudo-header summed by `etherparse`.
fn leave_half_computed(packet: &[u8]) -> Vec<u8> {
    let (start, protocol, _) = transport_of(packet);
    let mut half = packet.to_vec();
    let at = start + if protocol == IpProtocol::UDP { 6 } else { 16 };
    let len = (packet.len() - start) as u32;
    let addresses = if start == ipv4::HEADER_LEN {
        &packet[12..20]
    } else {
        &packet[8..40]
    };
    let complement = Sum16BitWords::new()
        .add_slice(addresses)
        .add_slice(&len.to_be_bytes())
        .add_2bytes([0, protocol.0])
        .ones_complement();
    half[at..at + 2].copy_from_slice(&(!complement).to_ne_bytes());
    half
}

fn finish(packet: &mut [u8]) -> bool {
    match packet[0] >> 4 {
        4 => Ipv4Mut::parse(packet).unwrap().complete_partial_checksum(),
        _ => Ipv6Mut::parse(packet)
            .unwrap()
            .complete_partial_checksum()
            .unwrap(),
    }
}

#[test]
fn a_partial_checksum_that_comes_out_zero_is_all_ones_in_udp_only() {
    // A word of the payload is chosen so that the whole sum is 0xffff, and its complement zero.
    for protocol in [IpProtocol::UDP, IpProtocol::TCP] {
        let addresses = addresses_v4(CLIENT_V4.into(), SERVER_V4.into());
        let mut l4 = vec![0; 30];
        let pseudo = addresses.add_transport(protocol, l4.len()).fold();
        l4[28..30].copy_from_slice(&(!pseudo).to_be_bytes());
        let at = if protocol == IpProtocol::UDP { 6 } else { 16 };
        l4[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        assert!(checksum::complete_partial(addresses, protocol, &mut l4));
        let expected = if protocol == IpProtocol::UDP {
            [0xff, 0xff]
        } else {
            [0, 0]
        };
        assert_eq!(l4[at..at + 2], expected);
        assert!(checksum::is_transport_valid(addresses, protocol, &l4));
    }
}

#[test]
fn what_is_not_half_computed_is_left_alone() {
    let addresses = addresses_v4(CLIENT_V4.into(), SERVER_V4.into());
    let complete = udp_v4_frame(PAYLOAD)[eth::HEADER_LEN + ipv4::HEADER_LEN..].to_vec();
    let mut absent = complete.clone();
    absent[6..8].fill(0);
    let wrong = {
        let mut bytes = complete.clone();
        bytes[6] ^= 0x40;
        bytes
    };
    let half = leave_half_computed(&udp_v4_frame(PAYLOAD)[eth::HEADER_LEN..])[ipv4::HEADER_LEN..].to_vec();
    let rows: [(&str, IpProtocol, &[u8]); 8] = [
        ("complete", IpProtocol::UDP, &complete),
        ("absent", IpProtocol::UDP, &absent),
        ("wrong", IpProtocol::UDP, &wrong),
        ("another protocol", IpProtocol::ICMP, &half),
        ("a protocol with another kind of sum", IpProtocol::SCTP, &half),
        ("no field", IpProtocol::UDP, &half[..7]),
        ("no field", IpProtocol::TCP, &half[..17]),
        ("nothing", IpProtocol::UDP, &[]),
    ];
    for (what, protocol, bytes) in rows {
        let mut after = bytes.to_vec();
        assert!(
            !checksum::complete_partial(addresses, protocol, &mut after),
            "{what}"
        );
        assert_eq!(after, bytes, "{what}");
    }
    let mut after = half;
    assert!(checksum::complete_partial(addresses, IpProtocol::UDP, &mut after));
    assert_eq!(after, complete);
}

#[test]
fn fragments_are_not_completed() {
    let mut first = leave_half_computed(&tcp_v4_frame(PAYLOAD)[eth::HEADER_LEN..]);
    first[6] |= 0x20;
    let before = first.clone();
    assert!(!finish(&mut first));
    assert_eq!(first, before);

    let whole = leave_half_computed(&tcp_v6_frame(PAYLOAD)[eth::HEADER_LEN..]);
    for (kind, start, completed) in [
        (
            IpProtocol::FRAGMENT,
            [IpProtocol::TCP.0, 0, 0, 1, 0, 0, 0, 1],
            false,
        ),
        (
            IpProtocol::FRAGMENT,
            [IpProtocol::TCP.0, 0, 0, 0, 0, 0, 0, 1],
            true,
        ),
        (
            IpProtocol::ROUTING,
            [IpProtocol::TCP.0, 0, 4, 1, 0, 0, 0, 0],
            false,
        ),
        (
            IpProtocol::DESTINATION_OPTIONS,
            [IpProtocol::TCP.0, 0, 1, 4, 0, 0, 0, 0],
            true,
        ),
    ] {
        let mut packet = [&whole[..40], &start, &whole[40..]].concat();
        packet[6] = kind.0;
        packet[4..6].copy_from_slice(&(whole.len() as u16 - 40 + 8).to_be_bytes());
        let before = packet.clone();
        assert_eq!(finish(&mut packet), completed, "{kind}");
        let expected = if completed {
            &tcp_v6_frame(PAYLOAD)[eth::HEADER_LEN + 40..]
        } else {
            &before[48..]
        };
        assert_eq!(
            (&packet[..48], &packet[48..]),
            (&before[..48], expected),
            "{kind}"
        );
    }
}
