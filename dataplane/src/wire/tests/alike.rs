//! Judges that panic where a view of ours accepts or reads other than `etherparse` does from the same
//! bytes.

use super::*;

pub(super) fn assert_same_ipv4_as_etherparse(bytes: &[u8]) {
    let theirs = etherparse::Ipv4HeaderSlice::from_slice(bytes)
        .ok()
        .filter(|header| {
            let (total, header_len) = (usize::from(header.total_len()), header.slice().len());
            header_len <= total && total <= bytes.len()
        });
    let ours = Ipv4::parse(bytes);
    assert_eq!(ours.is_ok(), theirs.is_some());
    let (Ok(ours), Some(theirs)) = (ours, theirs) else {
        return;
    };
    assert_eq!(
        (ours.dscp().value(), ours.ecn().bits()),
        (theirs.dcp().value(), theirs.ecn().value())
    );
    assert_eq!(
        (ours.total_len(), ours.id()),
        (theirs.total_len(), theirs.identification())
    );
    assert_eq!(
        (ours.dont_fragment(), ours.more_fragments()),
        (theirs.dont_fragment(), theirs.more_fragments())
    );
    assert_eq!(ours.fragment_offset(), theirs.fragments_offset().byte_offset());
    assert_eq!(ours.is_fragment(), theirs.is_fragmenting_payload());
    assert_eq!(
        (ours.ttl(), ours.protocol().0),
        (theirs.ttl(), theirs.protocol().0)
    );
    assert_eq!(
        (ours.source(), ours.destination()),
        (theirs.source_addr(), theirs.destination_addr())
    );
    assert_eq!(
        (ours.options(), ours.header_len()),
        (theirs.options(), theirs.slice().len())
    );
    assert_eq!(
        ours.payload(),
        &bytes[ours.header_len()..usize::from(ours.total_len())]
    );
    let right = theirs.to_header().calc_header_checksum();
    // 0xffff is the other form of zero, valid on the wire though no one computes it.
    let valid = ours.checksum() == right || (right == 0 && ours.checksum() == 0xffff);
    // The reserved bit is not kept by their header, so its checksum is another's.
    if bytes[6] & 0x80 == 0 {
        assert_eq!(ours.verify_checksum().is_ok(), valid);
    }
}

/// See the module.
pub(super) fn assert_same_ipv6_as_etherparse(bytes: &[u8]) {
    let theirs = etherparse::Ipv6HeaderSlice::from_slice(bytes)
        .ok()
        .filter(|header| {
            let jumbo = header.payload_length() == 0 && header.next_header().0 == 0;
            !jumbo && 40 + usize::from(header.payload_length()) <= bytes.len()
        });
    let ours = Ipv6::parse(bytes);
    assert_eq!(ours.is_ok(), theirs.is_some());
    let (Ok(ours), Some(theirs)) = (ours, theirs) else {
        return;
    };
    assert_eq!(
        (ours.traffic_class(), ours.flow_label()),
        (theirs.traffic_class(), theirs.flow_label().value())
    );
    assert_eq!(
        (ours.next_header().0, ours.hop_limit()),
        (theirs.next_header().0, theirs.hop_limit())
    );
    assert_eq!(
        (ours.source(), ours.destination()),
        (theirs.source_addr(), theirs.destination_addr())
    );
    let walked = etherparse::Ipv6ExtensionsSlice::from_slice(theirs.next_header(), ours.payload());
    match (ours.upper(), walked) {
        // Behind the fragment header of a later piece they take the bytes for headers all the same.
        (Ok(upper), _) if upper.fragment.is_some_and(|fragment| !fragment.is_first()) => {}
        (Ok(upper), theirs) => {
            let (extensions, protocol, rest) = theirs.unwrap();
            assert_eq!((upper.protocol.0, upper.payload), (protocol.0, rest));
            assert_eq!(upper.is_fragment(), extensions.is_fragmenting_payload());
        }
        (Err(Malformed::Ipv6ExtensionTruncated), theirs) => assert!(theirs.is_err()),
        // They know no bound, and take any number of fragment headers.
        (Err(Malformed::Ipv6ExtensionChain | Malformed::Ipv6ExtensionOrder), _) => {}
        (Err(other), _) => panic!("{other:?} is no extension's lie"),
    }
}

/// See the module.
pub(super) fn assert_same_transport_as_etherparse(bytes: &[u8]) {
    // A length of zero is a jumbogram's for them, and a lie for us.
    let theirs = etherparse::UdpSlice::from_slice(bytes)
        .ok()
        .filter(|udp| udp.length() != 0);
    assert_eq!(
        Udp::parse(bytes).ok().map(|udp| (
            udp.source_port(),
            udp.destination_port(),
            udp.length(),
            udp.payload()
        )),
        theirs.map(|udp| (
            udp.source_port(),
            udp.destination_port(),
            udp.length(),
            udp.payload()
        ))
    );
    let theirs = etherparse::TcpSlice::from_slice(bytes).ok();
    let ours = Tcp::parse(bytes).ok();
    assert_eq!(
        ours.map(|tcp| (
            tcp.sequence(),
            tcp.acknowledgment(),
            tcp.window(),
            tcp.checksum(),
            tcp.payload()
        )),
        theirs.as_ref().map(|tcp| {
            (
                tcp.sequence_number(),
                tcp.acknowledgment_number(),
                tcp.window_size(),
                tcp.checksum(),
                tcp.payload(),
            )
        })
    );
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        assert_eq!(
            (ours.options(), ours.header_len()),
            (theirs.options(), theirs.header_len())
        );
    }
}
