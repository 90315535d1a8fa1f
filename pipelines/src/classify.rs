//! `classify`: one pass over the IP header and the start of the transport, after which nobody has to parse again.

use std::net::IpAddr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::{NodeTables, Role};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{
    EtherType, Ethernet, Icmp, IcmpFamily, IcmpType, IpProtocol, Ipv4, Ipv4Mut, Ipv6, Ipv6Mut, Malformed,
    Ports, Tcp, Udp, eth, ipv6,
};

use crate::entry::Entry;
use crate::martian::{is_martian_v4, is_martian_v6};
use crate::packet::{Addresses, Packet};

/// Checks the packet, cuts the link's padding off, and finishes a half-computed checksum where the port hands such
/// packets over.
#[inline]
pub(crate) fn classify(tables: &NodeTables, entry: Entry<'_>, frame: &mut Frame) -> Result<Packet, Exit> {
    let ethernet = Ethernet::parse(frame.bytes())?;
    let packet = match ethernet.ether_type() {
        EtherType::IPV4 => classify_v4(Ipv4::parse(ethernet.payload())?)?,
        EtherType::IPV6 => classify_v6(Ipv6::parse(ethernet.payload())?)?,
        _ => return Err(DropReason::EtherTypeUnknown.into()),
    };
    if entry.is(Role::Pod) {
        refuse_tunnels(tables, &packet)?;
    }
    frame.truncate(eth::HEADER_LEN + usize::from(packet.len));
    if let Entry::Port(_, ingress) = entry
        && ingress.finish_checksums
    {
        finish_checksum(frame, &packet)?;
    }
    Ok(packet)
}

#[inline]
fn classify_v4(ip: Ipv4<'_>) -> Result<Packet, Exit> {
    ip.verify_checksum()?;
    let (source, destination) = (ip.source(), ip.destination());
    if is_martian_v4(source) {
        return Err(DropReason::MartianSource.into());
    }
    if is_martian_v4(destination) {
        return Err(DropReason::MartianDestination.into());
    }
    let (protocol, is_fragment) = (ip.protocol(), ip.is_fragment());
    let has_start = ip.fragment_offset() == 0;
    Ok(Packet {
        addresses: Addresses::V4 { source, destination },
        protocol,
        ports: transport(protocol, ip.payload(), is_fragment, has_start)?,
        is_fragment,
        len: ip.total_len(),
        hops: ip.ttl(),
        ecn: ip.ecn(),
    })
}

#[inline]
fn classify_v6(ip: Ipv6<'_>) -> Result<Packet, Exit> {
    let (source, destination) = (ip.source(), ip.destination());
    if is_martian_v6(source) {
        return Err(DropReason::MartianSource.into());
    }
    if is_martian_v6(destination) {
        return Err(DropReason::MartianDestination.into());
    }
    let upper = ip.upper()?;
    let (protocol, is_fragment) = (upper.protocol, upper.is_fragment());
    let has_start = upper.fragment.is_none_or(|fragment| fragment.is_first());
    if protocol == IpProtocol::ICMPV6
        && has_start
        && upper.payload.first().is_some_and(|t| is_neighbour_discovery(*t))
    {
        // Never forwarded (RFC 4861 section 6.1), also not behind extension headers.
        return Err(DropReason::Icmpv6NotTaken.into());
    }
    let len = usize::from(ip.payload_len()) + ipv6::HEADER_LEN;
    Ok(Packet {
        addresses: Addresses::V6 { source, destination },
        protocol,
        ports: transport(protocol, upper.payload, is_fragment, has_start)?,
        is_fragment,
        // INVARIANT: a frame is far shorter than what this cannot express.
        len: u16::try_from(len).map_err(|_| DropReason::Ipv6Malformed)?,
        hops: ip.hop_limit(),
        ecn: ip.ecn(),
    })
}

/// The ports of a transport whose start this is, once its header is known to be whole. A first fragment needs no
/// more than its ports; a later one has none.
#[inline]
fn transport(
    protocol: IpProtocol,
    l4: &[u8],
    is_fragment: bool,
    has_start: bool,
) -> Result<Option<Ports>, Malformed> {
    if is_fragment {
        return if has_start && protocol.has_ports() {
            Ports::parse(l4).map(Some)
        } else {
            Ok(None)
        };
    }
    match protocol {
        IpProtocol::TCP => Tcp::parse(l4).map(|tcp| Some(tcp.ports())),
        IpProtocol::UDP => Udp::parse(l4).map(|udp| Some(udp.ports())),
        IpProtocol::ICMP => Icmp::parse(IcmpFamily::V4, l4).map(|_| None),
        IpProtocol::ICMPV6 => Icmp::parse(IcmpFamily::V6, l4).map(|_| None),
        other if other.has_ports() => Ports::parse(l4).map(Some),
        _ => Ok(None),
    }
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
        (IpProtocol::UDP, Some(ports)) => tables.local.has_vxlan_port(ports.destination),
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
