//! Explicit congestion notification (RFC 3168) through tunnels (RFC 6040).

use core::fmt;

/// The ECN field: the low two bits of the IPv4 TOS byte or of the IPv6 traffic class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not understand ECN; congestion is told by loss.
    #[default]
    NotEct = 0b00,
    /// The transport understands ECN; codepoint ECT(1).
    Ect1 = 0b01,
    /// The transport understands ECN; codepoint ECT(0).
    Ect0 = 0b10,
    /// A router on the way met congestion.
    Ce = 0b11,
}

impl Ecn {
    /// The codepoint in the low two bits of `byte`; the others are not looked at.
    #[must_use]
    #[inline]
    pub const fn from_bits(byte: u8) -> Self {
        match byte & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The codepoint as the low two bits of a byte.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// The outer field for a packet whose own field is `self`, at the tunnel's entrance: normal mode, a
    /// plain copy (RFC 6040 section 4.1).
    #[must_use]
    #[inline]
    pub const fn encapsulate(self) -> Self {
        self
    }

    /// The field with which a packet leaves the tunnel, when it came out with the field `inner` from under
    /// the field `outer` (RFC 6040 section 4.2, figure 4).
    ///
    /// The figure's combinations that deserve an alarm are decided as it says, without one.
    ///
    /// # Errors
    /// [`EcnDrop`]: congestion was met and the transport can be told of it by loss only.
    #[inline]
    pub const fn decapsulate(inner: Self, outer: Self) -> Result<Self, EcnDrop> {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => Err(EcnDrop),
            (Self::NotEct, Self::NotEct | Self::Ect0 | Self::Ect1) => Ok(Self::NotEct),
            (Self::Ect0 | Self::Ect1, Self::Ce) | (Self::Ce, _) => Ok(Self::Ce),
            (Self::Ect0, Self::Ect1) | (Self::Ect1, _) => Ok(Self::Ect1),
            (Self::Ect0, Self::NotEct | Self::Ect0) => Ok(Self::Ect0),
        }
    }
}

/// A packet must be dropped at the tunnel's exit: the outer header says congestion, and the inner one that
/// the transport would not understand it (RFC 6040 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcnDrop;

impl fmt::Display for EcnDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("congestion marked on the outer header of a packet without ECN")
    }
}

impl core::error::Error for EcnDrop {}
