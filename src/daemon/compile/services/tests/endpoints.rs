//! Which endpoints count: readiness, and nearness.

use super::world::{check, service, slice};

/// Rows: what is the matter, the endpoints, who is called by a pod over the ClusterIP, and from the world by a node
/// port of policy `Local`.
type Rows<'a> = &'a [(&'a str, &'a str, &'a str, &'a str)];

fn check_rows(spec: &str, rows: Rows<'_>) {
    let spec = format!(
        "type: NodePort, clusterIP: 10.96.0.10, externalTrafficPolicy: Local, ports: [{{port: 80, nodePort: 30080}}]{spec}"
    );
    for (what, endpoints, cluster, local) in rows {
        let objects = [service("web", &spec), slice("web", 80, endpoints)];
        check(
            what,
            &objects,
            &[
                ("pod -> 10.96.0.10 tcp 80", cluster),
                ("world -> 192.0.2.1 tcp 30080", local),
            ],
        );
    }
}

const ELSEWHERE: &str = "drop service_no_local_endpoint";

#[test]
fn ready_ones_and_if_none_those_that_serve_while_they_terminate() {
    check_rows(
        "",
        &[
            (
                "absent means ready",
                "10.244.1.2 node-a unsaid",
                "10.244.1.2:80",
                "10.244.1.2:80",
            ),
            (
                "an endpoint is ready unless ready is false",
                "10.244.1.2 node-a, 10.244.1.3 node-a not-ready, 10.244.1.4 node-a terminating",
                "10.244.1.2:80",
                "10.244.1.2:80",
            ),
            (
                "none is ready: serving and terminating",
                "10.244.1.3 node-a not-ready, 10.244.1.4 node-a terminating, 10.244.1.5 node-a dead",
                "10.244.1.4:80",
                "10.244.1.4:80",
            ),
            (
                "decided separately for the cluster-wide and the node-local list",
                "10.244.1.4 node-a terminating, 10.244.2.2 node-b",
                "10.244.2.2:80",
                "10.244.1.4:80",
            ),
            (
                "a local one that does not serve",
                "10.244.1.5 node-a dead, 10.244.2.2 node-b",
                "10.244.2.2:80",
                ELSEWHERE,
            ),
            (
                "without a node's name it is not local",
                "10.244.1.2",
                "10.244.1.2:80",
                ELSEWHERE,
            ),
            (
                "elsewhere only one that terminates: not refused but dropped",
                "10.244.2.4 node-b terminating",
                "10.244.2.4:80",
                ELSEWHERE,
            ),
        ],
    );
}

#[test]
fn publish_not_ready_addresses_makes_all_ready() {
    check_rows(
        ", publishNotReadyAddresses: true",
        &[(
            "publishNotReadyAddresses",
            "10.244.1.2 node-a, 10.244.1.3 node-a not-ready, 10.244.1.5 node-a dead",
            "10.244.1.2:80, 10.244.1.3:80, 10.244.1.5:80",
            "10.244.1.2:80, 10.244.1.3:80, 10.244.1.5:80",
        )],
    );
}

#[test]
fn hints_choose_the_near_if_every_ready_endpoint_has_them_and_one_is_near() {
    let all = "10.244.1.2:80, 10.244.2.2:80";
    let rows = [
        ("same node", "for-node=node-a", "for-node=node-b", "10.244.1.2:80"),
        (
            "no hint names this node",
            "for-node=node-b",
            "for-node=node-b",
            all,
        ),
        ("not every endpoint has a node hint", "", "for-node=node-a", all),
        ("same zone", "for-zone=there", "for-zone=here", "10.244.2.2:80"),
        ("no hint names this zone", "for-zone=there", "for-zone=there", all),
        ("not every endpoint has a zone hint", "for-zone=here", "", all),
        (
            "the node before the zone",
            "for-node=node-a for-zone=there",
            "for-node=node-b for-zone=here",
            "10.244.1.2:80",
        ),
        (
            "else the zone by the same rule",
            "for-node=node-b for-zone=there",
            "for-node=node-b for-zone=here",
            "10.244.2.2:80",
        ),
    ];
    for (what, first, second, expected) in rows {
        let endpoints = format!("10.244.1.2 node-a {first}, 10.244.2.2 node-b {second}");
        // The list of this node does not know of nearness.
        check_rows("", &[(what, &endpoints, expected, "10.244.1.2:80")]);
    }
    check_rows(
        "",
        &[
            (
                "one that is not ready need not have hints",
                "10.244.1.2 node-a not-ready, 10.244.2.2 node-b for-zone=here, 10.244.2.3 node-b for-zone=there",
                "10.244.2.2:80",
                ELSEWHERE,
            ),
            (
                "those that terminate are taken wherever they are",
                "10.244.2.2 node-b terminating for-zone=here, 10.244.2.3 node-b terminating for-zone=there",
                "10.244.2.2:80, 10.244.2.3:80",
                ELSEWHERE,
            ),
        ],
    );
}

#[test]
fn the_same_endpoint_in_two_slices_counts_once_and_at_its_best() {
    let spec = "clusterIP: 10.96.0.10, ports: [{port: 80}]";
    let second = super::world::slice_with("web-2", "web", "{port: 80}", "10.244.1.2 node-a");
    check(
        "moved from one slice to the other",
        &[
            service("web", spec),
            slice("web", 80, "10.244.1.2 node-a not-ready"),
            second,
        ],
        &[("pod -> 10.96.0.10 tcp 80", "10.244.1.2:80")],
    );
}
