//! What was seen between the nodes, taken apart by etherparse.

use std::net::IpAddr;
use std::path::Path;

use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, NetSlice, SlicedPacket, TransportSlice};

/// Bytes of a VXLAN header.
const VXLAN: usize = 8;

/// A tunnel packet.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The outer header.
    outer: Ip,
    /// Outer identification, if there is one.
    pub(crate) id: Option<u16>,
    /// Source and destination port, and whether there is a checksum, of the datagram in it, if there is one.
    udp: Option<(u16, u16, bool)>,
    /// What is in it.
    inner: Ip,
    is_echo_request: bool,
    /// Whether the outer header's checksum is right.
    is_sum_right: bool,
}

/// What two headers are compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
    len: usize,
    protocol: IpNumber,
    flow_label: u32,
    options: usize,
}

/// What is the same in the headers of two senders of the same packet, the inner and the outer one: all but addresses, ports and
/// what is chosen anew for each packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    inner: (u8, u8, bool, usize, IpNumber),
    outer: (u8, u8, bool, usize, IpNumber),
    options: (usize, usize),
    destination_port: Option<u16>,
}

impl Ip {
    fn fields(&self) -> (u8, u8, bool, usize, IpNumber) {
        (self.tos, self.ttl, self.dont_fragment, self.len, self.protocol)
    }

    /// Reads a header and answers what is behind it.
    fn read<'p>(net: &NetSlice<'p>) -> Option<(Self, &'p [u8], Option<u16>, bool)> {
        match net {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                let read = Self {
                    source: IpAddr::V4(header.source_addr()),
                    destination: IpAddr::V4(header.destination_addr()),
                    tos: header.dcp().value() << 2 | header.ecn().value(),
                    ttl: header.ttl(),
                    dont_fragment: header.dont_fragment(),
                    len: usize::from(header.total_len()),
                    protocol: header.protocol(),
                    flow_label: 0,
                    options: header.options().len(),
                };
                let right = header.to_header().calc_header_checksum() == header.header_checksum();
                Some((read, ip.payload().payload, Some(header.identification()), right))
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                let read = Self {
                    source: IpAddr::V6(header.source_addr()),
                    destination: IpAddr::V6(header.destination_addr()),
                    tos: header.traffic_class(),
                    ttl: header.hop_limit(),
                    dont_fragment: true,
                    len: usize::from(header.payload_length()),
                    protocol: header.next_header(),
                    flow_label: header.flow_label().value(),
                    options: 0,
                };
                Some((read, ip.payload().payload, None, true))
            }
            NetSlice::Arp(_) => None,
        }
    }
}

impl Seen {
    /// Whether it has an echo request from this address in it.
    pub(crate) fn is_request_from(&self, source: IpAddr) -> bool {
        self.is_echo_request && self.inner.source == source
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape {
            inner: self.inner.fields(),
            outer: self.outer.fields(),
            options: (self.inner.options, self.outer.options),
            destination_port: self.udp.map(|(_, port, _)| port),
        }
    }

    /// What the contract says of every such packet, whoever sent it.
    pub(crate) fn assert_sound(&self, from: IpAddr, to: IpAddr) {
        let Self { outer, inner, .. } = self;
        assert_eq!((outer.source, outer.destination), (from, to), "{self:?}");
        assert!(self.is_sum_right, "{self:?}");
        match self.udp {
            None => {
                assert_eq!(outer.len, inner.len + 20, "{self:?}");
                assert_eq!(
                    (outer.ttl, outer.dont_fragment),
                    (inner.ttl, inner.dont_fragment),
                    "{self:?}"
                );
            }
            Some((source, _, has_checksum)) => {
                assert!((32_768..61_000).contains(&source), "{self:?}");
                assert!(has_checksum || outer.source.is_ipv4(), "{self:?}");
                assert_eq!(outer.ttl, 64, "{self:?}");
            }
        }
        // DSCP is not taken over, ECN is (RFC 6040).
        assert_eq!(outer.tos, inner.tos & 3, "{self:?}");
    }
}

/// Reads a capture.
pub(crate) fn read(file: &Path) -> Vec<Seen> {
    let mut capture = pcap::Capture::from_file(file).unwrap();
    let mut seen = Vec::new();
    while let Ok(packet) = capture.next_packet() {
        seen.extend(take_apart(packet.data));
    }
    seen
}

/// Reads a capture of packets that are in no tunnel: from where to where each goes.
pub(crate) fn plain(file: &Path) -> Vec<(IpAddr, IpAddr)> {
    let mut capture = pcap::Capture::from_file(file).unwrap();
    let mut seen = Vec::new();
    while let Ok(packet) = capture.next_packet() {
        let sliced = SlicedPacket::from_ethernet(packet.data).unwrap();
        let ip = sliced.net.as_ref().and_then(Ip::read).map(|(ip, ..)| ip).unwrap();
        seen.push((ip.source, ip.destination));
    }
    seen
}

fn take_apart(frame: &[u8]) -> Option<Seen> {
    // What etherparse would look through by itself is the tunnel.
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (outer, payload, id, is_sum_right) = Ip::read(sliced.net.as_ref()?)?;
    let (udp, inner) = if outer.protocol == IpNumber(4) {
        (None, SlicedPacket::from_ip(payload).ok()?)
    } else {
        let ports = payload.first_chunk::<8>()?;
        let word = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let frame = payload.get(8 + VXLAN..)?;
        let udp = (word(0), word(2), word(6) != 0);
        (Some(udp), SlicedPacket::from_ethernet(frame).ok()?)
    };
    let (ip, ..) = Ip::read(inner.net.as_ref()?)?;
    let is_echo_request = match &inner.transport {
        Some(TransportSlice::Icmpv4(icmp)) => matches!(icmp.icmp_type(), Icmpv4Type::EchoRequest(_)),
        Some(TransportSlice::Icmpv6(icmp)) => matches!(icmp.icmp_type(), Icmpv6Type::EchoRequest(_)),
        _ => false,
    };
    Some(Seen {
        outer,
        id,
        udp,
        inner: ip,
        is_echo_request,
        is_sum_right,
    })
}
