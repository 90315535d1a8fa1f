//! Services to be put into tables, and the tables of node 1 with them.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::service::{
    Backend, BackendId, BackendSet, Frontend, FrontendKey, NodeFacts, Scope, Service, ServiceCounts,
    ServiceId, ServiceTable, Serving,
};
use millrace_dataplane::table::{HashKey, Local, Lpm, NodeTables, Prefix, SourceAddresses};
use millrace_dataplane::wire::IpProtocol;

use crate::packets::Family;
use crate::world::{NODES, node_address, pod};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const UDP_LITE: u8 = 136;

/// A Service's address inside the cluster.
pub fn vip(family: Family, number: u8) -> IpAddr {
    family.pick(&format!("10.96.0.{number}"), &format!("fd00:96::{number}"))
}

/// A Service's address outside of it.
pub fn external(family: Family, number: u8) -> IpAddr {
    family.pick(&format!("198.51.100.{number}"), &format!("2001:db8:e::{number}"))
}

/// What leads to a Service.
#[derive(Debug, Clone, Copy)]
pub enum At {
    Cluster(IpAddr),
    External(IpAddr),
    LoadBalancer(IpAddr),
    NodePort(Family),
}

/// A Service of one port, to be put into a table; all protocols lead to it.
#[derive(Debug, Clone)]
pub struct Sketch {
    pub id: u32,
    pub at: Vec<At>,
    pub port: u16,
    /// Address, port, and whether it is on this node.
    pub backends: Vec<(IpAddr, u16, bool)>,
    pub others: Vec<(IpAddr, u16, Serving)>,
    pub has_endpoints: bool,
    pub internal_local: bool,
    pub external_local: bool,
    pub affinity_s: Option<u32>,
    pub source_ranges: Vec<&'static str>,
}

impl Sketch {
    pub fn new(id: u32, at: At, port: u16, backends: &[(IpAddr, u16, bool)]) -> Self {
        Self {
            id,
            at: vec![at],
            port,
            backends: backends.to_vec(),
            others: Vec::new(),
            has_endpoints: !backends.is_empty(),
            internal_local: false,
            external_local: false,
            affinity_s: None,
            source_ranges: Vec::new(),
        }
    }

    fn service(&self) -> Service {
        let all = self.backends.iter().zip(self.id * 16..);
        let backend = |((address, port, is_local), id): (&(IpAddr, u16, bool), u32)| Backend {
            address: *address,
            port: *port,
            id: BackendId::new(id).unwrap(),
            is_local: *is_local,
        };
        let all: Vec<_> = all.map(backend).collect();
        let local = all.iter().copied().filter(|backend| backend.is_local).collect();
        Service {
            id: ServiceId::new(self.id).unwrap(),
            cluster: BackendSet::new(all, None),
            local: BackendSet::new(local, None),
            others: self.others.clone().into(),
            has_endpoints: self.has_endpoints,
            internal_local: self.internal_local,
            external_local: self.external_local,
            affinity_s: self.affinity_s,
            source_ranges: self
                .source_ranges
                .iter()
                .map(|range| range.parse().unwrap())
                .collect(),
        }
    }
}

/// The number of a sketch's backend.
pub fn backend(id: u32, place: u32) -> BackendId {
    BackendId::new(id * 16 + place).unwrap()
}

/// A table of these Services.
pub fn services(sketches: &[Sketch]) -> ServiceTable {
    let mut table = ServiceTable::new(HashKey::random(), HashKey::from_words([1, 2, 3]), false);
    let mut node_port_addresses: std::collections::HashSet<_> =
        Family::BOTH.map(|family| node_address(family, 1)).into();
    node_port_addresses.extend(Family::BOTH.map(|family| pod(family, 1, 1)));
    table.set_node(Arc::new(NodeFacts {
        gateways: Vec::new(),
        node_port_addresses,
        caller_addresses: Family::BOTH.map(|family| node_address(family, 1)).to_vec(),
        service_prefixes: ["10.96.0.0/16", "fd00:96::/112"]
            .iter()
            .map(|prefix| prefix.parse().unwrap())
            .collect(),
    }));
    let mut counts = ServiceCounts::new(1);
    counts.grow(64, 1024);
    table.set_counts(Arc::new(counts));
    for sketch in sketches {
        let service = Arc::new(sketch.service());
        for (at, protocol) in sketch
            .at
            .iter()
            .flat_map(|at| [TCP, UDP, SCTP].map(|protocol| (*at, IpProtocol(protocol))))
        {
            let (scope, key) = match at {
                At::Cluster(address) => {
                    table.claim_cluster_address(address);
                    (
                        Scope::Cluster,
                        FrontendKey::Address(address, protocol, sketch.port),
                    )
                }
                At::External(address) => (
                    Scope::External,
                    FrontendKey::Address(address, protocol, sketch.port),
                ),
                At::LoadBalancer(address) => (
                    Scope::LoadBalancer,
                    FrontendKey::Address(address, protocol, sketch.port),
                ),
                At::NodePort(family) => {
                    let key = FrontendKey::NodePort {
                        v6: family == Family::V6,
                        protocol,
                        port: sketch.port,
                    };
                    (Scope::External, key)
                }
            };
            let service = Arc::clone(&service);
            table.insert(key, Frontend { scope, service });
        }
    }
    table
}

/// The tables of node 1 with these Services, where pods leave the cluster under the node's address.
pub fn tables(sketches: &[Sketch]) -> NodeTables {
    let base = crate::world::tables(1);
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: IpAddr| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(v6),
    };
    let networks = NODES.flat_map(|n| [format!("10.244.{n}.0/24"), format!("fd00:{n}::/64")]);
    let local = Local {
        pod_networks: Lpm::build(networks.map(|text| (text.parse::<Prefix>().unwrap(), ()))),
        sources_v4: SourceAddresses {
            gateway: v4(pod(Family::V4, 1, 1)),
            overlay: v4(pod(Family::V4, 1, 0)),
            uplink: v4(node_address(Family::V4, 1)),
        },
        sources_v6: SourceAddresses {
            gateway: v6(pod(Family::V6, 1, 1)),
            overlay: v6(pod(Family::V6, 1, 0)),
            uplink: v6(node_address(Family::V6, 1)),
        },
        masquerade: true,
        uplink_ports: (61_000, 65_535),
        ..Local::clone(&base.local)
    };
    NodeTables {
        local: Arc::new(local),
        services: Arc::new(services(sketches)),
        ..base
    }
}
