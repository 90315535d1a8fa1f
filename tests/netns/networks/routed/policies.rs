//! Policies of a routed network, between pods of two nodes, beside a network of the same addresses that has none.

use millrace_tools::lab::NodeKind::Millrace;
use millrace_tools::lab::wait_until;
use serde_json::{Value, json};

use super::rig::{AMBER, Routed, VIOLET};
use crate::meet;
use crate::rig::PATIENCE;
use crate::station::Station;

/// Pods of amber: the one that is protected, one of each node that may call it, and one of each that may not.
const PODS: [(u8, u8, &str); 5] = [
    (1, 10, "db"),
    (1, 11, "web"),
    (2, 10, "web"),
    (1, 12, "other"),
    (2, 12, "other"),
];

/// The object of a pod. Of another node's the addresses are known by it alone.
fn object((node, host, app): (u8, u8, &str)) -> Value {
    let name = ["node-a", "node-b"][usize::from(node) - 1];
    let ips = AMBER.addresses(node, host);
    let status = json!([{"name": AMBER.name, "interface": "net1", "ips": ips, "dns": {}}]);
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "lab", "name": format!("amber-{node}-{host}"), "labels": {"app": app},
            "annotations": {"k8s.v1.cni.cncf.io/network-status": status.to_string()}},
        "spec": {"nodeName": name}})
}

fn policy() -> Value {
    json!({"apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy",
        "metadata": {"namespace": "lab", "name": "web-to-db",
            "annotations": {"k8s.v1.cni.cncf.io/policy-for": "amber"}},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}})
}

/// Has all nodes read these objects, until so many policies are in force in amber.
fn apply(rig: &Routed, objects: &[Value], policies: usize) {
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    for node in [1, 2] {
        rig.daemon(node, |daemon| {
            daemon
                .write_manifest("policies.yaml", &text.join("\n---\n"))
                .unwrap();
            wait_until("the policies", PATIENCE, || {
                let rows = daemon.json(&["show", "policies"])?;
                let of_amber = rows.as_array().into_iter().flatten();
                let of_amber = of_amber.filter(|row| row["network"] == AMBER.name);
                Ok(of_amber.count() == policies)
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_end()));
        });
    }
}

#[test]
fn a_policy_of_a_network_is_in_force_there_and_nowhere_else() {
    let rig = Routed::new("policed", &[Millrace, Millrace], &[AMBER, VIOLET]);
    let amber: Vec<Station> = PODS.map(|(node, host, _)| rig.pod(AMBER, node, host)).into();
    let violet = [rig.pod(VIOLET, 1, 10), rig.pod(VIOLET, 2, 12)];
    let objects = PODS.map(object);
    let [db, near, far, stranger, strange] = &amber[..] else {
        panic!("{} pods", amber.len())
    };
    apply(&rig, &objects, 0);
    for other in [near, far, stranger, strange] {
        meet(&rig, other, db);
    }
    apply(&rig, &[&objects[..], &[policy()]].concat(), 1);
    for other in [near, far] {
        meet(&rig, other, db);
    }
    for other in [stranger, strange] {
        for address in db.addresses() {
            other.cannot_ping(address);
        }
        // It is isolated from what comes, and from nothing else; others are not isolated.
        meet(&rig, db, other);
        meet(&rig, other, near);
    }
    // The switch itself is never kept out, and the same address in another network is another pod.
    for gateway in AMBER.gateways() {
        db.ping(&rig, gateway, 56);
    }
    assert_eq!(violet[0].addresses()[0], db.addresses()[0]);
    meet(&rig, &violet[1], &violet[0]);
    let rows = rig.json(1, &["show", "policies"]);
    let row = &rows[0];
    assert_eq!(
        (&row["policy"], &row["network"], &row["pods"]),
        (
            &"MultiNetworkPolicy lab/web-to-db".into(),
            &AMBER.name.into(),
            &1.into()
        ),
        "{rows}"
    );
    let decided = |rule: usize| row["rules"][rule]["connections"].as_u64().unwrap();
    assert!(decided(0) >= 4 && decided(1) >= 4, "{rows}");
    for (from, allowed) in [((2, 10), true), ((2, 12), false)] {
        let [from, to] = [AMBER.v4(from.0, from.1), AMBER.v4(1, 10)].map(|address| address.to_string());
        let words = [
            "explain",
            "--network",
            AMBER.name,
            "--from",
            &from,
            "--to",
            &to,
            "--json",
        ];
        let told = rig.daemon(1, |daemon| daemon.ask(&words)).unwrap();
        assert_eq!(
            told.stdout.contains("\"allowed\": true"),
            allowed,
            "{}",
            told.stdout
        );
        assert!(
            told.stdout.contains("MultiNetworkPolicy lab/web-to-db"),
            "{}",
            told.stdout
        );
    }
    apply(&rig, &objects, 0);
    for other in [stranger, strange] {
        meet(&rig, other, db);
    }
    rig.finish();
}
