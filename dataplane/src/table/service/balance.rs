//! The decision: to which backend, dropped, refused, or none of our business.

use std::net::IpAddr;

use super::maglev::words;
use super::{
    Backend, BackendSet, Caller, Choice, Decision, Frontend, FrontendKey, Query, Scope, Service,
    ServiceTable, Serving,
};
use crate::table::affinity::Bound;
use crate::table::{AffinityTable, Tick};
use crate::verdict::DropReason;
use crate::wire::IpProtocol;

impl ServiceTable {
    /// Decides about a new connection.
    ///
    /// Ask once per connection: with session affinity the choice is remembered.
    #[inline]
    #[must_use]
    pub fn balance(&self, query: &Query, affinity: &AffinityTable, now: Tick) -> Decision {
        let called = (query.destination, query.destination_port);
        let Some(frontend) = self.frontend(query.source, query.protocol, called) else {
            return self.to_no_service(query.destination);
        };
        let service = &*frontend.service;
        if frontend.scope == Scope::LoadBalancer && !self.may_call(service, query) {
            return Decision::Drop(DropReason::ServiceSourceRange);
        }
        let (set, masquerade) = traffic(frontend, query);
        let Some(backend) = self.choose(service, set, query, affinity, now) else {
            return if service.has_endpoints {
                Decision::Drop(DropReason::ServiceNoLocalEndpoint)
            } else {
                Decision::Reject
            };
        };
        // A reply that the backend would send itself has to come by here; so has one from another node to a third.
        let comes_back = backend.address != query.source
            && (backend.is_local || query.caller != Caller::Peer || frontend.scope != Scope::Cluster);
        Decision::Backend(Choice {
            address: backend.address,
            port: backend.port,
            backend: backend.id,
            service: service.id,
            masquerade: masquerade || !comes_back,
        })
    }

    /// Every backend that a new connection may be given; none if it is to no Service.
    #[must_use]
    pub fn eligible(&self, query: &Query) -> &[Backend] {
        let called = (query.destination, query.destination_port);
        let frontend = self.frontend(query.source, query.protocol, called);
        frontend.map_or(&[], |frontend| traffic(frontend, query).0.backends())
    }

    /// What the backend of an existing connection does now, where the connection was begun by `source` to `called`.
    #[must_use]
    pub fn still_serves(
        &self,
        source: IpAddr,
        protocol: IpProtocol,
        called: (IpAddr, u16),
        backend: (IpAddr, u16),
    ) -> Serving {
        match self.frontend(source, protocol, called) {
            Some(frontend) => frontend.service.serving(backend.0, backend.1),
            None => Serving::No,
        }
    }

    /// What an address, protocol and port lead to, if `source` calls. Node ports come after addresses, as the more
    /// specific wins.
    ///
    /// The node's own connections to a Service at an address of its own come turned to a gateway; which address they
    /// were to is seen by their source, which is the same.
    #[inline]
    #[must_use]
    pub fn frontend(
        &self,
        source: IpAddr,
        protocol: IpProtocol,
        (address, port): (IpAddr, u16),
    ) -> Option<&Frontend> {
        let is_turned =
            self.node.gateways.contains(&address) && self.node.node_port_addresses.contains(&source);
        let called = if is_turned { source } else { address };
        let exact = self.frontends.get(&FrontendKey::Address(called, protocol, port));
        if exact.is_some() || !self.node.node_port_addresses.contains(&address) {
            return exact;
        }
        self.frontends.get(&FrontendKey::NodePort {
            v6: address.is_ipv6(),
            protocol,
            port,
        })
    }

    /// Packets to what no frontend stands for.
    #[inline]
    fn to_no_service(&self, destination: IpAddr) -> Decision {
        if self.is_cluster_address(destination) {
            return Decision::Reject;
        }
        let is_service_prefix = || {
            let prefixes = &self.node.service_prefixes;
            prefixes.iter().any(|prefix| prefix.contains(destination))
        };
        // Whoever gives a node an address from the Service prefix keeps the node all the same.
        if is_service_prefix() && !self.node.node_port_addresses.contains(&destination) {
            return Decision::Drop(DropReason::ServiceUnknownAddress);
        }
        Decision::NotAService
    }

    /// Whether the source ranges admit the caller. The node itself counts as its address on the uplink, if it has one of
    /// the family: from which of its addresses it calls is the kernel's choice and depends on routes of our own.
    #[inline]
    fn may_call(&self, service: &Service, query: &Query) -> bool {
        let ranges = &service.source_ranges;
        let admitted = |address: IpAddr| ranges.iter().any(|range| range.contains(address));
        if ranges.is_empty() {
            return true;
        }
        if query.caller != Caller::Host {
            return admitted(query.source);
        }
        let is_v4 = query.source.is_ipv4();
        let own = self.node.caller_addresses.iter().copied();
        let mut own = own.filter(|address| address.is_ipv4() == is_v4).peekable();
        match own.peek() {
            Some(_) => own.any(admitted),
            None => admitted(query.source),
        }
    }

    /// Chooses a backend; a client with session affinity keeps the one it has while that is among the eligible.
    #[inline]
    fn choose<'t>(
        &self,
        service: &Service,
        set: &'t BackendSet,
        query: &Query,
        affinity: &AffinityTable,
        now: Tick,
    ) -> Option<&'t Backend> {
        let (client, id) = (query.source, service.id.get());
        let Some(timeout_s) = service.affinity_s else {
            let ports = u64::from(query.source_port) << 8 | u64::from(query.protocol.0);
            return set.choose(self.choice_hash(client, ports, now));
        };
        let eligible = |bound: Bound| set.find(bound.address, bound.port);
        let bound = affinity.find(client, id, timeout_s, now);
        if let Some(kept) = bound.and_then(eligible) {
            return Some(kept);
        }
        // By the client's address alone, so that a client keeps its backend also where the memory of it is lost.
        let chosen = set.choose(self.choice_hash(client, 0, now))?;
        let wanted = Bound {
            address: chosen.address,
            port: chosen.port,
        };
        // Another worker may have been faster.
        let bound = affinity.bind(client, id, wanted, bound, timeout_s, now);
        eligible(bound).or(Some(chosen))
    }

    /// The hash that chooses. The destination is left out: a client that comes by another node's port, or by another
    /// of the Service's addresses, is given the same backend.
    #[inline]
    fn choice_hash(&self, client: IpAddr, ports: u64, now: Tick) -> u64 {
        let [high, low] = words(client);
        let moment = if self.is_random {
            u64::from(now.seconds())
        } else {
            0
        };
        self.choice_key.hash([high, low, ports, moment])
    }
}

impl Service {
    /// What one of its endpoints does now.
    #[must_use]
    pub fn serving(&self, address: IpAddr, port: u16) -> Serving {
        let sets = [&self.cluster, &self.local];
        if sets.iter().any(|set| set.find(address, port).is_some()) {
            return Serving::Yes;
        }
        let place = self
            .others
            .binary_search_by_key(&(address, port), |(address, port, _)| (*address, *port));
        let other = place.ok().and_then(|place| self.others.get(place));
        other.map_or(Serving::No, |(_, _, serving)| *serving)
    }
}

/// The backends for this traffic, and whether its source is changed whichever of them is chosen.
#[inline]
fn traffic<'t>(frontend: &'t Frontend, query: &Query) -> (&'t BackendSet, bool) {
    let service = &*frontend.service;
    match frontend.scope {
        Scope::Cluster => {
            let set = if service.internal_local {
                &service.local
            } else {
                &service.cluster
            };
            (set, query.caller == Caller::Host || !query.from_pods)
        }
        Scope::External | Scope::LoadBalancer if !service.external_local => (&service.cluster, true),
        // A pod or the node that calls an external address does as if it had gone out and come in again: no policy
        // binds it. The node's own address may not be one that a backend elsewhere can answer to.
        Scope::External | Scope::LoadBalancer => match query.caller {
            Caller::LocalPod => (&service.cluster, false),
            Caller::Host => (&service.cluster, true),
            Caller::Peer | Caller::External => (&service.local, false),
        },
    }
}
