//! Which nodes take part, as this one sees it.

use std::collections::BTreeMap;

use millrace_dataplane::wire::MacAddr;

use super::aside::Claims;
use crate::objects::NodeName;

/// The nodes that take part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Those that live, with the link addresses of their uplinks as far as they are known.
    pub living: BTreeMap<NodeName, Option<[u8; 6]>>,
    /// Whether this node hears nothing of the others. Then everything stays as it is.
    pub is_cut_off: bool,
    /// Whether this node gives out addresses.
    pub leads: bool,
    /// What those that live have heard of hosts outside of the cluster.
    pub claims: Claims,
}

impl Members {
    /// One node by itself, as where manifests are the source.
    #[must_use]
    pub fn alone(own: &NodeName) -> Self {
        Self {
            living: BTreeMap::from([(own.clone(), None)]),
            is_cut_off: false,
            leads: true,
            claims: Claims::new(),
        }
    }

    /// The link addresses of all but one.
    pub fn peers<'a>(&'a self, own: &'a NodeName) -> impl Iterator<Item = [u8; 6]> + 'a {
        let others = self.living.iter().filter(move |(name, _)| *name != own);
        others.filter_map(|(_, mac)| *mac)
    }

    /// A node's link address, where there is one.
    #[must_use]
    pub fn mac_of(&self, node: &NodeName) -> Option<MacAddr> {
        self.living.get(node).copied().flatten().map(MacAddr)
    }
}
