//! `exit`: what a frame gets on its way out: a tag, or the headers of a tunnel.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::outer::{VXLAN_LEN, VXLAN_V6_LEN};
use millrace_dataplane::table::{HashKey, NetworkId, NodeTables, OuterHeader, RemoteExit, Segment};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::checksum::Sum;
use millrace_dataplane::wire::{Ecn, EtherType, IpProtocol, eth};

use super::admit::tag;
use crate::encap::{Inner, Wrapper, push};

/// Offsets into a frame with an IP packet, in bytes.
const IP: usize = eth::HEADER_LEN;
const V4_ADDRESSES: usize = IP + 12;
const V4_END: usize = IP + 20;
const V6_ADDRESSES: usize = IP + 8;
const V6_END: usize = IP + 40;
/// First byte of an IPv4 header without options, and what of its flags and offset says that it is a piece.
const V4_PLAIN: u8 = 0x45;
const V4_PIECE: u16 = 0x3fff;

/// Finishes a frame for a member's port.
#[inline]
pub(super) fn to_port(
    tables: &NodeTables,
    network: NetworkId,
    port: PortId,
    frame: &mut Frame,
) -> Result<PortId, Exit> {
    let member = tables.networks.member(port);
    let vlan = member
        .and_then(|member| member.tag(network))
        .ok_or(DropReason::PortGone)?;
    let facts = tables.ports.get(port).ok_or(DropReason::PortGone)?;
    if frame.len() > eth::HEADER_LEN + usize::from(facts.mtu) {
        return Err(DropReason::BridgeTooBig.into());
    }
    if let Some(vlan) = vlan {
        tag(frame, vlan)?;
    }
    Ok(port)
}

/// Finishes a frame for another node.
#[inline]
pub(super) fn to_remote(
    wrapper: &mut Wrapper,
    segment: &Segment,
    exit: &RemoteExit,
    frame: &mut Frame,
) -> Result<PortId, Exit> {
    if frame.len() > eth::HEADER_LEN + usize::from(segment.mtu) {
        return Err(DropReason::BridgeTooBig.into());
    }
    let outer = exit.outer().ok_or(DropReason::BridgeUnresolved)?;
    let bytes = frame.bytes();
    let (own, _) = bytes
        .split_first_chunk::<{ eth::HEADER_LEN }>()
        .ok_or(DropReason::NoRoom)?;
    let own = *own;
    let inner = Inner {
        // INVARIANT: at most a segment's MTU.
        len: u16::try_from(bytes.len() - eth::HEADER_LEN).map_err(|_| DropReason::BridgeTooBig)?,
        ecn: inner_ecn(bytes).unwrap_or(Ecn::NotEct),
        ether_type: EtherType(0),
        flow: flow_of(wrapper.key(), bytes),
    };
    let (fields, source_port) = (wrapper.fields(&inner), inner.source_port());
    frame.set_lane(source_port);
    // The templates end in an Ethernet header of zeros, in whose place the frame's own goes.
    match outer {
        OuterHeader::VxlanV4(template) => {
            let header = push::<VXLAN_LEN, { VXLAN_LEN - eth::HEADER_LEN }>(frame)?;
            template.emit(header, fields, source_port, inner.ether_type);
            put_back(header, own);
        }
        OuterHeader::VxlanV6(template) => {
            let sum = Sum::ZERO.add_bytes(frame.bytes());
            let header = push::<VXLAN_V6_LEN, { VXLAN_V6_LEN - eth::HEADER_LEN }>(frame)?;
            template.emit(header, fields, source_port, inner.ether_type, sum);
            put_back(header, own);
        }
        // None is made for a segment.
        OuterHeader::Ipip(_) => return Err(DropReason::BridgeUnresolved.into()),
    }
    Ok(exit.port())
}

/// Writes the frame's own Ethernet header over that of a template, which ends in it.
#[inline]
fn put_back(header: &mut [u8], own: [u8; eth::HEADER_LEN]) {
    if let Some(last) = header.last_chunk_mut() {
        *last = own;
    }
}

/// The ECN field of the IP packet in a frame, if there is one.
#[inline]
pub(super) fn inner_ecn(frame: &[u8]) -> Option<Ecn> {
    let [version, next] = *frame.get(IP..)?.first_chunk()?;
    match (ether_type(frame)?, version >> 4) {
        (EtherType::IPV4, 4) => Some(Ecn::from_bits(next)),
        (EtherType::IPV6, 6) => Some(Ecn::from_bits(next >> 4)),
        _ => None,
    }
}

fn ether_type(frame: &[u8]) -> Option<EtherType> {
    let bytes = frame.get(eth::HEADER_LEN - 2..)?.first_chunk()?;
    Some(EtherType(u16::from_be_bytes(*bytes)))
}

/// The hash of a frame's flow: of addresses and ports of an IP packet that is whole, of the link addresses otherwise.
fn flow_of(key: &HashKey, frame: &[u8]) -> u64 {
    let found = match ether_type(frame) {
        Some(EtherType::IPV4) => flow_v4(key, frame),
        Some(EtherType::IPV6) => flow_v6(key, frame),
        _ => None,
    };
    found.unwrap_or_else(|| {
        let (ends, _) = frame.split_at(frame.len().min(2 * eth::MAC_LEN));
        let first = ends.first_chunk().map_or(0, |first| u64::from_ne_bytes(*first));
        let last = ends.last_chunk().map_or(0, |last| u64::from_ne_bytes(*last));
        key.hash([first, last])
    })
}

fn flow_v4(key: &HashKey, frame: &[u8]) -> Option<u64> {
    let addresses = u64::from_ne_bytes(*frame.get(V4_ADDRESSES..)?.first_chunk()?);
    let pieces = u16::from_be_bytes(*frame.get(IP + 6..)?.first_chunk()?);
    let protocol = *frame.get(IP + 9)?;
    let is_whole = frame.get(IP) == Some(&V4_PLAIN) && pieces & V4_PIECE == 0;
    let ports = if is_whole {
        ports(frame, V4_END, protocol)
    } else {
        0
    };
    Some(key.hash([addresses, ports << 8 | u64::from(protocol)]))
}

fn flow_v6(key: &HashKey, frame: &[u8]) -> Option<u64> {
    let addresses = frame.get(V6_ADDRESSES..V6_END)?;
    let (words, _) = addresses.as_chunks::<8>();
    let [a, b, c, d] = *words else { return None };
    let protocol = *frame.get(IP + 6)?;
    let [a, b, c, d] = [a, b, c, d].map(u64::from_ne_bytes);
    let ports = ports(frame, V6_END, protocol);
    Some(key.hash([a, b, c, d, ports << 8 | u64::from(protocol)]))
}

/// The ports of a transport that has some.
fn ports(frame: &[u8], at: usize, protocol: u8) -> u64 {
    let ports = frame.get(at..).and_then(|ports| ports.first_chunk());
    match ports {
        Some(ports) if IpProtocol(protocol).has_ports() => u64::from(u32::from_be_bytes(*ports)),
        _ => 0,
    }
}
