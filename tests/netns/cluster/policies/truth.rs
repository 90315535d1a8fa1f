//! The truth table between real sockets of both families: three Namespaces with three pods each, on three nodes. Who may reach whom is what
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

use millrace_tools::lab::plan::Families;
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

/// What the lab makes of one of the truth table's pods: namespace and name, node, and addresses.
type Place = (String, String, [IpAddr; 2]);

fn places(lab: &Lab, objects: &[Value]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for pod in objects.iter().filter(|object| object["kind"] == "Pod") {
        let metadata = &pod["metadata"];
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let node = word(&pod["spec"]["nodeName"]);
        let before = places.iter().filter(|(_, on, _)| *on == node).count();
        let plan = lab.node(&node).unwrap().plan();
        let [a, b, c, _] = plan.gateway().octets();
        let host = FIRST_POD + u8::try_from(before).unwrap();
        let v6 = plan.v6().unwrap().pod_address(host);
        let addresses = [Ipv4Addr::new(a, b, c, host).into(), v6.into()];
        places.push((
            format!("{}/{}", word(&metadata["namespace"]), word(&metadata["name"])),
            node,
            addresses,
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
        let (_, _, [v4, v6]) = places.next().unwrap();
        pod["status"] =
            json!({"podIP": v4.to_string(), "podIPs": [{"ip": v4.to_string()}, {"ip": v6.to_string()}]});
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
    let address = station.address;
    let is_its = |object: &&Value| {
        let ips = object["status"]["podIPs"].as_array();
        ips.is_some_and(|ips| ips.iter().any(|ip| ip["ip"] == address.to_string()))
    };
    let pod = objects.iter().find(is_its);
    End {
        address,
        pod,
        node: pod.map_or(&station.place, |pod| pod["spec"]["nodeName"].as_str().unwrap()),
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
        families: Families::Dual,
        ..Topology::of(&[NodeKind::Millrace; 3])
    };
    let lab = lab("truth", &topology);
    let begin = objects(&lab);
    apply(&lab, &begin);
    let places = places(&lab, &begin);
    let namespaces: Vec<Namespace> = places
        .iter()
        .map(|(name, node, addresses)| {
            let namespace = lab.namespace(&name.replace('/', "-")).unwrap();
            let path = namespace.path();
            let [v4, v6] = addresses.map(|address| address.to_string());
            let path = path.to_string_lossy();
            let attach = [
                "attach",
                name,
                "--netns",
                &path,
                "--address",
                &v4,
                "--address",
                &v6,
            ];
            daemon(&lab, node).client_output(&attach).unwrap();
            namespace
        })
        .collect();
    let pods: Vec<Station<'_>> = places
        .iter()
        .zip(&namespaces)
        .flat_map(|((name, _, addresses), namespace)| {
            addresses.map(|address| Station::new(name, namespace, (address, address), true))
        })
        .collect();
    let nodes: Vec<Station<'_>> = lab
        .nodes()
        .iter()
        .flat_map(|node| {
            let (plan, v6) = (node.plan(), node.plan().v6().unwrap());
            let ends: [(IpAddr, IpAddr); 2] = [
                (plan.tunnel_address().into(), plan.gateway().into()),
                (v6.tunnel_address().into(), v6.gateway().into()),
            ];
            ends.map(|ends| Station::new(&node.name(), node.namespace(), ends, false))
        })
        .collect();
    let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to)));
    let mut calls: Vec<(&Station<'_>, &Station<'_>)> = pairs
        .filter(|(from, to)| from.place != to.place && is_one_family(from, to))
        .collect();
    // A node is asked about its own pods: to others it is an address.
    for to in &pods {
        let is_its = |(name, ..): &&Place| *name == to.place;
        let (_, on, _) = places.iter().find(is_its).unwrap();
        let own = nodes
            .iter()
            .filter(|node| node.place == *on && is_one_family(node, to));
        calls.extend(own.map(|node| (node, to)));
    }
    try_cases(&lab, &begin, &calls);
    drop((pods, nodes));
    drop(namespaces);
    finish(lab);
}

fn is_one_family(from: &Station<'_>, to: &Station<'_>) -> bool {
    from.address.is_ipv4() == to.address.is_ipv4()
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
