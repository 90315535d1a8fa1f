//! Interfaces in networks beside the cluster's own: the plugin as Multus calls it, with the configuration of a
//! NetworkAttachmentDefinition. What frames do there is another test's.

use millrace_tools::lab::{Lab, wait_until};
use serde_json::{Value, json};

use crate::runtime::{PATIENCE, Refused, Runtime, Sandbox, addresses, daemon, daemon_mut, finish, lab};

/// Two networks with the same addresses, whose blocks are this node's, and one without a block of it.
const NETWORKS: [(&str, u32, &str); 3] = [
    ("blue", 100, "node-a"),
    ("red", 101, "node-a"),
    ("grey", 102, "node-b"),
];

fn network(vni: u32, node: &str) -> Value {
    json!({
        "kind": "bridged", "vni": vni, "subnets": ["10.9.0.0/16", "fd09::/64"], "gateways": ["10.9.1.0"],
        "nodeBlocks": {node: ["10.9.1.0/24", "fd09::1:0/112"]},
    })
}

fn definitions() -> String {
    let all = NETWORKS.map(|(name, vni, node)| {
        let config = json!({"cniVersion": "1.1.0", "name": name, "type": "millrace-cni", "network": network(vni, node)});
        json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": "lab"}, "spec": {"config": config.to_string()},
        })
        .to_string()
    });
    all.join("\n")
}

/// A runtime that calls the plugin as Multus does for one of the networks.
fn multus(lab: &Lab, name: &str) -> Runtime {
    let (_, vni, node) = NETWORKS.into_iter().find(|(known, ..)| *known == name).unwrap();
    let mut runtime = Runtime::new(lab, "node-a");
    runtime.network = name.to_owned();
    runtime.plugins[0]["network"] = network(vni, node);
    runtime.plugins[0]["capabilities"] = json!({"ips": true, "mac": true});
    // Where the plugin has this network's own store, below that of the configuration.
    runtime.data = runtime.data.join(".networks").join(format!("{vni}-8472"));
    runtime
}

fn members(lab: &Lab, name: &str) -> usize {
    let networks = daemon(lab, "node-a").json(&["show", "networks"]).unwrap();
    let mut networks = networks.as_array().unwrap().iter();
    let network = networks
        .find(|network| network["network"] == format!("lab/{name}"))
        .unwrap();
    network["members"].as_array().unwrap().len()
}

fn with_length(result: &Value) -> Vec<&str> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap()).collect()
}

fn assert_refused<T>(outcome: Result<T, Refused>, code: u64, words: &str) {
    let refused = outcome.err().unwrap();
    assert!(refused.code == code && refused.msg.contains(words), "{refused:?}");
}

#[test]
fn further_interfaces_are_made_as_multus_asks_for_them() {
    let mut lab = lab("cni-second", 1);
    daemon(&lab, "node-a")
        .write_manifest("networks.json", &definitions())
        .unwrap();
    wait_until("the networks", PATIENCE, || {
        let networks = daemon(&lab, "node-a").json(&["show", "networks"])?;
        Ok(networks.as_array().is_some_and(|all| all.len() == NETWORKS.len()))
    })
    .unwrap();
    let (first, blue, red, grey) = (
        Runtime::new(&lab, "node-a"),
        multus(&lab, "blue"),
        multus(&lab, "red"),
        multus(&lab, "grey"),
    );
    let mut pod = Sandbox::new(&lab, "web");
    let added = first.add(&pod).unwrap();
    pod.interface = "net1".to_owned();
    blue.status().unwrap();
    let second = blue.add(&pod).unwrap();
    assert_eq!(with_length(&second), ["10.9.1.1/16", "fd09::1:0/64"]);
    assert_eq!(second["routes"], json!([]), "no default route");
    assert_eq!(
        addresses(&blue.add(&pod).unwrap()),
        addresses(&second),
        "asked for again"
    );
    blue.check(&pod).unwrap();
    // What another network gives is none of this one's business.
    pod.interface = "net2".to_owned();
    assert_eq!(
        with_length(&red.add(&pod).unwrap()),
        ["10.9.1.1/16", "fd09::1:0/64"]
    );
    pod.interface = "net3".to_owned();
    assert_refused(grey.add(&pod), 100, "nodeBlocks");
    assert_eq!(pod.interfaces(), ["eth0", "net1", "net2"]);
    let routes = pod.namespace.ip(&["route", "show", "default"]).unwrap();
    assert_eq!(routes.lines().count(), 1, "{routes}");
    assert_eq!(
        (members(&lab, "blue"), members(&lab, "red"), members(&lab, "grey")),
        (1, 1, 0)
    );

    // Addresses and a MAC address that are asked for, one of them another's.
    let mut other = Sandbox::new(&lab, "db");
    other.interface = "net1".to_owned();
    let mac = "02:00:00:00:77:77";
    let asked = |ip: &str| json!({"runtimeConfig": {"ips": [ip], "mac": mac}});
    assert_refused(
        blue.add_with(&other, &asked("10.9.1.1")),
        100,
        "another container has it",
    );
    assert_refused(
        blue.add_with(&other, &asked("10.8.1.1")),
        100,
        "in none of the subnets",
    );
    let result = blue.add_with(&other, &asked("10.9.7.7/16")).unwrap();
    assert_eq!(with_length(&result), ["10.9.7.7/16", "fd09::1:1/64"]);
    assert_eq!(result["interfaces"][1]["mac"], mac);
    assert_eq!(blue.stored(), 2);

    // All of it is taken up by the next run.
    let daemon = daemon_mut(&mut lab, "node-a");
    daemon.stop().unwrap();
    daemon.start().unwrap();
    pod.interface = "net1".to_owned();
    for sandbox in [&pod, &other] {
        blue.check(sandbox).unwrap();
    }
    pod.namespace
        .ip(&["address", "del", "10.9.1.1/16", "dev", "net1"])
        .unwrap();
    assert_refused(blue.check(&pod), 101, "lacks the address");

    // Each goes by itself, and a second time.
    blue.gc(&[&other]).unwrap();
    assert_eq!(pod.interfaces(), ["eth0", "net2"]);
    assert_eq!((members(&lab, "blue"), members(&lab, "red")), (1, 1));
    blue.del(&other).unwrap();
    blue.del(&other).unwrap();
    pod.interface = "net2".to_owned();
    red.del(&pod).unwrap();
    assert_eq!((members(&lab, "blue"), members(&lab, "red")), (0, 0));
    pod.interface = "eth0".to_owned();
    first.check(&pod).unwrap();
    assert_eq!(addresses(&first.add(&pod).unwrap()), addresses(&added));
    first.del(&pod).unwrap();
    for runtime in [&blue, &red, &grey] {
        assert_eq!(runtime.stored(), 0);
    }
    finish(lab, &[&first], vec![pod, other]);
}
