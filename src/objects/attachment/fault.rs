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
        "spec.config: network.kind `{}` is not there; `bridged` and `routed` are",
        value_excerpt(.0)
    )]
    Kind(String),
    /// A key that only the other kind of network has.
    #[error("spec.config: network.{key} is a key of {of} networks, and this one is {kind}; leave it out")]
    OtherKind {
        /// The key.
        key: &'static str,
        /// Whose it is.
        of: &'static str,
        /// What this one is.
        kind: &'static str,
    },
    /// A key that a routed network needs.
    #[error("spec.config: network.{key} is missing: a routed network needs it, as in {example}")]
    Missing {
        /// The key.
        key: &'static str,
        /// How it could read.
        example: &'static str,
    },
    /// Peers that are no Nodes, in a routed network.
    #[error(
        "spec.config: network.peers.addresses: in a routed network nothing is behind an address that is no Node's; leave it out, \
         and name prefixes by Nodes in network.nodeBlocks"
    )]
    RoutedPeers,
    /// A subnet of a routed network with no room for the switch's own address and one more.
    #[error(
        "spec.config: network.subnets: {0} has no room for a gateway beside others; /30 and /126 are the longest that do"
    )]
    Narrow(IpNet),
    /// Something in `routesTo` that is no network's name.
    #[error("spec.config: network.routesTo: `{}` is no network, write NAMESPACE/NAME or `cluster`", value_excerpt(.0))]
    RouteName(String),
    /// A network that routes to itself.
    #[error("spec.config: network.routesTo: {0} is this network itself; leave it out")]
    RouteToItself(String),
    /// A network that is named and not there.
    #[error("spec.config: network.routesTo: there is no routed network {0}, so nothing is routed to it")]
    RouteToNobody(String),
    /// A network that is named and does not name this one.
    #[error(
        "spec.config: network.routesTo: {other} does not name {own} in its own, so nothing is routed between the two until it does"
    )]
    RouteOneSided {
        /// This network.
        own: String,
        /// The other.
        other: String,
    },
    /// Networks that name each other, and whose addresses could not be told apart.
    #[error("spec.config: network.routesTo: {0}")]
    RouteOverlap(Box<RouteOverlap>),
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

/// Prefixes that keep two networks apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing is routed between {own} and {to}: {cidr} of {of} overlaps {other} of {other_of}")]
pub struct RouteOverlap {
    /// A network.
    pub own: String,
    /// The one it would be routed to.
    pub to: String,
    /// A prefix.
    pub cidr: IpNet,
    /// Whose it is.
    pub of: String,
    /// The prefix that it overlaps.
    pub other: IpNet,
    /// Whose that is.
    pub other_of: String,
}

impl AttachmentFault {
    /// How much of the object is in force with this said about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::NoPeer(_) | Self::RouteToNobody(_) | Self::RouteOneSided { .. } => Severity::Warning,
            _ => Severity::Refused,
        }
    }
}
