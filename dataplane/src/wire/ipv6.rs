//! Internet Protocol version 6 (RFC 8200): the fixed header here, the walk over extension headers in
//! [`extension`].

use core::net::Ipv6Addr;

use super::checksum::{self, Delta, Sum};
use super::{Dscp, Ecn, IpProtocol, Malformed};

pub mod extension;

pub use extension::{MAX_EXTENSION_HEADERS, Upper, walk};

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;

/// The least that a link with IPv6 must carry in one piece, in bytes (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;

/// Length of the payload as the header says it, in bytes.
#[inline]
fn claimed_length(header: &[u8; HEADER_LEN]) -> Result<usize, Malformed> {
    if header[0] >> 4 != 6 {
        return Err(Malformed::Ipv6Version);
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if payload_len == 0 && IpProtocol(header[6]) == IpProtocol::HOP_BY_HOP {
        return Err(Malformed::Ipv6PayloadLength);
    }
    Ok(payload_len)
}

/// Read-only view of an IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// Checks version and payload length. Bytes after the payload length are padding of the link and are
    /// left out of the payload. A payload length of zero before hop-by-hop options announces a jumbogram
    /// (RFC 2675), which is refused.
    ///
    /// # Errors
    /// [`Malformed::Ipv6Truncated`], [`Malformed::Ipv6Version`], [`Malformed::Ipv6PayloadLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Malformed::Ipv6Truncated)?;
        let payload = rest
            .get(..claimed_length(header)?)
            .ok_or(Malformed::Ipv6PayloadLength)?;
        Ok(Self { header, payload })
    }

    /// Checks the start of a packet as an ICMPv6 error quotes it: the fixed header is whole, the payload is
    /// what there is of it.
    ///
    /// # Errors
    /// [`Malformed::Ipv6Truncated`], [`Malformed::Ipv6Version`], [`Malformed::Ipv6PayloadLength`]
    /// (jumbogram).
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Malformed::Ipv6Truncated)?;
        let payload = rest.get(..claimed_length(header)?).unwrap_or(rest);
        Ok(Self { header, payload })
    }

    /// DSCP and ECN in one byte.
    #[must_use]
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Differentiated services codepoint.
    #[must_use]
    #[inline]
    pub const fn dscp(&self) -> Dscp {
        Dscp::from_traffic_class(self.traffic_class())
    }

    /// Explicit congestion notification.
    #[must_use]
    #[inline]
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.traffic_class())
    }

    /// Flow label, 20 bits (RFC 6437).
    #[must_use]
    #[inline]
    pub const fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0x0f, self.header[2], self.header[3]])
    }

    /// Length of the payload, extension headers included, in bytes, as the header says it.
    #[must_use]
    #[inline]
    pub const fn payload_len(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// What the payload begins with: the upper layer or an extension header.
    #[must_use]
    #[inline]
    pub const fn next_header(&self) -> IpProtocol {
        IpProtocol(self.header[6])
    }

    /// How many more routers may forward the packet.
    #[must_use]
    #[inline]
    pub const fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// The address of the packet's sender.
    #[must_use]
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.header[8..24]);
        Ipv6Addr::from(octets)
    }

    /// The address the packet is for; not yet the final one while [`Upper::segments_left`] is not zero.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.header[24..40]);
        Ipv6Addr::from(octets)
    }

    /// The bytes after the fixed header, up to the payload length.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The sum of both addresses, with which the checksum of the upper layer begins.
    #[must_use]
    #[inline]
    pub fn address_sum(&self) -> Sum {
        checksum::addresses_v6(self.source(), self.destination())
    }

    /// Walks the extension headers to the upper layer; see [`walk`].
    ///
    /// # Errors
    /// Those of [`walk`].
    #[inline]
    pub fn upper(&self) -> Result<Upper<'a>, Malformed> {
        walk(self.next_header(), self.payload)
    }
}

/// View of an IPv6 packet whose fixed header is edited where it lies.
#[derive(Debug)]
pub struct Ipv6Mut<'a> {
    header: &'a mut [u8; HEADER_LEN],
    payload: &'a mut [u8],
}

impl<'a> Ipv6Mut<'a> {
    /// Makes the checks of [`Ipv6::parse`].
    ///
    /// # Errors
    /// Those of [`Ipv6::parse`].
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(Malformed::Ipv6Truncated)?;
        let payload = rest
            .get_mut(..claimed_length(header)?)
            .ok_or(Malformed::Ipv6PayloadLength)?;
        Ok(Self { header, payload })
    }

    /// Makes the checks of [`Ipv6::parse_quoted`].
    ///
    /// # Errors
    /// Those of [`Ipv6::parse_quoted`].
    #[inline]
    pub fn parse_quoted(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(Malformed::Ipv6Truncated)?;
        let quoted_len = claimed_length(header)?.min(rest.len());
        let payload = rest.get_mut(..quoted_len).ok_or(Malformed::Ipv6PayloadLength)?;
        Ok(Self { header, payload })
    }

    /// The read-only view of the same bytes.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> Ipv6<'_> {
        Ipv6 {
            header: self.header,
            payload: self.payload,
        }
    }

    /// The bytes after the fixed header, up to the payload length.
    #[must_use]
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// Gives the view up for its payload, with the life time of the packet.
    #[must_use]
    #[inline]
    pub fn into_payload(self) -> &'a mut [u8] {
        self.payload
    }

    /// Takes one off the hop limit and answers what is left; `None` with nothing changed if the packet may
    /// not be forwarded any more (RFC 8200 section 3).
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> Option<u8> {
        let left = self.header[7].checked_sub(1).filter(|&hops| hops > 0)?;
        self.header[7] = left;
        Some(left)
    }

    /// Writes the source address; answers the change, which the upper layer's checksum must follow.
    #[inline]
    #[must_use = "the upper layer's checksum covers the addresses"]
    pub fn set_source(&mut self, address: Ipv6Addr) -> Delta {
        let delta = Delta::ipv6(self.view().source(), address);
        self.header[8..24].copy_from_slice(&address.octets());
        delta
    }

    /// Writes the destination address; answers the change, which the upper layer's checksum must follow
    /// unless [`Upper::segments_left`] is not zero.
    #[inline]
    #[must_use = "the upper layer's checksum covers the addresses"]
    pub fn set_destination(&mut self, address: Ipv6Addr) -> Delta {
        let delta = Delta::ipv6(self.view().destination(), address);
        self.header[24..40].copy_from_slice(&address.octets());
        delta
    }

    /// Writes both addresses; the change, which the upper layer's checksum must follow, is known to the caller.
    #[inline]
    pub fn replace_addresses(&mut self, source: Ipv6Addr, destination: Ipv6Addr) {
        self.header[8..24].copy_from_slice(&source.octets());
        self.header[24..40].copy_from_slice(&destination.octets());
    }

    /// Writes the ECN field and leaves the DSCP as it is.
    #[inline]
    pub fn set_ecn(&mut self, ecn: Ecn) {
        self.header[1] = self.header[1] & 0xcf | ecn.bits() << 4;
    }

    /// Writes the payload length, in bytes. The view keeps its payload, so parse again to see the new one.
    #[inline]
    pub fn set_payload_len(&mut self, payload_len: u16) {
        self.header[4..6].copy_from_slice(&payload_len.to_be_bytes());
    }

    /// Completes the upper layer's TCP or UDP checksum if the kernel left it half computed
    /// ([`checksum::complete_partial`]); answers whether it did. A fragment, and a packet on its way
    /// through a routing header, is left alone.
    ///
    /// # Errors
    /// Those of [`walk`].
    #[inline]
    pub fn complete_partial_checksum(&mut self) -> Result<bool, Malformed> {
        let view = self.view();
        let upper = view.upper()?;
        if upper.is_fragment() || upper.segments_left != 0 {
            return Ok(false);
        }
        let (addresses, protocol, offset) = (view.address_sum(), upper.protocol, upper.offset);
        let l4 = self
            .payload
            .get_mut(offset..)
            .ok_or(Malformed::Ipv6ExtensionTruncated)?;
        Ok(checksum::complete_partial(addresses, protocol, l4))
    }
}

/// The fields of an IPv6 fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Fields {
    /// Differentiated services codepoint.
    pub dscp: Dscp,
    /// Explicit congestion notification.
    pub ecn: Ecn,
    /// Flow label; only the low 20 bits are sent.
    pub flow_label: u32,
    /// Length of the payload, extension headers included, in bytes.
    pub payload_len: u16,
    /// What the payload begins with.
    pub next_header: IpProtocol,
    /// How many routers may forward the packet.
    pub hop_limit: u8,
    /// The address of the packet's sender.
    pub source: Ipv6Addr,
    /// The address the packet is for.
    pub destination: Ipv6Addr,
}

impl Ipv6Fields {
    /// Writes a whole fixed header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let class = u32::from(self.dscp.traffic_class(self.ecn));
        let first = 6 << 28 | class << 20 | self.flow_label & 0x000f_ffff;
        out[0..4].copy_from_slice(&first.to_be_bytes());
        out[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        out[6] = self.next_header.0;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.source.octets());
        out[24..40].copy_from_slice(&self.destination.octets());
    }
}
