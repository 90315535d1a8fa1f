//! Where each destination leads: what the kernel says, and what pods, peers and this node itself claim.

use std::collections::BTreeMap;

use ipnet::IpNet;
use millrace_dataplane::table::{Local, Prefix, Role, Target};

use super::peers::Peers;
use super::{Inputs, PortInput, prefix};
use crate::kernel::{OWN_ROUTE_PROTOCOL, Route, RouteKind};
use crate::objects::Network;

/// The routes, the weaker claims first: of two for one prefix the later one counts.
pub(super) fn routes(
    inputs: &Inputs<'_>,
    uplink: Option<&PortInput>,
    host: Option<&PortInput>,
    local: &Local,
    peers: &Peers,
) -> Vec<(Prefix, Target)> {
    let mut best: BTreeMap<IpNet, (u32, Target)> = BTreeMap::new();
    for route in inputs.kernel.routes().filter(|route| route.tos == 0) {
        let Some(target) = kernel_target(route, uplink, host) else {
            continue;
        };
        let entry = best
            .entry(route.destination.trunc())
            .or_insert((route.metric, target));
        if route.metric < entry.0 {
            *entry = (route.metric, target);
        }
    }
    let mut routes: Vec<_> = best
        .into_iter()
        .filter_map(|(net, (_, target))| Some((prefix(net)?, target)))
        .collect();
    // Pod addresses that are nobody's: their senders are told, as by a router whose neighbour does not answer; in a Calico
    // cluster they are not, as by its nodes' own route to the block.
    let nobody = match inputs.store.network() {
        Network::Flannel => Target::Unreachable,
        Network::Calico => Target::Blackhole,
    };
    routes.extend(local.pod_prefixes.iter().map(|prefix| (*prefix, nobody)));
    routes.extend(peers.routes.iter().copied());
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

/// Where a route of the kernel's leads; what it sends out by other interfaces is the kernel's to forward.
fn kernel_target(route: &Route, uplink: Option<&PortInput>, host: Option<&PortInput>) -> Option<Target> {
    match route.kind {
        RouteKind::Unicast => {
            let hop = route.hops.iter().find(|hop| !hop.dead)?;
            if let Some(uplink) = uplink.filter(|port| port.ifindex == hop.ifindex) {
                return Some(match hop.gateway {
                    Some(next_hop) => Target::Via {
                        port: uplink.id,
                        next_hop,
                    },
                    None => Target::OnLink { port: uplink.id },
                });
            }
            // The way to pods through the host port is our own doing and leads back here.
            if route.protocol == OWN_ROUTE_PROTOCOL {
                return None;
            }
            host.map(|port| Target::Port(port.id))
        }
        RouteKind::Blackhole => Some(Target::Blackhole),
        RouteKind::Unreachable | RouteKind::Prohibit => Some(Target::Unreachable),
        _ => None,
    }
}
