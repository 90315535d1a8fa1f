//! The table of virtual addresses and node ports.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::maglev::words;
use super::{Service, ServiceCounts};
use crate::table::{HashKey, Prefix};
use crate::wire::IpProtocol;

/// What a Service is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrontendKey {
    /// An address, with protocol and port.
    Address(IpAddr, IpProtocol, u16),
    /// A port of the node's own addresses of one family.
    NodePort {
        /// Whether of its IPv6 addresses, else of its IPv4 ones.
        v6: bool,
        /// The protocol.
        protocol: IpProtocol,
        /// The port.
        port: u16,
    },
}

impl Hash for FrontendKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let transport = |protocol: &IpProtocol, port: &u16| u64::from(protocol.0) << 16 | u64::from(*port);
        match self {
            Self::Address(address, protocol, port) => {
                let [high, low] = words(*address);
                if high != 0 {
                    state.write_u64(high);
                }
                state.write_u64(low);
                state.write_u64(transport(protocol, port));
            }
            Self::NodePort { v6, protocol, port } => {
                state.write_u64(u64::from(*v6) << 32 | transport(protocol, port));
            }
        }
    }
}

/// As what an address leads to its Service: this decides which traffic policy counts, and whether source ranges do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A cluster address.
    Cluster,
    /// An external address, or a node port.
    External,
    /// A load balancer's address.
    LoadBalancer,
}

/// What stands behind a [`FrontendKey`].
#[derive(Debug, Clone)]
pub struct Frontend {
    /// As what it leads to the Service.
    pub scope: Scope,
    /// The Service.
    pub service: Arc<Service>,
}

/// What Services have to know of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The addresses at which node ports are served: the node's own, and those that a bridge to the pods would have.
    pub node_port_addresses: HashSet<IpAddr>,
    /// Those of them that a bridge to the pods would have, to which the node's own connections are turned.
    pub gateways: Vec<IpAddr>,
    /// The addresses that the node itself calls from, as far as source ranges are concerned: those on its uplink.
    pub caller_addresses: Vec<IpAddr>,
    /// The prefixes that cluster addresses are taken from; one that belongs to no Service is not there.
    pub service_prefixes: Vec<Prefix>,
}

/// Every Service, by the addresses and ports that lead to it.
///
/// A table that is to be published is made by changing a copy of the last one; what did not change is shared.
#[derive(Clone)]
pub struct ServiceTable {
    pub(super) frontends: HashMap<FrontendKey, Frontend, HashKey>,
    /// Addresses of Services inside the cluster, each with the number of claims that it has. They are there also when
    /// nothing serves them.
    cluster_addresses: HashMap<IpAddr, u32, HashKey>,
    pub(super) node: Arc<NodeFacts>,
    /// What backends are chosen by: the same on every node, or random.
    pub(super) choice_key: HashKey,
    /// Whether the choice depends on the moment too.
    pub(super) is_random: bool,
    counts: Arc<ServiceCounts>,
}

impl ServiceTable {
    /// An empty table. `lookup_key` is secret; `choice_key` is the same on every node of the cluster; if `is_random`,
    /// the choice depends on the moment too.
    #[must_use]
    pub fn new(lookup_key: HashKey, choice_key: HashKey, is_random: bool) -> Self {
        Self {
            frontends: HashMap::with_hasher(lookup_key),
            cluster_addresses: HashMap::with_hasher(lookup_key),
            node: Arc::default(),
            choice_key,
            is_random,
            counts: Arc::default(),
        }
    }

    /// Sets what Services have to know of this node.
    pub fn set_node(&mut self, node: Arc<NodeFacts>) {
        self.node = node;
    }

    /// Sets where connections are counted.
    pub fn set_counts(&mut self, counts: Arc<ServiceCounts>) {
        self.counts = counts;
    }

    /// Lets an address or node port lead to a Service, in the place of what it led to before.
    pub fn insert(&mut self, key: FrontendKey, frontend: Frontend) {
        self.frontends.insert(key, frontend);
    }

    /// Takes an address or node port out.
    pub fn remove(&mut self, key: &FrontendKey) {
        self.frontends.remove(key);
    }

    /// Claims an address as a cluster address: ports of it that lead nowhere are refused.
    pub fn claim_cluster_address(&mut self, address: IpAddr) {
        *self.cluster_addresses.entry(address).or_default() += 1;
    }

    /// Takes one claim back.
    pub fn release_cluster_address(&mut self, address: IpAddr) {
        if let Some(claims) = self.cluster_addresses.get_mut(&address) {
            *claims -= 1;
            if *claims == 0 {
                self.cluster_addresses.remove(&address);
            }
        }
    }

    /// What stands behind a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &FrontendKey) -> Option<&Frontend> {
        self.frontends.get(key)
    }

    /// Whether it is the address of a Service inside the cluster.
    #[inline]
    #[must_use]
    pub fn is_cluster_address(&self, address: IpAddr) -> bool {
        self.cluster_addresses.contains_key(&address)
    }

    /// Every address and node port, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&FrontendKey, &Frontend)> {
        self.frontends.iter()
    }

    /// How many addresses with ports, and node ports, there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frontends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// What is known of this node.
    #[must_use]
    pub fn node(&self) -> &Arc<NodeFacts> {
        &self.node
    }

    /// Where connections are counted.
    #[inline]
    #[must_use]
    pub fn counts(&self) -> &ServiceCounts {
        &self.counts
    }

    /// What the table takes in memory, in bytes; Services and their backends are counted apart.
    #[must_use]
    pub fn memory(&self) -> usize {
        // Of hashbrown: one byte of control for each place.
        let frontends = self.frontends.capacity() * (size_of::<(FrontendKey, Frontend)>() + 1);
        let addresses = self.cluster_addresses.capacity() * (size_of::<(IpAddr, u32)>() + 1);
        frontends + addresses
    }
}

impl Default for ServiceTable {
    fn default() -> Self {
        Self::new(HashKey::random(), HashKey::random(), false)
    }
}

impl fmt::Debug for ServiceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceTable")
            .field("frontends", &self.frontends)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
