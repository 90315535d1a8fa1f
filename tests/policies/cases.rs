//! The truth table: what stands in `cases/`.
//!
//! A case begins with `== NAME`. In it, `NAMESPACE/NAME: SPEC` is a NetworkPolicy and `*/NAME: SPEC` a
//! ClusterNetworkPolicy, their specs in YAML; a line that begins with a space goes on with the one before. `label
//! NAMESPACE/POD LABELS` and `label NAMESPACE LABELS` set labels, `gone NAMESPACE/POD` takes a pod away. `+` and `-` say
//! what is special about the case: who may, or may not, open which connection. `-- then` is the next moment of the same
//! cluster, with all policies that there are then.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::oracle::{Sent, is_allowed};
use super::switch::Switches;
use super::wire::{Sending, Wire};
use super::world::{Placement, SENT, ends, objects};

const FILES: [(&str, &str); 7] = [
    ("isolation", include_str!("cases/isolation.txt")),
    ("peers", include_str!("cases/peers.txt")),
    ("ports", include_str!("cases/ports.txt")),
    ("blocks", include_str!("cases/blocks.txt")),
    ("combined", include_str!("cases/combined.txt")),
    ("changes", include_str!("cases/changes.txt")),
    ("cluster", include_str!("cases/cluster.txt")),
];

/// The least number of cases that there have to be.
const CASES_MIN: usize = 120;

/// A case: its moments, one after the other.
struct Case {
    name: String,
    moments: Vec<Moment>,
}

#[derive(Default)]
struct Moment {
    /// Objects, and changes of those that there are.
    lines: Vec<String>,
    claims: Vec<String>,
}

fn cases() -> Vec<Case> {
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

/// Compares the whole matrix, and what the case claims.
fn check(case: &str, objects: &[Value], claims: &[String], switches: &Switches, fresh: &Switches) {
    for is_v6 in [false, true] {
        let ends = ends(objects, is_v6);
        for (from_name, from) in &ends {
            for (to_name, to) in &ends {
                for sent in SENT {
                    let expected = is_allowed(objects, *from, *to, sent);
                    for (switches, made) in [(switches, "changed"), (fresh, "made anew")] {
                        assert_eq!(
                            switches.is_allowed(from.address, to.address, sent),
                            expected,
                            "{case}: {from_name} -> {to_name} {sent:?}, tables {made}: {:?}",
                            switches.judge(from.address, to.address, sent)
                        );
                    }
                }
            }
        }
        let end = |name: &str| {
            ends.iter()
                .find(|(known, _)| known == name)
                .unwrap_or_else(|| panic!("{case}: no {name}"))
                .1
        };
        for claim in claims {
            let words: Vec<&str> = claim.split_whitespace().collect();
            let [sign, from, "->", to, protocol, port] = words[..] else {
                panic!("{case}: no claim: {claim}")
            };
            let sent = Sent {
                protocol,
                port: port.parse().unwrap(),
            };
            assert!(SENT.contains(&sent), "{case}: nobody sends {sent:?}");
            assert_eq!(
                is_allowed(objects, end(from), end(to), sent),
                sign == "+",
                "{case}: the oracle says otherwise: {claim}"
            );
        }
    }
}

/// Sends everything from everyone to everyone, each time in the connection that was begun the first time.
fn send(case: &str, objects: &[Value], wire: &mut Wire) {
    for is_v6 in [false, true] {
        let ends = ends(objects, is_v6);
        let mut sendings = Vec::new();
        for (from_name, from) in &ends {
            for (to_name, to) in &ends {
                for sent in SENT {
                    let sending = Sending {
                        from: *from,
                        to: *to,
                        sent,
                    };
                    if sending.is_for_a_switch() {
                        sendings.push((format!("{from_name} -> {to_name} {sent:?}"), sending));
                    }
                }
            }
        }
        let passed = wire.send(case, &sendings);
        for ((name, sending), passed) in sendings.iter().zip(passed) {
            let expected = is_allowed(objects, sending.from, sending.to, sending.sent);
            assert_eq!(passed, expected, "{case}: {name}, on the wire");
        }
    }
}

fn run(file: &str) {
    for case in cases()
        .iter()
        .filter(|case| case.name.starts_with(&format!("{file}: ")))
    {
        for placement in [Placement::Spread, Placement::Together] {
            let mut cluster = objects(placement);
            let mut switches = Switches::new();
            switches.update(&cluster);
            let mut wire = Wire::new(&cluster);
            for (number, moment) in case.moments.iter().enumerate() {
                let name = format!("{}, moment {number}, {placement:?}", case.name);
                assert!(!moment.claims.is_empty(), "{name}: nothing is claimed");
                cluster.retain(|object| !object["kind"].as_str().unwrap().ends_with("Policy"));
                moment.lines.iter().for_each(|line| apply(&mut cluster, line));
                switches.update(&cluster);
                let mut fresh = Switches::new();
                fresh.update(&cluster);
                check(&name, &cluster, &moment.claims, &switches, &fresh);
                wire.update(&mut switches);
                send(&name, &cluster, &mut wire);
            }
        }
    }
}

#[test]
fn isolation() {
    run("isolation");
}

#[test]
fn peers() {
    run("peers");
}

#[test]
fn ports() {
    run("ports");
}

#[test]
fn blocks() {
    run("blocks");
}

#[test]
fn combined() {
    run("combined");
}

#[test]
fn changes() {
    run("changes");
}

#[test]
fn cluster() {
    run("cluster");
}

#[test]
fn the_table_is_as_long_as_it_has_to_be() {
    let cases = cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases of one name");
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    for (file, _) in FILES {
        assert!(
            names.iter().any(|name| name.starts_with(file)),
            "no case in {file}"
        );
    }
}
