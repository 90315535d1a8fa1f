//! In a chain with the reference plugins, in every version that they speak.

use serde_json::{Value, json};

use crate::runtime::{Runtime, Sandbox, addresses, assert_reaches, finish, lab};

#[test]
fn reference_plugins_before_and_behind_find_what_they_need() {
    let lab = lab("cni-chain", 1);
    let mut runtime = Runtime::new(&lab, "node-a");
    let own = runtime.plugins[0].clone();
    runtime.plugins = vec![
        json!({"type": "loopback"}),
        own,
        json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}),
        json!({"type": "bandwidth"}),
        json!({"type": "portmap", "snat": true}),
    ];
    let pods = [Sandbox::new(&lab, "web"), Sandbox::new(&lab, "db")];
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        runtime.version = version.to_owned();
        let added: Vec<Value> = pods.iter().map(|pod| runtime.add(pod).unwrap()).collect();
        assert_eq!(added[0]["cniVersion"], version);
        let names: Vec<_> = added[0]["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|at| at["name"].clone())
            .collect();
        assert_eq!(names.len(), 3, "{}", added[0]);
        assert_eq!((&names[0], &names[2]), (&json!("lo"), &json!("eth0")));
        assert_ne!(addresses(&added[0]), addresses(&added[1]));
        assert_reaches(&pods[0], &added[1]);
        assert_eq!(pods[0].namespace.get("core/somaxconn").unwrap(), "500");
        if version != "0.3.1" {
            for pod in &pods {
                runtime.check(pod).unwrap();
            }
        }
        for pod in &pods {
            runtime.del(pod).unwrap();
            runtime.del(pod).unwrap();
        }
    }
    finish(lab, &[&runtime], pods.into());
}
