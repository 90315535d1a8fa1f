//! What passes between workers and the slow path beside packets: where a packet from there comes from, and what there is to learn.

use crate::port::PortId;
use crate::table::{Location, NetworkId};
use crate::wire::MacAddr;

/// Where a packet that did not come in at a port comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The switch made it, in this routed network: its TTL is as it should be.
    Switch(NetworkId),
    /// It came in at this port and waited in the slow path: what is decided about it is decided as if it came in now.
    Held {
        /// Where it came in.
        port: PortId,
        /// The routed network that it came in.
        network: NetworkId,
    },
    /// As [`Origin::Held`], and what it waited for was the steering of its answers, which is settled.
    Steered {
        /// Where it came in.
        port: PortId,
        /// The routed network that it came in.
        network: NetworkId,
    },
    /// It is in a bridged network, as if it had come from there, with its Ethernet addresses as they are and without a tag;
    /// it is not handed to the slow path again.
    Bridged {
        /// The network.
        network: NetworkId,
        /// Where it comes from.
        from: Location,
    },
}

/// Where a station of a bridged network was seen and is not known to be: for the slow path, which learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lesson {
    /// The network.
    pub network: NetworkId,
    /// The station.
    pub mac: MacAddr,
    /// Where it was seen.
    pub location: Location,
}
