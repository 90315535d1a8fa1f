//! Routed networks beside the cluster's own: each has tables of its own, as the cluster's network has them.
//!
//! What goes from one network into another travels between nodes in the tunnels of one of the two, always the same, whoever
//! began: so both directions of a connection cross on one node, that of the other network's end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Endpoint, EndpointKind, Epoch, Local, Lpm, NeighbourTable, NetworkId, NodeTables, Peer, PeerId,
    PeerTable, PortFacts, PortTable, Prefix, Role, RouteTable, RoutedNetworks, SegmentTunnel, Senders,
    SourceAddresses, Target, Tunnel, TunnelEnds, Underlay,
};
use millrace_dataplane::wire::MacAddr;

use super::ends::OwnEnds;
use super::networks::{NamedRemote, ServedNetwork, WayTo, tunnel_of};
use super::policies::NetworkPolicies;
use super::{Inputs, PortInput, as_v4, as_v6, prefix};
use crate::objects::{NetworkKey, NetworkRecord, NodeRecord, RouteTo};

/// What a router's MAC address begins with: locally administered (IEEE 802, section 8.4.4), and an M.
const ROUTER_MAC: [u8; 2] = [0x02, 0x4d];

/// The MAC address of a node's router in the tunnels of routed networks: the last four bytes of it are those of the address at
/// which the node's tunnels end, so that whoever knows the one knows the other. No two nodes have the same, since Linux drops
/// what comes from its own, and tells other ends of a network's tunnels by theirs.
#[must_use]
pub fn router_mac(end: IpAddr) -> MacAddr {
    let last = match end {
        IpAddr::V4(v4) => v4.to_bits(),
        // The rest is cut off.
        #[allow(clippy::cast_possible_truncation)]
        IpAddr::V6(v6) => v6.to_bits() as u32,
    };
    let ([x, y], [a, b, c, d]) = (ROUTER_MAC, last.to_be_bytes());
    MacAddr([x, y, a, b, c, d])
}

/// What there is of routed networks.
#[derive(Debug, Default)]
pub(super) struct Routed {
    networks: Vec<OneNetwork>,
    pub(super) ports: BTreeMap<PortId, NetworkId>,
    /// Where the cluster's own network leads to others.
    pub(super) cluster_routes: Vec<(Prefix, Target)>,
}

/// What goes into one network's tables.
#[derive(Debug)]
struct OneNetwork {
    id: NetworkId,
    key: NetworkKey,
    routes: Vec<(Prefix, Target)>,
    peers: Vec<(PeerId, Peer)>,
    senders: Vec<(Prefix, Senders)>,
    local: Local,
}

/// What all tables of a snapshot share.
pub(super) struct Shared<'a> {
    pub(super) ports: &'a Arc<PortTable>,
    pub(super) neighbours: &'a Arc<NeighbourTable>,
    pub(super) policies: &'a NetworkPolicies,
    pub(super) epoch: Epoch,
}

impl Routed {
    /// What there is of those networks that are served; notes down which they are routed to.
    pub(super) fn collect(
        inputs: &Inputs<'_>,
        (uplink, ends): (Option<&PortInput>, OwnEnds),
        networks: &mut [ServedNetwork],
        ways: &BTreeMap<NetworkId, Vec<WayTo>>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let is_routed =
            |served: &&mut ServedNetwork| served.record.routing().is_some() && served.id.is_some();
        let served: Vec<&mut ServedNetwork> = networks.iter_mut().filter(is_routed).collect();
        let ids: BTreeMap<NetworkKey, NetworkId> = served
            .iter()
            .filter_map(|served| Some((served.record.key.clone(), served.id?)))
            .collect();
        let mut made = Self {
            ports: ports(inputs, &ids).collect(),
            ..Self::default()
        };
        for served in served {
            let Some(id) = served.id else { continue };
            served.routes_to = routes_to(inputs, &served.record, &ids, warnings);
            let maker = Maker {
                inputs,
                served,
                ids: &ids,
                ways: ways.get(&id).map_or(&[], Vec::as_slice),
            };
            let network = maker.network(id, (uplink, ends), &made.ports);
            made.networks.push(network);
            if served.routes_to.contains(&RouteTo::Cluster) {
                let subnets = served.record.subnets.iter().filter_map(|subnet| prefix(*subnet));
                made.cluster_routes
                    .extend(subnets.map(|subnet| (subnet, Target::Network(id))));
            }
        }
        made
    }

    /// What the tables say of the ports.
    pub(super) fn port_table(&self, ports: &[PortInput]) -> PortTable {
        PortTable::build(ports.iter().map(|port| (port.id, self.facts(port))))
    }

    /// As of a pod's where it is in a routed network, else what was said of it.
    fn facts(&self, port: &PortInput) -> PortFacts {
        let mut facts = port.facts.clone();
        if self.ports.contains_key(&port.id) {
            facts.role = Role::Pod;
        }
        facts
    }

    /// The tables.
    pub(super) fn tables(self, shared: &Shared<'_>) -> RoutedNetworks {
        let tables = self.networks.into_iter().map(|network| NodeTables {
            network: network.id,
            ports: Arc::clone(shared.ports),
            neighbours: Arc::clone(shared.neighbours),
            routes: Arc::new(RouteTable::build(network.routes)),
            peers: Arc::new(PeerTable::with_senders(network.peers, network.senders)),
            local: Arc::new(network.local),
            policies: shared.policies.table(&network.key),
            epoch: shared.epoch,
            ..NodeTables::default()
        });
        RoutedNetworks::build(tables, self.ports)
    }
}

/// The networks that one is routed to here.
fn routes_to(
    inputs: &Inputs<'_>,
    record: &NetworkRecord,
    ids: &BTreeMap<NetworkKey, NetworkId>,
    warnings: &mut Vec<String>,
) -> Vec<RouteTo> {
    let mut all = inputs.store.routes_of(&record.key).to_vec();
    all.retain(|to| match to {
        RouteTo::Network(key) => ids.contains_key(key),
        RouteTo::Cluster => {
            let pairs = record.subnets.iter().flat_map(|subnet| {
                let services = inputs.config.services.cidrs.iter();
                services.map(move |cidr| (subnet, cidr))
            });
            let overlap = pairs.into_iter().find(|(subnet, cidr)| subnet.contains(*cidr) || cidr.contains(*subnet));
            if let Some((subnet, cidr)) = overlap {
                warnings.push(format!(
                    "network {}: nothing is routed between it and the cluster's own: {subnet} overlaps the Services' {cidr}",
                    record.key
                ));
            }
            overlap.is_none()
        }
    });
    all
}

/// The ports in routed networks. One whose station could say anything of itself is in none.
fn ports<'a>(
    inputs: &'a Inputs<'_>,
    ids: &'a BTreeMap<NetworkKey, NetworkId>,
) -> impl Iterator<Item = (PortId, NetworkId)> + 'a {
    inputs.members.iter().filter_map(|(port, row)| {
        let key: NetworkKey = row.network.as_ref()?.parse().ok()?;
        let is_known = row.trunk.is_empty() && row.mac.is_some() && !row.addresses.is_empty();
        Some((*port, *ids.get(&key).filter(|_| is_known)?))
    })
}

/// Whether what goes between two networks leaves the first one's tables on the node of its own pod, whatever the way of the
/// packet; it travels in the tunnels of the other.
fn crosses(own: &NetworkKey, other: &RouteTo) -> bool {
    match other {
        // Its nodes know nothing of other networks' addresses, and need not be ours.
        RouteTo::Cluster => false,
        RouteTo::Network(other) => own < other,
    }
}

/// One network in the making.
struct Maker<'a> {
    inputs: &'a Inputs<'a>,
    served: &'a ServedNetwork,
    ids: &'a BTreeMap<NetworkKey, NetworkId>,
    ways: &'a [WayTo],
}

impl Maker<'_> {
    fn network(
        &self,
        id: NetworkId,
        (uplink, ends): (Option<&PortInput>, OwnEnds),
        ports: &BTreeMap<PortId, NetworkId>,
    ) -> OneNetwork {
        let record = &self.served.record;
        let mut routes: Vec<_> = unreachable(&record.subnets).collect();
        let mut senders = Vec::new();
        for to in &self.served.routes_to {
            self.add_other(to, &mut routes, &mut senders);
        }
        for way in self.ways {
            let blocks = way.remote.node.iter().flat_map(|node| record.blocks_of(node));
            add_tunnelled(way, blocks.copied(), &mut routes, &mut senders);
        }
        senders.extend(self.everybodys(&record.gateways));
        let tunnel = tunnel_of(record);
        let local = self.local(uplink, ends, tunnel, &routes);
        let own = self
            .inputs
            .ports
            .iter()
            .filter(|port| ports.get(&port.id) == Some(&id));
        routes.extend(own.flat_map(|port| {
            let addresses = port.facts.sources.iter();
            addresses.map(|address| (Prefix::host(*address), Target::Port(port.id)))
        }));
        // The switch's own are nobody's, whoever was given one before it was the switch's.
        let hosts = record.gateways.iter().copied().map(Prefix::host);
        routes.extend(hosts.map(|gateway| (gateway, Target::Switch)));
        OneNetwork {
            id,
            key: record.key.clone(),
            routes,
            peers: self
                .ways
                .iter()
                .filter_map(|way| Some((peer_id(&way.remote), self.peer(way, tunnel?))))
                .collect(),
            senders,
            local,
        }
    }

    /// The way to the addresses of another network, and who may send from them.
    fn add_other(
        &self,
        to: &RouteTo,
        routes: &mut Vec<(Prefix, Target)>,
        senders: &mut Vec<(Prefix, Senders)>,
    ) {
        let own = &self.inputs.own.name;
        let (id, others) = match to {
            RouteTo::Cluster => (NetworkId::CLUSTER, None),
            RouteTo::Network(key) => match (self.ids.get(key), self.inputs.store.second_network(key)) {
                (Some(id), Some(other)) => (*id, Some(other)),
                _ => return,
            },
        };
        let across = |net: &IpNet| Some((prefix(*net)?, Target::Network(id)));
        if crosses(&self.served.record.key, to) {
            return routes.extend(others.iter().flat_map(|other| &other.subnets).filter_map(across));
        }
        let here: Vec<IpNet> = match others {
            // The switch's own addresses there are on every node.
            Some(other) => {
                routes.extend(unreachable(&other.subnets));
                let gateways = other.gateways.iter().copied().map(IpNet::from);
                other.blocks_of(own).iter().copied().chain(gateways).collect()
            }
            None => self.inputs.own.pod_prefixes().collect(),
        };
        routes.extend(here.iter().filter_map(across));
        for way in self.ways {
            let Some(node) = &way.remote.node else { continue };
            let blocks: Vec<IpNet> = match others {
                Some(other) => other.blocks_of(node).to_vec(),
                None => {
                    let there = self.inputs.store.node(node);
                    there.into_iter().flat_map(NodeRecord::pod_prefixes).collect()
                }
            };
            add_tunnelled(way, blocks.into_iter(), routes, senders);
        }
        if let Some(other) = others {
            senders.extend(self.everybodys(&other.gateways));
        }
    }

    /// The switch's own addresses: each node has them, and each may say that something cannot be reached.
    fn everybodys(&self, gateways: &[IpAddr]) -> impl Iterator<Item = (Prefix, Senders)> {
        let nodes: Vec<PeerId> = self.ways.iter().map(|way| peer_id(&way.remote)).collect();
        gateways
            .iter()
            .map(move |gateway| (Prefix::host(*gateway), Senders::Any(nodes.clone())))
    }

    fn peer(&self, way: &WayTo, tunnel: SegmentTunnel) -> Peer {
        let tunnel = Tunnel::Vxlan {
            vni: tunnel.vni,
            port: tunnel.port,
            local_mac: router_mac(match way.ends {
                TunnelEnds::V4 { local, .. } => local.into(),
                TunnelEnds::V6 { local, .. } => local.into(),
            }),
            remote_mac: router_mac(way.remote.address),
        };
        let underlay = Underlay {
            port: way.uplink,
            next_hop: way.remote.next_hop,
        };
        Peer::new(
            way.ends,
            tunnel,
            underlay,
            self.served.mtu.unwrap_or_default(),
            way.link,
        )
    }

    /// This node, as the network knows it: it has no address of the node's own there but the gateways'.
    fn local(
        &self,
        uplink: Option<&PortInput>,
        ends: OwnEnds,
        tunnel: Option<SegmentTunnel>,
        routes: &[(Prefix, Target)],
    ) -> Local {
        let record = &self.served.record;
        let ends = [ends.v4.map(IpAddr::V4), ends.v6.map(IpAddr::V6)]
            .into_iter()
            .flatten();
        let endpoint = |local: IpAddr| {
            let kind = EndpointKind::Vxlan {
                vni: tunnel?.vni,
                port: tunnel?.port,
                mac: router_mac(local),
            };
            Some(Endpoint { local, kind })
        };
        let blocks = record.blocks_of(&self.inputs.own.name).iter();
        let gateways = || record.gateways.iter().copied();
        Local {
            endpoints: ends.filter_map(endpoint).collect(),
            gateways: record.gateways.clone(),
            pod_prefixes: blocks.filter_map(|block| prefix(*block)).collect(),
            pod_networks: Lpm::build(routes.iter().map(|(prefix, _)| (*prefix, ()))),
            sources_v4: SourceAddresses {
                gateway: gateways().find_map(as_v4),
                ..SourceAddresses::default()
            },
            sources_v6: SourceAddresses {
                gateway: gateways().find_map(as_v6),
                ..SourceAddresses::default()
            },
            clamps_mss: self.inputs.config.overlay.clamp_mss,
            uplink: uplink.map(|port| port.id),
            ..Local::default()
        }
    }
}

/// What a longer prefix has to say something else of.
fn unreachable(subnets: &[IpNet]) -> impl Iterator<Item = (Prefix, Target)> {
    subnets
        .iter()
        .filter_map(|subnet| Some((prefix(*subnet)?, Target::Unreachable)))
}

/// What is behind another node: the way there, and that it may send from there.
fn add_tunnelled(
    way: &WayTo,
    prefixes: impl Iterator<Item = IpNet>,
    routes: &mut Vec<(Prefix, Target)>,
    senders: &mut Vec<(Prefix, Senders)>,
) {
    let id = peer_id(&way.remote);
    for prefix in prefixes.filter_map(prefix) {
        routes.push((prefix, Target::Tunnel(id)));
        senders.push((prefix, Senders::One(id)));
    }
}

/// One number for an underlay address, whichever networks are behind it.
#[must_use]
pub fn peer_id(remote: &NamedRemote) -> PeerId {
    // INVARIANT: a remote's number is below RemoteId::LIMIT, which fits.
    PeerId::new(u16::try_from(remote.id.index()).unwrap_or(u16::MAX))
}
