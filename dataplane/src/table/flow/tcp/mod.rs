//! What the switch knows of a TCP connection (RFC 9293) from the segments that it sees of both sides.
//!
//! Two questions are asked of every segment: does it lie within the windows that both sides have told ([`window`]), and
//! how far has the connection come with it ([`track`]). In doubt a segment passes and changes nothing: the end
//! stations judge for themselves, and what they say next will tell.

use crate::wire::{Tcp, TcpFlags};

mod pack;
mod track;
mod window;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(super) use track::Connection;

/// What the tracking has to know of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number; means something only with ACK.
    pub acknowledgment: u32,
    /// The window as it stands in the header.
    pub window: u16,
    /// Control bits.
    pub flags: TcpFlags,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// Shift count of the window scale option (RFC 7323), at most [`SCALE_MAX`]; only a SYN has one.
    pub window_scale: Option<u8>,
}

/// The largest shift count; a larger one counts as this (RFC 7323 section 2.3).
pub const SCALE_MAX: u8 = 14;

impl TcpSegment {
    /// Reads a segment, whose view ends where its IP packet does. Options are read of a SYN alone.
    #[inline]
    #[must_use]
    pub fn new(tcp: &Tcp<'_>) -> Self {
        let flags = tcp.flags();
        Self {
            sequence: tcp.sequence(),
            acknowledgment: tcp.acknowledgment(),
            window: tcp.window(),
            flags,
            // INVARIANT: no IP packet is longer than 32 bits can say.
            #[allow(clippy::cast_possible_truncation)]
            payload_len: tcp.payload().len() as u32,
            window_scale: if flags.contains(TcpFlags::SYN) {
                window_scale(tcp.options())
            } else {
                None
            },
        }
    }

    #[inline]
    const fn has(&self, flags: TcpFlags) -> bool {
        self.flags.contains(flags)
    }

    /// How much of the sequence space the segment takes: SYN and FIN count as one byte each.
    #[inline]
    fn len(&self) -> u32 {
        self.payload_len
            .wrapping_add(u32::from(self.has(TcpFlags::SYN)))
            .wrapping_add(u32::from(self.has(TcpFlags::FIN)))
    }

    /// The sequence number after the segment.
    #[inline]
    fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.len())
    }

    /// Whether the control bits can stand together: exactly one of SYN, FIN and RST or none of them, and an ACK with
    /// whatever is neither a SYN nor a reset.
    fn is_sensible(&self) -> bool {
        const KINDS: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);
        match TcpFlags(self.flags.0 & KINDS.0) {
            TcpFlags::SYN | TcpFlags::RST => true,
            TcpFlags::FIN | TcpFlags(0) => self.has(TcpFlags::ACK),
            _ => false,
        }
    }
}

/// Kinds of options (IANA TCP option kind numbers).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOTHING: u8 = 1;
    pub(super) const WINDOW_SCALE: u8 = 3;
}

/// The shift count among a segment's options.
fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [] | [option::END, ..] => return None,
            [option::NOTHING, ref rest @ ..] => options = rest,
            [option::WINDOW_SCALE, 3, shift, ..] => return Some(shift.min(SCALE_MAX)),
            // A length below two would never end.
            [_, length, ..] if length >= 2 => options = options.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}

/// What the tracking makes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpVerdict {
    /// It belongs to the connection, or does no harm: the end stations decide.
    Accept,
    /// It lies outside the windows that both sides have told; a reset like that tears down nothing.
    OutOfWindow,
    /// Its flags make no sense.
    Invalid,
    /// A SYN for the tuple of a connection that is over: remove the flow and claim a new one.
    Reopen,
    /// The flow has gone meanwhile: look it up again.
    Gone,
}

/// How far a TCP connection has come, as far as the switch can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum TcpState {
    /// The SYN has passed.
    SynSent = 1,
    /// The SYN-ACK has passed; or a SYN from each side.
    SynReceived = 2,
    /// Seen from its middle on, and not from both sides yet.
    PickedUp = 3,
    /// Both sides are heard.
    Established = 4,
    /// One side has sent its FIN.
    HalfClosed = 5,
    /// Both have, and not both are acknowledged.
    Closing = 6,
    /// Both are acknowledged.
    TimeWait = 7,
    /// Reset.
    Reset = 8,
}

impl TcpState {
    const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            1 => Some(Self::SynSent),
            2 => Some(Self::SynReceived),
            3 => Some(Self::PickedUp),
            4 => Some(Self::Established),
            5 => Some(Self::HalfClosed),
            6 => Some(Self::Closing),
            7 => Some(Self::TimeWait),
            8 => Some(Self::Reset),
            _ => None,
        }
    }

    /// Whether a connection in this state stays when the table is full.
    pub(super) const fn is_kept(self) -> bool {
        matches!(self, Self::Established | Self::HalfClosed)
    }
}
