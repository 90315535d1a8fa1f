//! ICMP for IPv4 (RFC 792) and for IPv6 (RFC 4443, RFC 4861), which share their header's form but not their
//! numbers, nor what their checksum covers.

use core::fmt;

use super::checksum::{self, Delta, Sum};
use super::{IpProtocol, Malformed};

/// Length of an ICMP header: type, code, checksum and four bytes that depend on the type.
pub const HEADER_LEN: usize = 8;

/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: usize = 2;

/// Which of the two protocols a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpFamily {
    /// ICMP, IP protocol [`IpProtocol::ICMP`].
    V4,
    /// ICMPv6, IP protocol [`IpProtocol::ICMPV6`].
    V6,
}

/// The type of a message. The two families give the numbers different meanings, which the constants' names
/// tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IcmpType(pub u8);

impl IcmpType {
    /// ICMP: answer to an echo request.
    pub const V4_ECHO_REPLY: Self = Self(0);
    /// ICMP error: destination unreachable.
    pub const V4_UNREACHABLE: Self = Self(3);
    /// ICMP error, out of use: source quench.
    pub const V4_SOURCE_QUENCH: Self = Self(4);
    /// ICMP: another router is nearer. It quotes a packet, as errors do.
    pub const V4_REDIRECT: Self = Self(5);
    /// ICMP: please answer.
    pub const V4_ECHO_REQUEST: Self = Self(8);
    /// ICMP error: the TTL, or the time to reassemble, ran out.
    pub const V4_TIME_EXCEEDED: Self = Self(11);
    /// ICMP error: a header field makes no sense.
    pub const V4_PARAMETER_PROBLEM: Self = Self(12);

    /// ICMPv6 error: destination unreachable.
    pub const V6_UNREACHABLE: Self = Self(1);
    /// ICMPv6 error: larger than the next link's MTU.
    pub const V6_PACKET_TOO_BIG: Self = Self(2);
    /// ICMPv6 error: the hop limit, or the time to reassemble, ran out.
    pub const V6_TIME_EXCEEDED: Self = Self(3);
    /// ICMPv6 error: a header field makes no sense.
    pub const V6_PARAMETER_PROBLEM: Self = Self(4);
    /// ICMPv6: please answer.
    pub const V6_ECHO_REQUEST: Self = Self(128);
    /// ICMPv6: answer to an echo request.
    pub const V6_ECHO_REPLY: Self = Self(129);
    /// Neighbour discovery: router solicitation.
    pub const V6_ROUTER_SOLICITATION: Self = Self(133);
    /// Neighbour discovery: router advertisement.
    pub const V6_ROUTER_ADVERTISEMENT: Self = Self(134);
    /// Neighbour discovery: neighbour solicitation.
    pub const V6_NEIGHBOUR_SOLICITATION: Self = Self(135);
    /// Neighbour discovery: neighbour advertisement.
    pub const V6_NEIGHBOUR_ADVERTISEMENT: Self = Self(136);
    /// Neighbour discovery: redirect.
    pub const V6_REDIRECT: Self = Self(137);
}

impl fmt::Debug for IcmpType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.0)
    }
}

/// Codes of [`IcmpType::V4_UNREACHABLE`] and [`IcmpType::V4_TIME_EXCEEDED`] that the switch sends or reads.
pub mod code_v4 {
    /// Unreachable: no route to the network.
    pub const NET_UNREACHABLE: u8 = 0;
    /// Unreachable: the host does not answer.
    pub const HOST_UNREACHABLE: u8 = 1;
    /// Unreachable: nobody listens on the port.
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Unreachable: larger than the next link's MTU, and fragmentation forbidden.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Unreachable: forbidden by an administrator (RFC 1812 section 5.2.7.1).
    pub const ADMINISTRATIVELY_PROHIBITED: u8 = 13;
    /// Time exceeded: the TTL ran out on the way.
    pub const TTL_EXCEEDED: u8 = 0;
}

/// Codes of [`IcmpType::V6_UNREACHABLE`] and [`IcmpType::V6_TIME_EXCEEDED`] that the switch sends or reads.
pub mod code_v6 {
    /// Unreachable: no route to the destination.
    pub const NO_ROUTE: u8 = 0;
    /// Unreachable: forbidden by an administrator.
    pub const ADMINISTRATIVELY_PROHIBITED: u8 = 1;
    /// Unreachable: the address does not answer.
    pub const ADDRESS_UNREACHABLE: u8 = 3;
    /// Unreachable: nobody listens on the port.
    pub const PORT_UNREACHABLE: u8 = 4;
    /// Time exceeded: the hop limit ran out on the way.
    pub const HOP_LIMIT_EXCEEDED: u8 = 0;
}

/// The identifier and sequence number of an echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Echo {
    /// Which series of requests this one belongs to.
    pub id: u16,
    /// Its place in the series.
    pub sequence: u16,
}

/// Read-only view of an ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    family: IcmpFamily,
    header: &'a [u8; HEADER_LEN],
    body: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// Checks that `bytes`, the whole payload of an IP packet, hold a header. The checksum is checked by
    /// [`Icmp::verify_checksum`].
    ///
    /// # Errors
    /// [`Malformed::IcmpTruncated`].
    #[inline]
    pub fn parse(family: IcmpFamily, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, body) = bytes.split_first_chunk().ok_or(Malformed::IcmpTruncated)?;
        Ok(Self { family, header, body })
    }

    /// Checks the checksum. `addresses` is the sum of the packet's addresses
    /// ([`Ipv6::address_sum`](super::Ipv6::address_sum)), which only ICMPv6 covers.
    ///
    /// # Errors
    /// [`Malformed::IcmpChecksum`].
    #[inline]
    pub fn verify_checksum(&self, addresses: Sum) -> Result<(), Malformed> {
        let pseudo = match self.family {
            IcmpFamily::V4 => Sum::ZERO,
            IcmpFamily::V6 => addresses.add_transport(IpProtocol::ICMPV6, HEADER_LEN + self.body.len()),
        };
        if pseudo.add_bytes(self.header).add_bytes(self.body).is_valid() {
            Ok(())
        } else {
            Err(Malformed::IcmpChecksum)
        }
    }

    /// Which of the two protocols the message belongs to.
    #[must_use]
    #[inline]
    pub const fn family(&self) -> IcmpFamily {
        self.family
    }

    /// What the message is.
    #[must_use]
    #[inline]
    pub const fn kind(&self) -> IcmpType {
        IcmpType(self.header[0])
    }

    /// What the message is more exactly.
    #[must_use]
    #[inline]
    pub const fn code(&self) -> u8 {
        self.header[1]
    }

    /// The checksum as it stands in the header.
    #[must_use]
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The last four bytes of the header, whose meaning depends on the type.
    #[must_use]
    #[inline]
    pub const fn rest_of_header(&self) -> [u8; 4] {
        [self.header[4], self.header[5], self.header[6], self.header[7]]
    }

    /// The bytes after the header.
    #[must_use]
    #[inline]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether the message is an echo request.
    #[must_use]
    #[inline]
    pub const fn is_echo_request(&self) -> bool {
        match self.family {
            IcmpFamily::V4 => matches!(self.kind(), IcmpType::V4_ECHO_REQUEST),
            IcmpFamily::V6 => matches!(self.kind(), IcmpType::V6_ECHO_REQUEST),
        }
    }

    /// Whether the message is an echo reply.
    #[must_use]
    #[inline]
    pub const fn is_echo_reply(&self) -> bool {
        match self.family {
            IcmpFamily::V4 => matches!(self.kind(), IcmpType::V4_ECHO_REPLY),
            IcmpFamily::V6 => matches!(self.kind(), IcmpType::V6_ECHO_REPLY),
        }
    }

    /// Identifier and sequence number, if the message is an echo request or reply.
    #[must_use]
    #[inline]
    pub fn echo(&self) -> Option<Echo> {
        let [a, b, c, d] = self.rest_of_header();
        (self.is_echo_request() || self.is_echo_reply()).then(|| Echo {
            id: u16::from_be_bytes([a, b]),
            sequence: u16::from_be_bytes([c, d]),
        })
    }

    /// Whether the message is about another packet, which it quotes. No ICMP error may ever answer one (RFC
    /// 1812 section 4.3.2.7, RFC 4443 section 2.4).
    #[must_use]
    #[inline]
    pub const fn is_error(&self) -> bool {
        match self.family {
            IcmpFamily::V4 => matches!(
                self.kind(),
                IcmpType::V4_UNREACHABLE
                    | IcmpType::V4_SOURCE_QUENCH
                    | IcmpType::V4_REDIRECT
                    | IcmpType::V4_TIME_EXCEEDED
                    | IcmpType::V4_PARAMETER_PROBLEM
            ),
            // The high bit tells errors, known or not yet, from the rest (RFC 4443 section 2.1).
            IcmpFamily::V6 => self.kind().0 < 128,
        }
    }

    /// The start of the packet that an error is about, to be read by `parse_quoted` of its family.
    #[must_use]
    #[inline]
    pub fn quoted(&self) -> Option<&'a [u8]> {
        self.is_error().then_some(self.body)
    }

    /// The MTU of the next link, in bytes, if the message says that a packet was too large for it. An old
    /// router may say 0 (RFC 1191 section 5).
    #[must_use]
    #[inline]
    pub fn next_hop_mtu(&self) -> Option<u32> {
        let rest = self.rest_of_header();
        match (self.family, self.kind(), self.code()) {
            (IcmpFamily::V4, IcmpType::V4_UNREACHABLE, code_v4::FRAGMENTATION_NEEDED) => {
                Some(u32::from(u16::from_be_bytes([rest[2], rest[3]])))
            }
            (IcmpFamily::V6, IcmpType::V6_PACKET_TOO_BIG, _) => Some(u32::from_be_bytes(rest)),
            _ => None,
        }
    }
}

/// View of an ICMP or ICMPv6 message that is edited where it lies; each setter keeps the checksum right.
#[derive(Debug)]
pub struct IcmpMut<'a> {
    family: IcmpFamily,
    header: &'a mut [u8; HEADER_LEN],
    body: &'a mut [u8],
}

impl<'a> IcmpMut<'a> {
    /// Makes the checks of [`Icmp::parse`].
    ///
    /// # Errors
    /// Those of [`Icmp::parse`].
    #[inline]
    pub fn parse(family: IcmpFamily, bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, body) = bytes.split_first_chunk_mut().ok_or(Malformed::IcmpTruncated)?;
        Ok(Self { family, header, body })
    }

    /// The read-only view of the same bytes.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> Icmp<'_> {
        Icmp {
            family: self.family,
            header: self.header,
            body: self.body,
        }
    }

    /// The bytes after the header. What is written there must be told to [`IcmpMut::adjust_checksum`].
    #[must_use]
    #[inline]
    pub fn body_mut(&mut self) -> &mut [u8] {
        self.body
    }

    /// Carries a change of something the checksum covers into it: the body, and for ICMPv6 the addresses. To be called
    /// after the change itself.
    #[inline]
    pub fn adjust_checksum(&mut self, delta: Delta) {
        let mut field = delta.apply(self.view().checksum());
        if field == 0 && self.is_all_zero() {
            // ICMPv4 has no pseudo-header, so everything that is summed can be zero, and only then does the increment
            // (RFC 1624, equation 3) end at the other zero of one's complement than a full computation.
            field = u16::MAX;
        }
        self.header[2..4].copy_from_slice(&field.to_be_bytes());
    }

    /// Whether all that an ICMPv4 checksum covers is zero.
    #[cold]
    fn is_all_zero(&self) -> bool {
        let [kind, code, _, _, rest @ ..] = *self.header;
        self.family == IcmpFamily::V4
            && (kind, code) == (0, 0)
            && rest == [0; 4]
            && self.body.iter().all(|byte| *byte == 0)
    }

    /// Writes the type and leaves the code as it is; turns an echo request into its reply.
    #[inline]
    pub fn set_kind(&mut self, kind: IcmpType) {
        let old = u16::from_be_bytes([self.header[0], self.header[1]]);
        self.header[0] = kind.0;
        self.adjust_checksum(Delta::u16(old, u16::from_be_bytes([kind.0, self.header[1]])));
    }

    /// Writes the identifier of an echo request or reply; any other message is left alone.
    #[inline]
    pub fn set_echo_id(&mut self, id: u16) {
        if let Some(echo) = self.view().echo() {
            self.header[4..6].copy_from_slice(&id.to_be_bytes());
            self.adjust_checksum(Delta::u16(echo.id, id));
        }
    }
}

/// Writes a whole header; the checksum is zero, to be computed over header and body by [`fill_checksum`].
#[inline]
pub fn emit(out: &mut [u8; HEADER_LEN], kind: IcmpType, code: u8, rest_of_header: [u8; 4]) {
    let [a, b, c, d] = rest_of_header;
    *out = [kind.0, code, 0, 0, a, b, c, d];
}

/// Computes the checksum of a whole message and writes it. `addresses` is the sum of the packet's
/// addresses, which only ICMPv6 covers. Answers `false`, with nothing changed, if `message` ends before the
/// field.
#[inline]
pub fn fill_checksum(family: IcmpFamily, addresses: Sum, message: &mut [u8]) -> bool {
    match family {
        IcmpFamily::V6 => checksum::fill_transport(addresses, IpProtocol::ICMPV6, message),
        IcmpFamily::V4 => {
            let Some(header) = message.first_chunk_mut::<HEADER_LEN>() else {
                return false;
            };
            header[2..4].fill(0);
            let field = checksum::checksum(message).to_be_bytes();
            if let Some(header) = message.first_chunk_mut::<HEADER_LEN>() {
                header[2..4].copy_from_slice(&field);
            }
            true
        }
    }
}
