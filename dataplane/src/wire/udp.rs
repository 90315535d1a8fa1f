//! User Datagram Protocol (RFC 768).

use super::checksum::Delta;
use super::{Malformed, Ports};

/// Length of a UDP header, in bytes.
pub const HEADER_LEN: usize = 8;

/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// Length of the payload as the header says it, in bytes.
#[inline]
fn claimed_length(header: &[u8; HEADER_LEN]) -> Result<usize, Malformed> {
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    len.checked_sub(HEADER_LEN).ok_or(Malformed::UdpLength)
}

/// Read-only view of a UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Checks the length. Bytes after it are left out of the payload. A fragment is no whole datagram and
    /// fails here; its ports are read by [`Ports::parse`].
    ///
    /// # Errors
    /// [`Malformed::UdpTruncated`], [`Malformed::UdpLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Malformed::UdpTruncated)?;
        let payload = rest.get(..claimed_length(header)?).ok_or(Malformed::UdpLength)?;
        Ok(Self { header, payload })
    }

    /// The port of the datagram's sender; 0 if no answer is expected.
    #[must_use]
    #[inline]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// The port the datagram is for.
    #[must_use]
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Both ports.
    #[must_use]
    #[inline]
    pub const fn ports(&self) -> Ports {
        Ports {
            source: self.source_port(),
            destination: self.destination_port(),
        }
    }

    /// Length of header and payload, in bytes, as the header says it.
    #[must_use]
    #[inline]
    pub const fn length(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// The checksum as it stands in the header; 0 means that there is none.
    #[must_use]
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// The bytes after the header, up to the length.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// View of a UDP datagram whose header is edited where it lies; each setter keeps the checksum right, and
/// leaves it absent where there is none.
#[derive(Debug)]
pub struct UdpMut<'a> {
    header: &'a mut [u8; HEADER_LEN],
    payload: &'a mut [u8],
}

impl<'a> UdpMut<'a> {
    /// Makes the checks of [`Udp::parse`].
    ///
    /// # Errors
    /// Those of [`Udp::parse`].
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(Malformed::UdpTruncated)?;
        let payload = rest
            .get_mut(..claimed_length(header)?)
            .ok_or(Malformed::UdpLength)?;
        Ok(Self { header, payload })
    }

    /// The read-only view of the same bytes.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> Udp<'_> {
        Udp {
            header: self.header,
            payload: self.payload,
        }
    }

    /// The bytes after the header, up to the length.
    #[must_use]
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// Carries a change of something the checksum covers (addresses, payload) into it.
    #[inline]
    pub fn adjust_checksum(&mut self, delta: Delta) {
        let field = delta.apply_udp(self.view().checksum());
        self.header[6..8].copy_from_slice(&field.to_be_bytes());
    }

    /// Writes the source port.
    #[inline]
    pub fn set_source_port(&mut self, port: u16) {
        let delta = Delta::u16(self.view().source_port(), port);
        self.header[0..2].copy_from_slice(&port.to_be_bytes());
        self.adjust_checksum(delta);
    }

    /// Writes the destination port.
    #[inline]
    pub fn set_destination_port(&mut self, port: u16) {
        let delta = Delta::u16(self.view().destination_port(), port);
        self.header[2..4].copy_from_slice(&port.to_be_bytes());
        self.adjust_checksum(delta);
    }
}

/// Writes a whole UDP header. `length` counts header and payload, in bytes; `checksum` is written as it is,
/// 0 for none, or to be computed afterwards by [`fill_transport`](super::checksum::fill_transport).
#[inline]
pub fn emit(out: &mut [u8; HEADER_LEN], ports: Ports, length: u16, checksum: u16) {
    out[0..2].copy_from_slice(&ports.source.to_be_bytes());
    out[2..4].copy_from_slice(&ports.destination.to_be_bytes());
    out[4..6].copy_from_slice(&length.to_be_bytes());
    out[6..8].copy_from_slice(&checksum.to_be_bytes());
}
