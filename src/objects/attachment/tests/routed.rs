//! Routed networks, and between which of them is routed.

use super::*;

fn routed(more: Value) -> Value {
    let mut network = json!({"kind": "routed", "vni": 100, "subnets": ["10.9.0.0/16"],
        "nodeBlocks": {"node-a": ["10.9.1.0/24"]}});
    let all = network.as_object_mut().unwrap();
    let Value::Object(more) = more else {
        panic!("{more}")
    };
    for (key, value) in more {
        if value.is_null() {
            all.remove(&key);
        } else {
            all.insert(key, value);
        }
    }
    network
}

#[test]
fn a_routed_network_has_a_gateway_in_each_subnet() {
    let record = read(&routed(json!({
        "subnets": ["10.9.0.0/16", "fd09::/64", "10.8.0.0/24"], "gateways": ["10.8.0.9"], "port": 4789, "mtu": 1400,
        "routesTo": ["cluster", "shop/red"],
    })))
    .unwrap();
    assert_eq!(
        (record.kind.name(), record.port, record.mtu),
        ("routed", 4789, Some(1400))
    );
    let gateways: Vec<_> = record.gateways.iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["10.8.0.9", "10.9.0.1", "fd09::1"]);
    let node = NodeName::new("node-a").unwrap();
    assert_eq!(record.blocks_of(&node), ["10.9.1.0/24".parse::<IpNet>().unwrap()]);
    assert_eq!(record.blocks_of(&NodeName::new("node-b").unwrap()), []);
    let red = RouteTo::Network("shop/red".parse().unwrap());
    assert_eq!(record.routing().unwrap().routes_to, [RouteTo::Cluster, red]);
    assert!(record.bridge().is_none() && record.peers.nodes);
    assert_eq!(
        serde_json::to_value(&record.kind).unwrap(),
        json!({"routed": {"routes-to": ["cluster", "shop/red"]}})
    );
}

#[test]
fn what_a_routed_network_lacks_or_has_too_much_is_refused_by_name() {
    for (more, words) in [
        (
            json!({"subnets": null, "nodeBlocks": null}),
            "network.subnets is missing",
        ),
        (json!({"nodeBlocks": null}), "network.nodeBlocks is missing"),
        (
            json!({"nodeBlocks": {"node-a": []}}),
            "network.nodeBlocks is missing",
        ),
        (
            json!({"learning": true}),
            "network.learning is a key of bridged networks, and this one is routed",
        ),
        (json!({"stations": []}), "network.stations"),
        (json!({"suppression": false}), "network.suppression"),
        (json!({"snooping": false}), "network.snooping"),
        (json!({"stormLimit": 7}), "network.stormLimit"),
        (json!({"macLimit": 7}), "network.macLimit"),
        (json!({"ageingSeconds": 60}), "network.ageingSeconds"),
        (
            json!({"peers": {"addresses": ["192.0.2.7"]}}),
            "network.peers.addresses",
        ),
        (
            json!({"subnets": ["10.9.0.0/31"], "nodeBlocks": {"a": ["10.9.0.0/31"]}}),
            "10.9.0.0/31 has no room",
        ),
        (
            json!({"gateways": ["10.8.0.1"]}),
            "network.gateways: 10.8.0.1/32 is in none",
        ),
        (json!({"routesTo": ["red"]}), "`red` is no network"),
        (
            json!({"routesTo": ["shop/blue"]}),
            "shop/blue is this network itself",
        ),
        (
            json!({"routesTo": ["shop/red", "shop/red"]}),
            "stands there twice",
        ),
        (json!({"routesTo": "cluster"}), "network.routesTo"),
    ] {
        let said = read(&routed(more.clone())).unwrap_err();
        assert!(said.contains(words), "{more}: {said}");
    }
}

/// A definition with this subnet and these routes; the later in the alphabet the younger.
fn network(name: &str, vni: u32, subnet: &str, routes_to: &[&str]) -> Entry {
    let config = json!({"kind": "routed", "vni": vni, "subnets": [subnet], "nodeBlocks": {"node-a": [subnet]},
        "routesTo": routes_to});
    let mut tree = definition(name, &ours(&config));
    tree["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{vni:02}Z"));
    entry(tree).unwrap().0
}

fn node(name: &str, pods: &str, address: &str) -> Entry {
    let tree = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    entry(tree).unwrap().0
}

/// What is routed from each network, and what is said of them.
fn routes(entries: Vec<Entry>) -> (Vec<String>, Vec<String>) {
    let mut all = entries;
    all.extend([
        node("node-a", "10.244.1.0/24", "192.0.2.1"),
        node("node-b", "10.244.2.0/24", "192.0.2.2"),
    ]);
    let store = Store::build(&NodeName::new("node-a").unwrap(), all, Vec::new());
    let of = |network: &NetworkRecord| {
        let to: Vec<String> = store
            .routes_of(&network.key)
            .iter()
            .map(ToString::to_string)
            .collect();
        format!("{}: {}", network.key.name(), to.join(" "))
    };
    let about_networks = store.notices().iter().filter(|notice| {
        notice
            .object
            .as_ref()
            .is_some_and(|object| object.kind == NetworkAttachmentDefinition::KIND)
    });
    (
        store.networks().map(|network| of(network)).collect(),
        about_networks.map(ToString::to_string).collect(),
    )
}

#[test]
fn only_what_both_name_is_routed_and_the_cluster_needs_no_word() {
    let (routes, notices) = routes(vec![
        network("amber", 1, "10.1.0.0/16", &["shop/blue", "cluster"]),
        network(
            "blue",
            2,
            "10.2.0.0/16",
            &["shop/amber", "shop/cyan", "shop/none"],
        ),
        network("cyan", 3, "10.3.0.0/16", &[]),
    ]);
    assert_eq!(routes, ["amber: cluster shop/blue", "blue: shop/amber", "cyan: "]);
    let [cyan, none] = notices.as_slice() else {
        panic!("{notices:?}")
    };
    assert!(
        cyan.contains("shop/cyan does not name shop/blue in its own"),
        "{cyan}"
    );
    assert!(none.contains("no routed network shop/none"), "{none}");
    assert!(
        notices.iter().all(|notice| notice.contains("warning")),
        "{notices:?}"
    );
}

#[test]
fn networks_whose_addresses_overlap_are_not_routed_and_both_are_named() {
    for (entries, expected, words) in [
        (
            vec![
                network("amber", 1, "10.1.0.0/16", &["shop/blue"]),
                network("blue", 2, "10.1.7.0/24", &["shop/amber"]),
            ],
            vec!["amber: ", "blue: "],
            "between shop/blue and shop/amber: 10.1.0.0/16 of shop/amber overlaps 10.1.7.0/24 of shop/blue",
        ),
        (
            vec![network("amber", 1, "10.244.0.0/16", &["cluster"])],
            vec!["amber: "],
            "between shop/amber and cluster: 10.244.1.0/24 of cluster overlaps 10.244.0.0/16 of shop/amber",
        ),
        // The cluster's pods would not reach the nodes any more.
        (
            vec![network("amber", 1, "192.0.2.0/24", &["cluster"])],
            vec!["amber: "],
            "between shop/amber and cluster: 192.0.2.1/32 of cluster overlaps 192.0.2.0/24 of shop/amber",
        ),
        // Neither is routed to the other, and what has both could tell them apart no more.
        (
            vec![
                network("amber", 1, "10.1.0.0/16", &["shop/cyan"]),
                network("blue", 2, "10.1.0.0/16", &["shop/cyan"]),
                network("cyan", 3, "10.3.0.0/16", &["shop/blue", "shop/amber"]),
            ],
            vec!["amber: ", "blue: shop/cyan", "cyan: shop/blue"],
            "between shop/cyan and shop/amber: 10.1.0.0/16 of shop/amber overlaps 10.1.0.0/16 of shop/blue",
        ),
        // In the cluster's own tables there is room for one of the two.
        (
            vec![
                network("amber", 1, "10.1.0.0/16", &["cluster"]),
                network("blue", 2, "10.1.0.0/16", &["cluster"]),
            ],
            vec!["amber: cluster", "blue: "],
            "between shop/blue and cluster: 10.1.0.0/16 of shop/blue overlaps 10.1.0.0/16 of shop/amber",
        ),
        // A younger network never takes an older pair's way.
        (
            vec![
                network("amber", 1, "10.1.0.0/16", &["shop/cyan", "shop/blue"]),
                network("blue", 2, "10.2.0.0/16", &["shop/amber"]),
                network("cyan", 3, "10.2.0.0/16", &["shop/amber"]),
            ],
            vec!["amber: shop/blue", "blue: shop/amber", "cyan: "],
            "between shop/cyan and shop/amber: 10.2.0.0/16 of shop/cyan overlaps 10.2.0.0/16 of shop/blue",
        ),
    ] {
        let (routes, notices) = routes(entries);
        assert_eq!(routes, expected);
        let [said] = notices.as_slice() else {
            panic!("{notices:?}")
        };
        assert!(said.contains(words) && said.contains("refused"), "{said}");
    }
}

#[test]
fn the_examples_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let examples = [
        include_str!("../../../../examples/network.yaml"),
        include_str!("../../../../examples/routed-network.yaml"),
    ];
    std::fs::write(folder.path().join("networks.yaml"), examples.join("---\n")).unwrap();
    let mut manifests = crate::objects::Folder::new(folder.path());
    manifests.scan();
    let store = manifests.store(&NodeName::new("node-a").unwrap(), &[]);
    let kinds: Vec<_> = store.networks().map(|network| network.kind.name()).collect();
    assert_eq!(kinds, ["routed", "bridged"]);
    let amber = store.second_network(&"shop/amber".parse().unwrap()).unwrap();
    assert_eq!(store.routes_of(&amber.key), [RouteTo::Cluster]);
    // The other that it names is in no example.
    let notices: Vec<_> = store.notices().iter().map(ToString::to_string).collect();
    assert!(
        notices.len() == 1 && notices[0].contains("no routed network shop/red"),
        "{notices:?}"
    );
}
