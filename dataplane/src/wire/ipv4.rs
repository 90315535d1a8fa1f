//! Internet Protocol version 4 (RFC 791).

use core::net::Ipv4Addr;

use super::checksum::{self, Sum};
use super::{Dscp, Ecn, Fragment, IpProtocol, Malformed};

mod edit;

pub use edit::{Ipv4Mut, relay};

/// Length of an IPv4 header without options, in bytes.
pub const HEADER_LEN: usize = 20;

/// Longest IPv4 header, options included, in bytes.
pub const MAX_HEADER_LEN: usize = 60;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Lengths of the options and of the payload, as the header says them, checked against each other only.
#[inline]
fn claimed_lengths(header: &[u8; HEADER_LEN]) -> Result<(usize, usize), Malformed> {
    if header[0] >> 4 != 4 {
        return Err(Malformed::Ipv4Version);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let options_len = header_len
        .checked_sub(HEADER_LEN)
        .ok_or(Malformed::Ipv4HeaderLength)?;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload_len = total_len
        .checked_sub(header_len)
        .ok_or(Malformed::Ipv4TotalLength)?;
    Ok((options_len, payload_len))
}

/// Read-only view of an IPv4 packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Checks version, header length and total length. Bytes after the total length are padding of the link
    /// and are left out of the payload. The header checksum is [`Ipv4::verify_checksum`]'s business.
    ///
    /// # Errors
    /// [`Malformed::Ipv4Truncated`], [`Malformed::Ipv4Version`], [`Malformed::Ipv4HeaderLength`],
    /// [`Malformed::Ipv4TotalLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Malformed::Ipv4Truncated)?;
        let (options_len, payload_len) = claimed_lengths(header)?;
        let (body, _padding) = rest
            .split_at_checked(options_len + payload_len)
            .ok_or(Malformed::Ipv4TotalLength)?;
        let (options, payload) = body
            .split_at_checked(options_len)
            .ok_or(Malformed::Ipv4HeaderLength)?;
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// Checks the start of a packet as an ICMP error quotes it: the header with its options is whole, the
    /// payload is what there is of it.
    ///
    /// # Errors
    /// [`Malformed::Ipv4Truncated`], [`Malformed::Ipv4Version`], [`Malformed::Ipv4HeaderLength`],
    /// [`Malformed::Ipv4TotalLength`] (less than the header).
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Malformed::Ipv4Truncated)?;
        let (options_len, payload_len) = claimed_lengths(header)?;
        let (options, payload) = rest
            .split_at_checked(options_len)
            .ok_or(Malformed::Ipv4HeaderLength)?;
        let payload = payload.get(..payload_len).unwrap_or(payload);
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// Checks the header checksum, over the options too.
    ///
    /// # Errors
    /// [`Malformed::Ipv4Checksum`].
    #[inline]
    pub fn verify_checksum(&self) -> Result<(), Malformed> {
        let sum = Sum::ZERO.add_bytes(self.header).add_bytes(self.options);
        if sum.is_valid() {
            Ok(())
        } else {
            Err(Malformed::Ipv4Checksum)
        }
    }

    /// Length of the header with its options, in bytes.
    #[must_use]
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Length of the whole packet, in bytes, as the header says it.
    #[must_use]
    #[inline]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Differentiated services codepoint.
    #[must_use]
    #[inline]
    pub const fn dscp(&self) -> Dscp {
        Dscp::from_traffic_class(self.header[1])
    }

    /// Explicit congestion notification.
    #[must_use]
    #[inline]
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.header[1])
    }

    /// Identification, which the fragments of one packet share.
    #[must_use]
    #[inline]
    pub const fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    #[inline]
    const fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Whether no router may fragment the packet.
    #[must_use]
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// Whether this is a fragment and not the last one.
    #[must_use]
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in the whole packet's, in bytes.
    #[must_use]
    #[inline]
    pub const fn fragment_offset(&self) -> u16 {
        // Thirteen bits in units of eight bytes: the product is below 2^16.
        (self.flags_and_offset() & OFFSET_MASK) << 3
    }

    /// Whether the payload is only a piece of the packet's, the first one included.
    #[must_use]
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Which piece this is, if it is one.
    #[must_use]
    #[inline]
    pub fn fragment(&self) -> Option<Fragment> {
        self.is_fragment().then(|| Fragment {
            offset: self.fragment_offset(),
            more: self.more_fragments(),
            id: u32::from(self.id()),
        })
    }

    /// How many more routers may forward the packet.
    #[must_use]
    #[inline]
    pub const fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// What the payload is.
    #[must_use]
    #[inline]
    pub const fn protocol(&self) -> IpProtocol {
        IpProtocol(self.header[9])
    }

    /// The header checksum as it stands in the header.
    #[must_use]
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[10], self.header[11]])
    }

    /// The address of the packet's sender.
    #[must_use]
    #[inline]
    pub const fn source(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// The address the packet is for.
    #[must_use]
    #[inline]
    pub const fn destination(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }

    /// The options, padding included; their length is a multiple of four.
    #[must_use]
    #[inline]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The bytes after the header, up to the total length.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The sum of both addresses, with which the checksum of a TCP or UDP payload begins.
    #[must_use]
    #[inline]
    pub fn address_sum(&self) -> Sum {
        checksum::addresses_v4(self.source(), self.destination())
    }
}

/// The fields of an IPv4 header without options, of a packet that is not fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Fields {
    /// Differentiated services codepoint.
    pub dscp: Dscp,
    /// Explicit congestion notification.
    pub ecn: Ecn,
    /// Length of the whole packet, header included, in bytes.
    pub total_len: u16,
    /// Identification; means nothing when `dont_fragment` is set (RFC 6864).
    pub id: u16,
    /// Whether no router may fragment the packet.
    pub dont_fragment: bool,
    /// How many routers may forward the packet.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: IpProtocol,
    /// The address of the packet's sender.
    pub source: Ipv4Addr,
    /// The address the packet is for.
    pub destination: Ipv4Addr,
}

impl Ipv4Fields {
    /// Writes a whole header, checksum included.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        out[0] = 0x45; // version 4, five words of header
        out[1] = self.dscp.traffic_class(self.ecn);
        out[2..4].copy_from_slice(&self.total_len.to_be_bytes());
        out[4..6].copy_from_slice(&self.id.to_be_bytes());
        out[6..8].copy_from_slice(&flags.to_be_bytes());
        out[8] = self.ttl;
        out[9] = self.protocol.0;
        out[10..12].fill(0);
        out[12..16].copy_from_slice(&self.source.octets());
        out[16..20].copy_from_slice(&self.destination.octets());
        let sum = Sum::ZERO.add_bytes(out).checksum();
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
