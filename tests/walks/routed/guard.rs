//! Who may send what in a routed network, and that its addresses are not mistaken for the underlay's.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Local, NodeTables, PeerId, PeerTable, PortTable, Prefix, Role, RouteTable, Target,
};
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason, Verdict};
use millrace_dataplane::wire::MacAddr;

use super::scene::*;
use crate::packets::{Body, Family, Ip, cut, patch};
use crate::rows::{Row, delivered, sent};
use crate::services::{At, Sketch, services, vip};
use crate::world::{
    self, Node, VNI, VXLAN_PORT, host, node_address, outer, port, station_mac, switch_mac, uplink, vtep_mac,
};

fn drops(node: &mut Node, name: &str, ingress: PortId, frame: &[u8], reason: DropReason) {
    for _ in 0..2 {
        let (verdict, _) = node.receive(ingress, frame);
        assert_eq!(verdict, Verdict::Drop(reason), "{name}");
    }
}

#[test]
fn a_pod_sends_as_itself() {
    let mut node = node();
    for (family, net) in Family::BOTH
        .into_iter()
        .flat_map(|family| ALL.map(|net| (family, net)))
    {
        let at = net.port(2);
        let (own, other) = (net.pod(family, 1, 2), net.pod(family, 1, 3));
        let as_other = Ip::udp(net.pod(family, 1, 9), other);
        drops(
            &mut node,
            "address",
            at,
            &sent(&as_other, at),
            DropReason::SpoofedAddress,
        );
        let good = Ip::udp(own, other);
        let forged = good.frame(switch_mac(1, at), MacAddr([2, 1, 1, 1, 1, 1]));
        drops(&mut node, "MAC address", at, &forged, DropReason::SpoofedMac);
        let elsewhere = good.frame(MacAddr([2, 1, 1, 1, 1, 1]), station_mac(1, at));
        drops(&mut node, "not for us", at, &elsewhere, DropReason::NotForUs);
    }
}

#[test]
fn a_tunnel_packet_comes_from_a_node_of_the_network_and_is_whole() {
    let mut node = node();
    for net in ALL {
        for family in Family::BOTH {
            let to = net.pod(family, 1, 2);
            let good = Ip::udp(net.pod(family, 2, 9), to);
            let wrapped = |from: u8, ip: &Ip| net.tunnelled(from, ip);
            // By VXLAN in the cluster, but not in this network.
            let unknown = Ip::udp(net.pod(family, 5, 9), to);
            let row = |node: &mut Node, name: &str, frame: Vec<u8>, reason| {
                let name = format!("{family:?} {}: {name}", net.id);
                drops(node, &name, uplink(), &frame, reason);
            };
            row(
                &mut node,
                "stranger",
                wrapped(5, &unknown),
                DropReason::TunnelUnknownPeer,
            );
            row(
                &mut node,
                "another's pod",
                wrapped(3, &good),
                DropReason::TunnelSpoofedAddress,
            );
            let own = Ip::udp(net.pod(family, 1, 3), to);
            row(
                &mut node,
                "our own pod",
                wrapped(2, &own),
                DropReason::TunnelSpoofedAddress,
            );
            let far = Ip::udp(world::world(family), to);
            row(
                &mut node,
                "the world",
                wrapped(2, &far),
                DropReason::TunnelSpoofedAddress,
            );
            let inner = good.frame(vtep_mac(1), net.router_mac());
            row(
                &mut node,
                "MAC address",
                net.wrap(&outer(2, 1), &inner),
                DropReason::TunnelWrongMac,
            );
            let strange = patch(net.inner(&good), 12, &[0x88, 0xb5]);
            let strange = net.wrap(&outer(2, 1), &strange);
            row(&mut node, "EtherType", strange, DropReason::TunnelInnerUnknown);
            let cut_short = net.wrap(&outer(2, 1), &net.inner(&good)[..10]);
            row(&mut node, "cut short", cut_short, DropReason::TunnelMalformed);
            let no_checksum = patch(net.tunnelled(6, &Ip::udp(net.pod(family, 6, 9), to)), 60, &[0, 0]);
            row(
                &mut node,
                "no checksum",
                no_checksum,
                DropReason::TunnelNoChecksum,
            );
            let piece = cut(Family::V4, &wrapped(2, &good), 0..64, true);
            let (verdict, _) = node.receive(uplink(), &piece);
            assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        }
    }
}

/// The cluster's own tunnel does not lead into another network, nor one of those into the cluster's.
#[test]
fn a_network_is_told_by_vni_and_port_together() {
    let mut node = node();
    for family in Family::BOTH {
        let ip = Ip::udp(GREEN.pod(family, 2, 9), GREEN.pod(family, 1, 2));
        let in_clusters = outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &GREEN.inner(&ip));
        drops(
            &mut node,
            "cluster's",
            uplink(),
            &in_clusters,
            DropReason::TunnelWrongMac,
        );
        let to_vtep = outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &ip.frame(vtep_mac(1), vtep_mac(2)));
        drops(
            &mut node,
            "cluster's",
            uplink(),
            &to_vtep,
            DropReason::TunnelSpoofedAddress,
        );
        let ip = Ip::udp(world::pod(family, 2, 9), world::pod(family, 1, 2));
        let at_blues_port = outer(2, 1).vxlan((40_000, BLUE.udp_port), RED.vni, &RED.inner(&ip));
        let (verdict, _) = node.receive(uplink(), &at_blues_port);
        assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
    }
}

/// In red, pod 2 has this node's own underlay address for its address, and a pod of node 2 that of node 3.
fn with_underlay_addresses(family: Family) -> NodeTables {
    let top = top(1);
    let own = node_address(family, 1);
    let ports = top.ports.iter().map(|(id, facts)| {
        let mut facts = facts.clone();
        if id == RED.port(2) {
            facts.sources = vec![own];
        }
        (id, facts)
    });
    let top = NodeTables {
        ports: Arc::new(PortTable::build(ports)),
        ..top
    };
    let red = tables_of(RED, 1, &top);
    let (far, peer) = (node_address(family, 3), PeerId::new(2));
    let routes = red.routes.routes().iter().copied().chain([
        (Prefix::host(own), Target::Port(RED.port(2))),
        (Prefix::host(far), Target::Tunnel(peer)),
    ]);
    let peers = red.peers.iter().map(|(id, peer)| (id, peer.clone()));
    let red = NodeTables {
        routes: Arc::new(RouteTable::build(routes)),
        peers: Arc::new(PeerTable::build(peers, [(Prefix::host(far), peer)])),
        ..red
    };
    with(top, [red])
}

#[test]
fn the_nodes_own_addresses_are_a_pods_in_a_network() {
    for family in Family::BOTH {
        let mut node = Node::with(with_underlay_addresses(family));
        let (own, far) = (node_address(family, 1), node_address(family, 3));
        let at = RED.port(2);
        for body in [
            Body::Udp(4000, 53, vec![1; 30]),
            // As if it were a tunnel's, which in red is nobody's business.
            Body::Udp(4000, VXLAN_PORT, vec![1; 30]),
            Body::Raw(
                4,
                Ip::udp(IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])).build(),
            ),
        ] {
            let out = Ip::udp(own, far).body(body.clone());
            let (verdict, left) = node.receive(at, &sent(&out, at));
            Row::new("out", at, Vec::new(), RED.to_node(2, &out.clone().ttl(63))).check(verdict, &left);
            let home = Ip::udp(far, own).body(body);
            let (verdict, left) = node.receive(uplink(), &RED.tunnelled(2, &home));
            Row::new("home", uplink(), Vec::new(), delivered(&home.ttl(63), at)).check(verdict, &left);
        }
    }
}

/// Whatever a network's routes say, nothing of it leaves by the uplink as it is, or reaches the node's own network stack.
#[test]
fn nothing_of_a_network_gets_out_of_it_plain() {
    for family in Family::BOTH {
        let ip = Ip::udp(RED.pod(family, 1, 2), world::world(family));
        let everything = Prefix::containing(world::world(family), 0).unwrap();
        let router = node_address(family, 2);
        for target in [
            Target::Via {
                port: uplink(),
                next_hop: router,
            },
            Target::OnLink { port: uplink() },
            Target::Port(uplink()),
            Target::Port(host()),
        ] {
            let top = top(1);
            let red = NodeTables {
                routes: Arc::new(RouteTable::build([(everything, target)])),
                // Not even if it says that its pods leave under the node's address.
                local: Arc::new(Local {
                    masquerade: true,
                    ..Local::default()
                }),
                ..tables_of(RED, 1, &top)
            };
            let mut node = Node::with(with(top, [red]));
            let (verdict, _) = node.receive(RED.port(2), &sent(&ip, RED.port(2)));
            let unreachable = Verdict::Punt(PuntReason::Unreachable, PuntDetail::Nothing);
            assert_eq!(verdict, unreachable, "{family:?} {target:?}");
        }
    }
}

/// A pod of the cluster sends by the cluster's tables, whatever other networks have.
#[test]
fn the_clusters_own_pods_are_in_no_other_network() {
    let mut node = node();
    assert!(node.tables().ports.iter().all(|(id, facts)| {
        facts.role != Role::Pod
            || id.index() < 20
            || ALL.iter().any(|net| id.index() >= usize::from(net.first_port))
    }));
    for family in Family::BOTH {
        let yellow = Ip::udp(world::pod(family, 1, 2), YELLOW.pod(family, 1, 2));
        let (verdict, left) = node.receive(port(2), &sent(&yellow, port(2)));
        // No route names yellow there: the world has it.
        let router = world::router_mac();
        let left_plain = yellow.ttl(63).frame(router, switch_mac(1, uplink()));
        assert_eq!((verdict, left), (Verdict::Forward(uplink()), left_plain));
    }
}

/// Under this node's address, as all that goes to another node does, a pod's datagram would be taken for the tunnel packet of a
/// node.
#[test]
fn a_pod_of_the_cluster_plays_no_tunnels_end_of_another_network() {
    for family in Family::BOTH {
        let tables = tables(1);
        let local = Local {
            masquerade: true,
            ..Local::clone(&tables.local)
        };
        let sketch = Sketch::new(
            1,
            At::Cluster(vip(family, 1)),
            80,
            &[(node_address(family, 2), BLUE.udp_port, false)],
        );
        let mut node = Node::with(NodeTables {
            local: Arc::new(local),
            services: Arc::new(services(&[sketch])),
            ..tables
        });
        for net in ALL {
            let inner = net.inner(&Ip::udp(net.pod(family, 1, 9), net.pod(family, 2, 2)));
            let [_, a, b, c] = net.vni.to_be_bytes();
            let header = [8, 0, 0, 0, a, b, c, 0];
            let forged = Body::Udp(40_000, net.udp_port, [&header[..], &inner].concat());
            let ip = Ip::udp(world::pod(family, 1, 2), node_address(family, 2)).body(forged);
            drops(
                &mut node,
                "forged",
                port(2),
                &sent(&ip, port(2)),
                DropReason::PodTunnel,
            );
        }
        let by_service =
            Ip::udp(world::pod(family, 1, 2), vip(family, 1)).body(Body::Udp(1, 80, vec![1; 20]));
        drops(
            &mut node,
            "by a Service",
            port(2),
            &sent(&by_service, port(2)),
            DropReason::PodTunnel,
        );
    }
}
