//! Policies as the switch sees them: which pods each selects, and the rules it has for them.
//!
//! NetworkPolicies (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>) and
//! ClusterNetworkPolicies (<https://github.com/kubernetes-sigs/network-policy-api>) come to one record, and so do
//! MultiNetworkPolicies, which are for networks beside the cluster's own. What is wrong with a
//! part of a policy never opens anything: that part allows nobody, or denies everybody, and the fault is reported; the
//! rest of the policy is in force, its isolation of pods too.

mod cluster;
mod fault;
mod multi;
mod network;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::attachment::NetworkKey;
use super::name::ObjectId;
use super::selector::Selector;
use super::service::Protocol;

pub use cluster::ClusterNetworkPolicy;
pub use fault::PolicyFault;
pub(super) use multi::MULTI_API_VERSIONS;
pub use multi::MultiNetworkPolicy;

/// What kind of policy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy,
    /// `k8s.cni.cncf.io/v1beta1` or `v1beta2`.
    MultiNetworkPolicy,
}

impl PolicyKind {
    /// `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => ClusterNetworkPolicy::KIND,
            Self::MultiNetworkPolicy => MultiNetworkPolicy::KIND,
        }
    }
}

/// Which policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// What kind of policy.
    pub kind: PolicyKind,
    /// `metadata.namespace`; empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl PolicyKey {
    /// The object's identity.
    #[must_use]
    pub fn object_id(&self) -> ObjectId {
        ObjectId {
            kind: self.kind.name().to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.name())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl Serialize for PolicyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// In which order policies count: a lower priority first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PolicyTier {
    /// `Admin` with its priority: before everything else.
    Admin(u16),
    /// That of NetworkPolicies, and of MultiNetworkPolicies in their networks.
    NetworkPolicy,
    /// `Baseline` with its priority: for pods that no NetworkPolicy isolates.
    Baseline(u16),
}

impl fmt::Display for PolicyTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(priority) => write!(f, "Admin {priority}"),
            Self::NetworkPolicy => f.write_str("NetworkPolicy"),
            Self::Baseline(priority) => write!(f, "Baseline {priority}"),
        }
    }
}

/// What the switch knows of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRecord {
    /// Which policy.
    pub key: PolicyKey,
    /// The networks that a MultiNetworkPolicy is for, in ascending order, whether there are such or not; those of the other
    /// kinds are for the cluster's own, which has no name.
    pub networks: Vec<NetworkKey>,
    /// When it counts.
    pub tier: PolicyTier,
    /// The pods that it is about.
    pub subject: PodSelector,
    /// Rules for what is sent to them; `None` if the policy does not say anything about that.
    pub ingress: Option<Vec<PolicyRule>>,
    /// Rules for what they send.
    pub egress: Option<Vec<PolicyRule>>,
}

impl PolicyRecord {
    /// Whether a pod that it is about is isolated: what no rule allows is denied.
    #[must_use]
    pub fn isolates(&self) -> bool {
        self.tier == PolicyTier::NetworkPolicy
    }

    /// Whether it has anything to say in a network; `None` is the cluster's own.
    #[must_use]
    pub fn is_for(&self, network: Option<&NetworkKey>) -> bool {
        match network {
            Some(network) => self.networks.binary_search(network).is_ok(),
            None => self.key.kind != PolicyKind::MultiNetworkPolicy,
        }
    }
}

/// Pods by their labels and those of their Namespaces. Never pods in the network of their node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PodSelector {
    /// In which Namespaces.
    pub namespaces: NamespaceScope,
    /// Which pods there.
    pub pods: Selector,
}

/// Some Namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum NamespaceScope {
    /// The one of this name.
    Own(String),
    /// Those with such labels.
    Selected(Selector),
}

impl fmt::Display for PodSelector {
    /// For a person: `shop/app=web`, `[team=a]/*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespaces {
            NamespaceScope::Own(name) => write!(f, "{name}/")?,
            NamespaceScope::Selected(selector) if selector.is_everything() => f.write_str("*/")?,
            NamespaceScope::Selected(selector) => write!(f, "[{selector}]/")?,
        }
        if self.pods.is_everything() {
            f.write_str("*")
        } else {
            write!(f, "{}", self.pods)
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RuleAction {
    /// Allows what it matches. A NetworkPolicy's rules all do.
    Accept,
    /// Denies it.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRule {
    /// `name`, where it has one.
    pub name: Option<String>,
    /// What it does.
    pub action: RuleAction,
    /// Whom it matches; `None` for everyone. Never confuse that with an empty list, which matches no one.
    pub peers: Option<Vec<PolicyPeer>>,
    /// Which ports it matches; `None` for all, and for protocols without ports. An empty list matches none.
    pub ports: Option<Vec<PolicyPort>>,
}

/// Someone at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PolicyPeer {
    /// Pods.
    Pods(PodSelector),
    /// Addresses, whoever has them.
    Block {
        /// All of these.
        cidr: IpNet,
        /// But not these.
        except: Vec<IpNet>,
    },
    /// The addresses of nodes with such labels.
    Nodes(Selector),
}

/// A port at the destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum PolicyPort {
    /// By number.
    Range {
        /// Of this protocol.
        protocol: Protocol,
        /// From this port on.
        first: u16,
        /// Up to this one.
        last: u16,
    },
    /// By the name that the destination's pod has given it.
    Name {
        /// Of this protocol; `None` for whichever the pod says.
        protocol: Option<Protocol>,
        /// The name.
        name: String,
    },
}
