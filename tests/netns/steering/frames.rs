//! Frames for the steering programs, built byte by byte, and a program to run them through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use etherparse::{EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header};
use millrace_dataplane::xdp::{ProgramKind, SteeringAction, SteeringCounter, SteeringProgram};
use rustix::net::{AddressFamily, SocketType};

pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// An address of the node that lies in its pods' prefix.
pub(crate) const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 7);

pub(crate) const TUNNEL_PORT: u16 = 8472;
pub(crate) const OTHER_TUNNEL_PORT: u16 = 4789;
pub(crate) const FAILSAFE_PORT: u16 = 22;
pub(crate) const PLAIN_PORT: u16 = 5000;

/// IANA protocol numbers of extension headers.
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

pub(crate) fn loaded_uplink() -> SteeringProgram {
    let mut program = SteeringProgram::load(ProgramKind::Uplink, 2).unwrap();
    program
        .set_local_addresses(&[NODE.into(), OVERLAY.into(), NODE6.into()])
        .unwrap();
    program
        .set_tunnel_ports(&[TUNNEL_PORT, OTHER_TUNNEL_PORT])
        .unwrap();
    program.set_failsafe_ports(&[FAILSAFE_PORT, 6443]).unwrap();
    program
        .set_pod_prefixes(&[(IpAddr::from(OVERLAY), 24), (IpAddr::from(POD6), 64)])
        .unwrap();
    program.set_ipip(true).unwrap();
    program
}

/// An AF_XDP socket, bound to nothing: enough for the program to choose it.
pub(crate) fn any_xdp_socket() -> OwnedFd {
    rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap()
}

pub(crate) fn ethernet(ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header {
        source: [2, 0, 0, 0, 0, 2],
        destination: [2, 0, 0, 0, 0, 1],
        ether_type,
    };
    let mut frame = header.to_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn v4(to: Ipv4Addr, protocol: u8, payload: &[u8], edit: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut header = Ipv4Header::new(length, 64, IpNumber(protocol), PEER.octets(), to.octets()).unwrap();
    header.dont_fragment = false;
    edit(&mut header);
    header.header_checksum = header.calc_header_checksum();
    let mut packet = header.to_bytes().to_vec();
    packet.extend_from_slice(payload);
    ethernet(EtherType::IPV4, &packet)
}

pub(crate) fn v6(to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap(),
        next_header: IpNumber(next_header),
        hop_limit: 64,
        source: PEER6.octets(),
        destination: to.octets(),
        ..Ipv6Header::default()
    };
    let mut packet = header.to_bytes().to_vec();
    packet.extend_from_slice(payload);
    ethernet(EtherType::IPV6, &packet)
}

/// A UDP header and some payload.
pub(crate) fn udp(to_port: u16) -> Vec<u8> {
    let mut bytes = etherparse::UdpHeader {
        source_port: 40000,
        destination_port: to_port,
        length: 24,
        checksum: 0,
    }
    .to_bytes()
    .to_vec();
    bytes.extend_from_slice(&[0xa5; 16]);
    bytes
}

pub(crate) fn tcp(to_port: u16) -> Vec<u8> {
    etherparse::TcpHeader::new(40000, to_port, 1, 64240)
        .to_bytes()
        .to_vec()
}

pub(crate) const SCTP: u8 = 132;

/// An SCTP common header (RFC 9260 section 3.1) with an empty chunk.
pub(crate) fn sctp(to_port: u16) -> Vec<u8> {
    let mut bytes = 40000_u16.to_be_bytes().to_vec();
    bytes.extend_from_slice(&to_port.to_be_bytes());
    bytes.extend_from_slice(&[0xa5; 12]);
    bytes
}

/// The start of TCP, UDP or SCTP as the node sent it.
pub(crate) fn ports(from: u16, to: u16) -> Vec<u8> {
    let mut bytes = from.to_be_bytes().to_vec();
    bytes.extend_from_slice(&to.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// An ICMP message: an echo with an identifier, or, with 0, the header of an error.
pub(crate) fn icmp(kind: u8, id: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes.extend_from_slice(rest);
    bytes
}

/// The IP packet in a frame.
pub(crate) fn packet_of(frame: &[u8]) -> Vec<u8> {
    frame[14..].to_vec()
}

/// Options extension header of `8 + 8 * more` bytes in front of `rest`; `next` says what `rest` is.
pub(crate) fn options(next: u8, more: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 + 8 * usize::from(more)];
    bytes[0] = next;
    bytes[1] = more;
    bytes.extend_from_slice(rest);
    bytes
}

/// Fragment extension header in front of `rest`; `offset` in 8 bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, id: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

pub(crate) fn v4_fragment(
    to: Ipv4Addr,
    protocol: u8,
    id: u16,
    offset: u16,
    more: bool,
    payload: &[u8],
) -> Vec<u8> {
    v4(to, protocol, payload, |header| {
        header.identification = id;
        header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        header.more_fragments = more;
    })
}

/// Runs one frame and checks what became of it and that exactly `counter` moved, by one.
pub(crate) fn expect(
    program: &SteeringProgram,
    name: &str,
    frame: &[u8],
    action: SteeringAction,
    counter: SteeringCounter,
) {
    let before = program.counters().unwrap();
    assert_eq!(program.dry_run(frame).unwrap(), action, "{name}");
    let after = program.counters().unwrap();
    for each in SteeringCounter::ALL {
        assert_eq!(
            after.get(each) - before.get(each),
            u64::from(each == counter),
            "{name}: counter {each:?}"
        );
    }
}
