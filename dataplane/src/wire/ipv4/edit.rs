//! Editing an IPv4 header where it lies.

use core::net::Ipv4Addr;

use super::super::checksum::{self, Delta};
use super::super::{Ecn, Malformed};
use super::{HEADER_LEN, Ipv4, claimed_lengths};

/// What one off the TTL does to the header: it is the upper half of its word.
const ONE_HOP: Delta = Delta::u16(0x0100, 0);

/// Takes `hops` off the TTL of a header, 0 or 1, and writes both addresses if they change: source and destination in
/// network byte order, the source above, and what that does to the checksum. That the TTL is greater, the caller has seen.
#[inline(always)]
pub fn relay(header: &mut [u8; HEADER_LEN], hops: u8, addresses: Option<(u64, Delta)>) {
    let mut delta = if hops == 0 { Delta::ZERO } else { ONE_HOP };
    header[8] = header[8].wrapping_sub(hops);
    if let Some((pair, change)) = addresses {
        delta = delta.and(change);
        header[12..].copy_from_slice(&pair.to_be_bytes());
    }
    let old = u16::from_be_bytes([header[10], header[11]]);
    header[10..12].copy_from_slice(&delta.apply(old).to_be_bytes());
}

/// View of an IPv4 packet whose header is edited where it lies; each setter keeps the header checksum
/// right.
#[derive(Debug)]
pub struct Ipv4Mut<'a> {
    header: &'a mut [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a mut [u8],
}

impl<'a> Ipv4Mut<'a> {
    /// Makes the checks of [`Ipv4::parse`].
    ///
    /// # Errors
    /// Those of [`Ipv4::parse`].
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(Malformed::Ipv4Truncated)?;
        let (options_len, payload_len) = claimed_lengths(header)?;
        let body = rest
            .get_mut(..options_len + payload_len)
            .ok_or(Malformed::Ipv4TotalLength)?;
        let (options, payload) = body
            .split_at_mut_checked(options_len)
            .ok_or(Malformed::Ipv4HeaderLength)?;
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// The header alone of a packet that has been parsed before: nothing is checked again, and options and payload are
    /// left out.
    ///
    /// # Errors
    /// [`Malformed::Ipv4Truncated`].
    #[inline]
    pub fn header_of(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        Ok(Self {
            header: bytes.first_chunk_mut().ok_or(Malformed::Ipv4Truncated)?,
            options: &mut [],
            payload: &mut [],
        })
    }

    /// Makes the checks of [`Ipv4::parse_quoted`].
    ///
    /// # Errors
    /// Those of [`Ipv4::parse_quoted`].
    #[inline]
    pub fn parse_quoted(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(Malformed::Ipv4Truncated)?;
        let (options_len, payload_len) = claimed_lengths(header)?;
        let (options, payload) = rest
            .split_at_mut_checked(options_len)
            .ok_or(Malformed::Ipv4HeaderLength)?;
        let quoted_len = payload.len().min(payload_len);
        let (payload, _padding) = payload
            .split_at_mut_checked(quoted_len)
            .ok_or(Malformed::Ipv4TotalLength)?;
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// The read-only view of the same bytes.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> Ipv4<'_> {
        Ipv4 {
            header: self.header,
            options: self.options,
            payload: self.payload,
        }
    }

    /// The bytes after the header, up to the total length.
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

    #[inline]
    fn adjust_checksum(&mut self, delta: Delta) {
        let old = u16::from_be_bytes([self.header[10], self.header[11]]);
        [self.header[10], self.header[11]] = delta.apply(old).to_be_bytes();
    }

    /// Takes one off the TTL, as every router does, and answers what is left; `None` with nothing changed
    /// if the packet may not be forwarded any more (RFC 1812 section 5.3.1).
    #[inline]
    pub fn decrement_ttl(&mut self) -> Option<u8> {
        let left = self.header[8].checked_sub(1).filter(|&ttl| ttl > 0)?;
        self.header[8] = left;
        self.adjust_checksum(ONE_HOP);
        Some(left)
    }

    /// [`Ipv4Mut::decrement_ttl`] and [`Ipv4Mut::replace_addresses`], with one look at the checksum.
    #[inline]
    pub fn decrement_ttl_and_replace_addresses(
        &mut self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        delta: Delta,
    ) -> Option<u8> {
        let left = self.header[8].checked_sub(1).filter(|&ttl| ttl > 0)?;
        self.header[8] = left;
        self.replace_addresses(source, destination, delta.and(ONE_HOP));
        Some(left)
    }

    /// Writes the source address; answers the change, which the checksum of a TCP or UDP payload must
    /// follow.
    #[inline]
    #[must_use = "the checksum of a TCP or UDP payload covers the addresses"]
    pub fn set_source(&mut self, address: Ipv4Addr) -> Delta {
        let delta = Delta::u32(u32::from(self.view().source()), u32::from(address));
        [self.header[12], self.header[13], self.header[14], self.header[15]] = address.octets();
        self.adjust_checksum(delta);
        delta
    }

    /// Writes the destination address; answers the change, which the checksum of a TCP or UDP payload must
    /// follow.
    #[inline]
    #[must_use = "the checksum of a TCP or UDP payload covers the addresses"]
    pub fn set_destination(&mut self, address: Ipv4Addr) -> Delta {
        let delta = Delta::u32(u32::from(self.view().destination()), u32::from(address));
        [self.header[16], self.header[17], self.header[18], self.header[19]] = address.octets();
        self.adjust_checksum(delta);
        delta
    }

    /// Writes both addresses, where `delta` is the change of both that is known already.
    #[inline]
    pub fn replace_addresses(&mut self, source: Ipv4Addr, destination: Ipv4Addr, delta: Delta) {
        self.header[12..16].copy_from_slice(&source.octets());
        self.header[16..20].copy_from_slice(&destination.octets());
        self.adjust_checksum(delta);
    }

    /// Writes the ECN field and leaves the DSCP as it is.
    #[inline]
    pub fn set_ecn(&mut self, ecn: Ecn) {
        let old = u16::from_be_bytes([self.header[0], self.header[1]]);
        self.header[1] = self.view().dscp().traffic_class(ecn);
        let new = u16::from_be_bytes([self.header[0], self.header[1]]);
        self.adjust_checksum(Delta::u16(old, new));
    }

    /// Writes the total length, in bytes. The view keeps its payload, so parse again to see the new one.
    #[inline]
    pub fn set_total_len(&mut self, total_len: u16) {
        let delta = Delta::u16(self.view().total_len(), total_len);
        self.header[2..4].copy_from_slice(&total_len.to_be_bytes());
        self.adjust_checksum(delta);
    }

    /// Writes the identification.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        let delta = Delta::u16(self.view().id(), id);
        self.header[4..6].copy_from_slice(&id.to_be_bytes());
        self.adjust_checksum(delta);
    }

    /// Completes the payload's TCP or UDP checksum if the kernel left it half computed
    /// ([`checksum::complete_partial`]); answers whether it did. A fragment is left alone: its checksum
    /// covers bytes that are elsewhere.
    #[inline]
    pub fn complete_partial_checksum(&mut self) -> bool {
        let view = self.view();
        if view.is_fragment() {
            return false;
        }
        let (addresses, protocol) = (view.address_sum(), view.protocol());
        checksum::complete_partial(addresses, protocol, self.payload)
    }
}
