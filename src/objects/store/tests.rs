mod networks;
mod pods;
mod services;

use std::path::Path;

use super::*;
use crate::objects::manifests::{self, Syntax};

/// A Node in flannel's form.
fn node(name: &str, cidrs: &str, public_ip: &str, mac: &str) -> String {
    annotated_node(
        name,
        cidrs,
        &[
            ("kube-subnet-manager", "true"),
            ("backend-type", "vxlan"),
            ("public-ip", public_ip),
            ("backend-data", &format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)),
        ],
    )
}

fn annotated_node(name: &str, cidrs: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: Vec<String> = annotations
        .iter()
        .map(|(key, value)| format!("flannel.alpha.coreos.com/{key}: '{value}'"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: '{name}', annotations: {{{}}}}}\nspec: {{podCIDRs: [{cidrs}]}}\n",
        annotations.join(", ")
    )
}

fn pod(name: &str, node: &str, ips: &str) -> String {
    let ips: Vec<String> = ips
        .split(',')
        .filter(|ip| !ip.is_empty())
        .map(|ip| format!("{{ip: '{ip}'}}"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: '{node}'}}\nstatus: {{podIPs: [{}]}}\n",
        ips.join(", ")
    )
}

/// The store of a YAML text, on `node-a`.
fn store(text: &str) -> Store {
    let (mut entries, mut notices) = (Vec::new(), Vec::new());
    for found in manifests::read(Path::new("x.yaml"), Syntax::Yaml, text.as_bytes()) {
        let object = found
            .object
            .unwrap_or_else(|fault| panic!("{}\n{text}", fault.reason));
        match Entry::read(found.origin.clone(), &object) {
            Ok((entry, warnings)) => {
                notices.extend(
                    warnings
                        .into_iter()
                        .map(|fault| Notice::new(found.origin.clone(), object.id(), fault)),
                );
                entries.push(entry);
            }
            Err(fault) => notices.push(Notice::new(found.origin, object.id(), fault)),
        }
    }
    // The order in which entries are handed over must not matter.
    entries.reverse();
    Store::build(&"node-a".parse().unwrap(), entries, notices)
}

/// Names of what is in force, and the notices without their place.
fn outcome(store: &Store) -> (String, Vec<String>) {
    let nodes = store.nodes().map(|node| node.name.to_string());
    let pods = store.pods().map(|pod| pod.key.name().to_owned());
    let notices = store.notices().iter().map(|notice| {
        let id = notice
            .object
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("{} {id}: {}", notice.severity, notice.reason)
    });
    (nodes.chain(pods).collect::<Vec<_>>().join(" "), notices.collect())
}

fn check_rows(rows: &[(&str, String, &str, &[&str])]) {
    for (what, text, in_force, notices) in rows {
        let (found, found_notices) = outcome(&store(text));
        assert_eq!(found, *in_force, "{what}: {found_notices:?}");
        assert_eq!(found_notices.len(), notices.len(), "{what}: {found_notices:?}");
        for (found, expected) in found_notices.iter().zip(*notices) {
            assert!(
                found.starts_with(expected),
                "{what}:\n found    {found}\n expected {expected}"
            );
        }
    }
}

const MAC_A: &str = "02:00:00:00:01:01";
const MAC_B: &str = "02:00:00:00:01:02";

fn node_a() -> String {
    node("node-a", "10.244.1.0/24", "192.0.2.1", MAC_A)
}

fn lease_b(key: &str, value: &str) -> String {
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{MAC_B}"}}"#);
    let mut annotations = vec![
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("public-ip", "192.0.2.2"),
        ("backend-data", data.as_str()),
    ];
    annotations.retain(|(name, _)| *name != key);
    if !value.is_empty() {
        annotations.push((key, value));
    }
    annotated_node("node-b", "10.244.2.0/24", &annotations)
}

#[test]
fn nodes_alone() {
    let cidr = |cidrs: &str| node("node-b", cidrs, "192.0.2.2", MAC_B);
    check_rows(&[
        ("good", node_a() + &cidr("10.244.2.0/24"), "node-a node-b", &[]),
        ("dual stack", cidr("10.244.2.0/24, 'fd00:2::/64'"), "node-b", &[]),
        (
            "bad name",
            node("Node_B", "10.244.2.0/24", "192.0.2.2", MAC_B),
            "",
            &["refused Node Node_B: metadata.name: `Node_B` is no DNS-1123"],
        ),
        (
            "no cidr",
            cidr("10.244.2.300/24"),
            "",
            &["refused Node node-b: spec.podCIDRs[0]: `10.244.2.300/24` is no CIDR"],
        ),
        (
            "no prefix",
            cidr("10.244.2.0"),
            "",
            &["refused Node node-b: spec.podCIDRs[0]: `10.244.2.0` is no CIDR"],
        ),
        (
            "host bits",
            cidr("10.244.2.7/24"),
            "node-b",
            &[
                "warning Node node-b: spec.podCIDRs[0]: `10.244.2.7/24` has bits beyond its prefix, read as 10.244.2.0/24",
            ],
        ),
        (
            "too small",
            cidr("10.244.2.0/31"),
            "",
            &[
                "refused Node node-b: spec.podCIDRs[0]: 10.244.2.0/31 has no room for pods, the prefix may be at most /30",
            ],
        ),
        (
            "too small v6",
            cidr("'fd00:2::/127'"),
            "",
            &["refused Node node-b: spec.podCIDRs[0]: fd00:2::/127 has no room"],
        ),
        (
            "everything",
            cidr("0.0.0.0/0"),
            "",
            &["refused Node node-b: spec.podCIDRs[0]: 0.0.0.0/0 reaches into an unspecified range"],
        ),
        (
            "link-local",
            cidr("169.254.2.0/24"),
            "",
            &["refused Node node-b: spec.podCIDRs[0]: 169.254.2.0/24 reaches into a link-local range"],
        ),
        (
            "one family twice",
            cidr("10.244.2.0/24, 10.244.3.0/24"),
            "",
            &["refused Node node-b: spec.podCIDRs: 10.244.2.0/24 and 10.244.3.0/24 are of one family"],
        ),
        (
            "covers itself",
            cidr("192.0.2.0/24"),
            "",
            &[
                "refused Node node-b: pod CIDR 192.0.2.0/24 of Node node-b covers 192.0.2.2, the address of Node node-b",
            ],
        ),
    ]);
}

#[test]
fn leases() {
    let a = "node-a node-b";
    let row = |what, key, value, in_force, notices: &'static [&'static str]| {
        (what, node_a() + &lease_b(key, value), in_force, notices)
    };
    check_rows(&[
        row(
            "not managed",
            "kube-subnet-manager",
            "",
            a,
            &["skipped Node node-b: flannel.alpha.coreos.com/kube-subnet-manager is not \"true\""],
        ),
        row(
            "managed: false",
            "kube-subnet-manager",
            "false",
            a,
            &["skipped Node node-b: flannel.alpha.coreos.com/kube-subnet-manager"],
        ),
        row(
            "unknown backend",
            "backend-type",
            "wireguard",
            a,
            &[
                "skipped Node node-b: flannel.alpha.coreos.com/backend-type `wireguard` is neither vxlan nor ipip",
            ],
        ),
        row(
            "no backend",
            "backend-type",
            "",
            a,
            &["skipped Node node-b: flannel.alpha.coreos.com/backend-type `` is neither"],
        ),
        row("ipip with flannel's null", "backend-type", "ipip", a, &[]),
        row(
            "no public ip",
            "public-ip",
            "",
            a,
            &["skipped Node node-b: it has no flannel.alpha.coreos.com/public-ip"],
        ),
        row(
            "public ip of no form",
            "public-ip",
            "192.0.2",
            "node-a",
            &["refused Node node-b: flannel.alpha.coreos.com/public-ip: `192.0.2` is no IPv4 address"],
        ),
        row(
            "public ip of the other family",
            "public-ip",
            "2001:db8::1",
            "node-a",
            &["refused Node node-b: flannel.alpha.coreos.com/public-ip: `2001:db8::1` is no IPv4 address"],
        ),
        row(
            "public ip refused",
            "public-ip",
            "127.0.0.1",
            "node-a",
            &["refused Node node-b: flannel.alpha.coreos.com/public-ip: 127.0.0.1 is a loopback address"],
        ),
        row(
            "public ip multicast",
            "public-ip",
            "224.0.0.9",
            "node-a",
            &["refused Node node-b: flannel.alpha.coreos.com/public-ip: 224.0.0.9 is a multicast address"],
        ),
        row(
            "public ipv6 refused",
            "public-ipv6",
            "fe80::1",
            "node-a",
            &["refused Node node-b: flannel.alpha.coreos.com/public-ipv6: fe80::1 is a link-local address"],
        ),
        row(
            "no data",
            "backend-data",
            "",
            a,
            &["skipped Node node-b: it has no flannel.alpha.coreos.com/backend-data"],
        ),
        row(
            "null data",
            "backend-data",
            "null",
            a,
            &["skipped Node node-b: it has no flannel.alpha.coreos.com/backend-data"],
        ),
        row(
            "data of no form",
            "backend-data",
            "{VNI:1}",
            "node-a",
            &[
                "refused Node node-b: flannel.alpha.coreos.com/backend-data: it is no JSON of the form {\"VNI\":1,",
            ],
        ),
        row(
            "group MAC",
            "backend-data",
            r#"{"VNI":1,"VtepMAC":"33:33:00:00:00:01"}"#,
            "node-a",
            &[
                "refused Node node-b: flannel.alpha.coreos.com/backend-data: VtepMAC: 33:33:00:00:00:01 is a group address",
            ],
        ),
        row(
            "v6 data of no form",
            "backend-v6-data",
            "x",
            "node-a",
            &["refused Node node-b: flannel.alpha.coreos.com/backend-v6-data: it is no JSON"],
        ),
        row("v6 only, over v4 pods", "public-ipv6", "2001:db8::2", a, &[]),
    ]);
}

#[test]
fn nodes_against_one_another() {
    let row =
        |what, other: String, notice: &'static [&'static str]| (what, node_a() + &other, "node-a", notice);
    check_rows(&[
        row(
            "same cidr",
            node("node-b", "10.244.1.0/24", "192.0.2.2", MAC_B),
            &[
                "refused Node node-b: pod CIDR 10.244.1.0/24 overlaps 10.244.1.0/24 of Node node-a, which came first",
            ],
        ),
        row(
            "within",
            node("node-b", "10.244.1.128/25", "192.0.2.2", MAC_B),
            &["refused Node node-b: pod CIDR 10.244.1.128/25 overlaps 10.244.1.0/24 of Node node-a"],
        ),
        row(
            "around",
            node("node-b", "10.244.0.0/16", "192.0.2.2", MAC_B),
            &["refused Node node-b: pod CIDR 10.244.0.0/16 overlaps 10.244.1.0/24 of Node node-a"],
        ),
        row(
            "same MAC",
            node("node-b", "10.244.2.0/24", "192.0.2.2", MAC_A),
            &["refused Node node-b: VtepMAC 02:00:00:00:01:01 is that of Node node-a"],
        ),
        row(
            "same MAC, v6 data",
            lease_b("backend-v6-data", r#"{"VNI":1,"VtepMAC":"02:00:00:00:01:01"}"#),
            &["refused Node node-b: VtepMAC 02:00:00:00:01:01 is that of Node node-a"],
        ),
        row(
            "same public ip",
            node("node-b", "10.244.2.0/24", "192.0.2.1", MAC_B),
            &["refused Node node-b: address 192.0.2.1 is that of Node node-a"],
        ),
        row(
            "its address in our pods",
            node("node-b", "10.244.2.0/24", "10.244.1.9", MAC_B),
            &[
                "refused Node node-b: pod CIDR 10.244.1.0/24 of Node node-a covers 10.244.1.9, the address of Node node-b",
            ],
        ),
        row(
            "our address in its pods",
            node("node-b", "192.0.2.0/29", "198.51.100.1", MAC_B),
            &[
                "refused Node node-b: pod CIDR 192.0.2.0/29 of Node node-b covers 192.0.2.1, the address of Node node-a",
            ],
        ),
        row(
            "same node twice",
            node("node-a", "10.244.9.0/24", "192.0.2.9", MAC_B),
            &["refused Node node-a: the same object stands at x.yaml:2 (document 1), which counts"],
        ),
    ]);
    // Neighbouring ranges are no overlap, and a refused node claims nothing.
    let text = node_a()
        + &node("node-b", "10.244.0.0/24", "192.0.2.2", MAC_B)
        + &node("node-c", "10.244.0.0/16", "192.0.2.3", "02:00:00:00:01:03")
        + &node("node-d", "10.244.2.0/24", "192.0.2.3", "02:00:00:00:01:03");
    let (in_force, notices) = outcome(&store(&text));
    assert_eq!(in_force, "node-a node-b node-d");
    assert_eq!(notices.len(), 1);
}

#[test]
fn an_internal_address_is_as_good_as_a_public_one() {
    let own = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDR: 10.244.1.0/24}\n\
               status: {addresses: [{type: Hostname, address: node-a}, {type: InternalIP, address: 192.0.2.1}]}\n";
    let peer = node("node-b", "10.244.2.0/24", "192.0.2.1", MAC_B);
    let found = store(&(own.to_owned() + &peer));
    assert_eq!(
        found.own_node().unwrap().internal_ips,
        ["192.0.2.1".parse::<IpAddr>().unwrap()]
    );
    let (in_force, notices) = outcome(&found);
    assert_eq!(in_force, "node-a");
    assert_eq!(
        notices,
        ["refused Node node-b: address 192.0.2.1 is that of Node node-a, which came first and keeps it"]
    );
    let bad = own.replace("192.0.2.1", "169.254.0.1");
    assert!(outcome(&store(&bad)).1[0].contains("status.addresses[1]: 169.254.0.1 is a link-local address"));
}

#[test]
fn the_older_object_comes_first() {
    let with_time = |text: String, time: &str| {
        text.replace("metadata: {", &format!("metadata: {{creationTimestamp: {time}, "))
    };
    let late = node("node-a", "10.244.1.0/24", "192.0.2.1", MAC_A);
    let early = node("node-b", "10.244.1.0/24", "192.0.2.2", MAC_B);
    let rows = [
        (late.clone() + &early, "node-a"),
        (
            late.clone() + &with_time(early.clone(), "2026-01-01T00:00:00Z"),
            "node-b",
        ),
        (
            with_time(late.clone(), "2026-01-02T00:00:00Z")
                + &with_time(early.clone(), "2026-01-01T00:00:00Z"),
            "node-b",
        ),
        (
            with_time(late, "2026-01-01T00:00:00Z") + &with_time(early, "2026-01-02T00:00:00Z"),
            "node-a",
        ),
    ];
    for (text, in_force) in rows {
        assert_eq!(outcome(&store(&text)).0, in_force, "{text}");
    }
}

#[test]
fn pod_cidr_alone_and_against_pod_cidrs() {
    let alone = node_a().replace("podCIDRs: [10.244.1.0/24]", "podCIDR: 10.244.1.0/24");
    let found = store(&alone);
    assert_eq!(
        found.own_node().unwrap().pod_cidr_v4.unwrap().to_string(),
        "10.244.1.0/24"
    );
    let both = node_a().replace("podCIDRs: [", "podCIDR: 10.244.2.0/24, podCIDRs: [");
    assert_eq!(
        outcome(&store(&both)).1,
        [
            "refused Node node-a: spec.podCIDR `10.244.2.0/24` must equal the first of spec.podCIDRs, `10.244.1.0/24`"
        ]
    );
}

#[test]
fn what_the_store_answers() {
    let ipip = lease_b("backend-type", "ipip")
        .replace("node-b", "node-c")
        .replace("10.244.2.", "10.244.3.")
        .replace("192.0.2.2", "192.0.2.3");
    let dual = annotated_node(
        "node-d",
        "10.244.4.0/24, 'fd00:4::/64'",
        &[
            ("kube-subnet-manager", "true"),
            ("backend-type", "vxlan"),
            ("public-ip", "192.0.2.4"),
            ("public-ipv6", "2001:db8::4"),
            ("backend-data", r#"{"VNI":1,"VtepMAC":"02:00:00:00:01:04"}"#),
            ("backend-v6-data", r#"{"VNI":1,"VtepMAC":"02:00:00:00:06:04"}"#),
        ],
    );
    let text = node_a()
        + &lease_b("", "")
        + &ipip
        + &dual
        + &pod("own", "node-a", "10.244.1.5")
        + &pod("host", "node-a", "192.0.2.1").replace("spec: {", "spec: {hostNetwork: true, ")
        + &pod("far", "node-d", "10.244.4.5,fd00:4::5")
        + &pod("done", "node-a", "10.244.1.9").replace("status: {", "status: {phase: Failed, ");
    let store = store(&text);
    assert_eq!(store.notices(), []);
    let names = |family| {
        store
            .peers(family)
            .map(|peer| peer.node.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(Family::V4), ["node-b", "node-c", "node-d"]);
    assert_eq!(names(Family::V6), ["node-d"]);
    let peer = store.peers(Family::V6).next().unwrap();
    assert_eq!(
        (peer.pod_cidr.to_string(), peer.public_ip.to_string()),
        ("fd00:4::/64".to_owned(), "2001:db8::4".to_owned())
    );
    let PeerTunnel::Vxlan(lease) = peer.tunnel else {
        panic!("{peer:?}")
    };
    assert_eq!(lease.vtep_mac.octets(), [2, 0, 0, 0, 6, 4]);
    assert_eq!(store.peers(Family::V4).nth(1).unwrap().tunnel, PeerTunnel::Ipip);
    assert_eq!(
        store
            .own_pods()
            .map(|pod| pod.key.to_string())
            .collect::<Vec<_>>(),
        ["default/own"]
    );
    assert_eq!(store.finished_pods(), 1);
    let by_ip = |ip: &str| store.pod_by_ip(ip.parse().unwrap()).map(|pod| pod.key.name());
    assert_eq!(by_ip("fd00:4::5"), Some("far"));
    assert_eq!(by_ip("192.0.2.1"), None);
    assert_eq!(by_ip("10.244.1.9"), None);
    let own = store.own_node().unwrap();
    assert_eq!(
        own.tunnel_addresses()
            .map(|ip| ip.to_string())
            .collect::<Vec<_>>(),
        ["10.244.1.0"]
    );
    assert_eq!(
        own.gateway_addresses()
            .map(|ip| ip.to_string())
            .collect::<Vec<_>>(),
        ["10.244.1.1"]
    );
    assert_eq!(own.vtep_mac_or_derived(Family::V4).to_string(), MAC_A);
    assert_eq!(
        own.vtep_mac_or_derived(Family::V6),
        crate::objects::flannel::derive_vtep_mac(&own.name, Family::V6)
    );
}

/// Ten thousand pods on a thousand nodes, each checked against all.
#[test]
fn a_large_cluster_is_built_and_its_conflicts_are_found() {
    let mut text = String::new();
    for index in 0..1000 {
        let (high, low) = (index / 256, index % 256);
        text += &node(
            &format!("node-{index}"),
            &format!("10.{high}.{low}.0/24"),
            &format!("192.{high}.{low}.1"),
            &format!("02:00:00:00:{high:02x}:{low:02x}"),
        );
        for pod_index in 2..12 {
            text += &pod(
                &format!("pod-{index}-{pod_index}"),
                &format!("node-{index}"),
                &format!("10.{high}.{low}.{pod_index}"),
            );
        }
    }
    text += &node("thief", "10.2.0.0/16", "192.9.9.9", "02:00:00:00:99:99");
    text += &pod("thief", "node-999", "10.3.231.7");
    let found = store(&text);
    assert_eq!((found.nodes().count(), found.pods().count()), (1000, 10_000));
    let mut refused: Vec<String> = found
        .refusals()
        .map(|notice| notice.object.as_ref().unwrap().to_string())
        .collect();
    refused.sort();
    assert_eq!(refused, ["Node thief", "Pod default/thief"]);
}
