//! Policies between real sockets: who reaches whom, connections that live through a change, and what is said of both.

mod stations;
mod truth;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millrace_tools::lab::{Lab, Namespace, NodeKind, Process, Topology, wait_until};
use serde_json::{Value, json};

use crate::counters::Counters;
use crate::rig::{PATIENCE, SILENCE, address, alone, await_that, daemon, finish, lab, pod, side_by_side};
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
    let capture = lab.folder().join("capture.log");
    let line = daemon(&lab, "node-a").client(&["capture", "--port", "lab/pod-a2"]);
    let mut capturing = Process::spawn(line, &capture).unwrap();
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
    let (from, to) = (address(&lab, "pod-a2"), address(&lab, "pod-a1"));
    let ends = format!("lab/pod-a2 ({from}) -> lab/pod-a1 ({to}) port 8080");
    for words in [
        format!("{ends}, denied by NetworkPolicy lab/deny-a1, which isolates the pod for ingress"),
        format!("forward to lab/pod-a1; {ends}, allowed by NetworkPolicy lab/allow-a1, ingress rule 0"),
    ] {
        await_that(&words, || {
            std::fs::read_to_string(&capture).unwrap().contains(&words)
        });
    }
    capturing.kill().unwrap();
    let flows = daemon(&lab, "node-a")
        .json(&["show", "flows", "--pod", "lab/pod-a1"])
        .unwrap();
    let flows = flows["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 2, "{flows:?}");
    for flow in flows {
        assert_eq!(
            flow["policies"],
            "allowed by NetworkPolicy lab/allow-a1, ingress rule 0"
        );
    }
    finish(lab);
}

#[test]
fn manifests_are_asked_about_before_they_are_applied() {
    let _machine = side_by_side();
    let (lab, _) = labelled("ask");
    let own = daemon(&lab, "node-a");
    let question = ["explain", "--from", "lab/pod-a2", "--to", "lab/pod-b1:8080"];
    await_that("the pods to be known", || {
        own.ask(&question).unwrap().status.code() == Some(0)
    });
    let folder = lab.folder().join("not-applied");
    std::fs::create_dir(&folder).unwrap();
    let policy = network(
        "closed",
        "{podSelector: {matchLabels: {pod: pod-b1}}, policyTypes: [Ingress]}",
    );
    std::fs::write(folder.join("closed.yaml"), policy.to_string()).unwrap();
    let about = [&question[..], &["--manifests", folder.to_str().unwrap()]].concat();
    let asked = own.ask(&about).unwrap();
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    let said = "lab/pod-b1 port 8080: denied by NetworkPolicy lab/closed, which isolates the pod for ingress";
    assert!(asked.stdout.contains(said), "{asked:?}");
    assert_eq!(
        own.ask(&question).unwrap().status.code(),
        Some(0),
        "nothing is applied by asking"
    );
    finish(lab);
}

#[test]
fn a_flood_that_is_denied_is_told_in_few_lines_and_harms_nobody() {
    /// Rows of one answer, and answers in a second: see `millrace denied`.
    const LINES_PER_SECOND: usize = 512 * 4;
    const FLOOD: Duration = Duration::from_secs(3);
    /// Longer than it takes to be told.
    const PAUSE: Duration = Duration::from_secs(1);
    let _machine = alone();
    let (lab, _) = labelled("flood");
    let _servers = PODS.map(|(name, _)| Server::in_pod(&lab, name));
    enforce(
        &lab,
        &[network(
            "few",
            "{podSelector: {matchLabels: {pod: pod-a1}}, ingress: [{from: [{podSelector: {matchLabels: {pod: pod-b1}}}], ports: [{port: 8080}]}]}",
        )],
    );
    let own = daemon(&lab, "node-a");
    let mut call = Call::open(
        pod(&lab, "pod-b1"),
        SocketAddrV4::new(address(&lab, "pod-a1"), PORT),
    );
    let log = lab.folder().join("denied.log");
    let mut follower = Process::spawn(own.client(&["denied", "--follow", "--json"]), &log).unwrap();
    let socket = pod(&lab, "pod-a2")
        .within(|| UdpSocket::bind("0.0.0.0:0"))
        .unwrap()
        .unwrap();
    let denied = || {
        Counters::read(own)
            .dropped()
            .get("policy_denied_ingress")
            .copied()
            .unwrap_or(0)
    };
    let told = || {
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let count = |key: &str| {
            lines
                .iter()
                .map(|line| line[key].as_u64().unwrap_or(0))
                .sum::<u64>()
        };
        (lines.len(), count("packets") + count("lost"))
    };
    await_that("denials to be told", || {
        let _ = socket.send_to(b"?", (address(&lab, "pod-a1"), 1));
        told().1 > 0
    });
    // What was denied before someone followed is told to nobody.
    std::thread::sleep(PAUSE);
    let (lines_before, told_before) = told();
    let untold = denied() - told_before;
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = 1;
            while began.elapsed() < FLOOD {
                let _ = socket.send_to(b"?", (address(&lab, "pod-a1"), port));
                port = port.checked_add(1).unwrap_or(1);
            }
        });
        while began.elapsed() < FLOOD {
            call.ask().unwrap();
            own.json(&["show", "policies"]).unwrap();
        }
    });
    let flooded = began.elapsed();
    // All that was dropped is told, in a row or as a number.
    await_that("the end of the flood to be told", || {
        told().1 + untold >= denied()
    });
    let (lines, packets) = told();
    assert!(packets > 10_000, "that is no flood: {packets} packets");
    assert_eq!(packets + untold, denied());
    let most = LINES_PER_SECOND * usize::try_from(flooded.as_secs() + 2).unwrap();
    assert!(lines - lines_before <= most, "{lines} lines");
    follower.kill().unwrap();
    finish(lab);
}

/// Datagrams that have come to a namespace, whether or not somebody listens.
fn datagrams(namespace: &Namespace) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp");
    let text = namespace.within(read).unwrap().unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let counters = names.split(' ').zip(values.split(' '));
    let counted = counters.filter(|(name, _)| ["InDatagrams", "NoPorts"].contains(name));
    counted.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_new_pod_is_isolated_from_the_first_instant() {
    let _machine = side_by_side();
    let (mut lab, _) = labelled("first");
    let isolate = "{podSelector: {}, policyTypes: [Ingress]}";
    enforce(&lab, &[network("closed", isolate)]);
    // The lowest address that is free will be the new pod's.
    let plan = lab.node("node-a").unwrap().plan();
    let [a, b, c, _] = plan.gateway().octets();
    let next = Ipv4Addr::new(a, b, c, 4);
    let open = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Full queues are the sender's business.
        socket.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(socket)
    };
    let sockets = ["pod-a1", "pod-b1"].map(|name| pod(&lab, name).within(open).unwrap().unwrap());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for socket in &sockets {
                    let _ = socket.send_to(b"?", (next, 9));
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        lab.add_pod("node-a", "pod-a3").unwrap();
        assert_eq!(address(&lab, "pod-a3"), next);
        std::thread::sleep(SILENCE);
        assert_eq!(datagrams(pod(&lab, "pod-a3")), 0);
        // They did come as far as to its policies.
        enforce(&lab, &[network("open", "{podSelector: {}, ingress: [{}]}")]);
        await_that("what is sent to arrive", || datagrams(pod(&lab, "pod-a3")) > 0);
        is_over.store(true, Ordering::Relaxed);
    });
    finish(lab);
}
