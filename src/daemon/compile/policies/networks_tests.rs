#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use millrace_dataplane::table::policy::{Judgement, Query, Ruling};
use millrace_dataplane::wire::IpProtocol;
use serde_json::json;

use super::*;
use crate::admin::protocol::{PodInterface, TapDevice};
use crate::objects::manifests::{self, Syntax};
use crate::objects::{Entry, NodeName, PodKey};

/// Two pods of this node in `shop/red`, one elsewhere, and policies for two networks.
const OBJECTS: &str = r#"---
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDR: 10.244.1.0/24}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-b}, spec: {podCIDR: 10.244.2.0/24}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, spec: {nodeName: node-a}, status: {podIP: 10.244.1.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: node-a}, status: {podIP: 10.244.1.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: far, namespace: shop, labels: {app: web}, annotations: {k8s.v1.cni.cncf.io/network-status: '[{"name": "shop/red", "ips": ["10.9.2.4"]}]'}}, spec: {nodeName: node-b}, status: {podIP: 10.244.2.4}}
---
{apiVersion: k8s.cni.cncf.io/v1beta1, kind: MultiNetworkPolicy, metadata: {name: only-web, namespace: shop, annotations: {k8s.v1.cni.cncf.io/policy-for: "red, lab/green"}}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: shop}, spec: {podSelector: {}}}
---
{apiVersion: k8s.cni.cncf.io/v1beta1, kind: MultiNetworkPolicy, metadata: {name: nowhere, namespace: shop}, spec: {podSelector: {}}}
"#;

fn store(text: &str) -> Store {
    let found = manifests::read(&PathBuf::from("x.yaml"), Syntax::Yaml, text.as_bytes());
    let entries = found
        .into_iter()
        .map(|found| Entry::read(found.origin, &found.object.unwrap()).unwrap().0);
    Store::build(&NodeName::new("node-a").unwrap(), entries.collect(), Vec::new())
}

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

fn red() -> NetworkKey {
    "shop/red".parse().unwrap()
}

fn local(number: u16, pod: &str, address: &str) -> LocalPort {
    LocalPort {
        id: port(number),
        pod: PodKey::new("shop", pod).unwrap(),
        addresses: vec![address.parse().unwrap()],
    }
}

fn locals() -> Vec<LocalPort> {
    vec![
        local(2, "db", "10.9.1.2"),
        local(3, "web", "10.9.1.3"),
        local(4, "web", "10.9.1.4"),
    ]
}

fn compilers(text: &str, locals: &[LocalPort]) -> PolicyCompilers {
    let mut compilers = PolicyCompilers::new(HashKey::random(), 1);
    update(&mut compilers, text, locals);
    compilers
}

fn update(compilers: &mut PolicyCompilers, text: &str, locals: &[LocalPort]) {
    let gateways = ["10.9.0.1".parse().unwrap()];
    let store = store(text);
    compilers.networks.update_one(&red(), &store, locals, &gateways);
}

fn judge(compilers: &PolicyCompilers, from: &str, to: &str) -> Judgement {
    compilers.networks.table(&red()).judge(&Query {
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        protocol: IpProtocol::TCP,
        port: 80,
    })
}

#[test]
fn a_network_has_policies_and_pods_of_its_own() {
    let compilers = compilers(OBJECTS, &locals());
    let compiler = compilers.networks.of(&red()).unwrap();
    for (from, allowed) in [
        // Both interfaces of the pod, and the one of another node's.
        ("10.9.1.3", true),
        ("10.9.1.4", true),
        ("10.9.2.4", true),
        // The gateway is the node itself.
        ("10.9.0.1", true),
        // The same pods' addresses in the cluster's own network are strangers here.
        ("10.244.1.3", false),
        ("10.9.7.7", false),
    ] {
        let judgement = judge(&compilers, from, "10.9.1.2");
        assert_eq!(judgement.denied().is_none(), allowed, "{from}: {judgement:?}");
    }
    let Some((_, rule)) = judge(&compilers, "10.9.7.7", "10.9.1.2").denied() else {
        panic!("it is allowed")
    };
    assert_eq!(
        compiler.name(rule).unwrap().to_string(),
        "MultiNetworkPolicy shop/only-web, which isolates the pod for ingress"
    );
    // The NetworkPolicy that isolates all pods is of the cluster's own network.
    assert_eq!(
        judge(&compilers, "10.9.7.7", "10.9.1.3").ingress,
        Ruling::NotIsolated
    );
    assert_eq!(
        judge(&compilers, "10.9.1.3", "10.244.1.2").ingress,
        Ruling::Elsewhere
    );
    let pods = compiler.pods_by_address();
    let name = |address: &str| {
        pods.get(&address.parse::<IpAddr>().unwrap())
            .map(ToString::to_string)
    };
    assert_eq!(name("10.9.1.4").as_deref(), Some("shop/web"));
    assert_eq!(name("10.9.2.4").as_deref(), Some("shop/far"));
    assert_eq!(name("10.244.1.2"), None);
}

#[test]
fn an_address_that_a_pod_gets_on_another_interface_is_found_again() {
    let mut compilers = compilers(OBJECTS, &locals()[..2]);
    let _ = compilers.networks.take_changes(&red());
    update(&mut compilers, OBJECTS, &locals()[..2]);
    assert_eq!(compilers.networks.take_changes(&red()), HashSet::new());
    update(&mut compilers, OBJECTS, &locals());
    let changed = compilers.networks.take_changes(&red());
    for number in [2, 4] {
        assert!(changed.contains(&SubjectId::policy(port(number))), "{number}");
    }
    assert!(!changed.contains(&SubjectId::policy(port(3))));
}

#[test]
fn an_address_whose_port_is_gone_is_the_pods_no_longer() {
    let (store, gateways) = (store(OBJECTS), ["10.9.0.1".parse().unwrap()]);
    let mut compilers = PolicyCompilers::new(HashKey::random(), 1);
    for (ports, allowed) in [(&locals()[..], true), (&locals()[..2], false)] {
        // The same objects both times: none of them says that an interface is gone.
        compilers.networks.update_one(&red(), &store, ports, &gateways);
        let judgement = judge(&compilers, "10.9.1.4", "10.9.1.2");
        assert_eq!(judgement.denied().is_none(), allowed, "{judgement:?}");
    }
    compilers
        .networks
        .update_one(&red(), &store, &locals()[..1], &gateways);
    for (from, allowed) in [("10.9.1.3", false), ("10.9.2.4", true)] {
        let judgement = judge(&compilers, from, "10.9.1.2");
        assert_eq!(judgement.denied().is_none(), allowed, "{from}: {judgement:?}");
    }
}

#[test]
fn a_network_without_policies_is_forgotten() {
    let mut compilers = compilers(OBJECTS, &locals());
    assert!(!compilers.networks.table(&red()).is_open());
    // No object says that there is such a network.
    compilers.networks.update(&store(OBJECTS), &[]);
    assert!(compilers.networks.of(&red()).is_none());
    assert!(compilers.networks.table(&red()).is_open());
    assert_eq!(compilers.networks.take_changes(&red()), HashSet::new());
}

#[test]
fn each_policy_is_shown_for_each_of_its_networks() {
    let store = store(OBJECTS);
    let mut compilers = compilers(OBJECTS, &locals());
    compilers.cluster.update(&PolicyInputs {
        store: &store,
        ports: &[local(5, "db", "10.244.1.2")],
        node_addresses: &[],
    });
    let rows = compilers.rows(&store);
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (row.policy.as_str(), row.network.as_deref(), row.pods))
        .collect();
    assert_eq!(
        rows,
        [
            ("NetworkPolicy shop/closed", None, 1),
            ("MultiNetworkPolicy shop/nowhere", Some(""), 0),
            // No policy is in force in a network that there is not.
            ("MultiNetworkPolicy shop/only-web", Some("lab/green"), 0),
            ("MultiNetworkPolicy shop/only-web", Some("shop/red"), 1),
        ]
    );
}

#[test]
fn members_of_a_network_are_its_pods() {
    let row = |end: MemberEnd, network: &str| -> MemberRow {
        let row = json!({"interface": "x", "end": end, "network": network,
            "addresses": ["10.9.1.2/16", "fd09::2/64"]});
        serde_json::from_value(row).unwrap()
    };
    let pod = |name: &str| {
        MemberEnd::Pod(PodInterface {
            pod: format!("shop/{name}"),
            netns: PathBuf::from("/run/netns/x"),
            interface: "net1".to_owned(),
        })
    };
    let tap = MemberEnd::Tap(TapDevice {
        name: "vm7".to_owned(),
        user: None,
        group: None,
    });
    let members = [
        (port(2), row(pod("db"), "shop/red")),
        (port(3), row(pod("web"), "shop/blue")),
        (port(4), row(tap, "shop/red")),
    ];
    let wanted = LocalPort {
        addresses: vec!["10.9.1.2".parse().unwrap(), "fd09::2".parse().unwrap()],
        ..local(2, "db", "10.9.1.2")
    };
    assert_eq!(member_ports(&members, &red()), [wanted]);
}
