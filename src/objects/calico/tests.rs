//! Calico's objects in, nodes with their addresses out.

use std::path::Path;

use crate::objects::manifests::{self, Syntax};
use crate::objects::{
    Entry, Family, Network, NetworkChoice, NodeRecord, Notice, Peer, PeerTunnel, Severity, Store,
};

/// Two nodes of a Calico cluster, as its own controllers and nodes leave them.
const NODES: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: node-a
  annotations:
    projectcalico.org/IPv4Address: 192.0.2.1/24
    projectcalico.org/IPv6Address: 2001:db8::1/64
    projectcalico.org/IPv4IPIPTunnelAddr: 10.1.0.1
    projectcalico.org/IPv6VXLANTunnelAddr: fd00:a::1
spec: {podCIDRs: [10.244.1.0/24]}
---
apiVersion: v1
kind: Node
metadata:
  name: node-b
  annotations:
    projectcalico.org/IPv4Address: 192.0.2.2/24
    projectcalico.org/IPv6Address: 2001:db8::2
    projectcalico.org/VXLANTunnelMACAddrV6: 66:00:00:00:00:0b
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
"#;

const POOLS: &str = r#"
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: pool-v4}
spec: {cidr: 10.1.0.0/16, ipipMode: Always, vxlanMode: Never, blockSize: 26, natOutgoing: true, nodeSelector: all()}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool-v6}
spec: {cidr: "fd00:a::/64", vxlanMode: CrossSubnet, blockSize: 122}
"#;

/// Node a has a block and gave one address of it to node b, which has a block of IPv6.
const BLOCKS: &str = r#"
---
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: 10-1-0-0-26}
spec:
  cidr: 10.1.0.0/26
  affinity: host:node-a
  allocations: [null, 0, 1, 2, null]
  attributes:
  - {handle_id: ipip-tunnel-addr-node-a, secondary: {node: node-a, type: ipipTunnelAddress}}
  - {handle_id: k8s-pod-network.1, secondary: {namespace: default, node: node-b, pod: web-0}}
  - {handle_id: k8s-pod-network.2, secondary: null}
  unallocated: [0, 4]
  strictAffinity: false
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: node-b-fd00-a--40-122}
spec: {cidr: "fd00:a::40/122", node: node-b, state: confirmed, deleted: "false"}
"#;

fn read(text: &str, choice: NetworkChoice) -> Store {
    let (mut entries, mut notices) = (Vec::new(), Vec::new());
    for found in manifests::read(Path::new("x.yaml"), Syntax::Yaml, text.as_bytes()) {
        let notice = |id, fault| Notice::new(found.origin.clone(), id, fault);
        match found.object {
            Ok(object) => match Entry::read(found.origin.clone(), &object) {
                Ok((entry, faults)) => {
                    notices.extend(faults.into_iter().map(|fault| notice(object.id(), fault)));
                    entries.push(entry);
                }
                Err(fault) => notices.push(notice(object.id(), fault)),
            },
            Err(fault) => notices.push(notice(fault.object.clone(), fault.reason.clone())),
        }
    }
    // The order in which entries are handed over must not matter.
    entries.reverse();
    Store::build_in(choice, &"node-a".parse().unwrap(), entries, notices)
}

fn store(text: &str) -> Store {
    read(text, NetworkChoice::Auto)
}

fn node<'a>(store: &'a Store, name: &str) -> &'a NodeRecord {
    store.node(&name.parse().unwrap()).unwrap()
}

fn texts<T: ToString>(items: impl Iterator<Item = T>) -> Vec<String> {
    items.map(|item| item.to_string()).collect()
}

/// Peers as `address of pods via tunnel to public address`.
fn peers(store: &Store) -> Vec<String> {
    let row = |peer: Peer<'_>| {
        let tunnel = match peer.tunnel {
            PeerTunnel::Vxlan(lease) => format!("vxlan {}", lease.vtep_mac),
            PeerTunnel::Ipip => "ipip".to_owned(),
            PeerTunnel::None => "none".to_owned(),
        };
        let near = if peer.is_plain_if_near { " if far" } else { "" };
        format!("{} {tunnel}{near} {}", peer.pod_cidr, peer.public_ip)
    };
    let families = [Family::V4, Family::V6].into_iter();
    families
        .flat_map(|family| store.peers(family).map(row).collect::<Vec<_>>())
        .collect()
}

#[test]
fn blocks_pools_and_annotations_say_who_has_what_and_how_it_is_reached() {
    let store = store(&[NODES, POOLS, BLOCKS].concat());
    assert_eq!(texts(store.notices().iter()), Vec::<String>::new());
    assert_eq!(store.network(), Network::Calico);
    assert_eq!(texts(store.pools().iter()), ["10.1.0.0/16", "fd00:a::/64"]);
    let (a, b) = (node(&store, "node-a"), node(&store, "node-b"));
    assert_eq!(
        texts(a.pod_cidrs()),
        ["10.1.0.0/26"],
        "its podCIDRs mean nothing here"
    );
    assert_eq!(texts(a.tunnel_addresses()), ["10.1.0.1", "fd00:a::1"]);
    assert_eq!(texts(a.gateway_addresses()), ["169.254.1.1", "fd6d:696c:6c72::1"]);
    assert_eq!(texts(a.public_ips()), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(a.overlay_source(true), Some("10.1.0.1".parse().unwrap()));
    assert_eq!(texts(b.pod_cidrs()), ["fd00:a::40/122"]);
    assert_eq!(texts(b.pod_prefixes()), ["fd00:a::40/122", "10.1.0.2/32"]);
    assert_eq!(
        b.overlay_source(true),
        Some("192.0.2.2".parse().unwrap()),
        "it has no other"
    );
    // What the annotation says, and what follows from the name as in Calico: `printf node-b | sha1sum`.
    assert_eq!(b.vtep_mac_or_derived(Family::V6).to_string(), "66:00:00:00:00:0b");
    assert_eq!(b.vtep_mac_or_derived(Family::V4).to_string(), sha1_mac("node-b"));
    let expected = [
        "10.1.0.2/32 ipip 192.0.2.2",
        "fd00:a::40/122 vxlan 66:00:00:00:00:0b if far 2001:db8::2",
    ];
    assert_eq!(peers(&store), expected);
}

/// Calico's MAC address by its rule, computed here by itself.
fn sha1_mac(name: &str) -> String {
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(name);
    let octets: Vec<String> = digest
        .iter()
        .take(5)
        .map(|octet| format!("{octet:02x}"))
        .collect();
    format!("66:{}", octets.join(":"))
}

#[test]
fn a_subnet_is_what_the_annotation_says() {
    let store = store(&[NODES, POOLS].concat());
    let (a, b) = (node(&store, "node-a"), node(&store, "node-b"));
    let near = |node: &NodeRecord, address: &str| {
        let calico = node.calico.as_ref().unwrap();
        calico.is_near(address.parse().unwrap())
    };
    assert_eq!(near(a, "192.0.2.200"), Some(true));
    assert_eq!(near(a, "192.0.3.1"), Some(false));
    assert_eq!(near(a, "2001:db8::77"), Some(true));
    assert_eq!(near(b, "2001:db8::77"), None, "no prefix, no subnet");
}

#[test]
fn the_network_is_flannels_where_this_node_takes_part_in_it() {
    let lease = "projectcalico.org/IPv4Address: 192.0.2.1/24";
    let flannel = "flannel.alpha.coreos.com/kube-subnet-manager: \"true\"";
    let canal = NODES.replacen(lease, &format!("{lease}\n    {flannel}"), 1);
    let none = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDRs: [10.244.1.0/24]}\n";
    let rows = [
        (
            "annotations",
            NODES.to_owned(),
            NetworkChoice::Auto,
            Network::Calico,
        ),
        (
            "both",
            [&canal, POOLS].concat(),
            NetworkChoice::Auto,
            Network::Flannel,
        ),
        (
            "both, chosen",
            [&canal, POOLS].concat(),
            NetworkChoice::Calico,
            Network::Calico,
        ),
        (
            "pools alone",
            [none, POOLS].concat(),
            NetworkChoice::Auto,
            Network::Calico,
        ),
        ("nothing", none.to_owned(), NetworkChoice::Auto, Network::Flannel),
        (
            "chosen against it",
            NODES.to_owned(),
            NetworkChoice::Flannel,
            Network::Flannel,
        ),
    ];
    for (what, text, choice, network) in rows {
        let store = read(&text, choice);
        assert_eq!(store.network(), network, "{what}");
        let cidrs = texts(node(&store, "node-a").pod_cidrs());
        let expected: &[&str] = if network == Network::Flannel {
            &["10.244.1.0/24"]
        } else {
            &[]
        };
        assert_eq!(cidrs, expected, "{what}");
    }
}

/// What is refused, by name, while all else works.
#[test]
fn what_is_bad_is_refused_by_name_and_the_rest_works() {
    let object = |kind: &str, name: &str, spec: &str| {
        format!(
            "\n---\napiVersion: crd.projectcalico.org/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let rows = [
        (
            "IPPool",
            "{cidr: 10.9.0.0/16, ipipMode: Sometimes}",
            "spec.ipipMode: `Sometimes` is none of Never",
        ),
        (
            "IPPool",
            "{cidr: 10.9.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet}",
            "spec.ipipMode and spec.vxlanMode are both",
        ),
        (
            "IPPool",
            "{cidr: \"fd00:9::/64\", ipipMode: Always}",
            "spec.ipipMode is not Never for fd00:9::/64",
        ),
        ("IPPool", "{cidr: pods}", "spec.cidr: `pods` is no CIDR"),
        (
            "IPPool",
            "{cidr: 127.0.0.0/8}",
            "spec.cidr: 127.0.0.0/8 reaches into a loopback range",
        ),
        ("IPPool", "{}", "spec: missing field `cidr`"),
        (
            "IPPool",
            "{cidr: 10.1.128.0/17}",
            "10.1.128.0/17 overlaps 10.1.0.0/16 of IPPool pool-v4",
        ),
        (
            "IPAMBlock",
            "{cidr: 10.1.0.0/16}",
            "spec.cidr: 10.1.0.0/16 is no block: its prefix must be within /20..=/32",
        ),
        (
            "IPAMBlock",
            "{cidr: 10.1.1.0/26, allocations: [7]}",
            "spec.allocations[0]: there is no spec.attributes[7]",
        ),
        (
            "IPAMBlock",
            "{cidr: 10.1.1.0/31, allocations: [0, 0, 0], attributes: [{}]}",
            "spec.allocations has 3 entries",
        ),
        (
            "IPAMBlock",
            "{cidr: 10.1.1.0/26, allocations: [-1]}",
            "spec.allocations[0]: invalid value",
        ),
        (
            "IPAMBlock",
            "{cidr: 10.1.1.0/26, affinity: \"host:Node!\"}",
            "spec.affinity: ",
        ),
        (
            "IPAMBlock",
            "{cidr: 10.1.0.32/27, affinity: \"host:node-b\"}",
            "10.1.0.32/27 overlaps 10.1.0.0/26 of IPAMBlock 10-1-0-0-26",
        ),
        (
            "BlockAffinity",
            "{cidr: 10.1.0.0/27, node: node-b, state: confirmed}",
            "10.1.0.0/27 overlaps 10.1.0.0/26",
        ),
    ];
    let whole = peers(&store(&[NODES, POOLS, BLOCKS].concat()));
    for (kind, spec, reason) in rows {
        let bad = object(kind, "zz-bad", spec);
        let store = store(&[NODES, POOLS, BLOCKS, &bad].concat());
        let [refused] = store.notices() else {
            panic!("{spec}: {:?}", texts(store.notices().iter()))
        };
        let text = refused.reason.to_string();
        assert!(text.starts_with(reason), "{spec}: {text}");
        assert_eq!(refused.severity, Severity::Refused, "{spec}");
        let named = refused.object.as_ref().map(ToString::to_string);
        assert_eq!(named, Some(format!("{kind} zz-bad")), "{spec}");
        assert_eq!(peers(&store), whole, "{spec}");
    }
    for (annotation, value, reason) in [
        ("IPv4Address", "192.0.2.9/99", "is no IPv4 address"),
        ("IPv4Address", "2001:db8::9/64", "is no IPv4 address"),
        ("IPv6Address", "192.0.2.9", "is no IPv6 address"),
        ("IPv4IPIPTunnelAddr", "127.0.0.1", "a loopback address"),
        ("VXLANTunnelMACAddr", "66", "is no Ethernet address"),
    ] {
        let bad = format!(
            "\n---\napiVersion: v1\nkind: Node\nmetadata: {{name: node-z, annotations: {{projectcalico.org/{annotation}: \"{value}\"}}}}\n"
        );
        let store = store(&[NODES, POOLS, BLOCKS, &bad].concat());
        let text = store.notices()[0].reason.to_string();
        assert!(text.contains(reason) && text.contains(annotation), "{text}");
        assert_eq!(peers(&store), whole, "{annotation}");
    }
}

#[test]
fn what_does_not_hold_leads_nowhere() {
    let affinity = |node: &str, cidr: &str, state: &str, deleted: &str| {
        format!(
            "\n---\napiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {{name: x}}\nspec: {{cidr: {cidr}, node: {node}, state: {state}, deleted: {deleted}}}\n"
        )
    };
    let rows = [
        (
            "confirmed",
            affinity("node-b", "10.1.1.0/26", "confirmed", "\"false\""),
            Some("10.1.1.0/26 ipip 192.0.2.2"),
            "",
        ),
        (
            "pending",
            affinity("node-b", "10.1.1.0/26", "pending", "\"false\""),
            None,
            "",
        ),
        (
            "deleted",
            affinity("node-b", "10.1.1.0/26", "confirmed", "\"true\""),
            None,
            "",
        ),
        (
            "deleted, as v3 has it",
            affinity("node-b", "10.1.1.0/26", "confirmed", "true"),
            None,
            "",
        ),
        (
            "nobody's node",
            affinity("node-x", "10.1.1.0/26", "confirmed", "\"false\""),
            None,
            "its node node-x is not among",
        ),
        (
            "in no pool",
            affinity("node-b", "10.2.1.0/26", "confirmed", "\"false\""),
            None,
            "10.2.1.0/26 is in no IPPool",
        ),
        (
            "an IPAMBlock's",
            affinity("node-b", "10.1.0.0/26", "confirmed", "\"false\""),
            None,
            "10.1.0.0/26 is node-a's by its IPAMBlock",
        ),
    ];
    for (what, text, peer, said) in rows {
        let store = store(&[NODES, POOLS, BLOCKS, &text].concat());
        let mut found = peers(&store);
        found.retain(|row| !row.starts_with("10.1.0.2/32") && !row.starts_with("fd00"));
        assert_eq!(found, Vec::from_iter(peer), "{what}");
        let notices = texts(store.notices().iter().map(|notice| &notice.reason));
        assert!(
            if said.is_empty() {
                notices.is_empty()
            } else {
                notices[0].starts_with(said)
            },
            "{what}: {notices:?}"
        );
    }
}

#[test]
fn a_block_that_covers_a_node_is_refused() {
    let pool = "\n---\napiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata: {name: wide}\nspec: {cidr: 192.0.0.0/16, vxlanMode: Always}\n";
    let block = "\n---\napiVersion: crd.projectcalico.org/v1\nkind: IPAMBlock\nmetadata: {name: x}\nspec: {cidr: 192.0.2.0/26, affinity: \"host:node-b\"}\n";
    let store = store(&[NODES, POOLS, BLOCKS, pool, block].concat());
    let notices = texts(store.refusals().map(|notice| &notice.reason));
    assert_eq!(
        notices,
        ["192.0.2.0/26 covers 192.0.2.1, the address of Node node-a"]
    );
}
