//! Packets, built by etherparse and never by the code under test.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use etherparse::{
    IpEcn, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
    PacketBuilderStep, UdpHeader,
};
use millrace_dataplane::wire::MacAddr;

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;

/// Which family a row is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// One of two spellings of the same thing.
    pub fn pick(self, v4: &str, v6: &str) -> IpAddr {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
        .parse()
        .unwrap()
    }

    pub fn ether_type(self) -> u16 {
        match self {
            Self::V4 => IPV4,
            Self::V6 => IPV6,
        }
    }
}

/// What an IP packet carries.
#[derive(Debug, Clone)]
pub enum Body {
    Udp(u16, u16, Vec<u8>),
    /// A segment from the middle of a connection.
    Tcp(u16, u16, Vec<u8>),
    Segment(Segment),
    Sctp(u16, u16, Vec<u8>),
    /// Ports, and how many bytes the checksum covers; 0 for all.
    UdpLite((u16, u16), u16, Vec<u8>),
    Echo(u16, Vec<u8>),
    EchoReply(u16, Vec<u8>),
    /// Any protocol number over any bytes.
    Raw(u8, Vec<u8>),
}

/// A TCP segment.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    pub ports: (u16, u16),
    pub sequence: u32,
    /// Acknowledged, if anything is.
    pub acknowledgment: Option<u32>,
    pub window: u16,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// A whole number of words.
    pub options: Vec<u8>,
    pub data: Vec<u8>,
}

/// An IP packet to be built.
#[derive(Debug, Clone)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub ecn: u8,
    pub body: Body,
}

impl Ip {
    /// A UDP datagram between two addresses of one family.
    pub fn udp(source: IpAddr, destination: IpAddr) -> Self {
        let body = Body::Udp(4000, 53, b"what a packet carries".to_vec());
        Self {
            source,
            destination,
            ttl: 64,
            ecn: 0,
            body,
        }
    }

    pub fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }

    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub fn ecn(self, ecn: u8) -> Self {
        Self { ecn, ..self }
    }

    /// Fills the payload until the IP packet is `len` bytes long.
    pub fn len(mut self, len: usize) -> Self {
        let missing = len - self.build().len();
        match &mut self.body {
            Body::Udp(_, _, data)
            | Body::Tcp(_, _, data)
            | Body::Sctp(_, _, data)
            | Body::UdpLite(_, _, data)
            | Body::Segment(Segment { data, .. })
            | Body::Echo(_, data)
            | Body::EchoReply(_, data)
            | Body::Raw(_, data) => data.resize(data.len() + missing, 0x5a),
        }
        assert_eq!(self.build().len(), len);
        self
    }

    pub fn family(&self) -> Family {
        if self.source.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// The IP packet, every length and checksum right.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (v4, step) = (self.family() == Family::V4, PacketBuilder::ip(self.headers()));
        match &self.body {
            Body::Udp(from, to, data) => step.udp(*from, *to).write(&mut bytes, data).unwrap(),
            Body::Tcp(from, to, data) => {
                let segment = step.tcp(*from, *to, 1000, 5000).ack(1000);
                segment.write(&mut bytes, data).unwrap();
            }
            Body::Segment(segment) => write_segment(step, segment, &mut bytes),
            Body::Sctp(from, to, data) => {
                step.write(&mut bytes, IpNumber(132), &sctp((*from, *to), data))
                    .unwrap();
            }
            Body::UdpLite(ports, coverage, data) => {
                let datagram = udp_lite((self.source, self.destination), *ports, *coverage, data);
                step.write(&mut bytes, IpNumber(136), &datagram).unwrap();
            }
            Body::EchoReply(id, data) if v4 => {
                step.icmpv4_echo_reply(*id, 1).write(&mut bytes, data).unwrap()
            }
            Body::EchoReply(id, data) => step.icmpv6_echo_reply(*id, 1).write(&mut bytes, data).unwrap(),
            Body::Echo(id, data) if v4 => step.icmpv4_echo_request(*id, 1).write(&mut bytes, data).unwrap(),
            Body::Echo(id, data) => step.icmpv6_echo_request(*id, 1).write(&mut bytes, data).unwrap(),
            Body::Raw(protocol, data) => step.write(&mut bytes, IpNumber(*protocol), data).unwrap(),
        }
        bytes
    }

    fn headers(&self) -> IpHeaders {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let none = IpNumber(0);
                let mut header =
                    Ipv4Header::new(0, self.ttl, none, source.octets(), destination.octets()).unwrap();
                header.ecn = IpEcn::try_new(self.ecn).unwrap();
                header.identification = 0x1234;
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.ecn,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Ipv6Extensions::default())
            }
            _ => panic!("addresses of two families"),
        }
    }

    /// The packet in an Ethernet frame.
    pub fn frame(&self, destination: MacAddr, source: MacAddr) -> Vec<u8> {
        ethernet(destination, source, self.family().ether_type(), &self.build())
    }
}

fn write_segment(step: PacketBuilderStep<IpHeaders>, segment: &Segment, bytes: &mut Vec<u8>) {
    let (from, to) = segment.ports;
    let mut tcp = step.tcp(from, to, segment.sequence, segment.window);
    if let Some(acknowledgment) = segment.acknowledgment {
        tcp = tcp.ack(acknowledgment);
    }
    if segment.syn {
        tcp = tcp.syn();
    }
    if segment.fin {
        tcp = tcp.fin();
    }
    if segment.rst {
        tcp = tcp.rst();
    }
    let tcp = tcp.options_raw(&segment.options).unwrap();
    tcp.write(bytes, &segment.data).unwrap();
}

/// An SCTP packet of one chunk (RFC 9260), its CRC32c computed bit by bit.
fn sctp((from, to): (u16, u16), data: &[u8]) -> Vec<u8> {
    let mut packet = [
        &from.to_be_bytes()[..],
        &to.to_be_bytes(),
        &[1, 2, 3, 4],
        &[0; 4],
        data,
    ]
    .concat();
    let mut remainder = u32::MAX;
    for byte in &packet {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            remainder = remainder >> 1 ^ if remainder & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    packet[8..12].copy_from_slice(&(!remainder).to_le_bytes());
    packet
}

/// A UDP-Lite datagram: its pseudo-header has the length of all of it, whatever the checksum covers (RFC 3828 section 3.1).
fn udp_lite(
    (source, destination): (IpAddr, IpAddr),
    (from, to): (u16, u16),
    coverage: u16,
    data: &[u8],
) -> Vec<u8> {
    let address = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let header = [from, to, coverage, 0].map(u16::to_be_bytes).concat();
    let mut datagram = [&header[..], data].concat();
    let covered = if coverage == 0 {
        datagram.len()
    } else {
        coverage.into()
    };
    let len = u32::try_from(datagram.len()).unwrap();
    let mut summed = [
        address(source),
        address(destination),
        len.to_be_bytes().to_vec(),
        vec![0, 136],
        datagram[..covered].to_vec(),
    ]
    .concat();
    summed.resize(summed.len().next_multiple_of(2), 0);
    let words = summed
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    // Zero is no checksum, and all of a datagram's is needed (the same section).
    let checksum = if checksum == 0 { u16::MAX } else { checksum };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    datagram
}

/// An Ethernet frame.
pub fn ethernet(destination: MacAddr, source: MacAddr, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.0[..], &source.0, &ether_type.to_be_bytes(), payload].concat()
}

/// The outer header of a tunnel packet to be built.
#[derive(Debug, Clone)]
pub struct Outer {
    pub destination_mac: MacAddr,
    pub source_mac: MacAddr,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub id: u16,
    pub ecn: u8,
}

impl Outer {
    fn ip(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(protocol, (source.octets(), destination.octets()), payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.ecn,
                    payload_length: u16::try_from(payload.len()).unwrap(),
                    next_header: IpNumber(protocol),
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                let bytes = [&header.to_bytes()[..], payload].concat();
                ethernet(self.destination_mac, self.source_mac, IPV6, &bytes)
            }
            _ => panic!("addresses of two families"),
        }
    }

    fn ipv4(&self, protocol: u8, (source, destination): ([u8; 4], [u8; 4]), payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap();
        let mut header = Ipv4Header::new(len, 64, IpNumber(protocol), source, destination).unwrap();
        header.identification = self.id;
        header.dont_fragment = false;
        header.ecn = IpEcn::try_new(self.ecn).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        bytes.extend(payload);
        ethernet(self.destination_mac, self.source_mac, IPV4, &bytes)
    }

    /// `inner`, an Ethernet frame, in VXLAN.
    pub fn vxlan(&self, (from, to): (u16, u16), vni: u32, inner: &[u8]) -> Vec<u8> {
        let header = [0x0800_0000_u32.to_be_bytes(), (vni << 8).to_be_bytes()].concat();
        self.udp((from, to), &[&header, inner].concat())
    }

    /// A UDP datagram; over IPv4 without a checksum.
    pub fn udp(&self, (from, to): (u16, u16), payload: &[u8]) -> Vec<u8> {
        let udp = UdpHeader {
            source_port: from,
            destination_port: to,
            length: u16::try_from(payload.len() + 8).unwrap(),
            checksum: 0,
        };
        with_udp_checksum_v6(self.ip(17, &[&udp.to_bytes()[..], payload].concat()))
    }

    /// `inner`, an IPv4 packet, in IP-in-IP, which takes over TTL and "don't fragment" of it.
    pub fn ipip(&self, inner: &[u8]) -> Vec<u8> {
        let packet = self.ip(4, inner);
        match inner {
            [_, _, _, _, _, _, flags, _, ttl, ..] => {
                let packet = patch_ipv4(packet, 20, &[flags & 0x40]);
                patch_ipv4(packet, 22, &[*ttl])
            }
            _ => packet,
        }
    }
}

/// The frame with the checksum of its UDP datagram computed anew, if it is an IPv6 packet without extension headers.
pub fn with_udp_checksum_v6(frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] != IPV6.to_be_bytes() || frame[20] != 17 {
        return frame;
    }
    let (ip, rest) = Ipv6Header::from_slice(&frame[14..]).unwrap();
    let header = UdpHeader {
        source_port: u16::from_be_bytes([rest[0], rest[1]]),
        destination_port: u16::from_be_bytes([rest[2], rest[3]]),
        length: u16::from_be_bytes([rest[4], rest[5]]),
        checksum: 0,
    };
    let checksum = header.calc_checksum_ipv6(&ip, &rest[8..]).unwrap();
    patch(frame.clone(), 60, &checksum.to_be_bytes())
}

/// An ARP packet in an Ethernet frame.
pub struct ArpPacket {
    pub operation: u16,
    pub sender: (MacAddr, Ipv4Addr),
    pub target: (MacAddr, Ipv4Addr),
}

impl ArpPacket {
    pub fn frame(&self, destination: MacAddr, source: MacAddr) -> Vec<u8> {
        let body = [
            &[0, 1, 8, 0, 6, 4][..],
            &self.operation.to_be_bytes(),
            &self.sender.0.0,
            &self.sender.1.octets(),
            &self.target.0.0,
            &self.target.1.octets(),
        ];
        ethernet(destination, source, ARP, &body.concat())
    }
}

/// Writes `bytes` over a packet from `at` on.
pub fn patch(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

/// Writes `bytes` over an IPv4 frame from `at` on, and makes the checksum of its (outermost) header right again.
pub fn patch_ipv4(frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = patch(patch(frame, at, bytes), 24, &[0, 0]);
    let header_len = usize::from(frame[14] & 15) * 4;
    let sum: u32 = frame[14..14 + header_len]
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Where the payload of an IP packet begins in a frame.
pub fn payload_at(family: Family) -> usize {
    if family == Family::V4 { 34 } else { 54 }
}

/// A part of a packet as a piece of it; `frame` is the whole packet's.
pub fn cut(family: Family, frame: &[u8], part: Range<usize>, more: bool) -> Vec<u8> {
    let protocol = frame[if family == Family::V4 { 23 } else { 20 }];
    raw_piece(
        family,
        frame,
        protocol,
        &frame[payload_at(family)..][part.clone()],
        (part.start, more),
    )
}

/// A piece with any bytes, under the headers of a whole packet's frame.
pub fn raw_piece(
    family: Family,
    frame: &[u8],
    protocol: u8,
    bytes: &[u8],
    (start, more): (usize, bool),
) -> Vec<u8> {
    let start = u16::try_from(start).unwrap();
    let headers = &frame[..payload_at(family)];
    match family {
        Family::V4 => {
            let piece = patch([headers, bytes].concat(), 23, &[protocol]);
            let len = u16::try_from(piece.len() - 14).unwrap().to_be_bytes();
            let offset = ((start / 8) | (u16::from(more) << 13)).to_be_bytes();
            patch_ipv4(patch_ipv4(piece, 16, &len), 20, &offset)
        }
        Family::V6 => {
            let offset = (start | u16::from(more)).to_be_bytes();
            let fragment = [&[protocol, 0][..], &offset, &[0, 0, 0x77, 7]].concat();
            let piece = patch([headers, &fragment, bytes].concat(), 20, &[44]);
            let len = u16::try_from(piece.len() - 54).unwrap().to_be_bytes();
            patch(piece, 18, &len)
        }
    }
}
