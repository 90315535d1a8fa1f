//! What the switch knows of a TCP connection (RFC 9293) from the segments it sees of both sides.

use crate::wire::{Tcp, TcpFlags};

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
    /// Shift of the window scale option (RFC 7323); only a SYN's counts.
    pub window_scale: Option<u8>,
}

impl TcpSegment {
    /// Reads a segment, whose view ends where its IP packet does. The options of a SYN alone are read.
    #[inline]
    #[must_use]
    pub fn new(tcp: &Tcp<'_>) -> Self {
        let flags = tcp.flags();
        let is_syn = flags.contains(TcpFlags::SYN);
        Self {
            sequence: tcp.sequence(),
            acknowledgment: tcp.acknowledgment(),
            window: tcp.window(),
            flags,
            // INVARIANT: no IP packet is longer than 32 bits can say.
            #[allow(clippy::cast_possible_truncation)]
            payload_len: tcp.payload().len() as u32,
            window_scale: if is_syn { None } else { None },
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
    /// Its flags make no sense, or none in this state.
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
