//! Networks beside the cluster's own, and between which of them is routed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::build::Builder;
use super::{Entry, Store};
use crate::objects::attachment::{AttachmentFault, NetworkKey, NetworkRecord, RouteOverlap, RouteTo};
use crate::objects::notice::Notice;

impl Store {
    /// All good networks beside the cluster's own, by namespace and name.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<NetworkRecord>> {
        self.networks.values()
    }

    /// A network beside the cluster's own.
    #[must_use]
    pub fn second_network(&self, key: &NetworkKey) -> Option<&Arc<NetworkRecord>> {
        self.networks.get(key)
    }

    /// The networks that a routed network is routed to: those that name it as it names them, the cluster's own if it names that,
    /// and none whose addresses could not be told from others'.
    #[must_use]
    pub fn routes_of(&self, key: &NetworkKey) -> &[RouteTo] {
        self.network_routes.get(key).map_or(&[], Vec::as_slice)
    }
}

impl<'e> Builder<'e> {
    /// Takes a network, unless an older one has its number.
    pub(super) fn add_network(&mut self, entry: &'e Entry, network: &'e Arc<NetworkRecord>) {
        let number = |network: &NetworkRecord| (network.vni, network.port);
        let mut others = self.store.networks.values();
        if let Some(other) = others.find(|other| number(other) == number(network)) {
            let fault = AttachmentFault::VniShared {
                vni: network.vni.get(),
                port: network.port,
                other: other.key.to_string(),
            };
            return self.refuse(entry, fault);
        }
        self.store
            .networks
            .insert(network.key.clone(), Arc::clone(network));
        self.networks.push((entry, network));
    }

    fn refuse(&mut self, entry: &Entry, fault: AttachmentFault) {
        let notice = Notice::new(entry.origin.clone(), Some(entry.id.clone()), fault.into());
        self.store.notices.push(notice);
    }

    /// Settles between which networks is routed. Of pairs that do not go together the one that is whole first counts: that whose
    /// younger network is older.
    pub(super) fn connect_networks(&mut self) {
        let networks = std::mem::take(&mut self.networks);
        let ages: BTreeMap<&NetworkKey, usize> = (0..)
            .zip(&networks)
            .map(|(age, (_, network))| (&network.key, age))
            .collect();
        for (entry, network) in &networks {
            for to in network.routing().iter().flat_map(|routing| &routing.routes_to) {
                if let Err(fault) = self.check_consent(network, to) {
                    self.refuse(entry, fault);
                    continue;
                }
                let other = match to {
                    RouteTo::Network(key) => Some(key),
                    RouteTo::Cluster => None,
                };
                let age = ages.get(&network.key);
                // Once for both, and when both are known.
                if other.is_some_and(|other| ages.get(other) > age) {
                    continue;
                }
                match self.check_overlaps(network, to) {
                    Ok(()) => {
                        let own = RouteTo::Network(network.key.clone());
                        let routes = &mut self.store.network_routes;
                        routes.entry(network.key.clone()).or_default().push(to.clone());
                        match other {
                            Some(other) => routes.entry(other.clone()).or_default().push(own),
                            None => self.cluster_routes.push(own),
                        }
                    }
                    Err(fault) => self.refuse(entry, fault),
                }
            }
        }
    }

    /// Whether both sides want it.
    fn check_consent(&self, network: &NetworkRecord, to: &RouteTo) -> Result<(), AttachmentFault> {
        let RouteTo::Network(key) = to else { return Ok(()) };
        let other = self.store.networks.get(key).and_then(|other| other.routing());
        let other = other.ok_or_else(|| AttachmentFault::RouteToNobody(key.to_string()))?;
        if other.routes_to.contains(&RouteTo::Network(network.key.clone())) {
            return Ok(());
        }
        Err(AttachmentFault::RouteOneSided {
            own: network.key.to_string(),
            other: key.to_string(),
        })
    }

    /// Whether each side can tell the other's addresses from its own, and from those of all that it is routed to already.
    fn check_overlaps(&self, network: &NetworkRecord, to: &RouteTo) -> Result<(), AttachmentFault> {
        let own = RouteTo::Network(network.key.clone());
        for (side, new) in [(&own, to), (to, &own)] {
            for known in [side].into_iter().chain(self.routed_to(side)) {
                if let Some((cidr, other)) = self.overlap(new, known) {
                    let overlap = RouteOverlap {
                        own: own.to_string(),
                        to: to.to_string(),
                        cidr,
                        of: new.to_string(),
                        other,
                        other_of: known.to_string(),
                    };
                    return Err(AttachmentFault::RouteOverlap(Box::new(overlap)));
                }
            }
        }
        Ok(())
    }

    fn routed_to<'s>(&'s self, side: &'s RouteTo) -> Vec<&'s RouteTo> {
        let routes = &self.store.network_routes;
        match side {
            RouteTo::Network(key) => routes.get(key).into_iter().flatten().collect(),
            RouteTo::Cluster => self.cluster_routes.iter().collect(),
        }
    }

    /// The first prefixes of two networks that overlap.
    fn overlap(&self, one: &RouteTo, other: &RouteTo) -> Option<(IpNet, IpNet)> {
        let subnets = |key: &NetworkKey| {
            self.store
                .networks
                .get(key)
                .map_or(&[][..], |network| &network.subnets)
        };
        match (one, other) {
            (RouteTo::Cluster, RouteTo::Cluster) => None,
            (RouteTo::Network(one), RouteTo::Cluster) => {
                let mut of_one = subnets(one).iter();
                of_one.find_map(|cidr| Some((*cidr, self.cluster_overlap(*cidr)?)))
            }
            (RouteTo::Cluster, RouteTo::Network(other)) => {
                let mut of_other = subnets(other).iter();
                of_other.find_map(|cidr| Some((self.cluster_overlap(*cidr)?, *cidr)))
            }
            (RouteTo::Network(one), RouteTo::Network(other)) => {
                let pairs = subnets(one)
                    .iter()
                    .flat_map(|cidr| subnets(other).iter().map(move |other| (*cidr, *other)));
                pairs
                    .into_iter()
                    .find(|(cidr, other)| cidr.contains(other) || other.contains(cidr))
            }
        }
    }

    /// A prefix of the cluster's pods that overlaps, or the address of a Node, which its pods would not reach any more.
    fn cluster_overlap(&self, cidr: IpNet) -> Option<IpNet> {
        let mut pools = self.store.pools.iter().copied();
        let pool = pools.find(|pool| pool.contains(&cidr) || cidr.contains(pool));
        let of_node = || {
            let nodes = self.store.nodes.values();
            let mut addresses =
                nodes.flat_map(|node| node.public_ips().chain(node.internal_ips.iter().copied()));
            addresses.find(|address| cidr.contains(address)).map(IpNet::from)
        };
        pool.or_else(|| self.overlapping(cidr).map(|(claimed, _)| *claimed))
            .or_else(of_node)
    }
}
