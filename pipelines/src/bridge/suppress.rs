//! `suppress`: what is said to everybody and the slow path may know better, or wants to hear.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::Segment;
use millrace_dataplane::verdict::{Audience, PuntReason};
use millrace_dataplane::wire::{EtherType, Ethernet, IcmpType, IpProtocol, Ipv4, Ipv6, Membership};

/// Multicast listener query, report and done (RFC 2710), and report of version 2 (RFC 3810).
const MLD: [IcmpType; 4] = [IcmpType(130), IcmpType(131), IcmpType(132), IcmpType(143)];

/// Why a frame to a group goes to the slow path, if the network's does.
#[inline]
pub(super) fn suppress(segment: &Segment, ethernet: Ethernet<'_>) -> Option<PuntReason> {
    if !segment.suppresses && !segment.snoops {
        return None;
    }
    let reason = reason(ethernet)?;
    let is_wanted = match reason {
        PuntReason::GroupMembership => segment.snoops,
        _ => segment.suppresses,
    };
    is_wanted.then_some(reason)
}

#[cold]
fn reason(ethernet: Ethernet<'_>) -> Option<PuntReason> {
    match ethernet.ether_type() {
        EtherType::ARP => Some(PuntReason::Arp),
        EtherType::IPV4 => {
            let ip = Ipv4::parse(ethernet.payload()).ok()?;
            (ip.protocol() == IpProtocol::IGMP).then_some(PuntReason::GroupMembership)
        }
        EtherType::IPV6 => {
            let upper = Ipv6::parse(ethernet.payload()).ok()?.upper().ok()?;
            let kind = IcmpType(*upper.payload.first()?);
            match kind {
                _ if upper.protocol != IpProtocol::ICMPV6 || upper.is_fragment() => None,
                IcmpType::V6_NEIGHBOUR_SOLICITATION => Some(PuntReason::NeighbourSolicitation),
                IcmpType::V6_NEIGHBOUR_ADVERTISEMENT => Some(PuntReason::NeighbourAdvertisement),
                _ => MLD.contains(&kind).then_some(PuntReason::GroupMembership),
            }
        }
        _ => None,
    }
}

/// Whom a frame is for that the slow path gives back: what hosts say of groups, those who ask for it, and other nodes.
#[cold]
pub(super) fn audience(segment: &Segment, frame: &Frame) -> Audience {
    if !segment.snoops {
        return Audience::Everybody;
    }
    let said = || {
        let ethernet = Ethernet::parse(frame.bytes()).ok()?;
        let (membership, audience) = match ethernet.ether_type() {
            EtherType::IPV4 => {
                let ip = Ipv4::parse(ethernet.payload()).ok()?;
                (Membership::parse_v4(&ip).ok()??, Audience::Ipv4Queriers)
            }
            EtherType::IPV6 => {
                let ip = Ipv6::parse(ethernet.payload()).ok()?;
                (Membership::parse_v6(&ip).ok()??, Audience::Ipv6Queriers)
            }
            _ => return None,
        };
        matches!(membership, Membership::Report(_)).then_some(audience)
    };
    said().unwrap_or(Audience::Everybody)
}
