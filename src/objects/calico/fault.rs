//! What can be wrong with Calico's objects.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::objects::fault::value_excerpt;
use crate::objects::notice::Severity;

/// Why an IPPool, an IPAMBlock, a BlockAffinity or one of Calico's annotations is not, or not wholly, in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalicoFault {
    /// A mode that there is not.
    #[error(
        "{field}: `{}` is none of Never, Always and CrossSubnet",
        value_excerpt(value)
    )]
    Mode {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// Both kinds of tunnel.
    #[error("spec.ipipMode and spec.vxlanMode are both other than Never; one of them may be")]
    TwoModes,
    /// IP-in-IP for IPv6.
    #[error("spec.ipipMode is not Never for {0}, but IP-in-IP carries IPv4 only; vxlanMode would be right")]
    IpipV6(IpNet),
    /// A block of a size that Calico does not make.
    #[error("spec.cidr: {cidr} is no block: its prefix must be within /{shortest}..=/{longest}")]
    BlockSize {
        /// The CIDR.
        cidr: IpNet,
        /// Shortest prefix.
        shortest: u8,
        /// Longest prefix.
        longest: u8,
    },
    /// More allocations than the block has addresses.
    #[error("spec.allocations has {count} entries, {cidr} has {room} addresses")]
    TooManyAllocations {
        /// How many there are.
        count: usize,
        /// The block.
        cidr: IpNet,
        /// How many there may be.
        room: u64,
    },
    /// An allocation that names an attribute that is not there.
    #[error("spec.allocations[{place}]: there is no spec.attributes[{attribute}]")]
    NoAttribute {
        /// Its place.
        place: usize,
        /// What it names.
        attribute: u64,
    },
    /// An affinity of another kind than a node's.
    #[error("spec.affinity `{}` is no node's, as in host:node-a; its block is taken for none's", value_excerpt(.0))]
    Affinity(String),
    /// Two objects have (a part of) one CIDR.
    #[error("{cidr} overlaps {other} of {what}, which came first and keeps it")]
    Overlap {
        /// The CIDR.
        cidr: IpNet,
        /// The other's.
        other: IpNet,
        /// The other object.
        what: String,
    },
    /// A block of which another object says otherwise.
    #[error("{cidr} is {other}'s by its IPAMBlock, which counts")]
    AffinityStale {
        /// The block.
        cidr: IpNet,
        /// The node that has it.
        other: String,
    },
    /// A block in no pool.
    #[error("{0} is in no IPPool, so there is no tunnel to its addresses")]
    NoPool(IpNet),
    /// A node that is not known.
    #[error("its node {node} is not among the good Nodes, so nothing leads to {cidr}")]
    NodeUnknown {
        /// The node.
        node: String,
        /// The block.
        cidr: IpNet,
    },
    /// A block that covers a node's own address.
    #[error("{cidr} covers {address}, the address of Node {node}")]
    CoversNode {
        /// The block.
        cidr: IpNet,
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
    },
}

impl CalicoFault {
    /// How much of the object is in force with this said about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Affinity(_) | Self::NoPool(_) | Self::NodeUnknown { .. } => Severity::Warning,
            // A block that changes hands has such an affinity for a moment.
            Self::AffinityStale { .. } => Severity::Skipped,
            _ => Severity::Refused,
        }
    }
}
