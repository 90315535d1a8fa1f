//! IPv6: the fixed header and chains of extension headers.

use core::net::Ipv6Addr;

use super::ipv6::{MAX_EXTENSION_HEADERS, walk};
use super::*;

const HOP: u8 = IpProtocol::HOP_BY_HOP.0;
const ROUTING: u8 = IpProtocol::ROUTING.0;
const FRAGMENT: u8 = IpProtocol::FRAGMENT.0;
const AH: u8 = IpProtocol::AH.0;
const OPTIONS: u8 = IpProtocol::DESTINATION_OPTIONS.0;
const UDP: u8 = IpProtocol::UDP.0;

/// A fixed header with every field distinct before `payload`.
fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = etherparse::Ipv6Header {
        traffic_class: 46 << 2 | 2,
        flow_label: etherparse::Ipv6FlowLabel::try_new(0x000a_bcde).unwrap(),
        payload_length: payload.len() as u16,
        next_header: etherparse::IpNumber(next_header),
        hop_limit: 63,
        source: CLIENT_V6,
        destination: SERVER_V6,
    };
    [&header.to_bytes()[..], payload].concat()
}

/// Extension headers of the kinds in `chain`, each of `words` units of eight bytes (a fragment header has
/// one, an authentication header three units of eight), before a UDP payload.
fn chain(kinds: &[u8], words: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (place, &kind) in kinds.iter().enumerate() {
        let next = kinds.get(place + 1).copied().unwrap_or(UDP);
        let start = bytes.len();
        match kind {
            // Offset 0, none to follow: an atomic fragment.
            FRAGMENT => bytes.extend_from_slice(&[next, DIRT, 0, 0, 1, 2, 3, 4]),
            AH => {
                bytes.resize(start + 24, DIRT);
                bytes[start..start + 2].copy_from_slice(&[next, 4]);
            }
            _ => {
                bytes.resize(start + words * 8, DIRT);
                bytes[start..start + 4].copy_from_slice(&[next, (words - 1) as u8, 0, 0]);
            }
        }
    }
    bytes.extend_from_slice(PAYLOAD);
    bytes
}

#[test]
fn every_field_reads_as_etherparse_wrote_it() {
    let mut bytes = packet(UDP, PAYLOAD);
    bytes.extend_from_slice(&[0xee; 5]);
    let view = Ipv6::parse(&bytes).unwrap();
    assert_eq!(
        (view.traffic_class(), view.dscp().value(), view.ecn()),
        (46 << 2 | 2, 46, Ecn::Ect0)
    );
    assert_eq!(view.flow_label(), 0x000a_bcde);
    assert_eq!(
        (view.payload_len(), view.payload()),
        (PAYLOAD.len() as u16, PAYLOAD),
        "padding is left out"
    );
    assert_eq!((view.next_header(), view.hop_limit()), (IpProtocol::UDP, 63));
    assert_eq!(
        (view.source().octets(), view.destination().octets()),
        (CLIENT_V6, SERVER_V6)
    );
    let upper = view.upper().unwrap();
    assert_eq!(
        (upper.protocol, upper.offset, upper.payload),
        (IpProtocol::UDP, 0, PAYLOAD)
    );
    assert_eq!(
        (upper.fragment, upper.segments_left, upper.is_fragment()),
        (None, 0, false)
    );
}

#[test]
fn every_cut_is_refused() {
    let bytes = packet(UDP, PAYLOAD);
    let expected = |len| {
        if len < ipv6::HEADER_LEN {
            Malformed::Ipv6Truncated
        } else {
            Malformed::Ipv6PayloadLength
        }
    };
    cut_everywhere(&bytes, Ipv6::parse, expected);
    cut_everywhere(
        &bytes,
        |bytes| Ipv6Mut::parse(&mut bytes.to_vec()).map(drop),
        expected,
    );
    for len in 0..=bytes.len() {
        let quoted = &bytes[..len];
        let expected = quoted.get(40..).ok_or(Malformed::Ipv6Truncated);
        assert_eq!(Ipv6::parse_quoted(quoted).map(|view| view.payload()), expected);
        let mut twin = quoted.to_vec();
        assert_eq!(
            Ipv6Mut::parse_quoted(&mut twin).map(|view| &*view.into_payload()),
            expected
        );
    }
}

#[test]
fn lying_lengths_and_versions_are_refused() {
    let len = PAYLOAD.len() as u16;
    // first byte, payload length, next header, what parse says
    let rows = [
        (0x60, len, UDP, None),
        (0x40, len, UDP, Some(Malformed::Ipv6Version)),
        (0x70, len, UDP, Some(Malformed::Ipv6Version)),
        (0x60, len + 1, UDP, Some(Malformed::Ipv6PayloadLength)),
        (0x60, u16::MAX, UDP, Some(Malformed::Ipv6PayloadLength)),
        (0x60, len - 1, UDP, None),
        (0x60, 0, HOP, Some(Malformed::Ipv6PayloadLength)),
        (0x60, 0, IpProtocol::NO_NEXT_HEADER.0, None),
        (0x60, 0, UDP, None),
    ];
    for (first, payload_len, next_header, expected) in rows {
        let mut bytes = packet(next_header, PAYLOAD);
        bytes[0] = first;
        bytes[4..6].copy_from_slice(&payload_len.to_be_bytes());
        let row = format!("first byte {first:#x}, payload length {payload_len}, next header {next_header}");
        assert_eq!(Ipv6::parse(&bytes).err(), expected, "{row}");
        assert_eq!(Ipv6Mut::parse(&mut bytes.clone()).err(), expected, "{row}");
        if let Ok(view) = Ipv6::parse(&bytes) {
            assert_eq!(view.payload().len(), usize::from(payload_len), "{row}");
        }
    }
}

#[test]
fn chains_lead_to_the_upper_layer() {
    let rows: [&[u8]; 12] = [
        &[],
        &[HOP],
        &[OPTIONS],
        &[ROUTING],
        &[FRAGMENT],
        &[AH],
        &[HOP, OPTIONS, ROUTING, FRAGMENT, AH, OPTIONS],
        &[OPTIONS, ROUTING, OPTIONS],
        &[ROUTING, ROUTING],
        &[AH, FRAGMENT],
        &[OPTIONS; MAX_EXTENSION_HEADERS],
        &[HOP, OPTIONS, OPTIONS, ROUTING, FRAGMENT, AH, OPTIONS, OPTIONS],
    ];
    for kinds in rows {
        for words in [1, 2, 3, 32, 256] {
            let bytes = chain(kinds, words);
            let first = kinds.first().copied().unwrap_or(UDP);
            let upper = walk(IpProtocol(first), &bytes).unwrap();
            assert_eq!(
                (upper.protocol, upper.payload),
                (IpProtocol::UDP, PAYLOAD),
                "{kinds:?}"
            );
            assert_eq!(upper.offset, bytes.len() - PAYLOAD.len());
            let atomic = Fragment {
                offset: 0,
                more: false,
                id: 0x0102_0304,
            };
            assert_eq!(upper.fragment, kinds.contains(&FRAGMENT).then_some(atomic));
            assert!(!upper.is_fragment());
        }
    }
}

#[test]
fn every_cut_inside_a_chain_is_refused() {
    let kinds = [HOP, OPTIONS, ROUTING, FRAGMENT, AH, OPTIONS];
    let bytes = chain(&kinds, 2);
    let headers = &bytes[..bytes.len() - PAYLOAD.len()];
    cut_everywhere(
        headers,
        |bytes| walk(IpProtocol(HOP), bytes),
        |_| Malformed::Ipv6ExtensionTruncated,
    );
}

#[test]
fn chains_that_may_not_be() {
    use Malformed::{Ipv6ExtensionChain, Ipv6ExtensionOrder};
    let rows: [(&[u8], Malformed); 6] = [
        (&[HOP, HOP], Ipv6ExtensionOrder),
        (&[OPTIONS, HOP], Ipv6ExtensionOrder),
        (&[FRAGMENT, OPTIONS, FRAGMENT], Ipv6ExtensionOrder),
        (&[FRAGMENT, FRAGMENT], Ipv6ExtensionOrder),
        (&[OPTIONS; MAX_EXTENSION_HEADERS + 1], Ipv6ExtensionChain),
        (&[AH; 3 * MAX_EXTENSION_HEADERS], Ipv6ExtensionChain),
    ];
    for (kinds, expected) in rows {
        assert_eq!(
            walk(IpProtocol(kinds[0]), &chain(kinds, 1)),
            Err(expected),
            "{kinds:?}"
        );
    }
}

#[test]
fn an_authentication_header_below_its_fixed_part_is_refused() {
    let mut bytes = chain(&[AH], 1);
    bytes[1] = 0;
    assert_eq!(
        walk(IpProtocol(AH), &bytes),
        Err(Malformed::Ipv6ExtensionTruncated)
    );
    bytes[1] = 1;
    assert_eq!(walk(IpProtocol(AH), &bytes).map(|upper| upper.offset), Ok(12));
}

#[test]
fn a_walk_ends_behind_the_fragment_header_of_a_later_piece() {
    // offset and flags word, offset in bytes, more, whether the walk goes on to the options behind
    let rows = [
        (0x0001, 0, true, true),
        (0x0008, 8, false, false),
        (0xfff9, 65528, true, false),
        (0x0006, 0, false, true),
    ];
    for (word, offset, more, goes_on) in rows {
        let mut bytes = chain(&[FRAGMENT, OPTIONS], 1);
        bytes[2..4].copy_from_slice(&u16::to_be_bytes(word));
        let upper = walk(IpProtocol(FRAGMENT), &bytes).unwrap();
        assert_eq!(
            upper.fragment,
            Some(Fragment {
                offset,
                more,
                id: 0x0102_0304
            }),
            "{word:#x}"
        );
        assert_eq!(upper.is_fragment(), offset != 0 || more);
        let expected = if goes_on { (UDP, 16) } else { (OPTIONS, 8) };
        assert_eq!((upper.protocol.0, upper.offset), expected, "{word:#x}");
        assert_eq!(upper.payload, &bytes[upper.offset..]);
    }
}

#[test]
fn a_first_piece_must_hold_the_whole_chain() {
    let mut bytes = chain(&[FRAGMENT, OPTIONS], 3);
    bytes[3] = 1;
    for len in 8..32 {
        assert_eq!(
            walk(IpProtocol(FRAGMENT), &bytes[..len]),
            Err(Malformed::Ipv6ExtensionTruncated),
            "{len}"
        );
    }
}

#[test]
fn what_is_not_walked_over_is_the_upper_layer() {
    for protocol in [
        IpProtocol::NO_NEXT_HEADER,
        IpProtocol::ESP,
        IpProtocol::IPIP,
        IpProtocol::ICMPV6,
    ] {
        for payload in [&[][..], PAYLOAD] {
            let upper = walk(protocol, payload).unwrap();
            assert_eq!(
                (upper.protocol, upper.offset, upper.payload),
                (protocol, 0, payload)
            );
        }
    }
}

#[test]
fn segments_left_are_told() {
    let mut bytes = chain(&[ROUTING], 3);
    bytes[3] = 2;
    assert_eq!(walk(IpProtocol(ROUTING), &bytes).unwrap().segments_left, 2);
    let mut two = chain(&[ROUTING, ROUTING], 3);
    two[3] = 1;
    assert_eq!(
        walk(IpProtocol(ROUTING), &two).unwrap().segments_left,
        1,
        "a later header hides none"
    );
}

#[test]
fn hop_limit_is_decremented_until_it_would_be_zero() {
    for hops in 0..=u8::MAX {
        let mut bytes = packet(UDP, PAYLOAD);
        bytes[7] = hops;
        let mut expected = bytes.clone();
        let left = Ipv6Mut::parse(&mut bytes).unwrap().decrement_hop_limit();
        assert_eq!(left, (hops > 1).then(|| hops - 1));
        expected[7] = left.unwrap_or(hops);
        assert_eq!(bytes, expected);
    }
}

#[test]
fn every_setter_writes_its_field_only() {
    let new = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0xffff, 0, 0, 7);
    let before = packet(UDP, PAYLOAD);
    let mut after = before.clone();
    let mut view = Ipv6Mut::parse(&mut after).unwrap();
    let _ = view.set_source(new);
    let _ = view.set_destination(Ipv6Addr::LOCALHOST);
    view.set_ecn(Ecn::Ce);
    view.set_payload_len(0x0102);
    view.payload_mut()[0] = 0;
    let mut header = etherparse::Ipv6Header::from_slice(&before).unwrap().0;
    header.source = new.octets();
    header.destination = Ipv6Addr::LOCALHOST.octets();
    header.traffic_class |= 3;
    header.payload_length = 0x0102;
    assert_eq!(after[..40], header.to_bytes());
    assert_eq!((after[40], &after[41..]), (0, &before[41..]));
}

#[test]
fn emit_writes_what_etherparse_reads() {
    let fields = Ipv6Fields {
        dscp: Dscp::new(46).unwrap(),
        ecn: Ecn::Ect0,
        flow_label: 0xfffa_bcde,
        payload_len: PAYLOAD.len() as u16,
        next_header: IpProtocol::UDP,
        hop_limit: 63,
        source: CLIENT_V6.into(),
        destination: SERVER_V6.into(),
    };
    let mut out = [DIRT; ipv6::HEADER_LEN];
    fields.emit(&mut out);
    assert_eq!(
        out[..],
        packet(UDP, PAYLOAD)[..40],
        "only twenty bits of the flow label are sent"
    );
    let (read, _) = etherparse::Ipv6Header::from_slice(&out).unwrap();
    assert_eq!(
        (read.flow_label.value(), read.traffic_class),
        (0x000a_bcde, 46 << 2 | 2)
    );
    assert_eq!(
        (read.next_header, read.hop_limit),
        (etherparse::IpNumber::UDP, 63)
    );
    assert_eq!((read.source, read.destination), (CLIENT_V6, SERVER_V6));
}

#[test]
fn any_ecn_takes_the_place_of_any_other() {
    let all = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];
    for (old, new) in all.into_iter().flat_map(|old| all.map(|new| (old, new))) {
        let mut bytes = packet(UDP, PAYLOAD);
        let mut view = Ipv6Mut::parse(&mut bytes).unwrap();
        view.set_ecn(old);
        view.set_ecn(new);
        assert_eq!((view.view().ecn(), view.view().dscp().value()), (new, 46));
        assert_eq!(view.view().flow_label(), 0x000a_bcde);
    }
}
