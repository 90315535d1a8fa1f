//! What is known of Services beside the workers' table: for steering, for health checks, and to be shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::table::service::{Backend, FrontendKey, Service};
use millrace_dataplane::wire::IpProtocol;

use super::one::{Made, MadeEndpoint, MadePort};
use super::{ServiceCompiler, ServiceInputs};
use crate::admin::protocol::{
    EndpointCounts, EndpointRow, ServiceCounts, ServicePortRow, ServiceRow, ShowFilter,
};
use crate::daemon::compile::is_link_local_v6;
use crate::objects::{ServiceKey, ServiceKind, ServiceRecord};

/// What the uplink's steering program and the kernel's routes have to know of Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceSteering {
    /// The prefixes of cluster IPs.
    pub prefixes: Vec<IpNet>,
    /// Virtual addresses outside of them that are no node's own: whatever comes to them is for a Service.
    pub addresses: Vec<IpAddr>,
    /// Ports of Services at addresses that are this node's own; node ports of one family alone are among them.
    pub own_ports: Vec<(IpAddr, IpProtocol, u16)>,
    /// Node ports.
    pub node_ports: Vec<(IpProtocol, u16)>,
}

/// A Service's port for health checks of load balancers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPort {
    /// The TCP port of the node.
    pub port: u16,
    /// The Service.
    pub service: ServiceKey,
    /// Its ready endpoints on this node.
    pub local: LocalEndpoints,
}

/// How many ready endpoints a Service has on this node, each of its families by itself: a pod of two families is one in
/// both. kube-proxy has a server for each family that knows that family's endpoints alone, by their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// In IPv4; `None` where the Service has no IPv4.
    pub v4: Option<usize>,
    /// The same in IPv6.
    pub v6: Option<usize>,
}

impl LocalEndpoints {
    /// What somebody is told who asks from this address: his family's, or where the Service has that of the other alone,
    /// the other's.
    #[must_use]
    pub fn told_to(self, asker: IpAddr) -> usize {
        let (own, other) = match asker.to_canonical() {
            IpAddr::V4(_) => (self.v4, self.v6),
            IpAddr::V6(_) => (self.v6, self.v4),
        };
        own.or(other).unwrap_or_default()
    }
}

impl ServiceCompiler {
    /// What steering has to know, from the table as it is now.
    pub(super) fn steer(&self, inputs: &ServiceInputs<'_>) -> ServiceSteering {
        let (mut addresses, mut own_ports) = (BTreeSet::new(), BTreeSet::new());
        // Each with whether it is one in IPv4, and in IPv6.
        let mut node_ports: BTreeMap<(IpProtocol, u16), [bool; 2]> = BTreeMap::new();
        let prefixes = &self.config.cidrs;
        for (key, _) in self.table.iter() {
            match *key {
                FrontendKey::NodePort { v6, protocol, port } => {
                    node_ports.entry((protocol, port)).or_default()[usize::from(v6)] = true;
                }
                FrontendKey::Address(address, protocol, port) => {
                    if inputs.own_addresses.contains(&address) {
                        own_ports.insert((address, protocol, port));
                    } else if !inputs.node_addresses.contains(&address)
                        && !prefixes.iter().any(|prefix| prefix.contains(&address))
                    {
                        // Another node's own address stays that node's: it is short-circuited for pods, but neither
                        // the host nor the uplink may lose the way there.
                        addresses.insert(address);
                    }
                }
            }
        }
        // One that is not served in a family of the node's is the node's own there.
        let own = || inputs.own_addresses.iter().filter(|own| !is_link_local_v6(own));
        node_ports.retain(|(protocol, port), of_family| {
            let is_served = |own: &&IpAddr| of_family[usize::from(own.is_ipv6())];
            let is_everywhere = own().all(|own| is_served(&own));
            if !is_everywhere {
                own_ports.extend(own().filter(is_served).map(|own| (*own, *protocol, *port)));
            }
            is_everywhere
        });
        ServiceSteering {
            prefixes: prefixes.clone(),
            addresses: addresses.into_iter().collect(),
            own_ports: own_ports.into_iter().collect(),
            node_ports: node_ports.into_keys().collect(),
        }
    }

    /// What this node refuses its Services, one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let refused = self
            .refused
            .iter()
            .filter_map(|key| self.made.get(key))
            .flat_map(|made| {
                let key = &made.entry.record.key;
                let refused = made.refused.iter();
                refused
                    .map(move |(claim, refusal)| format!("Service {key}: {claim}: refused: {}", refusal.why))
            });
        let mut warnings: Vec<String> = refused.collect();
        warnings.extend_from_slice(self.host_ports.warnings());
        warnings.sort();
        warnings
    }

    /// The ports for health checks, by number.
    #[must_use]
    pub fn health_ports(&self) -> Vec<HealthPort> {
        let with_port = self.checked.iter().filter_map(|key| {
            let made = self.made.get(key)?;
            let record = &made.entry.record;
            let port = record.health_check_node_port.filter(|_| record.is_programmed())?;
            let endpoints = made.ports.iter().flat_map(|port| &port.endpoints);
            // By address: an endpoint with several ports is one.
            let local: BTreeSet<IpAddr> = endpoints
                .filter(|endpoint| endpoint.is_local && endpoint.is_ready)
                .map(|endpoint| endpoint.address)
                .collect();
            let count = |is_own: fn(&IpAddr) -> bool| {
                let has_family = record.cluster_ips.iter().any(is_own);
                has_family.then(|| local.iter().filter(|address| is_own(address)).count())
            };
            Some(HealthPort {
                port,
                service: record.key.clone(),
                local: LocalEndpoints {
                    v4: count(IpAddr::is_ipv4),
                    v6: count(IpAddr::is_ipv6),
                },
            })
        });
        let mut ports: Vec<HealthPort> = with_port.collect();
        ports.sort_by(|a, b| (a.port, &a.service).cmp(&(b.port, &b.service)));
        ports
    }

    /// The Services that pass a filter, by name.
    #[must_use]
    pub fn rows(&self, filter: &ShowFilter) -> Vec<ServiceRow> {
        let rows = self.made.values().map(|made| self.row(made));
        let mut rows: Vec<ServiceRow> = rows.filter(|row| passes(row, filter)).collect();
        rows.sort_by(|a, b| a.service.cmp(&b.service));
        rows
    }

    /// The Services that were given connections, by name.
    #[must_use]
    pub fn counts(&self) -> Vec<ServiceCounts> {
        let ports = self.made.values().flat_map(|made| {
            let key = &made.entry.record.key;
            made.ports.iter().map(move |port| (key, port))
        });
        let counted = ports.map(|(key, port)| ServiceCounts {
            service: key.to_string(),
            port: port.port.port,
            protocol: port.port.protocol.to_string(),
            connections: self.connections(port),
            endpoints: port
                .endpoints
                .iter()
                .map(|endpoint| EndpointCounts {
                    address: endpoint.address,
                    port: endpoint.port,
                    connections: self.connections_to(endpoint),
                })
                .filter(|endpoint| endpoint.connections > 0)
                .collect(),
        });
        let mut counted: Vec<ServiceCounts> = counted.filter(|row| row.connections > 0).collect();
        counted.sort_by(|a, b| (&a.service, a.port, &a.protocol).cmp(&(&b.service, b.port, &b.protocol)));
        counted
    }

    fn connections(&self, port: &MadePort) -> u64 {
        let now = self.counts.of_service(port.id()).connections;
        now.wrapping_sub(port.counted_from)
    }

    fn connections_to(&self, endpoint: &MadeEndpoint) -> u64 {
        let now = self.counts.of_backend(endpoint.id).connections;
        now.wrapping_sub(endpoint.counted_from)
    }

    fn row(&self, made: &Made) -> ServiceRow {
        let record = &made.entry.record;
        let policy = |is_local: bool| if is_local { "Local" } else { "Cluster" }.to_owned();
        let lost = made
            .entry
            .lost
            .iter()
            .map(|claim| format!("{claim}: not its own"));
        let refused = made
            .refused
            .iter()
            .map(|(claim, refusal)| format!("{claim}: {}", refusal.why));
        ServiceRow {
            service: record.key.to_string(),
            kind: record.kind.type_name().to_owned(),
            state: state(record).to_owned(),
            external_name: match &record.kind {
                ServiceKind::ExternalName(name) => Some(name.clone()),
                ServiceKind::ClusterIp
                | ServiceKind::Headless
                | ServiceKind::NodePort
                | ServiceKind::LoadBalancer
                | ServiceKind::HostPort => None,
            },
            cluster_ips: record.cluster_ips.clone(),
            external_ips: record.external_ips.clone(),
            load_balancer_ips: record.load_balancer_ips.clone(),
            internal_policy: policy(record.internal_local),
            external_policy: record.is_external().then(|| policy(record.external_local)),
            affinity_s: record.affinity_s,
            source_ranges: record.source_ranges.iter().map(ToString::to_string).collect(),
            health_check_node_port: record.health_check_node_port,
            refused: lost.chain(refused).collect(),
            ports: made.ports.iter().map(|port| self.port_row(made, port)).collect(),
        }
    }

    fn port_row(&self, made: &Made, port: &MadePort) -> ServicePortRow {
        let pod_of = |address: IpAddr| {
            let slices = made.entry.slices.iter();
            let mut endpoints = slices.flat_map(|slice| &slice.endpoints);
            let endpoint = endpoints.find(|endpoint| endpoint.address == address)?;
            endpoint.pod.as_ref().map(ToString::to_string)
        };
        let endpoints = port.endpoints.iter().map(|endpoint| EndpointRow {
            address: endpoint.address,
            port: endpoint.port,
            state: match (endpoint.is_ready, endpoint.is_terminating) {
                (true, _) => "ready",
                (false, true) => "terminating",
                (false, false) => "not-ready",
            }
            .to_owned(),
            used: endpoint.used.0 || endpoint.used.1,
            local: endpoint.is_local,
            pod: pod_of(endpoint.address),
            connections: self.connections_to(endpoint),
        });
        ServicePortRow {
            name: port.port.name.clone(),
            protocol: port.port.protocol.to_string(),
            port: port.port.port,
            node_port: port.port.node_port,
            family: if port.is_ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
            connections: self.connections(port),
            endpoints: endpoints.collect(),
        }
    }

    /// What Services take in memory, in bytes: the table, the Services behind it, and the lookup tables.
    #[must_use]
    pub fn memory(&self) -> ServiceMemory {
        let ports = || self.made.values().flat_map(|made| &made.ports);
        let backends = |port: &MadePort| {
            let set = |backends: &[Backend]| size_of_val(backends);
            let (cluster, local) = (&port.service.cluster, &port.service.local);
            let is_shared = cluster.is_shared_with(local);
            set(cluster.backends()) + if is_shared { 0 } else { set(local.backends()) }
        };
        ServiceMemory {
            table: self.table.memory(),
            services: ports().map(|port| size_of::<Service>() + backends(port)).sum(),
            lookup_tables: self.sets.memory(),
            lookup_table_count: self.sets.len(),
        }
    }
}

/// What Services take in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceMemory {
    /// The table of virtual addresses and node ports.
    pub table: usize,
    /// What stands behind them.
    pub services: usize,
    /// The lookup tables of consistent hashing.
    pub lookup_tables: usize,
    /// How many of those there are.
    pub lookup_table_count: usize,
}

/// What of a Service is programmed.
fn state(record: &ServiceRecord) -> &'static str {
    match record.kind {
        ServiceKind::ExternalName(_) => "dns-only",
        ServiceKind::Headless => "headless",
        ServiceKind::HostPort => "programmed",
        ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::LoadBalancer => {
            if record.is_programmed() {
                "programmed"
            } else if record.cluster_ips.is_empty() {
                "no-cluster-ip"
            } else {
                "other-proxy"
            }
        }
    }
}

/// Whether a row is what is asked for: by a pod among its endpoints, an address that leads to it or that it leads to,
/// a port of either, the state of itself or of an endpoint.
fn passes(row: &ServiceRow, filter: &ShowFilter) -> bool {
    let endpoints = || row.ports.iter().flat_map(|port| &port.endpoints);
    let has_pod = |pod: &String| endpoints().any(|endpoint| endpoint.pod.as_ref() == Some(pod));
    let has_address = |address: &IpAddr| {
        let vips = [&row.cluster_ips, &row.external_ips, &row.load_balancer_ips];
        vips.iter().any(|vips| vips.contains(address))
            || endpoints().any(|endpoint| endpoint.address == *address)
    };
    let has_port = |number: &u16| {
        let mut ports = row.ports.iter();
        ports.any(|port| port.port == *number || port.node_port == Some(*number))
            || endpoints().any(|endpoint| endpoint.port == *number)
    };
    let has_state =
        |state: &String| row.state == *state || endpoints().any(|endpoint| endpoint.state == *state);
    filter.pod.as_ref().is_none_or(has_pod)
        && filter.address.as_ref().is_none_or(has_address)
        && filter.port.as_ref().is_none_or(has_port)
        && filter.state.as_ref().is_none_or(has_state)
}
