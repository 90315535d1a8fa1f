//! A punted IP packet, read as far as an answer to it needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::wire::checksum::Sum;
use millrace_dataplane::wire::{
    Dscp, EtherType, Ethernet, Icmp, IcmpFamily, IcmpType, IpProtocol, Ipv4, Ipv6, ipv6,
};

use super::stats::Silence;

/// Where the first next header field of an IPv6 packet stands, in bytes.
const NEXT_HEADER_V6: usize = 6;

/// First number of the IPv4 addresses that are nobody's (class E, RFC 1112 section 4).
const CLASS_E: u8 = 240;

/// A punted IP packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Original<'p> {
    /// The whole IP packet, without the link's padding.
    pub(super) bytes: &'p [u8],
    /// Who sent it.
    pub(super) source: IpAddr,
    /// Whom it is for.
    pub(super) destination: IpAddr,
    /// The transport, behind any extension headers.
    pub(super) protocol: IpProtocol,
    /// The transport's bytes.
    pub(super) transport: &'p [u8],
    /// TTL or hop limit.
    pub(super) hops: u8,
    /// How urgent the sender holds it.
    pub(super) dscp: Dscp,
    /// Whether it is a piece of a packet, the first one included.
    pub(super) is_fragment: bool,
    /// Whether it holds the transport's start.
    pub(super) has_start: bool,
    /// Whether its sender told it a way to go, and it has not gone all of it.
    pub(super) is_source_routed: bool,
    /// Where the field stands that says what the transport is, in bytes; only of interest for IPv6.
    pub(super) protocol_at: usize,
    /// The sum of both addresses.
    pub(super) address_sum: Sum,
    /// Whether the link-layer destination was one station.
    is_link_unicast: bool,
}

impl<'p> Original<'p> {
    /// Reads a punted packet, Ethernet header first.
    ///
    /// # Errors
    /// [`Silence::Malformed`] when its headers contradict themselves.
    pub(super) fn parse(frame: &'p [u8]) -> Result<Self, Silence> {
        let ethernet = Ethernet::parse(frame)?;
        let is_link_unicast = !ethernet.destination().is_multicast();
        let bytes = ethernet.payload();
        match ethernet.ether_type() {
            EtherType::IPV4 => Self::parse_v4(bytes, is_link_unicast),
            EtherType::IPV6 => Self::parse_v6(bytes, is_link_unicast),
            _ => Err(Silence::Malformed),
        }
    }

    fn parse_v4(bytes: &'p [u8], is_link_unicast: bool) -> Result<Self, Silence> {
        let ip = Ipv4::parse(bytes)?;
        ip.verify_checksum()?;
        Ok(Self {
            bytes: bytes
                .get(..usize::from(ip.total_len()))
                .ok_or(Silence::Malformed)?,
            source: IpAddr::V4(ip.source()),
            destination: IpAddr::V4(ip.destination()),
            protocol: ip.protocol(),
            transport: ip.payload(),
            hops: ip.ttl(),
            dscp: ip.dscp(),
            is_fragment: ip.is_fragment(),
            has_start: ip.fragment_offset() == 0,
            is_source_routed: false,
            protocol_at: 0,
            address_sum: ip.address_sum(),
            is_link_unicast,
        })
    }

    fn parse_v6(bytes: &'p [u8], is_link_unicast: bool) -> Result<Self, Silence> {
        let ip = Ipv6::parse(bytes)?;
        let upper = ip.upper()?;
        let len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
        Ok(Self {
            bytes: bytes.get(..len).ok_or(Silence::Malformed)?,
            source: IpAddr::V6(ip.source()),
            destination: IpAddr::V6(ip.destination()),
            protocol: upper.protocol,
            transport: upper.payload,
            hops: ip.hop_limit(),
            dscp: ip.dscp(),
            is_fragment: upper.is_fragment(),
            has_start: upper.fragment.is_none_or(|fragment| fragment.is_first()),
            is_source_routed: upper.segments_left != 0,
            protocol_at: last_next_header(ip.next_header(), ip.payload(), upper.offset),
            address_sum: ip.address_sum(),
            is_link_unicast,
        })
    }

    /// Which of the two ICMPs belongs to the packet.
    pub(super) fn icmp_family(&self) -> IcmpFamily {
        match self.source {
            IpAddr::V4(_) => IcmpFamily::V4,
            IpAddr::V6(_) => IcmpFamily::V6,
        }
    }

    /// The ICMP message that the packet carries, if it carries one of its own family.
    ///
    /// # Errors
    /// [`Silence::Malformed`] when the message is cut short.
    pub(super) fn icmp(&self) -> Result<Option<Icmp<'p>>, Silence> {
        let family = self.icmp_family();
        let protocol = match family {
            IcmpFamily::V4 => IpProtocol::ICMP,
            IcmpFamily::V6 => IpProtocol::ICMPV6,
        };
        if self.protocol != protocol {
            return Ok(None);
        }
        Ok(Some(Icmp::parse(family, self.transport)?))
    }

    /// Whether its sender is one station that can be answered, and it was sent to one station (RFC 1122 section
    /// 3.2.2, RFC 4443 section 2.4).
    ///
    /// # Errors
    /// [`Silence::Address`].
    pub(super) fn check_answerable(&self) -> Result<(), Silence> {
        let is_one_station = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                is_station_v4(source) && !destination.is_multicast() && !destination.is_broadcast()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                is_station_v6(source) && !destination.is_multicast()
            }
            // INVARIANT: one packet's addresses are of one family.
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        };
        if is_one_station && self.is_link_unicast {
            Ok(())
        } else {
            Err(Silence::Address)
        }
    }

    /// Whether an ICMP error about it is allowed (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)).
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn check_error_allowed(&self) -> Result<(), Silence> {
        self.check_answerable()?;
        if !self.has_start {
            return Err(Silence::Fragment);
        }
        match self.icmp()? {
            Some(icmp) if icmp.is_error() || is_redirect(&icmp) => Err(Silence::IcmpError),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether an address is one station's.
fn is_station_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first < CLASS_E && !address.is_multicast() && !address.is_loopback()
}

/// Whether an address is one station's that can be reached through a router. Embedded IPv4 addresses, loopback and
/// the unspecified address begin with 80 bits of zeros (RFC 4291 section 2.5.5).
fn is_station_v6(address: Ipv6Addr) -> bool {
    !address.is_multicast() && !address.is_unicast_link_local() && address.to_bits() >> 48 != 0
}

/// Whether a message redirects: the other family's redirect counts as an error anyway.
fn is_redirect(icmp: &Icmp<'_>) -> bool {
    icmp.family() == IcmpFamily::V6 && icmp.kind() == IcmpType::V6_REDIRECT
}

/// Where the next header field stands that names the header at `offset` of the payload, in bytes from the start of
/// the packet. The chain up to there has been walked before, so its headers are whole.
fn last_next_header(first: IpProtocol, payload: &[u8], offset: usize) -> usize {
    let (mut kind, mut at, mut field) = (first, 0, NEXT_HEADER_V6);
    while at < offset {
        let Some([next, units, ..]) = payload.get(at..) else {
            break;
        };
        field = ipv6::HEADER_LEN + at;
        at += match kind {
            IpProtocol::FRAGMENT => ipv6::extension::FRAGMENT_HEADER_LEN,
            IpProtocol::AH => (usize::from(*units) + 2) * 4,
            _ => (usize::from(*units) + 1) * 8,
        };
        kind = IpProtocol(*next);
    }
    field
}
