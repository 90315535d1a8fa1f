//! Ports as they are shown.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::LimitRow;

/// A row of [`Request::ShowPorts`](super::Request::ShowPorts).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// The port's number.
    pub id: u16,
    /// The interface on the node.
    pub interface: String,
    /// uplink, host or pod.
    pub role: String,
    /// The pod, `NAMESPACE/NAME`.
    pub pod: Option<String>,
    /// Addresses that may send here.
    pub addresses: Vec<IpAddr>,
    /// The switch's MAC address on this port.
    pub mac: String,
    /// The MAC address at the other end.
    pub peer_mac: Option<String>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Queues that it receives by.
    pub queues: u32,
    /// Whose each of them is.
    #[serde(default)]
    pub per_queue: Vec<QueueRow>,
    /// zero-copy if the device itself reads and writes packet memory; copy if the kernel does so for any queue.
    #[serde(default)]
    pub bind_mode: String,
    /// The device that packets come and go by, where the interface is a VLAN on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The number in its packets' tags, where it is a VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// native or generic; with the driver's refusal where native was tried in vain.
    pub xdp_mode: String,
    /// Whether the interface is up.
    pub up: bool,
    /// What it is held to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitRow>,
}

/// A queue of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Its number, from 0.
    pub queue: u32,
    /// The worker that serves it.
    pub worker: Option<usize>,
    /// How its socket is bound: zero-copy or copy.
    pub bind_mode: Option<String>,
    /// Whether it is left to the kernel, and has no socket.
    pub kernel: bool,
    /// For how long frames have waited in its transmit ring without any being taken or coming back, in milliseconds; 0 for
    /// a queue that sends.
    #[serde(default)]
    pub stalled_ms: u64,
}
