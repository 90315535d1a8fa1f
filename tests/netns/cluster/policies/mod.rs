//! Policies between real sockets: who reaches whom, connections that live through a change, and what is said of both.

mod stations;
mod truth;

use std::net::SocketAddrV4;
use std::time::Duration;

use millrace_tools::lab::{Lab, NodeKind, Topology, wait_until};
use serde_json::{Value, json};

use crate::rig::{PATIENCE, address, await_that, daemon, finish, lab, pod, side_by_side};
use crate::services::{Call, Server, declare};

/// Where servers listen.
const PORT: u16 = 8080;
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
    let question = ["explain", "--from", "lab/pod-a2", "--to", "lab/pod-a1:8080"];
    let ask = || daemon(&lab, "node-a").ask(&question).unwrap();
    let explain = |expected: Option<i32>| {
        let asked = ask();
        assert_eq!(asked.status.code(), expected, "{asked:?}");
        asked.stdout
    };
    // It may not have read the pods' objects yet.
    await_that("the pods to be known", || ask().status.code() != Some(2));
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
