//! `admit`: is this a frame that the port may send, in which of its networks is it, and does its station say of itself
//! what it was given?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::{Guard, Member, NetworkId, PortFacts};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::vlan::{TAG_LEN, VlanId};
use millrace_dataplane::wire::{
    Arp, EtherType, Ethernet, IcmpType, IpProtocol, Ipv4Mut, Ipv6, Ipv6Mut, MacAddr, VlanTag, eth, ipv6,
};

use crate::admit::{SOURCE_V4, SOURCE_V6, discovers, neighbour_message, octets, refuse_discovery};
use crate::classify::is_neighbour_discovery;

/// Length of both addresses of an Ethernet header, behind which a tag stands.
const ADDRESSES_LEN: usize = 2 * eth::MAC_LEN;

/// The first five bytes of the sixteen group addresses that are about a link itself (IEEE 802.1Q table 8-1).
const LINK_GROUP: [u8; 5] = [0x01, 0x80, 0xc2, 0, 0];

/// Checks a frame from a member's port, takes its tag off, and answers its network.
#[inline]
pub(super) fn admit(facts: &PortFacts, member: &Member, frame: &mut Frame) -> Result<NetworkId, Exit> {
    let ethernet = Ethernet::parse(frame.bytes())?;
    check_addresses(ethernet)?;
    let network = match ethernet.ether_type() {
        ether_type if ether_type.is_vlan() => untag(member, frame)?,
        _ => member.network(None).ok_or(DropReason::VlanTagged)?,
    };
    if let Member::Access { guard, .. } = member {
        admit_station(guard, Ethernet::parse(frame.bytes())?)?;
    }
    if facts.finish_checksums {
        finish_checksum(frame);
    }
    Ok(network)
}

/// Checks that a station can have sent it, and that a bridge may forward it.
#[inline]
pub(super) fn check_addresses(ethernet: Ethernet<'_>) -> Result<(), Exit> {
    if !ethernet.source().is_unicast() {
        return Err(DropReason::BridgeSource.into());
    }
    let [group @ .., last] = ethernet.destination().octets();
    if group == LINK_GROUP && last < 0x10 {
        return Err(DropReason::BridgeReserved.into());
    }
    Ok(())
}

/// Takes the tag off and answers the network that it stands for. A tag of VLAN 0 says a priority and no network. What
/// priority it is, nobody asks.
#[cold]
fn untag(member: &Member, frame: &mut Frame) -> Result<NetworkId, Exit> {
    let ethernet = Ethernet::parse(frame.bytes())?;
    let tag = VlanTag::parse(ethernet.payload())?;
    if ethernet.ether_type() != EtherType::VLAN || tag.ether_type().is_vlan() {
        return Err(DropReason::VlanTagged.into());
    }
    let vlan = match tag.id() {
        0 => None,
        id => Some(VlanId::new(id).ok_or(DropReason::VlanTagged)?),
    };
    let network = member.network(vlan).ok_or(DropReason::VlanTagged)?;
    let bytes = frame.bytes_mut();
    bytes.copy_within(..ADDRESSES_LEN, TAG_LEN);
    frame.pull(TAG_LEN).map_err(|_| DropReason::VlanTagged)?;
    Ok(network)
}

/// Puts a tag on a frame that has none.
#[cold]
pub(super) fn tag(frame: &mut Frame, vlan: VlanId) -> Result<(), Exit> {
    frame.push::<TAG_LEN>().map_err(|_| DropReason::NoRoom)?;
    let bytes = frame.bytes_mut();
    bytes.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
    let header = bytes.get_mut(ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN);
    let header = header.ok_or(DropReason::NoRoom)?;
    let [a, b] = EtherType::VLAN.0.to_be_bytes();
    let [c, d] = vlan.number().to_be_bytes();
    header.copy_from_slice(&[a, b, c, d]);
    Ok(())
}

/// Lets a station send as itself only, where it was given an address.
#[inline]
fn admit_station(guard: &Guard, ethernet: Ethernet<'_>) -> Result<(), Exit> {
    if guard.mac.is_some_and(|mac| mac != ethernet.source()) {
        return Err(DropReason::SpoofedMac.into());
    }
    if guard.sources.is_empty() {
        return Ok(());
    }
    let may_send_from = |address| guard.sources.contains(&address);
    let ip = ethernet.payload();
    match ethernet.ether_type() {
        EtherType::ARP => admit_arp(guard, ethernet),
        EtherType::IPV4 => match octets(ip, SOURCE_V4) {
            Some(source) if may_send_from(IpAddr::V4(Ipv4Addr::from_octets(source))) => Ok(()),
            Some(_) => Err(DropReason::SpoofedAddress.into()),
            None => Err(DropReason::Ipv4Truncated.into()),
        },
        EtherType::IPV6 => match (discovers(ip), octets(ip, SOURCE_V6)) {
            (Some(kind), _) => admit_discovery(guard, ethernet, kind),
            (None, Some(source)) => admit_v6(guard, ethernet, Ipv6Addr::from_octets(source)),
            (None, None) => Err(DropReason::Ipv6Malformed.into()),
        },
        // Nothing else has an address to be told by.
        _ => Err(DropReason::EtherTypeUnknown.into()),
    }
}

#[cold]
fn admit_arp(guard: &Guard, ethernet: Ethernet<'_>) -> Result<(), Exit> {
    let arp = Arp::parse(ethernet.payload())?;
    let sender = arp.sender_protocol();
    // A probe asks whether an address is taken, and claims none itself (RFC 5227 section 2.1.1).
    let is_own = sender.is_unspecified() || guard.sources.contains(&IpAddr::V4(sender));
    if is_own && arp.sender_hardware() == ethernet.source() {
        Ok(())
    } else {
        Err(DropReason::ArpSpoofed.into())
    }
}

/// IPv6 that is no neighbour discovery by its first header. A link-local address is a station's own affair, and before it has
/// one it reports its groups from none (RFC 3590).
fn admit_v6(guard: &Guard, ethernet: Ethernet<'_>, source: Ipv6Addr) -> Result<(), Exit> {
    let is_own = guard.sources.contains(&IpAddr::V6(source));
    if !is_own && !source.is_unicast_link_local() && !source.is_unspecified() {
        return Err(DropReason::SpoofedAddress.into());
    }
    let upper = Ipv6::parse(ethernet.payload())?.upper()?;
    if source.is_unspecified() && upper.protocol != IpProtocol::ICMPV6 {
        return Err(DropReason::SpoofedAddress.into());
    }
    // Not behind extension headers either, where nobody would look at it, nor in a piece behind theirs (RFC 7113). What a later
    // piece of another message begins with is no kind.
    let has_start = upper.fragment.is_none_or(|fragment| fragment.is_first());
    let may_discover = || {
        let kind = upper.payload.first();
        kind.is_none_or(|kind| is_neighbour_discovery(*kind))
    };
    if upper.protocol == IpProtocol::ICMPV6 && upper.offset > 0 && has_start && may_discover() {
        return Err(DropReason::NeighbourSpoofed.into());
    }
    Ok(())
}

#[cold]
fn admit_discovery(guard: &Guard, ethernet: Ethernet<'_>, kind: IcmpType) -> Result<(), Exit> {
    match kind {
        IcmpType::V6_NEIGHBOUR_SOLICITATION | IcmpType::V6_NEIGHBOUR_ADVERTISEMENT => {}
        IcmpType::V6_ROUTER_SOLICITATION => return Ok(()),
        // Who was given an address is no router (CVE-2020-10749).
        _ => return Err(refuse_discovery(kind)),
    }
    let (source, message) = neighbour_message(ethernet)?;
    let is_own =
        |address: Ipv6Addr| address.is_unicast_link_local() || guard.sources.contains(&IpAddr::V6(address));
    let is_other = |link: Option<MacAddr>| link.is_some_and(|link| link != ethernet.source());
    let is_honest = if message.is_solicitation() {
        // A probe asks whether an address is taken, and claims none itself; but whoever probes for the same one meanwhile has to
        // do without it (RFC 4862 section 5.4.3).
        let own = if source.is_unspecified() {
            message.target()
        } else {
            source
        };
        is_own(own) && !is_other(message.source_link())
    } else {
        is_own(source) && is_own(message.target()) && !is_other(message.target_link())
    };
    if is_honest {
        Ok(())
    } else {
        Err(DropReason::NeighbourSpoofed.into())
    }
}

/// Completes a TCP or UDP checksum that the kernel left to a device that is not there. What is no whole IP packet is left as
/// it is: its receiver judges it.
#[inline(never)]
pub(super) fn finish_checksum(frame: &mut Frame) {
    let Ok(ethernet) = Ethernet::parse(frame.bytes()) else {
        return;
    };
    let ether_type = ethernet.ether_type();
    let Some(ip) = frame.bytes_mut().get_mut(eth::HEADER_LEN..) else {
        return;
    };
    match ether_type {
        EtherType::IPV4 => {
            if let Ok(mut ip) = Ipv4Mut::parse(ip) {
                ip.complete_partial_checksum();
            }
        }
        EtherType::IPV6 if ip.len() >= ipv6::HEADER_LEN => {
            if let Ok(mut ip) = Ipv6Mut::parse(ip) {
                let _ = ip.complete_partial_checksum();
            }
        }
        _ => {}
    }
}
