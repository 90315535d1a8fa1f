//! What the objects of a large cluster take: a node of its own process, told of by a server of another.

use std::collections::HashSet;
use std::net::IpAddr;
use std::process::Command;
use std::{env, fs};

use millrace::config::Services;
use millrace::daemon::compile::FAIL_SAFE_PORTS;
use millrace::daemon::compile::policies::{PolicyCompiler, PolicyInputs};
use millrace::daemon::compile::services::{HostListens, ServiceCompiler, ServiceInputs};
use millrace::objects::Store;
use millrace_dataplane::table::HashKey;
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::node::{NODES, PODS, SERVICES, SLICES, TestNode, config, node, pod, service, slice};

const PODS_IN_ALL: usize = 5_000;
const SERVICES_IN_ALL: usize = 10_000;
/// All that the control plane may take, in KiB.
const ALLOWED_KIB: u64 = 300 << 10;
/// Names the server to the process that is measured.
const MEASURED: &str = "MILLRACE_TEST_MEMORY_OF";

/// What an API server sends beside what is used: some 3 KiB for a Pod.
fn with_ballast(mut object: Value) -> Value {
    let fields: Vec<Value> = (0..20)
        .map(|number| json!({"name": format!("VARIABLE_{number}"), "value": "x".repeat(40)}))
        .collect();
    object["metadata"]["managedFields"] = json!([{"manager": "kubelet", "fieldsV1": {"f:spec": fields}}]);
    if let Some(container) = object.pointer_mut("/spec/containers/0") {
        container["env"] = json!(fields);
    }
    object
}

fn address(number: usize) -> String {
    format!("10.244.{}.{}", 1 + number / 200, 2 + number % 200)
}

fn fill(fake: &Fake) {
    for number in 0..25 {
        let cidr = format!("10.244.{}.0/24", 1 + number);
        fake.put(NODES, with_ballast(node(&format!("node-{number}"), &cidr)));
    }
    for number in 0..PODS_IN_ALL {
        let (name, on) = (
            format!("pod-of-a-deployment-{number}"),
            format!("node-{}", number / 200),
        );
        fake.put(PODS, with_ballast(pod("shop", &name, &on, &address(number))));
    }
    for number in 0..SERVICES_IN_ALL {
        let name = format!("service-{number}");
        let mut of = service("shop", &name);
        let ip = format!(
            "10.{}.{}.{}",
            96 + number / 65_536,
            number / 256 % 256,
            number % 256
        );
        of["spec"]["clusterIP"] = json!(ip);
        of["spec"]["clusterIPs"] = json!([ip]);
        fake.put(SERVICES, of);
        let ends: Vec<String> = (0..4)
            .map(|end| address((number * 4 + end) % PODS_IN_ALL))
            .collect();
        let ends: Vec<&str> = ends.iter().map(String::as_str).collect();
        fake.put(
            SLICES,
            with_ballast(slice("shop", &format!("{name}-x"), &name, &ends)),
        );
    }
}

/// Tables of all of it, as the daemon makes them.
fn compile(store: &Store) -> (ServiceCompiler, PolicyCompiler) {
    let own = store.own_node().unwrap();
    let node_addresses: HashSet<IpAddr> = HashSet::new();
    let mut services = ServiceCompiler::new(&Services::default(), HashKey::random(), 2);
    services.update(&ServiceInputs {
        services: store.services(),
        node: &own.name,
        zone: None,
        own_addresses: &[],
        uplink_addresses: &[],
        gateways: &own.gateway_addresses().collect::<Vec<_>>(),
        node_addresses: &node_addresses,
        fail_safe_ports: &FAIL_SAFE_PORTS,
        listens: HostListens(&|_, _, _| Ok(false)),
        host_ports: &[],
        resolver: None,
    });
    let mut policies = PolicyCompiler::new(HashKey::random(), 2);
    policies.update(&PolicyInputs {
        store,
        ports: &[],
        node_addresses: &[],
    });
    (services, policies)
}

/// The most that this process ever had in memory, in KiB (proc(5)).
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The process that is measured: it lists all, makes tables, and lists all anew once the server has forgotten.
fn measured(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let own = TestNode::start_at(
        millrace::cluster::Pace::default(),
        &config(url),
        "node-0",
        folder.path(),
    );
    let is_all =
        |store: &Store| store.services().len() == SERVICES_IN_ALL && store.pods().count() == PODS_IN_ALL;
    let store = own.wait("all of it", is_all);
    let tables = compile(&store);
    own.wait_count("copies_saved", 1);
    println!("listed: {} KiB at most", peak_kib());
    own.wait_count("expired", 4);
    own.wait_count("lists", 10);
    drop(tables);
    let size = fs::metadata(folder.path().join("objects.json")).unwrap().len() >> 10;
    println!("copy: {size} KiB");
    println!("peak_kib={}", peak_kib());
}

#[test]
fn the_objects_of_a_large_cluster_take_less_than_300_mib() {
    if let Ok(url) = env::var(MEASURED) {
        return measured(&url);
    }
    let fake = Fake::start();
    fill(&fake);
    let test = "memory::the_objects_of_a_large_cluster_take_less_than_300_mib";
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", test, "--nocapture"])
        .env(MEASURED, fake.url());
    let child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    crate::node::patiently("all watches", || (fake.watches(SLICES) == 1).then_some(()));
    fake.expire();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(output.status.success());
    let peak = text.lines().find_map(|line| line.strip_prefix("peak_kib="));
    let peak: u64 = peak.unwrap().trim().parse().unwrap();
    assert!(peak < ALLOWED_KIB, "{peak} KiB");
}
