//! Which node announces an address: a function of the objects and of which nodes live.
//!
//! Every node counts for itself, and comes to the same: of the nodes that live and may announce an address, the one with
//! the highest hash of its name and the address does (rendezvous hashing). So addresses spread over the nodes, a node that
//! dies moves only its own, and one that comes back gets just those again. Whoever serves a Service may announce it, but
//! with `externalTrafficPolicy: Local` only nodes with an endpoint of it that is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::claim::pool_of;
use crate::config::LoadBalancer;
use crate::objects::{NodeName, PROXY_NAME, ServiceEntry, ServiceKey, ServiceKind, Store};

/// The label by which a node keeps out of load balancing
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/>).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// An address that is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duty {
    /// The pool that it is of.
    pub pool: String,
    /// The Services that have it.
    pub services: BTreeSet<ServiceKey>,
    /// The nodes that may announce it; `None` where all that live may.
    pub nodes: Option<BTreeSet<NodeName>>,
}

/// Every address of the pools that leads to a Service.
#[must_use]
pub fn duties(config: &LoadBalancer, store: &Store) -> BTreeMap<IpAddr, Duty> {
    let mut duties: BTreeMap<IpAddr, Duty> = BTreeMap::new();
    if config.pools.is_empty() {
        return duties;
    }
    for entry in store.services().iter() {
        let record = &entry.record;
        let is_ours = record.proxy_name.as_deref().is_none_or(|name| name == PROXY_NAME);
        if record.kind != ServiceKind::LoadBalancer || !is_ours || !record.is_programmed() {
            continue;
        }
        let nodes = record.external_local.then(|| nodes_with_endpoints(entry));
        for address in &record.load_balancer_ips {
            let Some(pool) = pool_of(config, *address).filter(|_| leads(entry, *address)) else {
                continue;
            };
            let duty = duties.entry(*address).or_insert_with(|| Duty {
                pool: pool.name.clone(),
                services: BTreeSet::new(),
                nodes: None,
            });
            duty.services.insert(record.key.clone());
            // Those that share it have the same pods, or a policy that lets every node announce it.
            if let Some(nodes) = &nodes {
                duty.nodes.get_or_insert_default().extend(nodes.iter().cloned());
            }
        }
    }
    duties
}

/// Whether an address leads to a Service by any of its ports.
fn leads(entry: &ServiceEntry, address: IpAddr) -> bool {
    let claims = entry
        .record
        .claims()
        .filter(|claim| claim.address() == Some(address));
    let mut got = claims.filter(|claim| !entry.lost.contains(claim));
    got.next().is_some()
}

/// The nodes with an endpoint that is ready, or if there is none, with one that still serves while it terminates.
fn nodes_with_endpoints(entry: &ServiceEntry) -> BTreeSet<NodeName> {
    let publish = entry.record.publish_not_ready;
    let endpoints = || entry.slices.iter().flat_map(|slice| &slice.endpoints);
    let ready: BTreeSet<NodeName> = endpoints()
        .filter(|endpoint| endpoint.ready || publish)
        .filter_map(|endpoint| endpoint.node_name.clone())
        .collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints()
        .filter(|endpoint| endpoint.serving && endpoint.terminating)
        .filter_map(|endpoint| endpoint.node_name.clone())
        .collect()
}

/// Whether a node may announce anything, as far as its object says.
#[must_use]
pub fn takes_part(store: &Store, node: &NodeName) -> bool {
    store
        .node(node)
        .is_none_or(|record| !record.is_leaving && !record.labels.contains_key(EXCLUDED))
}

/// The node that announces an address, of those that live.
#[must_use]
pub fn announcer<'n>(
    address: IpAddr,
    duty: &Duty,
    living: impl Iterator<Item = &'n NodeName>,
) -> Option<&'n NodeName> {
    let may = |node: &&NodeName| duty.nodes.as_ref().is_none_or(|nodes| nodes.contains(*node));
    living
        .filter(may)
        .max_by_key(|node| (weight(node, address), *node))
}

/// The same on every node and in every version, or two nodes would announce one address while they are updated.
fn weight(node: &NodeName, address: IpAddr) -> [u8; 8] {
    let digest = Sha256::new()
        .chain_update(node.as_str())
        .chain_update([0])
        .chain_update(address.to_string())
        .finalize();
    let mut weight = [0; 8];
    weight.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    weight
}

#[cfg(test)]
pub(super) mod tests;
