//! `classify`: one pass over the IP header and the start of the transport, after which nobody has to parse again.

use std::net::IpAddr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::{NodeTables, Role};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{
    EtherType, Ethernet, Fragment, Icmp, IcmpFamily, IcmpType, IpProtocol, Ipv4, Ipv4Mut, Ipv6, Ipv6Mut,
    Malformed, Ports, Tcp, Udp, eth, ipv6, sctp, tcp,
};

use crate::admit::refuse_discovery;
use crate::connections::Context;
use crate::entry::Entry;
use crate::martian::{is_martian_v4, is_martian_v6};
use crate::packet::{Addresses, Carries, Packet};
use crate::scout::Place;

/// Checks the packet, cuts the link's padding off, and finishes a half-computed checksum where the port hands such
/// packets over. What it finds goes through `place` to where it is to stay: a packet's facts are many small ones, and moving
/// them at once costs more than finding them.
#[inline]
pub(crate) fn classify<'s>(
    cx: &Context<'_>,
    is_tunnelled: bool,
    frame: &mut Frame,
    place: Place<'s>,
) -> Result<&'s mut Packet, Exit> {
    let ethernet = Ethernet::parse(frame.bytes())?;
    let packet = match ethernet.ether_type() {
        EtherType::IPV4 => classify_v4(Ipv4::parse(ethernet.payload())?, is_tunnelled, cx, place)?,
        EtherType::IPV6 => classify_v6(Ipv6::parse(ethernet.payload())?, is_tunnelled, cx, place)?,
        _ => return Err(DropReason::EtherTypeUnknown.into()),
    };
    if cx.entry.is(Role::Pod) {
        refuse_tunnels(cx.tables, packet)?;
    }
    frame.truncate(eth::HEADER_LEN + usize::from(packet.len));
    if let Entry::Port(_, ingress) = cx.entry
        && ingress.finish_checksums
    {
        finish_checksum(frame, packet)?;
    }
    Ok(packet)
}

#[inline]
fn classify_v4<'s>(
    ip: Ipv4<'_>,
    is_tunnelled: bool,
    cx: &Context<'_>,
    place: Place<'s>,
) -> Result<&'s mut Packet, Exit> {
    ip.verify_checksum()?;
    let (source, destination) = (ip.source(), ip.destination());
    if is_martian_v4(source) {
        return Err(DropReason::MartianSource.into());
    }
    if is_martian_v4(destination) {
        return Err(DropReason::MartianDestination.into());
    }
    let (protocol, fragment) = (ip.protocol(), ip.fragment());
    let (carries, ports) = transport(cx, protocol, ip.payload(), fragment)?;
    // INVARIANT: an IPv4 header is at most 60 bytes long.
    let transport_at = u16::try_from(ip.header_len()).map_err(|_| DropReason::Ipv4Malformed)?;
    let found = Packet {
        addresses: Addresses::V4 { source, destination },
        protocol,
        carries,
        ports,
        transport_at,
        fragment,
        len: ip.total_len(),
        hops: ip.ttl(),
        ecn: ip.ecn(),
        is_tunnelled,
    };
    Ok(place.take(cx, found))
}

#[inline]
fn classify_v6<'s>(
    ip: Ipv6<'_>,
    is_tunnelled: bool,
    cx: &Context<'_>,
    place: Place<'s>,
) -> Result<&'s mut Packet, Exit> {
    let (source, destination) = (ip.source(), ip.destination());
    if is_martian_v6(source) {
        return Err(DropReason::MartianSource.into());
    }
    if is_martian_v6(destination) {
        return Err(DropReason::MartianDestination.into());
    }
    let upper = ip.upper()?;
    let protocol = upper.protocol;
    let fragment = upper.fragment.filter(|_| upper.is_fragment());
    let has_start = fragment.is_none_or(|fragment| fragment.is_first());
    if protocol == IpProtocol::ICMPV6
        && has_start
        && let Some(kind) = upper
            .payload
            .first()
            .filter(|kind| is_neighbour_discovery(**kind))
    {
        // Never forwarded (RFC 4861 section 6.1), also not behind extension headers (RFC 7113).
        return Err(refuse_discovery(IcmpType(*kind)));
    }
    let (mut carries, ports) = transport(cx, protocol, upper.payload, fragment)?;
    if upper.segments_left != 0 {
        // Its destination is not the final one, and no connection's.
        carries = Carries::Other;
    }
    // INVARIANT: a frame is far shorter than what these cannot express.
    let short = |len: usize| u16::try_from(len).map_err(|_| DropReason::Ipv6Malformed);
    let transport_at = short(ipv6::HEADER_LEN + upper.offset)?;
    let len = short(usize::from(ip.payload_len()) + ipv6::HEADER_LEN)?;
    let found = Packet {
        addresses: Addresses::V6 { source, destination },
        protocol,
        carries,
        ports,
        transport_at,
        fragment,
        len,
        hops: ip.hop_limit(),
        ecn: ip.ecn(),
        is_tunnelled,
    };
    Ok(place.take(cx, found))
}

/// What the transport carries and its ports, once its header is known to be whole. A later piece has none.
#[inline]
fn transport(
    cx: &Context<'_>,
    protocol: IpProtocol,
    l4: &[u8],
    fragment: Option<Fragment>,
) -> Result<(Carries, Option<Ports>), Exit> {
    match fragment {
        None => Ok(whole(cx, protocol, l4)?),
        Some(fragment) => piece(cx, protocol, l4, fragment),
    }
}

#[inline]
fn whole(cx: &Context<'_>, protocol: IpProtocol, l4: &[u8]) -> Result<(Carries, Option<Ports>), Malformed> {
    let with = |ports| (Carries::Connection, Some(ports));
    match protocol {
        IpProtocol::TCP => Tcp::parse(l4).map(|tcp| with(tcp.ports())),
        IpProtocol::UDP => Udp::parse(l4).map(|udp| with(udp.ports())),
        IpProtocol::ICMP => Icmp::parse(IcmpFamily::V4, l4).map(message),
        IpProtocol::ICMPV6 => Icmp::parse(IcmpFamily::V6, l4).map(message),
        other if other.has_ports() => Ports::parse(l4).map(with),
        other => Ok(portless(cx, other)),
    }
}

/// What a piece carries. The first has to hold the transport's header whole, and no other may reach into it: who judges
/// by the first must see what its receiver will (RFC 1858 section 3, RFC 3128).
#[cold]
fn piece(
    cx: &Context<'_>,
    protocol: IpProtocol,
    l4: &[u8],
    fragment: Fragment,
) -> Result<(Carries, Option<Ports>), Exit> {
    let header_len = match protocol {
        IpProtocol::TCP => tcp::HEADER_LEN,
        IpProtocol::SCTP => sctp::HEADER_LEN,
        _ => 0, // a piece is of at least eight bytes, which is enough for the others
    };
    if !fragment.is_first() {
        return if usize::from(fragment.offset) < header_len {
            Err(DropReason::FragmentTiny.into())
        } else {
            Ok((Carries::LaterPiece, None))
        };
    }
    if l4.len() < header_len {
        return Err(DropReason::FragmentTiny.into());
    }
    let with = |ports| Ok((Carries::Connection, Some(ports)));
    match protocol {
        IpProtocol::TCP => match Tcp::parse(l4) {
            Ok(tcp) => with(tcp.ports()),
            // Its options go on in the next piece, unless the header claims to be shorter than any.
            Err(_) if l4.get(12).is_some_and(|offset| offset >> 4 >= 5) => {
                Err(DropReason::FragmentTiny.into())
            }
            Err(malformed) => Err(malformed.into()),
        },
        IpProtocol::ICMP => first_of_message(IcmpFamily::V4, l4),
        IpProtocol::ICMPV6 => first_of_message(IcmpFamily::V6, l4),
        other if other.has_ports() => with(Ports::parse(l4).map_err(|_| DropReason::FragmentTiny)?),
        other => Ok(portless(cx, other)),
    }
}

/// The ports of a protocol that has none and is followed all the same.
pub(crate) const NO_PORTS: Ports = Ports {
    source: 0,
    destination: 0,
};

/// What a protocol without ports carries.
fn portless(cx: &Context<'_>, protocol: IpProtocol) -> (Carries, Option<Ports>) {
    if cx.tables.local.follows(protocol) {
        (Carries::Connection, Some(NO_PORTS))
    } else {
        (Carries::Other, None)
    }
}

/// What the first piece of an ICMP message carries; an error in pieces is of no connection.
fn first_of_message(family: IcmpFamily, l4: &[u8]) -> Result<(Carries, Option<Ports>), Exit> {
    match message(Icmp::parse(family, l4).map_err(|_| DropReason::FragmentTiny)?) {
        (Carries::Connection, ports) => Ok((Carries::Connection, ports)),
        _ => Ok((Carries::Other, None)),
    }
}

/// What an ICMP message carries.
#[inline]
fn message(icmp: Icmp<'_>) -> (Carries, Option<Ports>) {
    match icmp.echo() {
        Some(echo) => (
            Carries::Connection,
            Some(echo_ports(echo.id, icmp.is_echo_request())),
        ),
        None if icmp.is_error() => (Carries::Error, None),
        None => (Carries::Other, None),
    }
}

/// The ports that stand for an echo message's id.
#[inline]
pub(crate) fn echo_ports(id: u16, is_request: bool) -> Ports {
    let request = Ports {
        source: id,
        destination: 0,
    };
    if is_request { request } else { request.reversed() }
}

/// Whether an ICMPv6 message is neighbour discovery: solicitations, advertisements, redirects (RFC 4861).
#[inline]
pub(crate) fn is_neighbour_discovery(kind: u8) -> bool {
    (IcmpType::V6_ROUTER_SOLICITATION..=IcmpType::V6_REDIRECT).contains(&IcmpType(kind))
}

/// Keeps a pod from sending tunnel packets to a node, which would take them for another node's.
#[inline]
fn refuse_tunnels(tables: &NodeTables, packet: &Packet) -> Result<(), Exit> {
    let is_tunnel = match (packet.protocol, packet.ports) {
        (IpProtocol::UDP, Some(ports)) => tables.local.is_tunnel_port(ports.destination),
        (IpProtocol::IPIP, _) => true,
        _ => false,
    };
    let destination: IpAddr = packet.addresses.destination();
    if is_tunnel && tables.local.node_addresses.contains(&destination) {
        return Err(DropReason::PodTunnel.into());
    }
    Ok(())
}

/// Completes a TCP or UDP checksum that the kernel left to a device that is not there.
#[inline]
fn finish_checksum(frame: &mut Frame, packet: &Packet) -> Result<(), Exit> {
    let ip = frame
        .bytes_mut()
        .get_mut(eth::HEADER_LEN..)
        .ok_or(DropReason::EthernetTruncated)?;
    match packet.addresses {
        Addresses::V4 { .. } => Ipv4Mut::parse(ip)?.complete_partial_checksum(),
        Addresses::V6 { .. } => Ipv6Mut::parse(ip)?.complete_partial_checksum()?,
    };
    Ok(())
}
