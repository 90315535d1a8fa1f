//! What a generator sends: UDP, TCP or ICMP over IPv4 or IPv6 over Ethernet, plain or in a tunnel.
//!
//! The packet is built once, with etherparse, and so by other code than the switch's own. For each packet sent, its
//! bytes are copied and stamped with a flow and a mark; checksums are carried along (RFC 1624).

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{IpNumber, PacketBuilder};
use millrace_dataplane::frame::MAX_PACKET_LEN;
use millrace_dataplane::wire::checksum::Delta;
use millrace_dataplane::wire::{
    EthernetMut, Ipv4Mut, Ipv6Mut, MacAddr, Malformed, Ports, UdpMut, Vni, eth, ipip, ipv4, ipv6, udp, vxlan,
};

use super::flows::{Flow, Flows};
use super::marker::{MARKER_LEN, Marker};
use super::protocol::Protocol;
use super::stamp::{Prepared, Stamp};

/// TTL and hop limit of everything a generator sends: the kernel's default.
const TTL: u8 = 64;

/// The shortest frame that a generator sends, in bytes: Ethernet's own minimum, which has room for IPv4, UDP and a mark.
pub const SHORTEST: usize = eth::MIN_FRAME_LEN;
const _: () = assert!(SHORTEST >= eth::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + MARKER_LEN);

/// The first outer UDP source port of a VXLAN packet (RFC 7348 section 5 recommends the dynamic range).
const OUTER_SOURCE_PORT_FIRST: u16 = 49152;
/// How many of them there are; a power of two.
const OUTER_SOURCE_PORTS: u16 = 16384;

/// The ends of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Source MAC address.
    pub source: MacAddr,
    /// Destination MAC address.
    pub destination: MacAddr,
}

/// What a packet is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// VXLAN over IPv4 (RFC 7348), with no outer UDP checksum.
    Vxlan {
        /// The inner Ethernet header's addresses.
        inner: Link,
        /// The network.
        vni: Vni,
        /// The outer UDP destination port.
        port: u16,
    },
    /// IP in IP (RFC 2003).
    Ipip,
}

/// A tunnel and its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// Outer source address.
    pub source: Ipv4Addr,
    /// Outer destination address.
    pub destination: Ipv4Addr,
    /// Which tunnel.
    pub tunnel: Tunnel,
}

/// What a packet looks like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The first Ethernet header's addresses.
    pub link: Link,
    /// The tunnel, if there is one.
    pub outer: Option<Outer>,
    /// The flows.
    pub flows: Flows,
    /// Length of the frame in bytes, from its Ethernet header to the end of its payload. A tunnel's headers come on
    /// top, as they do when a node wraps a pod's frame.
    pub frame_len: usize,
    /// The run, which stands in every mark.
    pub run: u16,
}

/// Why packets of some shape cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The frame is too short for its headers and a mark, or too long.
    #[error(
        "frames of {len} bytes, tunnel included: {shortest} to {longest} would be right (headers, {MARKER_LEN} bytes of \
         sequence number, time stamp and checksum; and what a frame of packet memory holds)"
    )]
    Length {
        /// Length asked for, with the tunnel's headers.
        len: usize,
        /// The shortest that can be.
        shortest: usize,
        /// The longest that fits a frame of packet memory.
        longest: usize,
    },
    /// IP-in-IP with anything but IPv4 in it.
    #[error(
        "IPv6 flows in an IPIP tunnel: RFC 2003 puts IPv4 into IPv4; IPv4 flows, or VXLAN, would be right"
    )]
    Family,
    /// The packet was built, and is not what it should be.
    #[error("the packet cannot be built: {0}")]
    Build(String),
}

/// A packet ready to be copied and stamped.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the inner IP header stands, in bytes.
    ip_at: usize,
    /// Where the ports, or what stands for them, are.
    ports_at: usize,
    /// The flow of the bytes.
    first: Flow,
    /// Where the outer UDP header of a VXLAN packet stands, in bytes.
    outer_udp_at: Option<usize>,
    protocol: Protocol,
    flows: Flows,
    stamp: Prepared,
    run: u16,
}

/// The shortest frame with these headers and a mark, in bytes, without a tunnel.
#[must_use]
pub fn shortest(flows: &Flows, protocol: Protocol) -> usize {
    let ip = if flows.is_ipv4() {
        ipv4::HEADER_LEN
    } else {
        ipv6::HEADER_LEN
    };
    SHORTEST.max(eth::HEADER_LEN + ip + protocol.header_len() + MARKER_LEN)
}

impl Template {
    /// Builds a UDP packet of this shape.
    ///
    /// # Errors
    /// [`TemplateError`] for a length that no frame can have.
    pub fn new(shape: &Shape) -> Result<Self, TemplateError> {
        Self::of(shape, Protocol::Udp)
    }

    /// Builds a packet of this shape and protocol.
    ///
    /// # Errors
    /// [`TemplateError`] for a length that no frame can have, or IPv6 in IPIP.
    pub fn of(shape: &Shape, protocol: Protocol) -> Result<Self, TemplateError> {
        let tunnel = shape.outer.map(|outer| outer.tunnel);
        let grown = match tunnel {
            None => 0,
            Some(Tunnel::Vxlan { .. }) => vxlan::PUSH_LEN_IPV4,
            Some(Tunnel::Ipip) => ipip::PUSH_LEN - eth::HEADER_LEN,
        };
        if tunnel == Some(Tunnel::Ipip) && !shape.flows.is_ipv4() {
            return Err(TemplateError::Family);
        }
        let len = shape.frame_len.saturating_add(grown);
        let shortest = shortest(&shape.flows, protocol);
        if shape.frame_len < shortest || len > MAX_PACKET_LEN {
            return Err(TemplateError::Length {
                len,
                shortest: shortest + grown,
                longest: MAX_PACKET_LEN,
            });
        }
        let bytes = build(shape, protocol).map_err(|error| TemplateError::Build(error.to_string()))?;
        let vxlan_udp = eth::HEADER_LEN + ipv4::HEADER_LEN;
        let (ip_at, outer_udp_at) = match tunnel {
            None => (eth::HEADER_LEN, None),
            Some(Tunnel::Vxlan { .. }) => (grown + eth::HEADER_LEN, Some(vxlan_udp)),
            Some(Tunnel::Ipip) => (ipip::PUSH_LEN, None),
        };
        let l4_at =
            ip_at + shape.frame_len - eth::HEADER_LEN - payload_len(shape, protocol) - protocol.header_len();
        let stamp = Stamp {
            mark_at: l4_at + protocol.header_len(),
            end: bytes.len(),
            checksum_at: l4_at + protocol.checksum_at(),
            is_udp: protocol == Protocol::Udp,
        };
        let template = Self {
            stamp: stamp.prepared(&bytes),
            bytes,
            ip_at,
            ports_at: l4_at + protocol.ports_at(),
            first: shape.flows.flow(0),
            outer_udp_at,
            protocol,
            flows: shape.flows,
            run: shape.run,
        };
        // Whatever cannot be stamped shows here, once, and not packet by packet.
        let mut probe = template.bytes.clone();
        template
            .stamp(&mut probe, 0, 0)
            .map_err(|error| TemplateError::Build(error.to_string()))?;
        Ok(template)
    }

    /// The packet with flow 0, sequence number 0 and time 0.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The flows.
    #[must_use]
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> u16 {
        self.run
    }

    /// The same packets, of another run.
    pub fn set_run(&mut self, run: u16) {
        self.run = run;
    }

    /// All that is not the same payload in every packet, in bytes from the start.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        let end = self.stamp.mark_at + MARKER_LEN;
        self.bytes.get(..end).unwrap_or(&self.bytes)
    }

    /// Makes a copy of the template ([`Self::bytes`], or one whose [`Self::head`] was written anew) a packet of its own.
    ///
    /// # Errors
    /// [`Malformed`] if `packet` is no copy of the template.
    #[inline]
    pub fn stamp(&self, packet: &mut [u8], flow: u32, sequence: u64) -> Result<(), Malformed> {
        self.stamp_at(packet, flow, sequence, 0)
    }

    /// The same, with the time at which it is due ([`now_ns`](super::now_ns)).
    ///
    /// # Errors
    /// [`Malformed`] if `packet` is no copy of the template.
    #[inline]
    pub fn stamp_at(&self, packet: &mut [u8], flow: u32, sequence: u64, time: u64) -> Result<(), Malformed> {
        let flow_number = flow;
        let flow = self.flows.flow(flow_number);
        if let Some(at) = self.outer_udp_at {
            let mut outer = UdpMut::parse(packet.get_mut(at..).unwrap_or_default())?;
            outer.set_source_port(OUTER_SOURCE_PORT_FIRST + spread(flow_number));
        }
        let header = packet.get_mut(self.ip_at..).unwrap_or_default();
        let addresses = match (flow.source, flow.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = Ipv4Mut::parse(header)?;
                ip.set_source(source).and(ip.set_destination(destination))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ip = Ipv6Mut::parse(header)?;
                ip.set_source(source).and(ip.set_destination(destination))
            }
            // INVARIANT: flows are of one family.
            _ => Delta::ZERO,
        };
        let covered = if self.protocol == (Protocol::Icmp) && self.flows.is_ipv4() {
            Delta::ZERO
        } else {
            addresses
        };
        let ports = write_ports(packet, self.ports_at, self.first.ports, flow.ports)?;
        let marker = Marker {
            run: self.run,
            sequence,
            time,
        };
        self.stamp.write(packet, marker, covered.and(ports))
    }
}

/// Writes the ports where the template has `old` ones.
#[inline]
fn write_ports(packet: &mut [u8], at: usize, old: Ports, new: Ports) -> Result<Delta, Malformed> {
    let field = packet.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>());
    let word = |ports: Ports| u32::from(ports.source) << 16 | u32::from(ports.destination);
    *field.ok_or(Malformed::PortsTruncated)? = word(new).to_be_bytes();
    Ok(Delta::u32(word(old), word(new)))
}

/// A number below [`OUTER_SOURCE_PORTS`] for a flow: neighbouring flows lie far apart.
#[inline]
fn spread(flow: u32) -> u16 {
    // INVARIANT: the upper 14 bits of 32 (the factor is 2^32 divided by the golden ratio).
    #[allow(clippy::cast_possible_truncation)]
    let number = (flow.wrapping_mul(0x9e37_79b9) >> (u32::BITS - OUTER_SOURCE_PORTS.trailing_zeros())) as u16;
    number
}

/// How long the payload is, mark included, in bytes.
fn payload_len(shape: &Shape, protocol: Protocol) -> usize {
    let ip = if shape.flows.is_ipv4() {
        ipv4::HEADER_LEN
    } else {
        ipv6::HEADER_LEN
    };
    shape.frame_len - eth::HEADER_LEN - ip - protocol.header_len()
}

/// Builds the packet of flow 0 with sequence number 0.
fn build(shape: &Shape, protocol: Protocol) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let flow = shape.flows.flow(0);
    let mut payload = vec![0; payload_len(shape, protocol)];
    if let Some((mark, rest)) = payload.split_first_chunk_mut() {
        let marker = Marker {
            run: shape.run,
            ..Marker::default()
        };
        *mark = marker.to_bytes(super::marker::rest_check(rest));
    }
    let inner_link = match shape.outer.map(|outer| outer.tunnel) {
        Some(Tunnel::Vxlan { inner, .. }) => inner,
        Some(Tunnel::Ipip) | None => shape.link,
    };
    let link = PacketBuilder::ethernet2(inner_link.source.octets(), inner_link.destination.octets());
    let frame = match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let ip = link.ipv4(source.octets(), destination.octets(), TTL);
            protocol.write(ip, flow.ports, true, &payload)?
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = link.ipv6(source.octets(), destination.octets(), TTL);
            protocol.write(ip, flow.ports, false, &payload)?
        }
        _ => return Err("addresses of two families".into()),
    };
    match shape.outer {
        None => Ok(frame),
        Some(outer) => wrap(shape.link, outer, &frame),
    }
}

/// Puts a frame into a tunnel.
fn wrap(link: Link, outer: Outer, frame: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let outside = PacketBuilder::ethernet2(link.source.octets(), link.destination.octets()).ipv4(
        outer.source.octets(),
        outer.destination.octets(),
        TTL,
    );
    let mut packet = Vec::new();
    match outer.tunnel {
        Tunnel::Vxlan { vni, port, .. } => {
            let mut header = [0; vxlan::HEADER_LEN];
            vxlan::emit(&mut header, vni);
            outside
                .udp(OUTER_SOURCE_PORT_FIRST, port)
                .write(&mut packet, &[&header, frame].concat())?;
            clear_outer_checksum(&mut packet)?;
        }
        Tunnel::Ipip => {
            let ip = frame.get(eth::HEADER_LEN..).unwrap_or_default();
            outside.write(&mut packet, IpNumber::IPV4, ip)?;
        }
    }
    Ok(packet)
}

/// VXLAN's outer UDP checksum should be zero (RFC 7348 section 5).
fn clear_outer_checksum(packet: &mut [u8]) -> Result<(), Malformed> {
    let mut ip = Ipv4Mut::parse(EthernetMut::parse(packet)?.into_payload())?;
    let field = ip.payload_mut().get_mut(udp::CHECKSUM_OFFSET..udp::HEADER_LEN);
    field.ok_or(Malformed::UdpTruncated)?.fill(0);
    Ok(())
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
