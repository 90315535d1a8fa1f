//! VXLAN and IP-in-IP: a tunnel packet is accepted if and only if it is one; what is pushed is pulled again whole.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::wire::checksum::{self, Sum, packet_sum};
use millrace_dataplane::wire::{
    Dscp, Ecn, EtherType, Ethernet, IpProtocol, Ipv4, Ipv4Fields, Ipv6, MacAddr, Ports, Udp, Vni, Vxlan, eth,
    ipip, ipv4, ipv6, udp, vxlan,
};

/// What a buffer holds before something is emitted into it, so that a byte left unwritten shows.
const DIRT: u8 = 0xa5;
/// The longest inner frame that is pushed, in bytes.
const INNER_MAX_LEN: usize = 1500;

fuzz_target!(|data: &[u8]| {
    check_vxlan(data);
    check_ipip(data);
    check_sum(data);
    if data.len() <= INNER_MAX_LEN {
        check_push(data);
    }
    if let [first, second, ..] = *data {
        check_ecn(Ecn::from_bits(first), Ecn::from_bits(second));
    }
});

fn check_vxlan(data: &[u8]) {
    let parsed = Vxlan::parse(data);
    assert_eq!(
        parsed.is_ok(),
        data.len() >= 8 && data[0] & 0x08 != 0,
        "{parsed:?}"
    );
    let Ok(packet) = parsed else { return };
    assert_eq!(packet.payload(), &data[vxlan::HEADER_LEN..]);
    let vni = packet.vni();
    assert!(vni <= Vni::MAX && Vni::try_from(vni.get()) == Ok(vni));
    let mut out = [DIRT; vxlan::HEADER_LEN];
    vxlan::emit(&mut out, vni);
    // The reserved bits are not kept.
    assert_eq!(out, [0x08, 0, 0, 0, data[4], data[5], data[6], 0]);
}

fn check_ipip(data: &[u8]) {
    let inner = ipip::parse_inner(data);
    let fills = Ipv4::parse(data).is_ok_and(|packet| usize::from(packet.total_len()) == data.len());
    assert_eq!(inner.is_ok(), fills, "{inner:?}");
}

/// The sum of a packet whose transport's checksum is right, and behind which there is no padding, is that of all its bytes.
fn check_sum(data: &[u8]) {
    let sum = packet_sum(data).fold();
    let is_right = match data.first().map(|byte| byte >> 4) {
        Some(4) => Ipv4::parse(data).is_ok_and(|ip| {
            let whole = usize::from(ip.total_len()) == data.len();
            let is_icmp = ip.protocol() == IpProtocol::ICMP;
            whole && !is_icmp && checksum::is_transport_valid(ip.address_sum(), ip.protocol(), ip.payload())
        }),
        _ => Ipv6::parse(data).is_ok_and(|ip| {
            let whole = ipv6::HEADER_LEN + ip.payload().len() == data.len();
            let upper = ip.upper().ok().filter(|upper| whole && upper.segments_left == 0);
            upper.is_some_and(|upper| {
                checksum::is_transport_valid(ip.address_sum(), upper.protocol, upper.payload)
            })
        }),
    };
    if is_right {
        let whole = Sum::ZERO.add_bytes(data).fold();
        assert_eq!(sum % 0xffff, whole % 0xffff);
    }
}

/// RFC 6040, figure 4: congestion on the way is told or the packet is lost, and never forgotten.
fn check_ecn(inner: Ecn, outer: Ecn) {
    match Ecn::decapsulate(inner, outer) {
        Ok(Ecn::NotEct) => assert!(inner == Ecn::NotEct && outer != Ecn::Ce),
        Ok(left) => {
            assert_ne!(inner, Ecn::NotEct);
            assert_eq!(left == Ecn::Ce, inner == Ecn::Ce || outer == Ecn::Ce);
        }
        Err(_) => assert_eq!((inner, outer), (Ecn::NotEct, Ecn::Ce)),
    }
    assert_eq!(Ecn::decapsulate(inner, inner.encapsulate()), Ok(inner));
}

fn check_push(inner: &[u8]) {
    let header = |protocol, payload_len: usize| {
        let fields = Ipv4Fields {
            dscp: Dscp::from_traffic_class(0),
            ecn: Ecn::NotEct,
            total_len: u16::try_from(ipv4::HEADER_LEN + payload_len).expect("a bounded length"),
            id: 0,
            dont_fragment: false,
            ttl: 64,
            protocol,
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(192, 0, 2, 2),
        };
        let mut out = [DIRT; ipv4::HEADER_LEN];
        fields.emit(&mut out);
        out
    };
    let mut link = [DIRT; eth::HEADER_LEN];
    eth::emit(
        &mut link,
        MacAddr([2, 0, 0, 0, 0, 2]),
        MacAddr([2, 0, 0, 0, 0, 1]),
        EtherType::IPV4,
    );

    let udp_len = udp::HEADER_LEN + vxlan::HEADER_LEN + inner.len();
    let (mut transport, mut tunnel) = ([DIRT; udp::HEADER_LEN], [DIRT; vxlan::HEADER_LEN]);
    let ports = Ports {
        source: 50_000,
        destination: vxlan::LINUX_PORT,
    };
    udp::emit(
        &mut transport,
        ports,
        u16::try_from(udp_len).expect("a bounded length"),
        0,
    );
    vxlan::emit(&mut tunnel, Vni::MAX);
    let ip = header(IpProtocol::UDP, udp_len);
    let packet = [&link[..], &ip, &transport, &tunnel, inner].concat();
    assert_eq!(packet.len(), vxlan::PUSH_LEN_IPV4 + inner.len());
    let pulled = pull_vxlan(&packet).expect("what was pushed is a tunnel packet");
    assert_eq!((pulled.vni(), pulled.payload()), (Vni::MAX, inner));

    let ip = header(IpProtocol::IPIP, inner.len());
    let packet = [&link[..], &ip, inner].concat();
    assert_eq!(packet.len(), ipip::PUSH_LEN + inner.len());
    let outer = Ipv4::parse(&packet[eth::HEADER_LEN..]).expect("what was pushed is a packet");
    assert_eq!((outer.verify_checksum(), outer.payload()), (Ok(()), inner));
}

fn pull_vxlan(packet: &[u8]) -> Option<Vxlan<'_>> {
    let frame = Ethernet::parse(packet).ok()?;
    let ip = Ipv4::parse(frame.payload()).ok()?;
    ip.verify_checksum().ok()?;
    let datagram = Udp::parse(ip.payload()).ok()?;
    Vxlan::parse(datagram.payload()).ok()
}
