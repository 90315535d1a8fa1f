//! The store: every good object at one moment, checked against one another.
//!
//! Conflicts (one pod CIDR, VtepMAC or address claimed twice) are decided by order: the older object by
//! `metadata.creationTimestamp` comes first, objects without one come after those with one, and within that
//! file name and position decide. What comes first keeps what it claims, what comes later is refused by name.
//! The answer depends on the objects alone, not on the order in which they were seen, so a restart does not
//! change it.

mod build;
mod overlay;
mod registry;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::calico::{Block, BlockAffinity, BlockRecord, Encapsulation, IpPool, IpamBlock, PoolRecord};
use super::endpoint_slice::SliceRecord;
use super::fault::Fault;
use super::flannel::{Backend, Family};
use super::name::{NodeName, ObjectId, PodKey};
use super::namespace::NamespaceRecord;
use super::network::{Network, NetworkChoice};
use super::node::NodeRecord;
use super::notice::{Notice, Origin, Severity};
use super::object::Object;
use super::pod::PodRecord;
use super::policy::{PolicyKey, PolicyRecord};
use super::service::{Claim, ServiceRecord};
pub(super) use registry::Registry;

/// What an object comes to, each in itself sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A Node.
    Node(Box<NodeRecord>),
    /// A Pod with a claim on its addresses.
    Pod(Arc<PodRecord>),
    /// A Pod that has ended.
    FinishedPod,
    /// A Service.
    Service(Arc<ServiceRecord>),
    /// An EndpointSlice of a Service.
    EndpointSlice(Arc<SliceRecord>),
    /// A Namespace.
    Namespace(Arc<NamespaceRecord>),
    /// A NetworkPolicy or a ClusterNetworkPolicy.
    Policy(Arc<PolicyRecord>),
    /// An IPPool.
    Pool(Arc<PoolRecord>),
    /// An IPAMBlock.
    Block(Arc<BlockRecord>),
    /// A BlockAffinity.
    Affinity(Arc<BlockRecord>),
    /// An object of Calico's that is being deleted, or not in force yet.
    Absent,
}

/// A sound object with its place and age: what a source hands to [`Store::build`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which object it is.
    pub id: ObjectId,
    /// Where it stands.
    pub origin: Origin,
    /// `metadata.creationTimestamp` in seconds of Unix time.
    pub created_s: Option<i64>,
    /// Whether this is an earlier version, kept because the present one was refused.
    pub is_last_good: bool,
    /// What it comes to.
    pub record: Record,
}

impl Entry {
    /// Reads an object, with what is only worth a warning.
    ///
    /// # Errors
    /// [`Fault`] if the object makes no sense by itself.
    pub fn read(origin: Origin, object: &Object) -> Result<(Self, Vec<Fault>), Fault> {
        let (id, metadata, record, warnings) = match object {
            Object::Node(node) => {
                let (record, warnings) = NodeRecord::read(node)?;
                (
                    node_id(&record.name),
                    &node.metadata,
                    Record::Node(Box::new(record)),
                    warnings,
                )
            }
            Object::Pod(pod) => {
                let record = PodRecord::read(pod)?;
                let id = namespaced_id("Pod", &pod.metadata);
                let record = record.map_or(Record::FinishedPod, |record| Record::Pod(Arc::new(record)));
                (id, &pod.metadata, record, Vec::new())
            }
            Object::Service(service) => {
                let (record, faults) = ServiceRecord::read(service)?;
                let id = namespaced_id("Service", &service.metadata);
                (id, &service.metadata, Record::Service(Arc::new(record)), faults)
            }
            Object::EndpointSlice(slice) => {
                let (record, faults) = SliceRecord::read(slice)?;
                let id = namespaced_id("EndpointSlice", &slice.metadata);
                (
                    id,
                    &slice.metadata,
                    Record::EndpointSlice(Arc::new(record)),
                    faults,
                )
            }
            Object::Namespace(namespace) => {
                let record = NamespaceRecord::read(namespace)?;
                let id = ObjectId {
                    kind: "Namespace".to_owned(),
                    namespace: String::new(),
                    name: record.name.clone(),
                };
                let record = Record::Namespace(Arc::new(record));
                (id, &namespace.metadata, record, Vec::new())
            }
            Object::NetworkPolicy(policy) => {
                let (record, faults) = PolicyRecord::read_network_policy(policy)?;
                let id = record.key.object_id();
                (id, &policy.metadata, Record::Policy(Arc::new(record)), faults)
            }
            Object::ClusterNetworkPolicy(policy) => {
                let (record, faults) = PolicyRecord::read_cluster(policy)?;
                let id = record.key.object_id();
                (id, &policy.metadata, Record::Policy(Arc::new(record)), faults)
            }
            Object::IpPool(pool) => {
                let record = Record::Pool(Arc::new(PoolRecord::read(pool)?));
                (
                    cluster_id(IpPool::KIND, &pool.metadata),
                    &pool.metadata,
                    record,
                    Vec::new(),
                )
            }
            Object::IpamBlock(block) => {
                let (record, faults) = BlockRecord::read(block)?;
                let record = record.map_or(Record::Absent, |record| Record::Block(Arc::new(record)));
                (
                    cluster_id(IpamBlock::KIND, &block.metadata),
                    &block.metadata,
                    record,
                    faults,
                )
            }
            Object::BlockAffinity(affinity) => {
                let record = BlockRecord::read_affinity(affinity)?;
                let record = record.map_or(Record::Absent, |record| Record::Affinity(Arc::new(record)));
                let metadata = &affinity.metadata;
                (
                    cluster_id(BlockAffinity::KIND, metadata),
                    metadata,
                    record,
                    Vec::new(),
                )
            }
        };
        let created_s = created_s(metadata);
        Ok((
            Self {
                id,
                origin,
                created_s,
                is_last_good: false,
                record,
            },
            warnings,
        ))
    }

    /// The order in which claims are decided.
    fn order(&self) -> (bool, bool, Option<i64>, &Origin) {
        (
            self.is_last_good,
            self.created_s.is_none(),
            self.created_s,
            &self.origin,
        )
    }
}

fn created_s(metadata: &ObjectMeta) -> Option<i64> {
    metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.as_second())
}

fn node_id(name: &NodeName) -> ObjectId {
    ObjectId {
        kind: "Node".to_owned(),
        namespace: String::new(),
        name: name.to_string(),
    }
}

fn cluster_id(kind: &str, metadata: &ObjectMeta) -> ObjectId {
    ObjectId {
        kind: kind.to_owned(),
        namespace: String::new(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

fn namespaced_id(kind: &str, metadata: &ObjectMeta) -> ObjectId {
    ObjectId {
        kind: kind.to_owned(),
        namespace: super::object::namespace_of(metadata).to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

fn pod_id(key: &PodKey) -> ObjectId {
    ObjectId {
        kind: "Pod".to_owned(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
    }
}

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
        let pools = self.calico.iter().filter_map(|(_, record)| match record {
            Record::Pool(pool) => Some((pool.cidr, Encapsulation::from(&**pool))),
            _ => None,
        });
        pools.filter(|(cidr, _)| self.pools.contains(cidr))
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

/// A node to which there is a tunnel, with what the tunnel needs for one family of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    /// The node.
    pub node: &'a NodeRecord,
    /// Addresses of its pods.
    pub pod_cidr: IpNet,
    /// Where its tunnel packets go: the outer destination.
    pub public_ip: IpAddr,
    /// The kind of tunnel.
    pub tunnel: PeerTunnel,
    /// Whether packets go there as they are if the node is on one's own subnet.
    pub is_plain_if_near: bool,
}

/// The kind of a peer's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTunnel {
    /// VXLAN with the peer's inner Ethernet destination.
    Vxlan(super::flannel::VxlanLease),
    /// IP-in-IP.
    Ipip,
    /// None: where the node is on one's own subnet packets go there as they are, else the kernel's routes lead there.
    None,
}

impl<'a> Peer<'a> {
    /// Takes a node of a Calico cluster as a peer, for a block of its.
    ///
    /// # Errors
    /// [`Fault`] with what keeps it from being one.
    pub fn of_block(node: &'a NodeRecord, family: Family, block: &Block) -> Result<Self, Fault> {
        if block.cidr.addr().is_ipv4() != (family == Family::V4) {
            return Err(Fault::Incomplete("block of that family"));
        }
        let vxlan = || {
            PeerTunnel::Vxlan(super::flannel::VxlanLease {
                vni: None,
                vtep_mac: node.vtep_mac_or_derived(family),
            })
        };
        let (tunnel, is_plain_if_near) = match block.encapsulation {
            Encapsulation::Plain => (PeerTunnel::None, true),
            Encapsulation::Ipip { cross_subnet } => (PeerTunnel::Ipip, cross_subnet),
            Encapsulation::Vxlan { cross_subnet } => (vxlan(), cross_subnet),
        };
        Ok(Self {
            node,
            pod_cidr: block.cidr,
            public_ip: node.calico_address(family).ok_or_else(Fault::no_node_address)?,
            tunnel,
            is_plain_if_near,
        })
    }

    /// Takes a node as a peer for a family of pods.
    ///
    /// # Errors
    /// [`Fault`] with what keeps it from being one.
    pub fn of(node: &'a NodeRecord, family: Family) -> Result<Self, Fault> {
        let lease = node.lease.as_ref().ok_or(Fault::NotManaged)?;
        // An underlay of the overlay's own family, as flannel builds it.
        let (pod_cidr, public_ip) = match family {
            Family::V4 => (
                node.pod_cidr_v4.map(IpNet::V4),
                lease.public_ip_v4.map(IpAddr::V4),
            ),
            Family::V6 => (
                node.pod_cidr_v6.map(IpNet::V6),
                lease.public_ip_v6.map(IpAddr::V6),
            ),
        };
        let tunnel = match &lease.backend {
            Backend::Vxlan { .. } => {
                PeerTunnel::Vxlan(node.vxlan(family).ok_or_else(Fault::no_backend_data)?)
            }
            Backend::Ipip if family == Family::V4 => PeerTunnel::Ipip,
            Backend::Ipip => return Err(Fault::Incomplete("IPv6 in its ipip backend")),
            Backend::Unknown(name) => return Err(Fault::UnknownBackend(name.clone())),
        };
        let pod_cidr = pod_cidr.ok_or(Fault::Incomplete("spec.podCIDRs"))?;
        let public_ip = public_ip.ok_or_else(Fault::no_public_ip)?;
        Ok(Self {
            node,
            pod_cidr,
            public_ip,
            tunnel,
            is_plain_if_near: false,
        })
    }
}

#[cfg(test)]
mod tests;
