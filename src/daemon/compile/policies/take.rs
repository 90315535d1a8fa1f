//! What is there now, and what of it has changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::{Identity, PodPolicies};
use millrace_dataplane::table::{HashKey, Local as Node};

use super::super::{Inputs, PortInput};
use super::crowd::Traits;
use super::made::{self, NodeFacts};
use super::{KnownPod, Local, LocalPort, Policies, PolicyCompiler, PolicyInputs};
use crate::objects::{PodKey, PodRecord, PolicyKey, PolicyRecord, Store};

/// The ports with this node's pods behind them.
pub(in super::super) fn local_ports(ports: &[PortInput]) -> Vec<LocalPort> {
    let of_pods = ports.iter().filter_map(|port| {
        Some(LocalPort {
            id: port.id,
            pod: port.pod.clone()?,
            addresses: port.facts.sources.clone(),
        })
    });
    of_pods.collect()
}

/// The addresses that pods know their own node by: its own, and those of the pods' gateway and of the node in the overlay.
pub(in super::super) fn addresses_of_node(inputs: &Inputs<'_>, local: &Node) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = local
        .addresses
        .iter()
        .copied()
        .chain(inputs.own.gateway_addresses())
        .chain(inputs.own.tunnel_addresses())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What an update has found changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) policies: bool,
    pub(super) namespaces: bool,
    pub(super) nodes: bool,
    /// Who has which address.
    pub(super) stations: bool,
    pub(super) ports: bool,
    /// Identities that selectors may select otherwise than before.
    pub(super) touched: BTreeSet<Identity>,
    /// Identities of which an address came or went.
    pub(super) moved: BTreeSet<Identity>,
}

impl Changes {
    pub(super) fn is_none(&self) -> bool {
        let is_any = self.policies || self.namespaces || self.nodes || self.stations || self.ports;
        !is_any && self.touched.is_empty() && self.moved.is_empty()
    }
}

impl PolicyCompiler {
    pub(super) fn take_policies(&mut self, store: &Store, changes: &mut Changes) {
        let network = self.network.as_ref();
        let all = store.policies().iter();
        let new: Vec<(&PolicyKey, &Arc<PolicyRecord>)> =
            all.filter(|(_, record)| record.is_for(network)).collect();
        let known = &mut self.policies.all;
        let is_same = |(key, record): &(&PolicyKey, &Arc<PolicyRecord>)| {
            known
                .get(*key)
                .is_some_and(|old| Arc::ptr_eq(old, record) || old == *record)
        };
        if new.len() == known.len() && new.iter().all(is_same) {
            return;
        }
        changes.policies = true;
        // One that says the same as before stays the very same, so that what was made of it does.
        let merged = new.into_iter().map(|(key, record)| {
            let old = known.get(key).filter(|old| *old == record);
            (key.clone(), Arc::clone(old.unwrap_or(record)))
        });
        let merged: BTreeMap<_, _> = merged.collect();
        for gone in known.keys().filter(|key| !merged.contains_key(key)) {
            self.numbers.forget(gone);
        }
        let mut policies = Policies::default();
        for record in merged.values() {
            if record.isolates() {
                let namespace = record.key.namespace.clone();
                policies
                    .by_namespace
                    .entry(namespace)
                    .or_default()
                    .push(Arc::clone(record));
            } else {
                policies.cluster.push(Arc::clone(record));
            }
        }
        policies
            .cluster
            .sort_by(|a, b| (a.tier, &a.key).cmp(&(b.tier, &b.key)));
        policies.all = merged;
        self.policies = policies;
    }

    pub(super) fn take_namespaces(&mut self, store: &Store, changes: &mut Changes) {
        let touched = self.crowd.take_namespaces(store.namespaces());
        changes.namespaces = touched.is_some();
        changes.touched.extend(touched.into_iter().flatten());
    }

    pub(super) fn take_nodes(&mut self, inputs: &PolicyInputs<'_>, changes: &mut Changes) {
        // Looked at only if someone selects by them.
        if self
            .policies
            .cluster
            .iter()
            .any(|policy| made::selects_nodes(policy))
        {
            let nodes = NodeFacts::of(inputs.store);
            changes.nodes = nodes != self.nodes;
            self.nodes = nodes;
        }
        if self.node_addresses != inputs.node_addresses {
            self.node_addresses = inputs.node_addresses.to_vec();
            changes.stations = true;
            let isolated = self.locals.iter().filter(|(_, local)| !local.policies.is_open());
            self.changed.extend(isolated.map(|(port, _)| *port));
        }
    }

    pub(super) fn take_pods(&mut self, inputs: &PolicyInputs<'_>, changes: &mut Changes) {
        // A pod may have several ports in one network.
        let mut ports: HashMap<&PodKey, Vec<IpAddr>, HashKey> = HashMap::with_hasher(self.key);
        for port in inputs.ports {
            ports.entry(&port.pod).or_default().extend(&port.addresses);
        }
        let network = self.network.clone();
        let addresses_of = |record: &'_ PodRecord| match (ports.get(&record.key), &network) {
            (Some(addresses), _) => addresses.clone(),
            (None, _) if record.host_network => Vec::new(),
            (None, None) => record.ips.clone(),
            (None, Some(network)) => record.ips_in(network).to_vec(),
        };
        let mut present = 0;
        for record in inputs.store.shared_pods() {
            let known = self.pods.get(&record.key);
            let has_ports = ports.contains_key(&record.key);
            // One whose ports have gone has other addresses, or none.
            let is_same = |known: &KnownPod| Arc::ptr_eq(&known.record, record) && !known.has_ports;
            if !has_ports && known.is_some_and(is_same) {
                present += 1;
                continue;
            }
            let addresses = addresses_of(record);
            if !addresses.is_empty() {
                present += 1;
                self.take_pod(record, (addresses, has_ports), changes);
            } else if let Some(known) = self.pods.remove(&record.key) {
                self.leave(&known, changes);
            }
        }
        if present == self.pods.len() {
            return;
        }
        let is_gone = |key: &PodKey| inputs.store.pod(key).is_none();
        let gone: Vec<PodKey> = self.pods.keys().filter(|key| is_gone(key)).cloned().collect();
        for known in gone
            .iter()
            .filter_map(|key| self.pods.remove(key))
            .collect::<Vec<_>>()
        {
            self.leave(&known, changes);
        }
    }

    /// Takes in a pod that is new or may have changed.
    pub(super) fn take_pod(
        &mut self,
        record: &Arc<PodRecord>,
        (addresses, has_ports): (Vec<IpAddr>, bool),
        changes: &mut Changes,
    ) {
        let old = self.pods.get_mut(&record.key);
        if let Some(old) = old
            && Traits::are_same(&old.record, record)
        {
            (old.record, old.has_ports) = (Arc::clone(record), has_ports);
            if old.addresses != addresses {
                old.addresses = addresses;
                changes.moved.insert(old.identity);
            }
            return;
        }
        let (identity, is_new) = self.crowd.enter(record);
        if is_new {
            changes.touched.insert(identity);
        }
        changes.moved.insert(identity);
        let known = KnownPod {
            record: Arc::clone(record),
            identity,
            addresses,
            has_ports,
        };
        if let Some(old) = self.pods.insert(record.key.clone(), known) {
            self.leave(&old, changes);
        }
    }

    /// Lets a pod go that is no longer there, or no longer what it was.
    fn leave(&mut self, pod: &KnownPod, changes: &mut Changes) {
        changes.moved.insert(pod.identity);
        if self.crowd.leave(pod.identity) {
            changes.touched.insert(pod.identity);
        }
    }

    pub(super) fn take_ports(&mut self, ports: &[LocalPort], changes: &mut Changes) {
        let is_same = ports.len() == self.locals.len()
            && ports
                .iter()
                .all(|port| self.locals.get(&port.id).is_some_and(|local| local.port == *port));
        if is_same {
            return;
        }
        changes.ports = true;
        let present: HashSet<PortId> = ports.iter().map(|port| port.id).collect();
        let gone = self.locals.keys().filter(|id| !present.contains(id));
        self.changed.extend(gone);
        self.locals.retain(|id, _| present.contains(id));
        for port in ports {
            let local = self.locals.get(&port.id);
            if local.is_some_and(|local| local.port == *port) {
                continue;
            }
            self.changed.insert(port.id);
            let local = Local {
                port: port.clone(),
                record: None,
                egress: None,
                ingress: None,
                policies: PodPolicies::default(),
            };
            self.locals.insert(port.id, local);
        }
    }
}
