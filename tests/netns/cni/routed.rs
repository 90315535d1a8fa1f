//! Interfaces in routed networks: the plugin as Multus calls it. What packets do there is another test's, but for what they are
//! held to.

use millrace_tools::lab::{Lab, wait_until};
use serde_json::{Value, json};

use crate::bandwidth::{RATE, assert_at_rate};
use crate::runtime::{PATIENCE, Refused, Runtime, Sandbox, addresses, daemon, daemon_mut, finish, lab, run};

/// Two that name each other, the first two bytes of their addresses, and their numbers.
const NETWORKS: [(&str, &str, u32, &str); 2] = [("blue", "10.9", 100, "red"), ("red", "10.8", 101, "blue")];

fn network((_, prefix, vni, other): (&str, &str, u32, &str)) -> Value {
    let v6 = format!("fd{}", &prefix[3..]);
    json!({
        "kind": "routed", "vni": vni, "routesTo": [format!("lab/{other}"), "cluster"],
        "subnets": [format!("{prefix}.0.0/16"), format!("{v6}::/64")],
        "nodeBlocks": {"node-a": [format!("{prefix}.0.0/24"), format!("{v6}::/112")]},
    })
}

fn definitions() -> String {
    let all = NETWORKS.map(|row| {
        let config =
            json!({"cniVersion": "1.1.0", "name": row.0, "type": "millrace-cni", "network": network(row)});
        json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": row.0, "namespace": "lab"}, "spec": {"config": config.to_string()},
        })
        .to_string()
    });
    all.join("\n")
}

/// A runtime that calls the plugin as Multus does for the first network.
fn multus(lab: &Lab) -> Runtime {
    let mut runtime = Runtime::new(lab, "node-a");
    runtime.network = NETWORKS[0].0.to_owned();
    runtime.plugins[0]["network"] = network(NETWORKS[0]);
    runtime.plugins[0]["capabilities"] = json!({"ips": true, "mac": true, "bandwidth": true});
    // Where the plugin has this network's own store, below that of the configuration.
    runtime.data = runtime.data.join(".networks").join("100-8472");
    runtime
}

fn refused<T>(outcome: Result<T, Refused>) -> Refused {
    outcome.err().expect("a refusal")
}

fn limits(lab: &Lab) -> Vec<Value> {
    let rows = daemon(lab, "node-a").json(&["show", "ports"]).unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.filter_map(|row| row["limits"].as_array()?.first().cloned())
        .collect()
}

#[test]
fn a_routed_interface_has_the_ways_to_other_networks_and_its_bandwidth() {
    let mut lab = lab("cni-routed", 1);
    daemon(&lab, "node-a")
        .write_manifest("networks.json", &definitions())
        .unwrap();
    wait_until("the networks", PATIENCE, || {
        let networks = daemon(&lab, "node-a").json(&["show", "networks"])?;
        Ok(networks.as_array().is_some_and(|all| all.len() == NETWORKS.len()))
    })
    .unwrap();
    let (first, blue) = (Runtime::new(&lab, "node-a"), multus(&lab));
    let [mut pod, mut other] = ["web", "db"].map(|name| Sandbox::new(&lab, name));
    first.add(&pod).unwrap();
    for sandbox in [&mut pod, &mut other] {
        sandbox.interface = "net1".to_owned();
    }
    let added = blue.add(&pod).unwrap();
    // The subnet's own address and the gateway's are nobody's.
    let ips: Vec<_> = added["ips"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&ips[0]["address"], &ips[0]["gateway"]),
        (&json!("10.9.0.2/16"), &json!("10.9.0.1")),
        "{added}"
    );
    assert_eq!(ips[1]["gateway"], "fd9::1", "{added}");
    let routes: Vec<_> = added["routes"].as_array().unwrap().iter().collect();
    let routes: Vec<_> = routes
        .iter()
        .map(|route| (route["dst"].clone(), route["gw"].clone()))
        .collect();
    assert_eq!(
        routes,
        [
            (json!("10.8.0.0/16"), json!("10.9.0.1")),
            (json!("fd8::/64"), json!("fd9::1"))
        ],
        "to the cluster it has its first interface: {added}"
    );
    let told = pod.namespace.ip(&["route", "show", "10.8.0.0/16"]).unwrap();
    assert!(told.contains("via 10.9.0.1 dev net1"), "{told}");
    let told = pod.namespace.ip(&["route", "show", "default"]).unwrap();
    assert!(told.lines().count() == 1 && told.contains("eth0"), "{told}");
    blue.check(&pod).unwrap();
    let stray = json!({"runtimeConfig": {"ips": ["10.9.7.7/16"]}});
    let said = refused(blue.add_with(&other, &stray));
    assert!(
        said.msg.contains("none of the blocks that are behind node-a"),
        "{said:?}"
    );
    let taken = json!({"runtimeConfig": {"ips": ["10.9.0.1/16"]}});
    refused(blue.add_with(&other, &taken));

    let asked = json!({"runtimeConfig": {"bandwidth": {"ingressRate": RATE}}});
    let slow = blue.add_with(&other, &asked).unwrap();
    let limited = limits(&lab);
    assert!(
        limited.len() == 1 && limited[0]["direction"] == "ingress" && limited[0]["rate"] == RATE,
        "{limited:?}"
    );
    assert_at_rate(&pod, (&other, addresses(&slow).0.into()), "a second interface");
    // CHECK is given what the runtime would have now.
    let check = |more: &Value| {
        let config = blue.config(&blue.plugins[0], more, Some(&slow));
        run(blue.command("CHECK", Some(&other), "millrace-cni"), &config)
    };
    assert_eq!(check(&asked), Ok(Value::Null));
    let differs = json!({"runtimeConfig": {"bandwidth": {"ingressRate": RATE + 1000}}});
    let said = refused(check(&differs));
    assert!(said.msg.contains("should be ingress"), "{said:?}");

    let daemon = daemon_mut(&mut lab, "node-a");
    daemon.stop().unwrap();
    daemon.start().unwrap();
    blue.check(&other).unwrap();
    assert_eq!(limits(&lab).len(), 1, "it outlasts the daemon");
    assert_at_rate(&pod, (&other, addresses(&slow).0.into()), "after a restart");
    blue.del(&other).unwrap();
    blue.del(&pod).unwrap();
    pod.interface = "eth0".to_owned();
    first.del(&pod).unwrap();
    finish(lab, &[&first, &blue], vec![pod, other]);
}
