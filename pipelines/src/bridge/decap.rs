//! `decap`: takes a frame of a bridged network out of its tunnel, if a node of that network put it in.
//!
//! An outer UDP checksum is not verified over IPv4, and must be there over IPv6, as for routed packets.

use std::net::IpAddr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::{Location, NetworkId, NodeTables, SegmentTunnel};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{
    Ecn, EtherType, Ethernet, IpProtocol, Ipv4, Ipv6, Udp, Vxlan, eth, ipv6, udp, vxlan,
};

use super::admit::check_addresses;
use super::exit::inner_ecn;
use crate::decap::mark;

/// What a tunnel packet says of itself.
struct Outer<'p> {
    source: IpAddr,
    destination: IpAddr,
    ecn: Ecn,
    /// With options, or extension headers, in bytes.
    header_len: usize,
    payload: &'p [u8],
}

/// The network that a frame from the wire is in, if it is not the cluster's own: by UDP port and VNI alone. All else of a bridged one is
/// [`open`]'s to judge.
#[inline]
pub(crate) fn network_of(tables: &NodeTables, frame: &Frame) -> Option<NetworkId> {
    let outer = outer(frame.bytes())?;
    if !tables.local.owns(outer.destination) {
        return None;
    }
    let datagram = Udp::parse(outer.payload).ok()?;
    let packet = Vxlan::parse(datagram.payload()).ok()?;
    tables.networks.by_tunnel(SegmentTunnel {
        vni: packet.vni(),
        port: datagram.destination_port(),
    })
}

/// The outer headers of a UDP datagram that is whole.
#[inline]
fn outer(bytes: &[u8]) -> Option<Outer<'_>> {
    let ethernet = Ethernet::parse(bytes).ok()?;
    match ethernet.ether_type() {
        EtherType::IPV4 => {
            let ip = Ipv4::parse(ethernet.payload()).ok()?;
            (ip.protocol() == IpProtocol::UDP && !ip.is_fragment()).then(|| Outer {
                source: IpAddr::V4(ip.source()),
                destination: IpAddr::V4(ip.destination()),
                ecn: ip.ecn(),
                header_len: ip.header_len(),
                payload: ip.payload(),
            })
        }
        EtherType::IPV6 => {
            let ip = Ipv6::parse(ethernet.payload()).ok()?;
            let upper = ip.upper().ok()?;
            let is_plain = upper.protocol == IpProtocol::UDP && upper.segments_left == 0;
            (is_plain && !upper.is_fragment()).then(|| Outer {
                source: IpAddr::V6(ip.source()),
                destination: IpAddr::V6(ip.destination()),
                ecn: ip.ecn(),
                header_len: ipv6::HEADER_LEN + upper.offset,
                payload: upper.payload,
            })
        }
        _ => None,
    }
}

/// Makes the frame the inner one, and answers its network and which node it comes from.
#[inline]
pub(super) fn open(tables: &NodeTables, frame: &mut Frame) -> Result<(NetworkId, Location), Exit> {
    let outer = outer(frame.bytes()).ok_or(DropReason::TunnelMalformed)?;
    if outer.source.is_ipv4() {
        Ipv4::parse(Ethernet::parse(frame.bytes())?.payload())?.verify_checksum()?;
    }
    let datagram = Udp::parse(outer.payload)?;
    if outer.source.is_ipv6() && datagram.checksum() == 0 {
        return Err(DropReason::TunnelNoChecksum.into());
    }
    let packet = Vxlan::parse(datagram.payload())?;
    let tunnel = SegmentTunnel {
        vni: packet.vni(),
        port: datagram.destination_port(),
    };
    let network = tables
        .networks
        .by_tunnel(tunnel)
        .ok_or(DropReason::TunnelWrongVni)?;
    let segment = tables.networks.segment(network).ok_or(DropReason::PortGone)?;
    let remote = tables.networks.remote(outer.source);
    let remote = remote.filter(|remote| segment.remote(*remote).is_some());
    let remote = remote.ok_or(DropReason::TunnelUnknownPeer)?;
    let inner = Ethernet::parse(packet.payload()).map_err(|_| DropReason::TunnelMalformed)?;
    if inner.ether_type().is_vlan() {
        // A network's frames have no tag in its tunnels (RFC 7348 section 6.1).
        return Err(DropReason::VlanTagged.into());
    }
    check_addresses(inner)?;
    let settled = match inner_ecn(packet.payload()) {
        Some(ecn) => {
            let settled = Ecn::decapsulate(ecn, outer.ecn).map_err(|_| DropReason::TunnelEcn)?;
            (settled != ecn).then_some(settled)
        }
        None => None,
    };
    let pull = eth::HEADER_LEN + outer.header_len + udp::HEADER_LEN + vxlan::HEADER_LEN;
    // What is behind the datagram is the underlay's padding.
    let end = pull + packet.payload().len();
    frame.truncate(end);
    frame.pull(pull).map_err(|_| DropReason::TunnelMalformed)?;
    if let Some(ecn) = settled {
        mark(frame, false, ecn)?;
    }
    Ok((network, Location::Remote(remote)))
}
