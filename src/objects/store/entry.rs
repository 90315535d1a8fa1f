//! What an object comes to, with its place and age.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::objects::attachment::{NetworkAttachmentDefinition, NetworkKey, NetworkRecord};
use crate::objects::calico::{BlockAffinity, BlockRecord, IpPool, IpamBlock, PoolRecord};
use crate::objects::endpoint_slice::SliceRecord;
use crate::objects::fault::Fault;
use crate::objects::name::{NodeName, ObjectId, PodKey};
use crate::objects::namespace::NamespaceRecord;
use crate::objects::node::NodeRecord;
use crate::objects::notice::Origin;
use crate::objects::object::{Object, namespace_of};
use crate::objects::pod::PodRecord;
use crate::objects::policy::PolicyRecord;
use crate::objects::service::{ServiceKind, ServiceRecord};

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
    /// A NetworkPolicy, a ClusterNetworkPolicy or a MultiNetworkPolicy.
    Policy(Arc<PolicyRecord>),
    /// An IPPool.
    Pool(Arc<PoolRecord>),
    /// An IPAMBlock.
    Block(Arc<BlockRecord>),
    /// A BlockAffinity.
    Affinity(Arc<BlockRecord>),
    /// A NetworkAttachmentDefinition of this program's.
    Network(Arc<NetworkRecord>),
    /// An object of Calico's that is being deleted, or not in force yet; a NetworkAttachmentDefinition of another's.
    Absent,
}

/// A sound object with its place and age: what a source hands to [`Store::build`](super::Store::build).
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
        let (id, metadata, record, warnings) = read(object)?;
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

    /// A Service's entry with load balancer's addresses that it is given beside those of its status.
    pub(super) fn with_assigned(self: &Arc<Self>, assigned: Option<&Vec<IpAddr>>) -> Arc<Self> {
        let (Record::Service(record), Some(assigned)) = (&self.record, assigned) else {
            return Arc::clone(self);
        };
        let has = |address: &&IpAddr| !record.load_balancer_ips.contains(address);
        let more: Vec<IpAddr> = assigned.iter().filter(has).copied().collect();
        if more.is_empty() || record.kind != ServiceKind::LoadBalancer {
            return Arc::clone(self);
        }
        let mut record = ServiceRecord::clone(record);
        record.load_balancer_ips.extend(&more);
        record.assigned_ips = more;
        Arc::new(Self {
            record: Record::Service(Arc::new(record)),
            ..Self::clone(self)
        })
    }

    /// The order in which claims are decided.
    pub(super) fn order(&self) -> (bool, bool, Option<i64>, &Origin, &ObjectId) {
        (
            self.is_last_good,
            self.created_s.is_none(),
            self.created_s,
            &self.origin,
            &self.id,
        )
    }
}

/// What an object is, what it comes to, and what is only worth a warning.
type Read<'o> = (ObjectId, &'o ObjectMeta, Record, Vec<Fault>);

fn read(object: &Object) -> Result<Read<'_>, Fault> {
    let read = match object {
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
            let (record, faults) = PodRecord::read(pod)?;
            let id = namespaced_id("Pod", &pod.metadata);
            let record = record.map_or(Record::FinishedPod, |record| Record::Pod(Arc::new(record)));
            (id, &pod.metadata, record, faults)
        }
        Object::Service(service) => {
            let (record, faults) = ServiceRecord::read(service)?;
            let id = namespaced_id("Service", &service.metadata);
            (id, &service.metadata, Record::Service(Arc::new(record)), faults)
        }
        Object::EndpointSlice(slice) => {
            let (record, faults) = SliceRecord::read(slice)?;
            let id = namespaced_id("EndpointSlice", &slice.metadata);
            let record = Record::EndpointSlice(Arc::new(record));
            (id, &slice.metadata, record, faults)
        }
        Object::Namespace(namespace) => {
            let record = NamespaceRecord::read(namespace)?;
            let id = cluster_id("Namespace", record.name.clone());
            let record = Record::Namespace(Arc::new(record));
            (id, &namespace.metadata, record, Vec::new())
        }
        Object::NetworkPolicy(policy) => {
            of_policy(&policy.metadata, PolicyRecord::read_network_policy(policy)?)
        }
        Object::ClusterNetworkPolicy(policy) => {
            of_policy(&policy.metadata, PolicyRecord::read_cluster(policy)?)
        }
        Object::MultiNetworkPolicy(policy) => of_policy(&policy.metadata, PolicyRecord::read_multi(policy)?),
        Object::IpPool(pool) => {
            let record = Record::Pool(Arc::new(PoolRecord::read(pool)?));
            of_calico(IpPool::KIND, &pool.metadata, Some(record), Vec::new())
        }
        Object::IpamBlock(block) => {
            let (record, faults) = BlockRecord::read(block)?;
            let record = record.map(|record| Record::Block(Arc::new(record)));
            of_calico(IpamBlock::KIND, &block.metadata, record, faults)
        }
        Object::BlockAffinity(affinity) => {
            let record = BlockRecord::read_affinity(affinity)?;
            let record = record.map(|record| Record::Affinity(Arc::new(record)));
            of_calico(BlockAffinity::KIND, &affinity.metadata, record, Vec::new())
        }
        Object::Attachment(definition) => {
            let (record, faults) = NetworkRecord::read(definition)?;
            let id = namespaced_id(NetworkAttachmentDefinition::KIND, &definition.metadata);
            let record = record.map_or(Record::Absent, |record| Record::Network(Arc::new(record)));
            (id, &definition.metadata, record, faults)
        }
    };
    Ok(read)
}

/// A policy of whichever kind.
fn of_policy(metadata: &ObjectMeta, (record, faults): (PolicyRecord, Vec<Fault>)) -> Read<'_> {
    let id = record.key.object_id();
    (id, metadata, Record::Policy(Arc::new(record)), faults)
}

/// An object of Calico's; `None` is one that is being deleted, or not in force yet.
fn of_calico<'o>(
    kind: &str,
    metadata: &'o ObjectMeta,
    record: Option<Record>,
    faults: Vec<Fault>,
) -> Read<'o> {
    let id = cluster_id(kind, metadata.name.clone().unwrap_or_default());
    (id, metadata, record.unwrap_or(Record::Absent), faults)
}

fn created_s(metadata: &ObjectMeta) -> Option<i64> {
    metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.as_second())
}

pub(super) fn node_id(name: &NodeName) -> ObjectId {
    cluster_id("Node", name.to_string())
}

/// An object that is in no Namespace.
fn cluster_id(kind: &str, name: String) -> ObjectId {
    ObjectId {
        kind: kind.to_owned(),
        namespace: String::new(),
        name,
    }
}

fn namespaced_id(kind: &str, metadata: &ObjectMeta) -> ObjectId {
    ObjectId {
        kind: kind.to_owned(),
        namespace: namespace_of(metadata).to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

pub(super) fn network_id(key: &NetworkKey) -> ObjectId {
    ObjectId {
        kind: NetworkAttachmentDefinition::KIND.to_owned(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
    }
}

pub(super) fn pod_id(key: &PodKey) -> ObjectId {
    ObjectId {
        kind: "Pod".to_owned(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
    }
}
