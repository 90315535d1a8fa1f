//! The cluster of the truth table: three Namespaces with three pods each, on three nodes or on one, and the world.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::oracle::{End, Sent};

pub(crate) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// Their numbers in addresses: the nodes of [`crate::rack`] that VXLAN joins.
pub(crate) const NUMBERS: [u8; 3] = [1, 2, 5];
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
/// What is not in the cluster.
const WORLD: [(&str, &str, &str); 2] = [
    ("world1", "198.51.100.7", "2001:db8:1::7"),
    ("world2", "203.0.113.9", "2001:db8:2::9"),
];

/// Everything that is sent from each end to each other.
pub(crate) const SENT: [Sent<'static>; 8] = [
    sent("TCP", 80),
    sent("TCP", 81),
    sent("UDP", 80),
    sent("UDP", 81),
    sent("SCTP", 80),
    sent("SCTP", 81),
    sent("ICMP", 0),
    sent("TCP", 65_535),
];

const fn sent(protocol: &'static str, port: u16) -> Sent<'static> {
    Sent { protocol, port }
}

/// How the pods are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// A pod of each Namespace on each node.
    Spread,
    /// All pods on the first node.
    Together,
}

/// The objects that every case begins with: nodes, Namespaces, pods.
pub(crate) fn objects(placement: Placement) -> Vec<Value> {
    let nodes = NUMBERS.into_iter().zip(NODES);
    let mut objects: Vec<Value> = nodes.map(|(number, name)| node(number, name)).collect();
    for (name, team) in NAMESPACES.iter().zip(["red", "red", "blue"]) {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"ns": name, "team": team}},
        }));
    }
    for (group, namespace) in (1..).zip(NAMESPACES) {
        for (place, name) in (0..).zip(PODS) {
            objects.push(pod(placement, group, namespace, place, name));
        }
    }
    // A pod in the network of its node is the node, whatever its labels.
    objects.push(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "x", "name": "h", "labels": {"pod": "h", "app": "web"}},
        "spec": {"nodeName": "node-b", "hostNetwork": true, "containers": []},
        "status": {"podIPs": [{"ip": "192.0.2.2"}, {"ip": "2001:db8::2"}]},
    }));
    objects
}

fn node(number: u8, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"node": name, "rack": if number == 1 { "r1" } else { "r2" }}},
        "spec": {"podCIDRs": [format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("192.0.2.{number}")},
            {"type": "InternalIP", "address": format!("2001:db8::{number}")},
        ]},
    })
}

fn pod(placement: Placement, group: usize, namespace: &str, place: usize, name: &str) -> Value {
    let (place, host) = match placement {
        Placement::Spread => (place, group * 10),
        Placement::Together => (0, group * 10 + place),
    };
    let node = NUMBERS[place];
    let mut labels = json!({"pod": name});
    match name {
        "a" => labels["app"] = "web".into(),
        "b" => labels["app"] = "db".into(),
        _ => labels["tier"] = "front".into(),
    }
    if namespace == "y" {
        labels["env"] = "prod".into();
    }
    let port = |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "containerPort": port});
    let ports = if name == "c" {
        json!([port("web", "TCP", 81), port("dns", "UDP", 81)])
    } else {
        // TCP is what a port is without a protocol.
        json!([{"name": "web", "containerPort": 80}, port("alt", "TCP", 81), port("dns", "UDP", 80), port("sig", "SCTP", 81)])
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": NODES[place], "containers": [{"name": "main", "ports": ports}]},
        "status": {"podIPs": [{"ip": format!("10.244.{node}.{host}")}, {"ip": format!("fd00:{node}::{host}")}]},
    })
}

/// The addresses that pods know a node by.
pub(crate) fn node_addresses(name: &str) -> Vec<IpAddr> {
    let number = NUMBERS[NODES.iter().position(|node| *node == name).unwrap()];
    let texts = [
        format!("192.0.2.{number}"),
        format!("2001:db8::{number}"),
        format!("10.244.{number}.0"),
        format!("10.244.{number}.1"),
        format!("fd00:{number}::"),
        format!("fd00:{number}::1"),
    ];
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Everyone, with what a case calls them.
pub(crate) fn ends(objects: &[Value], is_v6: bool) -> Vec<(String, End<'_>)> {
    let mut ends = Vec::new();
    for pod in objects
        .iter()
        .filter(|object| object["kind"] == "Pod" && object["spec"]["hostNetwork"] != true)
    {
        let metadata = &pod["metadata"];
        let name = format!(
            "{}/{}",
            metadata["namespace"].as_str().unwrap(),
            metadata["name"].as_str().unwrap()
        );
        let end = End {
            address: pod["status"]["podIPs"][usize::from(is_v6)]["ip"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
            pod: Some(pod),
            node: pod["spec"]["nodeName"].as_str().unwrap(),
        };
        ends.push((name, end));
    }
    for node in NODES {
        let address = node_addresses(node)[usize::from(is_v6)];
        ends.push((
            node.to_owned(),
            End {
                address,
                pod: None,
                node,
            },
        ));
    }
    for (name, v4, v6) in WORLD {
        let address = if is_v6 { v6 } else { v4 }.parse().unwrap();
        ends.push((
            name.to_owned(),
            End {
                address,
                pod: None,
                node: "",
            },
        ));
    }
    ends
}
