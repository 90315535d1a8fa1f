//! Policies between real sockets: pods of two nodes, the nodes themselves, connections that live through a change. Who may
//! reach whom is what the oracle of `tests/policies` says.

#[path = "../../policies/oracle.rs"]
mod oracle;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use millrace_tools::lab::traffic::tcp_connect;
use millrace_tools::lab::{Lab, NodeKind, Topology, wait_until};
use oracle::{End, Sent, is_allowed};
use serde_json::{Value, json};

use crate::rig::{PATIENCE, address, await_that, daemon, finish, lab, node, pod, side_by_side};
use crate::services::{Call, Server, declare, try_udp, udp_socket};

/// Where servers listen.
const PORT: u16 = 8080;
/// A port at which they do not, but a policy may mean.
const OTHER: u16 = 8081;
/// How long is waited for an answer that must not come.
const DENIED: Duration = Duration::from_millis(250);
const PODS: [(&str, &str); 4] = [
    ("pod-a1", "node-a"),
    ("pod-a2", "node-a"),
    ("pod-b1", "node-b"),
    ("pod-b2", "node-b"),
];

fn pod_object(lab: &Lab, name: &str, node: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "lab", "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none", "ports": [
            {"name": "app", "containerPort": PORT}, {"name": "app-udp", "containerPort": PORT, "protocol": "UDP"},
        ]}]},
        "status": {"podIP": address(lab, name).to_string(), "podIPs": [{"ip": address(lab, name).to_string()}]},
    })
}

/// A policy of the pods' own Namespace, from its spec in YAML.
fn network(name: &str, spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{error}: {spec}"));
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "lab", "name": name}, "spec": spec,
    })
}

fn cluster(name: &str, spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{error}: {spec}"));
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// Puts these policies in force on both nodes, in the place of those before. Their names have to be new.
fn enforce(lab: &Lab, policies: &[Value]) {
    let text: String = policies.iter().map(|policy| format!("---\n{policy}\n")).collect();
    declare(lab, "policies", &text);
    let mut wanted: Vec<String> = policies
        .iter()
        .map(|policy| policy["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    wanted.sort_unstable();
    for node in ["node-a", "node-b"] {
        wait_until(&format!("{wanted:?} on {node}"), PATIENCE, || {
            let rows = daemon(lab, node).json(&["show", "policies"])?;
            let rows = rows.as_array().cloned().unwrap_or_default();
            let name = |row: &Value| {
                let policy = row["policy"].as_str().unwrap_or_default();
                policy.rsplit(['/', ' ']).next().unwrap_or_default().to_owned()
            };
            let mut found: Vec<String> = rows.iter().map(name).collect();
            found.sort_unstable();
            Ok(found == wanted)
        })
        .unwrap();
    }
}

/// Two Millrace nodes, two pods each, with labels.
fn labelled(name: &str) -> (Lab, Vec<Value>) {
    let lab = lab(name, &Topology::of(&[NodeKind::Millrace, NodeKind::Millrace]));
    let objects = PODS.map(|(name, node)| pod_object(&lab, name, node, &json!({"pod": name, "node": node})));
    for (object, (name, _)) in objects.iter().zip(PODS) {
        // In the place of the one that the lab has written.
        declare(&lab, &format!("pod-{name}"), &object.to_string());
    }
    (lab, objects.to_vec())
}

/// Whether a connection is answered: within [`DENIED`], or if one is expected within whatever a busy machine takes; where nobody listens a refusal is an answer as well.
fn reaches(lab: &Lab, from: &str, to: Ipv4Addr, sent: Sent<'_>, is_expected: bool) -> bool {
    let began = Instant::now();
    loop {
        let is_answered = is_answered(lab, from, to, sent);
        if is_answered || !is_expected || began.elapsed() > PATIENCE {
            return is_answered;
        }
    }
}

fn is_answered(lab: &Lab, from: &str, to: Ipv4Addr, sent: Sent<'_>) -> bool {
    let at = SocketAddrV4::new(to, sent.port);
    let from = match from.strip_prefix("node") {
        Some(_) => node(lab, from),
        None => pod(lab, from),
    };
    if sent.protocol == "UDP" {
        let socket = udp_socket(from, at);
        socket.set_read_timeout(Some(DENIED)).unwrap();
        return try_udp(&socket).is_some();
    }
    match tcp_connect(from, at.into(), DENIED) {
        Ok(_) => true,
        Err(error) => error.to_string().contains("refused"),
    }
}

/// Compares who reaches whom with what the oracle says.
fn compare(lab: &Lab, name: &str, objects: &[Value]) {
    let sent = [
        Sent {
            protocol: "TCP",
            port: PORT,
        },
        Sent {
            protocol: "UDP",
            port: PORT,
        },
        Sent {
            protocol: "TCP",
            port: OTHER,
        },
    ];
    let end = |name: &str| {
        let at = PODS.iter().position(|(pod, _)| *pod == name);
        let address: IpAddr = match at {
            Some(_) => address(lab, name).into(),
            // What pods of this node see their node as.
            None => lab.node(name).unwrap().plan().gateway().into(),
        };
        End {
            address,
            pod: at.map(|at| &objects[at]),
            node: at.map_or(if name == "node-a" { "node-a" } else { "node-b" }, |at| {
                PODS[at].1
            }),
        }
    };
    let callers = ["pod-a1", "pod-a2", "pod-b1", "pod-b2", "node-a"];
    // Each waits for answers that must not come: all at once.
    std::thread::scope(|scope| {
        let mut asked = Vec::new();
        for from in callers {
            for (to, on) in PODS {
                // A node is asked about its own pods: to others it is an address.
                if from == to || (from == "node-a" && on != "node-a") {
                    continue;
                }
                for sent in sent {
                    let expected = is_allowed(objects, end(from), end(to), sent);
                    let found = scope.spawn(move || reaches(lab, from, address(lab, to), sent, expected));
                    asked.push((from, to, sent, expected, found));
                }
            }
        }
        for (from, to, sent, expected, found) in asked {
            assert_eq!(found.join().unwrap(), expected, "{name}: {from} -> {to} {sent:?}");
        }
    });
}

const A1: &str = "{podSelector: {matchLabels: {pod: pod-a1}}}";
const B1: &str = "{podSelector: {matchLabels: {pod: pod-b1}}}";

/// Cases of the truth table, on real interfaces: the spec of a NetworkPolicy each.
const NETWORK: [(&str, &str); 16] = [
    ("deny-ingress", "{podSelector: {}, policyTypes: [Ingress]}"),
    ("deny-egress", "{podSelector: {}, policyTypes: [Egress]}"),
    ("deny-both", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
    (
        "deny-one",
        "{podSelector: {matchLabels: {pod: pod-a1}}, policyTypes: [Ingress, Egress]}",
    ),
    (
        "allow-all",
        "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}",
    ),
    (
        "no-one",
        "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: none}}}]}]}",
    ),
    ("everyone", "{podSelector: {}, ingress: [{from: []}]}"),
    ("from-a1", "{podSelector: {}, ingress: [{from: [A1]}]}"),
    (
        "to-b1",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [B1]}]}",
    ),
    (
        "both-ways",
        "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [A1]}], egress: [{to: [B1]}]}",
    ),
    ("tcp", "{podSelector: {}, ingress: [{ports: [{port: 8080}]}]}"),
    (
        "udp",
        "{podSelector: {}, ingress: [{ports: [{port: 8080, protocol: UDP}]}]}",
    ),
    (
        "range",
        "{podSelector: {}, ingress: [{ports: [{port: 8081, endPort: 9000}]}]}",
    ),
    ("named", "{podSelector: {}, ingress: [{ports: [{port: app}]}]}"),
    (
        "named-egress",
        "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: app-udp, protocol: UDP}]}]}",
    ),
    (
        "blocks",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.2.0/24]}}]}]}",
    ),
];

/// As [`NETWORK`], for ClusterNetworkPolicies beside a NetworkPolicy that lets pod-a1 in everywhere.
const CLUSTER: [(&str, &str); 5] = [
    (
        "admin-deny",
        "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}",
    ),
    (
        "admin-accept",
        "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: pod-b1}}}}]}]}",
    ),
    (
        "admin-pass",
        "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {node: node-a}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}",
    ),
    (
        "baseline",
        "{tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.244.2.0/24]}]}]}",
    ),
    (
        "ports",
        "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 8080}}}]}]}",
    ),
];

#[test]
fn who_reaches_whom_is_what_the_oracle_says() {
    let _machine = side_by_side();
    let (lab, pods) = labelled("policies");
    let _servers = PODS.map(|(name, _)| Server::in_pod(&lab, name));
    compare(&lab, "no policy", &pods);
    let check = |name: &str, policies: Vec<Value>| {
        enforce(&lab, &policies);
        let objects: Vec<Value> = pods.iter().cloned().chain(policies).collect();
        compare(&lab, name, &objects);
    };
    for (name, spec) in NETWORK {
        let spec = spec.replace("A1", A1).replace("B1", B1);
        check(name, vec![network(name, &spec)]);
    }
    for (name, spec) in CLUSTER {
        let beside = format!("{name}-beside");
        let allows = format!("{{podSelector: {{}}, ingress: [{{from: [{A1}]}}]}}");
        check(name, vec![cluster(name, spec), network(&beside, &allows)]);
    }
    check("none again", Vec::new());
    finish(lab);
}

#[test]
fn a_policy_cuts_what_lives_and_says_so() {
    let _machine = side_by_side();
    let (lab, _) = labelled("cut");
    let _servers = PODS.map(|(name, _)| Server::in_pod(&lab, name));
    let to = |name: &str| SocketAddrV4::new(address(&lab, name), PORT);
    let (near, far) = (pod(&lab, "pod-a2"), pod(&lab, "pod-b1"));
    let mut calls = [Call::open(near, to("pod-a1")), Call::open(far, to("pod-a1"))];
    let mut other = Call::open(near, to("pod-b2"));
    for call in calls.iter_mut().chain([&mut other]) {
        assert!(call.ask().is_ok());
    }
    let explain = |expected: Option<i32>| {
        let asked =
            daemon(&lab, "node-a").ask(&["explain", "--from", "lab/pod-a2", "--to", "lab/pod-a1:8080"]);
        let asked = asked.unwrap();
        assert_eq!(asked.status.code(), expected, "{asked:?}");
        asked.stdout
    };
    explain(Some(0));
    // Nothing has been denied yet; from now on it is remembered.
    daemon(&lab, "node-a").ask(&["denied", "--json"]).unwrap();
    enforce(
        &lab,
        &[network(
            "deny-a1",
            "{podSelector: {matchLabels: {pod: pod-a1}}, policyTypes: [Ingress]}",
        )],
    );
    for call in &mut calls {
        assert!(
            call.ask_within(DENIED).is_err(),
            "a connection that is no longer allowed goes on"
        );
    }
    assert!(other.ask().is_ok(), "another's policy");
    let said = explain(Some(1));
    assert!(
        said.contains("denied by NetworkPolicy lab/deny-a1, which isolates the pod for ingress"),
        "{said}"
    );
    let denied = daemon(&lab, "node-a").ask(&["denied", "--json"]).unwrap().stdout;
    assert!(
        denied.contains("NetworkPolicy lab/deny-a1")
            && denied.contains("lab/pod-a2")
            && denied.contains("lab/pod-a1"),
        "{denied}"
    );
    enforce(
        &lab,
        &[network(
            "allow-a1",
            "{podSelector: {matchLabels: {pod: pod-a1}}, ingress: [{}]}",
        )],
    );
    await_that("the connections to go on", || {
        calls.iter_mut().all(|call| call.ask().is_ok())
    });
    explain(Some(0));
    finish(lab);
}
