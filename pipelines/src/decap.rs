//! `decap`: takes a packet out of its tunnel, if a known node put it in and may send what is inside.
//!
//! Only what comes from the wire gets here. An outer UDP checksum is not verified, since the inner packet has its own: over
//! IPv4 it may be there or not (RFC 7348 section 5), over IPv6 it must be there (RFC 8200 section 8.1).

use std::net::IpAddr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::{Local, NetworkId, NodeTables, Peer, PeerId, PortFacts, Tunnel, TunnelKind};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{
    Ecn, EtherType, Ethernet, IpProtocol, Ipv4, Ipv4Mut, Ipv6, Ipv6Mut, MacAddr, Ports, Udp, Vxlan, eth,
    ipip, ipv6, udp, vxlan,
};

/// What a tunnel packet's own IP header says.
#[derive(Clone, Copy)]
struct Outer<'p> {
    source: IpAddr,
    destination: IpAddr,
    ecn: Ecn,
    /// With options, or extension headers, in bytes.
    header_len: usize,
    payload: &'p [u8],
}

impl<'p> From<Ipv4<'p>> for Outer<'p> {
    #[inline]
    fn from(ip: Ipv4<'p>) -> Self {
        Self {
            source: IpAddr::V4(ip.source()),
            destination: IpAddr::V4(ip.destination()),
            ecn: ip.ecn(),
            header_len: ip.header_len(),
            payload: ip.payload(),
        }
    }
}

/// Where the inner packet lies, and what becomes of its ECN field.
struct Inner {
    /// Bytes to pull, so that an Ethernet header, or the room for one, comes first.
    pull: usize,
    /// Whether there is only room for an Ethernet header.
    is_bare: bool,
    /// The inner ECN field to write, if it changes (RFC 6040).
    ecn: Option<Ecn>,
}

/// Makes the frame the inner one, and answers whether there was a tunnel to take it out of. Any other packet from the
/// wire stays as it is: later stages know what it may be for.
#[inline]
pub(crate) fn decap(tables: &NodeTables, ingress: &PortFacts, frame: &mut Frame) -> Result<bool, Exit> {
    let ethernet = Ethernet::parse(frame.bytes())?;
    let inner = match ethernet.ether_type() {
        EtherType::IPV4 => open_v4(tables, Ipv4::parse(ethernet.payload())?)?,
        _ => open_v6(tables, Ipv6::parse(ethernet.payload())?)?,
    };
    let Some(inner) = inner else { return Ok(false) };
    frame.pull(inner.pull).map_err(|_| DropReason::TunnelMalformed)?;
    if let Some(ecn) = inner.ecn {
        mark(frame, inner.is_bare, ecn)?;
    }
    if inner.is_bare {
        // INVARIANT: the outer Ethernet header was as long as the room that is left for this one.
        let header = frame
            .bytes_mut()
            .first_chunk_mut()
            .ok_or(DropReason::TunnelMalformed)?;
        eth::emit(header, ingress.mac, MacAddr::ZERO, EtherType::IPV4);
    }
    Ok(true)
}

/// An IPv4 packet from the wire: one of our tunnels'; `None` if it stays as it is.
#[inline]
fn open_v4(tables: &NodeTables, outer: Ipv4<'_>) -> Result<Option<Inner>, Exit> {
    outer.verify_checksum()?;
    if takes_tunnels_at(tables, IpAddr::V4(outer.destination())) {
        let inner = match outer.protocol() {
            IpProtocol::UDP if outer.is_fragment() => {
                refuse_piece(tables, outer.fragment_offset() == 0, outer.payload()).map(|()| None)?
            }
            IpProtocol::UDP => open_vxlan(tables, outer.into())?,
            IpProtocol::IPIP if outer.is_fragment() => return Err(DropReason::TunnelFragment.into()),
            IpProtocol::IPIP => open_ipip(tables, outer).map(Some)?,
            _ => None,
        };
        if inner.is_some() {
            return Ok(inner);
        }
    }
    plain(tables, IpAddr::V4(outer.source()))
}

/// A piece of a UDP datagram to one of our addresses: none of a tunnel packet, as far as it shows.
#[cold]
fn refuse_piece(tables: &NodeTables, is_first: bool, piece: &[u8]) -> Result<(), Exit> {
    if is_first && tables.local.has_vxlan_port(Ports::parse(piece)?.destination) {
        Err(DropReason::TunnelFragment.into())
    } else {
        Ok(())
    }
}

/// An IPv6 packet from the wire: one of our tunnels'; `None` if it stays as it is.
#[inline]
fn open_v6(tables: &NodeTables, outer: Ipv6<'_>) -> Result<Option<Inner>, Exit> {
    if takes_tunnels_at(tables, IpAddr::V6(outer.destination())) {
        let inner = open_vxlan_v6(tables, outer)?;
        if inner.is_some() {
            return Ok(inner);
        }
    }
    plain(tables, IpAddr::V6(outer.source()))
}

/// An IPv6 packet to one of our addresses; `None` if it is no tunnel's.
fn open_vxlan_v6(tables: &NodeTables, outer: Ipv6<'_>) -> Result<Option<Inner>, Exit> {
    let upper = outer.upper()?;
    if upper.protocol != IpProtocol::UDP || upper.segments_left != 0 {
        return Ok(None);
    }
    if upper.is_fragment() {
        let is_first = upper.fragment.is_some_and(|fragment| fragment.is_first());
        return refuse_piece(tables, is_first, upper.payload).map(|()| None);
    }
    let datagram = Outer {
        source: IpAddr::V6(outer.source()),
        destination: IpAddr::V6(outer.destination()),
        ecn: outer.ecn(),
        header_len: ipv6::HEADER_LEN + upper.offset,
        payload: upper.payload,
    };
    open_vxlan(tables, datagram)
}

/// Whether tunnel packets to this address of the underlay are for us. To the cluster's own network all addresses of the node's
/// are: those in it are some of these. In another network an address of the underlay means nothing, and may be somebody's.
#[inline]
pub(crate) fn takes_tunnels_at(tables: &NodeTables, address: IpAddr) -> bool {
    let local = &*tables.local;
    if tables.network == NetworkId::CLUSTER {
        local.owns(address)
    } else {
        local.endpoints.iter().any(|end| end.local == address)
    }
}

/// An untunnelled packet: not from an address that only ever comes through a tunnel, and none of another network than the
/// cluster's.
fn plain(tables: &NodeTables, source: IpAddr) -> Result<Option<Inner>, Exit> {
    if tables.network != NetworkId::CLUSTER {
        return Err(DropReason::TunnelWrongKind.into());
    }
    if may_come_plain(tables, source) {
        Ok(None)
    } else {
        Err(DropReason::PlainFromOverlay.into())
    }
}

/// Whether what comes from the wire outside of any tunnel may have this source.
pub(crate) fn may_come_plain(tables: &NodeTables, source: IpAddr) -> bool {
    let local = &*tables.local;
    let is_peers =
        || tables.peers.by_inner_source(source).is_some() && !local.node_addresses.contains(&source);
    // One of this node's prefixes may hold an address that a pod of such a node has borrowed.
    tables.peers.comes_plain(source) || !is_this_nodes(local, source) && !is_peers()
}

/// Whether nobody but this node may send from `address`.
fn is_this_nodes(local: &Local, address: IpAddr) -> bool {
    local.is_local_pod(address) || local.owns(address) || local.gateways.contains(&address)
}

/// A UDP datagram to one of our addresses; `None` if it is no tunnel's.
#[inline]
fn open_vxlan(tables: &NodeTables, outer: Outer<'_>) -> Result<Option<Inner>, Exit> {
    let datagram = Udp::parse(outer.payload)?;
    let port = datagram.destination_port();
    let Some((vni, mac)) = tables.local.vxlan_endpoint(outer.destination, port) else {
        return if tables.local.has_vxlan_port(port) {
            Err(DropReason::TunnelWrongKind.into())
        } else {
            Ok(None)
        };
    };
    if outer.source.is_ipv6() && datagram.checksum() == 0 {
        return Err(DropReason::TunnelNoChecksum.into());
    }
    let (id, peer) = sender(tables, outer.source, TunnelKind::Vxlan)?;
    match peer.tunnel {
        Tunnel::Vxlan { port: agreed, .. } if agreed == port => {}
        Tunnel::Vxlan { .. } | Tunnel::Ipip => return Err(DropReason::TunnelWrongKind.into()),
    }
    let packet = Vxlan::parse(datagram.payload())?;
    if packet.vni() != vni {
        return Err(DropReason::TunnelWrongVni.into());
    }
    let inner = Ethernet::parse(packet.payload()).map_err(|_| DropReason::TunnelMalformed)?;
    if inner.destination() != mac {
        return Err(DropReason::TunnelWrongMac.into());
    }
    let ecn = match inner.ether_type() {
        EtherType::IPV4 => {
            let ip = Ipv4::parse(inner.payload())?;
            accept(tables, id, IpAddr::V4(ip.source()), ip.ecn(), outer.ecn)?
        }
        EtherType::IPV6 => {
            let ip = Ipv6::parse(inner.payload())?;
            accept(tables, id, IpAddr::V6(ip.source()), ip.ecn(), outer.ecn)?
        }
        _ => return Err(DropReason::TunnelInnerUnknown.into()),
    };
    let pull = eth::HEADER_LEN + outer.header_len + udp::HEADER_LEN + vxlan::HEADER_LEN;
    Ok(Some(Inner {
        pull,
        is_bare: false,
        ecn,
    }))
}

/// A packet of protocol 4 to one of our addresses.
#[inline]
fn open_ipip(tables: &NodeTables, outer: Ipv4<'_>) -> Result<Inner, Exit> {
    if !tables.local.is_ipip_endpoint(outer.destination()) {
        return Err(DropReason::TunnelWrongKind.into());
    }
    let (id, _) = sender(tables, IpAddr::V4(outer.source()), TunnelKind::Ipip)?;
    let inner = ipip::parse_inner(outer.payload())?;
    let ecn = accept(tables, id, IpAddr::V4(inner.source()), inner.ecn(), outer.ecn())?;
    // The last bytes of the outer header become the room for an Ethernet header.
    Ok(Inner {
        pull: outer.header_len(),
        is_bare: true,
        ecn,
    })
}

/// The known node that sent a tunnel packet of this kind.
#[inline]
fn sender(tables: &NodeTables, source: IpAddr, kind: TunnelKind) -> Result<(PeerId, &Peer), Exit> {
    let found = tables.peers.by_outer_source(source, kind);
    found.ok_or_else(|| unknown_sender(tables, source, kind).into())
}

/// Why there is no tunnel of this kind to the sender.
#[cold]
fn unknown_sender(tables: &NodeTables, source: IpAddr, kind: TunnelKind) -> DropReason {
    let other = match kind {
        TunnelKind::Vxlan => TunnelKind::Ipip,
        TunnelKind::Ipip => TunnelKind::Vxlan,
    };
    match tables.peers.by_outer_source(source, other) {
        Some(_) => DropReason::TunnelWrongKind,
        None => DropReason::TunnelUnknownPeer,
    }
}

/// Checks that the peer may send from `source`, and settles the ECN field; answers it if it changes.
#[inline]
fn accept(
    tables: &NodeTables,
    peer: PeerId,
    source: IpAddr,
    inner: Ecn,
    outer: Ecn,
) -> Result<Option<Ecn>, Exit> {
    if !tables.peers.may_send(peer, source) {
        return Err(DropReason::TunnelSpoofedAddress.into());
    }
    let ecn = Ecn::decapsulate(inner, outer).map_err(|_| DropReason::TunnelEcn)?;
    Ok((ecn != inner).then_some(ecn))
}

/// Writes the inner packet's ECN field (RFC 6040); a bare one has no Ethernet header of its own, and is IPv4.
#[cold]
pub(crate) fn mark(frame: &mut Frame, is_bare: bool, ecn: Ecn) -> Result<(), Exit> {
    let is_v6 = !is_bare && Ethernet::parse(frame.bytes())?.ether_type() == EtherType::IPV6;
    let ip = frame
        .bytes_mut()
        .get_mut(eth::HEADER_LEN..)
        .ok_or(DropReason::TunnelMalformed)?;
    if is_v6 {
        Ipv6Mut::parse(ip)?.set_ecn(ecn);
    } else {
        Ipv4Mut::parse(ip)?.set_ecn(ecn);
    }
    Ok(())
}
