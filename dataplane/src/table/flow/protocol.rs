//! What a connection notes of its protocol, and what follows from it: how long it lives, and whether it stays.

use super::store::{Notes, TRACKING_WORDS};
use super::{Timeouts, tcp};
use crate::wire::IpProtocol;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtocolState {
    /// TCP.
    Tcp(tcp::TcpState),
    /// Another protocol, one side heard.
    Unreplied,
    /// Another protocol, both sides heard.
    Replied,
}

/// Protocols by how their connections are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Tcp = 1,
    Udp = 2,
    Icmp = 3,
    Sctp = 4,
    /// A protocol without ports.
    Portless = 5,
}

/// In a connection's notes: its class, whether a reply was seen, and what is TCP's own above.
const CLASS: u32 = 0x7;
const REPLIED: u32 = 1 << 3;
const TCP_SHIFT: u32 = 4;

const _: () = assert!(
    TCP_SHIFT + tcp::Connection::BITS <= super::store::NOTES_BITS,
    "the notes of a TCP connection fit"
);

impl Class {
    const fn of(protocol: IpProtocol) -> Self {
        match protocol {
            IpProtocol::TCP => Self::Tcp,
            IpProtocol::ICMP | IpProtocol::ICMPV6 => Self::Icmp,
            IpProtocol::SCTP => Self::Sctp,
            IpProtocol::UDP | IpProtocol::UDP_LITE => Self::Udp,
            _ => Self::Portless,
        }
    }

    const fn from_bits(bits: u32) -> Self {
        match bits & CLASS {
            1 => Self::Tcp,
            3 => Self::Icmp,
            4 => Self::Sctp,
            5 => Self::Portless,
            _ => Self::Udp,
        }
    }
}

/// The notes of a new connection; `None` if a TCP segment begins none, or there is none of a TCP connection.
pub(super) fn open(
    protocol: IpProtocol,
    segment: Option<&tcp::TcpSegment>,
    loose: bool,
) -> Option<(Notes, [u64; TRACKING_WORDS])> {
    let class = Class::of(protocol);
    if class == Class::Tcp {
        let connection = tcp::Connection::open(segment?, loose)?;
        return Some(of_tcp(&connection));
    }
    let notes = Notes {
        bits: class as u32,
        is_kept: false,
    };
    Some((notes, [0; TRACKING_WORDS]))
}

/// Notes and words of a TCP connection.
#[inline]
fn of_tcp(connection: &tcp::Connection) -> (Notes, [u64; TRACKING_WORDS]) {
    let (bits, words) = connection.pack();
    let notes = Notes {
        bits: Class::Tcp as u32 | bits << TCP_SHIFT,
        is_kept: connection.state.is_kept(),
    };
    (notes, words)
}

/// Follows a TCP connection by a segment.
#[inline]
pub(super) fn track_tcp(
    notes: &mut Notes,
    words: &mut [u64; TRACKING_WORDS],
    direction: super::Direction,
    segment: &tcp::TcpSegment,
) -> tcp::TcpVerdict {
    let Some(mut connection) = tcp_of(*notes, words) else {
        return tcp::TcpVerdict::Invalid; // the flow is not of TCP
    };
    let verdict = connection.track(direction, segment);
    (*notes, *words) = of_tcp(&connection);
    verdict
}

#[inline]
fn tcp_of(notes: Notes, words: &[u64; TRACKING_WORDS]) -> Option<tcp::Connection> {
    (notes.bits & CLASS == Class::Tcp as u32)
        .then(|| tcp::Connection::unpack(notes.bits >> TCP_SHIFT, words))
        .flatten()
}

/// Notes that the first reply was seen. A connection that both sides speak stays when there is no room; an echo does
/// not, since whoever is asked answers.
pub(super) fn note_reply(notes: &mut Notes) {
    notes.bits |= REPLIED;
    notes.is_kept |= matches!(
        Class::from_bits(notes.bits),
        Class::Udp | Class::Sctp | Class::Portless
    );
}

/// What a connection left behind, as a new process takes it up. `None` if it cannot have been.
pub(super) fn salvage(
    protocol: IpProtocol,
    notes: Notes,
    words: Option<[u64; TRACKING_WORDS]>,
) -> Option<(Notes, [u64; TRACKING_WORDS])> {
    let class = Class::of(protocol);
    if notes.bits & CLASS != class as u32 {
        return None;
    }
    if class != Class::Tcp {
        return Some((notes, [0; TRACKING_WORDS]));
    }
    let mut connection = tcp_of(notes, &words.unwrap_or_default())?;
    if words.is_none() {
        connection.forget_windows();
    }
    Some(of_tcp(&connection))
}

/// Whether a protocol has neither ports nor an echo's id.
pub(super) fn is_portless(protocol: IpProtocol) -> bool {
    Class::of(protocol) == Class::Portless
}

/// How far a connection with these notes has come.
pub(super) fn state(notes: Notes) -> ProtocolState {
    match tcp_of(notes, &[0; TRACKING_WORDS]) {
        Some(connection) => ProtocolState::Tcp(connection.state),
        None if notes.bits & REPLIED != 0 => ProtocolState::Replied,
        None => ProtocolState::Unreplied,
    }
}

/// After how many seconds without a packet a connection with these notes is forgotten.
pub(super) fn timeout_s(notes: Notes, timeouts: &Timeouts) -> u32 {
    let is_replied = notes.bits & REPLIED != 0;
    match (Class::from_bits(notes.bits), is_replied) {
        (Class::Tcp, _) => match state(notes) {
            ProtocolState::Tcp(state) => timeouts.tcp(state),
            // No such notes are written.
            ProtocolState::Unreplied | ProtocolState::Replied => 0,
        },
        (Class::Udp, false) => timeouts.udp_s,
        (Class::Udp, true) => timeouts.udp_replied_s,
        (Class::Icmp, _) => timeouts.icmp_s,
        (Class::Sctp, false) => timeouts.sctp_s,
        (Class::Sctp, true) => timeouts.sctp_replied_s,
        (Class::Portless, _) => timeouts.portless_s,
    }
}
