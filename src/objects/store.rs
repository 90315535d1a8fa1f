//! The store: every good object at one moment, checked against one another.
//!
//! Conflicts (one pod CIDR, VtepMAC or address claimed twice) are decided by order: the older object by `metadata.creationTimestamp` comes
//! first, objects without one come after those with one, and within that file name and position decide. What comes first keeps what
//! it claims, what comes later is refused by name. The answer depends on the objects alone, not on the order in which they were seen,
//! so a restart does not change it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::address::UnicastMac;
use super::flannel::{Backend, Family};
use super::name::{NodeName, ObjectId, PodKey};
use super::node::NodeRecord;
use super::notice::{Fault, Notice, Origin, Severity};
use super::object::Object;
use super::pod::PodRecord;

/// What an object comes to, each in itself sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A Node.
    Node(Box<NodeRecord>),
    /// A Pod with a claim on its addresses.
    Pod(Box<PodRecord>),
    /// A Pod that has ended.
    FinishedPod,
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
                let id = ObjectId {
                    kind: "Pod".to_owned(),
                    namespace: super::object::namespace_of(&pod.metadata).to_owned(),
                    name: pod.metadata.name.clone().unwrap_or_default(),
                };
                let record = record.map_or(Record::FinishedPod, |record| Record::Pod(Box::new(record)));
                (id, &pod.metadata, record, Vec::new())
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
    fn rank(&self) -> (bool, bool, Option<i64>, &Origin) {
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
    pods: BTreeMap<PodKey, PodRecord>,
    pod_by_ip: BTreeMap<IpAddr, PodKey>,
    finished_pods: usize,
    notices: Vec<Notice>,
}

impl Store {
    /// Checks sound objects against one another. `own` is the name of the node that this program runs on; `notices` are what the source
    /// itself has to report, and come first among the store's.
    #[must_use]
    pub fn build(own: &NodeName, mut entries: Vec<Entry>, notices: Vec<Notice>) -> Self {
        entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let mut builder = Builder::new(own.clone(), notices);
        let mut pods = Vec::new();
        for entry in entries {
            if !builder.is_first(&entry) {
                continue;
            }
            match entry.record {
                Record::Node(node) => builder.add_node(&entry.origin, *node),
                Record::Pod(pod) => pods.push((entry.origin, *pod)),
                Record::FinishedPod => builder.store.finished_pods += 1,
            }
        }
        // Pods after all Nodes, since theirs is the address range that a pod is checked against.
        for (origin, pod) in pods {
            builder.add_pod(&origin, pod);
        }
        builder.store
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

    /// The nodes to which there is a tunnel for pods of `family`: all but the own one that take part, have a pod CIDR and a public
    /// address, and a backend that this program speaks, with its data.
    pub fn peers(&self, family: Family) -> impl Iterator<Item = Peer<'_>> {
        self.nodes
            .values()
            .filter(|node| node.name != self.own)
            .filter_map(move |node| Peer::of(node, family).ok())
    }

    /// A pod by its namespace and name.
    #[must_use]
    pub fn pod(&self, key: &PodKey) -> Option<&PodRecord> {
        self.pods.get(key)
    }

    /// The pod that has an address. Pods in the network of their node are not found here, since they share its address.
    #[must_use]
    pub fn pod_by_ip(&self, address: IpAddr) -> Option<&PodRecord> {
        self.pods.get(self.pod_by_ip.get(&address)?)
    }

    /// All good pods that have not ended, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods.values()
    }

    /// The pods of the own node that are ports of the switch: scheduled here, and not in the node's own network.
    pub fn own_pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.pods
            .values()
            .filter(|pod| pod.node_name.as_ref() == Some(&self.own) && !pod.host_network)
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
}

/// The kind of a peer's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTunnel {
    /// VXLAN with the peer's inner Ethernet destination.
    Vxlan(super::flannel::VxlanLease),
    /// IP-in-IP.
    Ipip,
}

impl<'a> Peer<'a> {
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
        })
    }
}

/// A store in the making, with who claimed what.
struct Builder {
    store: Store,
    seen: BTreeMap<ObjectId, Origin>,
    /// Pod CIDRs by their first address. They never overlap, so a neighbour in this order is the only one that can hold an address.
    cidrs: BTreeMap<IpAddr, (IpNet, NodeName)>,
    macs: BTreeMap<UnicastMac, NodeName>,
    public_ips: BTreeMap<IpAddr, NodeName>,
    node_ips: BTreeMap<IpAddr, NodeName>,
}

impl Builder {
    fn new(own: NodeName, notices: Vec<Notice>) -> Self {
        let store = Store {
            own,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            pod_by_ip: BTreeMap::new(),
            finished_pods: 0,
            notices,
        };
        Self {
            store,
            seen: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            macs: BTreeMap::new(),
            public_ips: BTreeMap::new(),
            node_ips: BTreeMap::new(),
        }
    }

    /// Whether no entry for the same object came before; if one did, that is reported.
    fn is_first(&mut self, entry: &Entry) -> bool {
        if let Some(first) = self.seen.get(&entry.id) {
            // A kept version that a good one has replaced from another file has done its duty.
            if !entry.is_last_good {
                let reason = Fault::Duplicate { first: first.clone() };
                self.store
                    .notices
                    .push(Notice::new(entry.origin.clone(), Some(entry.id.clone()), reason));
            }
            return false;
        }
        self.seen.insert(entry.id.clone(), entry.origin.clone());
        true
    }

    fn add_node(&mut self, origin: &Origin, node: NodeRecord) {
        let id = node_id(&node.name);
        if let Err(reason) = self.check_node(&node) {
            return self
                .store
                .notices
                .push(Notice::new(origin.clone(), Some(id), reason));
        }
        if node.name != self.store.own {
            self.note_missing_tunnel(origin, &id, &node);
        }
        let name = &node.name;
        self.cidrs.extend(
            node.pod_cidrs()
                .map(|cidr| (cidr.network(), (cidr, name.clone()))),
        );
        self.macs
            .extend(vtep_macs(&node).into_iter().map(|mac| (mac, name.clone())));
        self.public_ips
            .extend(node.public_ips().map(|address| (address, name.clone())));
        for address in node.public_ips().chain(node.internal_ips.iter().copied()) {
            self.node_ips.entry(address).or_insert_with(|| name.clone());
        }
        self.store.nodes.insert(name.clone(), node);
    }

    /// Reports why there is no tunnel to a node, unless there is one for some family.
    fn note_missing_tunnel(&mut self, origin: &Origin, id: &ObjectId, node: &NodeRecord) {
        let families = if node.pod_cidr_v4.is_none() && node.pod_cidr_v6.is_some() {
            [Family::V6, Family::V4]
        } else {
            [Family::V4, Family::V6]
        };
        let [first, second] = families.map(|family| Peer::of(node, family));
        if let (Err(reason), Err(_)) = (first, second) {
            self.store
                .notices
                .push(Notice::new(origin.clone(), Some(id.clone()), reason));
        }
    }

    fn check_node(&self, node: &NodeRecord) -> Result<(), Fault> {
        for cidr in node.pod_cidrs() {
            if let Some((other, name)) = self.overlapping(cidr) {
                return Err(Fault::CidrOverlap {
                    cidr,
                    other: *other,
                    node: name.to_string(),
                });
            }
        }
        for mac in vtep_macs(node) {
            if let Some(other) = self.macs.get(&mac) {
                return Err(Fault::MacShared {
                    mac,
                    node: other.to_string(),
                });
            }
        }
        for address in node.public_ips() {
            if let Some(other) = self.public_ips.get(&address) {
                return Err(Fault::PublicIpShared {
                    address,
                    node: other.to_string(),
                });
            }
        }
        self.check_covered(node)
    }

    /// A pod CIDR that covers a node's own address would send the tunnel's packets into the tunnel.
    fn check_covered(&self, node: &NodeRecord) -> Result<(), Fault> {
        let own_ips = || node.public_ips().chain(node.internal_ips.iter().copied());
        let fault = |cidr: IpNet, owner: &NodeName, address: IpAddr, of: &NodeName| {
            Err(Fault::CidrCoversNode {
                cidr,
                owner: owner.to_string(),
                address,
                node: of.to_string(),
            })
        };
        for cidr in node.pod_cidrs() {
            if let Some(address) = own_ips().find(|address| cidr.contains(address)) {
                return fault(cidr, &node.name, address, &node.name);
            }
            if let Some((address, other)) = self.node_ips.range(cidr.network()..=cidr.broadcast()).next() {
                return fault(cidr, &node.name, *address, other);
            }
        }
        for address in own_ips() {
            if let Some((cidr, owner)) = self.covering(address) {
                return fault(*cidr, owner, address, &node.name);
            }
        }
        Ok(())
    }

    /// The claimed pod CIDR that holds an address.
    fn covering(&self, address: IpAddr) -> Option<&(IpNet, NodeName)> {
        let (_, claim) = self.cidrs.range(..=address).next_back()?;
        Some(claim).filter(|(cidr, _)| cidr.contains(&address))
    }

    /// A claimed pod CIDR that overlaps `cidr`.
    fn overlapping(&self, cidr: IpNet) -> Option<&(IpNet, NodeName)> {
        let within = || {
            self.cidrs
                .range(cidr.network()..=cidr.broadcast())
                .next()
                .map(|(_, claim)| claim)
        };
        self.covering(cidr.network()).or_else(within)
    }

    fn add_pod(&mut self, origin: &Origin, pod: PodRecord) {
        let id = pod_id(&pod.key);
        match self.check_pod(&pod) {
            Ok(None) => {}
            Ok(Some(warning)) => self
                .store
                .notices
                .push(Notice::new(origin.clone(), Some(id), warning)),
            Err(reason) => {
                return self
                    .store
                    .notices
                    .push(Notice::new(origin.clone(), Some(id), reason));
            }
        }
        if !pod.host_network {
            self.store
                .pod_by_ip
                .extend(pod.ips.iter().map(|address| (*address, pod.key.clone())));
        }
        self.store.pods.insert(pod.key.clone(), pod);
    }

    /// Checks a pod against its node and the other pods; the answer may be a warning.
    fn check_pod(&self, pod: &PodRecord) -> Result<Option<Fault>, Fault> {
        if pod.host_network {
            let claimed = pod
                .ips
                .iter()
                .find_map(|address| Some((*address, self.covering(*address)?)));
            return match claimed {
                Some((address, (_, node))) => Err(Fault::HostPodIp {
                    address,
                    node: node.to_string(),
                }),
                None => Ok(None),
            };
        }
        for address in &pod.ips {
            if let Some(other) = self.store.pod_by_ip.get(address) {
                return Err(Fault::PodIpShared {
                    address: *address,
                    pod: other.to_string(),
                });
            }
        }
        let Some(name) = pod.node_name.as_ref().filter(|_| !pod.ips.is_empty()) else {
            return Ok(None);
        };
        let Some(node) = self.store.nodes.get(name) else {
            return Ok(Some(Fault::NodeUnknown {
                node: name.to_string(),
            }));
        };
        pod.ips
            .iter()
            .try_for_each(|address| check_pod_address(*address, node))
            .map(|()| None)
    }
}

fn check_pod_address(address: IpAddr, node: &NodeRecord) -> Result<(), Fault> {
    let name = node.name.to_string();
    if !node.owns_pod_address(address) {
        let cidrs: Vec<String> = node.pod_cidrs().map(|cidr| cidr.to_string()).collect();
        let cidrs = if cidrs.is_empty() {
            "it has none".to_owned()
        } else {
            cidrs.join(", ")
        };
        return Err(Fault::PodIpOutside {
            address,
            node: name,
            cidrs,
        });
    }
    if node.tunnel_addresses().any(|reserved| reserved == address) {
        return Err(Fault::PodIpReserved {
            address,
            node: name,
            role: "tunnel address",
        });
    }
    if node.gateway_addresses().any(|reserved| reserved == address) {
        return Err(Fault::PodIpReserved {
            address,
            node: name,
            role: "gateway",
        });
    }
    Ok(())
}

/// The VtepMACs of a node, each once (a node may use one for both families).
fn vtep_macs(node: &NodeRecord) -> BTreeSet<UnicastMac> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| node.vxlan(family))
        .map(|lease| lease.vtep_mac)
        .collect()
}
