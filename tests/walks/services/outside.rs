//! Calls from outside: node ports, external addresses and load balancers' addresses, under both traffic policies.

use std::sync::Arc;

use millrace_dataplane::table::{Local, NodeTables};
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason};

use super::{
    At, Exchange, From, Sketch, TCP, To, UDP, client, external, local, node, packet, remote, say, tables, vip,
};
use crate::packets::Family;
use crate::rows::{Expect, punt};
use crate::world::{Node, node_address, pod, world};

fn sketches(family: Family) -> Vec<Sketch> {
    let (remote_address, remote_port) = remote(family);
    let (local_address, local_port) = local(family);
    let near = [(local_address, local_port, true)];
    let far = [(remote_address, remote_port, false)];
    let both = [near[0], far[0]];
    let mut kept = Sketch::new(5, At::LoadBalancer(external(family, 85)), 80, &both);
    kept.external_local = true;
    let mut kept_nowhere = Sketch::new(6, At::External(external(family, 86)), 80, &far);
    kept_nowhere.external_local = true;
    let mut ranged = Sketch::new(7, At::LoadBalancer(external(family, 87)), 80, &near);
    ranged.source_ranges = vec!["203.0.113.0/29", "2001:db8:f::/64"];
    let mut refused = ranged.clone();
    refused.id = 8;
    refused.at = vec![At::LoadBalancer(external(family, 88))];
    refused.source_ranges = vec!["192.168.0.0/16", "fd77::/16"];
    vec![
        Sketch::new(1, At::NodePort(family), 30_001, &near),
        Sketch::new(2, At::NodePort(family), 30_002, &far),
        Sketch::new(3, At::External(external(family, 83)), 80, &near),
        Sketch::new(4, At::LoadBalancer(external(family, 84)), 80, &far),
        kept,
        kept_nowhere,
        ranged,
        refused,
        Sketch::new(9, At::NodePort(family), 30_009, &[]),
    ]
}

/// `externalTrafficPolicy: Cluster` masquerades all external traffic: with the gateway's address towards a pod of this
/// node, with the node's own in the overlay towards another node, from where the answer has to come back here.
#[test]
fn a_client_outside_reaches_pods_of_any_node() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        let (gateway, overlay) = (pod(family, 1, 1), pod(family, 1, 0));
        let own = node_address(family, 1);
        for protocol in [UDP, TCP] {
            // Each from a port of its own: they share a backend, and a port that is taken is not kept.
            let ports = client(family).1..;
            let rows = [
                (
                    "node port, near",
                    (own, 30_001),
                    To::Pod(3),
                    gateway,
                    local(family),
                ),
                ("node port, far", (own, 30_002), To::Peer, overlay, remote(family)),
                (
                    "external, near",
                    (external(family, 83), 80),
                    To::Pod(3),
                    gateway,
                    local(family),
                ),
                (
                    "balancer, far",
                    (external(family, 84), 80),
                    To::Peer,
                    overlay,
                    remote(family),
                ),
                (
                    "in the ranges",
                    (external(family, 87), 80),
                    To::Pod(3),
                    gateway,
                    local(family),
                ),
            ];
            for ((name, service, to, source, backend), port) in rows.into_iter().zip(ports) {
                Exchange {
                    name: format!("{family:?} {protocol}: {name}"),
                    protocol,
                    from: From::World,
                    to,
                    comes: ((client(family).0, port), service),
                    leaves: ((source, port), backend),
                }
                .run(&mut node);
            }
        }
    }
}

/// `Local`: truly external traffic gets local endpoints and keeps its source; a pod of this node that calls an external
/// address gets the cluster list, not masqueraded; the host itself gets the cluster list, masqueraded.
#[test]
fn the_local_policy_keeps_the_client_s_address() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        Exchange {
            name: format!("{family:?}: from outside"),
            protocol: TCP,
            from: From::World,
            to: To::Pod(3),
            comes: (client(family), (external(family, 85), 80)),
            leaves: (client(family), local(family)),
        }
        .run(&mut node);
        let nowhere = packet(TCP, client(family), (external(family, 86), 80));
        let dropped = Expect::Drop(DropReason::ServiceNoLocalEndpoint);
        say(&mut node, "no endpoint here", From::World, &nowhere, dropped);
        let pod_2 = pod(family, 1, 2);
        Exchange {
            name: format!("{family:?}: a pod of this node"),
            protocol: TCP,
            from: From::Pod(2),
            to: To::Peer,
            comes: ((pod_2, 4000), (external(family, 86), 80)),
            leaves: ((pod_2, 4000), remote(family)),
        }
        .run(&mut node);
        Exchange {
            name: format!("{family:?}: the node itself"),
            protocol: TCP,
            from: From::Host,
            to: To::Peer,
            comes: ((node_address(family, 1), 4000), (external(family, 86), 80)),
            leaves: ((pod(family, 1, 0), 4000), remote(family)),
        }
        .run(&mut node);
    }
}

/// A server in the node's own network would answer a client outside by the uplink, past the switch. So it sees the gateway,
/// under either policy; a pod, which is answered by the host port, it sees as it is.
#[test]
fn a_server_in_the_node_s_own_network_answers_by_the_switch() {
    for family in Family::BOTH {
        let own = (node_address(family, 1), 8443);
        let mut cluster = Sketch::new(
            1,
            At::LoadBalancer(external(family, 91)),
            443,
            &[(own.0, own.1, true)],
        );
        cluster.at.push(At::Cluster(vip(family, 91)));
        let mut kept = Sketch::new(
            2,
            At::LoadBalancer(external(family, 92)),
            443,
            &[(own.0, own.1, true)],
        );
        kept.external_local = true;
        let mut node = node(&[cluster, kept]);
        let gateway = (pod(family, 1, 1), client(family).1);
        for number in [91, 92] {
            let (address, port) = client(family);
            let port = port + u16::from(number);
            Exchange {
                name: format!("{family:?}: balancer's address {number}"),
                protocol: TCP,
                from: From::World,
                to: To::Host,
                comes: ((address, port), (external(family, number), 443)),
                leaves: ((gateway.0, port), own),
            }
            .run(&mut node);
        }
        let pod_2 = (pod(family, 1, 2), 4000);
        Exchange {
            name: format!("{family:?}: a pod by ClusterIP"),
            protocol: TCP,
            from: From::Pod(2),
            to: To::Host,
            comes: (pod_2, (vip(family, 91), 443)),
            leaves: (pod_2, own),
        }
        .run(&mut node);
    }
}

/// What comes from another node's pod and leaves the overlay again, is answered to this node.
#[test]
fn a_peer_s_pod_reaches_a_server_outside_of_the_overlay() {
    for family in Family::BOTH {
        let server = (world(family), 8443);
        let sketch = Sketch::new(
            1,
            At::Cluster(vip(family, 93)),
            443,
            &[(server.0, server.1, false)],
        );
        let base = tables(&[sketch]);
        // A range in which the client's own port is free, so that the row can say which port it gets.
        let local = Local {
            uplink_ports: (1024, 65_535),
            ..Local::clone(&base.local)
        };
        let tables = NodeTables {
            local: Arc::new(local),
            ..base
        };
        Exchange {
            name: format!("{family:?}: a peer's pod"),
            protocol: TCP,
            from: From::Peer,
            to: To::World,
            comes: ((pod(family, 2, 2), 4000), (vip(family, 93), 443)),
            leaves: ((node_address(family, 1), 4000), server),
        }
        .run(&mut Node::with(tables));
    }
}

/// The node's own call of a node port comes by the host port, to the gateway's address.
#[test]
fn the_node_calls_its_own_node_port() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        Exchange {
            name: format!("{family:?}: own node port"),
            protocol: TCP,
            from: From::Host,
            to: To::Peer,
            comes: ((node_address(family, 1), 4000), (pod(family, 1, 1), 30_002)),
            leaves: ((pod(family, 1, 0), 4000), remote(family)),
        }
        .run(&mut node);
    }
}

#[test]
fn source_ranges_are_asked_before_anything_else_and_unknown_ports_are_nobodys() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        let outside = packet(TCP, client(family), (external(family, 88), 80));
        let dropped = || Expect::Drop(DropReason::ServiceSourceRange);
        say(&mut node, "not in the ranges", From::World, &outside, dropped());
        let from_pod = packet(TCP, (pod(family, 1, 2), 4000), (external(family, 88), 80));
        say(
            &mut node,
            "a pod not in the ranges",
            From::Pod(2),
            &from_pod,
            dropped(),
        );
        for (name, to) in [
            ("a port of the node", (node_address(family, 1), 30_077)),
            ("a port of a balancer", (external(family, 84), 81)),
            ("an address of nobody", (external(family, 200), 80)),
        ] {
            let call = packet(TCP, client(family), to);
            say(
                &mut node,
                name,
                From::World,
                &call,
                Expect::Drop(DropReason::NotForUs),
            );
        }
        let empty = packet(UDP, client(family), (node_address(family, 1), 30_009));
        let refused = punt(
            PuntReason::ServiceReject,
            PuntDetail::Nothing,
            &From::World.frame(&empty),
        );
        say(&mut node, "without endpoints", From::World, &empty, refused);
    }
}
