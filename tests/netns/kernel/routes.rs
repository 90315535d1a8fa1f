//! Our own routes.

use ipnet::IpNet;
use millrace::kernel::{Kernel, KernelError, OWN_ROUTE_PROTOCOL, RouteSpec};

use super::namespaces::{Namespace, join};

fn node_with_host_port() -> (Namespace, Namespace) {
    let (node, other) = (Namespace::new(), Namespace::new());
    join(&node, "millrace0", &other, "peer0");
    join(&node, "up0", &other, "peer1");
    node.ip("addr add 10.244.1.0/32 dev millrace0");
    node.ip("-6 addr add fd00:244:1::/128 dev millrace0 nodad");
    node.ip("addr add 192.0.2.1/24 dev up0");
    (node, other)
}

fn spec(prefix: &str) -> RouteSpec {
    let prefix: IpNet = prefix.parse().unwrap();
    let (gateway, source) = if prefix.addr().is_ipv4() {
        ("10.244.1.1", "10.244.1.0")
    } else {
        ("fd00:244:1::1", "fd00:244:1::")
    };
    RouteSpec {
        prefix,
        gateway: Some(gateway.parse().unwrap()),
        onlink: true,
        source: Some(source.parse().unwrap()),
    }
}

fn ours(node: &Namespace) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for family in ["-4", "-6"] {
        let text = node.ip(&format!("{family} route show proto {OWN_ROUTE_PROTOCOL}"));
        lines.extend(
            text.lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")),
        );
    }
    lines
}

#[test]
fn the_set_of_our_routes_becomes_the_wanted_one() {
    let (node, _other) = node_with_host_port();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let wanted = ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "fd00:244:2::/64"].map(spec);
        let changes = kernel.sync_routes("millrace0", &wanted).await.unwrap();
        assert!(changes.failed.is_empty(), "{changes:?}");
        assert_eq!(changes.added.len(), wanted.len());
        assert_eq!(
            ours(&node),
            [
                "10.244.1.0/24 via 10.244.1.1 dev millrace0 src 10.244.1.0 onlink",
                "10.244.2.0/24 via 10.244.1.1 dev millrace0 src 10.244.1.0 onlink",
                "10.244.3.0/24 via 10.244.1.1 dev millrace0 src 10.244.1.0 onlink",
                "fd00:244:2::/64 via fd00:244:1::1 dev millrace0 src fd00:244:1:: metric 1024 onlink pref medium",
            ]
        );

        let changes = kernel.sync_routes("millrace0", &wanted).await.unwrap();
        let done = [&changes.added, &changes.removed, &changes.replaced];
        assert!(done.iter().all(|prefixes| prefixes.is_empty()), "{changes:?}");

        // One goes, one stays, one goes another way, one is new; what is not ours, or not here, is left
        // alone.
        node.ip("route add 10.99.0.0/16 dev millrace0");
        node.ip(&format!("route add 10.98.0.0/16 via 192.0.2.9 proto {OWN_ROUTE_PROTOCOL}"));
        let mut moved = spec("10.244.3.0/24");
        moved.source = None;
        let wanted = [spec("10.244.1.0/24"), moved, spec("10.244.4.0/24")];
        let changes = kernel.sync_routes("millrace0", &wanted).await.unwrap();
        assert!(changes.failed.is_empty(), "{changes:?}");
        let texts = |prefixes: &[IpNet]| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&changes.removed), ["10.244.2.0/24", "fd00:244:2::/64"]);
        assert_eq!(texts(&changes.replaced), ["10.244.3.0/24"]);
        assert_eq!(texts(&changes.added), ["10.244.4.0/24"]);
        assert_eq!(
            ours(&node),
            [
                "10.98.0.0/16 via 192.0.2.9 dev up0",
                "10.244.1.0/24 via 10.244.1.1 dev millrace0 src 10.244.1.0 onlink",
                "10.244.3.0/24 via 10.244.1.1 dev millrace0 onlink",
                "10.244.4.0/24 via 10.244.1.1 dev millrace0 src 10.244.1.0 onlink",
            ]
        );
        assert!(node.ip("route").contains("10.99.0.0/16 dev millrace0"));

        // Wanted twice is wanted once; in two ways is said, and the last one counts.
        let twice = [spec("10.244.1.0/24"), spec("10.244.1.0/24")];
        let changes = kernel.sync_routes("millrace0", &twice).await.unwrap();
        assert!(changes.failed.is_empty() && changes.added.is_empty(), "{changes:?}");
        let mut other_way = spec("10.244.1.0/24");
        other_way.source = None;
        let changes = kernel.sync_routes("millrace0", &[spec("10.244.1.0/24"), other_way]).await.unwrap();
        assert_eq!((changes.failed.len(), changes.replaced.len()), (1, 1), "{changes:?}");

        kernel.sync_routes("millrace0", &[]).await.unwrap();
        assert_eq!(ours(&node), ["10.98.0.0/16 via 192.0.2.9 dev up0"]);
    });
}

#[test]
fn another_programs_route_is_left_alone_and_the_others_are_set() {
    let (node, _other) = node_with_host_port();
    node.ip("route add 10.244.2.0/24 via 192.0.2.9");
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let wanted = [spec("10.244.2.0/24"), spec("10.244.3.0/24")];
        let changes = kernel.sync_routes("millrace0", &wanted).await.unwrap();
        assert_eq!(changes.added.len(), 1);
        let [KernelError::RouteTaken { .. }] = changes.failed.as_slice() else {
            panic!("{changes:?}")
        };
        let said = changes.failed[0].to_string();
        assert!(
            said.contains("10.244.2.0/24") && said.contains("192.0.2.9"),
            "{said}"
        );
        assert!(node.ip("route").contains("10.244.2.0/24 via 192.0.2.9 dev up0"));

        let error = kernel
            .ensure_route("millrace0", &spec("10.244.2.0/24"))
            .await
            .unwrap_err();
        assert!(matches!(error, KernelError::RouteTaken { .. }), "{error}");
    });
}

#[test]
fn a_single_route_is_ensured_and_removed() {
    let (node, _other) = node_with_host_port();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        for prefix in ["10.244.2.0/24", "fd00:244:2::/64", "0.0.0.0/0", "::/0"] {
            assert!(
                kernel.ensure_route("millrace0", &spec(prefix)).await.unwrap(),
                "{prefix}"
            );
            assert!(
                !kernel.ensure_route("millrace0", &spec(prefix)).await.unwrap(),
                "{prefix} again"
            );
            assert_eq!(ours(&node).len(), 1);
            assert!(
                kernel
                    .remove_route("millrace0", prefix.parse().unwrap())
                    .await
                    .unwrap(),
                "{prefix}"
            );
            assert!(
                !kernel
                    .remove_route("millrace0", prefix.parse().unwrap())
                    .await
                    .unwrap(),
                "{prefix} again"
            );
            assert!(ours(&node).is_empty());
        }
        let error = kernel
            .ensure_route("nothere0", &spec("10.244.2.0/24"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("nothere0"), "{error}");
        let mut mixed = spec("10.244.2.0/24");
        mixed.gateway = Some("fd00:244:1::1".parse().unwrap());
        let error = kernel
            .ensure_route("millrace0", &mixed)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("10.244.2.0/24") && error.contains("family"),
            "{error}"
        );
    });
}
