//! MultiNetworkPolicies, read: NetworkPolicies for networks beside the cluster's own.
//!
//! <https://github.com/k8snetworkplumbingwg/multi-networkpolicy>: the spec is that of a NetworkPolicy, and an annotation says
//! for which networks it is.

use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::{PolicyFault, PolicyKind, PolicyRecord};
use crate::objects::attachment::NetworkKey;
use crate::objects::fault::Fault;

/// The annotation that names the networks a policy is for, with commas between them.
pub(super) const POLICY_FOR: &str = "k8s.v1.cni.cncf.io/policy-for";
/// The `apiVersion`s of MultiNetworkPolicies. An object that is asked for as the first of them comes without `endPort`, which
/// only the second has, and would then say less; so the second is asked for where there is one.
pub(in crate::objects) const MULTI_API_VERSIONS: [&str; 2] =
    ["k8s.cni.cncf.io/v1beta2", "k8s.cni.cncf.io/v1beta1"];

/// A MultiNetworkPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MultiNetworkPolicy {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<NetworkPolicySpec>,
}

impl MultiNetworkPolicy {
    /// `kind`.
    pub const KIND: &'static str = "MultiNetworkPolicy";
}

impl PolicyRecord {
    /// Reads a MultiNetworkPolicy object, with what is wrong about parts of it.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be told which pods it is about.
    pub fn read_multi(policy: &MultiNetworkPolicy) -> Result<(Self, Vec<Fault>), Fault> {
        let (kind, metadata) = (PolicyKind::MultiNetworkPolicy, &policy.metadata);
        let (mut record, mut faults) = Self::read_spec(kind, metadata, policy.spec.as_ref())?;
        let annotations = metadata.annotations.iter().flatten();
        let mut named = annotations.filter(|(key, _)| *key == POLICY_FOR);
        let text = named.next().map(|(_, text)| text.as_str()).unwrap_or_default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match network(name, &record.key.namespace) {
                Some(network) => record.networks.push(network),
                None => faults.push(PolicyFault::NetworkName(name.to_owned()).into()),
            }
        }
        record.networks.sort_unstable();
        record.networks.dedup();
        if record.networks.is_empty() {
            faults.push(PolicyFault::ForNoNetwork.into());
        }
        Ok((record, faults))
    }
}

/// A network by its name; without a namespace it is in `own`.
fn network(name: &str, own: &str) -> Option<NetworkKey> {
    match name.split_once('/') {
        Some(_) => name.parse().ok(),
        None => NetworkKey::new(own, name).ok(),
    }
}
