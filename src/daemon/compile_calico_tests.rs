//! A Calico cluster, and nodes on one subnet without a tunnel.

use super::*;

/// This node, one on its subnet, and one behind a router. Node b has borrowed an address of this node's block.
const CLUSTER: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: node-a
  annotations:
    projectcalico.org/IPv4Address: 192.0.2.1/24
    projectcalico.org/IPv4IPIPTunnelAddr: 10.1.0.1
    projectcalico.org/IPv4VXLANTunnelAddr: 10.2.0.1
---
apiVersion: v1
kind: Node
metadata:
  name: node-b
  annotations:
    projectcalico.org/IPv4Address: 192.0.2.2/24
    projectcalico.org/IPv4IPIPTunnelAddr: 10.1.0.65
---
apiVersion: v1
kind: Node
metadata: {name: node-far}
status: {addresses: [{type: InternalIP, address: 198.51.100.3}]}
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: one}
spec: {cidr: 10.1.0.0/16, ipipMode: IPIP-MODE}
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: two}
spec: {cidr: 10.2.0.0/16, vxlanMode: VXLAN-MODE, natOutgoing: true}
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: a}
spec: {cidr: 10.1.0.0/26, affinity: "host:node-a", allocations: [null, null, null, 0], attributes: [{secondary: {node: node-b}}]}
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: b}
spec: {cidr: 10.1.0.64/26, affinity: "host:node-b", allocations: [null, null, 0], attributes: [{secondary: {node: node-a}}]}
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: far}
spec: {cidr: 10.1.0.128/26, affinity: "host:node-far"}
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: b-two}
spec: {cidr: 10.2.0.64/26, affinity: "host:node-b"}
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: far-two}
spec: {cidr: 10.2.0.128/26, affinity: "host:node-far"}
"#;

/// The tables of node a with these lines in `[overlay]`.
fn tables_of(manifests: &str, overlay: &str) -> Compiled {
    let config = format!("{CONFIG}[overlay]\n{overlay}");
    let neighbours = ["192.0.2.2", "192.0.2.254"].map(|address| neighbour(address, 2));
    let kernel = kernel(Vec::from(neighbours));
    compiled_for(&config, (manifests, "10.1.0.5"), &kernel, &mut Numbers::default())
}

fn calico(ipip: &str, vxlan: &str) -> Compiled {
    let text = CLUSTER.replace("IPIP-MODE", ipip).replace("VXLAN-MODE", vxlan);
    tables_of(&text, "")
}

/// Where a destination leads, in words.
fn way_to(compiled: &Compiled, destination: &str) -> String {
    match compiled.tables.routes.lookup(ip(destination)) {
        Some(Target::Tunnel(id)) => {
            let peer = compiled.tables.peers.get(id).unwrap();
            format!("{:?} to {} mtu {}", peer.tunnel.kind(), peer.remote, peer.mtu)
        }
        Some(Target::Via { next_hop, .. }) => format!("via {next_hop}"),
        Some(other) => format!("{other:?}"),
        None => "nowhere".to_owned(),
    }
}

#[test]
fn a_pools_mode_says_how_its_blocks_are_reached() {
    let rows = [
        // IPIP, VXLAN; node b's block in each, the far node's in each.
        (
            "Always",
            "Always",
            ["Ipip to 192.0.2.2 mtu 1480", "Vxlan to 192.0.2.2 mtu 1450"],
            ["Ipip to 198.51.100.3 mtu 1480", "Vxlan to 198.51.100.3 mtu 1450"],
        ),
        (
            "CrossSubnet",
            "CrossSubnet",
            ["via 192.0.2.2", "via 192.0.2.2"],
            ["Ipip to 198.51.100.3 mtu 1480", "Vxlan to 198.51.100.3 mtu 1450"],
        ),
        // Where nothing is wrapped, what is behind a router is the kernel's to know: here, its default route.
        (
            "Never",
            "CrossSubnet",
            ["via 192.0.2.2", "via 192.0.2.2"],
            ["via 192.0.2.254", "Vxlan to 198.51.100.3 mtu 1450"],
        ),
        (
            "Never",
            "Never",
            ["via 192.0.2.2", "via 192.0.2.2"],
            ["via 192.0.2.254", "via 192.0.2.254"],
        ),
    ];
    for (ipip, vxlan, near, far) in rows {
        let compiled = calico(ipip, vxlan);
        assert_eq!(compiled.warnings, Vec::<String>::new(), "{ipip} {vxlan}");
        assert_eq!(
            ["10.1.0.70", "10.2.0.70"].map(|to| way_to(&compiled, to)),
            near,
            "{ipip} {vxlan}"
        );
        assert_eq!(
            ["10.1.0.130", "10.2.0.130"].map(|to| way_to(&compiled, to)),
            far,
            "{ipip} {vxlan}"
        );
        // Whatever the mode: its own blocks' addresses that nobody has, a pod's, and borrowed ones, both ways.
        assert_eq!(way_to(&compiled, "10.1.0.9"), "Blackhole");
        assert_eq!(
            way_to(&compiled, "10.1.0.5"),
            format!("{:?}", Target::Port(PortId::new(2).unwrap()))
        );
        assert_eq!(way_to(&compiled, "10.1.0.3"), near[0], "its own, lent to node b");
        assert_eq!(
            way_to(&compiled, "10.1.0.66"),
            "Blackhole",
            "node b's, borrowed, and nobody has it yet"
        );
    }
}

#[test]
fn who_may_send_what_in_which_tunnel_and_in_none() {
    let compiled = calico("CrossSubnet", "Always");
    let peers = &compiled.tables.peers;
    let b = ip("192.0.2.2");
    let (ipip, _) = peers.by_outer_source(b, TunnelKind::Ipip).unwrap();
    let (vxlan, _) = peers.by_outer_source(b, TunnelKind::Vxlan).unwrap();
    let (far, _) = peers
        .by_outer_source(ip("198.51.100.3"), TunnelKind::Ipip)
        .unwrap();
    assert_ne!(ipip, vxlan, "a number for each kind");
    let senders = |source: &str| [ipip, vxlan, far].map(|id| peers.may_send(id, ip(source)));
    for (source, what) in [
        ("10.1.0.70", "its block"),
        ("10.2.0.70", "its block in the other pool"),
        ("10.1.0.3", "an address it has borrowed"),
        ("10.1.0.65", "its tunnel address"),
        ("192.0.2.2", "its own address"),
    ] {
        assert_eq!(senders(source), [true, true, false], "{what}");
    }
    assert_eq!(senders("10.1.0.130"), [false, false, true]);
    assert_eq!(senders("10.1.0.9"), [false; 3], "this node's");
    assert_eq!(senders("10.1.0.66"), [false; 3], "lent to this node");
    let plain = [
        "10.1.0.70",
        "10.1.0.3",
        "10.2.0.70",
        "10.1.0.130",
        "10.1.0.66",
        "10.1.0.9",
        "10.1.0.5",
    ];
    let comes = plain.map(|source| peers.comes_plain(ip(source)));
    assert_eq!(comes, [true, true, false, false, false, false, false]);
}

#[test]
fn a_calico_node_is_steered_named_and_reached_by_its_blocks() {
    let compiled = calico("Always", "CrossSubnet");
    let steering = &compiled.steering;
    assert!(steering.ipip);
    assert_eq!(steering.tunnel_ports, [4789]);
    assert_eq!(
        steering.pod_prefixes,
        [(ip("10.1.0.0"), 26), (ip("10.1.0.66"), 32)]
    );
    let ends = &compiled.tables.local.endpoints;
    let vni = Vni::try_from(4096).unwrap();
    let is_ours =
        |end: &Endpoint| matches!(end.kind, EndpointKind::Vxlan { vni: of, port: 4789, .. } if of == vni);
    assert!(ends.iter().any(is_ours), "{ends:?}");
    let named: Vec<String> = compiled
        .peers
        .iter()
        .map(|peer| {
            let way = match peer.way {
                PeerWay::Tunnel(_) => "tunnel",
                PeerWay::Plain(_) => "plain",
            };
            let cidrs: Vec<String> = peer.pod_cidrs.iter().map(ToString::to_string).collect();
            format!("{} {way} {}", peer.node, cidrs.join(" "))
        })
        .collect();
    let expected = [
        "node-b tunnel 10.1.0.64/26 10.1.0.3/32",
        "node-b plain 10.2.0.64/26",
        "node-far tunnel 10.1.0.128/26",
        "node-far tunnel 10.2.0.128/26",
    ];
    assert_eq!(named, expected);
    let kernel: Vec<String> = compiled
        .kernel_routes
        .iter()
        .filter(|route| {
            route.prefix.to_string().starts_with("10.1.") || route.prefix.to_string().starts_with("10.2.")
        })
        .map(|route| format!("{} from {}", route.prefix, route.source.unwrap()))
        .collect();
    let expected = [
        "10.1.0.0/26 from 10.1.0.1",
        "10.1.0.3/32 from 10.1.0.1",
        "10.1.0.64/26 from 10.1.0.1",
        "10.1.0.66/32 from 10.1.0.1",
        "10.1.0.128/26 from 10.1.0.1",
        "10.2.0.64/26 from 10.2.0.1",
        "10.2.0.128/26 from 10.2.0.1",
    ];
    assert_eq!(kernel, expected);
    let local = &compiled.tables.local;
    assert!(local.is_pod(ip("10.2.77.7")), "in a pool, whoever has it");
    let world = ip("203.0.113.9");
    assert!(
        !local.masquerades(ip("10.1.0.2"), world),
        "a pool without natOutgoing"
    );
    assert!(local.masquerades(ip("10.2.0.2"), world));
    assert!(
        !local.masquerades(ip("10.2.0.2"), ip("10.1.0.2")),
        "from pool to pool"
    );
    assert_eq!(local.gateways, [ip("169.254.1.1")]);
    assert_eq!(local.sources_v4.overlay.map(IpAddr::V4), Some(ip("10.1.0.1")));
}

#[test]
fn direct_routing_is_flannels_and_by_configuration() {
    let by_tunnel = tables_of(MANIFESTS, "");
    assert_eq!(way_to(&by_tunnel, "10.244.2.9"), "Vxlan to 192.0.2.2 mtu 1450");
    assert!(!by_tunnel.tables.peers.comes_plain(ip("10.244.2.9")));
    let direct = tables_of(MANIFESTS, "direct-routing = true\n");
    assert_eq!(way_to(&direct, "10.244.2.9"), "via 192.0.2.2");
    assert!(direct.tables.peers.comes_plain(ip("10.244.2.9")));
    // Behind a router it is a tunnel still.
    assert_eq!(way_to(&direct, "10.244.3.9"), "Ipip to 198.51.100.3 mtu 1480");
    assert!(!direct.tables.peers.comes_plain(ip("10.244.3.9")));
    assert_eq!(way_to(&direct, "10.244.1.9"), "Unreachable");
    // In a tunnel it may come as well: the other node may see the subnet otherwise.
    let (id, _) = direct
        .tables
        .peers
        .by_outer_source(ip("192.0.2.2"), TunnelKind::Vxlan)
        .unwrap();
    assert!(direct.tables.peers.may_send(id, ip("10.244.2.9")));
    let windows = tables_of(MANIFESTS, "vni = 4096\nport = 4789\n");
    assert_eq!(way_to(&windows, "10.244.4.9"), "Vxlan to 192.0.2.4 mtu 1450");
    assert_eq!(windows.steering.tunnel_ports, [4789]);
}
