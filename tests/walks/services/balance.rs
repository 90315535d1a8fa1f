//! Calls to addresses inside the cluster: from pods, from the node, from other nodes' pods.

use std::collections::HashSet;
use std::net::IpAddr;

use millrace_dataplane::table::service::Serving;
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason, Verdict};

use super::{At, Exchange, From, SCTP, Sketch, TCP, To, UDP, backend, local, node, packet, remote, say, vip};
use crate::packets::{Body, Family, Ip};
use crate::rows::{Expect, punt};
use crate::world::{VXLAN_PORT, node_address, pod, world};

/// Services whose numbers tell what stands behind them.
fn sketches(family: Family) -> Vec<Sketch> {
    let (remote_address, remote_port) = remote(family);
    let (local_address, local_port) = local(family);
    let at = |number| At::Cluster(vip(family, number));
    let mut elsewhere = Sketch::new(14, at(14), 80, &[(remote_address, remote_port, false)]);
    elsewhere.internal_local = true;
    vec![
        Sketch::new(10, at(10), 53, &[(remote_address, remote_port, false)]),
        Sketch::new(11, at(11), 80, &[(local_address, local_port, true)]),
        Sketch::new(12, at(12), 80, &[(pod(family, 1, 2), 80, true)]),
        Sketch::new(13, at(13), 80, &[]),
        elsewhere,
        Sketch::new(16, at(16), 443, &[(world(family), 8443, false)]),
        Sketch::new(17, at(17), 80, &[(node_address(family, 1), 6443, true)]),
        Sketch::new(18, at(18), 53, &[(node_address(family, 2), VXLAN_PORT, false)]),
    ]
}

#[test]
fn a_pod_calls_and_the_answer_comes_from_whom_it_called() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        let pod_2 = pod(family, 1, 2);
        for protocol in [UDP, TCP, SCTP] {
            let call = |name: &str, service, to, backend| Exchange {
                name: format!("{family:?} {protocol}: {name}"),
                protocol,
                from: From::Pod(2),
                to,
                comes: ((pod_2, 4000), service),
                leaves: ((pod_2, 4000), backend),
            };
            let rows = [
                call("on another node", (vip(family, 10), 53), To::Peer, remote(family)),
                call("on this node", (vip(family, 11), 80), To::Pod(3), local(family)),
                call(
                    "on the node itself",
                    (vip(family, 17), 80),
                    To::Host,
                    (node_address(family, 1), 6443),
                ),
            ];
            rows.iter().for_each(|row| row.run(&mut node));
        }
        let counts = node.tables().services.counts().clone();
        assert_eq!(
            counts.of_backend(backend(10, 0)).connections,
            2 * 3,
            "by both switches"
        );
        assert_eq!(counts.of_backend(backend(13, 0)).connections, 0);
    }
}

/// Hairpin: source = chosen endpoint means masquerade.
#[test]
fn a_pod_that_calls_itself_sees_the_gateway() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        let pod_2 = pod(family, 1, 2);
        Exchange {
            name: format!("{family:?}: hairpin"),
            protocol: TCP,
            from: From::Pod(2),
            to: To::Pod(2),
            comes: ((pod_2, 4000), (vip(family, 12), 80)),
            leaves: ((pod(family, 1, 1), 4000), (pod_2, 80)),
        }
        .run(&mut node);
    }
}

/// A source outside the pod CIDRs that calls a ClusterIP is masqueraded, and so is the node itself: with the address
/// that a bridge to the pods would have, or with the node's own in the overlay.
#[test]
fn the_node_calls_under_the_address_by_which_it_is_reached() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        let own = node_address(family, 1);
        for protocol in [UDP, TCP] {
            let call = |name: &str, service, to, source, backend| Exchange {
                name: format!("{family:?} {protocol}: the node, {name}"),
                protocol,
                from: From::Host,
                to,
                comes: ((own, 4000), service),
                leaves: ((source, 4000), backend),
            };
            call(
                "on this node",
                (vip(family, 11), 80),
                To::Pod(3),
                pod(family, 1, 1),
                local(family),
            )
            .run(&mut node);
            call(
                "on another node",
                (vip(family, 10), 53),
                To::Peer,
                pod(family, 1, 0),
                remote(family),
            )
            .run(&mut node);
        }
    }
}

#[test]
fn what_is_refused_and_what_is_dropped() {
    let nothing = PuntDetail::Nothing;
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        let pod_2 = pod(family, 1, 2);
        for protocol in [UDP, TCP, SCTP] {
            let to = |address, port| packet(protocol, (pod_2, 4000), (address, port));
            let refused = |ip: &Ip| punt(PuntReason::ServiceReject, nothing, &From::Pod(2).frame(ip));
            let no_endpoint = to(vip(family, 13), 80);
            say(
                &mut node,
                "no endpoint at all",
                From::Pod(2),
                &no_endpoint,
                refused(&no_endpoint),
            );
            let no_port = to(vip(family, 11), 81);
            say(
                &mut node,
                "a port not defined",
                From::Pod(2),
                &no_port,
                refused(&no_port),
            );
            let elsewhere = to(vip(family, 14), 80);
            let dropped = Expect::Drop(DropReason::ServiceNoLocalEndpoint);
            say(
                &mut node,
                "endpoints elsewhere",
                From::Pod(2),
                &elsewhere,
                dropped,
            );
            let nobody = to(vip(family, 99), 80);
            let dropped = Expect::Drop(DropReason::ServiceUnknownAddress);
            say(
                &mut node,
                "an address of no Service",
                From::Pod(2),
                &nobody,
                dropped,
            );
        }
        let ping = Ip::udp(pod_2, vip(family, 11)).body(Body::Echo(7, vec![1; 8]));
        let refused = punt(PuntReason::ServiceReject, nothing, &From::Pod(2).frame(&ping));
        say(&mut node, "a ping of a Service", From::Pod(2), &ping, refused);
        let other = Ip::udp(pod_2, vip(family, 11)).body(Body::Raw(253, vec![1; 8]));
        let refused = punt(PuntReason::ServiceReject, nothing, &From::Pod(2).frame(&other));
        say(
            &mut node,
            "a protocol without ports",
            From::Pod(2),
            &other,
            refused,
        );
        assert_eq!(
            node.connections.flows.v4().len() + node.connections.flows.v6().len(),
            0
        );
    }
}

/// Whoever may name endpoints must not make us talk to a node's tunnel port for a pod.
#[test]
fn no_service_leads_to_a_tunnel() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        let call = packet(UDP, (pod(family, 1, 2), 4000), (vip(family, 18), 53));
        let dropped = Expect::Drop(DropReason::PodTunnel);
        say(&mut node, "a node's tunnel port", From::Pod(2), &call, dropped);
    }
}

/// A backend outside of the cluster is called as the world is: under the node's address.
#[test]
fn a_backend_in_the_world_sees_the_node() {
    for family in Family::BOTH {
        let mut node = node(&sketches(family));
        Exchange {
            name: format!("{family:?}: a backend in the world"),
            protocol: TCP,
            from: From::Pod(2),
            to: To::World,
            comes: ((pod(family, 1, 2), 62_000), (vip(family, 16), 443)),
            leaves: ((node_address(family, 1), 62_000), (world(family), 8443)),
        }
        .run(&mut node);
    }
}

/// One client port, two Services, one backend: the second connection goes on from another port.
#[test]
fn two_services_with_one_backend_do_not_collide() {
    for family in Family::BOTH {
        let (address, port) = local(family);
        let backends = [(address, port, true)];
        let mut node = node(&[
            Sketch::new(1, At::Cluster(vip(family, 1)), 80, &backends),
            Sketch::new(2, At::Cluster(vip(family, 2)), 80, &backends),
        ]);
        let pod_2 = pod(family, 1, 2);
        let first = packet(UDP, (pod_2, 4000), (vip(family, 1), 80));
        let (verdict, one) = node.receive(From::Pod(2).port(), &From::Pod(2).frame(&first));
        let second = packet(UDP, (pod_2, 4000), (vip(family, 2), 80));
        let (again, two) = node.receive(From::Pod(2).port(), &From::Pod(2).frame(&second));
        assert_eq!(verdict, again);
        assert!(matches!(verdict, Verdict::Forward(port) if port == From::Pod(3).port()));
        let ports = |frame: &[u8]| {
            let at = if family == Family::V4 { 34 } else { 54 };
            u16::from_be_bytes([frame[at], frame[at + 1]])
        };
        assert_eq!(ports(&one), 4000);
        assert_ne!(ports(&two), 4000);
        assert!(ports(&two) >= 1024);
        // Each answer finds its way back to the Service that was called.
        for (number, source_port) in [(1, 4000), (2, ports(&two))] {
            let answer = packet(UDP, (address, port), (pod_2, source_port));
            let returned = super::hop(&packet(UDP, (vip(family, number), 80), (pod_2, 4000)));
            say(
                &mut node,
                "the answer",
                From::Pod(3),
                &answer,
                To::Pod(2).expect(&returned),
            );
        }
    }
}

/// The address that the packet in VXLAN over IPv4 is for.
fn destination_in_tunnel(family: Family, frame: &[u8]) -> Vec<u8> {
    match family {
        Family::V4 => frame[80..84].to_vec(),
        Family::V6 => frame[88..104].to_vec(),
    }
}

/// `sessionAffinity: ClientIP`: whatever its port, a client keeps its endpoint, until it was silent for so long.
#[test]
fn a_client_keeps_its_endpoint_for_as_long_as_was_said() {
    for family in Family::BOTH {
        let backends: Vec<_> = (10..26).map(|last| (pod(family, 2, last), 80, false)).collect();
        let mut sketch = Sketch::new(1, At::Cluster(vip(family, 1)), 80, &backends);
        sketch.affinity_s = Some(100);
        let mut node = node(&[sketch.clone()]);
        let chosen_from = |node: &mut crate::world::Node, ports: std::ops::Range<u16>| {
            let backends: HashSet<_> = ports
                .map(|port| {
                    let call = packet(UDP, (pod(family, 1, 2), port), (vip(family, 1), 80));
                    let (_, left) = node.receive(From::Pod(2).port(), &From::Pod(2).frame(&call));
                    destination_in_tunnel(family, &left)
                })
                .collect();
            backends
        };
        let first = chosen_from(&mut node, 2000..2050);
        assert_eq!(first.len(), 1, "one endpoint for all ports");
        node.wait(99);
        assert_eq!(chosen_from(&mut node, 2050..2100), first);
        // It goes, and another is kept from then on.
        let octets = |last| match pod(family, 2, last) {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let gone = (10..26).find(|last| first.contains(&octets(*last))).unwrap();
        sketch
            .backends
            .retain(|(address, ..)| *address != pod(family, 2, gone));
        sketch.others = vec![(pod(family, 2, gone), 80, Serving::Draining)];
        node.publish_next(super::tables(&[sketch]), &[backend(1, u32::from(gone) - 10)]);
        let second = chosen_from(&mut node, 2100..2150);
        assert_eq!(second.len(), 1);
        assert_ne!(second, first);
    }
}
