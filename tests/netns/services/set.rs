//! A set of Services with their endpoints, as Kubernetes would hold them: the one thing that both sides are programmed
//! from.

use std::net::Ipv4Addr;

use crate::family::Family;
use crate::places::Place;

/// The zone of node-a, where endpoints have hints.
pub(crate) const OWN_ZONE: &str = "zone-1";

/// Everything that is programmed at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) services: Vec<Service>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The name in an object.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// The name in a rule.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// `spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// An entry of `status.loadBalancer.ingress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ingress {
    pub(crate) address: Ipv4Addr,
    /// `ipMode: Proxy`: the node is not to take a short cut.
    pub(crate) proxy: bool,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What it has an address of; the first one is its own.
    pub(crate) families: Vec<Family>,
    pub(crate) cluster_ip: Ipv4Addr,
    pub(crate) external_ips: Vec<Ipv4Addr>,
    pub(crate) ingress: Vec<Ingress>,
    pub(crate) source_ranges: Vec<(Ipv4Addr, u8)>,
    /// `internalTrafficPolicy: Local`.
    pub(crate) internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub(crate) external_local: bool,
    /// `sessionAffinity: ClientIP`.
    pub(crate) affinity: bool,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Service {
    /// Whether anyone outside of the cluster may call it.
    pub(crate) fn is_external(&self) -> bool {
        self.kind != Kind::ClusterIp || !self.external_ips.is_empty()
    }

    /// LoadBalancer addresses that the node handles itself.
    pub(crate) fn load_balancer_ips(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let own = self.ingress.iter().filter(|ingress| !ingress.proxy);
        own.map(|ingress| ingress.address)
    }
}

/// A port of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    pub(crate) node_port: Option<u16>,
    /// The endpoints' port, by the EndpointSlice they are in: a named target port may differ from pod to pod.
    pub(crate) targets: [u16; 2],
}

/// An entry of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    /// The number of the EndpointSlice, 0 or 1.
    pub(crate) slice: usize,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) zones: Vec<&'static str>,
    pub(crate) nodes: Vec<&'static str>,
}

impl Endpoint {
    /// `conditions.ready`, which is true where it is absent.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Not ready any more, and still serving what it has.
    pub(crate) fn is_draining(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready()) && self.terminating.unwrap_or(false)
    }

    pub(crate) fn is_local(&self) -> bool {
        self.place.node == "node-a"
    }
}

/// The endpoints of a Service that node-a may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usable<'a> {
    /// For the traffic policy `Cluster`.
    pub(crate) cluster: Vec<&'a Endpoint>,
    /// For the traffic policy `Local`.
    pub(crate) local: Vec<&'a Endpoint>,
}

impl<'a> Usable<'a> {
    /// What kube-proxy takes: the ready ones, or if there are none those that drain, for each list by itself.
    pub(crate) fn of(service: &'a Service) -> Self {
        let ready = |endpoint: &&Endpoint| endpoint.is_ready();
        let all: Vec<&Endpoint> = service.endpoints.iter().collect();
        let some_of = |among: Vec<&'a Endpoint>, prefer: &dyn Fn(&&Endpoint) -> bool| {
            let ready: Vec<_> = among
                .iter()
                .copied()
                .filter(ready)
                .filter(|one| prefer(one))
                .collect();
            if ready.is_empty() {
                among.into_iter().filter(|one| one.is_draining()).collect()
            } else {
                ready
            }
        };
        let local = all.iter().copied().filter(|one| one.is_local()).collect();
        let near = near(&all);
        Self {
            cluster: some_of(all, &|one| near(one)),
            local: some_of(local, &|_| true),
        }
    }
}

/// Which endpoints are near enough: those hinted for this node if every ready one has such a hint and one is for this
/// node; else the same for its zone; else all.
fn near(all: &[&Endpoint]) -> fn(&Endpoint) -> bool {
    let for_node: fn(&Endpoint) -> bool = |endpoint| endpoint.nodes.contains(&"node-a");
    let for_zone: fn(&Endpoint) -> bool = |endpoint| endpoint.zones.contains(&OWN_ZONE);
    let ready: Vec<&&Endpoint> = all.iter().filter(|endpoint| endpoint.is_ready()).collect();
    if ready.iter().all(|endpoint| !endpoint.nodes.is_empty()) && ready.iter().any(|one| for_node(one)) {
        return for_node;
    }
    if ready.iter().all(|endpoint| !endpoint.zones.is_empty()) && ready.iter().any(|one| for_zone(one)) {
        return for_zone;
    }
    |_| true
}
