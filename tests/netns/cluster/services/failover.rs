//! A load balancer's address in a cluster: given out by one node, announced by one, and by another when that one is killed.
//!
//! The nodes have their objects from the API server of the tests, which listens in each node's own namespace.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use millrace_tools::lab::traffic::tcp_connect;
use millrace_tools::lab::{Lab, Namespace};
use serde_json::{Value, json};

use super::{Server, millraces, understand};
use crate::fake::Fake;
use crate::rig::{address, alone, await_that, daemon, daemon_mut, finish, guest, node, row};

const NODES: &str = "/api/v1/nodes";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const EVENTS: &str = "/apis/events.k8s.io/v1/events";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

const POOL: &str = "\n[load-balancer]\n[[load-balancer.pools]]\nname = \"rack\"\naddresses = [\"192.0.2.200-192.0.2.203\"]\n";
const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
/// What a node file says of it by default: a node that is not heard of for so long is dead.
const LEASE: Duration = Duration::from_secs(2);
/// How long one question may take before it is asked again.
const ONCE: Duration = Duration::from_millis(100);

/// Has a node take its objects from the server.
fn move_to_api(lab: &mut Lab, server: &Fake, name: &str) {
    let listener = node(lab, name)
        .within(|| TcpListener::bind("127.0.0.1:0"))
        .unwrap()
        .unwrap();
    let at = listener.local_addr().unwrap();
    server.serve_at(listener);
    let daemon = daemon_mut(lab, name);
    daemon.stop().unwrap();
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("manifests"));
    let text = lines.collect::<Vec<_>>().join("\n");
    daemon
        .write_config(&format!("{text}\n[kubernetes]\nserver = \"http://{at}\"\n{POOL}"))
        .unwrap();
    daemon.start().unwrap();
}

fn service(name: &str, cluster_ip: &str, more: &Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ipFamilies": ["IPv4"],
            "externalTrafficPolicy": "Local", "ports": [{"port": 80, "protocol": "TCP"}]}});
    let spec = service["spec"].as_object_mut().unwrap();
    spec.extend(more.as_object().unwrap().clone());
    service
}

/// Who answers at the address, if somebody does at once.
fn who(client: &Namespace) -> Option<String> {
    let stream = tcp_connect(client, SocketAddrV4::new(FIRST, 80).into(), ONCE).ok()?;
    stream.set_read_timeout(Some(ONCE)).ok()?;
    let mut line = String::new();
    {
        use std::io::{BufRead as _, BufReader, Write as _};
        let mut writer = stream.try_clone().ok()?;
        writer.write_all(b"who?\n").ok()?;
        BufReader::new(stream).read_line(&mut line).ok()?;
    }
    (!line.is_empty()).then(|| understand(&line).0)
}

/// The server with two nodes, and a Service with a pod on each.
fn objects(lab: &Lab) -> Fake {
    let server = Fake::start();
    for (name, number) in [("node-a", 1), ("node-b", 2)] {
        let cidr = format!("10.244.{number}.0/24");
        server.put(
            NODES,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
                "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{number}")}]}}),
        );
    }
    let endpoint = |pod: &str, node: &str| json!({"addresses": [address(lab, pod)], "nodeName": node});
    server.put(SERVICES, service("web", "10.96.0.40", &json!({})));
    server.put(
        SLICES,
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 8080, "protocol": "TCP"}],
            "endpoints": [endpoint("pod-a1", "node-a"), endpoint("pod-b1", "node-b")]}),
    );
    server
}

/// The node that announces the address, as a node sees it; both the same, or none yet.
fn announcer(lab: &Lab) -> Option<String> {
    let seen = ["node-a", "node-b"].map(|name| {
        let row = row(daemon(lab, name), "load-balancers", "address", &FIRST.to_string())?;
        row["announced_by"].as_str().map(str::to_owned)
    });
    seen[0].clone().filter(|_| seen[0] == seen[1])
}

#[test]
fn another_node_announces_what_a_killed_one_did() {
    let _machine = alone();
    let mut lab = millraces("failover");
    let (client, _) = guest(&lab, "client", 77);
    let server = objects(&lab);
    let _servers = [Server::in_pod(&lab, "pod-a1"), Server::in_pod(&lab, "pod-b1")];
    for name in ["node-a", "node-b"] {
        move_to_api(&mut lab, &server, name);
    }
    let ingress =
        || server.get(SERVICES, "default", "web").unwrap()["status"]["loadBalancer"]["ingress"].clone();
    await_that("a status", || {
        ingress() == json!([{"ip": "192.0.2.200", "ipMode": "VIP"}])
    });
    await_that("both nodes' word for one", || announcer(&lab).is_some());
    let leader = server
        .get(LEASES, "kube-system", "millrace-load-balancer")
        .unwrap();
    assert!(
        leader["spec"]["holderIdentity"]
            .as_str()
            .is_some_and(|holder| holder.starts_with("node-")),
        "{leader}"
    );
    let first = announcer(&lab).unwrap();
    let pod_of = |node: &str| format!("pod-{}1", node.trim_start_matches("node-"));
    await_that("an answer", || who(&client) == Some(pod_of(&first)));
    conflict(&server);
    declined(&lab, &server);
    let second = if first == "node-a" { "node-b" } else { "node-a" };
    daemon_mut(&mut lab, &first).kill().unwrap();
    let killed = Instant::now();
    await_that("an answer by the other node", || {
        who(&client) == Some(pod_of(second))
    });
    let took = killed.elapsed();
    println!(
        "fail-over: {} ms from the kill to the first answer, with a Lease of {LEASE:?}",
        took.as_millis()
    );
    // The status stays, and the node that comes back has its address again, without a probe.
    assert_eq!(ingress(), json!([{"ip": "192.0.2.200", "ipMode": "VIP"}]));
    daemon_mut(&mut lab, &first).start().unwrap();
    await_that("the first node's answer", || who(&client) == Some(pod_of(&first)));
    // While the server is away everything stays.
    server.withdraw(LEASES);
    std::thread::sleep(LEASE * 2);
    // On a machine that is slow an answer may be late; it never is another node's.
    let answers: Vec<_> = (0..20).filter_map(|_| who(&client)).collect();
    assert!(
        !answers.is_empty() && answers.iter().all(|pod| *pod == pod_of(&first)),
        "{answers:?}"
    );
    drop(client);
    finish(lab);
}

/// A second Service wants the first one's address: it gets none, and both have Events that say so.
fn conflict(server: &Fake) {
    let wanting = json!({"loadBalancerIP": "192.0.2.200"});
    server.put(SERVICES, service("late", "10.96.0.41", &wanting));
    let told = |service: &str| {
        let events = server.all(EVENTS);
        let about = |event: &&Value| event["regarding"]["name"] == service;
        events
            .iter()
            .filter(about)
            .any(|event| event["reason"] == "AddressConflict")
    };
    await_that("an Event on both", || told("web") && told("late"));
    let status = server.get(SERVICES, "default", "late").unwrap()["status"].clone();
    assert!(
        status["loadBalancer"]["ingress"]
            .as_array()
            .is_none_or(Vec::is_empty),
        "{status}"
    );
}

/// A machine that is no node has the lowest address that is free. Whichever node announces it finds that out, and whichever
/// gives out addresses gives the Service the next one; both nodes show it.
fn declined(lab: &Lab, server: &Fake) {
    let (owner, _) = guest(lab, "owner", 201);
    let everywhere = json!({"externalTrafficPolicy": "Cluster"});
    server.put(SERVICES, service("next", "10.96.0.42", &everywhere));
    await_that("another address", || {
        let status = &server.get(SERVICES, "default", "next").unwrap()["status"];
        status["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.202"
    });
    let about = |event: &&Value| event["regarding"]["name"] == "next";
    let notes = || -> Vec<String> {
        let events = server.all(EVENTS);
        let notes = events.iter().filter(about).map(|event| event["note"].to_string());
        notes.collect()
    };
    for said in ["is also at", "so 192.0.2.202 is given in its place"] {
        await_that(&format!("an Event: {said}"), || {
            notes().iter().any(|note| note.contains(said))
        });
    }
    for name in ["node-a", "node-b"] {
        await_that("the machine's address to be set aside", || {
            let row = row(daemon(lab, name), "load-balancers", "address", "192.0.2.201");
            row.is_some_and(|row| row["state"] == "set-aside" && row["claimed_by"].is_string())
        });
    }
    drop(owner);
}
