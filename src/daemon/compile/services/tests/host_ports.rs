//! Host ports: the node's ports that lead to one of its pods.

use std::num::NonZeroU16;

use super::world::*;
use crate::admin::protocol::HostPort;
use crate::daemon::compile::services::PodHostPorts;
use crate::dns::service::ResolverService;
use crate::objects::Protocol;

/// Host ports of a pod, each `[ADDRESS] PROTOCOL HOST-PORT CONTAINER-PORT`.
fn pod(name: &str, addresses: &[&str], ports: &[&str]) -> PodHostPorts {
    let port = |text: &&str| {
        let words: Vec<&str> = text.split(' ').collect();
        let [at @ .., protocol, host, container] = &words[..] else {
            panic!("{text}")
        };
        let number = |text: &str| NonZeroU16::new(text.parse().unwrap()).unwrap();
        HostPort {
            host_ip: at.first().map(|text| text.parse().unwrap()),
            protocol: Protocol::read(Some(protocol)).unwrap(),
            host_port: number(host),
            container_port: number(container),
        }
    };
    PodHostPorts {
        pod: format!("default/{name}").parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ports: ports.iter().map(port).collect(),
    }
}

fn world(objects: &str, host_ports: Vec<PodHostPorts>) -> World {
    let mut world = World::new(objects);
    world.host_ports = host_ports;
    world.update();
    world
}

fn assert_calls(world: &World, calls: Calls<'_>) {
    for (call, expected) in calls {
        assert_eq!(world.outcome(call), *expected, "{call}");
    }
}

#[test]
fn a_host_port_leads_to_its_pod_and_callers_from_outside_keep_their_address() {
    let web = pod(
        "web",
        &["10.244.1.7"],
        &["TCP 8080 80", "UDP 8080 53", "SCTP 9 99"],
    );
    let mut world = world("", vec![web]);
    assert_calls(
        &world,
        &[
            ("world -> 192.0.2.1 tcp 8080", "10.244.1.7:80"),
            ("world -> 192.0.2.1 udp 8080", "10.244.1.7:53"),
            ("world -> 192.0.2.1 sctp 9", "10.244.1.7:99"),
            ("world -> 192.0.2.1 tcp 9", "no service"),
            ("world -> 192.0.2.2 tcp 8080", "no service"),
            ("pod -> 192.0.2.1 tcp 8080", "10.244.1.7:80"),
            // Itself: the answer has to come back this way.
            ("pod 10.244.1.7 -> 192.0.2.1 tcp 8080", "10.244.1.7:80 masq"),
            ("peer -> 192.0.2.1 tcp 8080", "10.244.1.7:80"),
            ("host -> 192.0.2.1 tcp 8080", "10.244.1.7:80 masq"),
            // The node's own address in the overlay is one of its addresses; the pods' gateway is the switch.
            ("world -> 10.244.1.0 tcp 8080", "10.244.1.7:80"),
            ("world -> 10.244.1.1 tcp 8080", "no service"),
        ],
    );
    assert_eq!(world.compiler.warnings(), Vec::<String>::new());
    let row = world
        .compiler
        .rows(&crate::admin::protocol::ShowFilter::default());
    assert_eq!(
        (
            row[0].service.as_str(),
            row[0].kind.as_str(),
            row[0].state.as_str()
        ),
        ("default/web.hostPorts", "HostPort", "programmed")
    );
    world.host_ports.clear();
    world.update();
    assert_calls(&world, &[("world -> 192.0.2.1 tcp 8080", "no service")]);
    assert!(world.compiler.table().iter().next().is_none());
}

#[test]
fn host_ports_at_one_address_or_one_family_are_there_alone() {
    let both = ["10.244.1.7", "fd00:244:1::7"];
    let world = world(
        "",
        vec![
            pod(
                "one",
                &both,
                &[
                    "192.0.2.1 TCP 81 1",
                    "0.0.0.0 TCP 82 2",
                    ":: TCP 83 3",
                    "TCP 84 4",
                ],
            ),
            pod("other", &["10.244.1.8"], &["10.244.1.0 TCP 81 9", "TCP 85 5"]),
        ],
    );
    assert_calls(
        &world,
        &[
            ("world -> 192.0.2.1 tcp 81", "10.244.1.7:1"),
            ("world -> 10.244.1.0 tcp 81", "10.244.1.8:9"),
            ("world -> 192.0.2.1 tcp 82", "10.244.1.7:2"),
            ("world -> fd00:244:1:: tcp 82", "no service"),
            ("world -> 192.0.2.1 tcp 83", "no service"),
            ("world -> fd00:244:1:: tcp 83", "[fd00:244:1::7]:3"),
            ("world -> 192.0.2.1 tcp 84", "10.244.1.7:4"),
            ("world -> fd00:244:1:: tcp 84", "[fd00:244:1::7]:4"),
            ("world -> 192.0.2.1 tcp 85", "10.244.1.8:5"),
            // The pod has no IPv6.
            ("world -> fd00:244:1:: tcp 85", "no service"),
        ],
    );
}

#[test]
fn what_is_a_services_or_the_nodes_own_is_no_host_port() {
    let taken = service(
        "db",
        "clusterIP: 10.96.0.9, externalIPs: [192.0.2.1], ports: [{port: 81}]",
    );
    let node_port = service(
        "np",
        "type: NodePort, clusterIP: 10.96.0.8, ports: [{port: 80, nodePort: 30080}]",
    );
    let objects = [taken, slice("db", 5432, "10.244.1.3 node-a"), node_port].concat();
    let ports = ["TCP 81 1", "TCP 30080 2", "TCP 22 3", "TCP 9100 4", "TCP 82 5"];
    let mut world = world(&objects, vec![pod("web", &["10.244.1.7"], &ports)]);
    assert_calls(
        &world,
        &[
            ("world -> 192.0.2.1 tcp 81", "10.244.1.3:5432 masq"),
            ("world -> 192.0.2.1 tcp 30080", "reject"),
            ("world -> 192.0.2.1 tcp 22", "no service"),
            ("world -> 192.0.2.1 tcp 9100", "no service"),
            ("world -> 192.0.2.1 tcp 82", "10.244.1.7:5"),
        ],
    );
    let warnings = world.compiler.warnings().join("\n");
    for words in [
        "default/web: spec.externalIPs: 192.0.2.1 TCP 81: refused as its hostPort: a Service has it",
        "192.0.2.1 TCP 30080: refused as its hostPort",
        "192.0.2.1 TCP 22: refused: the address is this node's own, and port 22 always stays with the node",
        "a program listens on TCP 9100",
    ] {
        assert!(warnings.contains(words), "{words} in {warnings}");
    }
    // The Service goes, and the program ends: both are the pod's then.
    world.listened.clear();
    world.set("");
    assert_calls(
        &world,
        &[
            ("world -> 192.0.2.1 tcp 81", "10.244.1.7:1"),
            ("world -> 192.0.2.1 tcp 9100", "10.244.1.7:4"),
        ],
    );
}

#[test]
fn nothing_is_made_anew_while_nothing_changes() {
    let web = pod("web", &["10.244.1.7"], &["TCP 8080 80"]);
    let objects = service("a", "clusterIP: 10.96.0.9, ports: [{port: 81}]");
    let mut world = world(&objects, vec![web.clone()]);
    let table = std::sync::Arc::clone(world.compiler.table());
    world.update();
    assert!(std::sync::Arc::ptr_eq(&table, world.compiler.table()));
    // Another pod's host ports leave this one's backend, and with it its connections, as they are.
    let before = world.choice("world -> 192.0.2.1 tcp 8080", 20_000).backend;
    let _ = world.compiler.take_changes();
    world.host_ports.push(pod("x", &["10.244.1.8"], &["TCP 81 80"]));
    world.update();
    assert_eq!(
        world.choice("world -> 192.0.2.1 tcp 8080", 20_000).backend,
        before
    );
    assert!(!world.compiler.take_changes().backends.contains(&before));
}

#[test]
fn the_resolver_is_reached_as_a_service_is_and_makes_way_for_one() {
    let mut world = World::new("");
    let dns = crate::config::Dns {
        addresses: vec!["10.96.0.10".parse().unwrap(), "fd96::a".parse().unwrap()],
        ..crate::config::Dns::default()
    };
    let own = world.store.own_node().unwrap().clone();
    world.resolver = ResolverService::of(&dns, &own);
    world.update();
    let calls: Calls<'_> = &[
        ("pod -> 10.96.0.10 udp 53", "10.244.1.0:10053"),
        ("pod -> 10.96.0.10 tcp 53", "10.244.1.0:10053"),
        ("pod -> fd96::a udp 53", "[fd00:244:1::]:10053"),
        ("pod -> 10.96.0.10 tcp 80", "reject"),
        // The node's own queries come back to it from the gateway.
        ("host 10.244.1.0 -> 10.96.0.10 udp 53", "10.244.1.0:10053 masq"),
    ];
    assert_calls(&world, calls);
    let table = std::sync::Arc::clone(world.compiler.table());
    world.update();
    assert!(std::sync::Arc::ptr_eq(&table, world.compiler.table()));
    world.set(
        &[service(
            "dns",
            "clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]",
        )]
        .concat(),
    );
    assert_calls(
        &world,
        &[
            ("pod -> 10.96.0.10 udp 53", "reject"),
            ("pod -> 10.96.0.10 tcp 53", "10.244.1.0:10053"),
        ],
    );
    let warnings = world.compiler.warnings().join("\n");
    assert!(
        warnings.contains(
            "[dns] addresses: spec.clusterIPs: 10.96.0.10 UDP 53: refused as the resolver's: a Service has it"
        ),
        "{warnings}"
    );
}
