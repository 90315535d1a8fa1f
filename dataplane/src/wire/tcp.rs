//! Transmission Control Protocol (RFC 9293).

use core::fmt;

use super::checksum::{Delta, Sum};
use super::{Malformed, Ports};

/// Length of a TCP header without options, in bytes.
pub const HEADER_LEN: usize = 20;

/// Longest TCP header, options included, in bytes.
pub const MAX_HEADER_LEN: usize = 60;

/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: usize = 16;

/// Kinds of options (IANA TCP option kind numbers).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOTHING: u8 = 1;
    pub(super) const MSS: u8 = 2;
}

/// Length of the options as the header says it, in bytes.
#[inline]
fn claimed_options(header: &[u8; HEADER_LEN]) -> Result<usize, Malformed> {
    let header_len = usize::from(header[12] >> 4) * 4;
    header_len.checked_sub(HEADER_LEN).ok_or(Malformed::TcpDataOffset)
}

/// The control bits of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field means something.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer means something.
    pub const URG: Self = Self(0x20);
    /// Congestion echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// The bits of both.
    #[must_use]
    #[inline]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[must_use]
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(TcpFlags, &str); 8] = [
            (TcpFlags::FIN, "FIN"),
            (TcpFlags::SYN, "SYN"),
            (TcpFlags::RST, "RST"),
            (TcpFlags::PSH, "PSH"),
            (TcpFlags::ACK, "ACK"),
            (TcpFlags::URG, "URG"),
            (TcpFlags::ECE, "ECE"),
            (TcpFlags::CWR, "CWR"),
        ];
        let mut separator = "";
        for (flag, name) in NAMES {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if separator.is_empty() {
            f.write_str("none")
        } else {
            Ok(())
        }
    }
}

/// Read-only view of a TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Checks that the data offset is within `bytes`, the whole payload of an IP packet.
    ///
    /// # Errors
    /// [`Malformed::TcpTruncated`], [`Malformed::TcpDataOffset`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk().ok_or(Malformed::TcpTruncated)?;
        let (options, payload) = rest
            .split_at_checked(claimed_options(header)?)
            .ok_or(Malformed::TcpDataOffset)?;
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// The port of the segment's sender.
    #[must_use]
    #[inline]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// The port the segment is for.
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

    /// Sequence number of the first byte of the payload, or of the SYN.
    #[must_use]
    #[inline]
    pub const fn sequence(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[4], h[5], h[6], h[7]])
    }

    /// The next sequence number the sender expects; means something only with [`TcpFlags::ACK`].
    #[must_use]
    #[inline]
    pub const fn acknowledgment(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[8], h[9], h[10], h[11]])
    }

    /// Length of the header with its options, in bytes.
    #[must_use]
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// The control bits.
    #[must_use]
    #[inline]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(self.header[13])
    }

    /// The receive window as it stands in the header, not yet scaled (RFC 7323).
    #[must_use]
    #[inline]
    pub const fn window(&self) -> u16 {
        u16::from_be_bytes([self.header[14], self.header[15]])
    }

    /// The checksum as it stands in the header.
    #[must_use]
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[16], self.header[17]])
    }

    /// The options, padding included; their length is a multiple of four.
    #[must_use]
    #[inline]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The bytes after the header.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// View of a TCP segment whose header is edited where it lies; each setter keeps the checksum right.
#[derive(Debug)]
pub struct TcpMut<'a> {
    header: &'a mut [u8; HEADER_LEN],
    options: &'a mut [u8],
    payload: &'a mut [u8],
}

impl<'a> TcpMut<'a> {
    /// Makes the checks of [`Tcp::parse`].
    ///
    /// # Errors
    /// Those of [`Tcp::parse`].
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(Malformed::TcpTruncated)?;
        let (options, payload) = rest
            .split_at_mut_checked(claimed_options(header)?)
            .ok_or(Malformed::TcpDataOffset)?;
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// The read-only view of the same bytes.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> Tcp<'_> {
        Tcp {
            header: self.header,
            options: self.options,
            payload: self.payload,
        }
    }

    /// The options, padding included. No checksum is touched by what is written there.
    #[must_use]
    #[inline]
    pub fn options_mut(&mut self) -> &mut [u8] {
        self.options
    }

    /// The bytes after the header. No checksum is touched by what is written there.
    #[must_use]
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// Lowers the largest segment that the sender says it takes, in bytes (RFC 9293 section 3.7.1), to `most`, where its
    /// options say one and that is larger. Means something in a SYN only.
    pub fn lower_mss(&mut self, most: u16) {
        let before = Sum::ZERO.add_bytes(self.options).fold();
        let mut at = 0;
        while let Some(rest) = self.options.get_mut(at..) {
            let len = match rest {
                [option::NOTHING, ..] => 1,
                [option::MSS, 4, high, low, ..] => {
                    let told = u16::from_be_bytes([*high, *low]);
                    [*high, *low] = told.min(most).to_be_bytes();
                    4
                }
                // A length below two would never end.
                [kind, len, ..] if *kind != option::END && *len >= 2 => usize::from(*len),
                _ => break,
            };
            at += len;
        }
        let after = Sum::ZERO.add_bytes(self.options).fold();
        if after != before {
            self.adjust_checksum(Delta::u16(before, after));
        }
    }

    /// Carries a change of something the checksum covers (addresses, options, payload) into it.
    #[inline]
    pub fn adjust_checksum(&mut self, delta: Delta) {
        let field = delta.apply(self.view().checksum());
        self.header[16..18].copy_from_slice(&field.to_be_bytes());
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

/// The fields of a TCP header without options and without urgent data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFields {
    /// Both ports.
    pub ports: Ports,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number; 0 without [`TcpFlags::ACK`].
    pub acknowledgment: u32,
    /// Control bits.
    pub flags: TcpFlags,
    /// Receive window, as it stands in the header.
    pub window: u16,
}

impl TcpFields {
    /// Writes a whole header; the checksum is zero, to be computed over header and payload by
    /// [`fill_transport`](super::checksum::fill_transport).
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        out[0..2].copy_from_slice(&self.ports.source.to_be_bytes());
        out[2..4].copy_from_slice(&self.ports.destination.to_be_bytes());
        out[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        out[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        out[12] = 0x50; // five words of header
        out[13] = self.flags.0;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..20].fill(0); // checksum and urgent pointer
    }
}
