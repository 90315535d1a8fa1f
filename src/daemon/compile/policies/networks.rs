//! Policies of every network: the cluster's own, and those beside it in which policies are in force.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::PolicyTable;
use millrace_dataplane::table::{HashKey, SubjectId};

use super::{LocalPort, PolicyCompiler, PolicyInputs};
use crate::admin::protocol::{MemberEnd, PolicyRow};
use crate::daemon::members::MemberRow;
use crate::objects::{NetworkKey, Store};

/// A compiler for each network.
#[derive(Debug)]
pub struct PolicyCompilers {
    /// For the cluster's own network.
    pub cluster: PolicyCompiler,
    /// For those beside it.
    pub networks: NetworkPolicies,
}

impl PolicyCompilers {
    /// Without any policy yet. `key` is the secret that addresses are looked up by.
    #[must_use]
    pub fn new(key: HashKey, workers: usize) -> Self {
        Self {
            cluster: PolicyCompiler::new(key, workers),
            networks: NetworkPolicies {
                key,
                workers,
                compilers: BTreeMap::new(),
            },
        }
    }

    /// All of them, with their networks; `None` is the cluster's own.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&NetworkKey>, &PolicyCompiler)> {
        let others = self.networks.compilers.iter();
        [(None, &self.cluster)]
            .into_iter()
            .chain(others.map(|(network, compiler)| (Some(network), compiler)))
    }

    /// What could not be compiled, one line each.
    pub(in super::super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.iter()
            .flat_map(|(_, compiler)| compiler.warnings().iter().cloned())
    }

    /// Every policy there is, once for each network that it is for: those of `store` that are for a network where no policy is in
    /// force, or for none, too.
    #[must_use]
    pub fn rows(&self, store: &Store) -> Vec<PolicyRow> {
        let mut rows = self.cluster.rows();
        let compilers = self.networks.compilers.values();
        let mut of_networks: Vec<PolicyRow> = compilers.flat_map(PolicyCompiler::rows).collect();
        for policy in store.policies().values().filter(|policy| !policy.is_for(None)) {
            let row = |network| self.cluster.row(policy, Some(network));
            let networks = policy.networks.iter();
            let idle = networks.filter(|network| self.networks.of(network).is_none());
            of_networks.extend(idle.map(|network| row(network.to_string())));
            if policy.networks.is_empty() {
                of_networks.push(row(String::new()));
            }
        }
        of_networks.sort_by(|a, b| (&a.policy, &a.network).cmp(&(&b.policy, &b.network)));
        rows.append(&mut of_networks);
        rows
    }
}

/// Compilers of networks beside the cluster's own. Each is kept from one snapshot to the next, as long as policies are in force
/// in its network.
#[derive(Debug)]
pub struct NetworkPolicies {
    key: HashKey,
    workers: usize,
    compilers: BTreeMap<NetworkKey, PolicyCompiler>,
}

impl NetworkPolicies {
    /// Brings all networks up to date in which policies are in force; others, and those that are gone, are forgotten.
    /// `members` are this node's ports in networks beside the cluster's own.
    pub(in super::super) fn update(&mut self, store: &Store, members: &[(PortId, MemberRow)]) {
        let policed = || store.networks().filter(|network| network.is_policed());
        let there: HashSet<&NetworkKey> = policed().map(|network| &network.key).collect();
        self.compilers.retain(|network, _| there.contains(network));
        for network in policed() {
            let ports = member_ports(members, &network.key);
            self.update_one(&network.key, store, &ports, &network.gateways);
        }
    }

    /// Brings one network up to date. `ports` are this node's pods in it, `gateways` the switch's own addresses there.
    pub fn update_one(
        &mut self,
        network: &NetworkKey,
        store: &Store,
        ports: &[LocalPort],
        gateways: &[IpAddr],
    ) {
        let (key, workers) = (self.key, self.workers);
        let compiler = self.compilers.entry(network.clone());
        compiler
            .or_insert_with(|| PolicyCompiler::of_network(network.clone(), key, workers))
            .update(&PolicyInputs {
                store,
                ports,
                node_addresses: gateways,
            });
    }

    /// A network's compiler; `None` where no policy is in force.
    #[must_use]
    pub fn of(&self, network: &NetworkKey) -> Option<&PolicyCompiler> {
        self.compilers.get(network)
    }

    /// A network's table for the workers; an empty one where no policy is in force.
    #[must_use]
    pub fn table(&self, network: &NetworkKey) -> Arc<PolicyTable> {
        let compiler = self.compilers.get(network);
        compiler.map_or_else(Arc::default, |compiler| Arc::clone(compiler.table()))
    }

    /// [`PolicyCompiler::take_changes`] of a network.
    #[must_use]
    pub fn take_changes(&mut self, network: &NetworkKey) -> HashSet<SubjectId> {
        let compiler = self.compilers.get_mut(network);
        compiler.map_or_else(HashSet::new, PolicyCompiler::take_changes)
    }
}

/// This node's pods in a network beside the cluster's own: virtual machines are none, and no selector means them.
#[must_use]
pub fn member_ports(members: &[(PortId, MemberRow)], network: &NetworkKey) -> Vec<LocalPort> {
    let name = network.to_string();
    let of_pods = members.iter().filter_map(|(id, row)| {
        let MemberEnd::Pod(end) = &row.end else {
            return None;
        };
        let is_in_it = row.network.as_ref() == Some(&name);
        Some(LocalPort {
            id: *id,
            pod: end.pod.parse().ok().filter(|_| is_in_it)?,
            addresses: row.addresses.iter().map(ipnet::IpNet::addr).collect(),
        })
    });
    of_pods.collect()
}

#[cfg(test)]
#[path = "networks_tests.rs"]
mod tests;
