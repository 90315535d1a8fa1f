//! What can be wrong with a network's definition.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::objects::fault::value_excerpt;
use crate::objects::notice::Severity;

/// Why a NetworkAttachmentDefinition is not, or not wholly, in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachmentFault {
    /// The configuration is longer than any that makes sense.
    #[error("spec.config has {len} bytes, at most {limit} are read")]
    TooLong {
        /// How many it has.
        len: usize,
        /// How many are read.
        limit: usize,
    },
    /// Not the JSON that it should be.
    #[error("spec.config: {}: {}", value_excerpt(field), value_excerpt(reason))]
    Config {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This program's plugin, without saying which network.
    #[error(
        "spec.config: millrace-cni has no `network`; {{\"kind\": \"bridged\", \"vni\": 100}} would be one"
    )]
    NoNetwork,
    /// A kind of network that there is not.
    #[error(
        "spec.config: network.kind `{}` is not there; `bridged` is the one that is",
        value_excerpt(.0)
    )]
    Kind(String),
    /// A kind of network that this version does not have.
    #[error("spec.config: network.kind: this version has no routed networks, only bridged ones")]
    Routed,
    /// A number that is out of its range.
    #[error("spec.config: network.{field}: {value} is not within {least}..={most}")]
    Number {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The least that would do.
        least: u64,
        /// The most that would do.
        most: u64,
    },
    /// More entries than are taken.
    #[error("spec.config: network.{field} has {count} entries, at most {limit} are taken")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many are taken.
        limit: usize,
    },
    /// A name that is none.
    #[error("spec.config: name `{}` is no network's: letters, digits, `_`, `.` and `-`, a letter or digit first", value_excerpt(.0))]
    CniName(String),
    /// Two prefixes of one network that overlap.
    #[error("spec.config: network.{field}: {cidr} overlaps {other}")]
    Overlap {
        /// The field.
        field: String,
        /// The one.
        cidr: IpNet,
        /// The other, which stands before it.
        other: IpNet,
    },
    /// A prefix or an address outside of the subnets.
    #[error("spec.config: network.{field}: {cidr} is in none of network.subnets")]
    Outside {
        /// The field.
        field: String,
        /// The prefix; a whole address is one too.
        cidr: IpNet,
    },
    /// One entry twice.
    #[error("spec.config: network.{field}: {value} stands there twice")]
    Twice {
        /// The field.
        field: &'static str,
        /// The entry.
        value: String,
    },
    /// A station at an address that is no peer's.
    #[error(
        "spec.config: network.stations: {0} is none of network.peers.addresses, so nothing is sent there"
    )]
    NoPeer(IpAddr),
    /// Another network has the number.
    #[error("VNI {vni} at UDP port {port} is that of network {other}, which came first and keeps it")]
    VniShared {
        /// The number.
        vni: u32,
        /// The port.
        port: u16,
        /// The other network.
        other: String,
    },
}

impl AttachmentFault {
    /// How much of the object is in force with this said about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::NoPeer(_) => Severity::Warning,
            _ => Severity::Refused,
        }
    }
}
