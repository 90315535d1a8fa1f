//! Where each destination leads: what the kernel says, and what pods, peers and this node itself claim.
//!
//! The longest prefix counts. Of claims on one prefix the strongest does: a pod's port, this node itself, the objects,
//! and the kernel's routes last, among which the one with the lowest cost counts.

use millrace_dataplane::table::{Local, Prefix, Role, Senders, Target};

use super::kernel_routes::KernelRoutes;
use super::peers::Peers;
use super::routed::Routed;
use super::{Inputs, PortInput};
use crate::objects::Network;

/// The routes, the weaker claims first: of two for one prefix the later one counts.
pub(super) fn routes(
    inputs: &Inputs<'_>,
    host: Option<&PortInput>,
    local: &Local,
    peers: &Peers,
    (kernel, routed): (&KernelRoutes, &Routed),
) -> Vec<(Prefix, Target)> {
    let mut routes = kernel.routes.clone();
    // Pod addresses that are nobody's: their senders are told, as by a router whose neighbour does not answer; in a Calico
    // cluster they are not, as by its nodes' own route to the block.
    let nobody = match inputs.store.network() {
        Network::Flannel => Target::Unreachable,
        Network::Calico => Target::Blackhole,
    };
    routes.extend(local.pod_prefixes.iter().map(|prefix| (*prefix, nobody)));
    routes.extend(peers.routes.iter().copied());
    routes.extend(routed.cluster_routes.iter().copied());
    if let Some(host) = host {
        routes.extend(
            local
                .addresses
                .iter()
                .map(|address| (Prefix::host(*address), Target::Port(host.id))),
        );
    }
    routes.extend(
        local
            .gateways
            .iter()
            .map(|address| (Prefix::host(*address), Target::Switch)),
    );
    for port in inputs.ports.iter().filter(|port| port.facts.role == Role::Pod) {
        routes.extend(
            port.facts
                .sources
                .iter()
                .map(|ip| (Prefix::host(*ip), Target::Port(port.id))),
        );
    }
    routes
}

/// Which peers may send from where, the weaker claims first. Where routes of the kernel's lead to peers, whatever else has
/// a route, or is this node's own, is taken out of them.
pub(super) fn inner_sources(local: &Local, peers: &Peers, kernel: &KernelRoutes) -> Vec<(Prefix, Senders)> {
    let mut senders = kernel.senders.clone();
    if !senders.is_empty() {
        let hosts = local.addresses.iter().chain(&local.gateways);
        let own = local
            .pod_prefixes
            .iter()
            .copied()
            .chain(hosts.map(|ip| Prefix::host(*ip)));
        senders.extend(own.map(|prefix| (prefix, Senders::Nobody)));
    }
    senders.extend(peers.inner_sources.iter().cloned());
    senders
}
