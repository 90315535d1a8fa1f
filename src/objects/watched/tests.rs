use serde_json::json;

use super::*;
use crate::objects::notice::Origin;
use crate::objects::object::Object;
use crate::objects::store::Entry;

fn watched(kind: &str) -> &'static Watched {
    WATCHED.iter().find(|watched| watched.kind == kind).unwrap()
}

fn sight(kind: &str, tree: Value) -> Option<Sighting> {
    let watched = watched(kind);
    Sighting::new(watched, &watched.served[0], tree)
}

const NETWORK_STATUS_TEXT: &str = r#"[
    {"name": "cbr0", "ips": ["10.244.1.5"], "default": true, "dns": {}},
    {"name": "shop/blue", "interface": "net1", "ips": ["10.9.1.5"], "mac": "02:00:00:00:00:05", "dns": {}}]"#;

/// Objects with a value in every field that any record is made of, and with what an API server adds.
fn whole() -> Vec<(&'static str, Value)> {
    let metadata = |more: Value| {
        let mut metadata = json!({
            "name": "a", "uid": "0d3c", "resourceVersion": "17", "generation": 3,
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": "web", "kubernetes.io/service-name": "web", "topology.kubernetes.io/zone": "z"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:metadata": {}}}],
            "ownerReferences": [{"kind": "ReplicaSet"}],
        });
        let fields = metadata.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        metadata
    };
    let selector = json!({"matchLabels": {"app": "web"}});
    vec![
        (
            "Node",
            json!({"metadata": metadata(json!({"annotations": {
                    "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                    "flannel.alpha.coreos.com/backend-type": "vxlan",
                    "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
                    "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:01:01\"}",
                    "projectcalico.org/IPv4Address": "192.0.2.1/24"}})),
                "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"], "providerID": "x",
                    "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                    "conditions": [{"type": "Ready", "status": "True"}], "images": [{"names": ["x"]}]}}),
        ),
        (
            "Namespace",
            json!({"metadata": metadata(json!({})), "spec": {"finalizers": ["kubernetes"]}}),
        ),
        (
            "NetworkPolicy",
            json!({"metadata": metadata(json!({"namespace": "shop"})),
                "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                        "ports": [{"port": "http", "protocol": "TCP"}]}],
                    "egress": [{"to": [{"namespaceSelector": {}}]}]}}),
        ),
        (
            "ClusterNetworkPolicy",
            json!({"metadata": metadata(json!({})),
                "spec": {"tier": "Admin", "priority": 7, "subject": {"namespaces": {}},
                    "ingress": [{"action": "Deny", "from": [{"namespaces": selector}]}]}}),
        ),
        (
            "MultiNetworkPolicy",
            json!({"metadata": metadata(json!({"namespace": "shop", "annotations": {
                    "k8s.v1.cni.cncf.io/policy-for": "blue, lab/red", "a": "b"}})),
                "spec": {"podSelector": selector, "ingress": [{"ports": [{"port": 80, "endPort": 90}]}]}}),
        ),
        (
            "IPPool",
            json!({"metadata": metadata(json!({})),
                "spec": {"cidr": "10.244.0.0/16", "ipipMode": "Never", "vxlanMode": "Always", "natOutgoing": true}}),
        ),
        (
            "IPAMBlock",
            json!({"metadata": metadata(json!({})),
                "spec": {"cidr": "10.244.1.0/26", "affinity": "host:node-a", "deleted": false,
                    "allocations": [0, null], "attributes": [{"secondary": {"node": "node-b"}}]}}),
        ),
        (
            "NetworkAttachmentDefinition",
            json!({"metadata": metadata(json!({"namespace": "shop"})),
                "spec": {"config": "{\"type\": \"millrace-cni\", \"network\": {\"kind\": \"bridged\", \"vni\": 7}}"}}),
        ),
        (
            "BlockAffinity",
            json!({"metadata": metadata(json!({})),
                "spec": {"cidr": "10.244.1.0/26", "node": "node-a", "state": "confirmed", "deleted": "false"}}),
        ),
        (
            "Pod",
            json!({"metadata": metadata(json!({"namespace": "shop", "annotations": {
                    "k8s.v1.cni.cncf.io/network-status": NETWORK_STATUS_TEXT, "a": "b"}})),
                "spec": {"nodeName": "node-a", "hostNetwork": false, "volumes": [{"name": "v"}],
                    "containers": [{"name": "c", "image": "x", "env": [], "ports": [
                        {"name": "http", "containerPort": 80, "protocol": "TCP"}]}],
                    "initContainers": [{"name": "i", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
                "status": {"phase": "Running", "podIP": "10.244.1.5",
                    "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00:1::5"}],
                    "containerStatuses": [{"name": "c", "state": {}}]}}),
        ),
        (
            "Service",
            json!({"metadata": metadata(json!({"namespace": "shop", "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"}})),
                "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                    "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080}],
                    "externalIPs": ["192.0.2.9"], "sessionAffinity": "ClientIP",
                    "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local",
                    "internalTrafficPolicy": "Local", "healthCheckNodePort": 30090},
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8", "ipMode": "VIP"}]}, "conditions": []}}),
        ),
        (
            "EndpointSlice",
            json!({"metadata": metadata(json!({"namespace": "shop"})), "addressType": "IPv4",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
                "endpoints": [{"addresses": ["10.244.1.5"], "nodeName": "node-a", "zone": "z",
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "node-a"}]},
                    "targetRef": {"kind": "Pod", "name": "a", "namespace": "shop"}}]}),
        ),
    ]
}

/// What is cut away makes no difference: of every kind the same comes out as of the whole object.
#[test]
fn what_is_kept_says_all_that_is_read() {
    assert_eq!(whole().len(), WATCHED.len());
    for (kind, tree) in whole() {
        let watched = watched(kind);
        let mut with_header = tree.clone();
        let fields = with_header.as_object_mut().unwrap();
        fields.insert("apiVersion".to_owned(), watched.served[0].api_version.into());
        fields.insert("kind".to_owned(), kind.into());
        let read = |tree: Value| {
            let object = Object::from_tree(tree).unwrap_or_else(|fault| panic!("{kind}: {}", fault.reason));
            Entry::read(Origin::Api, &object).unwrap_or_else(|fault| panic!("{kind}: {fault}"))
        };
        let whole = read(with_header);
        let sighting = sight(kind, tree).unwrap();
        let text = sighting.tree.to_string();
        assert_eq!(whole, read(sighting.tree.clone()), "{kind}");
        assert_eq!(whole.0.id, sighting.id, "{kind}");
        for gone in [
            "managedFields",
            "resourceVersion",
            "ownerReferences",
            "last-applied",
            "volumes",
            "containerStatuses",
            "images",
            "env",
            "cbr0",
            "net1",
        ] {
            assert!(!text.contains(gone), "{kind}: {gone} in {text}");
        }
        // And it is what a copy gives back.
        let again = Sighting::of_line(&text).unwrap();
        assert_eq!((again.id, again.tree), (sighting.id, sighting.tree), "{kind}");
    }
}

/// A cluster with Multus writes the annotation for every Pod, also for those with nothing but their first interface.
#[test]
fn what_says_nothing_of_other_networks_is_not_kept() {
    let pod = |annotations: Value| json!({"metadata": {"name": "a", "annotations": annotations}});
    let text = |tree: Value| sight("Pod", tree).unwrap().tree.to_string();
    let bare = text(json!({"metadata": {"name": "a"}}));
    let first = r#"[{"name": "cbr0", "ips": ["10.244.1.5"], "default": true, "dns": {}}]"#;
    for annotations in [
        json!({}),
        json!({"a": "b"}),
        json!({"k8s.v1.cni.cncf.io/network-status": first, "a": "b"}),
    ] {
        assert_eq!(text(pod(annotations.clone())), bare, "{annotations}");
    }
    // What is wrong stays, to be told of.
    for wrong in [json!("x"), json!(7)] {
        let tree = pod(json!({"k8s.v1.cni.cncf.io/network-status": wrong}));
        let kept = sight("Pod", tree).unwrap().tree;
        assert_eq!(
            kept["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"],
            wrong
        );
    }
}

#[test]
fn what_is_no_object_is_none() {
    for tree in [
        json!(null),
        json!([]),
        json!("x"),
        json!({}),
        json!({"metadata": {}}),
        json!({"metadata": []}),
        json!({"metadata": {"name": 7}}),
        json!({"metadata": {"name": ""}}),
    ] {
        assert_eq!(sight("Pod", tree.clone()), None, "{tree}");
    }
    for line in [
        "",
        "{",
        "[]",
        "{\"kind\":\"Secret\",\"metadata\":{\"name\":\"a\"}}",
        "{\"kind\":7}",
    ] {
        assert_eq!(Sighting::of_line(line), None, "{line}");
    }
    // The path decides what it is.
    let pod = sight("Pod", json!({"kind": "Node", "metadata": {"name": "a"}})).unwrap();
    assert_eq!(
        (pod.id.kind.as_str(), pod.tree["kind"].as_str()),
        ("Pod", Some("Pod"))
    );
}

#[test]
fn versions_are_numbers_or_tell_nothing() {
    let version = |text: Value| {
        sight("Pod", json!({"metadata": {"name": "a", "resourceVersion": text}}))
            .unwrap()
            .version
    };
    let (nine, ten, word) = (version(json!("9")), version(json!("10")), version(json!("x")));
    assert!(nine.is_past(ten) && ten.is_past(ten) && !ten.is_past(nine));
    assert!(!word.is_past(ten) && !ten.is_past(word) && !word.is_past(word));
    assert_eq!(version(json!(7)), Version::default());
}
