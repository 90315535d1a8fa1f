//! Connections and Services on node 1: tables in, packets in, packets out.
//!
//! Each test is a conversation: rows in order on one node, where a later row may rest on what an earlier one began.

mod balance;
mod endpoints;
mod errors;
mod limits;
mod masquerade;
mod outside;
mod pieces;
mod stored;
mod tcp;

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::service::{
    Backend, BackendId, BackendSet, Frontend, FrontendKey, NodeFacts, Scope, Service, ServiceCounts,
    ServiceId, ServiceTable, Serving,
};
use millrace_dataplane::table::{HashKey, Local, Lpm, NodeTables, Prefix, SourceAddresses};
use millrace_dataplane::verdict::{DropReason, PuntReason};
use millrace_dataplane::wire::IpProtocol;

use crate::packets::{Body, Family, Ip};
use crate::rows::{Expect, Row};
use crate::world::{
    Node, VNI, VXLAN_PORT, host, node_address, outer, pod, pod_port, router_mac, station_mac, switch_mac,
    uplink, vtep_mac, world,
};

/// Reasons that only a conversation shows, each in one of the files here.
pub const DROPS: [DropReason; 10] = [
    DropReason::ServiceUnknownAddress,
    DropReason::ServiceSourceRange,
    DropReason::ServiceNoLocalEndpoint,
    DropReason::SnatExhausted,
    DropReason::FlowTableFull,
    DropReason::FlowPodCap,
    DropReason::TcpWindow,
    DropReason::TcpInvalid,
    DropReason::IcmpUnrelated,
    DropReason::FragmentUnknown,
];
/// As [`DROPS`].
pub const PUNTS: [PuntReason; 3] = [
    PuntReason::ServiceReject,
    PuntReason::EchoId,
    PuntReason::EndpointGone,
];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

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
            cluster: Arc::new(BackendSet::new(all, None)),
            local: Arc::new(BackendSet::new(local, None)),
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
    let networks = (1..=5).flat_map(|n| [format!("10.244.{n}.0/24"), format!("fd00:{n}::/64")]);
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

/// A node with these Services.
pub fn node(sketches: &[Sketch]) -> Node {
    Node::with(tables(sketches))
}

/// A packet of a protocol with ports, or of SCTP.
pub fn packet(protocol: u8, (source, from): (IpAddr, u16), (destination, to): (IpAddr, u16)) -> Ip {
    let data = b"what a packet carries".to_vec();
    let body = match protocol {
        UDP => Body::Udp(from, to, data),
        TCP => Body::Tcp(from, to, data),
        _ => Body::Sctp(from, to, data),
    };
    Ip::udp(source, destination).body(body)
}

/// How a packet comes in.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Pod(u8),
    Host,
    /// Out of the tunnel from node 2.
    Peer,
    /// Plain, by the router.
    World,
}

impl From {
    pub fn port(self) -> PortId {
        match self {
            From::Pod(number) => pod_port(number),
            From::Host => host(),
            From::Peer | From::World => uplink(),
        }
    }

    pub fn frame(self, ip: &Ip) -> Vec<u8> {
        match self {
            From::Pod(_) | From::Host => crate::rows::sent(ip, self.port()),
            From::Peer => {
                let inner = ip.frame(vtep_mac(1), vtep_mac(2));
                outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner)
            }
            From::World => ip.frame(switch_mac(1, uplink()), router_mac()),
        }
    }
}

/// How a packet goes out.
#[derive(Debug, Clone, Copy)]
pub enum To {
    Pod(u8),
    Host,
    /// Through the tunnel to node 2.
    Peer,
    /// Plain, to the router.
    World,
}

impl To {
    pub fn expect(self, ip: &Ip) -> Expect {
        let station = |port| Expect::Forward(port, ip.frame(station_mac(1, port), switch_mac(1, port)));
        match self {
            To::Pod(number) => station(pod_port(number)),
            To::Host => station(host()),
            To::Peer => {
                let inner = ip.frame(vtep_mac(2), vtep_mac(1));
                Expect::Tunnel(uplink(), outer(1, 2).vxlan((0, VXLAN_PORT), VNI, &inner))
            }
            To::World => Expect::Forward(uplink(), ip.frame(router_mac(), switch_mac(1, uplink()))),
        }
    }
}

/// Runs one row.
pub fn say(node: &mut Node, name: &str, from: From, ip: &Ip, expect: Expect) {
    let row = Row::new(name, from.port(), from.frame(ip), expect);
    let (verdict, left) = node.receive(row.ingress, &row.packet);
    row.check(verdict, &left);
}

/// One hop further, where the way counts as one.
pub fn hop(ip: &Ip) -> Ip {
    ip.clone().ttl(ip.ttl - 1)
}

/// A packet goes one way and its answer the other. Each of the four is given as it comes or as it leaves; the packets
/// that come have a TTL to spend, unless they only pass between the host and the switch.
pub struct Exchange {
    pub name: String,
    pub protocol: u8,
    pub from: From,
    pub to: To,
    /// Source and destination of the packet as it comes, and as it leaves.
    pub comes: ((IpAddr, u16), (IpAddr, u16)),
    pub leaves: ((IpAddr, u16), (IpAddr, u16)),
}

impl Exchange {
    /// Whether a packet between these ends is forwarded, or still on its own node.
    fn counts(from: From, to: To) -> bool {
        !matches!(from, From::Host) && !matches!(to, To::Host)
    }

    pub fn run(&self, node: &mut Node) {
        let (client, service) = self.comes;
        let (source, backend) = self.leaves;
        let request = packet(self.protocol, client, service);
        let forwarded = packet(self.protocol, source, backend);
        let is_hop = Self::counts(self.from, self.to);
        let age = |ip: &Ip| if is_hop { hop(ip) } else { ip.clone() };
        say(
            node,
            &format!("{}, first", self.name),
            self.from,
            &request,
            self.to.expect(&age(&forwarded)),
        );
        let (back_from, back_to) = (self.back_from(), self.back_to());
        let answer = packet(self.protocol, backend, source);
        let returned = packet(self.protocol, service, client);
        let is_hop = Self::counts(back_from, back_to);
        let age = |ip: &Ip| if is_hop { hop(ip) } else { ip.clone() };
        for which in ["answer", "second answer"] {
            say(
                node,
                &format!("{}, {which}", self.name),
                back_from,
                &answer,
                back_to.expect(&age(&returned)),
            );
        }
        let is_hop = Self::counts(self.from, self.to);
        let age = |ip: &Ip| if is_hop { hop(ip) } else { ip.clone() };
        say(
            node,
            &format!("{}, third", self.name),
            self.from,
            &request,
            self.to.expect(&age(&forwarded)),
        );
    }

    fn back_from(&self) -> From {
        match self.to {
            To::Pod(number) => From::Pod(number),
            To::Host => From::Host,
            To::Peer => From::Peer,
            To::World => From::World,
        }
    }

    fn back_to(&self) -> To {
        match self.from {
            From::Pod(number) => To::Pod(number),
            From::Host => To::Host,
            From::Peer => To::Peer,
            From::World => To::World,
        }
    }
}

/// The pod of node 2 that serves, and its port.
pub fn remote(family: Family) -> (IpAddr, u16) {
    (pod(family, 2, 5), 5353)
}

/// The pod of this node that serves, and its port.
pub fn local(family: Family) -> (IpAddr, u16) {
    (pod(family, 1, 3), 8080)
}

/// A client in the world, and its port.
pub fn client(family: Family) -> (IpAddr, u16) {
    (world(family), 40_000)
}
