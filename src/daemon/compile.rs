//! From what the objects say and what the kernel knows to the tables that the workers read.
//!
//! A pure function: the same inputs give the same tables. Nothing here talks to anyone.

mod ends;
mod host_path;
mod kernel_routes;
pub mod networks;
mod next_hops;
mod numbers;
mod peers;
pub mod policies;
pub mod routed;
mod routes;
pub mod services;
mod steering;
mod subjects;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Endpoint, Epoch, HashKey, Local, Lpm, NeighbourTable, NetworkId, NodeTables, PeerId, PeerTable,
    PortFacts, Prefix, Role, RouteTable, SourceAddresses, Subjects,
};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::wire::vlan::VlanId;
use millrace_dataplane::xdp::SteeringTables;

use super::members::MemberRow;
use crate::admin::protocol::HostPort;
use crate::config::Config;
use crate::dns::service::ResolverService;
use crate::kernel::{KernelState, OwnServices, RouteSpec};
use crate::objects::{NodeName, NodeRecord, PodKey, Store};
use ends::{OwnEnds, endpoints, is_link_local_v6, own_ends};
use kernel_routes::KernelRoutes;
use networks::{SecondNetworks, second_networks};
pub use numbers::{NetworkNumbers, Numbers};
use peers::Peers;
use policies::{PolicyCompilers, PolicyInputs, addresses_of_node, local_ports};
use routed::{Routed, Shared};
use routes::{inner_sources, routes};
use services::{HostListens, PodHostPorts, ServiceCompiler, ServiceInputs};
use steering::steering;
pub use subjects::changed_subjects;

/// Ports of the node's own services that the switch never takes, whatever else it is told: SSH, the Kubernetes API
/// and kubelet, etcd, BGP.
pub const FAIL_SAFE_PORTS: [u16; 6] = [22, 179, 2379, 2380, 6443, 10250];

/// One of the switch's ports, as far as tables are concerned.
#[derive(Debug, Clone)]
pub struct PortInput {
    /// Its number.
    pub id: PortId,
    /// The number of the interface that bears its addresses.
    pub ifindex: u32,
    /// The VLAN that it is, if it is one.
    pub vlan: Option<VlanId>,
    /// What stands behind it.
    pub facts: PortFacts,
    /// The pod behind it, if it is a pod's.
    pub pod: Option<PodKey>,
    /// Ports of the node that lead to that pod.
    pub host_ports: Vec<HostPort>,
}

/// Everything that tables are made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The node file.
    pub config: &'a Config,
    /// This node's own object.
    pub own: &'a NodeRecord,
    /// All objects.
    pub store: &'a Store,
    /// The kernel's configuration.
    pub kernel: &'a KernelState,
    /// The switch's ports.
    pub ports: &'a [PortInput],
    /// The hash key of tables that are keyed.
    pub key: HashKey,
    /// What the node itself listens on.
    pub listens: HostListens<'a>,
    /// Ports in networks beside the cluster's own.
    pub members: &'a [(PortId, MemberRow)],
}

/// A peer's number and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// How packets go there.
    pub way: PeerWay,
    /// Its node's name.
    pub node: NodeName,
    /// Its pod CIDRs to which they go so.
    pub pod_cidrs: Vec<IpNet>,
}

/// How packets go to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerWay {
    /// In a tunnel with this number in the tables.
    Tunnel(PeerId),
    /// As they are, to this address.
    Plain(IpAddr),
}

/// What comes of it.
#[derive(Debug)]
pub struct Compiled {
    /// For the workers and the slow path.
    pub tables: NodeTables,
    /// For the steering program on the uplink.
    pub steering: SteeringTables,
    /// For the kernel: the way to pods and Services through the host port.
    pub kernel_routes: Vec<RouteSpec>,
    /// For the kernel: Services at this node's own addresses, to which no route leads.
    pub own_services: OwnServices,
    /// Next hops of peers, to be kept resolved: interface number and address.
    pub next_hops: Vec<(u32, IpAddr)>,
    /// The peers' names.
    pub peers: Vec<PeerName>,
    /// Peers that cannot be used, each with the reason, one line.
    pub warnings: Vec<String>,
    /// Where tunnels end at this node, over IPv4 and over IPv6.
    pub own_ends: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// Networks beside the cluster's own; their tables are among the workers'.
    pub second: SecondNetworks,
}

/// Makes the tables. `epoch` is the snapshot's number.
#[must_use]
pub fn compile(
    inputs: &Inputs<'_>,
    numbers: &mut Numbers,
    services: &mut ServiceCompiler,
    policies: &mut PolicyCompilers,
    epoch: Epoch,
) -> Compiled {
    let uplink = inputs.ports.iter().find(|port| port.facts.role == Role::Uplink);
    let host = inputs.ports.iter().find(|port| port.facts.role == Role::Host);
    let ends = own_ends(inputs, uplink);
    let mut warnings = Vec::new();
    let peers = Peers::collect(inputs, numbers, uplink, ends, &mut warnings);
    let from_kernel = KernelRoutes::collect(inputs, uplink, host, &peers, &mut warnings);
    let mut local = local(inputs, (uplink, host), ends, endpoints(inputs, ends, &peers));
    local.node_addresses.extend(peers.remotes());
    update_services(inputs, uplink, &local, services);
    warnings.extend(services.warnings());
    update_policies(inputs, &local, policies);
    warnings.extend(policies.warnings());
    let mut second = second_networks(inputs, numbers, uplink, ends, &mut warnings);
    let routed = std::mem::take(&mut second.routed);
    // No pod may play a tunnel's end to those either.
    local.node_addresses.extend(second.remotes());
    local.second_ports = second.ports.iter().copied().collect();
    // What lies in networks to which the cluster's own leads is met under its own addresses, as pods are.
    local.pod_networks = pod_networks(inputs, &from_kernel, &routed);
    let steering = steering(inputs, &local, services.steering(), &second.ports);
    let kernel_routes = host_path::kernel_routes(inputs, &peers.names, services.steering(), &mut warnings);
    let own_services = host_path::own_services(inputs, host, &local, services.steering());
    let routes = routes(inputs, host, &local, &peers, (&from_kernel, &routed));
    let inner_sources = inner_sources(&local, &peers, &from_kernel);
    let plain_sources = peers.plain_sources(inputs.own);
    let ports = Arc::new(routed.port_table(inputs.ports));
    second.routed_ports.clone_from(&routed.ports);
    let neighbours = Arc::new(neighbours(inputs, numbers, uplink));
    let routed = routed.tables(&Shared {
        ports: &ports,
        neighbours: &neighbours,
        policies: &policies.networks,
        epoch,
    });
    let tables = NodeTables {
        network: NetworkId::CLUSTER,
        routed: Arc::new(routed),
        ports,
        routes: Arc::new(RouteTable::with_spreads(routes, from_kernel.spreads)),
        services: Arc::clone(services.table()),
        policies: Arc::clone(policies.cluster.table()),
        neighbours,
        local: Arc::new(local),
        networks: Arc::new(std::mem::take(&mut second.tables)),
        peers: Arc::new(
            PeerTable::with_senders(peers.table, inner_sources).with_plain_sources(plain_sources),
        ),
        subjects: Subjects::default(),
        epoch,
    };
    Compiled {
        tables,
        steering,
        kernel_routes,
        own_services,
        next_hops: [peers.next_hops, std::mem::take(&mut second.next_hops)].concat(),
        peers: peers.names,
        warnings,
        own_ends: (ends.v4, ends.v6),
        second,
    }
}

/// Has policies looked at as they are now.
fn update_policies(inputs: &Inputs<'_>, local: &Local, policies: &mut PolicyCompilers) {
    policies.cluster.update(&PolicyInputs {
        store: inputs.store,
        ports: &local_ports(inputs.ports),
        node_addresses: &addresses_of_node(inputs, local),
    });
    policies.networks.update(inputs.store, inputs.members);
}

/// Has Services looked at as they are now.
fn update_services(
    inputs: &Inputs<'_>,
    uplink: Option<&PortInput>,
    local: &Local,
    services: &mut ServiceCompiler,
) {
    let uplink_addresses = uplink.map_or_else(Vec::new, |port| addresses_on(inputs.kernel, port.ifindex));
    services.update(&ServiceInputs {
        services: inputs.store.services(),
        node: &inputs.own.name,
        zone: inputs.own.zone.as_deref(),
        own_addresses: &local.addresses,
        uplink_addresses: &uplink_addresses,
        gateways: &local.gateways,
        node_addresses: &local.node_addresses,
        fail_safe_ports: &FAIL_SAFE_PORTS,
        listens: inputs.listens,
        host_ports: &PodHostPorts::of(inputs.ports),
        resolver: ResolverService::of(&inputs.config.dns, inputs.own).as_ref(),
    });
}

/// What this node itself is.
fn local(
    inputs: &Inputs<'_>,
    (uplink, host): (Option<&PortInput>, Option<&PortInput>),
    ends: OwnEnds,
    endpoints: Vec<Endpoint>,
) -> Local {
    let addresses = own_addresses(inputs.kernel);
    Local {
        node_addresses: addresses
            .iter()
            .copied()
            .chain(node_addresses(inputs.store))
            .collect(),
        second_ports: Vec::new(),
        gateways: inputs.own.gateway_addresses().collect(),
        pod_prefixes: inputs.own.pod_prefixes().filter_map(prefix).collect(),
        pod_networks: Lpm::default(),
        sources_v4: sources(inputs, uplink, ends.v4.map(IpAddr::V4), as_v4),
        sources_v6: sources(inputs, uplink, ends.v6.map(IpAddr::V6), as_v6),
        masquerade: inputs.config.overlay.masquerade,
        unmasqueraded: inputs.store.pools_without_nat().filter_map(prefix).collect(),
        masquerade_protocols: inputs.config.overlay.masquerade_protocols.numbers().collect(),
        uplink_ports: (
            inputs.config.services.snat_ports.first(),
            inputs.config.services.snat_ports.last(),
        ),
        resets_removed_endpoints: inputs.config.services.reset_removed_endpoints,
        clamps_mss: inputs.config.overlay.clamp_mss,
        uplink: uplink.map(|port| port.id),
        host: host.map(|port| port.id),
        addresses,
        endpoints,
    }
}

/// What a tunnel takes of the MTU, as the type that MTUs have here.
pub(super) fn overhead(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// The prefixes of every node's pods, also of nodes to which there is no tunnel, and what lies behind tunnels without an
/// object that says so, and networks beside the cluster's own to which it leads. A way to everywhere makes not the whole world pods.
fn pod_networks(inputs: &Inputs<'_>, from_kernel: &KernelRoutes, routed: &Routed) -> Lpm<()> {
    let nodes = inputs.store.nodes().chain([inputs.own]);
    let tunnelled = from_kernel
        .tunnelled
        .iter()
        .copied()
        .filter(|prefix| ![Prefix::ALL_V4, Prefix::ALL_V6].contains(prefix));
    let prefixes = nodes.flat_map(NodeRecord::pod_cidrs);
    // An address of a pool is a pod's, if not now then in a moment.
    let prefixes = prefixes.chain(inputs.store.pools().iter().copied());
    let routed = routed.cluster_routes.iter().map(|(prefix, _)| *prefix);
    let prefixes = prefixes.filter_map(prefix).chain(tunnelled).chain(routed);
    Lpm::build(prefixes.map(|prefix| (prefix, ())))
}

/// What source NAT gives to packets of one family. On the uplink it is the address at which tunnels end, if there is
/// one of that family, else the first that is not link-local.
fn sources<A>(
    inputs: &Inputs<'_>,
    uplink: Option<&PortInput>,
    tunnel_end: Option<IpAddr>,
    of_family: fn(IpAddr) -> Option<A>,
) -> SourceAddresses<A> {
    let on_uplink = uplink
        .into_iter()
        .flat_map(|port| addresses_on(inputs.kernel, port.ifindex))
        .filter(|address| !is_link_local_v6(address));
    SourceAddresses {
        gateway: inputs.own.gateway_addresses().find_map(of_family),
        overlay: [true, false]
            .into_iter()
            .filter_map(|is_ipv4| inputs.own.overlay_source(is_ipv4))
            .find_map(of_family),
        uplink: tunnel_end.into_iter().chain(on_uplink).find_map(of_family),
    }
}

fn as_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn as_v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(v6),
    }
}

/// The addresses of all nodes, also of those to which there is no tunnel: no pod may play a tunnel's end to any.
fn node_addresses(store: &Store) -> impl Iterator<Item = IpAddr> + '_ {
    store
        .nodes()
        .flat_map(|node| node.internal_ips.iter().copied().chain(node.public_ips()))
}

/// All addresses of this node, 127.0.0.0/8 and ::1 left out. Others on the loopback interface count: routers and load
/// balancers are given theirs there.
fn own_addresses(kernel: &KernelState) -> Vec<IpAddr> {
    kernel
        .addresses()
        .map(|entry| entry.address.addr())
        .filter(|address| !address.is_loopback())
        .collect()
}

fn addresses_on(kernel: &KernelState, ifindex: u32) -> Vec<IpAddr> {
    kernel
        .addresses_of(ifindex)
        .map(|entry| entry.address.addr())
        .collect()
}

fn neighbours(inputs: &Inputs<'_>, numbers: &mut Numbers, uplink: Option<&PortInput>) -> NeighbourTable {
    let known = inputs.kernel.neighbours().filter_map(|entry| {
        let uplink = uplink.filter(|port| port.ifindex == entry.ifindex)?;
        let mac = MacAddr(entry.usable_mac()?);
        let id = numbers.of_neighbour(uplink.id, entry.address)?;
        Some((id, uplink.id, entry.address, mac))
    });
    NeighbourTable::build(inputs.key, known)
}

fn prefix(net: IpNet) -> Option<Prefix> {
    Prefix::containing(net.addr(), net.prefix_len()).ok()
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
