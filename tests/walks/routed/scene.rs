//! Node 1 with four routed networks beside the cluster's own.
//!
//! *Red* and *blue* have the addresses of the cluster's own pods, every one of them; blue's tunnels have a UDP port of their
//! own. *Green* and *yellow* have others: the cluster and green may reach each other, and green and yellow. Each network has
//! pods 2 and 3 and the narrow pod 9 on this node, and is on nodes 2, 3 (by VXLAN too), 4 (whose link address nobody knows) and
//! 6 (by IPv6).
//!
//! What goes from one network into another crosses at the node of the first of the two (the cluster, or green before
//! yellow), whichever way it goes: so both directions of a connection come by the same flows.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::{
    Action, AddressRange, DeniedLog, Identity, PodPolicies, PolicyCounts, PolicyTable, RuleId, RuleSet,
    RuleSpec, Side, Station, Stations, Tier,
};
use millrace_dataplane::table::{
    Endpoint, EndpointKind, HashKey, Local, Lpm, NetworkId, Networks, NodeTables, OuterLink, Peer, PeerId,
    PeerTable, PortFacts, PortTable, Prefix, Role, RouteTable, RoutedNetworks, SegmentTunnel, Senders,
    Target, Tunnel, TunnelEnds, Underlay,
};
use millrace_dataplane::wire::{MacAddr, Vni};

use crate::packets::{Family, Ip, Outer};
use crate::world::{
    self, LINK_MTU, NARROW_MTU, Node, node_address, outer, port, station_mac, switch_mac, underlay, uplink,
    vxlan_mtu,
};

/// A routed network of the scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    pub id: NetworkId,
    pub vni: u32,
    pub udp_port: u16,
    /// The second byte of its addresses; the cluster's own are 244.
    pub ten: u8,
    pub first_port: u16,
}

pub const RED: Net = net(1, 300, 8472, 244, 20);
pub const BLUE: Net = net(2, 400, 4790, 244, 30);
pub const GREEN: Net = net(3, 500, 8472, 9, 40);
pub const YELLOW: Net = net(4, 600, 8472, 8, 50);
pub const ALL: [Net; 4] = [RED, BLUE, GREEN, YELLOW];

/// Nodes that a network is on beside node 1.
const OTHERS: [u8; 4] = [2, 3, 4, 6];

const fn net(id: u16, vni: u32, udp_port: u16, ten: u8, first_port: u16) -> Net {
    Net {
        id: NetworkId::new(id),
        vni,
        udp_port,
        ten,
        first_port,
    }
}

impl Net {
    /// A pod's address.
    pub fn pod(self, family: Family, node: u8, pod: u8) -> IpAddr {
        address(self.ten, family, node, pod)
    }

    /// The switch's own address, the same on all nodes.
    pub fn gateway(self, family: Family) -> IpAddr {
        self.pod(family, 0, 1)
    }

    /// The port of pod 2, 3 or 9.
    pub fn port(self, pod: u8) -> PortId {
        let place = [2, 3, 9].iter().position(|known| *known == pod).unwrap();
        port(self.first_port + u16::try_from(place).unwrap())
    }

    /// The MAC address that routers have in its tunnels, all of them.
    pub fn router_mac(self) -> MacAddr {
        let [_, a, b, c] = self.vni.to_be_bytes();
        MacAddr([0x02, 0x4d, 0x52, a, b, c])
    }

    fn tunnel(self) -> Tunnel {
        Tunnel::Vxlan {
            vni: vni(self.vni),
            port: self.udp_port,
            local_mac: self.router_mac(),
            remote_mac: self.router_mac(),
        }
    }

    /// A packet as it is between two pods of it inside of the tunnel.
    pub fn inner(self, ip: &Ip) -> Vec<u8> {
        ip.frame(self.router_mac(), self.router_mac())
    }

    /// A packet as it comes in its tunnel from another node.
    pub fn tunnelled(self, node: u8, ip: &Ip) -> Vec<u8> {
        self.wrap(&outer(node, 1), &self.inner(ip))
    }

    pub fn wrap(self, outer: &Outer, inner: &[u8]) -> Vec<u8> {
        outer.vxlan((40_000, self.udp_port), self.vni, inner)
    }
}

fn address(ten: u8, family: Family, node: u8, pod: u8) -> IpAddr {
    if ten == 244 {
        return world::pod(family, node, pod);
    }
    family.pick(
        &format!("10.{ten}.{node}.{pod}"),
        &format!("fd{ten:02x}:{node}::{pod}"),
    )
}

fn block(ten: u8, family: Family, node: u8) -> Prefix {
    let bits = if family == Family::V4 { 24 } else { 64 };
    Prefix::containing(address(ten, family, node, 0), bits).unwrap()
}

pub fn subnet(ten: u8, family: Family) -> Prefix {
    Prefix::containing(address(ten, family, 0, 0), 16).unwrap()
}

fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

fn peer_id(node: u8) -> PeerId {
    PeerId::new(u16::from(node))
}

/// The networks that may be reached from one, and whether it is the first of the two.
fn links(net: Net) -> Vec<(NetworkId, u8, bool)> {
    match net {
        GREEN => vec![(NetworkId::CLUSTER, 244, false), (YELLOW.id, YELLOW.ten, true)],
        YELLOW => vec![(GREEN.id, GREEN.ten, false)],
        _ => Vec::new(),
    }
}

fn peers(net: Net, node: u8) -> PeerTable {
    let peer = |remote: u8| {
        let family = underlay(node, remote);
        let (local, far) = (node_address(family, node), node_address(family, remote));
        let ends = match (local, far) {
            (IpAddr::V4(local), IpAddr::V4(far)) => TunnelEnds::from((local, far)),
            (IpAddr::V6(local), IpAddr::V6(far)) => TunnelEnds::from((local, far)),
            _ => panic!("ends of two families"),
        };
        let link = OuterLink {
            source: switch_mac(node, uplink()),
            destination: switch_mac(remote, uplink()),
        };
        let way = Underlay {
            port: uplink(),
            next_hop: far,
        };
        let link = (remote != 4).then_some(link);
        Peer::new(ends, net.tunnel(), way, vxlan_mtu(node, remote), link)
    };
    let others: Vec<u8> = OTHERS
        .iter()
        .chain(&[1])
        .copied()
        .filter(|other| *other != node)
        .collect();
    let all: Vec<PeerId> = others.iter().map(|other| peer_id(*other)).collect();
    let reached = links(net).into_iter().map(|(_, ten, _)| ten);
    let mut sources = Vec::new();
    for ten in std::iter::once(net.ten).chain(reached) {
        for family in Family::BOTH {
            for other in &others {
                sources.push((block(ten, family, *other), Senders::One(peer_id(*other))));
            }
            // Errors come from gateways, which all nodes have.
            sources.push((
                Prefix::host(address(ten, family, 0, 1)),
                Senders::Any(all.clone()),
            ));
        }
    }
    PeerTable::with_senders(
        others.iter().map(|other| (peer_id(*other), peer(*other))),
        sources,
    )
}

fn routes(net: Net, node: u8) -> RouteTable {
    let mut routes = Vec::new();
    let others = || {
        OTHERS
            .iter()
            .chain(&[1])
            .copied()
            .filter(move |other| *other != node)
    };
    for family in Family::BOTH {
        routes.push((subnet(net.ten, family), Target::Unreachable));
        for other in others() {
            routes.push((block(net.ten, family, other), Target::Tunnel(peer_id(other))));
        }
        for pod in [2, 3, 9] {
            routes.push((
                Prefix::host(net.pod(family, node, pod)),
                Target::Port(net.port(pod)),
            ));
        }
        routes.push((Prefix::host(net.gateway(family)), Target::Switch));
        for (network, ten, is_first) in links(net) {
            if is_first {
                routes.push((subnet(ten, family), Target::Network(network)));
                continue;
            }
            routes.push((block(ten, family, node), Target::Network(network)));
            for other in others() {
                routes.push((block(ten, family, other), Target::Tunnel(peer_id(other))));
            }
        }
    }
    RouteTable::build(routes)
}

/// The tables of one network on a node whose cluster's own are `top`.
pub fn tables_of(net: Net, node: u8, top: &NodeTables) -> NodeTables {
    let end = |family| Endpoint {
        local: node_address(family, node),
        kind: EndpointKind::Vxlan {
            vni: vni(net.vni),
            port: net.udp_port,
            mac: net.router_mac(),
        },
    };
    let local = Local {
        endpoints: Family::BOTH.map(end).to_vec(),
        gateways: Family::BOTH.map(|family| net.gateway(family)).to_vec(),
        pod_prefixes: Family::BOTH.map(|family| block(net.ten, family, node)).to_vec(),
        uplink: Some(uplink()),
        clamps_mss: true,
        ..Local::default()
    };
    NodeTables {
        network: net.id,
        ports: Arc::clone(&top.ports),
        routes: Arc::new(routes(net, node)),
        neighbours: Arc::clone(&top.neighbours),
        peers: Arc::new(peers(net, node)),
        local: Arc::new(local),
        epoch: top.epoch,
        subjects: top.subjects.clone(),
        ..NodeTables::default()
    }
}

fn pod_facts(net: Net, node: u8, pod: u8) -> (PortId, PortFacts) {
    let port = net.port(pod);
    let facts = PortFacts {
        role: Role::Pod,
        mac: switch_mac(node, port),
        peer_mac: station_mac(node, port),
        sources: Family::BOTH.map(|family| net.pod(family, node, pod)).to_vec(),
        mtu: if pod == 9 { NARROW_MTU } else { LINK_MTU },
        finish_checksums: pod != 3,
    };
    (port, facts)
}

/// The cluster's own tables with the route into green.
pub fn top(node: u8) -> NodeTables {
    let base = world::tables(node);
    let ports = base.ports.iter().map(|(id, facts)| (id, facts.clone()));
    let own = ALL
        .iter()
        .flat_map(|net| [2, 3, 9].map(|pod| pod_facts(*net, node, pod)));
    let green = Family::BOTH.map(|family| (subnet(GREEN.ten, family), Target::Network(GREEN.id)));
    let routes = base.routes.routes().iter().copied().chain(green);
    let pods = Family::BOTH.into_iter().flat_map(|family| {
        let cluster = [1, 2, 3, 4, 5, 6].map(|node| block(244, family, node));
        cluster.into_iter().chain([subnet(GREEN.ten, family)])
    });
    let local = Local {
        pod_networks: Lpm::build(pods.map(|prefix| (prefix, ()))),
        clamps_mss: true,
        second_ports: ALL.map(|net| net.udp_port).to_vec(),
        ..Local::clone(&base.local)
    };
    NodeTables {
        ports: Arc::new(PortTable::build(ports.chain(own))),
        routes: Arc::new(RouteTable::build(routes)),
        networks: Arc::new(Networks::build(
            [],
            [],
            [],
            ALL.map(|net| (net.id, tunnel_of(net))),
        )),
        local: Arc::new(local),
        ..base
    }
}

pub fn tunnel_of(net: Net) -> SegmentTunnel {
    SegmentTunnel {
        vni: vni(net.vni),
        port: net.udp_port,
    }
}

/// The tables with these of other networks.
pub fn with(top: NodeTables, networks: impl IntoIterator<Item = NodeTables>) -> NodeTables {
    let ports = ALL
        .iter()
        .flat_map(|net| [2, 3, 9].map(|pod| (net.port(pod), net.id)));
    NodeTables {
        routed: Arc::new(RoutedNetworks::build(networks, ports)),
        ..top
    }
}

/// What a pod of a network is isolated for, but for one address.
pub type Isolated = (u8, Side, Option<IpAddr>);

/// Pods 2 and 3 of a network on node 1, of which these are isolated. The cluster's own have their usual ports.
pub fn policies(pods: [(PortId, IpAddr); 2], isolated: &[Isolated]) -> PolicyTable {
    let mut stations = Stations::with_hasher(HashKey::random());
    for (port, address) in pods {
        let identity = Some(Identity::new(port.index().try_into().unwrap()));
        let port = Some(port);
        stations.insert(address, Station::Pod { identity, port });
    }
    let rule = |number, action, addresses| RuleSpec {
        id: RuleId::new(number),
        tier: Tier::Middle,
        action,
        addresses,
        ports: None,
    };
    let rules = |but: Option<IpAddr>| {
        let accept = but.map(|but| {
            let range = AddressRange {
                first: but,
                last: but,
            };
            rule(1, Action::Accept, Some(vec![range]))
        });
        let all: Vec<_> = accept.into_iter().chain([rule(2, Action::Deny, None)]).collect();
        Arc::new(RuleSet::build(&all).unwrap())
    };
    let ports = [2, 3].into_iter().zip(pods).map(|(number, (port, _))| {
        let mut policies = PodPolicies::default();
        for (_, side, but) in isolated.iter().filter(|(of, ..)| *of == number) {
            match side {
                Side::Egress => policies.egress = Some(rules(*but)),
                Side::Ingress => policies.ingress = Some(rules(*but)),
            }
        }
        (port, policies)
    });
    let mut counts = PolicyCounts::new(1);
    counts.grow(8);
    PolicyTable::build(
        Arc::new(stations),
        ports,
        Arc::new(counts),
        Arc::new(DeniedLog::new(1)),
    )
}

/// All tables of a node.
pub fn tables(node: u8) -> NodeTables {
    let top = top(node);
    let networks = ALL.map(|net| tables_of(net, node, &top));
    with(top, networks)
}

/// The same, with policies in one network; [`NetworkId::CLUSTER`] has them too.
pub fn with_policies(network: NetworkId, policies: PolicyTable) -> NodeTables {
    let policies = Arc::new(policies);
    let own = |tables: NodeTables| NodeTables {
        policies: if tables.network == network {
            Arc::clone(&policies)
        } else {
            tables.policies
        },
        ..tables
    };
    let top = own(top(1));
    let networks = ALL.map(|net| own(tables_of(net, 1, &top)));
    with(top, networks)
}

/// Node 1 as it is described above.
pub fn node() -> Node {
    Node::with(tables(1))
}
