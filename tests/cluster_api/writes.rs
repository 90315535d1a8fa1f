//! What a node says of itself: flannel's annotations and condition of its Node, and subnet.env.

use std::fs;

use millrace::cluster::{LeaseBackend, LeaseFacts};
use millrace::config::Kubernetes;
use serde_json::json;

use crate::fake::{Fake, Fault};
use crate::node::{Maker, NODES, SERVICES, TestNode, config, node, patiently};

pub(crate) fn facts(name: &str) -> LeaseFacts {
    LeaseFacts {
        node: name.parse().unwrap(),
        backend: LeaseBackend::Vxlan {
            vni: millrace::objects::Vni::FLANNEL,
            mac_v4: "66:00:00:00:00:04".parse().unwrap(),
            mac_v6: "66:00:00:00:00:06".parse().unwrap(),
        },
        public_ip_v4: Some("192.0.2.1".parse().unwrap()),
        public_ip_v6: Some("2001:db8::1".parse().unwrap()),
        pod_cidr_v4: Some("10.250.1.0/24".parse().unwrap()),
        pod_cidr_v6: Some("fd00:250:0:1::/64".parse().unwrap()),
        mtu: 1430,
        masquerade: true,
        present: None,
    }
}

pub(crate) fn with_file(config: &Kubernetes, folder: &std::path::Path) -> Kubernetes {
    Kubernetes {
        subnet_env: folder.join("subnet.env"),
        pod_network: vec!["10.250.0.0/16".parse().unwrap(), "fd00:250::/56".parse().unwrap()],
        ..config.clone()
    }
}

/// A Node of the tests' own server with a lease kept on it.
struct Bench {
    fake: Fake,
    own: TestNode,
    maker: Maker,
    lease: tokio::sync::watch::Sender<Option<LeaseFacts>>,
    folder: tempfile::TempDir,
}

const OWN: &str = "node-a";

impl Bench {
    fn start(annotations: &serde_json::Value) -> Self {
        let fake = Fake::start();
        let mut object = node(OWN, "10.250.1.0/24");
        object["metadata"]["annotations"] = annotations.clone();
        object["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
        fake.put(NODES, object);
        let folder = tempfile::tempdir().unwrap();
        let own = TestNode::start(
            &with_file(&config(&fake.url()), folder.path()),
            OWN,
            folder.path(),
        );
        own.wait("the node", |store| store.own_node().is_some());
        let lease = own.source.keep_lease().unwrap();
        lease.send_replace(Some(facts(OWN)));
        Self {
            maker: Maker::of(&own),
            fake,
            own,
            lease,
            folder,
        }
    }

    /// The patches that were sent.
    fn patches(&self) -> Vec<String> {
        let status = format!("{NODES}/{OWN}/status");
        let seen = self.fake.seen();
        let patches = seen
            .iter()
            .filter(|seen| seen.verb == "patch" && seen.path == status);
        patches
            .map(|seen| format!("{} {}", seen.content_type, seen.body))
            .collect()
    }

    fn annotation(&self, name: &str) -> String {
        let node = self.fake.get(NODES, "", OWN).unwrap();
        let value = &node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{name}")];
        value.as_str().unwrap_or_default().to_owned()
    }
}

#[test]
fn both_families_are_written_by_one_patch_of_the_status_byte_by_byte() {
    let bench = Bench::start(&json!({"other": "kept"}));
    bench.own.wait_count("leases_written", 1);
    let patches = bench.patches();
    assert_eq!(patches.len(), 1, "{patches:?}");
    let annotations = r#"application/strategic-merge-patch+json {"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"66:00:00:00:00:04\"}","flannel.alpha.coreos.com/backend-type":"vxlan","flannel.alpha.coreos.com/backend-v6-data":"{\"VNI\":1,\"VtepMAC\":\"66:00:00:00:00:06\"}","flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/public-ip":"192.0.2.1","flannel.alpha.coreos.com/public-ipv6":"2001:db8::1"}},"status":{"conditions":[{"#;
    assert!(patches[0].starts_with(annotations), "{}", patches[0]);
    let node = bench.fake.get(NODES, "", OWN).unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    assert_eq!(
        (conditions.len(), &conditions[0]["type"]),
        (2, &json!("Ready")),
        "others' conditions stay"
    );
    assert_eq!(node["status"]["addresses"][0]["address"], "192.0.2.1");
    assert_eq!(node["metadata"]["annotations"]["other"], "kept");
}

/// What flannel published before: its MAC addresses are kept, also over a restart with others, and put back if somebody
/// takes the annotation away.
#[test]
fn macs_are_kept_and_what_somebody_changes_is_put_right() {
    let bench = Bench::start(&json!({
        "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"aa:bb:cc:00:00:01\"}",
        "flannel.alpha.coreos.com/public-ip-overwrite": "198.51.100.7"}));
    bench.own.wait_count("leases_written", 1);
    assert_eq!(
        bench.annotation("backend-data"),
        "{\"VNI\":1,\"VtepMAC\":\"aa:bb:cc:00:00:01\"}"
    );
    assert_eq!(bench.annotation("public-ip"), "198.51.100.7");
    // As the daemon does: a new word of the own Node is a reason to look at it again.
    let path = format!("{NODES}/{OWN}");
    bench.maker.patch(&path, &json!({"metadata": {"annotations": {
        "flannel.alpha.coreos.com/kube-subnet-manager": null, "flannel.alpha.coreos.com/public-ip": "192.0.2.99"}}}));
    let store = bench.own.wait("no lease", |store| {
        store.own_node().is_some_and(|own| own.lease.is_none())
    });
    let present = store.own_node().unwrap().lease.clone();
    let mac = "aa:bb:cc:00:00:01".parse().unwrap();
    bench.lease.send_replace(Some(LeaseFacts {
        present,
        backend: LeaseBackend::Vxlan {
            vni: millrace::objects::Vni::FLANNEL,
            mac_v4: mac,
            mac_v6: mac,
        },
        ..facts(OWN)
    }));
    bench.own.wait("the lease again", |store| {
        store.own_node().is_some_and(|own| own.lease.is_some())
    });
    assert_eq!(bench.annotation("kube-subnet-manager"), "true");
    assert_eq!(bench.annotation("public-ip"), "198.51.100.7");
    assert_eq!(
        bench.annotation("backend-v6-data"),
        "{\"VNI\":1,\"VtepMAC\":\"66:00:00:00:00:06\"}"
    );
    assert_eq!(bench.patches().len(), 2);
}

#[test]
fn a_lease_that_cannot_be_written_is_tried_again() {
    let fake = Fake::start();
    fake.put(NODES, node(OWN, "10.250.1.0/24"));
    for code in [403, 500, 409] {
        fake.fail("patch", NODES, Fault::Refuse(code, None));
    }
    fake.fail("get", NODES, Fault::Refuse(500, None));
    let folder = tempfile::tempdir().unwrap();
    let own = TestNode::start(
        &with_file(&config(&fake.url()), folder.path()),
        OWN,
        folder.path(),
    );
    let lease = own.source.keep_lease().unwrap();
    lease.send_replace(Some(LeaseFacts {
        backend: LeaseBackend::Ipip,
        ..facts(OWN)
    }));
    own.wait_count("leases_written", 1);
    assert_eq!(fake.faults_left(), 0);
    let written = fake.get(NODES, "", OWN).unwrap()["metadata"]["annotations"].clone();
    assert_eq!(
        written,
        json!({"flannel.alpha.coreos.com/backend-data": "null", "flannel.alpha.coreos.com/backend-type": "ipip",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true", "flannel.alpha.coreos.com/public-ip": "192.0.2.1"})
    );
}

#[test]
fn subnet_env_is_written_and_put_right() {
    let bench = Bench::start(&json!({}));
    let path = bench.folder.path().join("subnet.env");
    let read = || fs::read_to_string(&path).unwrap_or_default();
    let whole = "FLANNEL_NETWORK=10.250.0.0/16\nFLANNEL_SUBNET=10.250.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:250::/56\nFLANNEL_IPV6_SUBNET=fd00:250:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n";
    patiently("the file", || (read() == whole).then_some(()));
    fs::write(&path, "FLANNEL_MTU=9000\n").unwrap();
    patiently("the file, put right", || (read() == whole).then_some(()));
    fs::remove_file(&path).unwrap();
    patiently("the file, made again", || (read() == whole).then_some(()));
    bench.lease.send_replace(Some(LeaseFacts {
        mtu: 8930,
        ..facts(OWN)
    }));
    patiently("another MTU", || {
        read().contains("FLANNEL_MTU=8930\n").then_some(())
    });
    // In another network than flannel's nothing is written.
    bench.lease.send_replace(None);
    let patches = bench.patches().len();
    fs::remove_file(&path).unwrap();
    let stores = bench.own.count("stores");
    bench.fake.put(NODES, node("node-z", "10.9.0.0/24"));
    bench.own.wait_count("stores", stores + 1);
    assert_eq!((read().as_str(), bench.patches().len()), ("", patches));
}

const EVENTS: &str = "/apis/events.k8s.io/v1/events";

/// A Service whose address is no address.
fn wrong_service(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1000", "ports": [{"port": 80}]}})
}

#[test]
fn what_is_refused_is_told_on_the_object_once_and_by_one_node() {
    let fake = Fake::start();
    fake.put(NODES, node(OWN, "10.250.1.0/24"));
    let wrong = fake.put(SERVICES, wrong_service("wrong"));
    let folder = tempfile::tempdir().unwrap();
    let own = TestNode::start(&config(&fake.url()), OWN, folder.path());
    own.wait_count("events", 1);
    let events = fake.all(EVENTS);
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "wrong", "uid": wrong["metadata"]["uid"]})
    );
    let text = |field: &str| event[field].as_str().unwrap().to_owned();
    assert_eq!(
        (text("type"), text("reason"), text("action")),
        ("Warning".into(), "Refused".into(), "Refuse".into())
    );
    assert!(text("note").contains("10.96.0.1000"), "{}", text("note"));
    // It changes, and is wrong in the same way: nothing new.
    let mut again = wrong_service("wrong");
    again["metadata"]["labels"] = json!({"a": "b"});
    fake.put(SERVICES, again);
    // Another node says the same of it: it is there already.
    let other_folder = tempfile::tempdir().unwrap();
    let other = TestNode::start(&config(&fake.url()), "node-b", other_folder.path());
    other.wait_count("events_left_out", 1);
    fake.put(SERVICES, wrong_service("wrong-too"));
    patiently("the second one", || (fake.all(EVENTS).len() == 2).then_some(()));
    // Who sent it counts it once it has heard that it is there.
    let sent = || own.count("events") + other.count("events");
    patiently("its sender's word for it", || (sent() == 2).then_some(()));
}

/// Thousands of refusals neither fill the server nor hold up anything.
#[test]
fn a_flood_of_refusals_is_bounded() {
    let fake = Fake::start();
    fake.put(NODES, node(OWN, "10.250.1.0/24"));
    for number in 0..2000 {
        fake.put(SERVICES, wrong_service(&format!("wrong-{number}")));
    }
    for code in [403, 500] {
        fake.fail("create", EVENTS, Fault::Refuse(code, None));
    }
    let folder = tempfile::tempdir().unwrap();
    let own = TestNode::start(&config(&fake.url()), OWN, folder.path());
    let store = own.wait("the store", |store| store.own_node().is_some());
    assert_eq!(store.refusals().count(), 2000);
    own.wait_count("events", 30);
    // One every two seconds from here on.
    assert!(fake.all(EVENTS).len() < 256, "{}", fake.all(EVENTS).len());
    assert!(own.count("events_left_out") >= 2000 - 256 - 32);
    assert_eq!((own.count("events_failed"), fake.faults_left()), (2, 0));
    // And none at all where the node file says so.
    let mute = Kubernetes {
        events: false,
        ..config(&fake.url())
    };
    let before = fake.all(EVENTS).len();
    let quiet_folder = tempfile::tempdir().unwrap();
    drop(own);
    let quiet = TestNode::start(&mute, "node-b", quiet_folder.path());
    quiet.wait("the store", |store| store.refusals().count() == 2000);
    assert_eq!((quiet.count("events"), quiet.count("events_left_out")), (0, 0));
    assert!(fake.all(EVENTS).len() <= before + 1);
}
