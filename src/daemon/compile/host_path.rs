//! How the node itself gets to pods and Services: by routes over the host port, and, where an address is its own and no
//! route is asked, by turning its connections there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::table::Local;

use super::services::ServiceSteering;
use super::{FAIL_SAFE_PORTS, Inputs, PeerName, PortInput};
use crate::kernel::{OWN_ROUTE_PROTOCOL, OwnServices, RouteSpec};

/// The kernel's way to every pod and to every virtual address that is not this node's own: through the host port, from
/// this node's tunnel address. What the node's way out depends on is left out, with a warning.
pub(super) fn kernel_routes(
    inputs: &Inputs<'_>,
    peers: &[PeerName],
    services: &ServiceSteering,
    warnings: &mut Vec<String>,
) -> Vec<RouteSpec> {
    let own = inputs.own;
    let routers = routers(inputs);
    let mut addresses = Vec::new();
    for address in &services.addresses {
        if routers.contains(address) {
            warnings.push(format!(
                "Service address {address} is a router of this node's: the node itself goes to it as ever, not to the Service"
            ));
        } else {
            addresses.push(IpNet::from(*address));
        }
    }
    let remote = peers.iter().flat_map(|peer| peer.pod_cidrs.iter().copied());
    let prefixes = own
        .pod_prefixes()
        .chain(remote)
        .chain(services.prefixes.iter().map(IpNet::trunc))
        .chain(addresses);
    // Two may be the same: a route is wanted once.
    let prefixes: BTreeSet<IpNet> = prefixes.collect();
    prefixes
        .into_iter()
        .filter_map(|prefix| route_to(inputs, prefix))
        .collect()
}

/// `None` if this node has no address for that: no pods of the family.
fn route_to(inputs: &Inputs<'_>, prefix: IpNet) -> Option<RouteSpec> {
    let (own, is_ipv4) = (inputs.own, prefix.addr().is_ipv4());
    let mut pools = inputs.store.encapsulations();
    let source = match pools.find(|(pool, _)| pool.contains(&prefix)) {
        Some((_, pool)) => own.source_towards(pool, is_ipv4),
        None => own.overlay_source(is_ipv4),
    };
    let is_of_family = |address: &IpAddr| address.is_ipv4() == prefix.addr().is_ipv4();
    Some(RouteSpec {
        prefix,
        gateway: Some(own.gateway_addresses().find(is_of_family)?),
        onlink: true,
        source: Some(source?),
    })
}

/// The next hops of the node's own routes.
fn routers(inputs: &Inputs<'_>) -> BTreeSet<IpAddr> {
    inputs
        .kernel
        .routes()
        .filter(|route| route.protocol != OWN_ROUTE_PROTOCOL)
        .flat_map(|route| route.hops.iter().filter_map(|hop| hop.gateway))
        .collect()
}

/// Services at this node's own addresses. The fail-safe ports stay with the node here, too.
pub(super) fn own_services(
    inputs: &Inputs<'_>,
    host: Option<&PortInput>,
    local: &Local,
    services: &ServiceSteering,
) -> OwnServices {
    let stays = |port: u16| FAIL_SAFE_PORTS.contains(&port);
    let node_ports = services.node_ports.iter().filter(|(_, port)| !stays(*port));
    // A link-local address is one of a link, and says nothing without it.
    let addresses = local.addresses.iter().copied();
    let addresses =
        addresses.filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    let ports = services.own_ports.iter().filter(|(.., port)| !stays(*port));
    OwnServices {
        interface: inputs.config.host_port.name.kernel_side().as_str().to_owned(),
        mtu: host.map_or(0, |host| host.facts.mtu),
        addresses: addresses.collect(),
        node_ports: node_ports.map(|(protocol, port)| (protocol.0, *port)).collect(),
        ports: ports
            .map(|(address, protocol, port)| (*address, (protocol.0, *port)))
            .collect(),
        gateways: local.gateways.clone(),
    }
}
