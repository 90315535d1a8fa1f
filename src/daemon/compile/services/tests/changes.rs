//! What changes when objects do: numbers, subjects, and what becomes of existing connections.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::service::{BackendId, Serving};
use millrace_dataplane::wire::IpProtocol;
use proptest::prelude::*;

use super::super::ServiceChanges;
use super::world::{World, service, slice};

const WEB: &str = "clusterIP: 10.96.0.10, ports: [{port: 80}]";
const CALL: &str = "pod -> 10.96.0.10 tcp 80";

fn objects(endpoints: &str) -> String {
    [service("web", WEB), slice("web", 80, endpoints)].concat()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The numbers of a Service's backends, by the last octet of their addresses.
fn backends(world: &World, name: &str) -> std::collections::BTreeMap<u8, BackendId> {
    let key = crate::objects::ServiceKey::new("default", name).unwrap();
    let endpoints = world.compiler.made[&key]
        .ports
        .iter()
        .flat_map(|port| &port.endpoints);
    let numbered = endpoints.map(|endpoint| match endpoint.address {
        IpAddr::V4(v4) => (v4.octets()[3], endpoint.id),
        IpAddr::V6(_) => panic!("IPv4 only"),
    });
    numbered.collect()
}

fn serving(world: &World, address: &str) -> Serving {
    world.compiler.table().still_serves(
        ip("10.244.1.9"),
        IpProtocol::TCP,
        (ip("10.96.0.10"), 80),
        (ip(address), 80),
    )
}

#[test]
fn only_backends_that_change_are_named_and_numbers_stay() {
    let mut world = World::new(&objects(
        "10.244.1.2 node-a, 10.244.1.3 node-a, 10.244.1.4 node-a",
    ));
    let first = backends(&world, "web");
    let changes = world.compiler.take_changes();
    assert_eq!(changes.backends, first.values().copied().collect(), "all are new");
    assert_eq!(changes.addresses, [ip("10.96.0.10")].into());
    world.update();
    assert_eq!(
        world.compiler.take_changes(),
        ServiceChanges::default(),
        "nothing changed"
    );

    // One terminates, one goes, one comes.
    world.set(&objects(
        "10.244.1.2 node-a, 10.244.1.3 node-a terminating, 10.244.1.5 node-a",
    ));
    let second = backends(&world, "web");
    assert_eq!((first[&2], first[&3]), (second[&2], second[&3]));
    let changes = world.compiler.take_changes();
    assert_eq!(changes.backends, [first[&3], first[&4], second[&5]].into());
    assert_eq!((changes.addresses.len(), changes.node_ports), (0, false));
    assert!(
        !first.values().any(|id| *id == second[&5]),
        "a number is not used again at once"
    );

    // A change that no connection notices: a hint, another order, a label.
    world.set(&objects(
        "10.244.1.5 node-a for-zone=x, 10.244.1.3 node-a terminating, 10.244.1.2 node-a",
    ));
    assert_eq!(world.compiler.take_changes(), ServiceChanges::default());
}

#[test]
fn an_endpoint_that_goes_is_told_from_one_that_drains() {
    let mut world = World::new(&objects("10.244.1.2 node-a, 10.244.1.3 node-a"));
    assert_eq!(serving(&world, "10.244.1.2"), Serving::Yes);
    world.set(&objects("10.244.1.2 node-a terminating, 10.244.1.3 node-a"));
    assert_eq!(
        serving(&world, "10.244.1.2"),
        Serving::Draining,
        "others are ready"
    );
    world.set(&objects("10.244.1.2 node-a not-ready, 10.244.1.3 node-a"));
    assert_eq!(serving(&world, "10.244.1.2"), Serving::Draining);
    world.set(&objects("10.244.1.2 node-a terminating"));
    assert_eq!(
        serving(&world, "10.244.1.2"),
        Serving::Yes,
        "the last one takes connections to its end"
    );
    assert_eq!(serving(&world, "10.244.1.3"), Serving::No);
    world.set(&objects(""));
    assert_eq!(serving(&world, "10.244.1.2"), Serving::No);
    assert_eq!(world.outcome(CALL), "reject");
    // Hours later a new one comes.
    world.set(&objects("10.244.1.7 node-a"));
    assert_eq!(world.outcome(CALL), "10.244.1.7:80");
    world.set(&service("other", "clusterIP: 10.96.0.11, ports: [{port: 80}]"));
    assert_eq!(serving(&world, "10.244.1.7"), Serving::No, "the Service is gone");
}

#[test]
fn a_ready_endpoint_that_policy_or_nearness_leaves_out_still_serves() {
    let far = "10.244.1.2 node-a for-zone=here, 10.244.2.2 node-b for-zone=there";
    let world = World::new(&objects(far));
    assert_eq!(world.outcome(CALL), "10.244.1.2:80");
    assert_eq!(serving(&world, "10.244.2.2"), Serving::Yes);
    let local = format!("{WEB}, internalTrafficPolicy: Local");
    let world = World::new(&[service("web", &local), slice("web", 80, far)].concat());
    assert_eq!(serving(&world, "10.244.2.2"), Serving::Yes);
}

#[test]
fn what_leads_elsewhere_makes_stale_what_went_there() {
    let spec = |external: &str| format!("{WEB}, externalIPs: [{external}]");
    let with = |external: &str| {
        [
            service("web", &spec(external)),
            slice("web", 80, "10.244.1.2 node-a"),
        ]
        .concat()
    };
    let mut world = World::new(&with(""));
    let _ = world.compiler.take_changes();
    world.set(&with("198.51.100.1"));
    let changes = world.compiler.take_changes();
    assert_eq!(
        changes.addresses,
        [ip("198.51.100.1")].into(),
        "what went there before went elsewhere"
    );
    world.set(&with(""));
    let changes = world.compiler.take_changes();
    assert_eq!(
        changes.backends.len(),
        1,
        "connections by the address that is gone"
    );
    let node_port = "type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]";
    world.set(&[service("web", node_port), slice("web", 80, "10.244.1.2 node-a")].concat());
    assert!(world.compiler.take_changes().node_ports);
    world.set("");
    assert_eq!(world.compiler.take_changes().backends.len(), 1);
    assert!(world.compiler.table().is_empty());
    assert_eq!(world.outcome(CALL), "drop service_unknown_address");
}

#[test]
fn an_address_that_changes_hands_leads_to_the_new_owner() {
    let mut world = World::new(
        &[
            objects("10.244.1.2 node-a"),
            service("new", "clusterIP: 10.96.0.11, ports: [{port: 80}]"),
            slice("new", 80, "10.244.1.3 node-a"),
        ]
        .concat(),
    );
    // Both change in one step, in either order of names.
    world.set(
        &[
            service("web", "clusterIP: 10.96.0.11, ports: [{port: 80}]"),
            slice("web", 80, "10.244.1.2 node-a"),
            service("new", WEB),
            slice("new", 80, "10.244.1.3 node-a"),
        ]
        .concat(),
    );
    assert_eq!(world.outcome(CALL), "10.244.1.3:80");
    assert_eq!(world.outcome("pod -> 10.96.0.11 tcp 80"), "10.244.1.2:80");
    assert_eq!(world.compiler.table().len(), 2);
    assert_eq!(
        world.outcome("pod -> 10.96.0.11 tcp 81"),
        "reject",
        "still a cluster address"
    );
}

#[test]
fn a_port_that_is_renumbered_keeps_its_number_and_counters() {
    let spec = |port: u16| format!("clusterIP: 10.96.0.10, ports: [{{name: http, port: {port}}}]");
    let slice = super::world::slice_with("web", "web", "{name: http, port: 8080}", "10.244.1.2 node-a");
    let mut world = World::new(&[service("web", &spec(80)), slice.clone()].concat());
    let before = world.choice(CALL, 1);
    world.set(&[service("web", &spec(81)), slice].concat());
    let after = world.choice("pod -> 10.96.0.10 tcp 81", 1);
    assert_eq!((before.service, before.backend), (after.service, after.backend));
    assert_eq!(world.outcome(CALL), "reject");
}

#[test]
fn equal_endpoints_share_one_lookup_table_and_the_table_what_did_not_change() {
    let endpoints = "10.244.1.2 node-a, 10.244.1.3 node-a, 10.244.2.4 node-b";
    let other = [
        service("other", "clusterIP: 10.96.0.11, ports: [{port: 443}]"),
        slice("other", 80, endpoints),
    ]
    .concat();
    let mut world = World::new(&[objects(endpoints), other.clone()].concat());
    assert_eq!(world.compiler.memory().lookup_table_count, 1);
    let of = |world: &World, address: &str, port| {
        let frontend = world
            .compiler
            .table()
            .frontend(ip("10.244.1.9"), IpProtocol::TCP, (ip(address), port))
            .unwrap();
        Arc::clone(&frontend.service)
    };
    let (web, shared) = (of(&world, "10.96.0.10", 80), of(&world, "10.96.0.11", 443));
    let [own, others] = [&web, &shared].map(|service| service.cluster.slots().unwrap());
    assert!(own.is_shared_with(others));
    world.set(&[objects("10.244.1.2 node-a, 10.244.1.3 node-a"), other].concat());
    assert!(Arc::ptr_eq(&shared, &of(&world, "10.96.0.11", 443)), "untouched");
    assert_eq!(world.compiler.memory().lookup_table_count, 2);
    drop((web, shared));
}

/// A table's size follows what is listed. So an endpoint that fails and recovers, or is announced before it is ready, moves
/// nobody else's clients, even where a Service stands at a border of the sizes.
#[test]
fn readiness_does_not_change_a_lookup_table_s_size() {
    let objects = |count: u8, not_ready: u8| {
        let state = |last| if last < not_ready { "not-ready" } else { "" };
        let endpoints: Vec<String> = (0..count)
            .map(|last| format!("10.244.1.{} node-a {}", 2 + last, state(last)))
            .collect();
        objects(&endpoints.join(", "))
    };
    let choices = |world: &World| -> Vec<IpAddr> {
        (1000..2000)
            .map(|port| world.choice(CALL, port).address)
            .collect()
    };
    let mut world = World::new(&objects(21, 0));
    let all = choices(&world);
    // 21 listed is a border: 20 would have the smaller table, and then nearly every client would move.
    for not_ready in [1, 2, 21 / 2] {
        world.set(&objects(21, not_ready));
        let failed =
            |address: &IpAddr| (2..2 + not_ready).any(|last| *address == ip(&format!("10.244.1.{last}")));
        let others = all.iter().zip(choices(&world)).filter(|(was, _)| !failed(was));
        let moved = others.filter(|(was, is)| *was != is).count();
        assert!(
            moved < 100,
            "{not_ready} failed: {moved} of others' 1000 clients moved"
        );
        world.set(&objects(21, 0));
        assert_eq!(choices(&world), all);
    }
    let announced = World::new(&objects(22, 1));
    let size = |world: &World| {
        let called = (ip("10.96.0.10"), 80);
        let frontend = world
            .compiler
            .table()
            .frontend(ip("10.244.1.9"), IpProtocol::TCP, called);
        frontend.unwrap().service.cluster.slots().unwrap().size()
    };
    assert_eq!(
        [size(&world), size(&announced), size(&World::new(&objects(20, 0)))],
        [8191, 8191, 2039]
    );
}

#[test]
fn nodes_choose_alike_by_seed_and_differently_by_another() {
    let endpoints: Vec<String> = (2..40).map(|last| format!("10.244.1.{last} node-a")).collect();
    let text = objects(&endpoints.join(", "));
    let choices = |config: &str| {
        let world = World::configured(config, &text);
        (1000..1400)
            .map(|port| world.choice(CALL, port).address)
            .collect::<Vec<_>>()
    };
    assert_eq!(choices(""), choices("hash-seed = 0"));
    let differ = |a: &[IpAddr], b: &[IpAddr]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    assert!(differ(&choices(""), &choices("hash-seed = 1")) > 350);
    assert!(
        differ(
            &choices("backend-choice = \"random\""),
            &choices("backend-choice = \"random\"")
        ) > 350
    );
    let world = World::configured("backend-choice = \"random\"", &text);
    assert_eq!(world.compiler.memory().lookup_tables, 0);
    // Of 256 calls; that any one of the 38 is left out happens to one run in twenty-five.
    assert!(world.outcome(CALL).split(", ").count() >= 34, "all are chosen");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a node has seen before, it chooses as one that starts now: any changes that end in the same endpoints,
    /// across the borders of the lookup tables' sizes too, give the same tables.
    #[test]
    fn a_node_s_past_does_not_change_what_it_chooses(
        past in prop::collection::vec((0_u8..100, 0_u8..3, 0_u8..100), 1..5),
        (count, first, ready) in (0_u8..100, 0_u8..3, 0_u8..100),
    ) {
        let objects = |(count, first, ready): (u8, u8, u8)| {
            let endpoint = |last: u8| {
                let node = if last.is_multiple_of(2) { "node-a" } else { "node-b" };
                let state = if last < ready { "" } else { "not-ready" };
                format!("10.244.1.{} {node} {state}", 2 + first * 7 + last)
            };
            let endpoints: Vec<String> = (0..count).map(endpoint).collect();
            let spec = "clusterIP: 10.96.0.10, type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]";
            [service("web", spec), slice("web", 80, &endpoints.join(", "))].concat()
        };
        let now = objects((count, first, ready));
        let mut old = World::new(&objects(past[0]));
        past[1..].iter().for_each(|past| old.set(&objects(*past)));
        old.set(&now);
        let young = World::new(&now);
        let slots = |world: &World| {
            let called = (ip("10.96.0.10"), 80);
            let frontend = world.compiler.table().frontend(ip("10.244.1.9"), IpProtocol::TCP, called);
            let service = &frontend.unwrap().service;
            [&service.cluster, &service.local].map(|set| set.slots().cloned())
        };
        prop_assert!(slots(&old) == slots(&young));
        let used = count.min(ready);
        prop_assert_eq!(slots(&young).map(|slots| slots.is_some()), [used > 1, used > 2]);
    }
}

/// Another node's own address stays that node's, from the moment that the node is there.
#[test]
fn a_node_that_comes_takes_its_address_out_of_steering() {
    let spec = format!("{WEB}, externalIPs: [192.0.2.7]");
    let mut world = World::new(&[service("web", &spec), slice("web", 80, "10.244.1.2 node-a")].concat());
    assert_eq!(world.compiler.steering().addresses, [ip("192.0.2.7")]);
    let services = Arc::clone(world.store.services());
    let node = "node-a".parse().unwrap();
    world.compiler.update(&super::super::ServiceInputs {
        services: &services,
        node: &node,
        zone: Some("here"),
        own_addresses: &[ip("192.0.2.1")],
        uplink_addresses: &[ip("192.0.2.1")],
        gateways: &[],
        node_addresses: &[ip("192.0.2.1"), ip("192.0.2.7")].into(),
        fail_safe_ports: &[],
        listens: super::super::HostListens(&|_, _, _| Ok(false)),
        host_ports: &[],
        resolver: None,
    });
    assert!(world.compiler.steering().addresses.is_empty());
    assert_eq!(world.outcome("pod -> 192.0.2.7 tcp 80"), "10.244.1.2:80 masq");
}

#[test]
fn another_zone_or_address_of_the_node_is_taken_in() {
    let mut world = World::new(&objects(
        "10.244.1.2 node-a for-zone=here, 10.244.2.2 node-b for-zone=there",
    ));
    assert_eq!(world.outcome(CALL), "10.244.1.2:80");
    let services = Arc::clone(world.store.services());
    let own: IpAddr = ip("192.0.2.7");
    let node = "node-a".parse().unwrap();
    world.compiler.update(&super::super::ServiceInputs {
        services: &services,
        node: &node,
        zone: Some("there"),
        own_addresses: &[own],
        uplink_addresses: &[own],
        gateways: &[],
        node_addresses: &[own].into(),
        fail_safe_ports: &[],
        listens: super::super::HostListens(&|_, _, _| Ok(false)),
        host_ports: &[],
        resolver: None,
    });
    assert_eq!(world.outcome(CALL), "10.244.2.2:80");
}
