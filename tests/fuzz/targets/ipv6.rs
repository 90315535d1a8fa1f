//! IPv6: a packet is accepted if and only if its length is true; its header can be written again; the walk over its
//! extension headers ends inside it.
#![no_main]

use std::net::Ipv6Addr;

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::wire::{Ecn, Ipv6, Ipv6Fields, Ipv6Mut, Malformed, Upper, ipv6};

/// What a buffer holds before something is emitted into it, so that a byte left unwritten shows.
const DIRT: u8 = 0xa5;

fuzz_target!(|data: &[u8]| {
    let whole = Ipv6::parse(data);
    assert_eq!(whole.is_ok(), length_is_true(data), "{whole:?}");
    let quoted = Ipv6::parse_quoted(data);
    if let Ok(packet) = &whole {
        check_packet(data, packet);
        check_edits(data);
        assert_eq!(
            quoted.expect("a whole packet can be quoted").payload(),
            packet.payload()
        );
    } else if let Ok(start) = quoted {
        assert!(start.payload().len() < usize::from(start.payload_len()));
        assert_eq!(start.payload(), &data[ipv6::HEADER_LEN..]);
    }
});

/// What RFC 8200 says of version and length, in other words than the parser's; jumbograms are refused.
fn length_is_true(data: &[u8]) -> bool {
    let [first, _, _, _, high, low, next, ..] = *data else {
        return false;
    };
    let payload = usize::from(high) * 256 + usize::from(low);
    data.len() >= 40 + payload && first >> 4 == 6 && (payload > 0 || next != 0)
}

fn check_packet(data: &[u8], packet: &Ipv6<'_>) {
    assert_eq!(
        packet.payload(),
        &data[ipv6::HEADER_LEN..][..usize::from(packet.payload_len())]
    );
    let fields = Ipv6Fields {
        dscp: packet.dscp(),
        ecn: packet.ecn(),
        flow_label: packet.flow_label(),
        payload_len: packet.payload_len(),
        next_header: packet.next_header(),
        hop_limit: packet.hop_limit(),
        source: packet.source(),
        destination: packet.destination(),
    };
    let mut out = [DIRT; ipv6::HEADER_LEN];
    fields.emit(&mut out);
    assert_eq!(out, data[..ipv6::HEADER_LEN]);
    match packet.upper() {
        Ok(upper) => check_upper(packet, &upper),
        Err(lie) => assert!(matches!(
            lie,
            Malformed::Ipv6ExtensionTruncated | Malformed::Ipv6ExtensionOrder | Malformed::Ipv6ExtensionChain
        )),
    }
}

fn check_upper(packet: &Ipv6<'_>, upper: &Upper<'_>) {
    assert_eq!(upper.payload, &packet.payload()[upper.offset..]);
    assert_eq!(upper.offset % 4, 0);
    assert_eq!(
        upper.offset == 0,
        upper.protocol == packet.next_header() && upper.fragment.is_none()
    );
    match upper.fragment {
        Some(fragment) if !fragment.is_first() => assert!(upper.is_fragment()),
        Some(_) | None => {
            // The walk has come to its end: from there it goes nowhere.
            let again = ipv6::walk(upper.protocol, upper.payload).expect("no header follows");
            assert_eq!((again.offset, again.protocol), (0, upper.protocol));
        }
    }
}

fn check_edits(data: &[u8]) {
    let before = Ipv6::parse(data).expect("checked by the caller");
    let mut edited = data.to_vec();
    let mut packet = Ipv6Mut::parse(&mut edited).expect("the same checks");
    let left = packet.decrement_hop_limit();
    assert_eq!(left, before.hop_limit().checked_sub(1).filter(|hops| *hops > 0));
    let (source, destination) = (Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2), before.source());
    let delta = packet.set_source(source).and(packet.set_destination(destination));
    packet.set_ecn(Ecn::Ce);
    let after = packet.view();
    assert_eq!((after.source(), after.destination()), (source, destination));
    assert_eq!((after.ecn(), after.dscp()), (Ecn::Ce, before.dscp()));
    assert_eq!(
        (after.flow_label(), after.payload()),
        (before.flow_label(), before.payload())
    );
    let (old, new) = (before.address_sum().checksum(), after.address_sum().checksum());
    assert_eq!(delta.apply(old) % 0xffff, new % 0xffff);
}
