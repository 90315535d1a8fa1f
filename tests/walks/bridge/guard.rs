//! What a station that was given its addresses may say of itself.

use super::*;
use crate::packets::ARP;

/// An ARP packet of the kind of request, from these addresses.
fn arp(hardware: MacAddr, protocol: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    [&head[..], &hardware.0, &protocol, &[0; 6], &[10, 9, 0, 1]].concat()
}

/// A neighbour message with one link-address option.
fn discovery(kind: u8, source: &str, target: &str, link: (u8, MacAddr)) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let message = [
        &[kind, 0, 0, 0, 0, 0, 0, 0][..],
        &octets(target),
        &[link.0, 1],
        &link.1.0,
    ]
    .concat();
    let len = u8::try_from(message.len()).unwrap();
    let head = [0x60, 0, 0, 0, 0, len, 58, 255];
    [&head[..], &octets(source), &octets("ff02::1"), &message].concat()
}

#[test]
fn a_guarded_station_speaks_for_itself_only() {
    let (own, other) = (station(14), station(1));
    let all = MacAddr::BROADCAST;
    let ip = |family, source: &str| {
        let source: IpAddr = source.parse().unwrap();
        udp(family, source).frame(all, own)
    };
    let said = |ether_type, body: &[u8]| ethernet(all, own, ether_type, body);
    let nd = |kind, source, target, link| said(0x86dd, &discovery(kind, source, target, (kind - 134, link)));
    let spoofed = |reason| Some(reason);
    let rows = [
        (frame(other, all), spoofed(DropReason::SpoofedMac)),
        (said(0x88b5, &[0; 40]), spoofed(DropReason::EtherTypeUnknown)),
        (ip(Family::V4, "10.9.0.14"), None),
        (ip(Family::V4, "10.9.0.15"), spoofed(DropReason::SpoofedAddress)),
        (said(0x0800, &[0x45; 12]), spoofed(DropReason::Ipv4Truncated)),
        (ip(Family::V6, "fd09::14"), None),
        (ip(Family::V6, "fe80::77"), None),
        (ip(Family::V6, "fd09::15"), spoofed(DropReason::SpoofedAddress)),
        (ip(Family::V6, "::"), spoofed(DropReason::SpoofedAddress)),
        (said(0x86dd, &[0x60; 12]), spoofed(DropReason::Ipv6Malformed)),
        (said(ARP, &arp(own, [10, 9, 0, 14])), None),
        (said(ARP, &arp(own, [0; 4])), None),
        (
            said(ARP, &arp(own, [10, 9, 0, 15])),
            spoofed(DropReason::ArpSpoofed),
        ),
        (
            said(ARP, &arp(other, [10, 9, 0, 14])),
            spoofed(DropReason::ArpSpoofed),
        ),
        (said(ARP, &[0; 20]), spoofed(DropReason::ArpMalformed)),
        (nd(135, "fd09::14", "fd09::1", own), None),
        (nd(135, "::", "fd09::14", own), None),
        (
            nd(135, "::", "fd09::15", own),
            spoofed(DropReason::NeighbourSpoofed),
        ),
        (
            nd(135, "fd09::15", "fd09::1", own),
            spoofed(DropReason::NeighbourSpoofed),
        ),
        (
            nd(135, "fd09::14", "fd09::1", other),
            spoofed(DropReason::NeighbourSpoofed),
        ),
        (nd(136, "fd09::14", "fd09::14", own), None),
        (
            nd(136, "fd09::14", "fd09::15", own),
            spoofed(DropReason::NeighbourSpoofed),
        ),
        (
            nd(136, "fd09::14", "fd09::14", other),
            spoofed(DropReason::NeighbourSpoofed),
        ),
    ];
    let mut switch = switch();
    for (bytes, reason) in rows {
        let expected = reason.map_or(cast(RED, at(GUARDED)), dropped);
        assert_eq!(switch.verdict(GUARDED, &bytes), expected, "{bytes:02x?}");
        if reason != Some(DropReason::ArpMalformed) && reason != Some(DropReason::SpoofedMac) {
            assert_eq!(
                switch.verdict(10, &bytes),
                cast(RED, at(10)),
                "others may say anything"
            );
        }
    }
}

#[test]
fn a_guarded_station_is_no_router() {
    let mut switch = switch();
    for (kind, reason) in [
        (134, DropReason::RouterAdvertisement),
        (137, DropReason::RouterRedirect),
    ] {
        let body = discovery(kind, "fe80::1", "fe80::1", (1, station(14)));
        let bytes = ethernet(MacAddr::BROADCAST, station(14), 0x86dd, &body);
        assert_eq!(switch.verdict(GUARDED, &bytes), dropped(reason));
        assert_eq!(
            switch.verdict(10, &bytes),
            cast(RED, at(10)),
            "a virtual machine may be one"
        );
    }
    let solicitation = discovery(133, "fe80::1", "fe80::1", (1, station(14)));
    let bytes = ethernet(MacAddr::BROADCAST, station(14), 0x86dd, &solicitation);
    assert_eq!(switch.verdict(GUARDED, &bytes), cast(RED, at(GUARDED)));
    // Hidden behind a header that says nothing.
    let mut hidden = discovery(136, "fd09::14", "fd09::14", (2, station(14)));
    let message = hidden.split_off(40);
    hidden[6] = 60;
    hidden[5] += 8;
    let hidden = [&hidden[..], &[58, 0, 1, 4, 0, 0, 0, 0], &message].concat();
    let bytes = ethernet(MacAddr::BROADCAST, station(14), 0x86dd, &hidden);
    assert_eq!(
        switch.verdict(GUARDED, &bytes),
        dropped(DropReason::NeighbourSpoofed)
    );
}

/// RFC 7113: a message that begins only in the second piece is nobody's to judge, and any other's may go on as it likes.
#[test]
fn a_guarded_station_hides_nothing_in_pieces() {
    let mut switch = switch();
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut said = |next: u8, offset: u16, more: bool, body: &[u8]| {
        let len = u8::try_from(8 + body.len()).unwrap();
        let [high, low] = (offset | u16::from(more)).to_be_bytes();
        let packet = [
            &[0x60, 0, 0, 0, 0, len, 44, 255][..],
            &octets("fd09::14"),
            &octets("ff02::1"),
            &[next, 0, high, low, 0, 0, 0, 7],
            body,
        ]
        .concat();
        let bytes = ethernet(MacAddr::BROADCAST, station(14), 0x86dd, &packet);
        switch.verdict(GUARDED, &bytes)
    };
    let (passes, refused) = (cast(RED, at(GUARDED)), dropped(DropReason::NeighbourSpoofed));
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(
        said(60, 0, true, &options),
        refused,
        "the message is in the next piece"
    );
    assert_eq!(said(58, 0, true, &[136, 0, 0, 0, 0, 0, 0, 0]), refused);
    assert_eq!(
        said(58, 0, true, &[128, 0, 0, 0, 0, 0, 0, 0]),
        passes,
        "an echo request"
    );
    assert_eq!(said(58, 8, false, &[136; 8]), passes, "what it says");
}
