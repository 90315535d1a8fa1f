//! VXLAN, IP-in-IP, and ECN through both.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, U32Deserializer};

use super::*;

#[test]
fn a_vni_has_24_bits() {
    assert_eq!(Vni::try_from(0).map(Vni::get), Ok(0));
    assert_eq!(Vni::try_from(0x00ff_ffff), Ok(Vni::MAX));
    assert_eq!(Vni::try_from(0x0100_0000), Err(InvalidVni(0x0100_0000)));
    assert_eq!(
        InvalidVni(1 << 24).to_string(),
        "VNI 16777216 is larger than 16777215"
    );
    let read = |number: u32| {
        let deserializer: U32Deserializer<ValueError> = number.into_deserializer();
        Vni::deserialize(deserializer)
    };
    assert_eq!(read(1).map(u32::from), Ok(1));
    assert!(read(1 << 24).unwrap_err().to_string().contains("16777216"));
}

#[test]
fn vxlan_bytes_as_rfc_7348_draws_them() {
    let mut out = [DIRT; vxlan::HEADER_LEN];
    vxlan::emit(&mut out, Vni::try_from(0x0012_3456).unwrap());
    assert_eq!(out, [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    let bytes = [&out[..], PAYLOAD].concat();
    let view = Vxlan::parse(&bytes).unwrap();
    assert_eq!((view.vni().get(), view.payload()), (0x0012_3456, PAYLOAD));
    cut_everywhere(&out, Vxlan::parse, |_| Malformed::VxlanTruncated);
}

#[test]
fn vxlan_needs_the_i_flag_and_ignores_what_is_reserved() {
    let mut bytes = [0xff; vxlan::HEADER_LEN];
    for flags in 0..=u8::MAX {
        bytes[0] = flags;
        match Vxlan::parse(&bytes) {
            Ok(view) => assert!(flags & 0x08 != 0 && view.vni() == Vni::MAX, "flags {flags:#x}"),
            Err(lie) => assert!(
                flags & 0x08 == 0 && lie == Malformed::VxlanFlags,
                "flags {flags:#x}"
            ),
        }
    }
}

#[test]
fn overheads_are_those_that_flannel_reckons_with() {
    assert_eq!((vxlan::PUSH_LEN_IPV4, vxlan::MTU_OVERHEAD_IPV4), (50, 50));
    assert_eq!((vxlan::PUSH_LEN_IPV6, vxlan::MTU_OVERHEAD_IPV6), (70, 70));
    assert_eq!((ipip::PUSH_LEN, ipip::MTU_OVERHEAD), (34, 20));
}

#[test]
fn a_whole_vxlan_push_is_read_layer_by_layer() {
    let inner = tcp_v4_frame(PAYLOAD);
    let mut frame = vec![DIRT; vxlan::PUSH_LEN_IPV4];
    frame.extend_from_slice(&inner);
    let datagram_len = (frame.len() - eth::HEADER_LEN - ipv4::HEADER_LEN) as u16;
    let (ethernet, rest) = frame.split_first_chunk_mut().unwrap();
    let (ip, rest) = rest.split_first_chunk_mut().unwrap();
    let (udp, rest) = rest.split_first_chunk_mut().unwrap();
    let (vxlan, _) = rest.split_first_chunk_mut().unwrap();
    eth::emit(ethernet, THERE, HERE, EtherType::IPV4);
    let fields = Ipv4Fields {
        dscp: Dscp::DEFAULT,
        ecn: Ecn::NotEct,
        total_len: 20 + datagram_len,
        id: 0,
        dont_fragment: false,
        ttl: 64,
        protocol: IpProtocol::UDP,
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 2].into(),
    };
    fields.emit(ip);
    udp::emit(
        udp,
        Ports {
            source: 50000,
            destination: vxlan::LINUX_PORT,
        },
        datagram_len,
        0,
    );
    vxlan::emit(vxlan, Vni::try_from(1).unwrap());

    let theirs = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(etherparse::TransportSlice::Udp(datagram)) = theirs.transport else {
        panic!("{theirs:?}")
    };
    assert_eq!(
        (datagram.source_port(), datagram.destination_port()),
        (50000, 8472)
    );

    let ours = Ethernet::parse(&frame).unwrap();
    let outer = Ipv4::parse(ours.payload()).unwrap();
    assert_eq!(outer.verify_checksum(), Ok(()));
    let datagram = Udp::parse(outer.payload()).unwrap();
    let tunnel = Vxlan::parse(datagram.payload()).unwrap();
    assert_eq!((tunnel.vni().get(), tunnel.payload()), (1, &inner[..]));
}

#[test]
fn ipip_holds_one_ipv4_packet_and_nothing_else() {
    let inner = &udp_v4_frame(PAYLOAD)[eth::HEADER_LEN..];
    assert_eq!(
        ipip::parse_inner(inner).unwrap().payload().len(),
        inner.len() - ipv4::HEADER_LEN
    );
    cut_everywhere(inner, ipip::parse_inner, |len| {
        if len < ipv4::HEADER_LEN {
            Malformed::Ipv4Truncated
        } else {
            Malformed::Ipv4TotalLength
        }
    });
    let longer = [inner, &[0]].concat();
    assert_eq!(ipip::parse_inner(&longer).err(), Some(Malformed::IpipInnerLength));
    let v6 = &udp_v6_frame(PAYLOAD)[eth::HEADER_LEN..];
    assert_eq!(ipip::parse_inner(v6).err(), Some(Malformed::Ipv4Version));
}

#[test]
fn ecn_leaves_a_tunnel_as_figure_4_of_rfc_6040_says() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    // inner; then for the outer fields Not-ECT, ECT(0), ECT(1), CE
    let rows = [
        (NotEct, [Ok(NotEct), Ok(NotEct), Ok(NotEct), Err(EcnDrop)]),
        (Ect0, [Ok(Ect0), Ok(Ect0), Ok(Ect1), Ok(Ce)]),
        (Ect1, [Ok(Ect1), Ok(Ect1), Ok(Ect1), Ok(Ce)]),
        (Ce, [Ok(Ce), Ok(Ce), Ok(Ce), Ok(Ce)]),
    ];
    for (inner, expected) in rows {
        for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(expected) {
            assert_eq!(
                Ecn::decapsulate(inner, outer),
                expected,
                "inner {inner:?}, outer {outer:?}"
            );
        }
        // Nothing is lost through a tunnel that met no congestion.
        assert_eq!(Ecn::decapsulate(inner, inner.encapsulate()), Ok(inner));
        assert_eq!(inner.encapsulate(), inner);
    }
}

#[test]
fn ecn_bits() {
    for (byte, ecn) in [
        (0xfc, Ecn::NotEct),
        (0xfd, Ecn::Ect1),
        (0xfe, Ecn::Ect0),
        (0xff, Ecn::Ce),
    ] {
        assert_eq!(Ecn::from_bits(byte), ecn);
        assert_eq!(ecn.bits(), byte & 3);
    }
}
