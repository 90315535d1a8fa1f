//! What is shown, counted, steered and answered to load balancers.

use super::world::{World, service, service_with, slice, slice_with};
use crate::admin::protocol::ShowFilter;
use crate::daemon::compile::services::LocalEndpoints;
use crate::objects::ServiceKey;

fn world() -> World {
    World::new(
        &[
            service_with(
                "web",
                "",
                "type: LoadBalancer, clusterIP: 10.96.0.10, externalTrafficPolicy: Local, healthCheckNodePort: 30999, \
                 sessionAffinity: ClientIP, ports: [{name: http, port: 80, nodePort: 30080}]",
                "{ip: 198.51.100.2}, {ip: 192.0.2.1}",
            ),
            slice_with(
                "web",
                "web",
                "{name: http, port: 8080}",
                "10.244.1.2 node-a, 10.244.1.3 node-a not-ready, 10.244.2.4 node-b terminating",
            ),
            service("name", "type: ExternalName, externalName: db.example.org"),
            service("headless", "clusterIP: None, ports: [{port: 80}]"),
            service("empty", "clusterIP: 10.96.0.11, ports: [{port: 53, protocol: UDP}]"),
        ]
        .concat(),
    )
}

fn names(filter: ShowFilter) -> Vec<String> {
    let rows = world().compiler.rows(&filter);
    rows.into_iter()
        .map(|row| row.service.trim_start_matches("default/").to_owned())
        .collect()
}

#[test]
fn every_service_is_shown_with_its_state() {
    let rows = world().compiler.rows(&ShowFilter::default());
    let states: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row.service.as_str(), row.state.as_str()))
        .collect();
    assert_eq!(
        states,
        [
            ("default/empty", "programmed"),
            ("default/headless", "headless"),
            ("default/name", "dns-only"),
            ("default/web", "programmed"),
        ]
    );
    assert_eq!(rows[2].external_name.as_deref(), Some("db.example.org"));
    let web = &rows[3];
    assert_eq!(web.external_policy.as_deref(), Some("Local"));
    assert_eq!(web.affinity_s, Some(10_800));
    let endpoints: Vec<_> = web.ports[0]
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.state.as_str(), endpoint.used, endpoint.local))
        .collect();
    assert_eq!(
        endpoints,
        [
            ("ready", true, true),
            ("not-ready", false, true),
            ("terminating", false, false)
        ]
    );
}

#[test]
fn filters_narrow_by_all_that_is_given() {
    let by = |set: fn(&mut ShowFilter)| {
        let mut filter = ShowFilter::default();
        set(&mut filter);
        names(filter)
    };
    assert_eq!(by(|filter| filter.address = "10.244.1.3".parse().ok()), ["web"]);
    assert_eq!(by(|filter| filter.address = "198.51.100.2".parse().ok()), ["web"]);
    assert_eq!(by(|filter| filter.port = Some(30_080)), ["web"]);
    assert_eq!(by(|filter| filter.port = Some(53)), ["empty"]);
    assert_eq!(
        by(|filter| filter.state = Some("programmed".to_owned())),
        ["empty", "web"]
    );
    assert_eq!(
        by(|filter| filter.state = Some("terminating".to_owned())),
        ["web"]
    );
    assert_eq!(
        by(|filter| filter.pod = Some("default/none".to_owned())),
        Vec::<String>::new()
    );
    assert_eq!(
        by(|filter| {
            filter.state = Some("programmed".to_owned());
            filter.port = Some(80);
        }),
        ["web"]
    );
}

#[test]
fn connections_are_counted_by_service_and_endpoint_and_from_zero_for_a_new_one() {
    let mut world = world();
    let call = "world -> 198.51.100.2 tcp 80";
    let choice = world.choice(call, 1);
    for _ in 0..3 {
        world.compiler.table().counts().connection(0, &choice);
    }
    let counts = world.compiler.counts();
    assert_eq!(counts.len(), 1);
    assert_eq!(
        (counts[0].service.as_str(), counts[0].connections),
        ("default/web", 3)
    );
    assert_eq!(counts[0].endpoints.len(), 1);
    assert_eq!(counts[0].endpoints[0].connections, 3);
    // Everything goes, and so many others come that numbers are used again.
    world.set("");
    for round in 0..40 {
        let many: Vec<String> = (1..=64)
            .flat_map(|host| {
                let name = format!("s{round}-{host}");
                let address = format!("clusterIP: 10.97.{round}.{host}, ports: [{{port: 80}}]");
                [service(&name, &address), slice(&name, 80, "10.244.1.2 node-a")]
            })
            .collect();
        world.set(&many.concat());
        assert_eq!(world.compiler.counts(), Vec::new(), "round {round}");
    }
    let ids = world
        .compiler
        .table()
        .iter()
        .map(|(_, frontend)| frontend.service.id.get());
    assert!(ids.max().unwrap() < 2048, "numbers are used again");
}

#[test]
fn load_balancers_are_told_of_ready_endpoints_of_this_node() {
    let ports = world().compiler.health_ports();
    assert_eq!(ports.len(), 1);
    let local = |v4, v6| LocalEndpoints { v4, v6 };
    assert_eq!((ports[0].port, ports[0].local), (30_999, local(Some(1), None)));
    assert_eq!(ports[0].service, ServiceKey::new("default", "web").unwrap());
    // A pod of two families is one endpoint in each, one with several ports is one, and a family may lag behind.
    let dual = [
        service(
            "web",
            "type: LoadBalancer, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd00:96::10'], \
             externalTrafficPolicy: Local, healthCheckNodePort: 30999, \
             ports: [{name: http, port: 80}, {name: tls, port: 443}]",
        ),
        slice_with(
            "web",
            "web",
            "{name: http, port: 8080}, {name: tls, port: 8443}",
            "10.244.1.2 node-a, 10.244.1.3 node-a, 10.244.2.4 node-b",
        ),
        slice_with(
            "web-6",
            "web",
            "{name: http, port: 8080}, {name: tls, port: 8443}",
            "fd00:244:1::2 node-a, fd00:244:1::3 node-a not-ready",
        ),
    ];
    let ports = World::new(&dual.concat()).compiler.health_ports();
    assert_eq!(ports[0].local, local(Some(2), Some(1)));
    // It counts for policy Local of a load balancer only.
    let cluster = service(
        "web",
        "type: LoadBalancer, clusterIP: 10.96.0.10, healthCheckNodePort: 30999, ports: [{port: 80}]",
    );
    assert_eq!(World::new(&cluster).compiler.health_ports(), Vec::new());
}

#[test]
fn steering_knows_whole_addresses_own_ports_and_node_ports() {
    let world = world();
    let steering = world.compiler.steering();
    assert_eq!(steering.prefixes, ["10.96.0.0/12".parse().unwrap()]);
    assert_eq!(
        steering.addresses,
        ["198.51.100.2".parse::<std::net::IpAddr>().unwrap()]
    );
    let own: Vec<String> = steering
        .own_ports
        .iter()
        .map(|(address, protocol, port)| format!("{address} {protocol} {port}"))
        .collect();
    // Its node port is one of IPv4 alone, on a node that has both families.
    assert_eq!(
        own,
        ["10.244.1.0 TCP 30080", "192.0.2.1 TCP 80", "192.0.2.1 TCP 30080"]
    );
    assert_eq!(steering.node_ports, []);
}
