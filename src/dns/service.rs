//! The resolver as a Service: how a query gets to it.
//!
//! Its addresses are stood beside the Services as if one had them, with the node's own address as the only endpoint. So a
//! pod's query is given the resolver by the switch as it would be given a backend, the node's own too. As traffic to the
//! pod's own node it is allowed whatever policies say. Whoever is outside and has a route to the cluster's addresses gets
//! there as to any ClusterIP; at the node's address on the uplink nobody does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::Dns;
use crate::objects::{
    Endpoint, NodeName, NodeRecord, Protocol, ServiceEntry, ServiceKey, ServiceKind, ServicePort,
    ServiceRecord, SlicePort, SliceRecord,
};

/// The port of DNS.
const PORT: u16 = 53;
/// The ports' names, as those of the Service that CoreDNS has.
const PORTS: [(&str, Protocol); 2] = [("dns", Protocol::Udp), ("dns-tcp", Protocol::Tcp)];
/// Where CoreDNS's Service is, by whose name programs look for the resolver.
pub(super) const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// What the resolver has of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolverService {
    /// Its Service's.
    pub addresses: Vec<IpAddr>,
    /// Where it listens.
    pub listens_at: Vec<SocketAddr>,
}

impl ResolverService {
    /// That of a node: it listens at the node's own address in the overlay, in each family that both have. `None` if there
    /// is to be no resolver.
    #[must_use]
    pub fn of(config: &Dns, own: &NodeRecord) -> Option<Self> {
        let port = u16::try_from(config.port.get()).ok()?;
        let families = [true, false].into_iter();
        let both = families.filter_map(|is_ipv4| {
            let address = config.address(is_ipv4)?;
            Some((address, SocketAddr::new(own.overlay_source(is_ipv4)?, port)))
        });
        let (addresses, listens_at) = both.unzip::<_, _, Vec<_>, Vec<_>>();
        (!addresses.is_empty()).then_some(Self {
            addresses,
            listens_at,
        })
    }

    /// What stands among the Services of a node. Its name is none that a Service can have.
    #[must_use]
    pub fn entry(&self, node: &NodeName) -> ServiceEntry {
        let key = ServiceKey::of_resolver();
        let slices = self.listens_at.iter().map(|at| {
            Arc::new(SliceRecord {
                name: format!("{}-{}", key.name(), at.ip()),
                service: key.clone(),
                is_ipv6: at.is_ipv6(),
                ports: PORTS
                    .map(|(name, protocol)| SlicePort {
                        name: name.to_owned(),
                        protocol,
                        port: at.port(),
                    })
                    .to_vec(),
                endpoints: vec![Endpoint {
                    address: at.ip(),
                    ready: true,
                    serving: true,
                    terminating: false,
                    hostname: None,
                    node_name: Some(node.clone()),
                    for_nodes: Vec::new(),
                    for_zones: Vec::new(),
                    pod: None,
                }],
            })
        });
        ServiceEntry {
            slices: slices.collect(),
            record: Arc::new(record(key, &self.addresses)),
            lost: Vec::new(),
        }
    }
}

/// The resolver as names go: the Service that CoreDNS would have.
pub(super) fn named(addresses: &[IpAddr]) -> ServiceEntry {
    // INVARIANT: both are DNS labels.
    let key = ServiceKey::new(NAMESPACE, NAME).unwrap_or_else(|_| ServiceKey::of_resolver());
    ServiceEntry {
        slices: Vec::new(),
        record: Arc::new(record(key, addresses)),
        lost: Vec::new(),
    }
}

fn record(key: ServiceKey, addresses: &[IpAddr]) -> ServiceRecord {
    ServiceRecord {
        key,
        kind: ServiceKind::ClusterIp,
        cluster_ips: addresses.to_vec(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        assigned_ips: Vec::new(),
        proxied_ips: Vec::new(),
        ports: PORTS
            .map(|(name, protocol)| ServicePort {
                name: name.to_owned(),
                protocol,
                port: PORT,
                node_port: None,
            })
            .to_vec(),
        internal_local: false,
        external_local: false,
        affinity_s: None,
        source_ranges: Vec::new(),
        health_check_node_port: None,
        publish_not_ready: false,
        proxy_name: None,
        wish: None,
    }
}
