//! The checking of sound objects against one another, in the order of their claims.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use millrace_dataplane::table::HashKey;

use super::divide::{deed, network};
use super::entry::{node_id, pod_id};
use super::registry::{Cidrs, Registry, covering};
use super::{Entry, Peer, Record, Store};
use crate::objects::address::UnicastMac;
use crate::objects::attachment::{NetworkKey, NetworkRecord, RouteTo};
use crate::objects::calico::Shares;
use crate::objects::fault::Fault;
use crate::objects::flannel::Family;
use crate::objects::name::{NodeName, ObjectId, PodKey};
use crate::objects::network::{Network, NetworkChoice};
use crate::objects::node::NodeRecord;
use crate::objects::notice::{Notice, Origin};
use crate::objects::pod::PodRecord;
use crate::objects::policy::PolicyKind;

/// [`Store::assemble`].
pub(super) fn build(
    (own, choice): (&NodeName, NetworkChoice),
    entries: &[&Arc<Entry>],
    registry: &mut Registry,
    notices: Vec<Notice>,
) -> Store {
    // Services and their slices are the registry's.
    let is_other = |entry: &&Entry| !matches!(entry.record, Record::Service(_) | Record::EndpointSlice(_));
    let entries = entries.iter().map(|entry| &***entry);
    let mut entries: Vec<&Entry> = entries.filter(is_other).collect();
    entries.sort_by(|a, b| a.order().cmp(&b.order()));
    let mut builder = Builder::new(own.clone(), notices, entries.len());
    builder.store.choice = choice;
    builder.store.network = network(own, choice, &entries);
    let (mut pods, mut multi) = (Vec::new(), Vec::new());
    let mut shares = Shares::default();
    for entry in entries {
        if !builder.is_first(entry) {
            continue;
        }
        match &entry.record {
            Record::Node(node) => builder.add_node(&entry.origin, NodeRecord::clone(node)),
            Record::Pod(pod) => pods.push((&entry.origin, pod)),
            Record::FinishedPod => builder.store.finished_pods += 1,
            Record::Service(_) | Record::EndpointSlice(_) => {}
            Record::Namespace(namespace) => {
                let name = namespace.name.clone();
                builder.store.namespaces.insert(name, Arc::clone(namespace));
            }
            Record::Policy(policy) => {
                if policy.key.kind == PolicyKind::MultiNetworkPolicy {
                    multi.push((&entry.origin, policy));
                }
                builder
                    .store
                    .policies
                    .insert(policy.key.clone(), Arc::clone(policy));
            }
            Record::Pool(record) => shares.pools.push(deed(entry, record)),
            Record::Block(record) => shares.blocks.push(deed(entry, record)),
            Record::Affinity(record) => shares.affinities.push(deed(entry, record)),
            Record::Network(network) => builder.add_network(entry, network),
            Record::Absent => continue,
        }
        if matches!(
            entry.record,
            Record::Pool(_) | Record::Block(_) | Record::Affinity(_)
        ) {
            builder
                .store
                .calico
                .push((entry.id.clone(), entry.record.clone()));
        }
    }
    builder.share_out(&shares);
    builder.connect_networks();
    for (origin, policy) in multi {
        builder.check_networks_of(origin, policy);
    }
    // What has addresses after all Nodes, since theirs are the ranges that it is checked against.
    for (origin, pod) in pods {
        builder.add_pod(origin, Arc::clone(pod));
    }
    registry.update(&builder.cidrs);
    let mut store = builder.store;
    store.services = registry.services();
    store.notices.extend(registry.notices().cloned());
    store
}

/// A store in the making, with who claimed what.
pub(super) struct Builder<'e> {
    pub(super) store: Store,
    seen: HashMap<&'e ObjectId, &'e Origin, HashKey>,
    /// They never overlap, so a neighbour in their order is the only one that can hold an address.
    pub(super) cidrs: Cidrs,
    macs: BTreeMap<UnicastMac, NodeName>,
    public_ips: BTreeMap<IpAddr, NodeName>,
    /// Public and internal addresses. Two nodes behind different routers may have one internal address; the
    /// first is named.
    pub(super) node_ips: BTreeMap<IpAddr, NodeName>,
    /// Pods' addresses in networks beside the cluster's own.
    pub(super) network_ips: BTreeMap<NetworkKey, BTreeMap<IpAddr, PodKey>>,
    /// Good networks beside the cluster's own, in the order of their claims.
    pub(super) networks: Vec<(&'e Entry, &'e Arc<NetworkRecord>)>,
    /// Those of them that are routed to the cluster's own.
    pub(super) cluster_routes: Vec<RouteTo>,
}

impl<'e> Builder<'e> {
    fn new(own: NodeName, notices: Vec<Notice>, entries: usize) -> Self {
        let store = Store {
            own,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            pod_by_ip: BTreeMap::new(),
            services: Arc::from([]),
            namespaces: BTreeMap::new(),
            policies: BTreeMap::new(),
            networks: BTreeMap::new(),
            network_routes: BTreeMap::new(),
            choice: NetworkChoice::Auto,
            network: Network::Flannel,
            calico: Vec::new(),
            pools: Vec::new(),
            finished_pods: 0,
            notices,
        };
        Self {
            store,
            seen: HashMap::with_capacity_and_hasher(entries, HashKey::random()),
            cidrs: BTreeMap::new(),
            macs: BTreeMap::new(),
            public_ips: BTreeMap::new(),
            node_ips: BTreeMap::new(),
            network_ips: BTreeMap::new(),
            networks: Vec::new(),
            cluster_routes: Vec::new(),
        }
    }

    /// Whether no entry for the same object came before; if one did, that is reported.
    fn is_first(&mut self, entry: &'e Entry) -> bool {
        if let Some(first) = self.seen.get(&entry.id) {
            // A kept version that a good one has replaced from another file has done its duty.
            if !entry.is_last_good {
                let first = Origin::clone(first);
                let reason = Fault::Duplicate { first };
                self.store
                    .notices
                    .push(Notice::new(entry.origin.clone(), Some(entry.id.clone()), reason));
            }
            return false;
        }
        self.seen.insert(&entry.id, &entry.origin);
        true
    }

    fn add_node(&mut self, origin: &Origin, mut node: NodeRecord) {
        let id = node_id(&node.name);
        let is_calicos = self.store.network == Network::Calico;
        node.blocks = is_calicos.then(Vec::new);
        if let Err(reason) = self.check_node(&node) {
            return self
                .store
                .notices
                .push(Notice::new(origin.clone(), Some(id), reason));
        }
        if node.name != self.store.own && !is_calicos {
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
        let public = node
            .public_ips()
            .map(|address| (address, self.node_ips.get(&address)));
        let internal = node
            .internal_ips
            .iter()
            .map(|address| (*address, self.public_ips.get(address)));
        for (address, other) in public.chain(internal) {
            if let Some(other) = other {
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

    fn covering(&self, address: IpAddr) -> Option<&(IpNet, NodeName)> {
        covering(&self.cidrs, address)
    }

    /// A claimed pod CIDR that overlaps `cidr`.
    pub(super) fn overlapping(&self, cidr: IpNet) -> Option<&(IpNet, NodeName)> {
        let within = || {
            self.cidrs
                .range(cidr.network()..=cidr.broadcast())
                .next()
                .map(|(_, claim)| claim)
        };
        self.covering(cidr.network()).or_else(within)
    }

    fn add_pod(&mut self, origin: &Origin, pod: Arc<PodRecord>) {
        let notice = |reason| Notice::new(origin.clone(), Some(pod_id(&pod.key)), reason);
        match self.check_pod(&pod) {
            Ok(None) => {}
            Ok(Some(warning)) => self.store.notices.push(notice(warning)),
            Err(reason) => return self.store.notices.push(notice(reason)),
        }
        let pod = self.with_addresses_of_its_own(origin, pod);
        if !pod.host_network {
            self.store
                .pod_by_ip
                .extend(pod.ips.iter().map(|address| (*address, Arc::clone(&pod))));
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
                    pod: other.key.to_string(),
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
    let name = || node.name.to_string();
    if !node.owns_pod_address(address) {
        let cidrs: Vec<String> = node.pod_prefixes().map(|cidr| cidr.to_string()).collect();
        let cidrs = if cidrs.is_empty() {
            "it has none".to_owned()
        } else {
            cidrs.join(", ")
        };
        return Err(Fault::PodIpOutside {
            address,
            node: name(),
            cidrs,
        });
    }
    if node.tunnel_addresses().any(|reserved| reserved == address) {
        return Err(Fault::PodIpReserved {
            address,
            node: name(),
            role: "tunnel address",
        });
    }
    if node.gateway_addresses().any(|reserved| reserved == address) {
        return Err(Fault::PodIpReserved {
            address,
            node: name(),
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
