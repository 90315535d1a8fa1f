//! Types of Services, traffic policies, masquerade, source ranges, and what has no Service.

use super::world::{World, check, service, service_with, slice, slice_with};

/// One endpoint on each node.
const BOTH: &str = "10.244.1.2 node-a, 10.244.2.2 node-b";

#[test]
fn a_cluster_ip_leads_to_a_chosen_endpoint() {
    let objects = [
        service(
            "web",
            "clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: 8080}]",
        ),
        slice("web", 8080, BOTH),
    ];
    check(
        "destination NAT for ClusterIP; a source outside the pod CIDRs is masqueraded",
        &objects,
        &[
            ("pod -> 10.96.0.10 tcp 80", "10.244.1.2:8080, 10.244.2.2:8080"),
            (
                "host -> 10.96.0.10 tcp 80",
                "10.244.1.2:8080 masq, 10.244.2.2:8080 masq",
            ),
            (
                "world -> 10.96.0.10 tcp 80",
                "10.244.1.2:8080 masq, 10.244.2.2:8080 masq",
            ),
            // Its reply would not come by here.
            (
                "peer -> 10.96.0.10 tcp 80",
                "10.244.1.2:8080, 10.244.2.2:8080 masq",
            ),
            (
                "peer 192.0.2.2 -> 10.96.0.10 tcp 80",
                "10.244.1.2:8080 masq, 10.244.2.2:8080 masq",
            ),
        ],
    );
}

#[test]
fn hairpin_is_masqueraded() {
    let objects = [
        service(
            "web",
            "clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], externalTrafficPolicy: Local, ports: [{port: 80}]",
        ),
        slice("web", 8080, BOTH),
    ];
    check(
        "source = chosen endpoint means masquerade",
        &objects,
        &[
            (
                "pod 10.244.1.2 -> 10.96.0.10 tcp 80",
                "10.244.1.2:8080 masq, 10.244.2.2:8080",
            ),
            (
                "pod 10.244.1.2 -> 198.51.100.1 tcp 80",
                "10.244.1.2:8080 masq, 10.244.2.2:8080",
            ),
        ],
    );
}

#[test]
fn external_traffic_of_policy_cluster_is_masqueraded() {
    let both = "10.244.1.2:8080 masq, 10.244.2.2:8080 masq";
    let objects = [
        service_with(
            "web",
            "",
            "type: LoadBalancer, clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], ports: [{port: 80, nodePort: 30080}]",
            "{ip: 198.51.100.2}",
        ),
        slice("web", 8080, BOTH),
    ];
    check(
        "externalTrafficPolicy: Cluster masquerades all external traffic",
        &objects,
        &[
            ("world -> 198.51.100.1 tcp 80", both),
            ("world -> 198.51.100.2 tcp 80", both),
            ("world -> 192.0.2.1 tcp 30080", both),
            ("pod -> 198.51.100.1 tcp 80", both),
            ("pod -> 192.0.2.1 tcp 30080", both),
            ("host -> 198.51.100.2 tcp 80", both),
            ("host -> 192.0.2.1 tcp 30080", both),
            // The addresses that a bridge and a tunnel device would have are the node's own there, too.
            ("host -> 10.244.1.1 tcp 30080", both),
            ("host -> 10.244.1.0 tcp 30080", both),
            // Another node's port is that node's business, and so are other ports and protocols of our own.
            ("pod -> 192.0.2.2 tcp 30080", "no service"),
            ("world -> 192.0.2.1 udp 30080", "no service"),
            ("world -> 192.0.2.1 tcp 30081", "no service"),
            ("world -> 198.51.100.1 tcp 81", "no service"),
            ("world -> 198.51.100.1 icmp 0", "no service"),
        ],
    );
}

#[test]
fn external_traffic_of_policy_local_stays_here_and_keeps_its_source() {
    let objects = [
        service_with(
            "web",
            "",
            "type: LoadBalancer, clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], externalTrafficPolicy: Local, \
             ports: [{port: 80, nodePort: 30080}]",
            "{ip: 198.51.100.2}",
        ),
        slice("web", 8080, BOTH),
    ];
    check(
        "truly external traffic gets local endpoints; pods the cluster list, not masqueraded; the host masqueraded",
        &objects,
        &[
            ("world -> 198.51.100.1 tcp 80", "10.244.1.2:8080"),
            ("world -> 198.51.100.2 tcp 80", "10.244.1.2:8080"),
            ("world -> 192.0.2.1 tcp 30080", "10.244.1.2:8080"),
            ("peer -> 198.51.100.1 tcp 80", "10.244.1.2:8080"),
            ("pod -> 198.51.100.1 tcp 80", "10.244.1.2:8080, 10.244.2.2:8080"),
            ("pod -> 192.0.2.1 tcp 30080", "10.244.1.2:8080, 10.244.2.2:8080"),
            (
                "host -> 198.51.100.2 tcp 80",
                "10.244.1.2:8080 masq, 10.244.2.2:8080 masq",
            ),
            (
                "host -> 192.0.2.1 tcp 30080",
                "10.244.1.2:8080 masq, 10.244.2.2:8080 masq",
            ),
            // The policy is about external addresses only.
            (
                "world -> 10.96.0.10 tcp 80",
                "10.244.1.2:8080 masq, 10.244.2.2:8080 masq",
            ),
        ],
    );
}

#[test]
fn policy_local_without_a_local_endpoint_is_dropped() {
    let spec = "type: NodePort, clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], internalTrafficPolicy: Local, \
                externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]";
    let elsewhere = "drop service_no_local_endpoint";
    check(
        "drop for Local policy when there is no local endpoint but there are others elsewhere",
        &[service("web", spec), slice("web", 8080, "10.244.2.2 node-b")],
        &[
            ("world -> 198.51.100.1 tcp 80", elsewhere),
            ("world -> 192.0.2.1 tcp 30080", elsewhere),
            ("peer -> 198.51.100.1 tcp 80", elsewhere),
            ("pod -> 10.96.0.10 tcp 80", elsewhere),
            ("host -> 10.96.0.10 tcp 80", elsewhere),
            // What no policy binds.
            ("pod -> 198.51.100.1 tcp 80", "10.244.2.2:8080"),
            ("host -> 192.0.2.1 tcp 30080", "10.244.2.2:8080 masq"),
        ],
    );
    check(
        "internalTrafficPolicy: Local restricts ClusterIP traffic to this node's endpoints",
        &[service("web", spec), slice("web", 8080, BOTH)],
        &[
            ("pod -> 10.96.0.10 tcp 80", "10.244.1.2:8080"),
            ("host -> 10.96.0.10 tcp 80", "10.244.1.2:8080 masq"),
        ],
    );
}

#[test]
fn a_service_without_any_endpoint_refuses() {
    let spec = "type: NodePort, clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], externalTrafficPolicy: Local, \
                ports: [{port: 80, nodePort: 30080}]";
    for (what, slice) in [
        ("no slice", String::new()),
        ("an empty slice", slice("web", 80, "")),
        (
            "none that serves",
            slice("web", 80, "10.244.1.2 node-a not-ready, 10.244.1.3 node-a dead"),
        ),
        (
            "a slice of another port's name",
            slice_with("web", "web", "{name: http, port: 80}", "10.244.1.2 node-a"),
        ),
        (
            "a slice of another protocol",
            slice_with("web", "web", "{protocol: UDP, port: 80}", "10.244.1.2 node-a"),
        ),
        (
            "a slice of another Service",
            slice("other", 80, "10.244.1.2 node-a"),
        ),
    ] {
        check(
            &format!("reject when a Service has no endpoint at all: {what}"),
            &[service("web", spec), slice],
            &[
                ("pod -> 10.96.0.10 tcp 80", "reject"),
                ("world -> 198.51.100.1 tcp 80", "reject"),
                ("world -> 192.0.2.1 tcp 30080", "reject"),
                ("host -> 192.0.2.1 tcp 30080", "reject"),
            ],
        );
    }
}

#[test]
fn what_belongs_to_no_service() {
    check(
        "drop to addresses of the Service CIDR without a Service; reject ports that a ClusterIP does not define",
        &[
            service("web", "clusterIP: 10.96.0.10, ports: [{port: 80}]"),
            slice("web", 8080, BOTH),
            service("empty", "clusterIP: 10.96.0.11, ports: [{port: 80}]"),
        ],
        &[
            ("pod -> 10.96.0.10 tcp 81", "reject"),
            ("pod -> 10.96.0.10 udp 80", "reject"),
            ("pod -> 10.96.0.10 icmp 0", "reject"),
            ("pod -> 10.96.0.11 tcp 81", "reject"),
            ("pod -> 10.96.0.12 tcp 80", "drop service_unknown_address"),
            ("host -> 10.111.255.255 udp 53", "drop service_unknown_address"),
            ("world -> 10.96.0.12 icmp 0", "drop service_unknown_address"),
            ("pod -> 10.112.0.1 tcp 80", "no service"),
            ("pod -> 10.244.2.2 tcp 8080", "no service"),
            ("pod -> 192.0.2.1 tcp 80", "no service"),
        ],
    );
}

#[test]
fn an_address_of_the_node_in_the_service_prefix_stays_the_nodes() {
    let world = World::configured("cidrs = [\"192.0.2.0/24\"]", "");
    assert_eq!(world.outcome("pod -> 192.0.2.1 tcp 22"), "no service");
    assert_eq!(
        world.outcome("pod -> 192.0.2.9 tcp 22"),
        "drop service_unknown_address"
    );
}

#[test]
fn source_ranges_come_before_everything() {
    let outside = "drop service_source_range";
    let spec = |ranges: &str| {
        format!(
            "type: LoadBalancer, clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], \
             loadBalancerSourceRanges: [{ranges}], ports: [{{port: 80, nodePort: 30080}}]"
        )
    };
    let objects = |ranges: &str, endpoints: &str| {
        [
            service_with("web", "", &spec(ranges), "{ip: 198.51.100.2}"),
            slice("web", 8080, endpoints),
        ]
    };
    let one = "10.244.2.2 node-b";
    check(
        "drop by loadBalancerSourceRanges, of the load balancer's addresses only",
        &objects("203.0.113.0/29, ' 198.18.0.1/32 '", one),
        &[
            ("world 203.0.113.7 -> 198.51.100.2 tcp 80", "10.244.2.2:8080 masq"),
            ("world 198.18.0.1 -> 198.51.100.2 tcp 80", "10.244.2.2:8080 masq"),
            ("world 203.0.113.8 -> 198.51.100.2 tcp 80", outside),
            ("pod -> 198.51.100.2 tcp 80", outside),
            ("host -> 198.51.100.2 tcp 80", outside),
            ("world 203.0.113.8 -> 198.51.100.1 tcp 80", "10.244.2.2:8080 masq"),
            ("world 203.0.113.8 -> 192.0.2.1 tcp 30080", "10.244.2.2:8080 masq"),
            ("pod -> 10.96.0.10 tcp 80", "10.244.2.2:8080"),
        ],
    );
    check(
        "the node counts as its address on the uplink",
        &objects("192.0.2.0/30", one),
        &[("host -> 198.51.100.2 tcp 80", "10.244.2.2:8080 masq")],
    );
    check(
        "and not as the one in the overlay from which it happens to call",
        &objects("10.244.1.0/24", one),
        &[
            ("host -> 198.51.100.2 tcp 80", outside),
            ("pod -> 198.51.100.2 tcp 80", "10.244.2.2:8080 masq"),
        ],
    );
    check(
        "before the NAT, and before a refusal",
        &objects("203.0.113.0/29", ""),
        &[
            ("world 203.0.113.7 -> 198.51.100.2 tcp 80", "reject"),
            ("world 203.0.113.8 -> 198.51.100.2 tcp 80", outside),
        ],
    );
    check(
        "host bits behind the prefix do not matter, as in Go",
        &objects("203.0.113.7/29", one),
        &[("world 203.0.113.1 -> 198.51.100.2 tcp 80", "10.244.2.2:8080 masq")],
    );
    let world = World::new(&objects("'2001:db8::/32'", one).concat());
    assert_eq!(
        world.outcome("world -> 198.51.100.2 tcp 80"),
        "10.244.2.2:8080 masq"
    );
    assert_eq!(
        world.notices(),
        [
            "warning Service default/web: spec.loadBalancerSourceRanges has no range of the family of 198.51.100.2, so everyone may call that"
        ]
    );
    let world = World::new(&objects("203.0.113.0-7", one).concat());
    assert_eq!(
        world.outcome("world -> 198.51.100.2 tcp 80"),
        "no service",
        "fails closed"
    );
    assert!(world.notices()[0].starts_with("refused Service default/web: spec.loadBalancerSourceRanges[0]"));
}

#[test]
fn types_that_program_nothing() {
    let unknown = "drop service_unknown_address";
    let objects = [
        service(
            "name",
            "type: ExternalName, externalName: db.example.org, ports: [{port: 0}, {port: 0}]",
        ),
        service(
            "headless",
            "clusterIP: None, externalIPs: [198.51.100.1], ports: [{port: 80}]",
        ),
        service("pending", "type: NodePort, ports: [{port: 80, nodePort: 30080}]"),
        service_with(
            "foreign",
            "labels: {service.kubernetes.io/service-proxy-name: other}",
            "clusterIP: 10.96.0.12, ports: [{port: 80}]",
            "",
        ),
        service_with(
            "ours",
            "labels: {service.kubernetes.io/service-proxy-name: millrace}",
            "clusterIP: 10.96.0.13, ports: [{port: 80}]",
            "",
        ),
        slice("headless", 80, BOTH),
        slice("pending", 80, BOTH),
        slice("foreign", 80, BOTH),
        slice("ours", 80, "10.244.1.2 node-a"),
    ];
    check(
        "headless: nothing to program; ExternalName is DNS only; service-proxy-name: skip unless it is ours",
        &objects,
        &[
            ("world -> 198.51.100.1 tcp 80", "no service"),
            ("world -> 192.0.2.1 tcp 30080", "no service"),
            ("pod -> 10.96.0.12 tcp 80", unknown),
            ("pod -> 10.96.0.13 tcp 80", "10.244.1.2:80"),
        ],
    );
    assert_eq!(
        World::new(&objects.concat()).notices(),
        [
            "skipped Service default/foreign: its label service.kubernetes.io/service-proxy-name leaves it to `other`",
            "skipped Service default/pending: it has no spec.clusterIP yet",
        ],
        "an ExternalName is refused nothing"
    );
}

#[test]
fn a_load_balancer_of_mode_proxy_is_not_short_circuited() {
    check(
        "ipMode: Proxy",
        &[
            service_with(
                "web",
                "",
                "type: LoadBalancer, clusterIP: 10.96.0.10, ports: [{port: 80}]",
                "{ip: 198.51.100.1, ipMode: VIP}, {ip: 198.51.100.2, ipMode: Proxy}, {hostname: lb.example.org}",
            ),
            slice("web", 8080, "10.244.1.2 node-a"),
        ],
        &[
            ("pod -> 198.51.100.1 tcp 80", "10.244.1.2:8080 masq"),
            ("pod -> 198.51.100.2 tcp 80", "no service"),
        ],
    );
}

#[test]
fn protocols_ports_and_families() {
    let ports = "ports: [{name: http, port: 80, targetPort: web}, {name: dns, port: 53, protocol: UDP}, \
                 {name: dns-tcp, port: 53}, {name: sig, port: 2905, protocol: SCTP}]";
    check(
        "TCP, UDP and SCTP; endpoints of different ports, named target ports",
        &[
            service("many", &format!("clusterIP: 10.96.0.10, {ports}")),
            slice_with(
                "many-1",
                "many",
                "{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}",
                "10.244.1.2 node-a",
            ),
            // Pods of another version have another number under the same name.
            slice_with(
                "many-2",
                "many",
                "{name: http, port: 9090}, {name: dns-tcp, port: 5353}, {name: sig, port: 2905, protocol: SCTP}",
                "10.244.1.3 node-a",
            ),
        ],
        &[
            ("pod -> 10.96.0.10 tcp 80", "10.244.1.2:8080, 10.244.1.3:9090"),
            ("pod -> 10.96.0.10 udp 53", "10.244.1.2:5353"),
            ("pod -> 10.96.0.10 tcp 53", "10.244.1.3:5353"),
            ("pod -> 10.96.0.10 sctp 2905", "10.244.1.3:2905"),
            ("pod -> 10.96.0.10 udp 80", "reject"),
        ],
    );
    check(
        "dual-stack Services with two ClusterIPs",
        &[
            service(
                "dual",
                "type: NodePort, clusterIPs: [10.96.0.20, 'fd00:96::20'], ports: [{port: 80, nodePort: 30080}]",
            ),
            slice_with("dual-4", "dual", "{port: 8080}", "10.244.1.2 node-a"),
            slice_with("dual-6", "dual", "{port: 8080}", "fd00:244:2::2 node-b"),
            service(
                "six",
                "clusterIP: 'fd00:96::21', externalIPs: [198.51.100.1], ports: [{port: 80}]",
            ),
            slice_with("six", "six", "{port: 8080}", "fd00:244:2::3 node-b"),
        ],
        &[
            ("pod -> 10.96.0.20 tcp 80", "10.244.1.2:8080"),
            ("pod -> fd00:96::20 tcp 80", "[fd00:244:2::2]:8080"),
            ("world -> 192.0.2.1 tcp 30080", "10.244.1.2:8080 masq"),
            ("host -> fd00:244:1::1 tcp 30080", "[fd00:244:2::2]:8080 masq"),
            ("pod -> fd00:96::20 icmpv6 0", "reject"),
            // An address of a family that the Service does not have.
            ("pod -> 198.51.100.1 tcp 80", "no service"),
        ],
    );
}

#[test]
fn session_affinity_keeps_a_client_with_its_endpoint() {
    let spec =
        "clusterIP: 10.96.0.10, externalIPs: [198.51.100.1], sessionAffinity: ClientIP, ports: [{port: 80}]";
    let objects = |config: &str, endpoints: &str| {
        [
            service("web", &format!("{spec}{config}")),
            slice("web", 8080, endpoints),
        ]
        .concat()
    };
    let three = "10.244.1.2 node-a, 10.244.1.3 node-a, 10.244.1.4 node-a";
    let mut world = World::new(&objects("", three));
    let call = "pod -> 10.96.0.10 tcp 80";
    let first = world.choice(call, 20_000);
    assert!(!world.outcome(call).contains(','), "every port of the client");
    let others = (2..40).map(|last| world.choice(&format!("pod 10.244.1.{last} -> 10.96.0.10 tcp 80"), 1));
    let distinct: std::collections::BTreeSet<_> = others.map(|choice| choice.address).collect();
    assert_eq!(distinct.len(), 3, "other clients are spread");
    // More endpoints come; the client stays with the one it has.
    let more: Vec<String> = (10..60).map(|last| format!("10.244.1.{last} node-a")).collect();
    world.set(&objects("", &format!("{three}, {}", more.join(", "))));
    assert_eq!(world.choice(call, 20_001).address, first.address);
    assert_eq!(
        world.choice("pod -> 198.51.100.1 tcp 80", 1).address,
        first.address,
        "by every address of the Service"
    );
    // Its endpoint goes.
    let left: Vec<&str> = three
        .split(", ")
        .filter(|endpoint| !endpoint.starts_with(&first.address.to_string()))
        .collect();
    world.set(&objects("", &left.join(", ")));
    let second = world.choice(call, 20_002);
    assert_ne!(second.address, first.address);
    assert_eq!(world.outcome(call).matches("10.244").count(), 1);
}
