//! Packets built by `etherparse`.

use super::*;

/// A whole packet from `builder`, with `payload`.
macro_rules! built {
    ($builder:expr, $payload:expr) => {{
        let builder = $builder;
        let payload: &[u8] = $payload;
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, payload).unwrap();
        packet
    }};
}
pub(super) use built;

/// An Ethernet frame with a UDP datagram over IPv4.
pub(super) fn udp_v4_frame(payload: &[u8]) -> Vec<u8> {
    built!(
        etherparse::PacketBuilder::ethernet2(HERE.0, THERE.0)
            .ipv4(CLIENT_V4, SERVER_V4, 64)
            .udp(5353, 53),
        payload
    )
}

/// An Ethernet frame with a TCP segment over IPv4.
pub(super) fn tcp_v4_frame(payload: &[u8]) -> Vec<u8> {
    built!(
        etherparse::PacketBuilder::ethernet2(HERE.0, THERE.0)
            .ipv4(CLIENT_V4, SERVER_V4, 64)
            .tcp(40000, 80, 0x0102_0304, 0xfaf0)
            .ack(0x0506_0708)
            .psh(),
        payload
    )
}

/// An Ethernet frame with a UDP datagram over IPv6.
pub(super) fn udp_v6_frame(payload: &[u8]) -> Vec<u8> {
    built!(
        etherparse::PacketBuilder::ethernet2(HERE.0, THERE.0)
            .ipv6(CLIENT_V6, SERVER_V6, 64)
            .udp(5353, 53),
        payload
    )
}

/// An Ethernet frame with a TCP segment over IPv6.
pub(super) fn tcp_v6_frame(payload: &[u8]) -> Vec<u8> {
    built!(
        etherparse::PacketBuilder::ethernet2(HERE.0, THERE.0)
            .ipv6(CLIENT_V6, SERVER_V6, 64)
            .tcp(40000, 80, 0x0102_0304, 0xfaf0)
            .syn(),
        payload
    )
}

/// A valid frame of some kind, with `payload`.
pub(super) fn valid_frame(kind: usize, payload: &[u8]) -> Vec<u8> {
    let start = || etherparse::PacketBuilder::ethernet2(HERE.0, THERE.0);
    let vlan = |id| etherparse::VlanId::try_new(id).unwrap();
    match kind {
        0 => udp_v4_frame(payload),
        1 => tcp_v4_frame(payload),
        2 => udp_v6_frame(payload),
        3 => tcp_v6_frame(payload),
        4 => built!(
            start()
                .double_vlan(vlan(1), vlan(2))
                .ipv6(CLIENT_V6, SERVER_V6, 2)
                .udp(1, 2),
            payload
        ),
        5 => built!(
            start().ipv4(CLIENT_V4, SERVER_V4, 2).icmpv4_echo_request(1, 2),
            payload
        ),
        6 => built!(
            start().ipv6(CLIENT_V6, SERVER_V6, 2).icmpv6_echo_reply(1, 2),
            payload
        ),
        7 => {
            let mut tunnel = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
            tunnel.extend_from_slice(&tcp_v4_frame(payload));
            udp_v4_frame(&tunnel)
        }
        _ => built!(start().ip(with_extensions()).udp(1, 2), payload),
    }
}

/// How many kinds [`valid_frame`] knows.
pub(super) const KINDS: usize = 9;

/// IPv6 with one extension header of every kind.
fn with_extensions() -> etherparse::IpHeaders {
    let raw = |len: usize| etherparse::Ipv6RawExtHeader::new_raw(0.into(), &vec![0; len]).unwrap();
    let extensions = etherparse::Ipv6Extensions {
        hop_by_hop_options: Some(raw(6)),
        destination_options: Some(raw(14)),
        routing: Some(etherparse::Ipv6RoutingExtensions {
            routing: raw(6),
            final_destination_options: Some(raw(22)),
        }),
        fragment: Some(etherparse::Ipv6FragmentHeader::new(
            0.into(),
            0.try_into().unwrap(),
            false,
            9,
        )),
        auth: Some(etherparse::IpAuthHeader::new(0.into(), 1, 2, &[0; 12]).unwrap()),
    };
    let header = etherparse::Ipv6Header {
        source: CLIENT_V6,
        destination: SERVER_V6,
        hop_limit: 9,
        ..etherparse::Ipv6Header::default()
    };
    etherparse::IpHeaders::Ipv6(header, extensions)
}

/// Where the transport begins, its protocol and the sum of the addresses, of a packet without options.
pub(super) fn transport_of(packet: &[u8]) -> (usize, IpProtocol, checksum::Sum) {
    match Ipv4::parse(packet) {
        Ok(ip) => (ip.header_len(), ip.protocol(), ip.address_sum()),
        Err(_) => {
            let ip = Ipv6::parse(packet).unwrap();
            (ipv6::HEADER_LEN, ip.next_header(), ip.address_sum())
        }
    }
}
