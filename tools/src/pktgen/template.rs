//! What a generator sends: UDP over IPv4 over Ethernet, plain or in a tunnel.
//!
//! The packet is built once, with etherparse, and so by other code than the switch's own. For each packet sent, its
//! bytes are copied and stamped with a flow and a mark; checksums are carried along (RFC 1624).

use std::net::Ipv4Addr;

use etherparse::{IpNumber, PacketBuilder};
use millrace_dataplane::frame::MAX_PACKET_LEN;
use millrace_dataplane::wire::checksum::Delta;
use millrace_dataplane::wire::{
    EthernetMut, Ipv4Mut, MacAddr, Malformed, UdpMut, Vni, eth, ipip, ipv4, udp, vxlan,
};

use super::flows::{Flow, Flows};
use super::marker::{MARKER_LEN, Marker, SEQUENCE_AT};

/// TTL of everything a generator sends: the kernel's default.
const TTL: u8 = 64;

/// Length of the headers before the mark, without a tunnel, in bytes.
const HEADERS_LEN: usize = eth::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;

/// The shortest frame that a generator sends, in bytes: Ethernet's own minimum, which has room for a mark.
pub const SHORTEST: usize = eth::MIN_FRAME_LEN;
const _: () = assert!(SHORTEST >= HEADERS_LEN + MARKER_LEN);

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
    /// The frame is too short or too long.
    #[error("frames of {len} bytes, tunnel included: {shortest} to {longest} would be right")]
    Length {
        /// Length asked for, with the tunnel's headers.
        len: usize,
        /// The shortest that can be.
        shortest: usize,
        /// The longest that fits a frame of packet memory.
        longest: usize,
    },
    /// The packet was built, and is not what it should be.
    #[error("the packet cannot be built: {0}")]
    Build(String),
}

/// A packet ready to be copied and stamped.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the inner IPv4 header stands, in bytes.
    ip_at: usize,
    /// Where the outer UDP header of a VXLAN packet stands, in bytes.
    outer_udp_at: Option<usize>,
    flows: Flows,
    run: u16,
}

impl Template {
    /// Builds a packet of this shape.
    ///
    /// # Errors
    /// [`TemplateError`] for a length that no frame can have.
    pub fn new(shape: &Shape) -> Result<Self, TemplateError> {
        let grown = match shape.outer.map(|outer| outer.tunnel) {
            None => 0,
            Some(Tunnel::Vxlan { .. }) => vxlan::PUSH_LEN_IPV4,
            Some(Tunnel::Ipip) => ipip::PUSH_LEN - eth::HEADER_LEN,
        };
        let len = shape.frame_len.saturating_add(grown);
        if shape.frame_len < SHORTEST || len > MAX_PACKET_LEN {
            let shortest = SHORTEST + grown;
            return Err(TemplateError::Length {
                len,
                shortest,
                longest: MAX_PACKET_LEN,
            });
        }
        let bytes = build(shape).map_err(|error| TemplateError::Build(error.to_string()))?;
        let vxlan_udp = eth::HEADER_LEN + ipv4::HEADER_LEN;
        let (ip_at, outer_udp_at) = match shape.outer.map(|outer| outer.tunnel) {
            None => (eth::HEADER_LEN, None),
            Some(Tunnel::Vxlan { .. }) => (grown + eth::HEADER_LEN, Some(vxlan_udp)),
            Some(Tunnel::Ipip) => (ipip::PUSH_LEN, None),
        };
        let template = Self {
            bytes,
            ip_at,
            outer_udp_at,
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

    /// The packet with flow 0 and sequence number 0.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The flows.
    #[must_use]
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// All that is not the same payload in every packet, in bytes from the start.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        let end = self.ip_at + ipv4::HEADER_LEN + udp::HEADER_LEN + MARKER_LEN;
        self.bytes.get(..end).unwrap_or(&self.bytes)
    }

    /// Makes a copy of the template ([`Self::bytes`], or one whose [`Self::head`] was written anew) a packet of its own.
    ///
    /// # Errors
    /// [`Malformed`] if `packet` is no copy of the template.
    #[inline]
    pub fn stamp(&self, packet: &mut [u8], flow: u32, sequence: u64) -> Result<(), Malformed> {
        let Flow {
            source,
            destination,
            ports,
        } = self.flows.flow(flow);
        if let Some(at) = self.outer_udp_at {
            let mut outer = UdpMut::parse(packet.get_mut(at..).unwrap_or_default())?;
            outer.set_source_port(OUTER_SOURCE_PORT_FIRST + spread(flow));
        }
        let mut ip = Ipv4Mut::parse(packet.get_mut(self.ip_at..).unwrap_or_default())?;
        let changed = ip.set_source(source).and(ip.set_destination(destination));
        let mut datagram = UdpMut::parse(ip.payload_mut())?;
        datagram.set_source_port(ports.source);
        datagram.set_destination_port(ports.destination);
        if let Some(mark) = datagram.payload_mut().first_chunk_mut() {
            *mark = Marker {
                run: self.run,
                sequence,
            }
            .to_bytes();
        }
        // The template's own sequence number is 0. Both halves stand at even places of the datagram.
        const { assert!(SEQUENCE_AT.is_multiple_of(2)) };
        #[allow(clippy::cast_possible_truncation)] // INVARIANT: the halves of 64 bits.
        let (high, low) = ((sequence >> 32) as u32, sequence as u32);
        datagram.adjust_checksum(changed.and(Delta::u32(0, high)).and(Delta::u32(0, low)));
        Ok(())
    }
}

/// A number below [`OUTER_SOURCE_PORTS`] for a flow: neighbouring flows lie far apart.
#[inline]
fn spread(flow: u32) -> u16 {
    // INVARIANT: the upper 14 bits of 32 (the factor is 2^32 divided by the golden ratio).
    #[allow(clippy::cast_possible_truncation)]
    let number = (flow.wrapping_mul(0x9e37_79b9) >> (u32::BITS - OUTER_SOURCE_PORTS.trailing_zeros())) as u16;
    number
}

/// Builds the packet of flow 0 with sequence number 0.
fn build(shape: &Shape) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let Flow {
        source,
        destination,
        ports,
    } = shape.flows.flow(0);
    let mut payload = vec![0; shape.frame_len - HEADERS_LEN];
    if let Some(mark) = payload.first_chunk_mut() {
        *mark = Marker {
            run: shape.run,
            sequence: 0,
        }
        .to_bytes();
    }
    let inner_link = match shape.outer.map(|outer| outer.tunnel) {
        Some(Tunnel::Vxlan { inner, .. }) => inner,
        Some(Tunnel::Ipip) | None => shape.link,
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(inner_link.source.octets(), inner_link.destination.octets())
        .ipv4(source.octets(), destination.octets(), TTL)
        .udp(ports.source, ports.destination)
        .write(&mut frame, &payload)?;
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::flows::FlowSpace;
    use super::super::marker::{Wrapping, recognise};
    use super::*;
    use etherparse::SlicedPacket;

    const LINK: Link = Link {
        source: MacAddr([2, 0, 0, 0, 0, 1]),
        destination: MacAddr([2, 0, 0, 0, 0, 2]),
    };

    fn flows(count: u32) -> Flows {
        let space = FlowSpace {
            sources: "10.244.1.2".parse().unwrap(),
            destinations: "10.244.2.0-10.244.2.255".parse().unwrap(),
            source_ports: "1024-65535".parse().unwrap(),
            destination_ports: "9".parse().unwrap(),
        };
        Flows::new(space, count).unwrap()
    }

    fn outer(tunnel: Tunnel) -> Outer {
        let source = Ipv4Addr::new(192, 0, 2, 1);
        Outer {
            source,
            destination: Ipv4Addr::new(192, 0, 2, 2),
            tunnel,
        }
    }

    fn vxlan() -> Tunnel {
        Tunnel::Vxlan {
            inner: LINK,
            vni: Vni::try_from(1).unwrap(),
            port: vxlan::LINUX_PORT,
        }
    }

    fn shape(outer: Option<Outer>, frame_len: usize, count: u32) -> Shape {
        Shape {
            link: LINK,
            outer,
            flows: flows(count),
            frame_len,
            run: 0xbeef,
        }
    }

    #[test]
    fn every_stamped_packet_is_whole_and_carries_its_flow_and_number() {
        let rows = [
            (None, Wrapping::Plain, 0),
            (Some(outer(vxlan())), Wrapping::Vxlan, 50),
            (Some(outer(Tunnel::Ipip)), Wrapping::Ipip, 20),
        ];
        for (outer, wrapping, grown) in rows {
            for len in [SHORTEST, 64, 65, 1500] {
                let template = Template::new(&shape(outer, len, 65_536)).unwrap();
                assert_eq!(template.bytes().len(), len + grown);
                for (flow, sequence) in [(0, 0), (1, 1), (65_535, 0x1234_5678_9abc_def0), (777, u64::MAX)] {
                    let mut packet = template.bytes().to_vec();
                    template.stamp(&mut packet, flow, sequence).unwrap();
                    let found = recognise(&packet).unwrap();
                    let marker = Marker {
                        run: 0xbeef,
                        sequence,
                    };
                    let case = format!("{wrapping:?}, {len} bytes, flow {flow}");
                    assert_eq!(
                        found,
                        super::super::marker::Recognised {
                            marker,
                            wrapping,
                            is_intact: true
                        },
                        "{case}"
                    );
                    let ip = etherparse::Ipv4Slice::from_slice(&packet[template.ip_at..]).unwrap();
                    let expected = template.flows().flow(flow);
                    assert_eq!(ip.header().destination_addr(), expected.destination, "{case}");
                    let ports = etherparse::UdpHeaderSlice::from_slice(ip.payload().payload).unwrap();
                    assert_eq!(ports.source_port(), expected.ports.source, "{case}");
                    assert!(SlicedPacket::from_ethernet(&packet).is_ok(), "{case}");
                }
            }
        }
    }

    #[test]
    fn a_packet_whose_head_is_written_anew_can_be_stamped_again() {
        let template = Template::new(&shape(Some(outer(vxlan())), 200, 256)).unwrap();
        let (mut twice, mut once) = (template.bytes().to_vec(), template.bytes().to_vec());
        template.stamp(&mut twice, 9, 9).unwrap();
        twice[..template.head().len()].copy_from_slice(template.head());
        template.stamp(&mut twice, 200, 200).unwrap();
        template.stamp(&mut once, 200, 200).unwrap();
        assert_eq!(twice, once);
    }

    #[test]
    fn damage_shows_and_strangers_are_not_recognised() {
        let template = Template::new(&shape(None, 100, 1)).unwrap();
        let mut packet = template.bytes().to_vec();
        packet[99] ^= 1;
        assert!(!recognise(&packet).unwrap().is_intact);
        packet[HEADERS_LEN] ^= 1;
        assert_eq!(recognise(&packet), None, "no magic number");
        for len in 0..HEADERS_LEN + MARKER_LEN {
            assert_eq!(recognise(&template.bytes()[..len]), None, "cut to {len} bytes");
        }
    }

    #[test]
    fn lengths_that_no_frame_has_are_refused() {
        for (outer, len) in [
            (None, SHORTEST - 1),
            (None, MAX_PACKET_LEN + 1),
            (Some(outer(vxlan())), MAX_PACKET_LEN - 49),
            (None, usize::MAX),
        ] {
            let refused = Template::new(&shape(outer, len, 1)).unwrap_err();
            assert!(
                matches!(refused, TemplateError::Length { .. }),
                "{len}: {refused}"
            );
        }
    }

    #[test]
    fn flows_of_a_tunnel_spread_over_its_source_ports() {
        let ports: std::collections::HashSet<u16> = (0..4096).map(spread).collect();
        assert!(ports.len() > 3500, "{} ports for 4096 flows", ports.len());
        assert!(ports.iter().all(|port| *port < OUTER_SOURCE_PORTS));
    }
}
