//! Policies: from the store to the rules of each of this node's pods.
//!
//! Only what this node's pods need is compiled: the policies that select one of them. Pods with the same policies share
//! their rules. Everything is kept from one snapshot to the next, and a change costs what it touches: a pod that comes,
//! goes or changes is one identity to be matched against the selectors in use, and the rule sets that match it
//! differently are the only ones made anew. Stored answers are found again for the pods whose rules changed, or that
//! have a rule for a pod whose address came or went, and for no others.

mod blocks;
mod crowd;
mod made;
mod networks;
mod numbers;
mod outcome;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::{
    DeniedLog, Identity, PodPolicies, PolicyCounts, PolicyTable, RuleId, Side, Station, Stations,
};
use millrace_dataplane::table::{HashKey, SubjectId};

use crate::objects::{NetworkKey, PodKey, PodRecord, PolicyKey, PolicyRecord, PolicyTier, Store};
use crowd::Crowd;
use made::{Made, Maker, NodeFacts, SetKey};
use numbers::RuleNumbers;
use take::Changes;

pub use networks::{NetworkPolicies, PolicyCompilers, member_ports};
pub use numbers::{RuleName, RuleNames};
pub use outcome::PolicyMemory;
pub(super) use take::{addresses_of_node, local_ports};

/// A port of this node with a pod behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPort {
    /// The port's number.
    pub id: PortId,
    /// Its pod.
    pub pod: PodKey,
    /// The addresses that the pod has been given.
    pub addresses: Vec<IpAddr>,
}

/// Everything that policies are made from.
#[derive(Debug)]
pub struct PolicyInputs<'a> {
    /// All objects.
    pub store: &'a Store,
    /// This node's pods in the network, a port for each interface.
    pub ports: &'a [LocalPort],
    /// The addresses of this node itself in the network: its own, and those that its pods know it by.
    pub node_addresses: &'a [IpAddr],
}

/// What policies come to, and the memory that makes the next time cheap.
#[derive(Debug)]
pub struct PolicyCompiler {
    /// The network that it is for; `None` for the cluster's own.
    network: Option<NetworkKey>,
    key: HashKey,
    policies: Policies,
    nodes: NodeFacts,
    node_addresses: Vec<IpAddr>,
    crowd: Crowd,
    /// The pods that have an identity.
    pods: HashMap<PodKey, KnownPod, HashKey>,
    locals: BTreeMap<PortId, Local>,
    sets: HashMap<Arc<SetKey>, Made>,
    numbers: RuleNumbers,
    counts: PolicyCounts,
    denied: Arc<DeniedLog>,
    table: Arc<PolicyTable>,
    changed: HashSet<PortId>,
    warnings: Vec<String>,
}

/// The policies of the store.
#[derive(Debug, Default)]
struct Policies {
    all: BTreeMap<PolicyKey, Arc<PolicyRecord>>,
    /// NetworkPolicies, or in another network MultiNetworkPolicies, by their Namespace.
    by_namespace: HashMap<String, Vec<Arc<PolicyRecord>>>,
    /// ClusterNetworkPolicies in the order in which they count.
    cluster: Vec<Arc<PolicyRecord>>,
}

/// A pod that policies may mean.
#[derive(Debug)]
struct KnownPod {
    record: Arc<PodRecord>,
    identity: Identity,
    addresses: Vec<IpAddr>,
    /// Whether these are those of its ports here, and not what objects say.
    has_ports: bool,
}

/// A pod of this node.
#[derive(Debug)]
struct Local {
    port: LocalPort,
    /// What its rules were chosen by.
    record: Option<Arc<PodRecord>>,
    egress: Option<Arc<SetKey>>,
    ingress: Option<Arc<SetKey>>,
    policies: PodPolicies,
}

impl PolicyCompiler {
    /// For the cluster's own network, without any policy yet. `key` is the secret that addresses are looked up by.
    #[must_use]
    pub fn new(key: HashKey, workers: usize) -> Self {
        Self::in_network(None, key, workers)
    }

    /// For a network beside the cluster's own: of policies those alone count that are for it, and of pods their addresses
    /// in it.
    #[must_use]
    pub fn of_network(network: NetworkKey, key: HashKey, workers: usize) -> Self {
        Self::in_network(Some(network), key, workers)
    }

    fn in_network(network: Option<NetworkKey>, key: HashKey, workers: usize) -> Self {
        Self {
            network,
            key,
            policies: Policies::default(),
            nodes: NodeFacts::default(),
            node_addresses: Vec::new(),
            crowd: Crowd::default(),
            pods: HashMap::with_hasher(key),
            locals: BTreeMap::new(),
            sets: HashMap::new(),
            numbers: RuleNumbers::default(),
            counts: PolicyCounts::new(workers),
            denied: Arc::new(DeniedLog::new(workers)),
            table: Arc::default(),
            changed: HashSet::new(),
            warnings: Vec::new(),
        }
    }

    /// Brings everything up to date with the inputs.
    pub fn update(&mut self, inputs: &PolicyInputs<'_>) {
        let mut changes = Changes::default();
        self.take_policies(inputs.store, &mut changes);
        self.take_namespaces(inputs.store, &mut changes);
        self.take_nodes(inputs, &mut changes);
        self.take_pods(inputs, &mut changes);
        self.take_ports(inputs.ports, &mut changes);
        if changes.is_none() {
            return;
        }
        self.renew(&changes);
        self.choose(&changes);
        self.note_moved(&changes);
        let stations = if changes.stations || changes.ports || !changes.moved.is_empty() {
            Arc::new(self.stations())
        } else {
            Arc::clone(self.table.stations())
        };
        self.counts.grow(self.numbers.end());
        let pods = self
            .locals
            .iter()
            .map(|(id, local)| (*id, local.policies.clone()));
        self.table = Arc::new(PolicyTable::build(
            stations,
            pods,
            Arc::new(self.counts.clone()),
            Arc::clone(&self.denied),
        ));
    }

    /// The table for the workers.
    #[must_use]
    pub fn table(&self) -> &Arc<PolicyTable> {
        &self.table
    }

    /// What stored answers have to be found again for, since this was last asked: of each pod concerned, what comes
    /// from it and what goes to it.
    #[must_use]
    pub fn take_changes(&mut self) -> HashSet<SubjectId> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .flat_map(|port| [SubjectId::policy(port), SubjectId::port(port)])
            .collect()
    }

    /// What could not be compiled, one line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What was denied lately.
    #[must_use]
    pub fn denied(&self) -> &Arc<DeniedLog> {
        &self.denied
    }

    /// The pods of all nodes that policies may mean, and this node's, by their addresses in the network.
    #[must_use]
    pub fn pods_by_address(&self) -> HashMap<IpAddr, &PodKey> {
        let known = self.pods.iter().map(|(key, pod)| (key, &pod.addresses));
        let locals = self.locals.values();
        let locals = locals.map(|local| (&local.port.pod, &local.port.addresses));
        let each = known.chain(locals);
        each.flat_map(|(key, addresses)| addresses.iter().map(move |address| (*address, key)))
            .collect()
    }

    /// What a rule's number stands for.
    #[must_use]
    pub fn name(&self, rule: RuleId) -> Option<&RuleName> {
        self.numbers.name(rule)
    }

    /// What all rules' numbers stand for, beside the present [`Self::table`].
    #[must_use]
    pub fn names(&self) -> RuleNames {
        self.numbers.names()
    }

    /// Brings rule sets that are there already up to date with identities that changed.
    fn renew(&mut self, changes: &Changes) {
        if changes.nodes {
            // What was made of the nodes' addresses is made anew by whoever needs it.
            let crowd = &mut self.crowd;
            self.sets.retain(|_, made| {
                let stays = !made.has_nodes();
                if !stays {
                    made.release(crowd);
                }
                stays
            });
        }
        for made in self.sets.values_mut() {
            made.renew(&self.crowd, &changes.touched);
        }
    }

    /// Chooses the rules of this node's pods, and makes those that are not there yet.
    fn choose(&mut self, changes: &Changes) {
        let is_all = changes.policies || changes.namespaces || changes.nodes;
        let mut used: HashSet<Arc<SetKey>> = HashSet::new();
        let mut locals = std::mem::take(&mut self.locals);
        self.warnings.clear();
        for (id, local) in &mut locals {
            let record = self
                .pods
                .get(&local.port.pod)
                .map(|known| Arc::clone(&known.record));
            let is_same = match (&record, &local.record) {
                (Some(new), Some(old)) => Arc::ptr_eq(new, old),
                _ => false,
            };
            if is_all || !is_same {
                local.egress = record
                    .as_ref()
                    .and_then(|record| self.set_for(record, Side::Egress));
                local.ingress = record
                    .as_ref()
                    .and_then(|record| self.set_for(record, Side::Ingress));
            }
            local.record = record;
            let policies = self.policies_of(local);
            if !policies.is_same(&local.policies) {
                self.changed.insert(*id);
            }
            local.policies = policies;
            used.extend(local.egress.iter().chain(&local.ingress).cloned());
        }
        self.locals = locals;
        let crowd = &mut self.crowd;
        self.sets.retain(|key, made| {
            let stays = used.contains(key);
            if !stays {
                made.release(crowd);
            }
            stays
        });
    }

    /// The rules that a pod has been given, as the table has them.
    fn policies_of(&mut self, local: &Local) -> PodPolicies {
        let namespace = local.port.pod.namespace();
        let may_be_selected =
            !self.policies.cluster.is_empty() || self.policies.by_namespace.contains_key(namespace);
        let mut policies = PodPolicies {
            is_closed: local.record.is_none() && may_be_selected,
            ..PodPolicies::default()
        };
        for (key, rules) in [
            (&local.egress, &mut policies.egress),
            (&local.ingress, &mut policies.ingress),
        ] {
            let Some(made) = key.as_ref().and_then(|key| self.sets.get(key)) else {
                continue;
            };
            match made.rules() {
                Ok(set) => *rules = Some(Arc::clone(set)),
                Err(error) => {
                    policies.is_closed = true;
                    let place = self.network.as_ref();
                    let place = place.map_or_else(String::new, |network| format!(" in network {network}"));
                    self.warnings
                        .push(format!("Pod {} is cut off{place}: {error}", local.port.pod));
                }
            }
        }
        policies
    }

    /// The rule set of a pod in one direction, made if it is not there yet; `None` if no policy says anything.
    fn set_for(&mut self, record: &PodRecord, side: Side) -> Option<Arc<SetKey>> {
        let policies = self.selecting(record, side);
        let key = SetKey::new(side, &policies, &record.named_ports)?;
        if let Some((key, _)) = self.sets.get_key_value(&key) {
            return Some(Arc::clone(key));
        }
        let key = Arc::new(key);
        let made = Maker {
            crowd: &mut self.crowd,
            numbers: &mut self.numbers,
            counts: &self.counts,
            nodes: &self.nodes,
        }
        .make(&key, policies);
        self.sets.insert(Arc::clone(&key), made);
        Some(key)
    }

    /// The policies that have something to say of a pod in one direction, in the order in which they count.
    fn selecting(&self, record: &PodRecord, side: Side) -> Vec<Arc<PolicyRecord>> {
        let namespace = record.key.namespace();
        let own = self.policies.by_namespace.get(namespace).into_iter().flatten();
        let speaks = |policy: &&Arc<PolicyRecord>| {
            made::rules_of(policy, side).is_some()
                && self.crowd.is_selected(&policy.subject, namespace, &record.labels)
        };
        let (admin, baseline): (Vec<&Arc<PolicyRecord>>, Vec<_>) = self
            .policies
            .cluster
            .iter()
            .filter(speaks)
            .partition(|policy| policy.tier < PolicyTier::NetworkPolicy);
        let own: Vec<&Arc<PolicyRecord>> = own.filter(speaks).collect();
        // What a NetworkPolicy isolates, it decides about.
        let baseline = if own.is_empty() { baseline } else { Vec::new() };
        admin.into_iter().chain(own).chain(baseline).cloned().collect()
    }

    /// Notes the pods that have a rule for a pod whose address came or went.
    fn note_moved(&mut self, changes: &Changes) {
        for (id, local) in &self.locals {
            let sets = local.policies.egress.iter().chain(&local.policies.ingress);
            let mut sets = sets.filter(|set| changes.moved.iter().any(|identity| set.knows(*identity)));
            if sets.next().is_some() {
                self.changed.insert(*id);
            }
        }
    }

    /// Everyone's address. This node's pods come after all others: what they were given counts.
    fn stations(&self) -> Stations {
        let mut stations =
            Stations::with_capacity_and_hasher(self.pods.len() + self.node_addresses.len(), self.key);
        for pod in self.pods.values() {
            let station = Station::Pod {
                identity: Some(pod.identity),
                port: None,
            };
            stations.extend(pod.addresses.iter().map(|address| (*address, station)));
        }
        for (id, local) in &self.locals {
            let station = Station::Pod {
                identity: self.pods.get(&local.port.pod).map(|known| known.identity),
                port: Some(*id),
            };
            stations.extend(local.port.addresses.iter().map(|address| (*address, station)));
        }
        stations.extend(
            self.node_addresses
                .iter()
                .map(|address| (*address, Station::Node)),
        );
        stations
    }
}
