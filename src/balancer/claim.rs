//! From the store of objects to who claims which addresses, and from where they may come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::wire::MacAddr;

use super::allocate::{Claimant, Pools, Sharing, Taken, family_of};
use super::aside::Aside;
use crate::config::{AddressRange, LoadBalancer, Pool};
use crate::objects::{
    Assigned, BalancerWish, CLASS_PREFIX, NamespaceRecord, PROXY_NAME, ServiceKind, ServiceRecord, Store,
};

/// What addresses are given out by.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// `[load-balancer]`.
    pub config: &'a LoadBalancer,
    /// The objects.
    pub store: &'a Store,
    /// What Services were given and their status does not show: yet, or ever, where nothing can be written back.
    pub assigned: &'a Assigned,
    /// Whether their status is what they were given. Else it is the operator's.
    pub is_status_ours: bool,
    /// This node's own addresses.
    pub own_addresses: &'a [IpAddr],
    /// What hosts outside of the cluster answer for.
    pub aside: &'a Aside,
}

/// Who claims what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// The Services.
    pub claimants: Vec<Claimant>,
    /// Pools that collide with something.
    pub refused: BTreeSet<usize>,
    /// What they collide with, in words.
    pub faults: Vec<String>,
    /// Addresses of the pools that are somebody's by other means.
    pub taken: BTreeMap<IpAddr, Vec<Taken>>,
    /// Addresses that hosts outside of the cluster answer for.
    pub aside: BTreeMap<IpAddr, MacAddr>,
}

impl Claims {
    /// Reads the objects.
    #[must_use]
    pub fn of(inputs: Inputs<'_>) -> Self {
        let mut claims = Self {
            aside: inputs.aside.addresses(),
            ..Self::default()
        };
        claims.look_for_collisions(inputs);
        for entry in inputs.store.services().iter() {
            let record = &entry.record;
            claims.note_taken(inputs, record);
            if let Some(wish) = wish_of(inputs.config, record) {
                claims.claimants.push(claimant(inputs, record, wish));
            }
        }
        claims
    }

    /// The pools with what is known of them.
    #[must_use]
    pub fn pools<'a>(&'a self, config: &'a LoadBalancer) -> Pools<'a> {
        Pools {
            pools: &config.pools,
            refused: &self.refused,
            taken: &self.taken,
            aside: &self.aside,
        }
    }

    /// A pool must not have what is a pod's or a node's.
    fn look_for_collisions(&mut self, inputs: Inputs<'_>) {
        let pools = inputs.config.pools.iter().enumerate();
        let mut pods: Vec<(IpNet, String)> = Vec::new();
        let mut nodes: Vec<(IpAddr, String)> = Vec::new();
        for node in inputs.store.nodes() {
            pods.extend(
                node.pod_prefixes()
                    .map(|cidr| (cidr, format!("pod CIDR {cidr} of Node {}", node.name))),
            );
            let addresses = node.public_ips().chain(node.internal_ips.iter().copied());
            nodes.extend(addresses.map(|address| (address, node.name.to_string())));
        }
        pods.extend(
            inputs
                .store
                .pools()
                .iter()
                .map(|cidr| (*cidr, format!("IPPool {cidr}"))),
        );
        let own = inputs.store.own_name();
        nodes.extend(
            inputs
                .own_addresses
                .iter()
                .map(|address| (*address, own.to_string())),
        );
        for (place, pool) in pools {
            let overlap = pods.iter().find(|(cidr, _)| {
                let cidr = AddressRange::of_cidr(*cidr);
                pool.addresses.iter().any(|range| range.overlaps(&cidr))
            });
            let node = nodes.iter().find(|(address, _)| pool.contains(*address));
            let with = match (overlap, node) {
                (Some((_, words)), _) => words.clone(),
                (None, Some((address, name))) => format!("{address}, an address of Node {name}"),
                (None, None) => continue,
            };
            self.refused.insert(place);
            self.faults.push(format!(
                "[load-balancer] pool `{}` collides with {with}: it gives out nothing new until its addresses leave that out",
                pool.name
            ));
        }
        for (address, name) in nodes {
            self.take(inputs.config, address, Taken::Node(name));
        }
    }

    /// Notes what of the pools a Service has by other means than from them.
    fn note_taken(&mut self, inputs: Inputs<'_>, record: &ServiceRecord) {
        let is_theirs = wish_of(inputs.config, record).is_none();
        // Where the status is the operator's, what stands there is given by nobody here.
        let is_fixed =
            |address: &&IpAddr| is_theirs || !inputs.is_status_ours && !record.assigned_ips.contains(address);
        let fixed = record.load_balancer_ips.iter().filter(is_fixed);
        let others = record
            .cluster_ips
            .iter()
            .chain(&record.external_ips)
            .chain(&record.proxied_ips);
        for address in others.chain(fixed) {
            self.take(inputs.config, *address, Taken::Service(record.key.clone()));
        }
    }

    fn take(&mut self, config: &LoadBalancer, address: IpAddr, holder: Taken) {
        if pool_of(config, address).is_none() {
            return;
        }
        let holders = self.taken.entry(address).or_default();
        if !holders.contains(&holder) {
            holders.push(holder);
        }
    }
}

/// The pool that an address is of.
#[must_use]
pub fn pool_of(config: &LoadBalancer, address: IpAddr) -> Option<&Pool> {
    config.pools.iter().find(|pool| pool.contains(address))
}

/// What a Service asks for, if it is one that gets addresses here.
#[must_use]
pub fn wish_of<'a>(config: &LoadBalancer, record: &'a ServiceRecord) -> Option<&'a BalancerWish> {
    let is_ours = record.proxy_name.as_deref().is_none_or(|name| name == PROXY_NAME);
    if record.kind != ServiceKind::LoadBalancer || !is_ours || config.pools.is_empty() {
        return None;
    }
    let is_ours = |wish: &&BalancerWish| match &wish.class {
        Some(class) => class.starts_with(CLASS_PREFIX),
        None => config.default_class,
    };
    record.wish.as_deref().filter(is_ours)
}

fn claimant(inputs: Inputs<'_>, record: &ServiceRecord, wish: &BalancerWish) -> Claimant {
    let is_given = |address: &&IpAddr| inputs.is_status_ours || record.assigned_ips.contains(address);
    let fixed: Vec<IpAddr> = record
        .load_balancer_ips
        .iter()
        .filter(|address| !is_given(address))
        .copied()
        .collect();
    let held = match inputs.assigned.get(&record.key) {
        Some(assigned) => assigned.clone(),
        None if inputs.is_status_ours => record.load_balancer_ips.clone(),
        None => Vec::new(),
    };
    // Where the operator wrote an address into the status, that is the one.
    let is_open = |family: &_| !fixed.iter().any(|address| family_of(*address) == *family);
    let sharing = wish.sharing_key.as_ref().map(|key| Sharing {
        key: key.clone(),
        local_pods: record.external_local.then(|| wish.selector.clone()),
    });
    Claimant {
        service: record.key.clone(),
        created_s: wish.created_s,
        families: wish.families.iter().copied().filter(is_open).collect(),
        needs_all: wish.needs_all_families && fixed.is_empty(),
        is_unreadable: wish.is_unreadable,
        wanted: wish
            .wanted
            .iter()
            .copied()
            .filter(|wanted| is_open(&family_of(*wanted)))
            .collect(),
        pool: wish.pool.clone(),
        sharing,
        ports: record
            .ports
            .iter()
            .map(|port| (port.protocol, port.port))
            .collect(),
        admitted: admitted(inputs, record, wish),
        held,
        declined: inputs.aside.declined(&record.key).to_vec(),
    }
}

/// The places of the pools that a Service may use.
fn admitted(inputs: Inputs<'_>, record: &ServiceRecord, wish: &BalancerWish) -> Vec<usize> {
    let name = record.key.namespace();
    let namespaces = inputs.store.namespaces();
    let admits = |pool: &Pool| {
        let has = |wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let by_labels = || match namespaces.get(name) {
            Some(namespace) => has(&pool.namespace_labels, &namespace.labels),
            None => has(&pool.namespace_labels, &NamespaceRecord::unlabelled(name).labels),
        };
        let is_named = pool.namespaces.iter().any(|namespace| namespace == name);
        let is_anyones = pool.namespaces.is_empty() && pool.namespace_labels.is_empty();
        let of_namespace = is_anyones || is_named || !pool.namespace_labels.is_empty() && by_labels();
        of_namespace && has(&pool.service_labels, &wish.labels)
    };
    let pools = inputs.config.pools.iter().enumerate();
    pools
        .filter(|(_, pool)| admits(pool))
        .map(|(place, _)| place)
        .collect()
}

#[cfg(test)]
mod tests;
