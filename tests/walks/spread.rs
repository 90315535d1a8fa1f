//! Several ways to one destination: each flow takes one and stays on it; and what several peers may send.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::{
    Hop, NodeTables, PeerId, PeerTable, Prefix, RouteTable, Senders, Spread, SubjectId, Target,
};
use millrace_dataplane::verdict::{DropReason, Verdict};

use crate::decap::{PORTS, inner};
use crate::packets::{Body, Family, Ip};
use crate::rows::{Row, delivered, sent};
use crate::world::{Node, ROUTER, ROUTER_V6, VNI, node_address, outer, pod, pod_port, tables, uplink};

/// The flows of each test.
const FLOWS: u16 = 96;

/// A network that several ways lead to, and an address in it.
fn wide(family: Family) -> (Prefix, IpAddr) {
    let address = family.pick("10.66.1.1", "fd66::1");
    let bits = if family == Family::V4 { 16 } else { 32 };
    (Prefix::containing(address, bits).unwrap(), address)
}

/// Every way there is: a router, a node on the link, and a tunnel.
fn ways(family: Family) -> [Hop; 3] {
    let router = match family {
        Family::V4 => IpAddr::V4(ROUTER),
        Family::V6 => ROUTER_V6.parse().unwrap(),
    };
    let via = |next_hop| Hop {
        target: Target::Via {
            port: uplink(),
            next_hop,
        },
        address: next_hop,
        weight: 1,
    };
    let tunnel = Hop {
        target: Target::Tunnel(PeerId::new(5)),
        address: node_address(Family::V4, 5),
        weight: 1,
    };
    [via(router), via(node_address(family, 2)), tunnel]
}

/// The tables of node 1, with these ways to the network.
fn with_ways(family: Family, hops: &[Hop]) -> NodeTables {
    let base = tables(1);
    let id = RouteTable::spread_id(0).unwrap();
    let route = (wide(family).0, Target::Spread(id));
    let spread = Arc::new(Spread::new(hops).unwrap());
    let routes = base.routes.routes().iter().copied().chain([route]);
    NodeTables {
        routes: Arc::new(RouteTable::with_spreads(routes, vec![spread])),
        ..base
    }
}

/// A packet of each flow.
fn packets(family: Family) -> Vec<Vec<u8>> {
    let flow = |number: u16| {
        let ip = Ip::udp(pod(family, 1, 2), wide(family).1);
        sent(&ip.body(Body::Udp(2000 + number, 53, vec![1; 20])), pod_port(2))
    };
    (0..FLOWS).map(flow).collect()
}

/// By which way each of them leaves, as what stands first in its frame tells.
fn taken(node: &mut Node, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let ends = node.receive_all(pod_port(2), packets);
    let way = |(verdict, left): (Verdict, Vec<u8>)| {
        assert_eq!(verdict, Verdict::Forward(uplink()));
        left[..6].to_vec()
    };
    ends.into_iter().map(way).collect()
}

#[test]
fn flows_are_shared_and_each_keeps_its_way_until_it_goes() {
    for family in Family::BOTH {
        let all = ways(family);
        let packets = packets(family);
        let mut node = Node::with(with_ways(family, &all));
        let first = taken(&mut node, &packets);
        let mut shares: BTreeMap<&[u8], usize> = BTreeMap::new();
        for way in &first {
            *shares.entry(way).or_default() += 1;
        }
        // A third of them each; chance leaves fewer than 15 of 96 once in a hundred thousand tries, and it always falls alike.
        assert!(
            shares.len() == 3 && shares.values().all(|share| *share >= 15),
            "{family:?}: {shares:?}"
        );
        assert_eq!(
            taken(&mut node, &packets),
            first,
            "{family:?}: by what was stored"
        );
        let subjects: HashSet<SubjectId> = all.iter().map(|hop| hop.target.subject()).collect();
        for gone in 0..all.len() {
            let mut rest = all.to_vec();
            rest.remove(gone);
            node.publish_changed(with_ways(family, &rest), &subjects);
            let after = taken(&mut node, &packets);
            let kept: HashSet<&Vec<u8>> = after.iter().collect();
            assert_eq!(kept.len(), 2, "{family:?}");
            for (was, is) in first.iter().zip(&after) {
                assert!(
                    was == is || !kept.contains(was),
                    "{family:?}: a flow moved whose way is there"
                );
            }
            node.publish_changed(with_ways(family, &all), &subjects);
            assert_eq!(taken(&mut node, &packets), first, "{family:?}: as before");
        }
    }
}

/// What belongs to no connection goes by its addresses: all of it by one way, and in order.
#[test]
fn a_protocol_without_ports_keeps_to_one_way() {
    for family in Family::BOTH {
        let mut node = Node::with(with_ways(family, &ways(family)));
        let ip = |body| Ip::udp(pod(family, 1, 2), wide(family).1).body(body);
        let packets: Vec<_> = (0..16)
            .map(|fill| sent(&ip(Body::Raw(253, vec![fill; 30])), pod_port(2)))
            .collect();
        let ways: HashSet<_> = taken(&mut node, &packets).into_iter().collect();
        assert_eq!(ways.len(), 1, "{family:?}");
    }
}

#[test]
fn each_of_several_peers_may_send_from_what_they_share_and_nobody_else() {
    for family in Family::BOTH {
        let (shared, address) = wide(family);
        let base = tables(1);
        let peers = base.peers.iter().map(|(id, peer)| (id, peer.clone()));
        // IPIP is for IPv4.
        let other = if family == Family::V4 { 3 } else { 6 };
        let ends = [2, other].map(|peer| PeerId::new(peer.into()));
        let hole = Prefix::host(family.pick("10.66.9.9", "fd66::9"));
        let senders = [(shared, Senders::Any(ends.to_vec())), (hole, Senders::Nobody)];
        let mut node = Node::with(NodeTables {
            peers: Arc::new(PeerTable::with_senders(peers, senders)),
            ..base
        });
        let ip = |source| Ip::udp(source, pod(family, 1, 2));
        let vxlan = |from, source| outer(from, 1).vxlan(PORTS, VNI, &inner(&ip(source)));
        let there = delivered(&ip(address).ttl(63), pod_port(2));
        let by_other = match family {
            Family::V4 => outer(other, 1).ipip(&ip(address).build()),
            Family::V6 => vxlan(other, address),
        };
        let rows = [
            Row::new("the first of them", uplink(), vxlan(2, address), there.clone()),
            Row::new("the other, in another tunnel", uplink(), by_other, there),
            Row::drop(
                "a third",
                uplink(),
                vxlan(4, address),
                DropReason::TunnelSpoofedAddress,
            ),
            Row::drop(
                "what is taken out",
                uplink(),
                vxlan(2, hole.address()),
                DropReason::TunnelSpoofedAddress,
            ),
        ];
        for row in rows {
            let (verdict, left) = node.receive(row.ingress, &row.packet);
            row.check(verdict, &left);
        }
    }
}
