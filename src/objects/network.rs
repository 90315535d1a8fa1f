//! Which cluster network the node is in: by whose objects it knows other nodes' pods.

use std::fmt;

use serde::Serialize;

/// A cluster network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// flannel: a Node has the addresses of its `spec.podCIDRs`, and says in its annotations how they are reached.
    #[default]
    Flannel,
    /// Calico: a Node has the addresses of its blocks, and IPPools say how they are reached.
    Calico,
}

/// Which one to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkChoice {
    /// flannel's if this node takes part in it by its annotations, as it does where Calico is there for policies alone (Canal);
    /// else Calico's if the node has an annotation of Calico's or there is an IPPool; else flannel's.
    #[default]
    Auto,
    /// flannel's.
    Flannel,
    /// Calico's.
    Calico,
}

impl NetworkChoice {
    /// The network, by what there is.
    #[must_use]
    pub(super) fn decide(self, takes_part_in_flannel: bool, is_calicos: bool) -> Network {
        match self {
            Self::Flannel => Network::Flannel,
            Self::Calico => Network::Calico,
            Self::Auto if is_calicos && !takes_part_in_flannel => Network::Calico,
            Self::Auto => Network::Flannel,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flannel => "flannel",
            Self::Calico => "calico",
        })
    }
}
