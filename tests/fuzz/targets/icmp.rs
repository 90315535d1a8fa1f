//! ICMP and ICMPv6: what is accepted is read right; a checksum that is filled in is right and stays so through every
//! edit; what an error quotes is read without a look past its end. Neighbour discovery, IGMP and MLD likewise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::wire::checksum::Sum;
use millrace_dataplane::wire::{
    Icmp, IcmpFamily, IcmpMut, IcmpType, IpProtocol, Ipv4, Ipv6, Membership, Ports, checksum, icmp, ipv4,
    ipv6, ndp,
};

/// What a buffer holds before something is emitted into it, so that a byte left unwritten shows.
const DIRT: u8 = 0xa5;

fuzz_target!(|data: &[u8]| {
    check_neighbour(data);
    check_membership(data);
    // Any sum will do for the addresses.
    let addresses = Sum::ZERO.add_bytes(data.get(..4).unwrap_or_default());
    for family in [IcmpFamily::V4, IcmpFamily::V6] {
        let Ok(message) = Icmp::parse(family, data) else {
            assert!(data.len() < icmp::HEADER_LEN);
            let mut copy = data.to_vec();
            icmp::fill_checksum(family, addresses, &mut copy);
            continue;
        };
        check_message(data, &message);
        check_quoted(&message);
        check_edits(family, addresses, data);
    }
});

/// A neighbour message is whole in every option, and the target is the sixteen bytes behind the header.
fn check_neighbour(data: &[u8]) {
    let Ok(message) = ndp::Neighbour::parse(data) else {
        return;
    };
    assert_eq!(
        message.target().octets(),
        data[icmp::HEADER_LEN..ndp::MESSAGE_LEN]
    );
    assert_eq!(message.is_solicitation(), data[0] == 135);
    assert!(data.len().is_multiple_of(8));
    for link in [message.source_link(), message.target_link()]
        .into_iter()
        .flatten()
    {
        assert!(data[ndp::MESSAGE_LEN..].windows(6).any(|bytes| bytes == link.0));
    }
}

/// Whoever listens is told of groups that stand in the message, and of no more than fit.
fn check_membership(data: &[u8]) {
    let Ok(len) = u16::try_from(data.len()) else {
        return;
    };
    let mut message = data.to_vec();
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
    }
    let sum = checksum::checksum(&message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let mut packet = vec![0; ipv4::HEADER_LEN];
    packet.extend(&message);
    let total = len.saturating_add(20).to_be_bytes();
    packet[..10].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0, 0, 1, IpProtocol::IGMP.0]);
    if let Ok(ip) = Ipv4::parse(&packet) {
        check_listening(data, Membership::parse_v4(&ip).ok().flatten());
    }
    let mut packet = vec![0; ipv6::HEADER_LEN];
    packet.extend(data);
    let payload = len.to_be_bytes();
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, payload[0], payload[1], IpProtocol::ICMPV6.0, 1]);
    let addresses = checksum::addresses_v6([0; 16].into(), [0; 16].into());
    icmp::fill_checksum(IcmpFamily::V6, addresses, &mut packet[ipv6::HEADER_LEN..]);
    if let Ok(ip) = Ipv6::parse(&packet) {
        check_listening(data, Membership::parse_v6(&ip).ok().flatten());
    }
}

fn check_listening(data: &[u8], said: Option<Membership<'_>>) {
    let Some(Membership::Report(records)) = said else {
        return;
    };
    let groups: Vec<_> = records.map(|record| record.group).collect();
    assert!(groups.len() <= data.len() / 8);
    for group in groups {
        assert!(group.is_multicast());
        let octets = match group {
            std::net::IpAddr::V4(group) => group.octets().to_vec(),
            std::net::IpAddr::V6(group) => group.octets().to_vec(),
        };
        assert!(data.windows(octets.len()).any(|bytes| bytes == octets));
    }
}

fn check_message(data: &[u8], message: &Icmp<'_>) {
    assert_eq!(message.body(), &data[icmp::HEADER_LEN..]);
    let mut out = [DIRT; icmp::HEADER_LEN];
    icmp::emit(&mut out, message.kind(), message.code(), message.rest_of_header());
    assert_eq!(
        (&out[..2], &out[2..4], &out[4..]),
        (&data[..2], &[0, 0][..], &data[4..8])
    );
    assert_eq!(message.checksum().to_be_bytes(), data[2..4]);

    let is_echo = message.is_echo_request() || message.is_echo_reply();
    assert_eq!(message.echo().is_some(), is_echo);
    assert!(!(message.is_echo_request() && message.is_echo_reply()));
    assert!(!(is_echo && message.is_error()), "an echo is no error");
    assert_eq!(message.quoted(), message.is_error().then_some(message.body()));
    assert!(message.next_hop_mtu().is_none() || message.is_error());
}

fn check_quoted(message: &Icmp<'_>) {
    let Some(quoted) = message.quoted() else { return };
    if let Ok(packet) = Ipv4::parse_quoted(quoted) {
        assert!(packet.header_len() + packet.payload().len() <= quoted.len());
        assert_eq!(
            Ports::parse(packet.payload()).is_ok(),
            packet.payload().len() >= 4
        );
    }
    if let Ok(packet) = Ipv6::parse_quoted(quoted) {
        assert!(packet.payload().len() <= quoted.len());
        if let Ok(upper) = packet.upper() {
            assert_eq!(upper.payload, &packet.payload()[upper.offset..]);
        }
    }
}

fn check_edits(family: IcmpFamily, addresses: Sum, data: &[u8]) {
    let mut message = data.to_vec();
    assert!(icmp::fill_checksum(family, addresses, &mut message));
    let filled = Icmp::parse(family, &message).expect("the length is the same");
    assert_eq!(filled.verify_checksum(addresses), Ok(()));
    let echo = filled.echo();

    let mut view = IcmpMut::parse(family, &mut message).expect("the length is the same");
    view.set_echo_id(0x1234);
    assert_eq!(view.view().verify_checksum(addresses), Ok(()));
    match echo {
        Some(echo) => {
            let after = view.view().echo().expect("still an echo");
            assert_eq!((after.id, after.sequence), (0x1234, echo.sequence));
        }
        None => assert_eq!(view.view().rest_of_header(), data[4..8], "only echoes have an id"),
    }
    let reply = match family {
        IcmpFamily::V4 => IcmpType::V4_ECHO_REPLY,
        IcmpFamily::V6 => IcmpType::V6_ECHO_REPLY,
    };
    view.set_kind(reply);
    assert!(view.view().is_echo_reply());
    assert_eq!(view.view().verify_checksum(addresses), Ok(()));
    assert_eq!(view.view().body(), &data[icmp::HEADER_LEN..]);
}
