//! Which endpoints of a Service are used, after kube-proxy's rules for readiness, traffic policies and topology.

use std::net::IpAddr;

use millrace_dataplane::table::service::Serving;

use crate::objects::{Endpoint, NodeName, ServiceEntry, ServicePort, ServiceRecord};

/// Who asks: what endpoints are near to depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// This node's name.
    pub(super) node: NodeName,
    /// Its label `topology.kubernetes.io/zone`.
    pub(super) zone: Option<String>,
}

/// An endpoint of one port of a Service, as seen from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) is_local: bool,
    /// Whether its hints name this node; `None` without such hints.
    for_node: Option<bool>,
    /// Whether its hints name this node's zone; `None` without such hints.
    for_zone: Option<bool>,
}

impl Listed {
    fn new(endpoint: &Endpoint, port: u16, place: &Place, publish_not_ready: bool) -> Self {
        let named = |hints: &[String], name: Option<&str>| {
            let is_named = hints.iter().any(|hint| Some(hint.as_str()) == name);
            (!hints.is_empty()).then_some(is_named)
        };
        Self {
            address: endpoint.address,
            port,
            ready: endpoint.ready || publish_not_ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            is_local: endpoint.node_name.as_ref() == Some(&place.node),
            for_node: named(&endpoint.for_nodes, Some(place.node.as_str())),
            for_zone: named(&endpoint.for_zones, place.zone.as_deref()),
        }
    }

    /// Whether it may be used where no endpoint is ready.
    fn is_fallback(&self) -> bool {
        self.serving && self.terminating
    }

    /// What it does for connections bound to it, apart from being chosen.
    pub(super) fn serves(&self) -> Serving {
        if self.ready {
            Serving::Yes
        } else {
            Serving::Draining
        }
    }

    /// Of two that say different things about one address and port, the better one counts.
    fn rank(&self) -> (bool, bool, bool) {
        (self.ready, self.serving, self.is_local)
    }
}

/// The endpoints of one port in one family, each address and port once, in ascending order.
pub(super) fn list(entry: &ServiceEntry, port: &ServicePort, is_ipv6: bool, place: &Place) -> Vec<Listed> {
    let publish = entry.record.publish_not_ready;
    let slices = entry.slices.iter().filter(|slice| slice.is_ipv6 == is_ipv6);
    let mut listed: Vec<Listed> = slices
        .flat_map(|slice| {
            let ports = slice.ports.iter();
            let ports =
                ports.filter(|of_slice| of_slice.name == port.name && of_slice.protocol == port.protocol);
            ports.flat_map(|of_slice| {
                let endpoints = slice.endpoints.iter();
                endpoints.map(|endpoint| Listed::new(endpoint, of_slice.port, place, publish))
            })
        })
        .collect();
    listed.sort_by(|a, b| {
        (a.address, a.port)
            .cmp(&(b.address, b.port))
            .then(b.rank().cmp(&a.rank()))
    });
    listed.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
    listed
}

/// Which of the listed endpoints are used, by their places in the list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// By traffic that may go to any node.
    pub(super) cluster: Vec<usize>,
    /// By traffic that has to stay on this node.
    pub(super) local: Vec<usize>,
    /// Whether any endpoint anywhere could be used.
    pub(super) has_any: bool,
}

/// Chooses among the listed: the ready ones, or if there is none those that still serve while they terminate; decided
/// apart for all nodes and for this one. Nearness counts among all nodes only.
pub(super) fn used(record: &ServiceRecord, listed: &[Listed]) -> Used {
    // A Service that can be called from outside needs the list of all nodes whatever its policies say: its own pods
    // call it as if they were outside, and no policy binds them.
    let uses_cluster = !record.internal_local || record.is_external();
    let uses_local = record.internal_local || record.external_local && record.is_external();
    let places = |wanted: &dyn Fn(&Listed) -> bool| -> Vec<usize> {
        let all = listed.iter().enumerate();
        all.filter(|(_, endpoint)| wanted(endpoint))
            .map(|(place, _)| place)
            .collect()
    };
    let or_fallback = |ready: Vec<usize>, fallback: &dyn Fn(&Listed) -> bool| {
        if ready.is_empty() { places(fallback) } else { ready }
    };
    let near = Nearness::of(listed);
    let mut used = Used {
        has_any: listed
            .iter()
            .any(|endpoint| endpoint.ready || endpoint.is_fallback()),
        ..Used::default()
    };
    if uses_cluster {
        let ready = places(&|endpoint| endpoint.ready && near.admits(endpoint));
        used.cluster = or_fallback(ready, &Listed::is_fallback);
    }
    if uses_local {
        let ready = places(&|endpoint| endpoint.ready && endpoint.is_local);
        used.local = or_fallback(ready, &|endpoint| endpoint.is_fallback() && endpoint.is_local);
    }
    used
}

/// How near an endpoint has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearness {
    /// Hinted for this node.
    Node,
    /// Hinted for this node's zone.
    Zone,
    /// Anywhere.
    Any,
}

impl Nearness {
    /// Hints count only if every ready endpoint has them and one of them names this node, or else its zone.
    fn of(listed: &[Listed]) -> Self {
        let decides = |hint: fn(&Listed) -> Option<bool>| {
            let mut ready = listed.iter().filter(|endpoint| endpoint.ready).peekable();
            let mut is_named = false;
            ready.peek().is_some()
                && ready.all(|endpoint| {
                    is_named |= hint(endpoint) == Some(true);
                    hint(endpoint).is_some()
                })
                && is_named
        };
        if decides(|endpoint| endpoint.for_node) {
            Self::Node
        } else if decides(|endpoint| endpoint.for_zone) {
            Self::Zone
        } else {
            Self::Any
        }
    }

    fn admits(self, endpoint: &Listed) -> bool {
        match self {
            Self::Node => endpoint.for_node == Some(true),
            Self::Zone => endpoint.for_zone == Some(true),
            Self::Any => true,
        }
    }
}
