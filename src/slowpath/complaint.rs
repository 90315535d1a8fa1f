//! ICMP errors, of both families (RFC 792, RFC 1191, RFC 1812 section 4.3, RFC 4443).

use std::net::IpAddr;

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::table::{NodeTables, Target};
use millrace_dataplane::wire::icmp::{self, code_v4, code_v6};
use millrace_dataplane::wire::{Dscp, IcmpFamily, IcmpType, IpProtocol, ipv4, ipv6};

use super::compose::Envelope;
use super::original::Original;
use super::stats::Silence;

/// Longest ICMP error over IPv4, IP header included, in bytes (RFC 1812 section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Longest ICMP error over IPv6, IP header included, in bytes: the smallest MTU (RFC 4443 section 2.4 (c)).
const LONGEST_V6: usize = ipv6::MIN_MTU as usize;
/// Internetwork control, the precedence of ICMP errors (RFC 1812 section 4.3.2.5).
const PRECEDENCE: u8 = 6 << 3;

/// ICMP destination unreachable: nobody takes this protocol (RFC 792).
const PROTOCOL_UNREACHABLE_V4: u8 = 2;
/// ICMPv6 parameter problem: nobody takes this next header (RFC 4443 section 3.4).
const UNKNOWN_NEXT_HEADER_V6: u8 = 1;

/// What an ICMP error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complaint {
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// Larger than the way out takes.
    TooBig {
        /// The largest IP packet, in bytes, that fits.
        mtu: u16,
    },
    /// There is no route.
    NoRoute,
    /// There is a route, and nobody at its end.
    HostUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// Nobody takes the protocol.
    ProtocolUnreachable,
}

impl Complaint {
    /// Type, code and the rest of the header of the message about `original`.
    fn header(self, original: &Original<'_>) -> (IcmpType, u8, [u8; 4]) {
        match original.icmp_family() {
            IcmpFamily::V4 => self.header_v4(),
            IcmpFamily::V6 => self.header_v6(original.protocol_at),
        }
    }

    fn header_v4(self) -> (IcmpType, u8, [u8; 4]) {
        let unreachable = |code| (IcmpType::V4_UNREACHABLE, code, [0; 4]);
        match self {
            Complaint::TimeExceeded => (IcmpType::V4_TIME_EXCEEDED, code_v4::TTL_EXCEEDED, [0; 4]),
            Complaint::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                (
                    IcmpType::V4_UNREACHABLE,
                    code_v4::FRAGMENTATION_NEEDED,
                    [0, 0, high, low],
                )
            }
            Complaint::NoRoute => unreachable(code_v4::NET_UNREACHABLE),
            Complaint::HostUnreachable => unreachable(code_v4::HOST_UNREACHABLE),
            Complaint::PortUnreachable => unreachable(code_v4::PORT_UNREACHABLE),
            Complaint::ProtocolUnreachable => unreachable(PROTOCOL_UNREACHABLE_V4),
        }
    }

    fn header_v6(self, protocol_at: usize) -> (IcmpType, u8, [u8; 4]) {
        let unreachable = |code| (IcmpType::V6_UNREACHABLE, code, [0; 4]);
        match self {
            Complaint::TimeExceeded => (IcmpType::V6_TIME_EXCEEDED, code_v6::HOP_LIMIT_EXCEEDED, [0; 4]),
            Complaint::TooBig { mtu } => (IcmpType::V6_PACKET_TOO_BIG, 0, u32::from(mtu).to_be_bytes()),
            Complaint::NoRoute => unreachable(code_v6::NO_ROUTE),
            Complaint::HostUnreachable => unreachable(code_v6::ADDRESS_UNREACHABLE),
            Complaint::PortUnreachable => unreachable(code_v6::PORT_UNREACHABLE),
            Complaint::ProtocolUnreachable => {
                let pointer = u32::try_from(protocol_at).unwrap_or(0).to_be_bytes();
                (IcmpType::V6_PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER_V6, pointer)
            }
        }
    }

    /// The whole packet that says it to the sender of `original`, from `source`. It quotes as much of the packet as
    /// it may. Whether an error is allowed at all is not its business ([`Original::check_error_allowed`]).
    pub(super) fn compose(self, original: &Original<'_>, source: IpAddr, id: u16) -> Option<PacketCopy> {
        let family = original.icmp_family();
        let (protocol, longest, ip_header_len) = match family {
            IcmpFamily::V4 => (IpProtocol::ICMP, LONGEST_V4, ipv4::HEADER_LEN),
            IcmpFamily::V6 => (IpProtocol::ICMPV6, LONGEST_V6, ipv6::HEADER_LEN),
        };
        let envelope = Envelope {
            source,
            destination: original.source,
            protocol,
            dscp: Dscp::new(PRECEDENCE)?,
            id,
            dont_fragment: false,
        };
        let room = longest - ip_header_len - icmp::HEADER_LEN;
        let quote = original.bytes.get(..room).unwrap_or(original.bytes);
        let (kind, code, rest) = self.header(original);
        let mut header = [0; icmp::HEADER_LEN];
        icmp::emit(&mut header, kind, code, rest);
        let mut message = [&header[..], quote].concat();
        icmp::fill_checksum(family, envelope.address_sum(), &mut message);
        envelope.seal(&message)
    }
}

/// The address that the switch sends errors from: a gateway's, which lies in the pod prefix, so that another node takes
/// it out of a tunnel from us; to anyone whom the uplink alone leads to, this node's own there, since the world knows no
/// other. Without the one, the other, or any address of the node.
///
/// # Errors
/// [`Silence::NoSource`] when there is none of the family of `destination`.
pub(super) fn source(tables: &NodeTables, destination: IpAddr) -> Result<IpAddr, Silence> {
    let local = &tables.local;
    let fits = |address: &IpAddr| match (address, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => true,
        (IpAddr::V6(own), IpAddr::V6(_)) => !own.is_unicast_link_local(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    };
    let on_uplink = match destination {
        IpAddr::V4(_) => local.sources_v4.uplink.map(IpAddr::V4),
        IpAddr::V6(_) => local.sources_v6.uplink.map(IpAddr::V6),
    };
    let is_by_uplink = |end| match end {
        Target::Via { port, .. } | Target::OnLink { port } => Some(port) == local.uplink,
        _ => false,
    };
    let target = tables.routes.lookup(destination);
    let by_uplink = target.is_some_and(|target| tables.routes.ends(target).any(is_by_uplink));
    let first = on_uplink.filter(|_| by_uplink);
    let rest = local.gateways.iter().chain(&local.addresses).copied();
    first.into_iter().chain(rest).find(fits).ok_or(Silence::NoSource)
}
