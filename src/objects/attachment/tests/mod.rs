mod routed;

use std::num::NonZeroU32;

use serde_json::{Value, json};

use super::*;
use crate::objects::fault::Fault;
use crate::objects::notice::{Origin, Severity};
use crate::objects::object::Object;
use crate::objects::store::{Entry, Record, Store};

fn definition(name: &str, config: &str) -> Value {
    json!({
        "apiVersion": ATTACHMENT_API_VERSION, "kind": NetworkAttachmentDefinition::KIND,
        "metadata": {"name": name, "namespace": "shop"}, "spec": {"config": config},
    })
}

fn ours(network: &Value) -> String {
    json!({"cniVersion": "1.0.0", "type": PLUGIN_TYPE, "network": network}).to_string()
}

fn entry(tree: Value) -> Result<(Entry, Vec<Fault>), Fault> {
    Entry::read(Origin::Api, &Object::from_tree(tree).unwrap())
}

fn read(network: &Value) -> Result<NetworkRecord, String> {
    match entry(definition("blue", &ours(network))) {
        Ok((
            Entry {
                record: Record::Network(record),
                ..
            },
            _,
        )) => Ok(NetworkRecord::clone(&record)),
        Ok(other) => panic!("{other:?}"),
        Err(fault) => {
            assert_eq!(fault.severity(), Severity::Refused, "{fault}");
            Err(fault.to_string())
        }
    }
}

#[test]
fn a_short_definition_has_the_defaults() {
    let record = read(&json!({"kind": "bridged", "vni": 100})).unwrap();
    assert_eq!(record.key.to_string(), "shop/blue");
    assert_eq!(
        (record.vni.get(), record.port, record.cni_name.as_str()),
        (100, PORT_DEFAULT, "blue")
    );
    let bridge = record.bridge().unwrap();
    assert!(record.peers.nodes && bridge.learning && bridge.suppression && !bridge.snooping);
    assert_eq!(bridge.storm_limit.map(NonZeroU32::get), Some(STORM_LIMIT_DEFAULT));
    assert_eq!(
        (bridge.mac_limit, bridge.ageing_s),
        (MAC_LIMIT_DEFAULT, AGEING_DEFAULT_S)
    );
    assert_eq!((record.mtu, record.subnets.len()), (None, 0));
}

#[test]
fn everything_that_can_be_said_is_read() {
    let record = read(&json!({
        "kind": "bridged", "vni": 16_777_215, "port": 4789, "subnets": ["10.9.0.0/16", "fd09::/64"],
        "gateways": ["10.9.0.1", "fd09::1"],
        "nodeBlocks": {"node-a": ["10.9.1.0/24", "fd09::a:0/112"], "node-b": ["10.9.2.0/24"]},
        "peers": {"nodes": false, "addresses": ["192.0.2.7", "2001:db8::7"]},
        "stations": [{"mac": "02:00:00:00:00:07", "at": "192.0.2.7"}],
        "learning": false, "suppression": false, "snooping": true, "stormLimit": 0, "macLimit": 7,
        "ageingSeconds": 60, "mtu": 1400,
    }))
    .unwrap();
    assert_eq!(
        (record.vni.get(), record.port, record.mtu),
        (16_777_215, 4789, Some(1400))
    );
    let bridge = record.bridge().unwrap();
    assert_eq!(bridge.storm_limit, None);
    assert!(!record.peers.nodes && !bridge.learning && !bridge.suppression && bridge.snooping);
    assert_eq!(bridge.stations.len(), 1);
    let blocks = &record.node_blocks[&NodeName::new("node-a").unwrap()];
    assert_eq!(blocks.len(), 2);
    assert_eq!(
        record.subnet_of("10.9.7.7".parse().unwrap()),
        Some("10.9.0.0/16".parse().unwrap())
    );
    assert_eq!(record.subnet_of("10.8.7.7".parse().unwrap()), None);
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let with = |more: Value| {
        let mut network = json!({"kind": "bridged", "vni": 100, "subnets": ["10.9.0.0/16"]});
        network
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        read(&network).unwrap_err()
    };
    for (more, words) in [
        (
            json!({"routesTo": []}),
            "network.routesTo is a key of routed networks",
        ),
        (json!({"kind": "mesh"}), "`mesh`"),
        (json!({"kind": 7}), "network.kind"),
        (json!({"vni": 0}), "network.vni: 0 is not within 1..=16777215"),
        (json!({"vni": 16_777_216}), "16777216"),
        (json!({"vni": -1}), "network.vni"),
        (
            json!({"mtu": 1279, "subnets": ["fd09::/64"]}),
            "network.mtu: 1279 is not within 1280..=9000",
        ),
        (json!({"port": 0}), "network.port"),
        (json!({"port": 65_536}), "network.port"),
        (
            json!({"subnets": ["10.9.0.0/16", "10.9.7.0/24"]}),
            "10.9.7.0/24 overlaps 10.9.0.0/16",
        ),
        (json!({"subnets": ["10.9.0.0"]}), "network.subnets"),
        (json!({"subnets": ["127.0.0.0/8"]}), "loopback"),
        (json!({"subnets": vec!["10.9.0.0/16"; 17]}), "at most 16"),
        (
            json!({"gateways": ["10.8.0.1"]}),
            "network.gateways: 10.8.0.1/32 is in none",
        ),
        (
            json!({"gateways": ["10.9.0.1", "10.9.0.1"]}),
            "stands there twice",
        ),
        (json!({"nodeBlocks": {"a": ["10.8.0.0/24"]}}), "nodeBlocks.a"),
        (
            json!({"nodeBlocks": {"a": ["10.9.1.0/24"], "b": ["10.9.1.128/25"]}}),
            "10.9.1.128/25 overlaps",
        ),
        (
            json!({"nodeBlocks": {"a": ["10.9.1.128/25"], "b": ["10.9.1.0/24"]}}),
            "10.9.1.0/24 overlaps",
        ),
        (json!({"nodeBlocks": {"A!": []}}), "nodeBlocks"),
        (json!({"peers": {"addresses": ["224.0.0.1"]}}), "multicast"),
        (json!({"peers": {"adresses": []}}), "network.peers"),
        (json!({"peers": "nodes"}), "network.peers"),
        (
            json!({"stations": [{"mac": "01:00:00:00:00:00", "at": "192.0.2.1"}]}),
            "group address",
        ),
        (
            json!({"stations": [{"mac": "02:00:00:00:00:01", "at": "192.0.2.1"},
                {"mac": "02:00:00:00:00:01", "at": "192.0.2.2"}]}),
            "twice",
        ),
        (json!({"stormLimit": 10_000_001}), "stormLimit"),
        (json!({"macLimit": 0}), "macLimit"),
        (json!({"ageingSeconds": 9}), "10..=1000000"),
        (json!({"mtu": 575}), "mtu"),
        (json!({"vlan": 7}), "vlan"),
    ] {
        let said = with(more.clone());
        assert!(said.contains(words), "{more}: {said}");
    }
}

#[test]
fn other_plugins_definitions_are_left_alone() {
    for config in [
        "",
        r#"{"type": "macvlan", "master": "eth0"}"#,
        "{ no json, and none of ours",
        r#"{"type": "bridge", "comment": "not millrace-cni"}"#,
        r#"{"plugins": [{"type": "sbr"}], "name": "millrace-cni"}"#,
    ] {
        let (entry, warnings) = entry(definition("blue", config)).unwrap();
        assert_eq!((entry.record, warnings.len()), (Record::Absent, 0), "{config}");
    }
    let without_spec = json!({"apiVersion": ATTACHMENT_API_VERSION, "kind": NetworkAttachmentDefinition::KIND,
        "metadata": {"name": "blue"}});
    assert_eq!(entry(without_spec).unwrap().0.record, Record::Absent);
}

#[test]
fn ours_is_found_in_a_list_of_plugins_and_refused_where_it_cannot_be_read() {
    let list = json!({"name": "l2", "plugins": [{"type": "sbr"},
        {"type": PLUGIN_TYPE, "network": {"kind": "bridged", "vni": 7}}]});
    let (entry_of_list, _) = entry(definition("blue", &list.to_string())).unwrap();
    let Record::Network(record) = entry_of_list.record else {
        panic!("{entry_of_list:?}")
    };
    assert_eq!((record.cni_name.as_str(), record.vni.get()), ("l2", 7));
    for (config, words) in [
        (r#"{"type": "millrace-cni""#.to_owned(), "spec.config"),
        (r#"{"type": "millrace-cni"}"#.to_owned(), "has no `network`"),
        (
            r#"{"type": "millrace-cni", "name": 7, "network": {}}"#.to_owned(),
            "name",
        ),
        (
            r#"{"type": "millrace-cni", "name": "a/b", "network": {}}"#.to_owned(),
            "`a/b`",
        ),
        (r#"{"type": "millrace-cni", "network": []}"#.to_owned(), "network"),
        (
            ours(&json!({"kind": "x".repeat(300_000), "vni": 1})),
            "at most 262144",
        ),
    ] {
        let fault = entry(definition("blue", &config)).unwrap_err();
        assert!(fault.to_string().contains(words), "{fault}");
        assert_eq!(fault.severity(), Severity::Refused);
    }
}

#[test]
fn a_station_behind_no_peer_is_worth_a_warning() {
    let network = json!({"kind": "bridged", "vni": 1,
        "stations": [{"mac": "02:00:00:00:00:01", "at": "192.0.2.1"}]});
    let (_, warnings) = entry(definition("blue", &ours(&network))).unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].severity(), Severity::Warning);
}

#[test]
fn of_two_networks_with_one_number_the_older_keeps_it() {
    let of = |name: &str, created: &str, port: u16| {
        let mut tree = definition(name, &ours(&json!({"kind": "bridged", "vni": 100, "port": port})));
        tree["metadata"]["creationTimestamp"] = json!(created);
        entry(tree).unwrap().0
    };
    let entries = vec![
        of("young", "2026-02-01T00:00:00Z", 8472),
        of("old", "2026-01-01T00:00:00Z", 8472),
        of("other", "2026-03-01T00:00:00Z", 4789),
    ];
    let store = Store::build(&NodeName::new("node-a").unwrap(), entries, Vec::new());
    let names: Vec<_> = store.networks().map(|network| network.key.to_string()).collect();
    assert_eq!(names, ["shop/old", "shop/other"]);
    let notices: Vec<_> = store.notices().iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("shop/old, which came first"), "{notices:?}");
    assert!(store.second_network(&"shop/old".parse().unwrap()).is_some());
}
