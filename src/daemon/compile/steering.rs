//! What the uplink's steering program is told: what of the node's traffic is the switch's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::table::{Endpoint, EndpointKind, Local, Role};
use millrace_dataplane::xdp::{NodePort, ServicePort, SteeringTables};

use super::services::ServiceSteering;
use super::{FAIL_SAFE_PORTS, Inputs};

pub(super) fn steering(
    inputs: &Inputs<'_>,
    local: &Local,
    services: &ServiceSteering,
    more_tunnels: &BTreeSet<u16>,
) -> SteeringTables {
    let own_tunnels = local.endpoints.iter().filter_map(udp_port);
    let mut tunnel_ports: Vec<u16> = own_tunnels.collect();
    tunnel_ports.extend(
        more_tunnels
            .iter()
            .filter(|port| !local.endpoints.iter().any(|end| udp_port(end) == Some(**port))),
    );
    let prefix = |net: &IpNet| (net.network(), net.prefix_len());
    let whole = |address: &IpAddr| prefix(&IpNet::from(*address));
    let uplink = inputs.ports.iter().find(|port| port.facts.role == Role::Uplink);
    let snat_ports = inputs.config.services.snat_ports;
    let service_port = |(address, protocol, port): &_| ServicePort {
        address: *address,
        protocol: *protocol,
        port: *port,
    };
    let node_port = |(protocol, port): &_| NodePort {
        protocol: *protocol,
        port: *port,
    };
    SteeringTables {
        local_addresses: addresses_from_uplink(inputs, &local.addresses),
        tunnel_ports,
        failsafe_ports: FAIL_SAFE_PORTS.to_vec(),
        ipip: local.endpoints.iter().any(|end| end.kind == EndpointKind::Ipip),
        pod_prefixes: inputs.own.pod_prefixes().map(|cidr| prefix(&cidr)).collect(),
        service_prefixes: services
            .prefixes
            .iter()
            .map(prefix)
            .chain(services.addresses.iter().map(whole))
            .collect(),
        service_ports: services.own_ports.iter().map(service_port).collect(),
        node_ports: services.node_ports.iter().map(node_port).collect(),
        snat_ports: Some(snat_ports.first()..=snat_ports.last()),
        vlan: uplink.and_then(|port| port.vlan),
    }
}

/// The node's own addresses at which packets may come by the uplink. Those within its pods' prefixes are reached through
/// the switch.
fn addresses_from_uplink(inputs: &Inputs<'_>, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let is_of_pods = |address: &IpAddr| inputs.own.pod_prefixes().any(|cidr| cidr.contains(address));
    addresses
        .iter()
        .copied()
        .filter(|address| !is_of_pods(address))
        .collect()
}

fn udp_port(endpoint: &Endpoint) -> Option<u16> {
    match endpoint.kind {
        EndpointKind::Vxlan { port, .. } => Some(port),
        EndpointKind::Ipip => None,
    }
}
