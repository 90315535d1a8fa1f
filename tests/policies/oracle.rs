//! The oracle: whether a packet may pass, read off the objects as plainly as their documentation has it. Slow, and simple
//! enough to be checked by eye.

use std::net::IpAddr;

use serde_json::Value;

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'o> {
    pub(crate) address: IpAddr,
    /// The Pod object, if the address is a pod's own.
    pub(crate) pod: Option<&'o Value>,
    /// The node that has the address, or on which the pod is; empty for the world.
    pub(crate) node: &'o str,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent<'o> {
    /// `TCP`, `UDP`, `SCTP` or `ICMP`.
    pub(crate) protocol: &'o str,
    pub(crate) port: u16,
}

/// Whether a connection may be opened.
pub(crate) fn is_allowed(objects: &[Value], from: End<'_>, to: End<'_>, sent: Sent<'_>) -> bool {
    both_allow(from, to, |direction, pod, peer| {
        decides(objects, direction, pod, peer, to, sent)
    })
}

/// Whether the pods at both ends allow it, each by what `decides` says of the direction, the pod and its peer.
pub(crate) fn both_allow(
    from: End<'_>,
    to: End<'_>,
    decides: impl Fn(&str, &Value, End<'_>) -> bool,
) -> bool {
    // A pod cannot block itself.
    if from.address == to.address {
        return true;
    }
    let allows = |direction: &str, own: End<'_>, peer: End<'_>| match own.pod {
        None => true,
        // Traffic between a pod and its node is always allowed.
        Some(_) if peer.pod.is_none() && peer.node == own.node => true,
        Some(pod) => decides(direction, pod, peer),
    };
    allows("egress", from, to) && allows("ingress", to, from)
}

/// Goes through the tiers for one pod and one direction.
fn decides(
    objects: &[Value],
    direction: &str,
    pod: &Value,
    peer: End<'_>,
    to: End<'_>,
    sent: Sent<'_>,
) -> bool {
    let is_one = |policy: &Value| policy["kind"] == "NetworkPolicy";
    cluster_tier(objects, "Admin", direction, pod, peer, to, sent)
        .or_else(|| isolated(objects, is_one, direction, pod, peer, to, sent))
        .or_else(|| cluster_tier(objects, "Baseline", direction, pod, peer, to, sent))
        .unwrap_or(true)
}

/// What the policies that count say that isolate a pod; `None` if none does.
pub(crate) fn isolated(
    objects: &[Value],
    counts: impl Fn(&Value) -> bool,
    direction: &str,
    pod: &Value,
    peer: End<'_>,
    to: End<'_>,
    sent: Sent<'_>,
) -> Option<bool> {
    let isolating: Vec<&Value> = objects
        .iter()
        .filter(|object| counts(object))
        .filter(|policy| namespace(policy) == namespace(pod))
        .filter(|policy| selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"]))
        .filter(|policy| has_type(policy, direction))
        .collect();
    let allowed = isolating.iter().any(|policy| {
        list(&policy["spec"][direction])
            .iter()
            .any(|rule| network_rule(objects, policy, direction, rule, peer, to, sent))
    });
    (!isolating.is_empty()).then_some(allowed)
}

/// Whether a NetworkPolicy isolates the pods it selects in a direction.
fn has_type(policy: &Value, direction: &str) -> bool {
    let spec = &policy["spec"];
    let types = list(&spec["policyTypes"]);
    if types.is_empty() {
        return direction == "ingress" || !list(&spec["egress"]).is_empty();
    }
    types
        .iter()
        .any(|word| word.as_str().unwrap().to_lowercase() == direction)
}

fn network_rule(
    objects: &[Value],
    policy: &Value,
    direction: &str,
    rule: &Value,
    peer: End<'_>,
    to: End<'_>,
    sent: Sent<'_>,
) -> bool {
    let peers = list(&rule[if direction == "ingress" { "from" } else { "to" }]);
    let ports = list(&rule["ports"]);
    let peer_matches = peers.is_empty()
        || peers
            .iter()
            .any(|entry| network_peer(objects, policy, entry, peer));
    let port_matches = ports.is_empty() || ports.iter().any(|entry| network_port(entry, to, sent));
    peer_matches && port_matches
}

fn network_peer(objects: &[Value], policy: &Value, entry: &Value, peer: End<'_>) -> bool {
    let block = &entry["ipBlock"];
    if !block.is_null() {
        let except = list(&block["except"]);
        return within(&block["cidr"], peer.address) && !except.iter().any(|hole| within(hole, peer.address));
    }
    let Some(pod) = peer.pod else { return false };
    let namespace_matches = match &entry["namespaceSelector"] {
        Value::Null => namespace(pod) == namespace(policy),
        selector => selects(selector, &namespace_labels(objects, namespace(pod))),
    };
    let pod_matches = match &entry["podSelector"] {
        Value::Null => true,
        selector => selects(selector, &pod["metadata"]["labels"]),
    };
    namespace_matches && pod_matches
}

fn network_port(entry: &Value, to: End<'_>, sent: Sent<'_>) -> bool {
    let protocol = entry["protocol"].as_str().unwrap_or("TCP");
    if protocol != sent.protocol {
        return false;
    }
    match &entry["port"] {
        Value::Null => true,
        Value::String(name) => has_named_port(to, name, sent),
        number => {
            let first = number.as_u64().unwrap();
            let last = entry["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&u64::from(sent.port))
        }
    }
}

/// What the policies of a tier say; `None` if they leave it to the next.
fn cluster_tier(
    objects: &[Value],
    tier: &str,
    direction: &str,
    pod: &Value,
    peer: End<'_>,
    to: End<'_>,
    sent: Sent<'_>,
) -> Option<bool> {
    let mut policies: Vec<&Value> = objects
        .iter()
        .filter(|object| object["kind"] == "ClusterNetworkPolicy" && object["spec"]["tier"] == tier)
        .filter(|policy| cluster_pods(objects, &policy["spec"]["subject"], pod))
        .collect();
    policies.sort_by_key(|policy| {
        let priority = policy["spec"]["priority"].as_u64().unwrap();
        (priority, policy["metadata"]["name"].as_str().unwrap())
    });
    for rule in policies
        .iter()
        .flat_map(|policy| list(&policy["spec"][direction]))
    {
        let peers = list(&rule[if direction == "ingress" { "from" } else { "to" }]);
        let protocols = list(&rule["protocols"]);
        let matches = peers.iter().any(|entry| cluster_peer(objects, entry, peer))
            && (protocols.is_empty() || protocols.iter().any(|entry| cluster_protocol(entry, to, sent)));
        if matches {
            match rule["action"].as_str().unwrap() {
                "Accept" => return Some(true),
                "Deny" => return Some(false),
                _ => return None,
            }
        }
    }
    None
}

fn cluster_pods(objects: &[Value], subject: &Value, pod: &Value) -> bool {
    let labels = namespace_labels(objects, namespace(pod));
    if !subject["namespaces"].is_null() {
        return selects(&subject["namespaces"], &labels);
    }
    let pods = &subject["pods"];
    selects(&pods["namespaceSelector"], &labels) && selects(&pods["podSelector"], &pod["metadata"]["labels"])
}

fn cluster_peer(objects: &[Value], entry: &Value, peer: End<'_>) -> bool {
    if !entry["networks"].is_null() {
        return list(&entry["networks"])
            .iter()
            .any(|net| within(net, peer.address));
    }
    if !entry["nodes"].is_null() {
        let nodes = objects.iter().filter(|object| object["kind"] == "Node");
        let mut selected = nodes.filter(|node| selects(&entry["nodes"], &node["metadata"]["labels"]));
        return selected.any(|node| {
            let addresses = list(&node["status"]["addresses"]);
            addresses
                .iter()
                .any(|entry| entry["address"] == peer.address.to_string())
        });
    }
    peer.pod.is_some_and(|pod| cluster_pods(objects, entry, pod))
}

fn cluster_protocol(entry: &Value, to: End<'_>, sent: Sent<'_>) -> bool {
    if let Some(name) = entry["destinationNamedPort"].as_str() {
        return has_named_port(to, name, sent);
    }
    let transport = &entry[sent.protocol.to_lowercase()];
    if transport.is_null() {
        return false;
    }
    let port = u64::from(sent.port);
    match &transport["destinationPort"] {
        wanted if !wanted["number"].is_null() => wanted["number"] == port,
        wanted => {
            let range = &wanted["range"];
            (range["start"].as_u64().unwrap()..=range["end"].as_u64().unwrap()).contains(&port)
        }
    }
}

/// Whether a pod has given this name to the port that is called.
fn has_named_port(to: End<'_>, name: &str, sent: Sent<'_>) -> bool {
    let Some(pod) = to.pod else { return false };
    let containers = list(&pod["spec"]["containers"]);
    containers
        .iter()
        .flat_map(|container| list(&container["ports"]))
        .any(|port| {
            port["name"] == name
                && port["containerPort"] == u64::from(sent.port)
                && port["protocol"].as_str().unwrap_or("TCP") == sent.protocol
        })
}

/// Whether a label selector selects these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let by_label = selector["matchLabels"].as_object();
    let mut by_label = by_label.into_iter().flatten();
    let mut expressions = list(&selector["matchExpressions"]).iter();
    by_label.all(|(key, value)| labels[key] == *value)
        && expressions.all(|expression| {
            let value = &labels[expression["key"].as_str().unwrap()];
            let is_among = list(&expression["values"]).contains(value);
            match expression["operator"].as_str().unwrap() {
                "In" => !value.is_null() && is_among,
                "NotIn" => value.is_null() || !is_among,
                "Exists" => !value.is_null(),
                "DoesNotExist" => value.is_null(),
                other => panic!("no operator: {other}"),
            }
        })
}

/// A Namespace's labels, with the one that every Namespace has.
fn namespace_labels(objects: &[Value], name: &str) -> Value {
    let object = objects
        .iter()
        .find(|object| object["kind"] == "Namespace" && object["metadata"]["name"] == name);
    let mut labels = object.map_or(Value::Null, |object| object["metadata"]["labels"].clone());
    labels["kubernetes.io/metadata.name"] = Value::from(name);
    labels
}

pub(crate) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether an address lies in a CIDR: bit by bit.
fn within(cidr: &Value, address: IpAddr) -> bool {
    let (network, len) = cidr.as_str().unwrap().split_once('/').unwrap();
    let (network, len): (IpAddr, usize) = (network.parse().unwrap(), len.parse().unwrap());
    let bits = |address: IpAddr| -> Vec<bool> {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        bytes
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
            .collect()
    };
    network.is_ipv4() == address.is_ipv4() && bits(network)[..len] == bits(address)[..len]
}
