//! TCP, UDP and the ports: what is accepted is read right; a checksum that is filled in is right, and stays right
//! through every edit of ports and addresses.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use millrace_dataplane::wire::checksum::{self, Delta, Sum};
use millrace_dataplane::wire::{
    IpProtocol, Ports, PortsMut, Tcp, TcpFields, TcpMut, Udp, UdpMut, ports, tcp, udp,
};

/// What a buffer holds before something is emitted into it, so that a byte left unwritten shows.
const DIRT: u8 = 0xa5;
/// Bytes of the input that are addresses: two of IPv6, of which IPv4 takes the first four each.
const ADDRESSES_LEN: usize = 32;

fuzz_target!(|data: &[u8]| {
    check_ports(data);
    check_udp(data);
    check_tcp(data);
    let Some((addresses, segment)) = data.split_first_chunk::<ADDRESSES_LEN>() else {
        return;
    };
    let (before, after, delta) = sums(addresses);
    for family in 0..2 {
        for protocol in [IpProtocol::TCP, IpProtocol::UDP] {
            check_checksum((before[family], after[family], delta[family]), protocol, segment);
        }
    }
});

/// Sums of the addresses of both families, of those after a change, and the change.
fn sums(bytes: &[u8; ADDRESSES_LEN]) -> ([Sum; 2], [Sum; 2], [Delta; 2]) {
    let half = |at: usize| -> [u8; 16] { bytes[at..at + 16].try_into().expect("half of the addresses") };
    let (source, destination) = (Ipv6Addr::from(half(0)), Ipv6Addr::from(half(16)));
    let narrow = |address: Ipv6Addr| {
        let [a, b, c, d, ..] = address.octets();
        Ipv4Addr::new(a, b, c, d)
    };
    let (new, new_narrow) = (
        Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 9),
        Ipv4Addr::new(10, 244, 3, 4),
    );
    (
        [
            checksum::addresses_v4(narrow(source), narrow(destination)),
            checksum::addresses_v6(source, destination),
        ],
        [
            checksum::addresses_v4(new_narrow, narrow(destination)),
            checksum::addresses_v6(new, destination),
        ],
        [
            Delta::u32(narrow(source).into(), new_narrow.into()),
            Delta::ipv6(source, new),
        ],
    )
}

fn check_ports(data: &[u8]) {
    let Ok(read) = Ports::parse(data) else {
        assert!(data.len() < ports::LEN);
        return;
    };
    assert_eq!(read.reversed().reversed(), read);
    let mut edited = data.to_vec();
    let mut view = PortsMut::parse(&mut edited).expect("the same checks");
    assert_eq!(view.view(), read);
    let sum = |ports: Ports| {
        Sum::ZERO
            .add_u16(ports.source)
            .add_u16(ports.destination)
            .checksum()
    };
    let delta = view.set_source(read.destination).and(view.set_destination(7));
    assert_eq!(
        view.view(),
        Ports {
            source: read.destination,
            destination: 7
        }
    );
    assert_eq!(delta.apply(sum(read)) % 0xffff, sum(view.view()) % 0xffff);
    assert_eq!(edited[ports::LEN..], data[ports::LEN..]);
}

fn check_udp(data: &[u8]) {
    let claimed = data
        .get(4..6)
        .map(|field| usize::from(field[0]) * 256 + usize::from(field[1]));
    let is_true = data.len() >= 8 && claimed.is_some_and(|len| (8..=data.len()).contains(&len));
    let parsed = Udp::parse(data);
    assert_eq!(parsed.is_ok(), is_true, "{parsed:?}");
    let Ok(datagram) = parsed else { return };
    assert_eq!(
        datagram.payload(),
        &data[udp::HEADER_LEN..usize::from(datagram.length())]
    );
    assert_eq!(Ok(datagram.ports()), Ports::parse(data));
    let mut out = [DIRT; udp::HEADER_LEN];
    udp::emit(&mut out, datagram.ports(), datagram.length(), datagram.checksum());
    assert_eq!(out, data[..udp::HEADER_LEN]);
}

fn check_tcp(data: &[u8]) {
    let offset = data.get(12).map(|byte| usize::from(byte >> 4) * 4);
    let is_true = data.len() >= 20 && offset.is_some_and(|len| (20..=data.len()).contains(&len));
    let parsed = Tcp::parse(data);
    assert_eq!(parsed.is_ok(), is_true, "{parsed:?}");
    let Ok(segment) = parsed else { return };
    let header_len = segment.header_len();
    assert!(header_len <= tcp::MAX_HEADER_LEN);
    assert_eq!(segment.options(), &data[tcp::HEADER_LEN..header_len]);
    assert_eq!(segment.payload(), &data[header_len..]);
    let fields = TcpFields {
        ports: segment.ports(),
        sequence: segment.sequence(),
        acknowledgment: segment.acknowledgment(),
        flags: segment.flags(),
        window: segment.window(),
    };
    let mut out = [DIRT; tcp::HEADER_LEN];
    fields.emit(&mut out);
    // All but data offset, checksum and urgent pointer, which a header of ours has no use for.
    assert_eq!(out[..12], data[..12]);
    assert_eq!(out[13..16], data[13..16]);
}

fn check_checksum((before, after, delta): (Sum, Sum, Delta), protocol: IpProtocol, segment: &[u8]) {
    let mut l4 = segment.to_vec();
    if !checksum::fill_transport(before, protocol, &mut l4) {
        assert_eq!(
            l4, segment,
            "nothing is changed where there is no checksum to fill in"
        );
        return;
    }
    assert!(checksum::is_transport_valid(before, protocol, &l4));
    // A header that does not parse has no edits.
    let edited = if protocol == IpProtocol::TCP {
        TcpMut::parse(&mut l4).map(|mut segment| {
            segment.set_source_port(40_000);
            segment.set_destination_port(80);
            segment.adjust_checksum(delta);
            segment.lower_mss(1370);
        })
    } else {
        UdpMut::parse(&mut l4).map(|mut datagram| {
            datagram.set_source_port(40_000);
            datagram.set_destination_port(80);
            datagram.adjust_checksum(delta);
            assert_ne!(datagram.view().checksum(), 0, "a checksum does not vanish");
        })
    };
    if edited.is_ok() {
        assert!(checksum::is_transport_valid(after, protocol, &l4));
    }
}
