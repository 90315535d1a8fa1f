//! The mark in each packet's payload, by which the receiving end knows its own packets from everybody else's.

use millrace_dataplane::wire::checksum::{addresses_v4, is_transport_valid};
use millrace_dataplane::wire::{EtherType, Ethernet, IpProtocol, Ipv4, Udp, Vxlan, ipip, vxlan};

/// Length of a mark, in bytes: magic number, run, sequence number.
pub const MARKER_LEN: usize = 14;

/// What a mark begins with.
const MAGIC: [u8; 4] = *b"mrpg";

/// Where the run stands in a mark, in bytes.
const RUN_AT: usize = 4;
/// Where the sequence number stands in a mark, in bytes.
pub(crate) const SEQUENCE_AT: usize = 6;

/// The mark of one packet. On the wire: `MAGIC`, run, sequence number, in network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Tells one run of the generator from another, whose packets may still be under way.
    pub run: u16,
    /// Counts the run's packets, from 0.
    pub sequence: u64,
}

impl Marker {
    /// The mark's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; MARKER_LEN] {
        let mut bytes = [0; MARKER_LEN];
        bytes[..RUN_AT].copy_from_slice(&MAGIC);
        bytes[RUN_AT..SEQUENCE_AT].copy_from_slice(&self.run.to_be_bytes());
        bytes[SEQUENCE_AT..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    /// The mark at the start of a payload, if there is one.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; MARKER_LEN] = payload.first_chunk()?;
        let (magic, rest) = bytes.split_first_chunk::<RUN_AT>()?;
        let (run, sequence) = rest.split_first_chunk::<{ SEQUENCE_AT - RUN_AT }>()?;
        let sequence: [u8; 8] = *sequence.first_chunk()?;
        (*magic == MAGIC).then(|| Self {
            run: u16::from_be_bytes(*run),
            sequence: u64::from_be_bytes(sequence),
        })
    }
}

/// What a received packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// As it is.
    Plain,
    /// In VXLAN over IPv4.
    Vxlan,
    /// In IPv4.
    Ipip,
}

/// A packet of a generator, as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised {
    /// Its mark.
    pub marker: Marker,
    /// What it came in.
    pub wrapping: Wrapping,
    /// Whether every checksum in it is right, and a tunnel's outer IPv4 header too.
    pub is_intact: bool,
}

/// Looks for a mark in a frame, in a tunnel too. `None` for everything that is no generator's packet.
#[must_use]
pub fn recognise(frame: &[u8]) -> Option<Recognised> {
    let ethernet = Ethernet::parse(frame).ok()?;
    if ethernet.ether_type() != EtherType::IPV4 {
        return None;
    }
    let outer = Ipv4::parse(ethernet.payload()).ok()?;
    let is_outer_intact = outer.verify_checksum().is_ok();
    let (wrapping, inner) = match outer.protocol() {
        IpProtocol::IPIP => (Wrapping::Ipip, ipip::parse_inner(outer.payload()).ok()?),
        IpProtocol::UDP => match vxlan_inner(outer) {
            Some(inner) => (Wrapping::Vxlan, inner),
            None => (Wrapping::Plain, outer),
        },
        _ => return None,
    };
    let datagram = Udp::parse(inner.payload()).ok()?;
    let marker = Marker::parse(datagram.payload())?;
    let is_inner_intact = inner.verify_checksum().is_ok() && is_datagram_intact(inner, datagram);
    Some(Recognised {
        marker,
        wrapping,
        is_intact: is_outer_intact && is_inner_intact,
    })
}

/// The IPv4 packet in a VXLAN packet.
fn vxlan_inner(outer: Ipv4<'_>) -> Option<Ipv4<'_>> {
    let datagram = Udp::parse(outer.payload()).ok()?;
    if ![vxlan::LINUX_PORT, vxlan::IANA_PORT].contains(&datagram.destination_port()) {
        return None;
    }
    let packet = Vxlan::parse(datagram.payload()).ok()?;
    let ethernet = Ethernet::parse(packet.payload()).ok()?;
    Ipv4::parse(ethernet.payload()).ok()
}

/// Whether a datagram's checksum is right. Its length was checked when it was parsed.
fn is_datagram_intact(ip: Ipv4<'_>, datagram: Udp<'_>) -> bool {
    let addresses = addresses_v4(ip.source(), ip.destination());
    let l4 = ip
        .payload()
        .get(..usize::from(datagram.length()))
        .unwrap_or_default();
    is_transport_valid(addresses, IpProtocol::UDP, l4)
}
