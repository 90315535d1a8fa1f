//! Host ports: the node's ports that lead to one of its pods, stood beside the Services as if each pod had one. The
//! node's own resolver stands there too.
//!
//! They are what the `portmap` plugin does with rules of the kernel's, which see nothing of the switch's packets. What a
//! Service has already stays the Service's. As there, whoever calls from outside keeps its address.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::ServiceInputs;
use crate::admin::protocol::HostPort;
use crate::daemon::compile::{PortInput, is_link_local_v6};
use crate::dns::service::ResolverService;
use crate::objects::{
    Claim, Endpoint, NodeName, PodKey, Protocol, ServiceEntry, ServiceKey, ServiceKind, ServicePort,
    ServiceRecord, SlicePort, SliceRecord,
};

type Entries = Arc<[Arc<ServiceEntry>]>;

/// What a pod has of its node's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodHostPorts {
    /// The pod.
    pub pod: PodKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports, at least one.
    pub ports: Vec<HostPort>,
}

impl PodHostPorts {
    /// Those of all ports of the switch, in the order of the pods' names.
    #[must_use]
    pub fn of(ports: &[PortInput]) -> Vec<Self> {
        let with_ports = ports.iter().filter(|port| !port.host_ports.is_empty());
        let mut found: Vec<_> = with_ports
            .filter_map(|port| {
                Some(Self {
                    pod: port.pod.clone()?,
                    addresses: port.facts.sources.clone(),
                    ports: port.host_ports.clone(),
                })
            })
            .collect();
        found.sort_by(|a, b| a.pod.cmp(&b.pod));
        found
    }
}

/// The entries that stand for host ports, and what they were made from.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    from: Option<Basis>,
    made: Vec<Arc<ServiceEntry>>,
    all: Entries,
    warnings: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Basis {
    wanted: Vec<PodHostPorts>,
    resolver: Option<ResolverService>,
    addresses: Vec<IpAddr>,
    node: NodeName,
}

impl HostPorts {
    /// All Services, and behind them what stands for the host ports. As long as nothing of it changes, it is the same by
    /// pointer.
    pub(super) fn beside(&mut self, inputs: &ServiceInputs<'_>) -> Entries {
        if inputs.host_ports.is_empty() && inputs.resolver.is_none() {
            self.from = None;
            self.made.clear();
            self.warnings.clear();
            self.all = Arc::clone(inputs.services);
            return Arc::clone(&self.all);
        }
        let from = Basis {
            wanted: inputs.host_ports.to_vec(),
            resolver: inputs.resolver.cloned(),
            addresses: addresses(inputs),
            node: inputs.node.clone(),
        };
        let services = self.all.len().saturating_sub(self.made.len());
        let is_same = self.from.as_ref() == Some(&from)
            && services == inputs.services.len()
            && inputs
                .services
                .iter()
                .zip(self.all.iter())
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if !is_same {
            self.make(inputs, &from);
            self.from = Some(from);
        }
        Arc::clone(&self.all)
    }

    /// Host ports that a Service has, one line each.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn make(&mut self, inputs: &ServiceInputs<'_>, from: &Basis) {
        let taken = Taken::by(inputs.services);
        let before: BTreeMap<ServiceKey, Arc<ServiceEntry>> = std::mem::take(&mut self.made)
            .into_iter()
            .map(|entry| (entry.record.key.clone(), entry))
            .collect();
        self.warnings.clear();
        if let Some(resolver) = &from.resolver {
            let mut made = resolver.entry(&from.node);
            made.lost = made.record.claims().filter(|claim| taken.has(claim)).collect();
            let said = made.lost.iter().map(|claim| {
                format!("[dns] addresses: {claim}: refused as the resolver's: a Service has it")
            });
            self.warnings.extend(said);
            let old = before.get(&made.record.key).filter(|old| ***old == made);
            self.made.push(old.map_or_else(|| Arc::new(made), Arc::clone));
        }
        for pod in &from.wanted {
            for record in records(pod, &from.addresses) {
                let lost: Vec<Claim> = record.claims().filter(|claim| taken.has(claim)).collect();
                let key = record.key.clone();
                let said = lost
                    .iter()
                    .map(|claim| format!("{}: {claim}: refused as its hostPort: a Service has it", pod.pod));
                self.warnings.extend(said);
                let made = ServiceEntry {
                    slices: slices(pod, &record, &from.node),
                    record: Arc::new(record),
                    lost,
                };
                let old = before.get(&key).filter(|old| ***old == made);
                self.made.push(old.map_or_else(|| Arc::new(made), Arc::clone));
            }
        }
        self.all = inputs.services.iter().chain(&self.made).cloned().collect();
    }
}

/// The node's addresses at which a port may be a pod's: those that a Service may have as an external one.
fn addresses(inputs: &ServiceInputs<'_>) -> Vec<IpAddr> {
    let is_link_local = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(_) => is_link_local_v6(address),
    };
    let own = inputs.own_addresses.iter();
    let usable = own.filter(|own| !inputs.gateways.contains(own) && !is_link_local(own));
    let mut addresses: Vec<IpAddr> = usable.copied().collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What Services have already.
struct Taken {
    addresses: HashSet<(IpAddr, Protocol, u16)>,
    node_ports: HashSet<(Protocol, u16)>,
}

impl Taken {
    fn by(services: &[Arc<ServiceEntry>]) -> Self {
        let mut taken = Self {
            addresses: HashSet::new(),
            node_ports: HashSet::new(),
        };
        for entry in services.iter().filter(|entry| entry.record.is_programmed()) {
            for claim in entry.record.claims().filter(|claim| !entry.lost.contains(claim)) {
                match claim {
                    Claim::Vip {
                        address,
                        protocol,
                        port,
                        ..
                    } => taken.addresses.insert((address, protocol, port)),
                    Claim::NodePort { protocol, port } => taken.node_ports.insert((protocol, port)),
                };
            }
        }
        taken
    }

    fn has(&self, claim: &Claim) -> bool {
        match *claim {
            Claim::Vip {
                address,
                protocol,
                port,
                ..
            } => {
                self.addresses.contains(&(address, protocol, port))
                    || self.node_ports.contains(&(protocol, port))
            }
            Claim::NodePort { .. } => false,
        }
    }
}

/// What stands for a pod's host ports: a record for each choice of the node's addresses, since all ports of one are at all
/// of its addresses.
fn records(pod: &PodHostPorts, own: &[IpAddr]) -> Vec<ServiceRecord> {
    let mut by_address: BTreeMap<Option<IpAddr>, Vec<HostPort>> = BTreeMap::new();
    for port in &pod.ports {
        by_address.entry(port.host_ip).or_default().push(*port);
    }
    let has_family = |address: &&IpAddr| pod.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4());
    let records = by_address.into_iter().filter_map(|(at, ports)| {
        let first = *ports.first()?;
        let at_these = own.iter().filter(has_family).filter(|own| first.is_at(**own));
        Some(ServiceRecord {
            key: ServiceKey::of_host_ports(&pod.pod, at),
            kind: ServiceKind::HostPort,
            cluster_ips: Vec::new(),
            external_ips: at_these.copied().collect(),
            load_balancer_ips: Vec::new(),
            assigned_ips: Vec::new(),
            proxied_ips: Vec::new(),
            ports: ports.iter().map(service_port).collect(),
            internal_local: false,
            // The only endpoint is on this node, so this only says that callers keep their addresses.
            external_local: true,
            affinity_s: None,
            source_ranges: Vec::new(),
            health_check_node_port: None,
            publish_not_ready: false,
            proxy_name: None,
            wish: None,
        })
    });
    records.collect()
}

fn service_port(port: &HostPort) -> ServicePort {
    ServicePort {
        name: name(port.protocol, port.host_port.get()),
        protocol: port.protocol,
        port: port.host_port.get(),
        node_port: None,
    }
}

fn name(protocol: Protocol, port: u16) -> String {
    format!("{protocol}-{port}")
}

/// The pod as the only endpoint, in each of its families.
fn slices(pod: &PodHostPorts, record: &ServiceRecord, node: &NodeName) -> Vec<Arc<SliceRecord>> {
    let ports = record.ports.iter().filter_map(|port| {
        let is_it = |host: &&HostPort| {
            let at = ServiceKey::of_host_ports(&pod.pod, host.host_ip);
            (host.protocol, host.host_port.get(), &at) == (port.protocol, port.port, &record.key)
        };
        let host = pod.ports.iter().find(is_it)?;
        Some(SlicePort {
            name: port.name.clone(),
            protocol: host.protocol,
            port: host.container_port.get(),
        })
    });
    let ports: Vec<SlicePort> = ports.collect();
    let slices = pod.addresses.iter().map(|address| {
        Arc::new(SliceRecord {
            name: format!("{}-{address}", record.key.name()),
            service: record.key.clone(),
            is_ipv6: address.is_ipv6(),
            ports: ports.clone(),
            endpoints: vec![Endpoint {
                address: *address,
                ready: true,
                serving: true,
                terminating: false,
                hostname: None,
                node_name: Some(node.clone()),
                for_nodes: Vec::new(),
                for_zones: Vec::new(),
                pod: Some(pod.pod.clone()),
            }],
        })
    });
    slices.collect()
}
