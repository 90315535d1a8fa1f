#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use super::*;

const OBJECTS: &str = "---
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDR: 10.244.1.0/24}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-b}, spec: {podCIDR: 10.244.2.0/24}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: node-a}, status: {podIP: 10.244.1.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, spec: {nodeName: node-b}, status: {podIP: 10.244.2.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: both, namespace: shop}, spec: {nodeName: node-b}, status: {podIP: 10.244.2.3}}
---
{apiVersion: v1, kind: Service, metadata: {name: both, namespace: shop}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop}, spec: {nodeName: node-b, hostNetwork: true}, status: {podIP: 192.0.2.2}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: guard, namespace: shop}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}}
";

const CLOSED: &str = "---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: shop}, spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}}
";

/// Asks about [`OBJECTS`] in force, or about manifests laid over them.
fn ask(to: &str, protocol: &str, manifests: Option<&Path>) -> Result<Explanation, Failure> {
    let own = NodeName::new("node-a").unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), OBJECTS).unwrap();
    let mut store = manifests::read(folder.path()).unwrap().store(&own, &[]);
    if let Some(newer) = manifests {
        store = store.with(&manifests::read(newer)?);
    }
    let services = manifests::services(&store, &own, &crate::config::Services::default(), None);
    let asked = Asked {
        basis: None,
        store: &store,
        own: &own,
        services: &services,
        live: None,
    };
    explain(&question(to, protocol, manifests), &asked)
}

fn question(to: &str, protocol: &str, manifests: Option<&Path>) -> Explain {
    Explain {
        from: "shop/web".to_owned(),
        to: to.to_owned(),
        protocol: protocol.to_owned(),
        manifests: manifests.map(Path::to_owned),
    }
}

fn answer_of<'e>(explanation: &'e Explanation, stage: &str) -> &'e str {
    let mut stages = explanation.stages.iter();
    &stages.find(|found| found.stage == stage).unwrap().answer
}

#[test]
fn both_ends_are_asked_whichever_node_they_are_on() {
    for (to, protocol, allowed, ingress) in [
        (
            "shop/db:5432",
            "tcp",
            true,
            "shop/db port 5432: allowed by NetworkPolicy shop/guard, ingress rule 0",
        ),
        (
            "10.244.2.2:5432",
            "tcp",
            true,
            "shop/db port 5432: allowed by NetworkPolicy shop/guard, ingress rule 0",
        ),
        (
            "shop/db:5433",
            "tcp",
            false,
            "shop/db port 5433: denied by NetworkPolicy shop/guard, which isolates the pod for ingress",
        ),
        (
            "shop/db:5432",
            "udp",
            false,
            "shop/db port 5432: denied by NetworkPolicy shop/guard, which",
        ),
        ("shop/db:1", "icmp", false, "shop/db: denied by"),
        ("10.244.1.1:80", "tcp", true, "10.244.1.1 port 80: it is no pod"),
        ("192.0.2.9:80", "tcp", true, "192.0.2.9 port 80: it is no pod"),
    ] {
        let explanation = ask(to, protocol, None).unwrap();
        assert_eq!(explanation.allowed, allowed, "{to} {protocol}: {explanation:?}");
        let found = answer_of(&explanation, "ingress");
        assert!(found.starts_with(ingress), "{to} {protocol}: {found}");
        let egress = answer_of(&explanation, "egress");
        let expected = if to.starts_with("10.244.1.1:") {
            "shop/web: always allowed between a pod and its node"
        } else {
            "shop/web: allowed, no policy isolates it"
        };
        assert_eq!(egress, expected, "{to}");
    }
}

#[test]
fn manifests_that_are_not_applied_are_laid_over_those_in_force() {
    let folder = tempfile::tempdir().unwrap();
    // One that is new, one in the place of another of its name, one that makes no sense.
    let guard = "---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: guard, namespace: shop}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5433}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: odd, namespace: shop}, spec: {podSelector: {}, ingress: [{ports: [{port: 70000}]}]}}
";
    fs::write(folder.path().join("new.yaml"), format!("{CLOSED}{guard}")).unwrap();
    for (port, ingress) in [
        (
            5432,
            "shop/db port 5432: denied by NetworkPolicy shop/guard, which isolates the pod for ingress",
        ),
        (
            5433,
            "shop/db port 5433: allowed by NetworkPolicy shop/guard, ingress rule 0",
        ),
    ] {
        let explanation = ask(&format!("shop/db:{port}"), "tcp", Some(folder.path())).unwrap();
        assert!(!explanation.allowed);
        assert_eq!(
            answer_of(&explanation, "egress"),
            "shop/web: denied by NetworkPolicy shop/closed, which isolates the pod for egress"
        );
        assert_eq!(answer_of(&explanation, "ingress"), ingress);
    }
    assert!(
        ask("shop/db:5432", "tcp", None).unwrap().allowed,
        "nothing was applied by asking"
    );
    let missing = ask("shop/db:5432", "tcp", Some(&folder.path().join("none"))).unwrap_err();
    assert_eq!(missing.status, 2);
    assert!(
        missing.message.ends_with("is no folder of manifests"),
        "{missing:?}"
    );
}

#[test]
fn without_a_switch_manifests_are_asked_alone_and_what_is_refused_is_told() {
    const SERVICE: &str = "---
{apiVersion: v1, kind: Service, metadata: {name: data, namespace: shop}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: data-1, namespace: shop, labels: {kubernetes.io/service-name: data}}, addressType: IPv4, ports: [{port: 5432, protocol: TCP, name: ''}], endpoints: [{addresses: [10.244.2.2]}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: broken, namespace: shop}, spec: {nodeName: node-b}, status: {podIP: nonsense}}
";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), format!("{OBJECTS}{SERVICE}")).unwrap();
    for to in ["shop/data:80", "10.96.0.9:80"] {
        let explanation = explain_alone(&question(to, "tcp", None), folder.path()).unwrap();
        assert!(explanation.allowed, "{explanation:?}");
        assert_eq!(
            answer_of(&explanation, "balance"),
            "Service shop/data with 1 backend"
        );
        assert_eq!(
            answer_of(&explanation, "ingress"),
            "shop/db port 5432: allowed by NetworkPolicy shop/guard, ingress rule 0"
        );
        let refused = answer_of(&explanation, "refused");
        assert!(refused.contains("shop/broken"), "{refused}");
    }
    let other_port = explain_alone(&question("shop/data:81", "tcp", None), folder.path()).unwrap();
    assert!(!other_port.allowed);
    assert_eq!(
        answer_of(&other_port, "balance"),
        "refused: the Service has no endpoint, or no such port"
    );
}

#[test]
fn what_is_no_destination_is_named() {
    for (to, expected) in [
        ("shop/db", "shop/db is no destination; NAMESPACE/POD:PORT"),
        ("shop/db:x", "shop/db:x is no destination"),
        ("shop/db:65536", "shop/db:65536 is no destination"),
        ("db:80", "db:80 is no destination"),
        ("shop/nobody:80", "there is no Pod and no Service shop/nobody"),
        (
            "shop/both:80",
            "shop/both is a Pod and a Service; give the address",
        ),
        (
            "[fd00::1]:80",
            "Pod shop/web has no address of the family of fd00::1",
        ),
    ] {
        let failure = ask(to, "tcp", None).unwrap_err();
        assert!(
            failure.status == 2 && failure.message.starts_with(expected),
            "{failure:?}"
        );
    }
    assert!(ask("shop/db:80", "gre", None).is_err());
}
