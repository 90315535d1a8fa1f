//! Explanations about manifests that are not applied: laid over the objects in force, or, where no switch runs, by
//! themselves.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use millrace_dataplane::table::HashKey;
use millrace_dataplane::table::service::ServiceTable;

use super::{Asked, explain, pod};
use crate::admin::protocol::{Explain, Explanation, Failure};
use crate::config::Services;
use crate::daemon::compile::FAIL_SAFE_PORTS;
use crate::daemon::compile::services::{HostListens, ServiceCompiler, ServiceInputs};
use crate::dns::service::ResolverService;
use crate::objects::{Folder, NodeName, NodeRecord, Store};

/// What manifests are read for whose node is not known yet.
const NOWHERE: &str = "none";

/// Reads a folder of manifests.
pub(super) fn read(path: &Path) -> Result<Folder, Failure> {
    if !path.is_dir() {
        return Err(Failure::wrong(format!(
            "{} is no folder of manifests",
            path.display()
        )));
    }
    let mut folder = Folder::new(path);
    folder.scan();
    Ok(folder)
}

/// Explains a connection in a cluster of these manifests and nothing else, without a switch.
///
/// # Errors
/// What cannot be read, and what was asked about and is not there.
pub fn explain_alone(ask: &Explain, path: &Path) -> Result<Explanation, Failure> {
    let mut folder = read(path)?;
    // The answer depends on the node only through the pod that asks.
    let own = NodeName::new(NOWHERE).map_err(|error| Failure::failed(error.to_string()))?;
    let store = folder.store(&own, &[]);
    let own = pod(&store, &ask.from)?.node_name.clone().unwrap_or(own);
    let store = Arc::new(folder.store(&own, &[]));
    let services = services(&store, &own, &Services::default(), None);
    let asked = Asked {
        basis: Some(format!("the objects of {} alone", path.display())),
        store: &store,
        own: &own,
        services: &services,
        live: None,
    };
    explain(ask, &asked)
}

/// The Services of objects that are not in force, as `own` would have them.
pub(super) fn services(
    store: &Store,
    own: &NodeName,
    config: &Services,
    resolver: Option<&ResolverService>,
) -> Arc<ServiceTable> {
    let record = store.node(own);
    let own_addresses = record.map(addresses_of).unwrap_or_default();
    let gateways: Vec<IpAddr> = record
        .into_iter()
        .flat_map(NodeRecord::gateway_addresses)
        .collect();
    let nodes = store.nodes();
    let node_addresses: HashSet<IpAddr> = nodes
        .flat_map(|node| node.internal_ips.iter().copied().chain(node.public_ips()))
        .collect();
    let mut compiler = ServiceCompiler::new(config, HashKey::random(), 1);
    compiler.update(&ServiceInputs {
        services: store.services(),
        node: own,
        zone: record.and_then(|record| record.zone.as_deref()),
        own_addresses: &own_addresses,
        uplink_addresses: &own_addresses,
        gateways: &gateways,
        node_addresses: &node_addresses,
        fail_safe_ports: &FAIL_SAFE_PORTS,
        // What listens where can only be known on the node itself.
        listens: HostListens(&|_, _, _| Ok(false)),
        // Nor which ports its pods have.
        host_ports: &[],
        resolver,
    });
    Arc::clone(compiler.table())
}

/// What pods know a node by, and what it is known by elsewhere.
pub(super) fn addresses_of(node: &NodeRecord) -> Vec<IpAddr> {
    let known = node.internal_ips.iter().copied().chain(node.public_ips());
    known
        .chain(node.gateway_addresses())
        .chain(node.tunnel_addresses())
        .collect()
}
