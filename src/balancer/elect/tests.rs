//! Who announces what.

use super::*;
use crate::objects::{Folder, Store};

fn names(names: &[&str]) -> Vec<NodeName> {
    names.iter().map(|name| NodeName::new(*name).unwrap()).collect()
}

fn config(pools: &str) -> LoadBalancer {
    toml::from_str(pools).unwrap()
}

const POOL: &str = "[[pools]]\nname = \"p\"\naddresses = [\"192.0.2.0/24\", \"2001:db8::/120\"]\n";

/// The store of these manifests, as `node-a` sees them.
pub(in crate::balancer) fn store(objects: &str) -> Store {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("objects.yaml"), objects).unwrap();
    let mut read = Folder::new(folder.path());
    read.scan();
    let store = read.store(&NodeName::new("node-a").unwrap(), &[]);
    assert_eq!(store.refusals().count(), 0, "{:?}", store.notices());
    store
}

/// A Service of type LoadBalancer with an address and endpoints, each a node's name and conditions.
pub(in crate::balancer) fn balancer(name: &str, spec: &str, ingress: &str, endpoints: &str) -> String {
    let endpoints: Vec<String> = endpoints
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .enumerate()
        .map(|(index, text)| {
            let (node, conditions) = text.split_once(' ').unwrap_or((text, "ready: true"));
            format!(
                "{{addresses: [10.244.1.{}], nodeName: {node}, conditions: {{{conditions}}}}}",
                index + 2
            )
        })
        .collect();
    let sum: u32 = name.bytes().map(u32::from).sum();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, \
         clusterIP: 10.96.1.{}, ports: [{{port: 80}}], {spec}}}\nstatus: {{loadBalancer: {{ingress: [{ingress}]}}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         ports: [{{port: 8080}}]\nendpoints: [{}]\n",
        sum % 250 + 1,
        endpoints.join(", ")
    )
}

#[test]
fn what_leads_to_a_service_is_to_be_announced() {
    let store = store(
        &[
            balancer("far", "", "{ip: 192.0.2.7}", "node-a"),
            balancer(
                "near",
                "externalTrafficPolicy: Local",
                "{ip: 192.0.2.8}",
                "node-a; node-b; node-c ready: false",
            ),
            balancer(
                "ending",
                "externalTrafficPolicy: Local",
                "{ip: 192.0.2.9}",
                "node-b ready: false, serving: true, terminating: true",
            ),
            balancer("nobody", "externalTrafficPolicy: Local", "{ip: 192.0.2.10}", ""),
            balancer("elsewhere", "", "{ip: 198.51.100.7}", "node-a"),
            balancer("proxied", "", "{ip: 192.0.2.11, ipMode: Proxy}", "node-a"),
        ]
        .concat(),
    );
    let duties = duties(&config(POOL), &store);
    let said: Vec<String> = duties
        .iter()
        .map(|(address, duty)| {
            let services: Vec<_> = duty.services.iter().map(ServiceKey::name).collect();
            let nodes = duty
                .nodes
                .as_ref()
                .map(|nodes| nodes.iter().map(NodeName::as_str).collect::<Vec<_>>());
            format!("{address} {services:?} {nodes:?}")
        })
        .collect();
    assert_eq!(
        said,
        [
            "192.0.2.7 [\"far\"] None",
            "192.0.2.8 [\"near\"] Some([\"node-a\", \"node-b\"])",
            "192.0.2.9 [\"ending\"] Some([\"node-b\"])",
            "192.0.2.10 [\"nobody\"] Some([])",
        ]
    );
    assert!(super::duties(&LoadBalancer::default(), &store).is_empty());
    // With no node that may, nobody does.
    let living = names(&["node-a"]);
    let duty = &duties[&"192.0.2.9".parse().unwrap()];
    assert_eq!(announcer("192.0.2.9".parse().unwrap(), duty, living.iter()), None);
}

#[test]
fn a_node_that_dies_moves_only_its_own() {
    let living = names(&["a", "b", "c", "d"]);
    let duty = Duty {
        pool: "p".to_owned(),
        services: BTreeSet::new(),
        nodes: None,
    };
    let addresses: Vec<IpAddr> = (0..=255).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let count = |node: &NodeName| {
        let is_its = |address: &&IpAddr| announcer(**address, &duty, living.iter()) == Some(node);
        addresses.iter().filter(is_its).count()
    };
    for node in &living {
        assert!(
            (32..=96).contains(&count(node)),
            "{node} announces {}",
            count(node)
        );
    }
    for gone in &living {
        for address in &addresses {
            let before = announcer(*address, &duty, living.iter()).unwrap();
            let after = announcer(*address, &duty, living.iter().filter(|node| *node != gone)).unwrap();
            assert!(before == gone || before == after);
            assert_ne!(after, gone);
        }
    }
}

/// Nodes of different versions must come to the same: the values are part of the contract.
#[test]
fn the_choice_is_always_the_same() {
    let living = names(&["node-a", "node-b", "node-c"]);
    let duty = Duty {
        pool: "p".to_owned(),
        services: BTreeSet::new(),
        nodes: None,
    };
    let chosen: Vec<_> = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]
        .map(|address| {
            announcer(address.parse().unwrap(), &duty, living.iter())
                .unwrap()
                .as_str()
        })
        .to_vec();
    assert_eq!(chosen, CHOSEN);
}

const CHOSEN: [&str; 4] = ["node-c", "node-c", "node-a", "node-c"];

#[test]
fn some_nodes_take_no_part() {
    let store = store(
        "{apiVersion: v1, kind: Node, metadata: {name: node-a, labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}}}\n---\n\
         {apiVersion: v1, kind: Node, metadata: {name: node-b}}\n",
    );
    let takes_part = |name: &str| takes_part(&store, &NodeName::new(name).unwrap());
    assert!(!takes_part("node-a") && takes_part("node-b") && takes_part("node-c"));
}
