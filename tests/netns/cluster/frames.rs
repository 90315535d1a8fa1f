//! Frames made by hand, sent and heard in a namespace.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header,
    TcpHeader, UdpHeader,
};
use millrace_tools::lab::Namespace;
use millrace_tools::lab::plan::Mac;
use pcap::{Active, Capture, Direction, Error};
use serde_json::Value;

use crate::rig::{PATIENCE, SILENCE};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of outer Ethernet, IPv4, UDP and VXLAN header.
pub(crate) const TUNNEL: usize = 50;
/// How long the kernel may keep what an ear has heard, so as to hand over many at once.
const BLOCK_MS: i32 = 5;
/// How long an ear that has heard nothing new is left alone.
const BEAT: Duration = Duration::from_millis(2);
/// Frames that are sent at once: half of what a quiet pod's port can take without help (`FillPolicy::POD`).
pub(crate) const BURST: usize = 16;
/// Bytes for what an ear has heard and nobody has taken yet.
const MEMORY: i32 = 32 << 20;

/// An Ethernet frame.
pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet; `edit` changes the header before its checksum is made.
pub(crate) fn ipv4(
    protocol: IpNumber,
    from: Ipv4Addr,
    to: Ipv4Addr,
    payload: &[u8],
    edit: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut header = Ipv4Header::new(payload.len() as u16, 64, protocol, from.octets(), to.octets()).unwrap();
    header.dont_fragment = false;
    edit(&mut header);
    header.total_len = (header.header_len() + payload.len()) as u16;
    header.header_checksum = header.calc_header_checksum();
    let mut packet = Vec::new();
    header.write_raw(&mut packet).unwrap();
    packet.extend_from_slice(payload);
    packet
}

/// A UDP datagram with its checksum, without the IP header.
pub(crate) fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let ip = Ipv4Header::new(0, 64, IpNumber::UDP, from.ip().octets(), to.ip().octets()).unwrap();
    let header = UdpHeader::with_ipv4_checksum(from.port(), to.port(), &ip, payload).unwrap();
    [&header.to_bytes()[..], payload].concat()
}

/// A UDP packet, as most rows want it.
pub(crate) fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    ipv4(
        IpNumber::UDP,
        *from.ip(),
        *to.ip(),
        &udp(from, to, payload),
        |_| {},
    )
}

/// A TCP segment with its checksum, without the IP header; `edit` changes the header.
pub(crate) fn tcp(
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
    edit: impl FnOnce(&mut TcpHeader),
) -> Vec<u8> {
    let ip = Ipv4Header::new(0, 64, IpNumber::TCP, from.ip().octets(), to.ip().octets()).unwrap();
    let mut header = TcpHeader::new(from.port(), to.port(), 0x0102_0304, 64_240);
    edit(&mut header);
    header.checksum = header.calc_checksum_ipv4(&ip, payload).unwrap();
    [&header.to_bytes()[..], payload].concat()
}

/// An echo request with its checksum, without the IP header.
pub(crate) fn echo(id: u16, payload: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 });
    [
        &Icmpv4Header::with_checksum(kind, payload).to_bytes()[..],
        payload,
    ]
    .concat()
}

/// A VXLAN header and the frame behind it (RFC 7348 section 5).
pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[0x08, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

/// An IPv6 packet; `edit` changes the header.
pub(crate) fn ipv6(
    next: IpNumber,
    (from, to): (Ipv6Addr, Ipv6Addr),
    payload: &[u8],
    edit: impl FnOnce(&mut Ipv6Header),
) -> Vec<u8> {
    let mut header = Ipv6Header {
        payload_length: payload.len() as u16,
        next_header: next,
        hop_limit: 64,
        source: from.octets(),
        destination: to.octets(),
        ..Ipv6Header::default()
    };
    edit(&mut header);
    [&header.to_bytes()[..], payload].concat()
}

/// A UDP datagram with its checksum over IPv6, without the IP header.
pub(crate) fn udp_v6(from: SocketAddrV6, to: SocketAddrV6, payload: &[u8]) -> Vec<u8> {
    let ip = Ipv6Header {
        source: from.ip().octets(),
        destination: to.ip().octets(),
        ..Ipv6Header::default()
    };
    let header = UdpHeader::with_ipv6_checksum(from.port(), to.port(), &ip, payload).unwrap();
    [&header.to_bytes()[..], payload].concat()
}

/// A TCP segment with its checksum over IPv6, without the IP header; `edit` changes the header.
pub(crate) fn tcp_v6(
    from: SocketAddrV6,
    to: SocketAddrV6,
    payload: &[u8],
    edit: impl FnOnce(&mut TcpHeader),
) -> Vec<u8> {
    let mut header = TcpHeader::new(from.port(), to.port(), 0x0102_0304, 64_240);
    edit(&mut header);
    header.checksum = header
        .calc_checksum_ipv6_raw(from.ip().octets(), to.ip().octets(), payload)
        .unwrap();
    [&header.to_bytes()[..], payload].concat()
}

/// An echo request with its checksum over IPv6, without the IP header.
pub(crate) fn echo_v6((from, to): (Ipv6Addr, Ipv6Addr), id: u16, payload: &[u8]) -> Vec<u8> {
    let kind = Icmpv6Type::EchoRequest(IcmpEchoHeader { id, seq: 1 });
    let header = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), payload).unwrap();
    [&header.to_bytes()[..], payload].concat()
}

/// An ARP packet (RFC 826): operation, then sender, then target.
pub(crate) fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        packet.extend(mac.0);
        packet.extend(address.octets());
    }
    packet
}

/// Sends frames out of an interface of a namespace, one after another, and no faster than a port that has been quiet is
/// ready for.
pub(crate) fn send(namespace: &Namespace, interface: &str, frames: &[Vec<u8>]) {
    let mut socket = namespace
        .within(|| Capture::from_device(interface).unwrap().open().unwrap())
        .unwrap();
    for burst in frames.chunks(BURST) {
        for frame in burst {
            socket.sendpacket(frame.as_slice()).unwrap();
        }
        thread::sleep(BEAT);
    }
}

/// Hears what passes an interface.
pub(crate) struct Ear(Capture<Active>);

impl Ear {
    /// Hears what comes in at an interface of a namespace and fits tcpdump's `filter`, from now on.
    pub(crate) fn incoming(namespace: &Namespace, interface: &str, filter: &str) -> Self {
        Self::open(namespace, interface, filter, Direction::In)
    }

    /// Hears what passes either way.
    pub(crate) fn both_ways(namespace: &Namespace, interface: &str, filter: &str) -> Self {
        Self::open(namespace, interface, filter, Direction::InOut)
    }

    fn open(namespace: &Namespace, interface: &str, filter: &str, direction: Direction) -> Self {
        let opened = namespace.within(|| {
            let capture = Capture::from_device(interface).unwrap();
            let mut capture = capture
                .timeout(BLOCK_MS)
                .buffer_size(MEMORY)
                .snaplen(65_535)
                .open()?;
            capture.filter(filter, true)?;
            capture.direction(direction)?;
            // Reads that wait do so for longer than they are told.
            capture.setnonblock()
        });
        Self(
            opened
                .unwrap()
                .unwrap_or_else(|error| panic!("listening at {interface} for {filter:?}: {error}")),
        )
    }

    /// The next frame, if one comes until `deadline`.
    fn next(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            match self.0.next_packet() {
                Ok(packet) => return Some(packet.data.to_vec()),
                Err(Error::TimeoutExpired) if Instant::now() < deadline => thread::sleep(BEAT),
                Err(Error::TimeoutExpired) => return None,
                Err(error) => panic!("listening: {error}"),
            }
        }
    }

    /// The next `count` frames.
    pub(crate) fn hear(&mut self, count: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let heard: Vec<_> = std::iter::from_fn(|| self.next(deadline)).take(count).collect();
        assert_eq!(heard.len(), count, "frames heard");
        heard
    }

    /// What came and comes until it is silent for a while; to be called when nothing more is to come.
    pub(crate) fn rest(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next(Instant::now() + SILENCE)).collect()
    }
}

/// The MAC of an interface.
pub(crate) fn mac_of(namespace: &Namespace, interface: &str) -> Mac {
    let answer = namespace.ip(&["-json", "link", "show", interface]).unwrap();
    let links: Value = serde_json::from_str(&answer).unwrap();
    parse_mac(links[0]["address"].as_str().unwrap())
}

/// The MAC of a neighbour, asked for if need be.
pub(crate) fn mac_of_neighbour(namespace: &Namespace, address: Ipv4Addr) -> Mac {
    crate::rig::await_reach(namespace, address);
    let answer = namespace
        .ip(&["-json", "neighbour", "show", &address.to_string()])
        .unwrap();
    let neighbours: Value = serde_json::from_str(&answer).unwrap();
    parse_mac(neighbours[0]["lladdr"].as_str().unwrap())
}

/// A MAC as people write it.
pub(crate) fn parse_mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    Mac(bytes.try_into().unwrap())
}

/// Bytes in hexadecimal, for a failure that can be read.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x} ")).collect::<String>() + "\n")
        .collect()
}
