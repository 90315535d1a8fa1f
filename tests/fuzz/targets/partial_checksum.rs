//! Checksums that the kernel left half computed: each is recognised and finished, and nothing else is touched that was
//! right before.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::wire::checksum::{self, Sum};
use millrace_dataplane::wire::{IpProtocol, Ipv4, Ipv4Mut, Ipv6, Ipv6Mut, tcp, udp};

fuzz_target!(|data: &[u8]| {
    check_ipv4(data);
    check_ipv6(data);
    let [a, b, c, d, ref l4 @ ..] = *data else { return };
    let addresses = checksum::addresses_v4(Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(10, 244, 1, 2));
    for (protocol, field) in [
        (IpProtocol::TCP, tcp::CHECKSUM_OFFSET),
        (IpProtocol::UDP, udp::CHECKSUM_OFFSET),
    ] {
        check_any(addresses, protocol, field, l4);
        check_half(addresses, protocol, field, l4);
        check_right(addresses, protocol, l4);
    }
    let mut other = l4.to_vec();
    assert!(!checksum::complete_partial(addresses, IpProtocol::SCTP, &mut other) && other == l4);
});

/// Whatever the field holds: it is finished where it is the pseudo-header's sum, and else left alone.
fn check_any(addresses: Sum, protocol: IpProtocol, field: usize, l4: &[u8]) {
    let mut after = l4.to_vec();
    let pseudo = addresses.add_transport(protocol, l4.len()).fold().to_be_bytes();
    let is_half = l4.get(field..field + 2) == Some(&pseudo);
    assert_eq!(
        checksum::complete_partial(addresses, protocol, &mut after),
        is_half
    );
    if is_half {
        assert!(checksum::is_transport_valid(addresses, protocol, &after));
    } else {
        assert_eq!(after, l4);
    }
}

/// The kernel's half of the work is always recognised, and the whole is what computing from scratch gives.
fn check_half(addresses: Sum, protocol: IpProtocol, field: usize, l4: &[u8]) {
    let mut half = l4.to_vec();
    let Some(place) = half.get_mut(field..field + 2) else {
        return;
    };
    place.copy_from_slice(&addresses.add_transport(protocol, l4.len()).fold().to_be_bytes());
    assert!(checksum::complete_partial(addresses, protocol, &mut half));
    let mut whole = l4.to_vec();
    assert!(checksum::fill_transport(addresses, protocol, &mut whole));
    assert_eq!(half, whole);
}

/// A checksum that is right stays right, whether or not it looks like half of one.
fn check_right(addresses: Sum, protocol: IpProtocol, l4: &[u8]) {
    let mut right = l4.to_vec();
    if !checksum::fill_transport(addresses, protocol, &mut right) {
        return;
    }
    let mut after = right.clone();
    checksum::complete_partial(addresses, protocol, &mut after);
    assert_eq!(after, right);
}

fn check_ipv4(data: &[u8]) {
    let Ok(before) = Ipv4::parse(data) else { return };
    let mut edited = data.to_vec();
    let finished = Ipv4Mut::parse(&mut edited)
        .expect("the same checks")
        .complete_partial_checksum();
    let after = Ipv4::parse(&edited).expect("the lengths are the same");
    if finished {
        assert!(!before.is_fragment());
        assert!(checksum::is_transport_valid(
            after.address_sum(),
            after.protocol(),
            after.payload()
        ));
        assert_eq!(edited[..before.header_len()], data[..before.header_len()]);
    } else {
        assert_eq!(edited, data);
    }
}

fn check_ipv6(data: &[u8]) {
    let Ok(before) = Ipv6::parse(data) else { return };
    let mut edited = data.to_vec();
    let finished = Ipv6Mut::parse(&mut edited)
        .expect("the same checks")
        .complete_partial_checksum();
    assert_eq!(finished.is_err(), before.upper().is_err());
    if finished == Ok(true) {
        let after = Ipv6::parse(&edited).expect("the lengths are the same");
        let upper = after.upper().expect("the headers are the same");
        assert!(!upper.is_fragment() && upper.segments_left == 0);
        assert!(checksum::is_transport_valid(
            after.address_sum(),
            upper.protocol,
            upper.payload
        ));
    } else {
        assert_eq!(edited, data);
    }
}
