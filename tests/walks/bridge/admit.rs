//! What a member's port may send.

use super::*;

#[test]
fn frames_that_no_bridge_takes_are_dropped_by_name() {
    let reserved = |last| MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
    let double = tagged(&tagged(&frame(station(1), station(2)), 10), 10);
    let service = {
        let mut frame = tagged(&frame(station(1), station(2)), 10);
        frame[12..14].copy_from_slice(&0x88a8_u16.to_be_bytes());
        frame
    };
    let plain = frame(station(1), station(2));
    let rows: [(u16, Vec<u8>, DropReason); 15] = [
        (10, plain[..13].to_vec(), DropReason::EthernetTruncated),
        (10, vec![], DropReason::EthernetTruncated),
        (
            10,
            frame(MacAddr::BROADCAST, station(2)),
            DropReason::BridgeSource,
        ),
        (
            10,
            frame(MacAddr([1, 0, 0, 0, 0, 1]), station(2)),
            DropReason::BridgeSource,
        ),
        (10, frame(MacAddr::ZERO, station(2)), DropReason::BridgeSource),
        (10, frame(station(1), reserved(0)), DropReason::BridgeReserved),
        (10, frame(station(1), reserved(0x0f)), DropReason::BridgeReserved),
        (
            TRUNK,
            tagged(&frame(station(1), reserved(2)), 10),
            DropReason::BridgeReserved,
        ),
        (10, tagged(&plain, 10), DropReason::VlanTagged),
        (TRUNK, plain.clone(), DropReason::VlanTagged),
        (TRUNK, tagged(&plain, 30), DropReason::VlanTagged),
        (TRUNK, tagged(&plain, 4095), DropReason::VlanTagged),
        (TRUNK, double, DropReason::VlanTagged),
        (TRUNK, service, DropReason::VlanTagged),
        (IN_NONE, plain.clone(), DropReason::PortGone),
    ];
    let mut switch = switch();
    for (ingress, bytes, reason) in rows {
        assert_eq!(
            switch.verdict(ingress, &bytes),
            dropped(reason),
            "{ingress}: {bytes:02x?}"
        );
        assert_eq!(switch.lessons(), [], "and nothing is learned of it");
    }
    assert_eq!(
        switch.verdict(10, &frame(station(1), reserved(0x10))),
        cast(RED, at(10))
    );
    let cut = &tagged(&plain, 10)[..16];
    assert_eq!(switch.verdict(TRUNK, cut), dropped(DropReason::VlanTagged));
    assert_eq!(switch.verdict(99, &plain), dropped(DropReason::PortGone));
}

#[test]
fn a_tag_that_names_no_vlan_is_a_priority_and_goes() {
    let mut switch = switch();
    switch.know(RED, station(2), at(11));
    let plain = frame(station(1), station(2));
    let sent = (Verdict::Forward(port(11)), plain.clone());
    assert_eq!(switch.receive(port(10), &tagged(&plain, 0xa000)), sent);
}

#[test]
fn a_trunk_may_have_a_network_without_tags() {
    let mut tables = tables([(RED, red()), (BLUE, blue())]);
    let trunk = Member::trunk([(vlan(20), BLUE)], Some(RED));
    let members = tables.networks.members().map(|(id, member)| {
        let member = if id == port(TRUNK) { &trunk } else { member };
        (id, member.clone())
    });
    let members: Vec<_> = members.collect();
    tables.networks = Arc::new(Networks::build(members, [(RED, red()), (BLUE, blue())], [], []));
    let mut switch = Switch::with(tables);
    let plain = frame(station(1), station(2));
    assert_eq!(switch.verdict(TRUNK, &plain), cast(RED, at(TRUNK)));
    assert_eq!(switch.verdict(TRUNK, &tagged(&plain, 20)), cast(BLUE, at(TRUNK)));
    let left = switch.forward(port(10), &plain);
    assert!(left.contains(&(port(TRUNK), plain.clone())));
}

#[test]
fn half_a_checksum_is_finished_before_a_frame_goes_on() {
    // Whether its sender is known, and so on the lane, and with the link's padding behind the packet.
    for (is_known, padding) in [(false, 0), (true, 0), (true, 7)] {
        for family in Family::BOTH {
            let mut switch = switch();
            switch.know(RED, station(2), at(11));
            if is_known {
                switch.know(RED, station(1), at(10));
            }
            let at = 14 + if family == Family::V4 { 20 } else { 40 };
            let datagram = udp(family, guarded(family));
            let segment = datagram.clone().body(Body::Tcp(4000, 80, vec![7; 33]));
            let packets = [(datagram, 17, at + 6), (segment, 6, at + 16)];
            for (packet, protocol, field) in packets {
                let mut whole = packet.frame(station(2), station(1));
                let mut half = whole.clone();
                // What a sender leaves to its device: the sum of the pseudo-header.
                let pseudo = pseudo_sum(&whole, at, protocol);
                half[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
                for frame in [&mut whole, &mut half] {
                    frame.resize(frame.len() + padding, 0);
                }
                let left = (Verdict::Forward(port(11)), whole.clone());
                assert_eq!(switch.receive(port(10), &half), left);
                assert_eq!(switch.receive(port(10), &whole), left);
            }
        }
    }
}

/// The sum of a packet's pseudo-header, not complemented (RFC 768, RFC 9293 section 3.1, RFC 8200 section 8.1).
fn pseudo_sum(frame: &[u8], transport: usize, protocol: u32) -> u16 {
    let addresses = if transport == 34 {
        &frame[26..34]
    } else {
        &frame[22..54]
    };
    let words = addresses
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let len = u32::try_from(frame.len() - transport).unwrap();
    let mut sum = words.sum::<u32>() + protocol + len;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
