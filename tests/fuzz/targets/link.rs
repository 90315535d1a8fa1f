//! Ethernet, VLAN tags and ARP: what is accepted is read right, can be written again, and is edited in its place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::wire::{
    Arp, ArpOperation, EtherType, Ethernet, EthernetMut, MacAddr, Malformed, VlanTag, arp, eth, vlan,
};

/// What a buffer holds before something is emitted into it, so that a byte left unwritten shows.
const DIRT: u8 = 0xa5;

fuzz_target!(|data: &[u8]| {
    check_ethernet(data);
    check_tag(data);
    check_arp(data);
});

fn check_ethernet(data: &[u8]) {
    let Ok(frame) = Ethernet::parse(data) else {
        assert!(data.len() < eth::HEADER_LEN);
        return;
    };
    let (header, payload) = data.split_at(eth::HEADER_LEN);
    assert_eq!(frame.payload(), payload);
    let mut out = [DIRT; eth::HEADER_LEN];
    eth::emit(&mut out, frame.destination(), frame.source(), frame.ether_type());
    assert_eq!(out, header);
    for mac in [frame.source(), frame.destination()] {
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!(mac.is_unicast(), !mac.is_multicast() && !mac.is_zero());
    }
    check_tags(&frame);
    if let Ok(behind) = vlan::skip_tags(payload, frame.ether_type(), vlan::MAX_TAGS) {
        check_arp(behind.payload);
    }

    let mut edited = data.to_vec();
    let mut view = EthernetMut::parse(&mut edited).expect("the same checks");
    view.set_destination(frame.source());
    view.set_source(frame.destination());
    view.set_ether_type(EtherType::ARP);
    let after = view.view();
    assert_eq!(
        (after.destination(), after.source()),
        (frame.source(), frame.destination())
    );
    assert_eq!((after.ether_type(), after.payload()), (EtherType::ARP, payload));
}

fn check_tags(frame: &Ethernet<'_>) {
    for max_tags in 0..=vlan::MAX_TAGS {
        match vlan::skip_tags(frame.payload(), frame.ether_type(), max_tags) {
            Ok(behind) => {
                assert!(behind.tags <= max_tags && !behind.ether_type.is_vlan());
                assert_eq!(behind.payload, &frame.payload()[behind.tags * vlan::TAG_LEN..]);
                assert_eq!(behind.tags > 0, frame.ether_type().is_vlan());
            }
            Err(lie) => {
                assert!(frame.ether_type().is_vlan());
                assert!(matches!(lie, Malformed::VlanTruncated | Malformed::VlanTooDeep));
            }
        }
    }
}

fn check_tag(data: &[u8]) {
    let Ok(tag) = VlanTag::parse(data) else {
        assert!(data.len() < vlan::TAG_LEN);
        return;
    };
    let control = u16::from(tag.priority()) << 13 | u16::from(tag.drop_eligible()) << 12 | tag.id();
    assert_eq!(control.to_be_bytes(), data[..2]);
    assert_eq!(tag.ether_type().0.to_be_bytes(), data[2..4]);
    assert_eq!(tag.payload(), &data[4..]);
}

fn check_arp(data: &[u8]) {
    let packet = match Arp::parse(data) {
        Ok(packet) => packet,
        Err(Malformed::ArpTruncated) => return assert!(data.len() < arp::PACKET_LEN),
        Err(lie) => {
            assert_eq!(lie, Malformed::ArpUnsupported);
            return assert_ne!(data[..6], [0, 1, 8, 0, 6, 4]);
        }
    };
    let fields = packet.fields();
    let mut out = [DIRT; arp::PACKET_LEN];
    fields.emit(&mut out);
    assert_eq!(out, data[..arp::PACKET_LEN]);
    assert_eq!(
        packet.is_announcement(),
        fields.sender_protocol == fields.target_protocol
    );

    let here = MacAddr([2, 0, 0, 0, 0, 1]);
    let mut out = [DIRT; arp::PACKET_LEN];
    fields.reply_with(here).emit(&mut out);
    let reply = Arp::parse(&out).expect("what is emitted parses").fields();
    assert_eq!(
        (reply.operation, reply.sender_hardware),
        (ArpOperation::REPLY, here)
    );
    assert_eq!(reply.sender_protocol, fields.target_protocol);
    assert_eq!(reply.target_protocol, fields.sender_protocol);
    assert_eq!(reply.target_hardware, fields.sender_hardware);
}
