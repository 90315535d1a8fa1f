//! Calico's side of a cluster: who has which addresses, and how packets go there.
//!
//! The objects are those of <https://github.com/projectcalico/api> (`projectcalico.org/v3`) and their stored form
//! (`crd.projectcalico.org/v1`): an IPPool says in which tunnel its addresses travel, an IPAMBlock which node has a part of it
//! and to whom single addresses of it were given, a BlockAffinity the former alone. What a node is to its peers stands in its
//! Node's annotations ([`CalicoNode`]).

mod fault;
mod node;
mod read;
mod share;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

pub use fault::CalicoFault;
pub use node::CalicoNode;
pub(super) use read::CALICO_API_VERSIONS;
pub use read::{BlockAffinity, IpPool, IpamBlock};
pub use share::{Block, Encapsulation};
pub(super) use share::{Deed, Division, Shares};
pub(super) use share::{GATEWAY_V4, GATEWAY_V6};

use super::name::NodeName;

/// `ipipMode` and `vxlanMode`: what is wrapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum PoolMode {
    /// Nothing.
    #[default]
    Never,
    /// Every packet between nodes.
    Always,
    /// Packets between nodes that are not on one subnet.
    CrossSubnet,
}

/// An IPPool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolRecord {
    /// `metadata.name`.
    pub name: String,
    /// `spec.cidr`.
    pub cidr: IpNet,
    /// `spec.ipipMode`.
    pub ipip: PoolMode,
    /// `spec.vxlanMode`; of the two at most one is not [`PoolMode::Never`].
    pub vxlan: PoolMode,
    /// `spec.natOutgoing`: whether its pods leave the cluster under their node's address.
    pub nat_outgoing: bool,
}

/// An IPAMBlock, or what a BlockAffinity says of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockRecord {
    /// `metadata.name`.
    pub name: String,
    /// `spec.cidr`.
    pub cidr: IpNet,
    /// The node whose block it is; `None` if it is none's.
    pub node: Option<NodeName>,
    /// Addresses of it that were given out on other nodes, or on any if it is none's.
    pub borrowed: Vec<(IpAddr, NodeName)>,
}

#[cfg(test)]
mod tests;
