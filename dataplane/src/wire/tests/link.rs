//! Ethernet, VLAN tags, ARP.

use core::net::Ipv4Addr;

use etherparse::{SingleVlanHeader, VlanId, VlanPcp};
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Serialize};

use super::*;

#[test]
fn ethernet_header_reads_as_etherparse_wrote_it() {
    let frame = udp_v4_frame(PAYLOAD);
    let view = Ethernet::parse(&frame).unwrap();
    assert_eq!((view.source(), view.destination()), (HERE, THERE));
    assert_eq!(view.ether_type(), EtherType::IPV4);
    assert_eq!(view.payload(), &frame[eth::HEADER_LEN..]);
}

#[test]
fn ethernet_header_without_its_last_byte_is_truncated() {
    let header = &udp_v4_frame(PAYLOAD)[..eth::HEADER_LEN];
    cut_everywhere(header, Ethernet::parse, |_| Malformed::EthernetTruncated);
    cut_everywhere(
        header,
        |bytes| EthernetMut::parse(&mut bytes.to_vec()).map(drop),
        |_| Malformed::EthernetTruncated,
    );
}

#[test]
fn ethernet_emits_what_etherparse_reads() {
    let mut out = [DIRT; eth::HEADER_LEN];
    eth::emit(&mut out, THERE, HERE, EtherType::IPV6);
    let (read, rest) = etherparse::Ethernet2Header::from_slice(&out).unwrap();
    assert_eq!((read.source, read.destination), (HERE.0, THERE.0));
    assert_eq!(read.ether_type, etherparse::EtherType::IPV6);
    assert!(rest.is_empty());
}

#[test]
fn ethernet_is_edited_in_place_and_nothing_else_moves() {
    let mut frame = udp_v4_frame(PAYLOAD);
    let before = frame.clone();
    let mut view = EthernetMut::parse(&mut frame).unwrap();
    view.set_source(MacAddr::BROADCAST);
    view.set_destination(HERE);
    view.set_ether_type(EtherType::ARP);
    assert_eq!(view.view().source(), MacAddr::BROADCAST);
    view.payload_mut()[0] = 0;
    assert_eq!(view.into_payload().len(), before.len() - eth::HEADER_LEN);
    let mut expected = [DIRT; eth::HEADER_LEN];
    eth::emit(&mut expected, HERE, MacAddr::BROADCAST, EtherType::ARP);
    assert_eq!(frame[..eth::HEADER_LEN], expected);
    assert_eq!(frame[eth::HEADER_LEN], 0);
    assert_eq!(frame[eth::HEADER_LEN + 1..], before[eth::HEADER_LEN + 1..]);
}

#[test]
fn mac_address_kinds() {
    // address, multicast, broadcast, zero, unicast
    let rows = [
        ("00:00:00:00:00:00", false, false, true, false),
        ("02:00:00:00:01:01", false, false, false, true),
        ("01:00:5e:00:00:01", true, false, false, false),
        ("33:33:00:00:00:01", true, false, false, false),
        ("ff:ff:ff:ff:ff:ff", true, true, false, false),
    ];
    for (text, multicast, broadcast, zero, unicast) in rows {
        let mac: MacAddr = text.parse().unwrap();
        let kinds = (
            mac.is_multicast(),
            mac.is_broadcast(),
            mac.is_zero(),
            mac.is_unicast(),
        );
        assert_eq!(kinds, (multicast, broadcast, zero, unicast), "{text}");
        assert_eq!(mac.to_string(), text);
    }
}

#[test]
fn mac_address_text_that_is_none() {
    let rows = [
        "",
        ":",
        "02:00:00:00:01",
        "02:00:00:00:01:01:",
        "02:00:00:00:01:01:01",
        "2:00:00:00:01:01",
        "002:0:00:00:01:01",
        "+2:00:00:00:01:01",
        "0g:00:00:00:01:01",
        "02-00-00-00-01-01",
        " 02:00:00:00:01:01",
        "02:00:00:00:01:é",
    ];
    for text in rows {
        assert_eq!(text.parse::<MacAddr>(), Err(InvalidMacAddr), "{text:?}");
    }
    assert_eq!(
        "AA:bB:CC:dd:EE:0f".parse(),
        Ok(MacAddr([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x0f]))
    );
}

#[test]
fn mac_address_is_a_string_to_serde() {
    struct Shown(MacAddr);
    impl core::fmt::Display for Shown {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            self.0.serialize(f)
        }
    }
    assert_eq!(Shown(HERE).to_string(), "02:00:00:00:00:01");
    let read = |text: &'static str| {
        let deserializer: StrDeserializer<'_, ValueError> = text.into_deserializer();
        MacAddr::deserialize(deserializer)
    };
    assert_eq!(read("02:00:00:00:00:01"), Ok(HERE));
    let error = read("nonsense").unwrap_err().to_string();
    assert!(
        error.contains("nonsense") && error.contains("aa:bb:cc:dd:ee:ff"),
        "{error}"
    );
}

#[test]
fn ether_type_below_the_first_type_is_a_length() {
    assert!(EtherType(0x05ff).is_length());
    assert!(!EtherType(0x0600).is_length());
    assert!(EtherType::VLAN.is_vlan() && EtherType::QINQ.is_vlan() && !EtherType::IPV4.is_vlan());
}

/// `tags` VLAN tags in a row before an IPv4 EtherType and the payload.
fn tagged(tags: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for place in 0..tags {
        let last = place + 1 == tags;
        let header = SingleVlanHeader {
            pcp: VlanPcp::try_new(5).unwrap(),
            drop_eligible_indicator: true,
            vlan_id: VlanId::try_new(0xabc).unwrap(),
            ether_type: if last {
                etherparse::EtherType::IPV4
            } else {
                etherparse::EtherType::VLAN_TAGGED_FRAME
            },
        };
        bytes.extend_from_slice(&header.to_bytes());
    }
    bytes.extend_from_slice(PAYLOAD);
    bytes
}

#[test]
fn vlan_tag_reads_as_etherparse_wrote_it() {
    let bytes = tagged(1);
    let tag = VlanTag::parse(&bytes).unwrap();
    assert_eq!((tag.id(), tag.priority(), tag.drop_eligible()), (0xabc, 5, true));
    assert_eq!((tag.ether_type(), tag.payload()), (EtherType::IPV4, PAYLOAD));
    cut_everywhere(&bytes[..vlan::TAG_LEN], VlanTag::parse, |_| {
        Malformed::VlanTruncated
    });
}

#[test]
fn nested_vlan_tags_are_passed_up_to_the_bound() {
    let bare = vlan::skip_tags(PAYLOAD, EtherType::IPV4, vlan::MAX_TAGS).unwrap();
    assert_eq!(
        bare,
        Untagged {
            ether_type: EtherType::IPV4,
            payload: PAYLOAD,
            tags: 0
        }
    );
    for tags in 1..=5 {
        for outer in [EtherType::VLAN, EtherType::QINQ] {
            let bytes = tagged(tags);
            let behind = vlan::skip_tags(&bytes, outer, vlan::MAX_TAGS);
            if tags > vlan::MAX_TAGS {
                assert_eq!(behind, Err(Malformed::VlanTooDeep));
            } else {
                assert_eq!(
                    behind,
                    Ok(Untagged {
                        ether_type: EtherType::IPV4,
                        payload: PAYLOAD,
                        tags
                    })
                );
            }
        }
    }
    assert_eq!(
        vlan::skip_tags(&tagged(1), EtherType::VLAN, 0),
        Err(Malformed::VlanTooDeep)
    );
    let two = &tagged(2)[..2 * vlan::TAG_LEN];
    cut_everywhere(
        two,
        |bytes| vlan::skip_tags(bytes, EtherType::QINQ, 2),
        |_| Malformed::VlanTruncated,
    );
}

/// The ARP request and its bytes, from `etherparse`.
fn arp_request() -> (ArpFields, Vec<u8>) {
    let packet = etherparse::ArpEthIpv4Packet {
        operation: etherparse::ArpOperation::REQUEST,
        sender_mac: HERE.0,
        sender_ipv4: CLIENT_V4,
        target_mac: [0; 6],
        target_ipv4: SERVER_V4,
    };
    let fields = ArpFields {
        operation: ArpOperation::REQUEST,
        sender_hardware: HERE,
        sender_protocol: Ipv4Addr::from(CLIENT_V4),
        target_hardware: MacAddr::ZERO,
        target_protocol: Ipv4Addr::from(SERVER_V4),
    };
    (fields, packet.to_bytes().to_vec())
}

#[test]
fn arp_reads_and_emits_as_etherparse() {
    let (fields, bytes) = arp_request();
    let mut padded = bytes.clone();
    padded.resize(46, 0);
    assert_eq!(Arp::parse(&padded).unwrap().fields(), fields);
    assert!(!Arp::parse(&padded).unwrap().is_announcement());
    let mut out = [DIRT; arp::PACKET_LEN];
    fields.emit(&mut out);
    assert_eq!(out[..], bytes);
}

#[test]
fn arp_reply_exchanges_the_sides() {
    let (request, _) = arp_request();
    let reply = request.reply_with(THERE);
    let mut out = [DIRT; arp::PACKET_LEN];
    reply.emit(&mut out);
    let read = etherparse::ArpPacket::from_slice(&out)
        .unwrap()
        .try_eth_ipv4()
        .unwrap();
    assert_eq!(read.operation, etherparse::ArpOperation::REPLY);
    assert_eq!((read.sender_mac, read.sender_ipv4), (THERE.0, SERVER_V4));
    assert_eq!((read.target_mac, read.target_ipv4), (HERE.0, CLIENT_V4));
    assert_eq!(Arp::parse(&out).unwrap().fields(), reply);
    let announcement = ArpFields {
        target_protocol: reply.sender_protocol,
        ..reply
    };
    announcement.emit(&mut out);
    assert!(Arp::parse(&out).unwrap().is_announcement());
}

#[test]
fn arp_for_something_else_is_refused() {
    let (_, bytes) = arp_request();
    cut_everywhere(&bytes, Arp::parse, |_| Malformed::ArpTruncated);
    // place of a byte, value: hardware type, protocol type, address lengths
    for (at, value) in [(0, 1), (1, 2), (2, 0x86), (3, 6), (4, 8), (4, 0), (5, 16), (5, 0)] {
        let mut wrong = bytes.clone();
        wrong[at] = value;
        assert_eq!(
            Arp::parse(&wrong).err(),
            Some(Malformed::ArpUnsupported),
            "byte {at} = {value}"
        );
    }
    let mut inverse = bytes;
    inverse[7] = 8;
    assert_eq!(Arp::parse(&inverse).unwrap().operation(), ArpOperation(8));
}
