//! `clamp`: a connection through a tunnel is told at its beginning what fits, so that it need not find out by packets that
//! do not. What a side tells is only ever lowered (RFC 9293 section 3.7.1), and where it tells nothing, nothing is added.
//!
//! Both sides tell with their SYN, whichever way that goes: one that leaves through a tunnel says what may come back, one
//! that came out of a tunnel what may be sent into it. The express lane leaves every SYN to the stages.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{IpProtocol, TcpFlags, TcpMut, eth, ipv4, ipv6, tcp};

use crate::connections::Context;
use crate::packet::{Addresses, Carries, Packet};
use crate::route::Way;

/// Where a TCP header's control bits stand, in bytes.
const FLAGS: usize = 13;

/// Lowers what a SYN by way of a tunnel tells of segments, if it is more than the tunnel takes.
#[inline(always)]
pub(crate) fn clamp(cx: &Context<'_>, frame: &mut Frame, packet: &Packet, way: &Way<'_>) -> Result<(), Exit> {
    let by_tunnel = packet.is_tunnelled || matches!(way, Way::Tunnel { .. });
    if packet.protocol != IpProtocol::TCP || !by_tunnel || !is_syn(frame, packet) {
        return Ok(());
    }
    lower(cx, frame, packet, Some(way))
}

/// The same before a packet goes on into another network, whose own tunnels [`clamp`] there knows of.
pub(crate) fn clamp_crossing(cx: &Context<'_>, frame: &mut Frame, packet: &Packet) -> Result<(), Exit> {
    if packet.protocol != IpProtocol::TCP || !packet.is_tunnelled || !is_syn(frame, packet) {
        return Ok(());
    }
    lower(cx, frame, packet, None)
}

/// Whether a TCP segment is a SYN.
#[inline(always)]
fn is_syn(frame: &Frame, packet: &Packet) -> bool {
    let at = eth::HEADER_LEN + usize::from(packet.transport_at) + FLAGS;
    let flags = frame.bytes().get(at).copied();
    flags.is_some_and(|flags| TcpFlags(flags).contains(TcpFlags::SYN))
}

#[cold]
fn lower(cx: &Context<'_>, frame: &mut Frame, packet: &Packet, way: Option<&Way<'_>>) -> Result<(), Exit> {
    if !cx.tables.local.clamps_mss || packet.carries != Carries::Connection {
        return Ok(());
    }
    let inwards = match way {
        Some(Way::Tunnel { mtu, .. }) => Some(*mtu),
        Some(Way::Link { .. }) | None => None,
    };
    let outwards = packet.is_tunnelled.then(|| came_by(cx, packet)).flatten();
    let Some(mtu) = inwards.into_iter().chain(outwards).min() else {
        return Ok(());
    };
    // INVARIANT: constants below 2^16.
    #[allow(clippy::cast_possible_truncation)]
    let headers = match packet.addresses {
        Addresses::V4 { .. } => (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u16,
        Addresses::V6 { .. } => (ipv6::HEADER_LEN + tcp::HEADER_LEN) as u16,
    };
    let start = eth::HEADER_LEN + usize::from(packet.transport_at);
    let end = eth::HEADER_LEN + usize::from(packet.len);
    // INVARIANT: `classify` has seen the header in this frame.
    let segment = frame
        .bytes_mut()
        .get_mut(start..end)
        .ok_or(DropReason::TransportMalformed)?;
    TcpMut::parse(segment)?.lower_mss(mtu.saturating_sub(headers));
    Ok(())
}

/// The largest packet, in bytes, in the tunnel that a packet came by.
fn came_by(cx: &Context<'_>, packet: &Packet) -> Option<u16> {
    let peers = &cx.tables.peers;
    let peer = peers.by_inner_source(packet.addresses.source())?;
    peers.get(peer).map(|peer| peer.mtu)
}
