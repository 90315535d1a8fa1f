//! What a running capture sends.

use serde::{Deserialize, Serialize};

/// A line of a running capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureLine {
    /// A packet.
    Packet(CapturedPacket),
    /// So many copies were lost since the capture began, because they were not taken fast enough.
    Lost(u64),
}

/// A packet as the switch received it, or as it sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// Which way it went.
    pub direction: CaptureDirection,
    /// In words: the verdict with its reason, or where the packet came from.
    pub comment: String,
    /// The bytes, Ethernet header first, in base64.
    pub data: String,
}

/// See [`CapturedPacket::direction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureDirection {
    /// The switch received it at this port.
    Received,
    /// The switch sent it out of this port.
    Sent,
}
