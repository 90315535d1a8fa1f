//! The Services of the node whose walks are measured: as many as are asked for, each with five backends on other nodes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context;
use millrace_dataplane::table::HashKey;
use millrace_dataplane::table::service::{
    Backend, BackendId, BackendSet, Frontend, FrontendKey, Maglev, Scope, Service, ServiceCounts, ServiceId,
    ServiceTable,
};
use millrace_dataplane::wire::IpProtocol;

use super::scene::{PEERS, pod_address};

/// Backends of each Service.
const BACKENDS: u32 = 5;
/// The ports of each Service, as the generator calls them.
const PORTS: [u16; 2] = [9, 10];
/// Pods of a peer that serve.
const PODS_PER_PEER: u32 = 200;

/// The address of a Service.
pub(super) fn service_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + number)
}

/// A table of so many Services, each with two ports.
pub(super) fn service_table(count: u32) -> anyhow::Result<ServiceTable> {
    let choice_key = HashKey::from_words([1, 2, 3]);
    let mut table = ServiceTable::new(HashKey::random(), choice_key, false);
    let ports = u32::try_from(PORTS.len())?;
    let mut counts = ServiceCounts::new(1);
    counts.grow((count * ports) as usize, (count * ports * BACKENDS) as usize);
    table.set_counts(Arc::new(counts));
    for number in 0..count {
        for (which, port) in (0..).zip(PORTS) {
            let id = number * ports + which;
            let service = Arc::new(service(id, port, &choice_key)?);
            let address = IpAddr::V4(service_address(number));
            table.claim_cluster_address(address);
            let key = FrontendKey::Address(address, IpProtocol::UDP, port);
            let scope = Scope::Cluster;
            table.insert(key, Frontend { scope, service });
        }
    }
    Ok(table)
}

/// One port of a Service.
fn service(id: u32, port: u16, key: &HashKey) -> anyhow::Result<Service> {
    let backend = |place: u32| -> anyhow::Result<Backend> {
        let number = id * BACKENDS + place;
        let node = 1 + u8::try_from(number % u32::from(PEERS))?;
        let host = 2 + u8::try_from(number / u32::from(PEERS) % PODS_PER_PEER)?;
        Ok(Backend {
            address: IpAddr::V4(pod_address(node, host)),
            // Where pods serve more than one Service, each has a port of its own there.
            port: 10_000 + port + u16::try_from(number / u32::from(PEERS) / PODS_PER_PEER)? * 2,
            id: BackendId::new(number).context("too many backends")?,
            is_local: false,
        })
    };
    let mut backends = (0..BACKENDS).map(backend).collect::<anyhow::Result<Vec<_>>>()?;
    backends.sort_by_key(|backend| (backend.address, backend.port));
    let ends: Vec<_> = backends
        .iter()
        .map(|backend| (backend.address, backend.port))
        .collect();
    let slots = Maglev::build(key, &ends, ends.len());
    Ok(Service {
        id: ServiceId::new(id).context("too many Services")?,
        cluster: BackendSet::new(backends, Some(slots)),
        local: BackendSet::default(),
        others: Box::default(),
        has_endpoints: true,
        internal_local: false,
        external_local: false,
        affinity_s: None,
        source_ranges: Box::default(),
    })
}
