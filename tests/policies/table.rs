//! The cases of the truth table, as `cases/` has them.
//!
//! A case begins with `== NAME`. In it, `NAMESPACE/NAME: SPEC` is a NetworkPolicy and `*/NAME: SPEC` a
//! ClusterNetworkPolicy, their specs in YAML; a line that begins with a space goes on with the one before. `label
//! NAMESPACE/POD LABELS` and `label NAMESPACE LABELS` set labels, `gone NAMESPACE/POD` takes a pod away. `+` and `-` say
//! what is special about the case: who may, or may not, open which connection. `-- then` is the next moment of the same
//! cluster, with all policies that there are then.

use serde_json::{Map, Value, json};

pub(crate) const FILES: [(&str, &str); 7] = [
    ("isolation", include_str!("cases/isolation.txt")),
    ("peers", include_str!("cases/peers.txt")),
    ("ports", include_str!("cases/ports.txt")),
    ("blocks", include_str!("cases/blocks.txt")),
    ("combined", include_str!("cases/combined.txt")),
    ("changes", include_str!("cases/changes.txt")),
    ("cluster", include_str!("cases/cluster.txt")),
];

/// A case: its moments, one after the other.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) moments: Vec<Moment>,
}

#[derive(Default)]
pub(crate) struct Moment {
    /// Objects, and changes of those that there are.
    pub(crate) lines: Vec<String>,
    pub(crate) claims: Vec<String>,
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (file, text) in FILES {
        for line in text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        {
            if let Some(name) = line.strip_prefix("== ") {
                cases.push(Case {
                    name: format!("{file}: {name}"),
                    moments: vec![Moment::default()],
                });
                continue;
            }
            let moments = &mut cases.last_mut().expect("a case before its lines").moments;
            let moment = moments.last_mut().unwrap();
            if line == "-- then" {
                moments.push(Moment::default());
            } else if line.starts_with(['+', '-']) {
                moment.claims.push(line.to_owned());
            } else if let Some(more) = line.strip_prefix(' ') {
                moment
                    .lines
                    .last_mut()
                    .expect("a line to go on with")
                    .push_str(more);
            } else {
                moment.lines.push(line.to_owned());
            }
        }
    }
    cases
}

impl Moment {
    /// Brings the cluster to this moment, from the one before.
    pub(crate) fn begin(&self, cluster: &mut Vec<Value>) {
        cluster.retain(|object| !object["kind"].as_str().unwrap().ends_with("Policy"));
        self.lines.iter().for_each(|line| apply(cluster, line));
    }
}

/// Adds to the cluster what a moment's line says.
fn apply(objects: &mut Vec<Value>, line: &str) {
    let find = |objects: &[Value], name: &str| {
        let (kind, namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => ("Pod", Value::from(namespace), name),
            None => ("Namespace", Value::Null, name),
        };
        let is_it = |object: &Value| {
            object["kind"] == kind
                && object["metadata"]["namespace"] == namespace
                && object["metadata"]["name"] == name
        };
        objects
            .iter()
            .position(is_it)
            .unwrap_or_else(|| panic!("there is no {name}"))
    };
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["label", name, labels] => {
            let labels: Map<String, Value> = labels
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (key.to_owned(), Value::from(value)))
                .collect();
            let place = find(objects, name);
            objects[place]["metadata"]["labels"] = Value::Object(labels);
        }
        ["gone", name] => {
            let place = find(objects, name);
            objects.remove(place);
        }
        _ => {
            let (name, spec) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("no line of a case: {line}"));
            let spec: Value = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{error}: {line}"));
            let (namespace, name) = name.split_once('/').unwrap();
            objects.push(if namespace == "*" {
                json!({
                    "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                    "metadata": {"name": name}, "spec": spec,
                })
            } else {
                json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                    "metadata": {"namespace": namespace, "name": name}, "spec": spec,
                })
            });
        }
    }
}
