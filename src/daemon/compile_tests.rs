//! Objects and a made-up kernel in, tables out.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "compile_calico_tests.rs"]
mod calico;

use std::path::Path;

use millrace_dataplane::table::{EndpointKind, Target, Tunnel, TunnelKind};
use millrace_dataplane::wire::Vni;

use super::*;
use crate::kernel::{
    InterfaceAddress, Link, Neighbour, NeighbourState, OWN_ROUTE_PROTOCOL, Route, RouteHop, RouteKind, Scope,
};
use crate::objects::{Family, Folder};

#[path = "compile/kernel_routes_tests.rs"]
mod kernel_routes;
#[path = "compile/networks_tests.rs"]
mod networks;
#[path = "compile/routed_tests.rs"]
mod routed;

const UPLINK: u32 = 2;
const HOST: u32 = 3;
const OTHER: u32 = 9;
const LOOPBACK: u32 = 1;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: node-a
  annotations: &lease
    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/public-ip: 192.0.2.1
    flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"02:00:00:00:01:01"}'
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}
---
apiVersion: v1
kind: Node
metadata:
  name: node-b
  annotations:
    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/public-ip: 192.0.2.2
    flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"02:00:00:00:01:02"}'
spec: {podCIDR: 10.244.2.0/24, podCIDRs: [10.244.2.0/24]}
---
apiVersion: v1
kind: Node
metadata:
  name: node-far
  annotations:
    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: ipip
    flannel.alpha.coreos.com/public-ip: 198.51.100.3
    flannel.alpha.coreos.com/backend-data: 'null'
spec: {podCIDR: 10.244.3.0/24, podCIDRs: [10.244.3.0/24]}
---
apiVersion: v1
kind: Node
metadata:
  name: node-windows
  annotations:
    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/public-ip: 192.0.2.4
    flannel.alpha.coreos.com/backend-data: '{"VNI":4096,"VtepMAC":"02:00:00:00:01:04"}'
spec: {podCIDR: 10.244.4.0/24, podCIDRs: [10.244.4.0/24]}
"#;

const CONFIG: &str =
    "[node]\nname = \"node-a\"\nmanifests = \"m\"\n[uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\n";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(number: u16, ifindex: u32, role: Role, sources: &[&str]) -> PortInput {
    let facts = PortFacts {
        role,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        peer_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        sources: sources.iter().map(|text| ip(text)).collect(),
        mtu: 1500,
        finish_checksums: false,
    };
    PortInput {
        id: PortId::new(number).unwrap(),
        ifindex,
        vlan: None,
        facts,
        pod: (role == Role::Pod).then(|| PodKey::new("default", format!("p{number}")).unwrap()),
        host_ports: Vec::new(),
    }
}

fn link(ifindex: u32) -> Link {
    Link {
        ifindex,
        name: format!("if{ifindex}"),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        kind: None,
        rx_queues: 1,
        tx_queues: 1,
        peer_ifindex: None,
        peer_elsewhere: false,
        vlan: None,
        controller: None,
    }
}

fn route(destination: &str, ifindex: u32, gateway: Option<&str>, metric: u32) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        tos: 0,
        metric,
        kind: RouteKind::Unicast,
        scope: Scope::Universe,
        protocol: 3,
        source: None,
        hops: vec![RouteHop {
            ifindex,
            gateway: gateway.map(ip),
            onlink: false,
            weight: 1,
            dead: false,
        }],
    }
}

fn neighbour(address: &str, last: u8) -> Neighbour {
    let mac = Some([2, 0, 0, 0, 2, last]);
    Neighbour {
        ifindex: UPLINK,
        address: ip(address),
        mac,
        state: NeighbourState::Reachable,
    }
}

fn kernel(neighbours: Vec<Neighbour>) -> KernelState {
    let address = |ifindex, text: &str| InterfaceAddress {
        ifindex,
        address: text.parse().unwrap(),
        scope: Scope::Universe,
    };
    let mut own_route = route("10.244.2.0/24", HOST, Some("10.244.1.1"), 0);
    own_route.protocol = OWN_ROUTE_PROTOCOL;
    let mut loopback = link(LOOPBACK);
    loopback.loopback = true;
    KernelState::made_up(
        [loopback, link(UPLINK), link(HOST), link(OTHER)],
        [
            address(LOOPBACK, "127.0.0.1/8"),
            address(LOOPBACK, "::1/128"),
            address(LOOPBACK, "203.0.113.200/32"),
            address(UPLINK, "192.0.2.1/24"),
            address(HOST, "10.244.1.0/32"),
            address(OTHER, "172.16.0.5/16"),
        ],
        [
            route("0.0.0.0/0", UPLINK, Some("192.0.2.254"), 0),
            route("192.0.2.0/24", UPLINK, None, 0),
            route("203.0.113.0/24", UPLINK, Some("192.0.2.9"), 200),
            route("203.0.113.0/24", OTHER, None, 100),
            own_route,
        ],
        neighbours,
    )
}

/// Lays out the objects of `manifests` and compiles them with `kernel`.
fn compiled_from(manifests: &str, kernel: &KernelState) -> Compiled {
    compiled_by(CONFIG, manifests, kernel, &mut Numbers::default())
}

fn compiled_by(config: &str, manifests: &str, kernel: &KernelState, numbers: &mut Numbers) -> Compiled {
    compiled_for(config, (manifests, "10.244.1.2"), kernel, numbers)
}

/// The tables of a node that has a pod of this address.
fn compiled_for(
    config: &str,
    objects: (&str, &str),
    kernel: &KernelState,
    numbers: &mut Numbers,
) -> Compiled {
    compiled_with_members(config, objects, kernel, numbers, (&[], &[]))
}

/// As [`compiled_for`], with ports in networks beside the cluster's own, and what is known of ports beyond the three.
fn compiled_with_members(
    config: &str,
    (manifests, pod): (&str, &str),
    kernel: &KernelState,
    numbers: &mut Numbers,
    (members, more): (&[(PortId, MemberRow)], &[PortInput]),
) -> Compiled {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nodes.yaml"), manifests).unwrap();
    let config = Config::parse(config, Path::new("test.toml")).unwrap();
    let key = HashKey::random();
    let mut manifests = Folder::new(folder.path()).in_network(config.overlay.network);
    manifests.scan();
    let store = manifests.store(&config.node.name, &[]);
    let own = [
        port(0, HOST, Role::Host, &[]),
        port(1, UPLINK, Role::Uplink, &[]),
        port(2, 20, Role::Pod, &[pod]),
    ];
    let inputs = Inputs {
        config: &config,
        own: store.own_node().unwrap(),
        store: &store,
        kernel,
        ports: &[&own[..], more].concat(),
        key,
        listens: HostListens(&|_, _, _| Ok(false)),
        members,
    };
    let mut services = ServiceCompiler::new(&config.services, key, 1);
    let mut policies = PolicyCompilers::new(key, 1);
    compile(&inputs, numbers, &mut services, &mut policies, Epoch(7))
}

fn compiled(neighbours: Vec<Neighbour>) -> Compiled {
    compiled_with("", neighbours)
}

fn compiled_with(objects: &str, neighbours: Vec<Neighbour>) -> Compiled {
    compiled_from(&format!("{MANIFESTS}{objects}"), &kernel(neighbours))
}

#[test]
fn destinations_lead_where_objects_and_kernel_say() {
    let compiled = compiled(vec![neighbour("192.0.2.2", 2), neighbour("192.0.2.254", 254)]);
    let routes = &compiled.tables.routes;
    let (host, uplink, pod) = (
        PortId::new(0).unwrap(),
        PortId::new(1).unwrap(),
        PortId::new(2).unwrap(),
    );
    let via = |next_hop| {
        Some(Target::Via {
            port: uplink,
            next_hop: ip(next_hop),
        })
    };
    let rows = [
        ("10.244.1.2", Some(Target::Port(pod))),
        ("10.244.1.1", Some(Target::Switch)),
        ("10.244.1.0", Some(Target::Port(host))),
        ("10.244.1.77", Some(Target::Unreachable)),
        ("10.244.2.9", Some(Target::Tunnel(PeerId::new(0)))),
        ("10.244.3.9", Some(Target::Tunnel(PeerId::new(1)))),
        ("192.0.2.1", Some(Target::Port(host))),
        ("192.0.2.77", Some(Target::OnLink { port: uplink })),
        ("8.8.8.8", via("192.0.2.254")),
        // Two routes for one prefix: the cheaper one leads out of another interface, so it is the kernel's to forward.
        ("203.0.113.5", Some(Target::Port(host))),
        ("172.16.0.5", Some(Target::Port(host))),
        // A peer of another VNI is no peer: its pods are wherever the default route leads.
        ("10.244.4.9", via("192.0.2.254")),
        ("2001:db8::1", None),
    ];
    for (destination, target) in rows {
        assert_eq!(routes.lookup(ip(destination)), target, "{destination}");
    }
}

#[test]
fn a_peer_is_ready_when_its_next_hop_is_known() {
    let compiled = compiled(vec![neighbour("192.0.2.254", 254)]);
    let peer = |number| compiled.tables.peers.get(PeerId::new(number)).unwrap();
    assert!(peer(0).outer.is_none(), "its neighbour is not resolved");
    assert_eq!(peer(0).mtu, 1450);
    assert!(peer(1).outer.is_some(), "its router is");
    assert_eq!((peer(1).tunnel, peer(1).mtu), (Tunnel::Ipip, 1480));
    assert_eq!(
        compiled.next_hops,
        [(UPLINK, ip("192.0.2.2")), (UPLINK, ip("192.0.2.254"))]
    );
    assert!(
        compiled
            .warnings
            .iter()
            .any(|line| line.contains("node-windows") && line.contains("4096"))
    );
}

#[test]
fn the_steering_program_takes_tunnels_to_this_node_and_its_pods() {
    let steering = compiled(Vec::new()).steering;
    assert_eq!(
        steering.local_addresses,
        [ip("203.0.113.200"), ip("192.0.2.1"), ip("172.16.0.5")],
        "neither 127.0.0.1 nor what is among the pods"
    );
    assert_eq!(steering.tunnel_ports, [8472]);
    assert!(steering.ipip, "a peer uses it");
    assert_eq!(steering.pod_prefixes, [(ip("10.244.1.0"), 24)]);
}

#[test]
fn the_kernel_reaches_every_pod_through_the_host_port() {
    let routes = compiled(Vec::new()).kernel_routes;
    let prefixes: Vec<_> = routes.iter().map(|route| route.prefix.to_string()).collect();
    assert_eq!(
        prefixes,
        ["10.96.0.0/12", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]
    );
    assert!(routes.iter().all(|route| {
        route.gateway == Some(ip("10.244.1.1")) && route.source == Some(ip("10.244.1.0")) && route.onlink
    }));
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  externalIPs: [203.0.113.200, 203.0.113.7, 192.0.2.254, 192.0.2.2]
  ports: [{port: 443, nodePort: 30443}, {port: 53, protocol: UDP, name: dns, nodePort: 30053}]
";

#[test]
fn the_nodes_way_to_services() {
    let compiled = compiled_with(SERVICE, Vec::new());
    let routes: Vec<_> = compiled.kernel_routes.iter().map(|route| route.prefix).collect();
    let leads = |prefix: &str| routes.contains(&prefix.parse().unwrap());
    assert!(leads("10.96.0.0/12") && leads("203.0.113.7/32"), "{routes:?}");
    for (address, why) in [
        ("203.0.113.200/32", "its own: no route is asked"),
        ("192.0.2.254/32", "its router"),
        ("192.0.2.2/32", "another node"),
    ] {
        assert!(!leads(address), "{why}");
    }
    assert!(
        compiled
            .warnings
            .iter()
            .any(|line| line.contains("192.0.2.254") && line.contains("router")),
        "{:?}",
        compiled.warnings
    );
    let own = &compiled.own_services;
    assert_eq!((own.interface.as_str(), own.mtu), ("millrace0", 1500));
    assert_eq!(own.gateways, [ip("10.244.1.1")]);
    assert!(own.addresses.contains(&ip("203.0.113.200")) && own.addresses.contains(&ip("10.244.1.0")));
    assert!(!own.addresses.contains(&ip("127.0.0.1")));
    assert_eq!(own.node_ports, [(6, 30_443), (17, 30_053)]);
    assert_eq!(
        own.ports,
        [(ip("203.0.113.200"), (6, 443)), (ip("203.0.113.200"), (17, 53))]
    );
    let steering = &compiled.steering;
    assert_eq!(steering.service_ports.len(), 2);
    assert_eq!(steering.snat_ports, Some(61_000..=65_535));
    let whole = |address: &str| steering.service_prefixes.contains(&(ip(address), 32));
    assert!(whole("203.0.113.7") && whole("192.0.2.254"));
    assert!(!whole("203.0.113.200") && !whole("192.0.2.2"));
}

#[test]
fn each_peer_may_send_from_its_own_addresses_only() {
    let tables = compiled(Vec::new()).tables;
    let owner = |address| tables.peers.by_inner_source(ip(address)).map(PeerId::index);
    assert_eq!(owner("10.244.2.200"), Some(0));
    assert_eq!(owner("192.0.2.2"), Some(0));
    assert_eq!(owner("10.244.3.1"), Some(1));
    assert_eq!(owner("10.244.1.2"), None, "our own pods are nobody's");
    assert!(tables.local.node_addresses.contains(&ip("192.0.2.2")));
    assert!(tables.local.node_addresses.contains(&ip("192.0.2.1")));
    assert!(
        tables.local.node_addresses.contains(&ip("192.0.2.4")),
        "a node that is no peer is a node all the same"
    );
}

#[test]
fn only_what_changes_a_packets_way_counts_as_a_change() {
    let before = kernel(vec![neighbour("192.0.2.2", 2)]);
    let mut ageing = neighbour("192.0.2.2", 2);
    ageing.state = NeighbourState::Stale;
    assert!(
        !before.differs_for_packets(&kernel(vec![ageing])),
        "a stale neighbour is still used"
    );
    let unanswered = Neighbour {
        mac: None,
        state: NeighbourState::Incomplete,
        ..neighbour("192.0.2.9", 9)
    };
    let asking = kernel(vec![neighbour("192.0.2.2", 2), unanswered]);
    assert!(
        !before.differs_for_packets(&asking),
        "one that does not answer leads nowhere"
    );
    assert!(
        before.differs_for_packets(&kernel(vec![neighbour("192.0.2.2", 3)])),
        "another MAC address"
    );
    assert!(before.differs_for_packets(&kernel(Vec::new())), "gone");
}

#[test]
fn a_peers_number_is_free_again_when_it_is_gone() {
    let name = |text: &str| NodeName::new(text).unwrap();
    let mut numbers = Numbers::default();
    let first = numbers.of_peer(&name("a"), Family::V4, TunnelKind::Vxlan);
    assert_ne!(first, numbers.of_peer(&name("b"), Family::V4, TunnelKind::Vxlan));
    assert_eq!(
        first,
        numbers.of_peer(&name("a"), Family::V4, TunnelKind::Vxlan),
        "kept"
    );
    numbers.keep_peers(|node| node.as_str() != "a", |_| false);
    assert_eq!(
        first,
        numbers.of_peer(&name("c"), Family::V4, TunnelKind::Vxlan),
        "given again"
    );
}

/// A node of both families, with what its lease says beyond IPv4.
fn dual_node(number: u8, beyond: &str) -> String {
    format!(
        r#"---
apiVersion: v1
kind: Node
metadata:
  name: node-{number}
  annotations:
    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/public-ip: 192.0.2.{number}
    flannel.alpha.coreos.com/backend-data: '{{"VNI":1,"VtepMAC":"02:00:00:00:04:0{number}"}}'
{beyond}
spec: {{podCIDRs: [10.244.{number}.0/24, "fd00:{number}::/64"]}}
status: {{addresses: [{{type: InternalIP, address: "192.0.2.{number}"}}, {{type: InternalIP, address: "2001:db8::{number}"}}]}}
"#
    )
}

/// What a node says that takes tunnels over IPv6.
fn over_v6(number: u8) -> String {
    format!(
        r#"    flannel.alpha.coreos.com/public-ipv6: 2001:db8::{number}
    flannel.alpha.coreos.com/backend-v6-data: '{{"VNI":1,"VtepMAC":"02:00:00:00:06:0{number}"}}'"#
    )
}

fn kernel_of_both(v6: Option<&str>) -> KernelState {
    let addresses = ["192.0.2.1/24", "fe80::1/64"].into_iter().chain(v6);
    KernelState::made_up(
        [link(UPLINK), link(HOST)],
        addresses.map(|text| InterfaceAddress {
            ifindex: UPLINK,
            address: text.parse().unwrap(),
            scope: Scope::Universe,
        }),
        [
            route("192.0.2.0/24", UPLINK, None, 0),
            route("2001:db8::/64", UPLINK, None, 0),
        ],
        [
            neighbour("192.0.2.2", 2),
            neighbour("2001:db8::2", 2),
            neighbour("192.0.2.3", 3),
        ],
    )
}

/// Node 2 takes tunnels over IPv6, node 3 does not.
fn of_both(own: &str, v6: Option<&str>) -> Compiled {
    let nodes = [dual_node(1, own), dual_node(2, &over_v6(2)), dual_node(3, "")].concat();
    let manifests = nodes.replace("node-1", "node-a");
    compiled_from(&manifests, &kernel_of_both(v6))
}

#[test]
fn ipv6_pods_go_over_ipv6_where_both_nodes_can() {
    let compiled = of_both(&over_v6(1), Some("2001:db8::1/64"));
    assert_eq!(compiled.warnings, [""; 0]);
    let peer_of = |address| match compiled.tables.routes.lookup(ip(address)) {
        Some(Target::Tunnel(id)) => compiled.tables.peers.get(id).unwrap(),
        other => panic!("{address} leads to {other:?}"),
    };
    for (pod, remote, mtu, macs) in [
        ("10.244.2.9", "192.0.2.2", 1450, Some((4, 1, 4, 2))),
        ("fd00:2::9", "2001:db8::2", 1430, Some((6, 1, 6, 2))),
        ("10.244.3.9", "192.0.2.3", 1450, Some((4, 1, 4, 3))),
        ("fd00:3::9", "192.0.2.3", 1450, Some((4, 1, 4, 3))),
    ] {
        let peer = peer_of(pod);
        assert_eq!((peer.remote, peer.mtu), (ip(remote), mtu), "{pod}");
        assert!(peer.outer.is_some(), "{pod}");
        let seen = match peer.tunnel {
            Tunnel::Vxlan {
                local_mac,
                remote_mac,
                ..
            } => Some((local_mac.0[4], local_mac.0[5], remote_mac.0[4], remote_mac.0[5])),
            Tunnel::Ipip => None,
        };
        assert_eq!(seen, macs, "{pod}");
    }
    let peers = &compiled.tables.peers;
    let sender = |inner| {
        peers
            .get(peers.by_inner_source(ip(inner)).unwrap())
            .unwrap()
            .remote
    };
    for (inner, outer) in [
        ("10.244.2.9", "192.0.2.2"),
        ("192.0.2.2", "192.0.2.2"),
        ("fd00:2::9", "2001:db8::2"),
        ("2001:db8::2", "2001:db8::2"),
        ("fd00:3::9", "192.0.2.3"),
        ("2001:db8::3", "192.0.2.3"),
    ] {
        assert_eq!(sender(inner), ip(outer), "{inner}");
    }
    let ends: Vec<_> = compiled
        .tables
        .local
        .endpoints
        .iter()
        .map(|end| end.local)
        .collect();
    assert_eq!(ends, [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert_eq!(
        compiled.tables.local.sources_v6.uplink,
        Some("2001:db8::1".parse().unwrap())
    );
    let routes: Vec<_> = compiled
        .kernel_routes
        .iter()
        .map(|route| route.prefix.to_string())
        .collect();
    assert!(routes.contains(&"fd00:2::/64".to_owned()) && routes.contains(&"fd00:3::/64".to_owned()));
}

#[test]
fn without_an_end_over_ipv6_ipv6_pods_go_over_ipv4() {
    let compiled = of_both("", Some("2001:db8::1/64"));
    let target = |address| compiled.tables.routes.lookup(ip(address));
    assert_eq!(
        target("fd00:2::9"),
        target("10.244.2.9"),
        "this node takes no such tunnel"
    );
    assert!(
        compiled
            .tables
            .local
            .endpoints
            .iter()
            .all(|end| end.local.is_ipv4())
    );
    // It said that it does, and the address has gone: the other node sends that way.
    let compiled = of_both(&over_v6(1), None);
    let target = |address| compiled.tables.routes.lookup(ip(address));
    assert_eq!(target("fd00:2::9"), None);
    assert!(matches!(target("10.244.2.9"), Some(Target::Tunnel(_))));
    assert!(
        compiled.warnings.iter().any(|line| line.contains("IPv6 address")),
        "{:?}",
        compiled.warnings
    );
}

#[test]
fn a_node_port_of_one_family_is_the_nodes_own_in_the_other() {
    const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}
";
    let own = dual_node(1, &over_v6(1)).replace("node-1", "node-a");
    let of = |v6: Option<&str>| compiled_from(&format!("{own}{SERVICE}"), &kernel_of_both(v6));
    let alone = of(None);
    assert_eq!(alone.steering.node_ports.len(), 1, "there is no other family");
    assert_eq!(alone.own_services.node_ports, [(6, 30_080)]);
    let both = of(Some("2001:db8::1/64"));
    assert_eq!(both.steering.node_ports, []);
    let ports: Vec<_> = both
        .steering
        .service_ports
        .iter()
        .map(|at| (at.address, at.port))
        .collect();
    assert_eq!(ports, [(ip("192.0.2.1"), 30_080)]);
    assert_eq!(both.own_services.node_ports, []);
    assert_eq!(both.own_services.ports, [(ip("192.0.2.1"), (6, 30_080))]);
}
