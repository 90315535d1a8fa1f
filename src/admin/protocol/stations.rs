//! Stations of bridged networks, and what becomes of frames and packets in networks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The answer to [`Request::ShowFdb`](super::Request::ShowFdb).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stations {
    /// Stations that match; of these as many are shown as were asked for.
    pub matching: u64,
    /// Stations that there is room for, of all networks.
    pub capacity: u64,
    /// By network and MAC address.
    pub stations: Vec<StationRow>,
}

/// A station.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationRow {
    /// Its network, `NAMESPACE/NAME`.
    pub network: String,
    /// Its MAC address.
    pub mac: String,
    /// The interface of the port that it is behind, if that is one of this node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The pod behind that port, `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The underlay address of the other end of the network's tunnels that it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// That end's node, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it was given, and not learned: then it neither moves nor is forgotten.
    #[serde(rename = "static")]
    pub is_static: bool,
    /// Seconds since a frame of its was seen, or since it was given.
    pub seen_seconds: u32,
}

impl StationRow {
    /// Where it is, for a person.
    #[must_use]
    pub fn place(&self) -> String {
        let named = |at: String, who: Option<&String>| match who {
            Some(who) => format!("{at} ({who})"),
            None => at,
        };
        match (&self.interface, self.remote) {
            (Some(interface), _) => named(interface.clone(), self.pod.as_ref()),
            (None, Some(remote)) => match &self.node {
                Some(node) => named(node.clone(), Some(&remote.to_string())),
                None => remote.to_string(),
            },
            (None, None) => "the switch itself".to_owned(),
        }
    }
}

/// Where would a frame go? Answered by an [`Explanation`](super::Explanation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainFrame {
    /// The network, `NAMESPACE/NAME`.
    pub network: String,
    /// The MAC address of the station that would send it.
    pub from: String,
    /// The MAC address that it would be sent to.
    pub to: String,
}

/// Would a packet of a routed network arrive? Answered by an [`Explanation`](super::Explanation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainPacket {
    /// The network of who would send it, `NAMESPACE/NAME`.
    pub network: String,
    /// The address of who would send it.
    pub from: IpAddr,
    /// The address that it would be sent to.
    pub to: IpAddr,
    /// The port that it would be sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// tcp, udp, sctp or icmp.
    pub protocol: String,
}
