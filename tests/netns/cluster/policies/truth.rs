//! The truth table between real sockets: three Namespaces with three pods each, on three nodes. Who may reach whom is what
//! the oracle of `tests/policies` says; connections of UDP and SCTP live through all cases.

#[path = "../../../policies/oracle.rs"]
mod oracle;
#[path = "../../../policies/table.rs"]
#[allow(dead_code, reason = "what a case claims is compared where it costs less")]
mod table;
#[path = "../../../policies/world.rs"]
#[allow(dead_code, reason = "its nodes and its addresses are the lab's here")]
mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use millrace_tools::lab::{Lab, Namespace, NodeKind, Topology};
use oracle::{End, Sent, is_allowed};
use serde_json::{Value, json};
use world::Placement;

use super::stations::{PORTS, Reached, Station, observe};
use crate::rig::{PATIENCE, daemon, finish, lab, side_by_side};
use crate::services::declare;

/// Every so manieth case is tried: some of each file.
const EVERY: usize = 5;
/// Cases that are tried at least.
const CASES_MIN: usize = 24;

/// A pod's own address behind its node's.
const FIRST_POD: u8 = 2;

/// What the lab makes of the truth table's pods: namespace and name, node, and address.
fn places(lab: &Lab, objects: &[Value]) -> Vec<(String, String, Ipv4Addr)> {
    let mut places: Vec<(String, String, Ipv4Addr)> = Vec::new();
    for pod in objects.iter().filter(|object| object["kind"] == "Pod") {
        let metadata = &pod["metadata"];
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let node = word(&pod["spec"]["nodeName"]);
        let before = places.iter().filter(|(_, on, _)| *on == node).count();
        let [a, b, c, _] = lab.node(&node).unwrap().plan().gateway().octets();
        let address = Ipv4Addr::new(a, b, c, FIRST_POD + u8::try_from(before).unwrap());
        places.push((
            format!("{}/{}", word(&metadata["namespace"]), word(&metadata["name"])),
            node,
            address,
        ));
    }
    places
}

/// The truth table's objects as they are in the lab, which has Nodes of its own.
fn objects(lab: &Lab) -> Vec<Value> {
    let mut objects = world::objects(Placement::Spread);
    objects.retain(|object| object["kind"] != "Node" && object["spec"]["hostNetwork"] != true);
    let mut places = places(lab, &objects).into_iter();
    for pod in objects.iter_mut().filter(|object| object["kind"] == "Pod") {
        let (_, _, address) = places.next().unwrap();
        pod["status"] = json!({"podIP": address.to_string(), "podIPs": [{"ip": address.to_string()}]});
    }
    objects
}

/// Puts objects in force.
fn apply(lab: &Lab, objects: &[Value]) {
    let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
    declare(lab, "truth", &text);
}

/// One end of a call, as the oracle has it.
fn end<'o>(objects: &'o [Value], station: &'o Station<'_>) -> End<'o> {
    let address = IpAddr::V4(station.address);
    let is_its = |object: &&Value| object["status"]["podIP"] == address.to_string();
    let pod = objects.iter().find(is_its);
    End {
        address,
        pod,
        node: pod.map_or(&station.name, |pod| pod["spec"]["nodeName"].as_str().unwrap()),
    }
}

/// Who may reach whom.
fn expected(objects: &[Value], calls: &[(&Station<'_>, &Station<'_>)]) -> Reached {
    let mut reached = Reached::new();
    for (from, to) in calls {
        let ends = (end(objects, from), end(objects, to));
        for protocol in ["TCP", "UDP", "SCTP"] {
            for port in PORTS {
                if is_allowed(objects, ends.0, ends.1, Sent { protocol, port }) {
                    reached.insert((from.name.clone(), to.name.clone(), protocol, port));
                }
            }
        }
    }
    reached
}

/// Brings one case after the other about.
fn try_cases(lab: &Lab, begin: &[Value], calls: &[(&Station<'_>, &Station<'_>)]) {
    let mut round = 1;
    let mut tried = 0;
    for case in table::cases().iter().step_by(EVERY) {
        // A pod whose object is gone while it runs is no pod to the oracle.
        if case
            .moments
            .iter()
            .flat_map(|moment| &moment.lines)
            .any(|line| line.starts_with("gone"))
        {
            continue;
        }
        let mut cluster = begin.to_vec();
        for (number, moment) in case.moments.iter().enumerate() {
            moment.begin(&mut cluster);
            apply(lab, &cluster);
            await_picture(
                &format!("{}, moment {number}", case.name),
                &cluster,
                calls,
                &mut round,
            );
        }
        tried += 1;
    }
    assert!(tried >= CASES_MIN, "{tried} cases");
}

#[test]
fn who_reaches_whom_is_what_the_oracle_says() {
    let _machine = side_by_side();
    let topology = Topology {
        pods_per_node: 0,
        ..Topology::of(&[NodeKind::Millrace; 3])
    };
    let lab = lab("truth", &topology);
    let begin = objects(&lab);
    apply(&lab, &begin);
    let places = places(&lab, &begin);
    let namespaces: Vec<Namespace> = places
        .iter()
        .map(|(name, node, address)| {
            let namespace = lab.namespace(&name.replace('/', "-")).unwrap();
            let (path, address) = (namespace.path(), address.to_string());
            let attach = [
                "attach",
                name,
                "--netns",
                &path.to_string_lossy(),
                "--address",
                &address,
            ];
            daemon(&lab, node).client_output(&attach).unwrap();
            namespace
        })
        .collect();
    let pods: Vec<Station<'_>> = places
        .iter()
        .zip(&namespaces)
        .map(|((name, _, address), namespace)| Station::new(name, namespace, *address, true))
        .collect();
    let nodes: Vec<Station<'_>> = lab
        .nodes()
        .iter()
        .map(|node| Station::new(&node.name(), node.namespace(), node.plan().gateway(), false))
        .collect();
    let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to)));
    let mut calls: Vec<(&Station<'_>, &Station<'_>)> =
        pairs.filter(|(from, to)| from.address != to.address).collect();
    // A node is asked about its own pods: to others it is an address.
    for (to, (_, on, _)) in pods.iter().zip(&places) {
        calls.extend(
            nodes
                .iter()
                .filter(|node| node.name == *on)
                .map(|node| (node, to)),
        );
    }
    try_cases(&lab, &begin, &calls);
    drop((pods, nodes));
    drop(namespaces);
    finish(lab);
}

/// Sends everything until just that arrives which may, and is answered.
fn await_picture(name: &str, cluster: &[Value], calls: &[(&Station<'_>, &Station<'_>)], round: &mut u32) {
    let expected = expected(cluster, calls);
    let without = |left_out: &str| -> Reached {
        let kept = expected
            .iter()
            .filter(|(_, _, protocol, _)| *protocol != left_out);
        kept.cloned().collect()
    };
    let (expected_arrived, expected_answered) = (without("TCP"), without("SCTP"));
    let began = Instant::now();
    loop {
        *round += 1;
        let (arrived, answered) = observe(calls, *round);
        if arrived == expected_arrived && answered == expected_answered {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{name}: arrived and must not: {:?}; did not arrive: {:?}; answered and must not be: {:?}; not answered: {:?}",
            arrived.difference(&expected_arrived).collect::<Vec<_>>(),
            expected_arrived.difference(&arrived).collect::<Vec<_>>(),
            answered.difference(&expected_answered).collect::<Vec<_>>(),
            expected_answered.difference(&answered).collect::<Vec<_>>(),
        );
    }
}
