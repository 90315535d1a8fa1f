//! IPv4: rows, cross-checks, edits.

use core::net::Ipv4Addr;

use etherparse::{IpFragOffset, Ipv4Header, Ipv4Options};

use super::*;

/// A header with every field distinct, with `options_len` bytes of options, and the payload.
fn packet(options_len: usize) -> Vec<u8> {
    let options: Vec<u8> = (0..options_len)
        .map(|place| if place % 3 == 2 { 0 } else { 1 })
        .collect();
    let mut header = Ipv4Header {
        dscp: etherparse::IpDscp::try_new(46).unwrap(),
        ecn: etherparse::IpEcn::ONE,
        identification: 0x1234,
        dont_fragment: false,
        time_to_live: 63,
        protocol: etherparse::IpNumber::UDP,
        source: CLIENT_V4,
        destination: SERVER_V4,
        options: Ipv4Options::try_from(&options[..]).unwrap(),
        ..Ipv4Header::default()
    };
    header.set_payload_len(PAYLOAD.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(PAYLOAD);
    bytes
}

#[test]
fn every_field_reads_as_etherparse_wrote_it() {
    for options_len in (0..=40).step_by(4) {
        let bytes = packet(options_len);
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0xee; 7]);
        let view = Ipv4::parse(&padded).unwrap();
        let theirs = etherparse::Ipv4HeaderSlice::from_slice(&bytes).unwrap();
        assert_eq!((view.dscp().value(), view.ecn()), (46, Ecn::Ect1));
        assert_eq!(usize::from(view.total_len()), bytes.len());
        assert_eq!(
            (view.id(), view.ttl(), view.protocol()),
            (0x1234, 63, IpProtocol::UDP)
        );
        assert_eq!(
            (view.source(), view.destination()),
            (theirs.source_addr(), theirs.destination_addr())
        );
        assert_eq!(
            (view.options(), view.header_len()),
            (theirs.options(), 20 + options_len)
        );
        assert_eq!(view.checksum(), theirs.header_checksum());
        assert_eq!(
            (view.payload(), view.fragment()),
            (PAYLOAD, None),
            "padding is left out"
        );
        assert_eq!(view.verify_checksum(), Ok(()));
    }
}

#[test]
fn every_cut_is_refused() {
    for options_len in [0, 4, 40] {
        let bytes = packet(options_len);
        let expected = |len| {
            if len < ipv4::HEADER_LEN {
                Malformed::Ipv4Truncated
            } else {
                Malformed::Ipv4TotalLength
            }
        };
        cut_everywhere(&bytes, Ipv4::parse, expected);
        cut_everywhere(
            &bytes,
            |bytes| Ipv4Mut::parse(&mut bytes.to_vec()).map(drop),
            expected,
        );
    }
}

#[test]
fn lying_lengths_and_versions_are_refused() {
    let len = packet(0).len() as u16;
    // first byte, total length, what parse says
    let rows = [
        (0x45, len, None),
        (0x05, len, Some(Malformed::Ipv4Version)),
        (0x65, len, Some(Malformed::Ipv4Version)),
        (0xf5, len, Some(Malformed::Ipv4Version)),
        (0x40, len, Some(Malformed::Ipv4HeaderLength)),
        (0x44, len, Some(Malformed::Ipv4HeaderLength)),
        (0x48, len, None), // three words of the payload are taken for options
        (0x49, len, Some(Malformed::Ipv4TotalLength)),
        (0x4f, len, Some(Malformed::Ipv4TotalLength)),
        (0x46, 23, Some(Malformed::Ipv4TotalLength)),
        (0x46, 24, None),
        (0x45, 0, Some(Malformed::Ipv4TotalLength)),
        (0x45, 19, Some(Malformed::Ipv4TotalLength)),
        (0x45, 20, None),
        (0x45, len - 1, None),
        (0x45, len + 1, Some(Malformed::Ipv4TotalLength)),
        (0x45, u16::MAX, Some(Malformed::Ipv4TotalLength)),
    ];
    for (first, total_len, expected) in rows {
        let mut bytes = packet(0);
        bytes[0] = first;
        bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
        let row = format!("first byte {first:#x}, total length {total_len}");
        assert_eq!(Ipv4::parse(&bytes).err(), expected, "{row}");
        assert_eq!(Ipv4Mut::parse(&mut bytes.clone()).err(), expected, "{row}");
        if let Ok(view) = Ipv4::parse(&bytes) {
            assert_eq!(
                view.header_len() + view.payload().len(),
                usize::from(total_len),
                "{row}"
            );
        }
    }
}

#[test]
fn a_quoted_packet_may_end_in_its_payload_but_not_in_its_header() {
    let bytes = packet(8);
    for len in 0..=bytes.len() + 1 {
        let mut quoted = bytes.clone();
        quoted.resize(len, 0xee);
        let expected = match len {
            0..20 => Err(Malformed::Ipv4Truncated),
            20..28 => Err(Malformed::Ipv4HeaderLength),
            _ => Ok(&bytes[28..len.min(bytes.len())]),
        };
        assert_eq!(
            Ipv4::parse_quoted(&quoted).map(|view| view.payload()),
            expected,
            "{len} bytes"
        );
        let mut twin = quoted.clone();
        assert_eq!(
            Ipv4Mut::parse_quoted(&mut twin).map(|view| &*view.into_payload()),
            expected,
            "{len} bytes"
        );
    }
    let mut lying = bytes;
    lying[3] = 27;
    assert_eq!(Ipv4::parse_quoted(&lying).err(), Some(Malformed::Ipv4TotalLength));
    assert_eq!(
        Ipv4Mut::parse_quoted(&mut lying).err(),
        Some(Malformed::Ipv4TotalLength)
    );
}

#[test]
fn any_single_flipped_bit_breaks_the_header_checksum() {
    let bytes = packet(4);
    for bit in 0..24 * 8 {
        let mut wrong = bytes.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        // Flips in the version or a length may be refused before.
        if let Ok(view) = Ipv4::parse(&wrong) {
            assert_eq!(view.verify_checksum(), Err(Malformed::Ipv4Checksum), "bit {bit}");
        }
    }
}

#[test]
fn fragments() {
    // don't fragment, more, offset in units of eight bytes
    let rows = [
        (false, false, 0, None),
        (true, false, 0, None),
        (false, true, 0, Some((0, true))),
        (false, true, 185, Some((1480, true))),
        (false, false, 185, Some((1480, false))),
        (false, false, 0x1fff, Some((65528, false))),
    ];
    for (dont_fragment, more_fragments, units, expected) in rows {
        let mut header = Ipv4Header::from_slice(&packet(0)).unwrap().0;
        header.dont_fragment = dont_fragment;
        header.more_fragments = more_fragments;
        header.fragment_offset = IpFragOffset::try_new(units).unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(PAYLOAD);
        let view = Ipv4::parse(&bytes).unwrap();
        assert_eq!(
            (view.dont_fragment(), view.more_fragments()),
            (dont_fragment, more_fragments)
        );
        assert_eq!(usize::from(view.fragment_offset()), usize::from(units) * 8);
        assert_eq!(view.is_fragment(), expected.is_some());
        let fragment = expected.map(|(offset, more)| Fragment {
            offset,
            more,
            id: 0x1234,
        });
        assert_eq!(view.fragment(), fragment);
        assert_eq!(fragment.is_none_or(|piece| piece.is_first()), units == 0);
    }
}

#[test]
fn a_set_reserved_bit_is_no_fragment() {
    let mut bytes = packet(0);
    bytes[6] |= 0x80;
    let view = Ipv4::parse(&bytes).unwrap();
    assert!(!view.is_fragment() && view.fragment_offset() == 0 && !view.dont_fragment());
}

#[test]
fn ttl_is_decremented_until_it_would_be_zero() {
    for ttl in 0..=u8::MAX {
        let mut bytes = packet(12);
        bytes[8] = ttl;
        let header = Ipv4Header::from_slice(&bytes).unwrap().0;
        bytes[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        let before = bytes.clone();
        let left = Ipv4Mut::parse(&mut bytes).unwrap().decrement_ttl();
        if ttl <= 1 {
            assert_eq!((left, &bytes), (None, &before));
        } else {
            assert_eq!(left, Some(ttl - 1));
            assert_eq!(bytes[8], ttl - 1);
            assert_same_as_full_checksum(&bytes);
        }
    }
}

/// The checksum in the header is the one that `etherparse` computes anew.
fn assert_same_as_full_checksum(bytes: &[u8]) {
    let header = Ipv4Header::from_slice(bytes).unwrap().0;
    assert_eq!(header.header_checksum, header.calc_header_checksum());
}

#[test]
fn every_setter_writes_its_field_only_and_keeps_the_checksum() {
    type Edit = fn(&mut Ipv4Mut<'_>);
    let rows: [(Edit, core::ops::Range<usize>, &[u8]); 7] = [
        (
            |view| drop_delta(view.set_source(Ipv4Addr::new(255, 255, 255, 255))),
            12..16,
            &[255; 4],
        ),
        (
            |view| drop_delta(view.set_source(Ipv4Addr::UNSPECIFIED)),
            12..16,
            &[0; 4],
        ),
        (
            |view| drop_delta(view.set_destination(Ipv4Addr::new(192, 0, 2, 1))),
            16..20,
            &[192, 0, 2, 1],
        ),
        (|view| view.set_ecn(Ecn::Ce), 1..2, &[46 << 2 | 3]),
        (|view| view.set_ecn(Ecn::NotEct), 1..2, &[46 << 2]),
        (|view| view.set_total_len(0x1122), 2..4, &[0x11, 0x22]),
        (|view| view.set_id(0xffff), 4..6, &[0xff, 0xff]),
    ];
    for (row, (edit, range, written)) in rows.into_iter().enumerate() {
        for options_len in [0, 4, 40] {
            let before = packet(options_len);
            let mut after = before.clone();
            edit(&mut Ipv4Mut::parse(&mut after).unwrap());
            assert_eq!(&after[range.clone()], written, "row {row}");
            assert_same_as_full_checksum(&after);
            let mut expected = before;
            expected[range.clone()].copy_from_slice(written);
            expected[10..12].copy_from_slice(&after[10..12]);
            assert_eq!(after, expected, "row {row} touched something else");
        }
    }
}

fn drop_delta(delta: checksum::Delta) {
    let _ = delta;
}

#[test]
fn emit_writes_what_etherparse_reads() {
    let mut fields = Ipv4Fields {
        dscp: Dscp::new(0x2e).unwrap(),
        ecn: Ecn::Ect0,
        total_len: 20 + PAYLOAD.len() as u16,
        id: 0xbeef,
        dont_fragment: true,
        ttl: 64,
        protocol: IpProtocol::ICMP,
        source: CLIENT_V4.into(),
        destination: SERVER_V4.into(),
    };
    for dont_fragment in [true, false] {
        fields.dont_fragment = dont_fragment;
        let mut out = [DIRT; ipv4::HEADER_LEN];
        fields.emit(&mut out);
        let (read, rest) = Ipv4Header::from_slice(&out).unwrap();
        assert!(rest.is_empty());
        assert_eq!((read.dscp.value(), read.ecn.value()), (0x2e, Ecn::Ect0.bits()));
        assert_eq!((read.total_len, read.identification), (fields.total_len, 0xbeef));
        assert_eq!((read.dont_fragment, read.more_fragments), (dont_fragment, false));
        assert_eq!((read.fragment_offset.value(), read.options.len()), (0, 0));
        assert_eq!(
            (read.time_to_live, read.protocol),
            (64, etherparse::IpNumber::ICMP)
        );
        assert_eq!((read.source, read.destination), (CLIENT_V4, SERVER_V4));
        assert_eq!(read.header_checksum, read.calc_header_checksum());
    }
}

#[test]
fn a_codepoint_has_six_bits() {
    assert_eq!(Dscp::new(63).map(Dscp::value), Some(63));
    assert_eq!(Dscp::new(64), None);
    assert_eq!(Dscp::from_traffic_class(0xff).traffic_class(Ecn::NotEct), 0xfc);
    assert_eq!(Dscp::default(), Dscp::DEFAULT);
}
