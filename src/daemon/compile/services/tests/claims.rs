//! Addresses that no Service may have, and those that two want.

use millrace_dataplane::table::service::Serving;
use millrace_dataplane::wire::IpProtocol;

use super::world::{LISTENED, World, service, service_with, slice, slice_with};

fn notices(objects: &[String]) -> (World, Vec<String>) {
    let world = World::new(&objects.concat());
    let notices = world.notices();
    (world, notices)
}

#[test]
fn refused_classes_of_virtual_addresses_are_named_and_the_rest_is_served() {
    let rows = [
        ("127.0.0.1", "a loopback"),
        ("127.255.0.9", "a loopback"),
        ("'::1'", "a loopback"),
        ("169.254.169.254", "a link-local"),
        ("'fe80::1'", "a link-local"),
        ("224.0.0.251", "a multicast"),
        ("'ff02::fb'", "a multicast"),
        ("0.0.0.0", "an unspecified"),
        ("'::ffff:10.0.0.1'", "an IPv4-mapped"),
    ];
    for (address, class) in rows {
        let shown = address.trim_matches('\'');
        let good = "198.51.100.1";
        let (world, found) = notices(&[
            service(
                "web",
                &format!("clusterIP: 10.96.0.10, externalIPs: [{address}, {good}], ports: [{{port: 80}}]"),
            ),
            slice("web", 8080, "10.244.1.2 node-a"),
        ]);
        let expected = format!(
            "refused Service default/web: spec.externalIPs[0]: {shown} is {class} address and cannot lead to a Service"
        );
        assert_eq!(found, [expected]);
        assert_eq!(
            world.outcome(&format!("pod -> {shown} tcp 80")),
            "no service",
            "{shown}"
        );
        assert_eq!(
            world.outcome("pod -> 198.51.100.1 tcp 80"),
            "10.244.1.2:8080 masq"
        );
        assert_eq!(world.outcome("pod -> 10.96.0.10 tcp 80"), "10.244.1.2:8080");
    }
    let (world, found) = notices(&[
        service_with(
            "web",
            "",
            "type: LoadBalancer, clusterIP: 169.254.0.1, ports: [{port: 80, nodePort: 30080}]",
            "{ip: 127.0.0.1}, {ip: 10.244.2.7}",
        ),
        slice("web", 8080, "10.244.1.2 node-a"),
    ]);
    assert_eq!(
        found,
        [
            "refused Service default/web: spec.clusterIPs[0]: 169.254.0.1 is a link-local address and cannot lead to a Service",
            "refused Service default/web: status.loadBalancer.ingress[0]: 127.0.0.1 is a loopback address and cannot lead to a Service",
        ]
    );
    assert_eq!(world.outcome("pod -> 169.254.0.1 tcp 80"), "no service");
}

#[test]
fn refused_classes_of_endpoints_are_named_and_the_others_are_used() {
    let rows = [
        ("127.0.0.1", "a loopback"),
        ("169.254.169.254", "a link-local"),
        ("239.1.2.3", "a multicast"),
        ("0.0.0.0", "an unspecified"),
    ];
    for (address, class) in rows {
        let (world, found) = notices(&[
            service("web", "clusterIP: 10.96.0.10, ports: [{port: 80}]"),
            slice("web", 8080, &format!("{address} node-a, 10.244.1.2 node-a")),
        ]);
        let expected = format!(
            "refused EndpointSlice default/web: endpoints[0].addresses[0]: {address} is {class} address, which no endpoint may have"
        );
        assert_eq!(found, [expected]);
        assert_eq!(world.outcome("pod -> 10.96.0.10 tcp 80"), "10.244.1.2:8080");
    }
    let (world, found) = notices(&[
        service("six", "clusterIP: 'fd00:96::1', ports: [{port: 80}]"),
        slice_with(
            "six",
            "six",
            "{port: 8080}",
            "::1 node-a, fe80::7 node-a, 10.0.0.1 node-a, fd00:244:1::2 node-a",
        ),
    ]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[2].ends_with("`10.0.0.1` is no IPv6 address"), "{found:?}");
    assert_eq!(world.outcome("pod -> fd00:96::1 tcp 80"), "[fd00:244:1::2]:8080");
}

#[test]
fn a_duplicate_address_is_refused_and_reported_on_both_and_the_older_keeps_it() {
    let young = "creationTimestamp: '2026-05-01T00:00:00Z'";
    let old = "creationTimestamp: '2025-05-01T00:00:00Z'";
    let spec =
        |cluster: &str| format!("clusterIP: {cluster}, externalIPs: [198.51.100.1], ports: [{{port: 80}}]");
    let objects = |first: &str, second: &str| {
        [
            service_with("one", first, &spec("10.96.0.10"), ""),
            slice("one", 1000, "10.244.1.1 node-a, 10.244.1.11 node-a"),
            service_with("two", second, &spec("10.96.0.20"), ""),
            slice("two", 2000, "10.244.2.2 node-b"),
        ]
    };
    let claim = "spec.externalIPs: 198.51.100.1 TCP 80";
    for (first, second, older, younger) in [
        (old, young, "one", "two"),
        (young, old, "two", "one"),
        ("", young, "two", "one"),
    ] {
        let (world, found) = notices(&objects(first, second));
        assert_eq!(
            found,
            [
                format!(
                    "refused Service default/{younger}: {claim} belongs to default/{older}, which is older and keeps it"
                ),
                format!(
                    "warning Service default/{older}: {claim} is claimed by default/{younger} too, which is younger and does not get it"
                ),
            ]
        );
        let winner = world.outcome("world -> 198.51.100.1 tcp 80");
        assert_eq!(winner.contains(":1000"), older == "one", "{winner}");
        assert!(!winner.contains(':') || winner.contains(if older == "one" { ":1000" } else { ":2000" }));
        assert!(
            world
                .outcome("pod -> 10.96.0.10 tcp 80")
                .contains("10.244.1.11:1000"),
            "the rest is served"
        );
        assert_eq!(world.outcome("pod -> 10.96.0.20 tcp 80"), "10.244.2.2:2000");
    }
    // The older one goes, and the younger gets what it wants.
    let mut world = World::new(&objects(old, young).concat());
    world.set(&objects(old, young)[2..].concat());
    assert_eq!(world.notices(), Vec::<String>::new());
    assert_eq!(
        world.outcome("world -> 198.51.100.1 tcp 80"),
        "10.244.2.2:2000 masq"
    );
    world.set(&objects(old, young).concat());
    assert!(
        world
            .outcome("world -> 198.51.100.1 tcp 80")
            .contains(":1000 masq"),
        "and loses it again"
    );
}

#[test]
fn one_address_with_different_ports_is_shared_in_peace() {
    let spec = |cluster: &str, port: u16| {
        format!("clusterIP: {cluster}, externalIPs: [198.51.100.1], ports: [{{port: {port}}}]")
    };
    let (world, found) = notices(&[
        service("one", &spec("10.96.0.10", 80)),
        slice("one", 1000, "10.244.1.1 node-a"),
        service("two", &spec("10.96.0.20", 443)),
        slice("two", 2000, "10.244.2.2 node-b"),
    ]);
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(
        world.outcome("world -> 198.51.100.1 tcp 80"),
        "10.244.1.1:1000 masq"
    );
    assert_eq!(
        world.outcome("world -> 198.51.100.1 tcp 443"),
        "10.244.2.2:2000 masq"
    );
}

#[test]
fn duplicates_of_cluster_ips_node_ports_and_across_kinds() {
    let rows = [
        (
            "clusterIP: 10.96.0.10",
            "clusterIP: 10.96.0.10",
            "spec.clusterIPs: 10.96.0.10 TCP 80",
        ),
        (
            "clusterIP: 10.96.0.10",
            "clusterIP: 10.96.0.20, externalIPs: [10.96.0.10]",
            "spec.externalIPs: 10.96.0.10 TCP 80",
        ),
        (
            "type: NodePort, clusterIP: 10.96.0.10",
            "type: NodePort, clusterIP: 10.96.0.20",
            "nodePort TCP 30080",
        ),
    ];
    for (first, second, claim) in rows {
        let ports = "ports: [{port: 80, nodePort: 30080}]";
        let (_, found) = notices(&[
            service("one", &format!("{first}, {ports}")),
            service("two", &format!("{second}, {ports}")),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with(&format!(
                "refused Service default/two: {claim} belongs to default/one"
            )),
            "{found:?}"
        );
        assert!(found[1].starts_with("warning Service default/one: "), "{found:?}");
    }
    // A Service may have one address twice over.
    let (_, found) = notices(&[service_with(
        "web",
        "",
        "type: LoadBalancer, clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], ports: [{port: 80}]",
        "{ip: 198.51.100.1}",
    )]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn an_address_in_a_pod_cidr_is_no_services() {
    let (world, found) = notices(&[
        service(
            "web",
            "clusterIP: 10.96.0.10, externalIPs: [10.244.2.9], ports: [{name: a, port: 80}, {name: b, port: 81}]",
        ),
        slice_with("web", "web", "{name: a, port: 8080}", "10.244.1.2 node-a"),
    ]);
    assert_eq!(
        found,
        [
            "refused Service default/web: spec.externalIPs: 10.244.2.9 lies in the pod CIDR of Node node-b and cannot lead to a Service"
        ]
    );
    assert_eq!(world.outcome("pod -> 10.244.2.9 tcp 80"), "no service");
    assert_eq!(world.outcome("pod -> 10.96.0.10 tcp 80"), "10.244.1.2:8080");
}

#[test]
fn the_nodes_own_address_is_allowed_where_the_node_does_not_need_the_port() {
    let objects = |port: u16| {
        [
            service_with(
                "web",
                "",
                &format!("type: LoadBalancer, clusterIP: 10.96.0.10, externalIPs: [192.0.2.2], ports: [{{port: {port}}}]"),
                "{ip: 192.0.2.1}",
            ),
            slice("web", 8080, "10.244.1.2 node-a"),
        ]
        .concat()
    };
    let world = World::new(&objects(80));
    assert_eq!(world.outcome("world -> 192.0.2.1 tcp 80"), "10.244.1.2:8080 masq");
    assert_eq!(world.compiler.warnings(), Vec::<String>::new());
    // The node's own calls come turned to the gateway, from the address that they were to.
    for (call, outcome) in [
        ("host 192.0.2.1 -> 10.244.1.1 tcp 80", "10.244.1.2:8080 masq"),
        ("host 10.244.1.0 -> 10.244.1.1 tcp 80", "no service"),
        ("pod -> 10.244.1.1 tcp 80", "no service"),
        ("host 192.0.2.1 -> 10.244.1.1 tcp 81", "no service"),
        ("host 192.0.2.1 -> 10.244.1.1 udp 80", "no service"),
    ] {
        assert_eq!(world.outcome(call), outcome, "{call}");
    }
    let serves = |source: &str| {
        let called = ("10.244.1.1".parse().unwrap(), 80);
        let backend = ("10.244.1.2".parse().unwrap(), 8080);
        let table = world.compiler.table();
        table.still_serves(source.parse().unwrap(), IpProtocol::TCP, called, backend)
    };
    assert_eq!(
        (serves("192.0.2.1"), serves("10.244.1.0")),
        (Serving::Yes, Serving::No)
    );
    let steering = world.compiler.steering();
    assert_eq!(steering.own_ports.len(), 1);
    assert_eq!(
        steering.addresses,
        Vec::<std::net::IpAddr>::new(),
        "neither node's address is taken whole"
    );
    for (port, why) in [
        (22, "port 22 always stays with the node"),
        (LISTENED, "a program listens on TCP 9100 there"),
    ] {
        let world = World::new(&objects(port));
        assert_eq!(
            world.outcome(&format!("world -> 192.0.2.1 tcp {port}")),
            "no service",
            "{why}"
        );
        assert_eq!(
            world.outcome(&format!("pod -> 10.96.0.10 tcp {port}")),
            "10.244.1.2:8080",
            "the rest is served"
        );
        assert_eq!(
            world.outcome(&format!("pod -> 192.0.2.2 tcp {port}")),
            "10.244.1.2:8080 masq"
        );
        assert_eq!(
            world.compiler.warnings(),
            [format!(
                "Service default/web: status.loadBalancer.ingress: 192.0.2.1 TCP {port}: refused: the address is this node's own, and {why}"
            )]
        );
        assert!(world.compiler.steering().own_ports.is_empty());
    }
}

#[test]
fn what_else_this_node_refuses() {
    let world = World::new(
        &[
            service("own", "clusterIP: 192.0.2.1, ports: [{port: 80}]"),
            service(
                "low",
                "type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 443}]",
            ),
        ]
        .concat(),
    );
    let warnings = world.compiler.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0]
            .starts_with("Service default/low: nodePort TCP 443: refused: the port is outside 30000-32767")
    );
    assert!(warnings[1].starts_with(
        "Service default/own: spec.clusterIPs: 192.0.2.1 TCP 80: refused: the address is this node's own"
    ));
    assert_eq!(world.outcome("world -> 192.0.2.1 tcp 443"), "no service");
    assert_eq!(world.outcome("world -> 192.0.2.1 tcp 80"), "no service");
}

#[test]
fn a_service_that_makes_no_sense_is_refused_by_name_and_the_others_keep_working() {
    let rows = [
        (
            "ports: []",
            "spec.ports: a Service that is not headless needs at least one",
        ),
        (
            "ports: [{port: 0}]",
            "spec.ports[0].port: 0 is not within 1..=65535",
        ),
        (
            "ports: [{port: 65536}]",
            "spec.ports[0].port: 65536 is not within 1..=65535",
        ),
        (
            "ports: [{port: 80, protocol: tcp}]",
            "spec.ports[0].protocol: `tcp` is none of TCP, UDP, SCTP",
        ),
        (
            "type: NodePort, ports: [{port: 80, nodePort: -1}]",
            "spec.ports[0].nodePort: -1 is not within",
        ),
        (
            "ports: [{port: 80}, {port: 81}]",
            "spec.ports[1].name: `` is the name of another port too",
        ),
        (
            "ports: [{name: a, port: 80}, {name: b, port: 80}]",
            "spec.ports[1]: TCP 80 stands there twice",
        ),
        (
            "type: Clusterip, ports: [{port: 80}]",
            "spec.type: `Clusterip` is none of",
        ),
        (
            "externalTrafficPolicy: local, ports: [{port: 80}]",
            "spec.externalTrafficPolicy: `local` is none of Cluster, Local",
        ),
        (
            "internalTrafficPolicy: X, ports: [{port: 80}]",
            "spec.internalTrafficPolicy: `X` is none of Cluster, Local",
        ),
        (
            "sessionAffinity: clientip, ports: [{port: 80}]",
            "spec.sessionAffinity: `clientip` is none of None, ClientIP",
        ),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, ports: [{port: 80}]",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not within 1..=86400",
        ),
        (
            "externalIPs: [www], ports: [{port: 80}]",
            "spec.externalIPs[0]: `www` is no IP address",
        ),
        (
            "clusterIPs: [10.96.0.7], ports: [{port: 80}]",
            "spec.clusterIP `10.96.0.9` is not the first of spec.clusterIPs, `10.96.0.7`",
        ),
        (
            "clusterIPs: [10.96.0.9, 10.96.0.8], ports: [{port: 80}]",
            "spec.clusterIPs: 10.96.0.9 and 10.96.0.8 are of one family",
        ),
        ("ports: [{port: x}]", "spec.ports[0].port: invalid type"),
    ];
    for (spec, reason) in rows {
        let (world, found) = notices(&[
            service("good", "clusterIP: 10.96.0.10, ports: [{port: 80}]"),
            slice("good", 8080, "10.244.1.2 node-a"),
            service("bad", &format!("clusterIP: 10.96.0.9, {spec}")),
        ]);
        assert_eq!(found.len(), 1, "{spec}: {found:?}");
        assert!(
            found[0].starts_with(&format!("refused Service default/bad: {reason}")),
            "{spec}: {found:?}"
        );
        assert_eq!(world.outcome("pod -> 10.96.0.10 tcp 80"), "10.244.1.2:8080");
    }
    let timeout = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}";
    let (world, found) = notices(&[
        service(
            "long",
            &format!("clusterIP: 10.96.0.10, {timeout}, ports: [{{port: 80}}]"),
        ),
        service(
            "usual",
            "clusterIP: 10.96.0.11, sessionAffinity: ClientIP, ports: [{port: 80}]",
        ),
    ]);
    assert_eq!(found, Vec::<String>::new());
    let timeouts: Vec<_> = world
        .store
        .services()
        .iter()
        .map(|entry| entry.record.affinity_s)
        .collect();
    assert_eq!(timeouts, [Some(86_400), Some(10_800)]);
}
