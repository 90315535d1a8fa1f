//! The store: every good object at one moment, checked against one another.
//!
//! Conflicts (one pod CIDR, VtepMAC or address claimed twice) are decided by order: the older object by
//! `metadata.creationTimestamp` comes first, objects without one come after those with one, and within that
//! file name and position decide. What comes first keeps what it claims, what comes later is refused by name.
//! The answer depends on the objects alone, not on the order in which they were seen, so a restart does not
//! change it.

mod build;
mod divide;
mod entry;
mod networks;
mod overlay;
mod peer;
mod policies;
mod registry;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::attachment::{NetworkKey, NetworkRecord, RouteTo};
use super::calico::{Encapsulation, PoolRecord};
use super::endpoint_slice::SliceRecord;
use super::flannel::Family;
use super::name::{NodeName, ObjectId, PodKey};
use super::namespace::NamespaceRecord;
use super::network::{Network, NetworkChoice};
use super::node::NodeRecord;
use super::notice::{Notice, Severity};
use super::pod::PodRecord;
use super::policy::{PolicyKey, PolicyRecord};
use super::service::{Claim, ServiceRecord};
pub use entry::{Entry, Record};
pub use peer::{Peer, PeerTunnel};
pub(super) use registry::Registry;

/// Every good object at one moment. Immutable; a change makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    own: NodeName,
    nodes: BTreeMap<NodeName, NodeRecord>,
    pods: BTreeMap<PodKey, Arc<PodRecord>>,
    pod_by_ip: BTreeMap<IpAddr, Arc<PodRecord>>,
    services: Arc<[Arc<ServiceEntry>]>,
    namespaces: BTreeMap<String, Arc<NamespaceRecord>>,
    policies: BTreeMap<PolicyKey, Arc<PolicyRecord>>,
    networks: BTreeMap<NetworkKey, Arc<NetworkRecord>>,
    /// Between which of them is routed, each pair from both sides.
    network_routes: BTreeMap<NetworkKey, Vec<RouteTo>>,
    choice: NetworkChoice,
    network: Network,
    /// Calico's objects, to be kept; what follows from them is in the nodes.
    calico: Vec<(ObjectId, Record)>,
    pools: Vec<IpNet>,
    finished_pods: usize,
    notices: Vec<Notice>,
}

impl Store {
    /// Checks sound objects against one another. `own` is the name of the node that this program runs on;
    /// `notices` are what the source itself has to report, and come first among the store's.
    #[must_use]
    pub fn build(own: &NodeName, entries: Vec<Entry>, notices: Vec<Notice>) -> Self {
        Self::build_in(NetworkChoice::Auto, own, entries, notices)
    }

    /// As [`Self::build`], in a cluster network of one's choice.
    #[must_use]
    pub fn build_in(
        choice: NetworkChoice,
        own: &NodeName,
        entries: Vec<Entry>,
        notices: Vec<Notice>,
    ) -> Self {
        let entries: Vec<Arc<Entry>> = entries.into_iter().map(Arc::new).collect();
        let mut registry = Registry::default();
        registry.replace(&[], &entries);
        let entries: Vec<_> = entries.iter().collect();
        Self::assemble((own, choice), &entries, &mut registry, notices)
    }

    /// As [`Self::build`], where Services and EndpointSlices are in a registry already; they may be left out of
    /// `entries`.
    #[must_use]
    pub(super) fn assemble(
        own: (&NodeName, NetworkChoice),
        entries: &[&Arc<Entry>],
        registry: &mut Registry,
        notices: Vec<Notice>,
    ) -> Self {
        build::build(own, entries, registry, notices)
    }

    /// The name of the node that this program runs on.
    #[must_use]
    pub fn own_name(&self) -> &NodeName {
        &self.own
    }

    /// The node that this program runs on, if there is a good object for it.
    #[must_use]
    pub fn own_node(&self) -> Option<&NodeRecord> {
        self.nodes.get(&self.own)
    }

    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&NodeRecord> {
        self.nodes.get(name)
    }

    /// All good nodes, the own one among them, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// The cluster network.
    #[must_use]
    pub fn network(&self) -> Network {
        self.network
    }

    /// The CIDRs of all IPPools of a Calico cluster.
    #[must_use]
    pub fn pools(&self) -> &[IpNet] {
        &self.pools
    }

    /// The ways in which packets travel in a Calico cluster.
    pub fn encapsulations(&self) -> impl Iterator<Item = (IpNet, Encapsulation)> + '_ {
        self.pools_in_force()
            .map(|pool| (pool.cidr, Encapsulation::from(pool)))
    }

    /// The CIDRs of those IPPools whose pods leave the cluster under their own addresses: those without `natOutgoing`.
    pub fn pools_without_nat(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pools_in_force()
            .filter(|pool| !pool.nat_outgoing)
            .map(|pool| pool.cidr)
    }

    fn pools_in_force(&self) -> impl Iterator<Item = &PoolRecord> {
        let pools = self.calico.iter().filter_map(|(_, record)| match record {
            Record::Pool(pool) => Some(&**pool),
            _ => None,
        });
        pools.filter(|pool| self.pools.contains(&pool.cidr))
    }

    /// The nodes to which there is a way for pods of `family`: all but the own one that take part, have a
    /// pod CIDR and a public address, and a backend that this program speaks, with its data. In a Calico cluster a node is
    /// there once for each of its blocks.
    pub fn peers(&self, family: Family) -> impl Iterator<Item = Peer<'_>> {
        let others = self.nodes.values().filter(|node| node.name != self.own);
        others.flat_map(move |node| {
            let flannel = node
                .blocks
                .is_none()
                .then(|| Peer::of(node, family).ok())
                .flatten();
            let blocks = node.blocks.iter().flatten();
            let calico = blocks.filter_map(move |block| Peer::of_block(node, family, block).ok());
            flannel.into_iter().chain(calico)
        })
    }

    /// A pod by its namespace and name.
    #[must_use]
    pub fn pod(&self, key: &PodKey) -> Option<&PodRecord> {
        self.pods.get(key).map(|pod| &**pod)
    }

    /// The pod that has an address. Pods in the network of their node are not found here, since they share
    /// its address.
    #[must_use]
    pub fn pod_by_ip(&self, address: IpAddr) -> Option<&PodRecord> {
        self.pod_by_ip.get(&address).map(|pod| &**pod)
    }

    /// All good pods that have not ended, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.values().map(|pod| &**pod)
    }

    /// [`Self::pods`], to be kept: a pod that did not change is the very same one in the next store.
    pub fn shared_pods(&self) -> impl Iterator<Item = &Arc<PodRecord>> {
        self.pods.values()
    }

    /// The pods of the own node that are ports of the switch: scheduled here, and not in the node's own
    /// network.
    pub fn own_pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods()
            .filter(|pod| pod.node_name.as_ref() == Some(&self.own) && !pod.host_network)
    }

    /// All good Services, by namespace and name. One that is as it was in an earlier store of the same source is the
    /// same one, by pointer.
    #[must_use]
    pub fn services(&self) -> &Arc<[Arc<ServiceEntry>]> {
        &self.services
    }

    /// All good Namespaces, by name.
    #[must_use]
    pub fn namespaces(&self) -> &BTreeMap<String, Arc<NamespaceRecord>> {
        &self.namespaces
    }

    /// Whether there is a namespace of this name: there is an object for it, or something in it.
    #[must_use]
    pub fn has_namespace(&self, name: &str) -> bool {
        let first = self
            .services
            .partition_point(|entry| entry.record.key.namespace() < name);
        let service = self.services.get(first);
        // No name of a pod comes before this one.
        let pods = PodKey::new(name, "0").ok().map(|key| self.pods.range(key..));
        let pod = pods.and_then(|mut pods| pods.next());
        self.namespaces.contains_key(name)
            || service.is_some_and(|entry| entry.record.key.namespace() == name)
            || pod.is_some_and(|(key, _)| key.namespace() == name)
    }

    /// All good policies, by kind, namespace and name.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<PolicyKey, Arc<PolicyRecord>> {
        &self.policies
    }

    /// How many pods have ended and are left out.
    #[must_use]
    pub fn finished_pods(&self) -> usize {
        self.finished_pods
    }

    /// Everything worth reporting, what was refused among it.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// What was refused.
    pub fn refusals(&self) -> impl Iterator<Item = &Notice> {
        self.notices
            .iter()
            .filter(|notice| notice.severity == Severity::Refused)
    }
}

/// A good Service with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The Service.
    pub record: Arc<ServiceRecord>,
    /// Its EndpointSlices, by name.
    pub slices: Vec<Arc<SliceRecord>>,
    /// What it claims and does not get, because an older Service has it or it is a pod's.
    pub lost: Vec<Claim>,
}

#[cfg(test)]
mod tests;
