//! `admit`: is this a frame that the port may send us, from whom it says it is? What a station says about itself, ARP and
//! neighbour discovery, goes no further than to the slow path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::verdict::{DropReason, Exit, PuntDetail, PuntReason};
use millrace_dataplane::wire::{
    Arp, EtherType, Ethernet, IcmpType, IpProtocol, Ipv6, MacAddr, Malformed, icmp, ipv6, ndp,
};

use crate::classify::is_neighbour_discovery;

/// Where the source address stands in an IPv4 header, in bytes.
pub(crate) const SOURCE_V4: usize = 12;
/// Where the next header stands in an IPv6 header, in bytes.
const NEXT_HEADER_V6: usize = 6;
/// Where the source address stands in an IPv6 header, in bytes.
pub(crate) const SOURCE_V6: usize = 8;

/// Checks the Ethernet header, and that a pod sends as itself only. Takes ARP out of the walk.
#[inline]
pub(crate) fn admit(ingress: &PortFacts, frame: &Frame) -> Result<(), Exit> {
    let ethernet = Ethernet::parse(frame.bytes())?;
    if ethernet.ether_type().is_vlan() {
        return Err(DropReason::VlanTagged.into());
    }
    match ingress.role {
        Role::Uplink => {}
        // Its frames are bridged, and never routed.
        Role::Segment => return Err(DropReason::NotForUs.into()),
        Role::Host | Role::Pod => admit_station(ingress, ethernet)?,
    }
    if ethernet.destination() != ingress.mac {
        return Err(DropReason::NotForUs.into());
    }
    match ethernet.ether_type() {
        EtherType::IPV4 | EtherType::IPV6 => {}
        _ => return Err(DropReason::EtherTypeUnknown.into()),
    }
    if ingress.role == Role::Pod {
        admit_source(ingress, ethernet)
    } else {
        Ok(())
    }
}

/// What holds where exactly one station can be: a pod's port or the host's.
#[inline]
fn admit_station(ingress: &PortFacts, ethernet: Ethernet<'_>) -> Result<(), Exit> {
    if ethernet.source() != ingress.peer_mac {
        return Err(DropReason::SpoofedMac.into());
    }
    match ethernet.ether_type() {
        EtherType::ARP => Err(admit_arp(ingress, ethernet)),
        // Sent to groups, from link-local addresses: told apart before those count against it.
        EtherType::IPV6 => match discovers(ethernet.payload()) {
            Some(kind) => Err(admit_discovery(ingress, ethernet, kind)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Hands ARP that is honest to the slow path, which answers it.
#[cold]
fn admit_arp(ingress: &PortFacts, ethernet: Ethernet<'_>) -> Exit {
    if ethernet.destination() != ingress.mac && !ethernet.destination().is_broadcast() {
        return DropReason::NotForUs.into();
    }
    let arp = match Arp::parse(ethernet.payload()) {
        Ok(arp) => arp,
        Err(malformed) => return malformed.into(),
    };
    if arp.sender_hardware() != ingress.peer_mac {
        return DropReason::ArpSpoofed.into();
    }
    // A probe asks whether an address is taken, and claims none itself (RFC 5227 section 2.1.1).
    let sender = arp.sender_protocol();
    let is_own = sender == Ipv4Addr::UNSPECIFIED || ingress.may_send_from(IpAddr::V4(sender));
    if ingress.role == Role::Pod && !is_own {
        return DropReason::ArpSpoofed.into();
    }
    Exit::Punt(PuntReason::Arp, PuntDetail::Nothing)
}

/// What message of neighbour discovery an IPv6 packet is, without extension headers as it always comes.
#[inline]
pub(crate) fn discovers(ip: &[u8]) -> Option<IcmpType> {
    let message = ip
        .get(ipv6::HEADER_LEN..)
        .and_then(|message| message.first_chunk::<{ icmp::HEADER_LEN }>());
    let is_icmp = ip.get(NEXT_HEADER_V6) == Some(&IpProtocol::ICMPV6.0);
    let [kind, ..] = *message.filter(|_| is_icmp)?;
    is_neighbour_discovery(kind).then_some(IcmpType(kind))
}

/// Hands a neighbour solicitation that is honest to the slow path, which answers it.
#[cold]
fn admit_discovery(ingress: &PortFacts, ethernet: Ethernet<'_>, kind: IcmpType) -> Exit {
    if kind != IcmpType::V6_NEIGHBOUR_SOLICITATION && kind != IcmpType::V6_NEIGHBOUR_ADVERTISEMENT {
        return refuse_discovery(kind);
    }
    if ethernet.destination() != ingress.mac && !ethernet.destination().is_multicast() {
        return DropReason::NotForUs.into();
    }
    let (source, message) = match neighbour_message(ethernet) {
        Ok(read) => read,
        Err(malformed) => return malformed.into(),
    };
    // A station's link-local address is its own affair: nobody else is on its link.
    let is_own = |address: Ipv6Addr| {
        ingress.role != Role::Pod
            || address.is_unicast_link_local()
            || ingress.may_send_from(IpAddr::V6(address))
    };
    let is_other_link = |link: Option<MacAddr>| link.is_some_and(|link| link != ingress.peer_mac);
    let is_honest = if message.is_solicitation() {
        // A probe asks whether an address is taken, and claims none itself (RFC 4862 section 5.4).
        (source.is_unspecified() || is_own(source)) && !is_other_link(message.source_link())
    } else {
        is_own(source) && is_own(message.target()) && !is_other_link(message.target_link())
    };
    match (is_honest, message.is_solicitation()) {
        (false, _) => DropReason::NeighbourSpoofed.into(),
        (true, true) => Exit::Punt(PuntReason::NeighbourSolicitation, PuntDetail::Nothing),
        // The switch has asked nothing.
        (true, false) => DropReason::Icmpv6NotTaken.into(),
    }
}

/// A neighbour message, and who sent it.
pub(crate) fn neighbour_message(ethernet: Ethernet<'_>) -> Result<(Ipv6Addr, ndp::Neighbour<'_>), Malformed> {
    let ip = Ipv6::parse(ethernet.payload())?;
    Ok((ip.source(), ndp::Neighbour::parse(ip.payload())?))
}

/// Why a message of neighbour discovery that nobody answers is dropped.
#[cold]
pub(crate) fn refuse_discovery(kind: IcmpType) -> Exit {
    match kind {
        IcmpType::V6_ROUTER_ADVERTISEMENT => DropReason::RouterAdvertisement.into(),
        IcmpType::V6_REDIRECT => DropReason::RouterRedirect.into(),
        _ => DropReason::Icmpv6NotTaken.into(),
    }
}

/// Lets a pod send from its own addresses only. A header that is cut short is left to `classify`, which names it.
#[inline]
fn admit_source(ingress: &PortFacts, ethernet: Ethernet<'_>) -> Result<(), Exit> {
    let ip = ethernet.payload();
    let source = match ethernet.ether_type() {
        EtherType::IPV4 => octets(ip, SOURCE_V4).map(|octets| IpAddr::V4(Ipv4Addr::from_octets(octets))),
        _ => octets(ip, SOURCE_V6).map(|octets| IpAddr::V6(Ipv6Addr::from_octets(octets))),
    };
    match source {
        Some(source) if !ingress.may_send_from(source) => Err(DropReason::SpoofedAddress.into()),
        Some(_) | None => Ok(()),
    }
}

#[inline]
pub(crate) fn octets<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
