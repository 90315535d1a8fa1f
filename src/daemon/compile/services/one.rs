//! One Service: from its objects to what the workers read.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::Prefix;
use millrace_dataplane::table::service::{
    Backend, BackendId, BackendSet, FrontendKey, Maglev, Scope, Service, ServiceCounts, ServiceId, Serving,
    ladder_size,
};

use super::claims::Refusal;
use super::endpoints::{self, Listed, Place};
use super::ids::{Ids, Sets};
use super::number;
use crate::objects::{Claim, ServiceEntry, ServicePort, VipKind};

/// A Service, made.
#[derive(Debug)]
pub(super) struct Made {
    /// What it was made from.
    pub(super) entry: Arc<ServiceEntry>,
    /// Its ports, those of each family apart.
    pub(super) ports: Vec<MadePort>,
    /// What leads to its ports, by place among them.
    pub(super) frontends: Vec<(FrontendKey, Scope, usize)>,
    /// Its addresses inside the cluster.
    pub(super) cluster_addresses: Vec<IpAddr>,
    /// What it claims and cannot have on this node, with the reason.
    pub(super) refused: Vec<(Claim, Refusal)>,
}

/// One port of a Service in one family, made.
#[derive(Debug)]
pub(super) struct MadePort {
    /// Which of the Service's ports.
    pub(super) port: ServicePort,
    pub(super) is_ipv6: bool,
    /// What its counter stood at when its number came into use.
    pub(super) counted_from: u64,
    /// In ascending order of address and port.
    pub(super) endpoints: Vec<MadeEndpoint>,
    pub(super) service: Arc<Service>,
}

/// One endpoint, made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MadeEndpoint {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) id: BackendId,
    /// What its counter stood at when its number came into use.
    pub(super) counted_from: u64,
    pub(super) is_local: bool,
    pub(super) is_ready: bool,
    pub(super) is_terminating: bool,
    /// Whether new connections go there: of all nodes' traffic, of this node's.
    pub(super) used: (bool, bool),
}

impl MadeEndpoint {
    /// What it does for connections that are bound to it.
    pub(super) fn serving(&self) -> Serving {
        if self.used.0 || self.used.1 || self.is_ready {
            Serving::Yes
        } else {
            Serving::Draining
        }
    }

    fn key(&self) -> (IpAddr, u16) {
        (self.address, self.port)
    }
}

/// Whether a claim can be had on this node; else why not.
pub(super) type ClaimCheck<'a> = &'a dyn Fn(&Claim) -> Result<(), Refusal>;

/// What Services are made with.
pub(super) struct Maker<'a> {
    pub(super) place: &'a Place,
    pub(super) check: ClaimCheck<'a>,
    pub(super) services: &'a mut Ids,
    pub(super) backends: &'a mut Ids,
    pub(super) sets: &'a mut Sets,
    pub(super) counts: &'a ServiceCounts,
}

impl Maker<'_> {
    /// Makes a Service; numbers go on from what it was `before`.
    pub(super) fn make(&mut self, entry: &Arc<ServiceEntry>, before: Option<&Made>) -> Made {
        let record = &entry.record;
        let mut made = Made {
            entry: Arc::clone(entry),
            ports: Vec::new(),
            frontends: Vec::new(),
            cluster_addresses: Vec::new(),
            refused: Vec::new(),
        };
        if !record.is_programmed() {
            return made;
        }
        for port in &record.ports {
            for is_ipv6 in [false, true] {
                if !record.has_family(is_ipv6) {
                    continue;
                }
                let before = before.and_then(|before| before.find(port, is_ipv6));
                // Out of numbers: millions of ports are more than fit in a node's memory anyway.
                made.ports.extend(self.port(entry, port, is_ipv6, before));
            }
        }
        for claim in record.claims().filter(|claim| !entry.lost.contains(claim)) {
            match (self.check)(&claim) {
                Ok(()) => made.lead(&claim),
                Err(why) => made.refused.push((claim, why)),
            }
        }
        made
    }

    fn port(
        &mut self,
        entry: &ServiceEntry,
        port: &ServicePort,
        is_ipv6: bool,
        before: Option<&MadePort>,
    ) -> Option<MadePort> {
        let mut listed = endpoints::list(entry, port, is_ipv6, self.place);
        listed.truncate(Maglev::BACKENDS_MAX);
        let used = endpoints::used(&entry.record, &listed);
        let (id, counted_from) = match before {
            Some(before) => (before.service.id, before.counted_from),
            None => self
                .services
                .service()
                .map(|id| (id, self.counts.of_service(id).connections))?,
        };
        let mut endpoints = self.endpoints(&listed, before);
        // Of those for which no number was left there is nothing to note.
        for place in used.cluster {
            let endpoint = endpoints.get_mut(place);
            endpoint.into_iter().for_each(|endpoint| endpoint.used.0 = true);
        }
        for place in used.local {
            let endpoint = endpoints.get_mut(place);
            endpoint.into_iter().for_each(|endpoint| endpoint.used.1 = true);
        }
        let old = before.map(|before| &*before.service);
        let here = listed.iter().filter(|endpoint| endpoint.is_local).count();
        let cluster = self.set(
            endpoints.iter().filter(|endpoint| endpoint.used.0),
            listed.len(),
            old.map(|old| &old.cluster),
        );
        let local = self.set(
            endpoints.iter().filter(|endpoint| endpoint.used.1),
            here,
            old.map(|old| &old.local),
        );
        let others = endpoints
            .iter()
            .filter(|endpoint| endpoint.used == (false, false));
        let record = &entry.record;
        let service = Service {
            id,
            local: if local == cluster { cluster.clone() } else { local },
            cluster,
            others: others
                .map(|endpoint| (endpoint.address, endpoint.port, endpoint.serving()))
                .collect(),
            has_endpoints: used.has_any,
            internal_local: record.internal_local,
            external_local: record.external_local,
            affinity_s: record.affinity_s,
            source_ranges: source_ranges(entry, is_ipv6),
        };
        Some(MadePort {
            port: port.clone(),
            is_ipv6,
            counted_from,
            endpoints,
            service: match before {
                Some(before) if *before.service == service => Arc::clone(&before.service),
                Some(_) | None => Arc::new(service),
            },
        })
    }

    /// Gives every endpoint its number: the one it had, or a new one; in the order of the list, and as far as there are any
    /// left.
    fn endpoints(&mut self, listed: &[Listed], before: Option<&MadePort>) -> Vec<MadeEndpoint> {
        let made = listed.iter().map_while(|listed| {
            let old = before.and_then(|before| before.endpoint(listed.address, listed.port));
            let (id, counted_from) = match old {
                Some(old) => (old.id, old.counted_from),
                None => {
                    let id = self.backends.backend()?;
                    (id, self.counts.of_backend(id).connections)
                }
            };
            Some(MadeEndpoint {
                address: listed.address,
                port: listed.port,
                id,
                counted_from,
                is_local: listed.is_local,
                is_ready: listed.serves() == Serving::Yes,
                is_terminating: listed.terminating,
                used: (false, false),
            })
        });
        made.collect()
    }

    /// The set of the endpoints that are used, out of so many listed ones; the one it was before if nothing about it
    /// changed.
    fn set<'a>(
        &mut self,
        used: impl Iterator<Item = &'a MadeEndpoint>,
        listed: usize,
        before: Option<&BackendSet>,
    ) -> BackendSet {
        let backends: Vec<Backend> = used
            .map(|endpoint| Backend {
                address: endpoint.address,
                port: endpoint.port,
                id: endpoint.id,
                is_local: endpoint.is_local,
            })
            .collect();
        match before {
            Some(before) if before.backends() == backends && has_size(before, listed) => before.clone(),
            Some(_) | None => self.sets.make(backends, listed),
        }
    }
}

/// Whether the set's lookup table, if it has one, is of the size for so many listed endpoints.
fn has_size(set: &BackendSet, listed: usize) -> bool {
    set.slots()
        .is_none_or(|slots| slots.size() == ladder_size(listed))
}

impl Made {
    /// Whether one of its endpoints has this number.
    pub(super) fn has_backend(&self, id: BackendId) -> bool {
        let mut endpoints = self.ports.iter().flat_map(|port| &port.endpoints);
        endpoints.any(|endpoint| endpoint.id == id)
    }

    /// Its port with this name and protocol, whatever the number.
    fn find(&self, port: &ServicePort, is_ipv6: bool) -> Option<&MadePort> {
        self.ports.iter().find(|made| {
            made.is_ipv6 == is_ipv6 && made.port.name == port.name && made.port.protocol == port.protocol
        })
    }

    /// Lets what is claimed lead to the port that claims it, in each family that it has.
    fn lead(&mut self, claim: &Claim) {
        for (place, made) in self.ports.iter().enumerate() {
            let (key, scope) = match *claim {
                Claim::Vip {
                    kind,
                    address,
                    protocol,
                    port,
                } => {
                    if made.port.port != port || address.is_ipv6() != made.is_ipv6 {
                        continue;
                    }
                    if kind == VipKind::Cluster && !self.cluster_addresses.contains(&address) {
                        self.cluster_addresses.push(address);
                    }
                    let key = FrontendKey::Address(address, number(protocol), port);
                    (key, scope(kind))
                }
                Claim::NodePort { protocol, port } => {
                    if made.port.node_port != Some(port) {
                        continue;
                    }
                    let key = FrontendKey::NodePort {
                        v6: made.is_ipv6,
                        protocol: number(protocol),
                        port,
                    };
                    (key, Scope::External)
                }
            };
            if made.port.protocol == claim.protocol() {
                // Later claims of one address count: a load balancer's, for its source ranges, before an external one.
                self.frontends.retain(|(known, ..)| *known != key);
                self.frontends.push((key, scope, place));
            }
        }
    }
}

impl MadePort {
    /// Its endpoint with this address and port.
    pub(super) fn endpoint(&self, address: IpAddr, port: u16) -> Option<&MadeEndpoint> {
        let place = self
            .endpoints
            .binary_search_by_key(&(address, port), MadeEndpoint::key);
        self.endpoints.get(place.ok()?)
    }

    /// Its number.
    pub(super) fn id(&self) -> ServiceId {
        self.service.id
    }
}

fn scope(kind: VipKind) -> Scope {
    match kind {
        VipKind::Cluster => Scope::Cluster,
        VipKind::External => Scope::External,
        VipKind::LoadBalancer => Scope::LoadBalancer,
    }
}

/// The ranges of one family; without one of it everyone may call, as with kube-proxy.
fn source_ranges(entry: &ServiceEntry, is_ipv6: bool) -> Box<[Prefix]> {
    let ranges = entry.record.source_ranges.iter();
    let of_family = ranges.filter(|range| range.addr().is_ipv6() == is_ipv6);
    of_family
        .filter_map(|range| Prefix::containing(range.addr(), range.prefix_len()).ok())
        .collect()
}
