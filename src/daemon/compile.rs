//! From what the objects say and what the kernel knows to the tables that the workers read.
//!
//! A pure function: the same inputs give the same tables. Nothing here talks to anyone.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Endpoint, EndpointKind, HashKey, Local, NeighbourTable, NodeTables, OuterLink, Peer, PeerId, PeerTable,
    PortFacts, PortTable, Prefix, Role, RouteTable, Target, Tunnel, Underlay,
};
use millrace_dataplane::wire::{MacAddr, Vni, ipip, vxlan};

use crate::config::{Config, OverlayKind};
use crate::kernel::{KernelState, OWN_ROUTE_PROTOCOL, Route, RouteKind, RouteSpec};
use crate::objects::{Family, NodeName, NodeRecord, PeerTunnel, Store};

/// One of the switch's ports, as far as tables are concerned.
#[derive(Debug, Clone)]
pub struct PortInput {
    /// Its number.
    pub id: PortId,
    /// The interface's number in the kernel.
    pub ifindex: u32,
    /// What stands behind it.
    pub facts: PortFacts,
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
}

/// What the steering program on the uplink has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steering {
    /// The node's own addresses on the uplink.
    pub local_addresses: Vec<IpAddr>,
    /// UDP ports on which tunnel packets come.
    pub tunnel_ports: Vec<u16>,
    /// Whether IP-in-IP packets are ours.
    pub ipip: bool,
    /// The prefixes of this node's pods.
    pub pod_prefixes: Vec<(IpAddr, u8)>,
}

/// A peer's number and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// Its number in the tables.
    pub id: PeerId,
    /// Its node's name.
    pub node: NodeName,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
}

/// What comes of it.
#[derive(Debug)]
pub struct Compiled {
    /// For the workers and the slow path.
    pub tables: NodeTables,
    /// For the steering program on the uplink.
    pub steering: Steering,
    /// For the kernel: the way to pods through the host port.
    pub kernel_routes: Vec<RouteSpec>,
    /// Next hops of peers, to be kept resolved: interface number and address.
    pub next_hops: Vec<(u32, IpAddr)>,
    /// The peers' names.
    pub peers: Vec<PeerName>,
    /// Peers that cannot be used, each with the reason, one line.
    pub warnings: Vec<String>,
}

/// Gives each node a number that it keeps as long as the process lives.
#[derive(Debug, Default)]
pub struct PeerNumbers(BTreeMap<NodeName, PeerId>);

impl PeerNumbers {
    fn of(&mut self, node: &NodeName) -> PeerId {
        let next = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        *self.0.entry(node.clone()).or_insert(PeerId::new(next))
    }
}

/// Makes the tables. `generation` tells this snapshot from others.
#[must_use]
pub fn compile(inputs: &Inputs<'_>, numbers: &mut PeerNumbers, generation: u64) -> Compiled {
    let uplink = inputs.ports.iter().find(|port| port.facts.role == Role::Uplink);
    let host = inputs.ports.iter().find(|port| port.facts.role == Role::Host);
    let local_address = tunnel_address(inputs, uplink);
    let mut warnings = Vec::new();
    let peers = Peers::collect(inputs, numbers, uplink, local_address, &mut warnings);
    let endpoints = endpoints(inputs, local_address, &peers);
    let addresses = own_addresses(inputs.kernel);
    let local = Local {
        node_addresses: addresses
            .iter()
            .copied()
            .chain(peers.node_addresses.iter().copied())
            .collect(),
        gateways: inputs.own.gateway_addresses().collect(),
        pod_prefixes: inputs.own.pod_cidrs().filter_map(prefix).collect(),
        uplink: uplink.map(|port| port.id),
        host: host.map(|port| port.id),
        addresses,
        endpoints,
    };
    let steering = Steering {
        local_addresses: uplink
            .map(|port| addresses_on(inputs.kernel, port.ifindex))
            .unwrap_or_default(),
        tunnel_ports: local.endpoints.iter().filter_map(udp_port).collect(),
        ipip: local.endpoints.iter().any(|end| end.kind == EndpointKind::Ipip),
        pod_prefixes: inputs
            .own
            .pod_cidrs()
            .map(|cidr| (cidr.network(), cidr.prefix_len()))
            .collect(),
    };
    let routes = routes(inputs, uplink, host, &local, &peers);
    let tables = NodeTables {
        ports: Arc::new(PortTable::build(
            inputs.ports.iter().map(|port| (port.id, port.facts.clone())),
        )),
        routes: Arc::new(RouteTable::build(routes)),
        neighbours: Arc::new(neighbours(inputs, uplink)),
        local: Arc::new(local),
        peers: Arc::new(PeerTable::build(peers.table, peers.inner_sources)),
        generation,
    };
    Compiled {
        tables,
        steering,
        kernel_routes: kernel_routes(inputs.own, &peers.names),
        next_hops: peers.next_hops,
        peers: peers.names,
        warnings,
    }
}

/// The peers on their way into the tables.
#[derive(Default)]
struct Peers {
    table: Vec<(PeerId, Peer)>,
    names: Vec<PeerName>,
    routes: Vec<(Prefix, Target)>,
    inner_sources: Vec<(Prefix, PeerId)>,
    node_addresses: HashSet<IpAddr>,
    next_hops: Vec<(u32, IpAddr)>,
}

impl Peers {
    fn collect(
        inputs: &Inputs<'_>,
        numbers: &mut PeerNumbers,
        uplink: Option<&PortInput>,
        local: Option<Ipv4Addr>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut peers = Self::default();
        let (Some(uplink), Some(local)) = (uplink, local) else {
            warnings.push(format!(
                "{} has no IPv4 address: no tunnel works until it has one",
                inputs.config.uplink.interface.as_str()
            ));
            return peers;
        };
        for peer in inputs.store.peers(Family::V4) {
            let id = numbers.of(&peer.node.name);
            match peers.add(inputs, uplink, local, id, &peer) {
                Ok(()) => {}
                Err(reason) => warnings.push(format!("node {}: {reason}", peer.node.name)),
            }
        }
        peers
    }

    fn add(
        &mut self,
        inputs: &Inputs<'_>,
        uplink: &PortInput,
        local: Ipv4Addr,
        id: PeerId,
        peer: &crate::objects::Peer<'_>,
    ) -> Result<(), String> {
        let IpAddr::V4(remote) = peer.public_ip else {
            return Err(format!("its public address {} is not IPv4", peer.public_ip));
        };
        if remote == local {
            return Err(format!("its public address {remote} is this node's own"));
        }
        let (tunnel, overhead) = tunnel_to(inputs, peer)?;
        // A peer on the uplink's subnet is its own next hop; without a route it is tried as one all the same.
        let hop = inputs.kernel.resolve_route_on(peer.public_ip, uplink.ifindex);
        let next_hop = hop.and_then(|hop| hop.gateway).unwrap_or(peer.public_ip);
        let mac = inputs
            .kernel
            .neighbour(uplink.ifindex, next_hop)
            .and_then(|entry| entry.usable_mac());
        let link = mac.map(|mac| OuterLink {
            source: uplink.facts.mac,
            destination: MacAddr(mac),
        });
        let underlay = Underlay {
            port: uplink.id,
            next_hop,
        };
        let mtu = uplink.facts.mtu.saturating_sub(overhead);
        self.table
            .push((id, Peer::new((local, remote), tunnel, underlay, mtu, link)));
        self.next_hops.push((uplink.ifindex, next_hop));
        let cidr = prefix(peer.pod_cidr).ok_or("its pod CIDR is no prefix")?;
        self.routes.push((cidr, Target::Tunnel(id)));
        self.inner_sources.push((cidr, id));
        self.node_addresses.insert(peer.public_ip);
        self.node_addresses.extend(&peer.node.internal_ips);
        let addresses = peer.node.internal_ips.iter().copied().chain([peer.public_ip]);
        self.inner_sources
            .extend(addresses.map(|address| (Prefix::host(address), id)));
        self.names.push(PeerName {
            id,
            node: peer.node.name.clone(),
            pod_cidrs: vec![peer.pod_cidr],
        });
        Ok(())
    }
}

/// The tunnel to a peer, and what it adds to a packet.
fn tunnel_to(inputs: &Inputs<'_>, peer: &crate::objects::Peer<'_>) -> Result<(Tunnel, u16), String> {
    match peer.tunnel {
        PeerTunnel::Ipip => Ok((Tunnel::Ipip, overhead(ipip::MTU_OVERHEAD))),
        PeerTunnel::Vxlan(lease) => {
            let own = inputs.config.overlay.vni.get();
            if let Some(other) = lease.vni.map(|vni| vni.get()).filter(|vni| *vni != own) {
                return Err(format!("its VNI is {other}, this node's is {own}"));
            }
            let tunnel = Tunnel::Vxlan {
                vni: Vni::try_from(own).map_err(|_| format!("{own} is no VNI"))?,
                port: inputs.config.overlay.port.get(),
                local_mac: MacAddr(inputs.own.vtep_mac_or_derived(Family::V4).octets()),
                remote_mac: MacAddr(lease.vtep_mac.octets()),
            };
            Ok((tunnel, overhead(vxlan::MTU_OVERHEAD_IPV4)))
        }
    }
}

/// What a tunnel takes of the MTU, as the type that MTUs have here.
pub(super) fn overhead(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// The address at which tunnels end here: the published one if the uplink has it, else the uplink's first.
fn tunnel_address(inputs: &Inputs<'_>, uplink: Option<&PortInput>) -> Option<Ipv4Addr> {
    let on_uplink: Vec<Ipv4Addr> = addresses_on(inputs.kernel, uplink?.ifindex)
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
        .collect();
    let published = inputs.own.lease.as_ref().and_then(|lease| lease.public_ip_v4);
    published
        .filter(|address| on_uplink.contains(address))
        .or_else(|| on_uplink.first().copied())
}

fn endpoints(inputs: &Inputs<'_>, local: Option<Ipv4Addr>, peers: &Peers) -> Vec<Endpoint> {
    let Some(local) = local.map(IpAddr::V4) else {
        return Vec::new();
    };
    let overlay = &inputs.config.overlay;
    let uses = |tunnel: fn(&Tunnel) -> bool| peers.table.iter().any(|(_, peer)| tunnel(&peer.tunnel));
    let mut endpoints = Vec::new();
    if overlay.kind == OverlayKind::Vxlan || uses(|tunnel| matches!(tunnel, Tunnel::Vxlan { .. })) {
        if let Ok(vni) = Vni::try_from(overlay.vni.get()) {
            let mac = MacAddr(inputs.own.vtep_mac_or_derived(Family::V4).octets());
            endpoints.push(Endpoint {
                local,
                kind: EndpointKind::Vxlan {
                    vni,
                    port: overlay.port.get(),
                    mac,
                },
            });
        }
    }
    if overlay.kind == OverlayKind::Ipip || uses(|tunnel| *tunnel == Tunnel::Ipip) {
        endpoints.push(Endpoint {
            local,
            kind: EndpointKind::Ipip,
        });
    }
    endpoints
}

fn udp_port(endpoint: &Endpoint) -> Option<u16> {
    match endpoint.kind {
        EndpointKind::Vxlan { port, .. } => Some(port),
        EndpointKind::Ipip => None,
    }
}

/// All addresses of this node, loopback's left out.
fn own_addresses(kernel: &KernelState) -> Vec<IpAddr> {
    let loopback = |ifindex| kernel.link(ifindex).is_some_and(|link| link.loopback);
    kernel
        .addresses()
        .filter(|entry| !loopback(entry.ifindex))
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

/// The routes, the weaker claims first: of two for one prefix the later one counts.
fn routes(
    inputs: &Inputs<'_>,
    uplink: Option<&PortInput>,
    host: Option<&PortInput>,
    local: &Local,
    peers: &Peers,
) -> Vec<(Prefix, Target)> {
    let mut best: BTreeMap<IpNet, (u32, Target)> = BTreeMap::new();
    for route in inputs.kernel.routes().filter(|route| route.tos == 0) {
        let Some(target) = kernel_target(route, uplink, host) else {
            continue;
        };
        let entry = best
            .entry(route.destination.trunc())
            .or_insert((route.metric, target));
        if route.metric < entry.0 {
            *entry = (route.metric, target);
        }
    }
    let mut routes: Vec<_> = best
        .into_iter()
        .filter_map(|(net, (_, target))| Some((prefix(net)?, target)))
        .collect();
    // Pod addresses that are nobody's: their senders are told, as by a router whose neighbour does not answer.
    routes.extend(
        local
            .pod_prefixes
            .iter()
            .map(|prefix| (*prefix, Target::Unreachable)),
    );
    routes.extend(peers.routes.iter().copied());
    if let Some(host) = host {
        routes.extend(
            local
                .addresses
                .iter()
                .map(|address| (Prefix::host(*address), Target::Port(host.id))),
        );
    }
    routes.extend(
        local
            .gateways
            .iter()
            .map(|address| (Prefix::host(*address), Target::Switch)),
    );
    for port in inputs.ports.iter().filter(|port| port.facts.role == Role::Pod) {
        routes.extend(
            port.facts
                .sources
                .iter()
                .map(|ip| (Prefix::host(*ip), Target::Port(port.id))),
        );
    }
    routes
}

/// Where a route of the kernel's leads; what it sends out by other interfaces is the kernel's to forward.
fn kernel_target(route: &Route, uplink: Option<&PortInput>, host: Option<&PortInput>) -> Option<Target> {
    match route.kind {
        RouteKind::Unicast => {
            let hop = route.hops.iter().find(|hop| !hop.dead)?;
            if let Some(uplink) = uplink.filter(|port| port.ifindex == hop.ifindex) {
                return Some(match hop.gateway {
                    Some(next_hop) => Target::Via {
                        port: uplink.id,
                        next_hop,
                    },
                    None => Target::OnLink { port: uplink.id },
                });
            }
            // The way to pods through the host port is our own doing and leads back here.
            if route.protocol == OWN_ROUTE_PROTOCOL {
                return None;
            }
            host.map(|port| Target::Port(port.id))
        }
        RouteKind::Blackhole => Some(Target::Blackhole),
        RouteKind::Unreachable | RouteKind::Prohibit => Some(Target::Unreachable),
        _ => None,
    }
}

fn neighbours(inputs: &Inputs<'_>, uplink: Option<&PortInput>) -> NeighbourTable {
    let known = inputs.kernel.neighbours().filter_map(|entry| {
        let uplink = uplink.filter(|port| port.ifindex == entry.ifindex)?;
        Some((uplink.id, entry.address, MacAddr(entry.usable_mac()?)))
    });
    NeighbourTable::build(inputs.key, known)
}

/// The kernel's way to every pod: through the host port, from this node's tunnel address.
fn kernel_routes(own: &NodeRecord, peers: &[PeerName]) -> Vec<RouteSpec> {
    let mut routes = Vec::new();
    for (cidr, (source, gateway)) in own
        .pod_cidrs()
        .zip(own.tunnel_addresses().zip(own.gateway_addresses()))
        .collect::<Vec<_>>()
    {
        let same_family = |net: &IpNet| net.addr().is_ipv4() == cidr.addr().is_ipv4();
        let remote = peers
            .iter()
            .flat_map(|peer| peer.pod_cidrs.iter().copied())
            .filter(same_family);
        routes.extend(std::iter::once(cidr).chain(remote).map(|prefix| RouteSpec {
            prefix,
            gateway: Some(gateway),
            onlink: true,
            source: Some(source),
        }));
    }
    routes
}

fn prefix(net: IpNet) -> Option<Prefix> {
    Prefix::containing(net.addr(), net.prefix_len()).ok()
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
