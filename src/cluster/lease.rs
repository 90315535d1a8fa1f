//! flannel's lease: what this node says of itself in flannel's network, so that its peers send it what is for its pods.
//!
//! It is written as flannel's `kube` subnet manager does: annotations of the own Node, by one patch of its `status` for both
//! families (flannel takes no notice of an update in which either family is as before), with the condition
//! `NetworkUnavailable` beside them; and, for flannel's CNI plugin, the file `subnet.env`. A MAC address that has been
//! published is kept, whoever published it: peers drop what bears another. All is looked at again from time to time, and put
//! right where somebody has changed it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::contact::{Contact, Count};
use super::pace::{Backoff, Pace, jittered};
use super::request::{Trouble, late};
use super::subnet_env::SubnetEnv;
use crate::objects::flannel::{
    BACKEND_DATA, BACKEND_DATA_IPIP, BACKEND_IPIP, BACKEND_TYPE, BACKEND_V6_DATA, BACKEND_VXLAN,
    KUBE_SUBNET_MANAGER, NODE_PUBLIC_IP, NODE_PUBLIC_IPV6, PUBLIC_IP, PUBLIC_IP_OVERWRITE, PUBLIC_IPV6,
    PUBLIC_IPV6_OVERWRITE, decode_backend_data, encode_backend_data,
};
use crate::objects::{FlannelLease, NodeName, UnicastMac, Vni};

/// The condition by which a node says that it has no network yet
/// (<https://kubernetes.io/docs/reference/node/node-status/>).
const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
/// Why it has one. Kubernetes looks at the status alone. By custom the reason is the name of what runs (`FlannelIsUp`,
/// `CalicoIsUp`, `CiliumIsUp`), and some controllers tell by it what to look for on the node: flannel's own would send them
/// to a program and a device that are not there.
const REASON: &str = "MillraceIsUp";
/// What requests about the lease are called.
const SUBJECT: &str = "writing flannel's annotations of this node";

/// What this node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Its name.
    pub node: NodeName,
    /// The kind of tunnel.
    pub backend: LeaseBackend,
    /// Where it takes tunnel packets.
    pub public_ip_v4: Option<Ipv4Addr>,
    /// As [`Self::public_ip_v4`], over IPv6.
    pub public_ip_v6: Option<Ipv6Addr>,
    /// `spec.podCIDRs`.
    pub pod_cidr_v4: Option<Ipv4Net>,
    /// As [`Self::pod_cidr_v4`], for IPv6.
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// Largest packet of pods, in bytes.
    pub mtu: u32,
    /// Whether the switch masquerades what pods send out of the cluster.
    pub masquerade: bool,
    /// What its annotations say now, as far as is known: another word than before is a reason to look at them.
    pub present: Option<FlannelLease>,
}

/// The kind of tunnel, with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseBackend {
    /// VXLAN.
    Vxlan {
        /// Network identifier.
        vni: Vni,
        /// MAC address of the IPv4 overlay, if none is published yet.
        mac_v4: UnicastMac,
        /// The same of the IPv6 overlay.
        mac_v6: UnicastMac,
    },
    /// IP-in-IP, IPv4 only.
    Ipip,
}

/// The annotations as they should be, by those that there are: an operator's wishes among them, and the MAC addresses.
#[must_use]
pub fn annotations(facts: &LeaseFacts, present: &BTreeMap<String, String>) -> BTreeMap<&'static str, String> {
    let given = |name: &str| present.get(name).filter(|value| !value.is_empty());
    let public = |names: [&str; 2], found: String| {
        let wish = names.into_iter().find_map(given);
        wish.cloned().unwrap_or(found)
    };
    let data = |name: &str, vni: Vni, derived: UnicastMac| {
        let published = given(name).and_then(|text| decode_backend_data(text).ok());
        encode_backend_data(vni, published.map_or(derived, |lease| lease.vtep_mac))
    };
    let mut wanted = BTreeMap::from([(KUBE_SUBNET_MANAGER, "true".to_owned())]);
    let (kind, data_v4, data_v6) = match facts.backend {
        LeaseBackend::Vxlan { vni, mac_v4, mac_v6 } => (
            BACKEND_VXLAN,
            data(BACKEND_DATA, vni, mac_v4),
            Some(data(BACKEND_V6_DATA, vni, mac_v6)),
        ),
        LeaseBackend::Ipip => (BACKEND_IPIP, BACKEND_DATA_IPIP.to_owned(), None),
    };
    wanted.insert(BACKEND_TYPE, kind.to_owned());
    if let (Some(found), Some(_)) = (facts.public_ip_v4, facts.pod_cidr_v4) {
        let wishes = [PUBLIC_IP_OVERWRITE, NODE_PUBLIC_IP];
        wanted.insert(BACKEND_DATA, data_v4);
        wanted.insert(PUBLIC_IP, public(wishes, found.to_string()));
    }
    if let (Some(found), Some(_), Some(data)) = (facts.public_ip_v6, facts.pod_cidr_v6, data_v6) {
        let wishes = [PUBLIC_IPV6_OVERWRITE, NODE_PUBLIC_IPV6];
        wanted.insert(BACKEND_V6_DATA, data);
        wanted.insert(PUBLIC_IPV6, public(wishes, found.to_string()));
    }
    wanted
}

/// What has to be changed of a Node's status; nothing if it is as it should be.
fn patch(facts: &LeaseFacts, node: &Node, now: Timestamp) -> Option<Value> {
    let none = BTreeMap::new();
    let present = node.metadata.annotations.as_ref().unwrap_or(&none);
    let wanted = annotations(facts, present);
    let is_written = wanted
        .iter()
        .all(|(name, value)| present.get(*name) == Some(value));
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let is_available = conditions
        .filter(|condition| condition.type_ == NETWORK_UNAVAILABLE)
        .any(|condition| condition.status == "False");
    if is_written && is_available {
        return None;
    }
    let mut patch = json!({});
    if !is_written {
        // All of them, for both families belong together.
        patch["metadata"] = json!({"annotations": wanted});
    }
    if !is_available {
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        patch["status"] = json!({"conditions": [{
            "type": NETWORK_UNAVAILABLE,
            "status": "False",
            "reason": REASON,
            "message": "Millrace is running on this node",
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        }]});
    }
    Some(patch)
}

/// Keeps the lease.
pub(super) struct LeaseKeeper {
    nodes: Api<Node>,
    facts: watch::Receiver<Option<LeaseFacts>>,
    subnet_env: SubnetEnv,
    contact: Arc<Contact>,
    pace: Pace,
    backoff: Backoff,
    /// What is wrong with subnet.env, and has been said.
    said: Option<String>,
}

impl LeaseKeeper {
    pub(super) fn new(
        client: kube::Client,
        facts: watch::Receiver<Option<LeaseFacts>>,
        subnet_env: SubnetEnv,
        (contact, pace): (Arc<Contact>, Pace),
    ) -> Self {
        Self {
            nodes: Api::all(client),
            facts,
            subnet_env,
            contact,
            pace,
            backoff: Backoff::new(pace),
            said: None,
        }
    }

    /// Keeps it until nobody says any more what it should be.
    pub(super) async fn run(mut self) {
        let mut files = tokio::time::interval(self.pace.subnet_file);
        files.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = Instant::now();
        loop {
            tokio::select! {
                changed = self.facts.changed() => if changed.is_err() {
                    return;
                },
                _ = files.tick() => {
                    self.write_file();
                    continue;
                }
                () = tokio::time::sleep_until(due) => {}
            }
            let facts = self.facts.borrow_and_update().clone();
            let wait = match facts {
                Some(facts) => {
                    self.write_file();
                    self.write(&facts).await
                }
                None => self.pace.lease,
            };
            due = Instant::now() + wait;
        }
    }

    /// Puts the own Node right, and tells when to look at it again.
    async fn write(&mut self, facts: &LeaseFacts) -> Duration {
        let written = tokio::time::timeout(self.pace.answer_max, self.try_write(facts)).await;
        let trouble = match written {
            Ok(Ok(())) => {
                self.contact.went_well(SUBJECT);
                self.backoff.reset();
                return jittered(self.pace.lease);
            }
            Ok(Err(error)) => Trouble::of(&error),
            Err(_) => late(self.pace.answer_max),
        };
        self.contact.failed(SUBJECT, &trouble);
        self.backoff.wait(trouble.retry_after())
    }

    async fn try_write(&self, facts: &LeaseFacts) -> Result<(), kube::Error> {
        let name = facts.node.as_str();
        let node = self.nodes.get(name).await?;
        let Some(patch) = patch(facts, &node, Timestamp::now()) else {
            return Ok(());
        };
        let params = PatchParams::default();
        self.nodes
            .patch_status(name, &params, &Patch::Strategic(&patch))
            .await?;
        self.contact.count(Count::Leases);
        info!("wrote flannel's annotations of this node: {patch}");
        Ok(())
    }

    fn write_file(&mut self) {
        let Some(facts) = self.facts.borrow().clone() else {
            return;
        };
        let trouble = match self.subnet_env.keep(&facts) {
            Ok(is_written) => {
                if is_written {
                    self.contact.count(Count::SubnetFiles);
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(words) = trouble
            .as_ref()
            .filter(|words| self.said.as_ref() != Some(*words))
        {
            warn!("{words}");
        }
        self.said = trouble;
    }
}

#[cfg(test)]
mod tests;
