//! UDP, TCP and the ports they share.

use super::*;

/// The transport bytes of an Ethernet frame without tags and without IP options.
fn l4_v4(frame: &[u8]) -> Vec<u8> {
    frame[eth::HEADER_LEN + ipv4::HEADER_LEN..].to_vec()
}

#[test]
fn udp_reads_as_etherparse_wrote_it() {
    let bytes = l4_v4(&udp_v4_frame(PAYLOAD));
    let theirs = etherparse::UdpSlice::from_slice(&bytes).unwrap();
    let mut longer = bytes.clone();
    longer.extend_from_slice(&[0xee; 3]);
    let view = Udp::parse(&longer).unwrap();
    assert_eq!(
        view.ports(),
        Ports {
            source: 5353,
            destination: 53
        }
    );
    assert_eq!(
        (view.length(), view.checksum()),
        (theirs.length(), theirs.checksum())
    );
    assert_eq!(view.payload(), PAYLOAD, "bytes behind the length are left out");
}

#[test]
fn udp_cuts_and_lying_lengths_are_refused() {
    let bytes = l4_v4(&udp_v4_frame(PAYLOAD));
    let expected = |len| {
        if len < udp::HEADER_LEN {
            Malformed::UdpTruncated
        } else {
            Malformed::UdpLength
        }
    };
    cut_everywhere(&bytes, Udp::parse, expected);
    cut_everywhere(
        &bytes,
        |bytes| UdpMut::parse(&mut bytes.to_vec()).map(drop),
        expected,
    );
    let len = bytes.len() as u16;
    for (length, fits) in [
        (0, false),
        (7, false),
        (8, true),
        (len - 1, true),
        (len + 1, false),
        (u16::MAX, false),
    ] {
        let mut wrong = bytes.clone();
        wrong[4..6].copy_from_slice(&length.to_be_bytes());
        let expected = (!fits).then_some(Malformed::UdpLength);
        assert_eq!(Udp::parse(&wrong).err(), expected, "length {length}");
        assert_eq!(UdpMut::parse(&mut wrong).err(), expected, "length {length}");
    }
}

#[test]
fn udp_emits_what_etherparse_reads() {
    let mut out = [DIRT; udp::HEADER_LEN];
    udp::emit(
        &mut out,
        Ports {
            source: 0xf00d,
            destination: vxlan::LINUX_PORT,
        },
        0x0123,
        0xbeef,
    );
    let (read, _) = etherparse::UdpHeader::from_slice(&out).unwrap();
    assert_eq!((read.source_port, read.destination_port), (0xf00d, 8472));
    assert_eq!((read.length, read.checksum), (0x0123, 0xbeef));
}

#[test]
fn udp_ports_are_edited_and_the_checksum_follows() {
    let addresses = checksum::addresses_v4(CLIENT_V4.into(), SERVER_V4.into());
    let mut bytes = l4_v4(&udp_v4_frame(PAYLOAD));
    let mut view = UdpMut::parse(&mut bytes).unwrap();
    view.set_source_port(0xffff);
    view.set_destination_port(0);
    assert_eq!(
        view.view().ports(),
        Ports {
            source: 0xffff,
            destination: 0
        }
    );
    assert_eq!(view.payload_mut(), PAYLOAD);
    let theirs = etherparse::UdpSlice::from_slice(&bytes).unwrap();
    let full = theirs
        .to_header()
        .calc_checksum_ipv4_raw(CLIENT_V4, SERVER_V4, PAYLOAD)
        .unwrap();
    assert_eq!(theirs.checksum(), full);
    assert!(checksum::is_transport_valid(addresses, IpProtocol::UDP, &bytes));
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut bytes = l4_v4(&udp_v4_frame(PAYLOAD));
    bytes[6..8].fill(0);
    let mut view = UdpMut::parse(&mut bytes).unwrap();
    view.set_source_port(1);
    view.set_destination_port(2);
    view.adjust_checksum(checksum::Delta::u32(1, 2));
    assert_eq!(view.view().checksum(), 0);
}

#[test]
fn tcp_reads_as_etherparse_wrote_it() {
    for options_len in (0..=40).step_by(4) {
        let options = vec![1; options_len];
        let frame = built!(
            etherparse::PacketBuilder::ipv4(CLIENT_V4, SERVER_V4, 64)
                .tcp(40000, 80, 0x0102_0304, 0xfaf0)
                .ack(0x0506_0708)
                .fin()
                .options_raw(&options)
                .unwrap(),
            PAYLOAD
        );
        let bytes = &frame[ipv4::HEADER_LEN..];
        let theirs = etherparse::TcpSlice::from_slice(bytes).unwrap();
        let view = Tcp::parse(bytes).unwrap();
        assert_eq!(
            view.ports(),
            Ports {
                source: 40000,
                destination: 80
            }
        );
        assert_eq!(
            (view.sequence(), view.acknowledgment()),
            (0x0102_0304, 0x0506_0708)
        );
        assert_eq!((view.window(), view.checksum()), (0xfaf0, theirs.checksum()));
        assert_eq!(view.flags(), TcpFlags::ACK.with(TcpFlags::FIN));
        assert_eq!(
            (view.header_len(), view.options()),
            (theirs.header_len(), theirs.options())
        );
        assert_eq!(view.payload(), PAYLOAD);
        cut_everywhere(&bytes[..20 + options_len], Tcp::parse, |len| {
            if len < tcp::HEADER_LEN {
                Malformed::TcpTruncated
            } else {
                Malformed::TcpDataOffset
            }
        });
    }
}

#[test]
fn tcp_data_offset_is_checked_both_ways() {
    let bytes = l4_v4(&tcp_v4_frame(&[0; 8]));
    for words in 0..16_u8 {
        let mut wrong = bytes.clone();
        wrong[12] = words << 4 | 0x0f;
        let expected = (!(5..=7).contains(&words)).then_some(Malformed::TcpDataOffset);
        assert_eq!(Tcp::parse(&wrong).err(), expected, "{words} words");
        assert_eq!(TcpMut::parse(&mut wrong).err(), expected, "{words} words");
    }
}

#[test]
fn tcp_flags_are_read_one_by_one() {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    for (bit, name) in names.into_iter().enumerate() {
        let mut bytes = l4_v4(&tcp_v4_frame(PAYLOAD));
        bytes[13] = 1 << bit;
        let flags = Tcp::parse(&bytes).unwrap().flags();
        assert_eq!(format!("{flags:?}"), name);
        let theirs = etherparse::TcpSlice::from_slice(&bytes).unwrap();
        let read = [
            theirs.fin(),
            theirs.syn(),
            theirs.rst(),
            theirs.psh(),
            theirs.ack(),
            theirs.urg(),
            theirs.ece(),
            theirs.cwr(),
        ];
        assert!(read[bit], "{name}");
    }
    let syn_ack = TcpFlags::SYN.with(TcpFlags::ACK);
    assert!(syn_ack.contains(TcpFlags::SYN) && !TcpFlags::SYN.contains(syn_ack));
    assert!(syn_ack.intersects(TcpFlags::SYN.with(TcpFlags::RST)) && !syn_ack.intersects(TcpFlags::RST));
    assert_eq!(format!("{syn_ack:?} {:?}", TcpFlags::default()), "SYN|ACK none");
}

#[test]
fn tcp_ports_are_edited_and_the_checksum_follows() {
    let mut bytes = l4_v4(&tcp_v4_frame(PAYLOAD));
    let mut view = TcpMut::parse(&mut bytes).unwrap();
    view.set_source_port(0);
    view.set_destination_port(0xffff);
    assert_eq!(
        view.view().ports(),
        Ports {
            source: 0,
            destination: 0xffff
        }
    );
    assert_eq!((view.options_mut().len(), &*view.payload_mut()), (0, PAYLOAD));
    let theirs = etherparse::TcpSlice::from_slice(&bytes).unwrap();
    assert_eq!(
        theirs.checksum(),
        theirs.calc_checksum_ipv4(CLIENT_V4, SERVER_V4).unwrap()
    );
}

#[test]
fn tcp_emits_what_etherparse_reads() {
    let fields = TcpFields {
        ports: Ports {
            source: 80,
            destination: 40000,
        },
        sequence: 0x0102_0304,
        acknowledgment: 0xfffe_fdfc,
        flags: TcpFlags::RST.with(TcpFlags::ACK),
        window: 0x1234,
    };
    let mut out = [DIRT; tcp::HEADER_LEN];
    fields.emit(&mut out);
    let addresses = checksum::addresses_v4(SERVER_V4.into(), CLIENT_V4.into());
    assert!(checksum::fill_transport(addresses, IpProtocol::TCP, &mut out));
    let mut expected = etherparse::TcpHeader::new(80, 40000, 0x0102_0304, 0x1234);
    expected.acknowledgment_number = 0xfffe_fdfc;
    (expected.rst, expected.ack) = (true, true);
    expected.checksum = expected
        .calc_checksum_ipv4_raw(SERVER_V4, CLIENT_V4, &[])
        .unwrap();
    assert_eq!(out[..], expected.to_bytes()[..]);
}

#[test]
fn ports_of_a_header_that_is_not_whole() {
    let mut bytes = l4_v4(&udp_v4_frame(PAYLOAD))[..ports::LEN].to_vec();
    cut_everywhere(&bytes, Ports::parse, |_| Malformed::PortsTruncated);
    cut_everywhere(
        &bytes,
        |bytes| PortsMut::parse(&mut bytes.to_vec()).map(drop),
        |_| Malformed::PortsTruncated,
    );
    let before = Ports::parse(&bytes).unwrap();
    assert_eq!(
        before,
        Ports {
            source: 5353,
            destination: 53
        }
    );
    assert_eq!(
        before.reversed(),
        Ports {
            source: 53,
            destination: 5353
        }
    );
    // A checksum over the bytes follows both changes, applied at once.
    let old = checksum::checksum(&bytes);
    let mut view = PortsMut::parse(&mut bytes).unwrap();
    let delta = view.set_source(0x0102).and(view.set_destination(0xfffe));
    assert_eq!(
        view.view(),
        Ports {
            source: 0x0102,
            destination: 0xfffe
        }
    );
    assert_eq!(bytes, [0x01, 0x02, 0xff, 0xfe]);
    assert_eq!(delta.apply(old), checksum::checksum(&bytes));
}

#[test]
fn protocols_that_begin_with_ports() {
    let with: Vec<u8> = (0..=u8::MAX)
        .filter(|&number| IpProtocol(number).has_ports())
        .collect();
    assert_eq!(with, [6, 17, 132, 136]);
    assert_eq!(
        format!("{} {} {:?}", IpProtocol::TCP, IpProtocol::ICMPV6, IpProtocol(99)),
        "TCP ICMPv6 protocol 99"
    );
}
