//! What holds against any API server.

use millrace::objects::{PodKey, Store};
use serde_json::{Value, json};

use crate::node::{
    Maker, NODES, PODS, SERVICES, SLICES, Server, TestNode, node, pod, service, slice, unique,
};
use crate::writes::{facts, with_file};

pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";
const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "a"}}})
}

fn policy(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}})
}

/// Deletes what a test made, whatever becomes of the test.
pub(crate) struct Made<'m> {
    maker: &'m Maker,
    pub(crate) objects: Vec<(&'static str, Value)>,
}

impl<'m> Made<'m> {
    pub(crate) fn by(maker: &'m Maker) -> Self {
        Self {
            maker,
            objects: Vec::new(),
        }
    }

    pub(crate) fn make(&mut self, kind: &'static str, object: Value) -> Value {
        let made = self.maker.make(kind, &object);
        self.objects.push((kind, object));
        made
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for (kind, object) in self.objects.iter().rev() {
            let deleted = self.maker.try_delete(kind, object);
            assert!(std::thread::panicking() || deleted.is_ok(), "{deleted:?}");
        }
    }
}

fn has_pod(store: &Store, namespace: &str, name: &str, ip: &str) -> bool {
    let key = PodKey::new(namespace, name).unwrap();
    store
        .pod(&key)
        .is_some_and(|pod| pod.ips == [ip.parse::<std::net::IpAddr>().unwrap()])
}

pub(crate) fn services_of<'s>(
    store: &'s Store,
    namespace: &'s str,
) -> impl Iterator<Item = (&'s str, usize)> {
    let here = store
        .services()
        .iter()
        .filter(move |service| service.record.key.namespace() == namespace);
    here.map(|service| {
        let endpoints = service.slices.iter().map(|slice| slice.endpoints.len()).sum();
        (service.record.key.name(), endpoints)
    })
}

/// Objects of every kind: those that are there before the node, those that are made, changed and deleted while it runs,
/// and those that changed while it was not there.
#[test]
fn objects_are_listed_and_followed() {
    let server = Server::any();
    let state = tempfile::tempdir().unwrap();
    let (a, b, space) = (unique("a"), unique("b"), unique("space"));
    let first = TestNode::start(&server.config, &a, state.path());
    let (_by, maker) = server.maker();
    let mut made = Made::by(&maker);
    made.make(NODES, node(&a, "10.251.1.0/24"));
    made.make(NAMESPACES, namespace(&space));
    made.make(PODS, pod(&space, "web", &a, "10.251.1.7"));
    first.wait("the pod of before", |store| {
        has_pod(store, &space, "web", "10.251.1.7") && store.own_pods().count() == 1
    });

    // A second one finds it all, and follows.
    let elsewhere = tempfile::tempdir().unwrap();
    let second = TestNode::start(&server.config, &a, elsewhere.path());
    second.wait("all of before", |store| {
        store.own_node().is_some() && has_pod(store, &space, "web", "10.251.1.7")
    });
    assert_eq!(second.store().namespaces()[&space].labels["team"], "a");
    made.make(NODES, node(&b, "10.251.2.0/24"));
    made.make(SERVICES, service(&space, "web"));
    made.make(
        SLICES,
        slice(&space, "web-1", "web", &["10.251.1.7", "10.251.2.9"]),
    );
    made.make(POLICIES, policy(&space, "closed"));
    for node in [&first, &second] {
        node.wait("all that was made", |store| {
            let has_policy = store
                .policies()
                .keys()
                .any(|key| key.namespace == space && key.name == "closed");
            has_policy
                && services_of(store, &space).eq([("web", 2)])
                && store.node(&b.parse().unwrap()).is_some()
        });
    }
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices/web-1");
    maker.patch(&path, &json!({"endpoints": [{"addresses": ["10.251.1.7"]}]}));
    second.wait("a change", |store| services_of(store, &space).eq([("web", 1)]));

    // What changes while a node is away is as it is when it comes back.
    drop(first);
    let (kind, object) = made.objects.pop().unwrap();
    maker.delete(kind, &object);
    let first = TestNode::start(&server.config, &a, state.path());
    first.wait("without what was deleted meanwhile", |store| {
        services_of(store, &space).eq([("web", 1)])
            && store.policies().keys().all(|key| key.namespace != space)
    });
    second.wait("without it too", |store| {
        store.policies().keys().all(|key| key.namespace != space)
    });
    drop(made);
    second.wait("nothing of it", |store| {
        store.own_node().is_none()
            && services_of(store, &space).next().is_none()
            && !has_pod(store, &space, "web", "10.251.1.7")
    });
}

/// What makes no sense here is refused by name, and its last good version stays in force, as with manifests.
#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let server = Server::any();
    let state = tempfile::tempdir().unwrap();
    let name = unique("sense");
    let first = TestNode::start(&server.config, &name, state.path());
    let (_by, maker) = server.maker();
    let mut made = Made::by(&maker);
    made.make(NODES, node(&name, "10.252.1.0/24"));
    first.wait("the node", |store| store.own_node().is_some());
    let annotate = |value: &str| {
        let annotations = json!({"flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": "vxlan", "flannel.alpha.coreos.com/public-ip": value});
        maker.patch(
            &format!("{NODES}/{name}"),
            &json!({"metadata": {"annotations": annotations}}),
        );
    };
    annotate("192.0.2.300");
    let store = first.wait("a refusal", |store| store.refusals().next().is_some());
    let words = store.refusals().next().unwrap().to_string();
    let expected = format!(
        "API server: refused: Node {name}: flannel.alpha.coreos.com/public-ip: `192.0.2.300` is no IPv4 address; the last good version stays in force"
    );
    assert_eq!(words, expected);
    assert!(store.own_node().is_some_and(|own| own.lease.is_none()));
    annotate("192.0.2.30");
    first.wait("no refusal", |store| {
        store.refusals().next().is_none() && store.own_node().is_some_and(|own| own.lease.is_some())
    });
}

/// What somebody else has changed meanwhile is not overwritten: the test of the tests' own server that leases rest on.
#[test]
fn an_object_that_changed_meanwhile_is_not_replaced() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
    let server = Server::any();
    let (_by, maker) = server.maker();
    let mut made = Made::by(&maker);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": unique("lease"), "namespace": "default"}, "spec": {"holderIdentity": "a"}});
    let first_version = made.make(LEASES, lease.clone());
    let mut next = first_version.clone();
    next["spec"]["holderIdentity"] = json!("b");
    let taken = maker.replace(LEASES, &next).unwrap();
    assert_eq!(taken["spec"]["holderIdentity"], "b");
    let mut late = first_version;
    late["spec"]["holderIdentity"] = json!("c");
    let refused = maker.replace(LEASES, &late).unwrap_err();
    assert!(
        refused.contains("modified") || refused.contains("409"),
        "{refused}"
    );
    let name = lease["metadata"]["name"].as_str().unwrap();
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/default/leases/{name}");
    assert_eq!(maker.get(&path).unwrap()["spec"]["holderIdentity"], "b");
}

/// A Node without annotations gets all of them, and the condition, from whichever server; the next store has the lease.
#[test]
fn a_node_without_a_lease_gets_one() {
    let server = Server::any();
    let state = tempfile::tempdir().unwrap();
    let name = unique("leased");
    let node_config = with_file(&server.config, state.path());
    let own = TestNode::start(&node_config, &name, state.path());
    let (_by, maker) = server.maker();
    let object = node(&name, "10.250.1.0/24");
    maker.make(NODES, &object);
    own.wait("the node", |store| store.own_node().is_some());
    let lease = own.source.keep_lease().unwrap();
    lease.send_replace(Some(facts(&name)));
    let store = own.wait("the lease", |store| {
        store.own_node().is_some_and(|own| own.lease.is_some())
    });
    let own_node = store.own_node().unwrap();
    let public: Vec<_> = own_node.public_ips().map(|address| address.to_string()).collect();
    assert_eq!(public, ["192.0.2.1", "2001:db8::1"]);
    let written = maker.get(&format!("{NODES}/{name}")).unwrap();
    let conditions = written["status"]["conditions"].as_array().unwrap();
    let condition = conditions
        .iter()
        .find(|condition| condition["type"] == "NetworkUnavailable")
        .unwrap();
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("MillraceIsUp"))
    );
    let data = &written["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-data"];
    assert_eq!(data, "{\"VNI\":1,\"VtepMAC\":\"66:00:00:00:00:04\"}");
    maker.delete(NODES, &object);
}
