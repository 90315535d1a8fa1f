//! Objects from an API server: the whole switch, with the server of `tests/cluster_api` in the node's own namespace.

use std::fs;

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::rig::{
    address, await_reach, await_that, daemon, daemon_mut, finish, node, pair, pod, side_by_side,
};

const NODES: &str = "/api/v1/nodes";

/// Gives a server what is in a folder of manifests.
fn serve(fake: &Fake, manifests: &std::path::Path) {
    for file in fs::read_dir(manifests).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            let path = match object["kind"].as_str().unwrap() {
                "Node" => NODES,
                "Pod" => "/api/v1/pods",
                other => panic!("{other} among the lab's manifests"),
            };
            fake.put(path, object);
        }
    }
}

fn source(lab: &millrace_tools::lab::Lab) -> Value {
    daemon(lab, "node-a").json(&["stats"]).unwrap()["source"].clone()
}

/// The node says of itself what flannel's peers need, with the MAC that it had; its pods reach others' while the server is
/// away, and after a restart without it.
#[test]
fn a_node_of_an_api_server_writes_its_lease_and_outlives_the_server() {
    let _turn = side_by_side();
    let mut lab = pair("api", 1);
    let (there, back) = (address(&lab, "pod-b1"), address(&lab, "pod-a1"));
    let mut fake = node(&lab, "node-a").within(Fake::start).unwrap();
    let manifests = daemon(&lab, "node-a").manifests();
    serve(&fake, &manifests);
    let mut own = fake.get(NODES, "", "node-a").unwrap();
    let annotations = own["metadata"]["annotations"].as_object_mut().unwrap();
    let before = annotations.clone();
    annotations.retain(|name, _| name.ends_with("/backend-data"));
    fake.put(NODES, own);

    let switch = daemon_mut(&mut lab, "node-a");
    let subnet_env = switch.state().join("subnet.env");
    let kubernetes = format!(
        "\n[kubernetes]\nserver = {:?}\nsubnet-env = {subnet_env:?}\npod-network = [\"10.244.0.0/16\"]\n",
        fake.url()
    );
    let config = fs::read_to_string(switch.config()).unwrap();
    let config = config.replace(&format!("manifests = {manifests:?}\n"), "");
    switch.write_config(&format!("{config}{kubernetes}")).unwrap();
    switch.stop().unwrap();
    switch.start().unwrap();
    let written = || fake.get(NODES, "", "node-a").unwrap();
    await_that("the annotations of before, and the condition", || {
        let own = written();
        let annotations = own["metadata"]["annotations"].as_object().unwrap();
        *annotations == before && own["status"]["conditions"][0]["status"] == json!("False")
    });
    await_reach(pod(&lab, "pod-a1"), there);
    await_reach(pod(&lab, "pod-b1"), back);
    let text = fs::read_to_string(&subnet_env).unwrap();
    assert_eq!(
        text,
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    );
    let told = source(&lab);
    assert_eq!(
        (&told["kind"], &told["reachable"]),
        (&json!("kubernetes"), &json!(true)),
        "{told}"
    );

    fake.pause();
    await_that("the server is said to be away", || {
        source(&lab)["reachable"] == json!(false)
    });
    await_reach(pod(&lab, "pod-a1"), there);
    let switch = daemon_mut(&mut lab, "node-a");
    switch.stop().unwrap();
    switch.start().unwrap();
    await_reach(pod(&lab, "pod-a1"), there);
    await_reach(pod(&lab, "pod-b1"), back);
    let told = source(&lab);
    assert_eq!(
        (&told["from_copy"], &told["reachable"]),
        (&json!(true), &json!(false)),
        "{told}"
    );
    // Said once in a run, and not for every request.
    let log = fs::read_to_string(daemon(&lab, "node-a").log()).unwrap();
    assert!(
        !log.contains("kube_client") && log.matches("cannot be reached").count() <= 2,
        "{log}"
    );
    fake.resume();
    await_that("the server's word again", || {
        source(&lab)["from_copy"] == json!(false)
    });
    finish(lab);
}
