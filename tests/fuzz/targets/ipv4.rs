//! IPv4: a packet is accepted if and only if its lengths are true; what is read can be written again; edits keep a
//! right header checksum right and touch nothing else.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::wire::{Ecn, Ipv4, Ipv4Fields, Ipv4Mut, ipv4};

/// What a buffer holds before something is emitted into it, so that a byte left unwritten shows.
const DIRT: u8 = 0xa5;

fuzz_target!(|data: &[u8]| {
    let whole = Ipv4::parse(data);
    assert_eq!(whole.is_ok(), lengths_are_true(data), "{whole:?}");
    let quoted = Ipv4::parse_quoted(data);
    if let Ok(packet) = &whole {
        check_packet(data, packet);
        check_edits(data);
        let quoted = quoted.expect("a whole packet can be quoted");
        assert_eq!(
            (quoted.options(), quoted.payload()),
            (packet.options(), packet.payload())
        );
    } else if let Ok(start) = quoted {
        // What is not a whole packet is accepted only where it breaks off in the payload.
        assert!(start.header_len() + start.payload().len() < usize::from(start.total_len()));
        assert_eq!(start.payload(), &data[start.header_len()..]);
    }
});

/// What RFC 791 says of version and lengths, in other words than the parser's.
fn lengths_are_true(data: &[u8]) -> bool {
    let [first, _, high, low, ..] = *data else {
        return false;
    };
    let (header, total) = (
        usize::from(first & 15) * 4,
        usize::from(high) * 256 + usize::from(low),
    );
    data.len() >= 20 && first >> 4 == 4 && header >= 20 && header <= total && total <= data.len()
}

fn check_packet(data: &[u8], packet: &Ipv4<'_>) {
    let header_len = packet.header_len();
    assert!((ipv4::HEADER_LEN..=ipv4::MAX_HEADER_LEN).contains(&header_len));
    assert_eq!(
        header_len + packet.payload().len(),
        usize::from(packet.total_len())
    );
    assert_eq!(packet.options(), &data[ipv4::HEADER_LEN..header_len]);
    assert_eq!(
        packet.payload(),
        &data[header_len..usize::from(packet.total_len())]
    );
    assert_eq!(packet.fragment().is_some(), packet.is_fragment());
    if let Some(fragment) = packet.fragment() {
        assert_eq!(
            (fragment.offset, fragment.more),
            (packet.fragment_offset(), packet.more_fragments())
        );
        assert!(fragment.offset % 8 == 0 && fragment.id == u32::from(packet.id()));
    }

    let fields = Ipv4Fields {
        dscp: packet.dscp(),
        ecn: packet.ecn(),
        total_len: packet.total_len(),
        id: packet.id(),
        dont_fragment: packet.dont_fragment(),
        ttl: packet.ttl(),
        protocol: packet.protocol(),
        source: packet.source(),
        destination: packet.destination(),
    };
    let mut out = [DIRT; ipv4::HEADER_LEN];
    fields.emit(&mut out);
    // Options, fragments and the reserved bit are what a header of ours never has.
    if data[0] != 0x45 || packet.is_fragment() || data[6] & 0x80 != 0 {
        return;
    }
    assert_eq!(out[..10], data[..10]);
    assert_eq!(out[12..], data[12..20]);
    // A sum of all ones is the other form of zero, which no one computes.
    let right = out[10..12] == data[10..12] || out[10..12] == [0, 0] && data[10..12] == [0xff, 0xff];
    assert_eq!(packet.verify_checksum().is_ok(), right);
}

fn check_edits(data: &[u8]) {
    let before = Ipv4::parse(data).expect("checked by the caller");
    let mut edited = data.to_vec();
    let mut packet = Ipv4Mut::parse(&mut edited).expect("the same checks");
    let left = packet.decrement_ttl();
    assert_eq!(left, before.ttl().checked_sub(1).filter(|ttl| *ttl > 0));
    let (source, destination) = (Ipv4Addr::new(10, 244, 1, 2), before.source());
    let delta = packet.set_source(source).and(packet.set_destination(destination));
    packet.set_ecn(Ecn::Ce);
    packet.set_id(!before.id());
    let after = packet.view();
    assert_eq!((after.source(), after.destination()), (source, destination));
    assert_eq!(
        (after.ecn(), after.dscp(), after.id()),
        (Ecn::Ce, before.dscp(), !before.id())
    );
    assert_eq!(after.ttl(), left.unwrap_or(before.ttl()));
    assert_eq!(
        (after.options(), after.payload()),
        (before.options(), before.payload())
    );
    assert_eq!(after.verify_checksum(), before.verify_checksum());
    // The change of the addresses, told to a sum that covers them, gives the new sum.
    let (old, new) = (before.address_sum().checksum(), after.address_sum().checksum());
    assert_eq!(delta.apply(old) % 0xffff, new % 0xffff);

    packet.set_total_len(before.total_len().saturating_sub(1));
    assert_eq!(packet.view().verify_checksum(), before.verify_checksum());
}
