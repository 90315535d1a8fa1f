//! A routed network beside the cluster's own, with the peers and the routes that the cluster's own has in other walks.

use std::sync::Arc;

use anyhow::Context;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Endpoint, EndpointKind, Local, NetworkId, Networks, NodeTables, RoutedNetworks, SegmentTunnel,
    ServiceTable,
};
use millrace_dataplane::wire::{Vni, vxlan};

use super::scene::{POD_A, POD_B};

const NETWORK: NetworkId = NetworkId::new(1);
/// Its VXLAN's.
pub(super) const VNI: u32 = 2;

/// The tables of a node whose pods are in a network with these tables, and in the cluster's own no longer.
pub(super) fn within(tables: NodeTables) -> anyhow::Result<NodeTables> {
    let vni = Vni::try_from(VNI)?;
    let endpoints = tables.local.endpoints.iter().map(|end| match end.kind {
        EndpointKind::Vxlan { port, mac, .. } => Endpoint {
            kind: EndpointKind::Vxlan { vni, port, mac },
            ..*end
        },
        EndpointKind::Ipip => *end,
    });
    // An address of the underlay means nothing in it, and there is nobody to be masqueraded as.
    let local = Local {
        endpoints: endpoints.collect(),
        addresses: Vec::new(),
        node_addresses: Default::default(),
        masquerade: false,
        host: None,
        ..Local::clone(&tables.local)
    };
    let second = NodeTables {
        network: NETWORK,
        local: Arc::new(local),
        services: Arc::new(ServiceTable::default()),
        ..tables.clone()
    };
    let tunnel = SegmentTunnel {
        vni,
        port: vxlan::LINUX_PORT,
    };
    let ports = [POD_A, POD_B].map(|number| Some((PortId::new(number)?, NETWORK)));
    let ports: Option<Vec<_>> = ports.into_iter().collect();
    let ports = ports.context("there is no such port number")?;
    Ok(NodeTables {
        networks: Arc::new(Networks::build([], [], [], [(NETWORK, tunnel)])),
        routed: Arc::new(RoutedNetworks::build([second], ports)),
        routes: Arc::default(),
        peers: Arc::default(),
        ..tables
    })
}
