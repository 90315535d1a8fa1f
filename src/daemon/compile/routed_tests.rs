//! Routed networks: whose tables say what.

use std::collections::BTreeMap;

use millrace_dataplane::table::policy::{Query, Ruling};
use millrace_dataplane::table::{EndpointKind, NetworkId, NodeTables, PeerId, SegmentTunnel, TunnelKind};
use millrace_dataplane::wire::IpProtocol;

use super::networks::member;
use super::*;
use crate::admin::protocol::{MemberEnd, PodInterface};
use crate::daemon::compile::routed::router_mac;
use crate::objects::RouteTo;

/// amber and blue are routed to each other, and blue to the cluster; cyan has amber's addresses, and names who does not name it.
const NETWORKS: &str = r#"
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: amber, namespace: shop}
spec:
  config: |
    {"type": "millrace-cni", "network": {"kind": "routed", "vni": 101, "subnets": ["10.8.0.0/16", "fd08::/64"],
     "nodeBlocks": {"node-a": ["10.8.1.0/24", "fd08::1:0/112"], "node-b": ["10.8.2.0/24"], "node-gone": ["10.8.9.0/24"]},
     "routesTo": ["shop/blue"]}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: blue, namespace: shop}
spec:
  config: |
    {"type": "millrace-cni", "network": {"kind": "routed", "vni": 102, "port": 4789, "subnets": ["10.9.0.0/16"],
     "gateways": ["10.9.0.254"], "nodeBlocks": {"node-a": ["10.9.1.0/24"], "node-b": ["10.9.2.0/24"]},
     "mtu": 1400, "routesTo": ["shop/amber", "cluster"]}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: cyan, namespace: shop}
spec:
  config: |
    {"type": "millrace-cni", "network": {"kind": "routed", "vni": 103, "subnets": ["10.8.0.0/16"],
     "nodeBlocks": {"node-a": ["10.8.1.0/24"], "node-b": ["10.8.2.0/24"]}, "peers": {"nodes": false},
     "routesTo": ["shop/blue"]}}
"#;

fn pod_port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

fn segment(number: u16, addresses: &[&str]) -> PortInput {
    let mut input = port(number, 20 + u32::from(number), Role::Segment, addresses);
    input.pod = None;
    input
}

/// A port in a network, whose addresses and MAC address are known.
fn row(interface: &str, network: &str, addresses: &[&str]) -> MemberRow {
    MemberRow {
        mac: Some("02:00:00:00:00:02".parse().unwrap()),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ..member(interface, Some(network), &[])
    }
}

/// The same of a pod in `shop`.
fn pod_row(pod: &str, network: &str, addresses: &[&str]) -> MemberRow {
    let end = PodInterface {
        pod: format!("shop/{pod}"),
        netns: "/run/netns/x".into(),
        interface: "net1".to_owned(),
    };
    MemberRow {
        end: MemberEnd::Pod(end),
        ..row(pod, network, addresses)
    }
}

fn made(networks: &str) -> Compiled {
    let ports = [
        segment(5, &["10.8.1.5", "fd08::1:5"]),
        segment(6, &["10.9.1.6"]),
        segment(7, &["10.8.1.5"]),
        segment(8, &[]),
        segment(9, &["10.7.1.9"]),
    ];
    let members = [
        (
            pod_port(5),
            pod_row("a", "shop/amber", &["10.8.1.5/16", "fd08::1:5/64"]),
        ),
        (pod_port(6), row("b", "shop/blue", &["10.9.1.6/16"])),
        (pod_port(7), row("c", "shop/cyan", &["10.8.1.5/16"])),
        (pod_port(8), member("unknown", Some("shop/blue"), &[])),
        (pod_port(9), row("gone", "shop/gone", &["10.7.1.9/16"])),
    ];
    let kernel = kernel(vec![neighbour("192.0.2.2", 22)]);
    let objects = format!("{MANIFESTS}{networks}");
    let mut numbers = Numbers::default();
    compiled_with_members(
        CONFIG,
        (&objects, "10.244.1.2"),
        &kernel,
        &mut numbers,
        (&members, &ports),
    )
}

struct Seen {
    compiled: Compiled,
    ids: BTreeMap<String, NetworkId>,
}

impl Seen {
    fn of(networks: &str) -> Self {
        let compiled = made(networks);
        let served = compiled.second.networks.iter();
        let ids = served
            .filter_map(|served| Some((served.record.key.name().to_owned(), served.id?)))
            .collect();
        Self { compiled, ids }
    }

    fn tables(&self, name: &str) -> &NodeTables {
        match name {
            "cluster" => &self.compiled.tables,
            name => self.compiled.tables.routed.get(self.ids[name]).unwrap(),
        }
    }

    /// Where an address leads in a network, in words.
    fn way(&self, name: &str, address: &str) -> String {
        match self.tables(name).routes.lookup(ip(address)) {
            Some(Target::Port(port)) => format!("port {}", port.index()),
            Some(Target::Tunnel(peer)) => {
                let (_, found) = self
                    .tables(name)
                    .peers
                    .iter()
                    .find(|(id, _)| *id == peer)
                    .unwrap();
                format!("tunnel {}", found.remote)
            }
            Some(Target::Network(NetworkId::CLUSTER)) => "cluster".to_owned(),
            Some(Target::Network(id)) => self
                .ids
                .iter()
                .find(|(_, known)| **known == id)
                .unwrap()
                .0
                .clone(),
            Some(Target::Switch) => "switch".to_owned(),
            Some(Target::Unreachable) | None => "nowhere".to_owned(),
            Some(Target::Via { .. } | Target::OnLink { .. } | Target::Spread(_) | Target::Blackhole) => {
                "elsewhere".to_owned()
            }
        }
    }

    fn may_send(&self, name: &str, node: &str, source: &str) -> bool {
        let peers = &self.tables(name).peers;
        let (id, _) = peers.by_outer_source(ip(node), TunnelKind::Vxlan).unwrap();
        peers.may_send(id, ip(source))
    }
}

#[test]
fn each_network_leads_to_its_own_and_to_those_it_is_routed_to() {
    let seen = Seen::of(NETWORKS);
    for (network, address, way) in [
        ("amber", "10.8.1.5", "port 5"),
        ("amber", "fd08::1:5", "port 5"),
        ("amber", "10.8.1.6", "nowhere"),
        ("amber", "10.8.2.5", "tunnel 192.0.2.2"),
        ("amber", "10.8.9.5", "nowhere"),
        ("amber", "10.8.0.1", "switch"),
        ("amber", "fd08::1", "switch"),
        // What goes between the two crosses where amber's end is, and travels in blue's tunnels.
        ("amber", "10.9.1.6", "blue"),
        ("amber", "10.9.2.6", "blue"),
        ("amber", "10.9.0.254", "blue"),
        ("blue", "10.8.1.5", "amber"),
        ("blue", "10.8.2.5", "tunnel 192.0.2.2"),
        ("blue", "10.8.9.5", "nowhere"),
        ("blue", "10.8.0.1", "amber"),
        ("blue", "10.9.1.6", "port 6"),
        ("blue", "10.9.2.6", "tunnel 192.0.2.2"),
        ("blue", "10.9.0.254", "switch"),
        ("blue", "10.9.0.1", "nowhere"),
        // The same between blue and the cluster, where the cluster's end is.
        ("cluster", "10.9.1.6", "blue"),
        ("cluster", "10.9.2.6", "blue"),
        ("blue", "10.244.1.2", "cluster"),
        ("blue", "10.244.2.2", "tunnel 192.0.2.2"),
        ("blue", "10.244.1.1", "cluster"),
        ("amber", "10.244.1.2", "nowhere"),
        // cyan names blue, which does not name it.
        ("cyan", "10.9.1.6", "nowhere"),
        ("cyan", "10.8.1.5", "port 7"),
        ("cyan", "10.8.2.5", "nowhere"),
        ("cyan", "192.0.2.2", "nowhere"),
        // The cluster's own is as it was.
        ("cluster", "10.244.1.2", "port 2"),
        ("cluster", "10.244.2.2", "tunnel 192.0.2.2"),
        ("cluster", "10.8.1.5", "elsewhere"),
    ] {
        assert_eq!(seen.way(network, address), way, "{address} in {network}");
    }
}

#[test]
fn tunnels_are_by_node_and_who_may_send_what_follows_from_the_blocks() {
    let seen = Seen::of(NETWORKS);
    let amber = seen.tables("amber");
    let networks = &seen.compiled.tables.networks;
    let tunnel = |vni: u32, port| SegmentTunnel {
        vni: Vni::try_from(vni).unwrap(),
        port,
    };
    assert_eq!(networks.by_tunnel(tunnel(101, 8472)), Some(seen.ids["amber"]));
    assert_eq!(networks.by_tunnel(tunnel(102, 4789)), Some(seen.ids["blue"]));
    assert_eq!(seen.compiled.steering.tunnel_ports, [8472, 4789]);
    let (id, peer) = amber
        .peers
        .by_outer_source(ip("192.0.2.2"), TunnelKind::Vxlan)
        .unwrap();
    let expected = Tunnel::Vxlan {
        vni: Vni::try_from(101).unwrap(),
        port: 8472,
        local_mac: MacAddr([2, 0x4d, 192, 0, 2, 1]),
        remote_mac: MacAddr([2, 0x4d, 192, 0, 2, 2]),
    };
    assert_eq!(
        (peer.tunnel, peer.mtu, peer.outer.is_some()),
        (expected, 1450, true)
    );
    let in_blue = seen
        .tables("blue")
        .peers
        .by_outer_source(ip("192.0.2.2"), TunnelKind::Vxlan)
        .unwrap();
    assert_eq!(
        (in_blue.0, in_blue.1.mtu),
        (id, 1400),
        "one number for a node, whichever networks are behind it"
    );
    assert!(id != PeerId::new(u16::MAX));
    let ends: Vec<_> = amber
        .local
        .endpoints
        .iter()
        .map(|end| (end.local, end.kind))
        .collect();
    let kind = EndpointKind::Vxlan {
        vni: Vni::try_from(101).unwrap(),
        port: 8472,
        mac: MacAddr([2, 0x4d, 192, 0, 2, 1]),
    };
    assert_eq!(ends, [(ip("192.0.2.1"), kind)]);
    assert!(
        seen.tables("cyan")
            .peers
            .by_outer_source(ip("192.0.2.2"), TunnelKind::Vxlan)
            .is_none()
    );
    for (network, source, may) in [
        ("amber", "10.8.2.7", true),
        ("amber", "10.8.1.7", false),
        ("amber", "10.8.0.1", true),
        ("amber", "10.9.2.7", false),
        ("amber", "10.244.2.7", false),
        ("blue", "10.9.2.7", true),
        ("blue", "10.9.0.254", true),
        ("blue", "10.8.2.7", true),
        ("blue", "10.8.0.1", true),
        ("blue", "10.8.1.7", false),
        ("blue", "10.244.2.7", true),
        ("blue", "10.244.3.7", false),
        ("blue", "192.0.2.2", false),
    ] {
        assert_eq!(
            seen.may_send(network, "192.0.2.2", source),
            may,
            "{source} in {network}"
        );
    }
    assert_eq!(
        router_mac(ip("2001:db8::c000:203")),
        MacAddr([2, 0x4d, 192, 0, 2, 3])
    );
}

#[test]
fn a_port_is_a_pods_in_its_network_and_nowhere_without_it() {
    let seen = Seen::of(NETWORKS);
    let tables = &seen.compiled.tables;
    let role = |number| tables.ports.get(pod_port(number)).unwrap().role;
    for (number, network, expected) in [
        (5, Some("amber"), Role::Pod),
        (6, Some("blue"), Role::Pod),
        (7, Some("cyan"), Role::Pod),
        // Nobody knows what is behind the one, and the other's network is gone.
        (8, None, Role::Segment),
        (9, None, Role::Segment),
        (2, None, Role::Pod),
    ] {
        let of_port = tables.routed.of_port(pod_port(number));
        assert_eq!(
            (of_port, role(number)),
            (network.map(|name| seen.ids[name]), expected),
            "{number}"
        );
        assert!(tables.networks.member(pod_port(number)).is_none(), "{number}");
    }
    let blue = seen.tables("blue");
    assert!(Arc::ptr_eq(&blue.ports, &tables.ports) && Arc::ptr_eq(&blue.neighbours, &tables.neighbours));
    assert_eq!((blue.network, blue.epoch), (seen.ids["blue"], tables.epoch));
    assert!(blue.local.host.is_none() && !blue.local.masquerade && blue.routed.is_empty());
    assert!(blue.local.is_local_pod(ip("10.9.1.7")) && !blue.local.is_local_pod(ip("10.244.1.7")));
    // What pods of the cluster's own network reach in blue they reach as themselves.
    assert!(tables.local.is_pod(ip("10.9.2.7")) && !tables.local.is_pod(ip("10.8.2.7")));
}

#[test]
fn what_is_not_routed_is_told_and_a_network_goes_as_it_came() {
    let seen = Seen::of(NETWORKS);
    let to = |name: &str| {
        let mut all = seen.compiled.second.networks.iter();
        let served = all.find(|served| served.record.key.name() == name).unwrap();
        served
            .routes_to
            .iter()
            .map(RouteTo::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(to("amber"), ["shop/blue"]);
    assert_eq!(to("blue"), ["shop/amber", "cluster"]);
    assert_eq!(to("cyan"), [""; 0]);
    // A network that cannot be served here takes the way to it along.
    let taken = NETWORKS.replace(r#""vni": 101"#, r#""vni": 1"#);
    let seen = Seen::of(&taken);
    assert!(!seen.ids.contains_key("amber"));
    assert_eq!(seen.way("blue", "10.8.1.5"), "nowhere");
    assert_eq!(
        seen.compiled.tables.ports.get(pod_port(5)).unwrap().role,
        Role::Segment
    );
    let none = made("");
    assert!(none.tables.routed.is_empty());
    // Services' addresses could not be told from a network's.
    let services = NETWORKS.replace("10.9.", "10.96.");
    let seen = Seen::of(&services);
    assert_eq!(seen.way("blue", "10.244.1.2"), "nowhere");
    let told = seen
        .compiled
        .warnings
        .iter()
        .find(|warning| warning.starts_with("network shop/blue"));
    assert!(
        told.is_some_and(|told| told.contains("overlaps the Services' 10.96.0.0/12")),
        "{told:?}"
    );
}

const POLICIES: &str = r#"
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}, spec: {nodeName: node-a}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: shop, labels: {app: far}, annotations: {k8s.v1.cni.cncf.io/network-status: '[{"name": "shop/amber", "ips": ["10.8.2.9"]}]'}}, spec: {nodeName: node-b}}
---
{apiVersion: k8s.cni.cncf.io/v1beta1, kind: MultiNetworkPolicy, metadata: {name: far, namespace: shop, annotations: {k8s.v1.cni.cncf.io/policy-for: amber}}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]}}
"#;

#[test]
fn policies_of_a_network_are_in_its_tables_alone() {
    let seen = Seen::of(&format!("{NETWORKS}{POLICIES}"));
    let ingress = |network: &str, from: &str| {
        let judgement = seen.tables(network).policies.judge(&Query {
            source: ip(from),
            destination: ip("10.8.1.5"),
            protocol: IpProtocol::TCP,
            port: 80,
        });
        judgement.ingress
    };
    assert!(matches!(ingress("amber", "10.8.2.9"), Ruling::Accept(_)));
    assert!(matches!(ingress("amber", "10.8.2.8"), Ruling::Deny(_)));
    assert!(matches!(ingress("amber", "10.9.1.6"), Ruling::Deny(_)));
    // The gateway of a network is its first address.
    assert_eq!(ingress("amber", "10.8.0.1"), Ruling::Node);
    for network in ["blue", "cyan", "cluster"] {
        assert!(seen.tables(network).policies.is_open(), "{network}");
        assert_eq!(ingress(network, "10.8.2.8"), Ruling::Elsewhere, "{network}");
    }
}
