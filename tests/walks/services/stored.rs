//! The stored answer: it holds until what it rests on changes, and then the connection finds its way anew and stays what
//! it is.

use std::collections::HashSet;
use std::sync::Arc;

use millrace_dataplane::table::{
    HashKey, Local, NeighbourId, NeighbourTable, NodeTables, PeerTable, Prefix, RouteTable, SubjectId, Target,
};
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason, Verdict};
use millrace_dataplane::wire::MacAddr;

use super::{From, To, UDP, hop, node, packet, say, tables};
use crate::packets::Family;
use crate::rows::Expect;
use crate::world::{Node, ROUTER, ROUTER_V6, node_address, pod, pod_port, switch_mac, uplink, world};

/// The routes of node 1, and one more.
fn with_route(prefix: Prefix, target: Target) -> NodeTables {
    let base = tables(&[]);
    let routes = base.routes.routes().iter().copied().chain([(prefix, target)]);
    NodeTables {
        routes: Arc::new(RouteTable::build(routes)),
        ..base
    }
}

#[test]
fn a_moved_route_moves_the_connection_and_nothing_else_does() {
    for family in Family::BOTH {
        let mut node = node(&[]);
        let target = pod(family, 2, 5);
        let ip = packet(UDP, (pod(family, 1, 2), 4000), (target, 80));
        say(&mut node, "first", From::Pod(2), &ip, To::Peer.expect(&hop(&ip)));
        // A route that is none of its business, told as it is: the answer stays, and is not even looked for.
        let moved = || with_route(Prefix::host(target), Target::Port(pod_port(3)));
        let other = HashSet::from([SubjectId::port(pod_port(9))]);
        node.publish_changed(moved(), &other);
        let stays = To::Peer.expect(&hop(&ip));
        say(
            &mut node,
            "nothing it rests on has changed",
            From::Pod(2),
            &ip,
            stays,
        );
        // What the compiler tells of this route: where it led, and where it leads.
        let peer = node.tables().routes.lookup(pod(family, 2, 9)).unwrap().subject();
        node.publish_changed(moved(), &HashSet::from([peer, SubjectId::port(pod_port(3))]));
        say(
            &mut node,
            "moved",
            From::Pod(2),
            &ip,
            To::Pod(3).expect(&hop(&ip)),
        );
        node.publish_changed(tables(&[]), &HashSet::from([peer, SubjectId::port(pod_port(3))]));
        say(
            &mut node,
            "moved back",
            From::Pod(2),
            &ip,
            To::Peer.expect(&hop(&ip)),
        );
        let gone = with_route(Prefix::host(target), Target::Blackhole);
        node.publish_changed(gone, &HashSet::from([peer]));
        let dropped = Expect::Drop(DropReason::Blackhole);
        say(&mut node, "gone", From::Pod(2), &ip, dropped);
    }
}

/// A connection in use outlives every timeout, also if something changes between any two of its packets, its own subject
/// included.
#[test]
fn changes_between_any_two_packets_let_no_connection_in_use_expire() {
    for family in Family::BOTH {
        for (name, is_own) in [("another's", false), ("its own", true)] {
            let mut node = node(&[]);
            let ip = packet(UDP, (pod(family, 1, 2), 4000), (world(family), 53));
            let (verdict, first) = node.receive(pod_port(2), &From::Pod(2).frame(&ip));
            assert_eq!(verdict, Verdict::Forward(uplink()));
            for round in 0..30 {
                node.wait(10);
                let subject = if is_own {
                    node.tables().routes.lookup(world(family)).unwrap().subject()
                } else {
                    SubjectId::port(pod_port(9))
                };
                node.publish_changed(tables(&[]), &HashSet::from([subject]));
                let (_, left) = node.receive(pod_port(2), &From::Pod(2).frame(&ip));
                // Begun anew it would have another port: the one it had is in use until it is forgotten.
                assert_eq!(left, first, "{family:?}: {name} subject, round {round}");
                let flows = &node.connections.flows;
                let begun = flows.v4().connections().map(|connection| connection.created);
                let begun = begun.chain(flows.v6().connections().map(|connection| connection.created));
                let begun: Vec<_> = begun.map(|tick| tick.seconds()).collect();
                assert_eq!(begun, [1_000_000], "{family:?}: {name} subject, round {round}");
            }
        }
    }
}

/// A new link address of a next hop makes no flow stale: the flow remembers who, not where.
#[test]
fn a_neighbour_s_new_link_address_counts_at_once_and_a_lost_one_is_asked_for() {
    for family in Family::BOTH {
        let mut node = node(&[]);
        let ip = packet(UDP, (pod(family, 1, 2), 61_100), (world(family), 80));
        let leaves = hop(&packet(
            UDP,
            (node_address(family, 1), 61_100),
            (world(family), 80),
        ));
        say(&mut node, "first", From::Pod(2), &ip, To::World.expect(&leaves));
        let known = |entries: Vec<_>| NodeTables {
            neighbours: Arc::new(NeighbourTable::build(HashKey::random(), entries)),
            ..tables(&[])
        };
        let mac = MacAddr([2, 7, 7, 7, 7, 7]);
        let router = family.pick(&ROUTER.to_string(), ROUTER_V6);
        let moved = known(vec![(NeighbourId::new(0), uplink(), router, mac)]);
        node.publish_changed(moved, &HashSet::new());
        let expect = Expect::Forward(uplink(), leaves.frame(mac, switch_mac(1, uplink())));
        say(&mut node, "its new address", From::Pod(2), &ip, expect);
        node.publish_changed(known(vec![]), &HashSet::new());
        let frame = From::Pod(2).frame(&ip);
        let (verdict, left) = node.receive(pod_port(2), &frame);
        let asked = PuntDetail::NextHop(uplink(), router);
        assert_eq!(verdict, Verdict::Punt(PuntReason::NeighbourUnresolved, asked));
        assert_eq!(left, frame, "as it came");
    }
}

/// After a restart of the machine's other half nothing stored before counts, and every connection is still there.
#[test]
fn connections_outlive_the_process_that_began_them() {
    for family in Family::BOTH {
        let mut node = node(&[]);
        let ip = packet(UDP, (pod(family, 1, 2), 4000), (world(family), 53));
        let (verdict, before) = node.receive(pod_port(2), &From::Pod(2).frame(&ip));
        assert_eq!(verdict, Verdict::Forward(uplink()));
        let mut next = Node::sharing(tables(&[]), node.connections.clone());
        let (verdict, after) = next.receive(pod_port(2), &From::Pod(2).frame(&ip));
        assert_eq!((verdict, after), (Verdict::Forward(uplink()), before));
    }
}

/// What a node, or anybody, may send is asked anew in every snapshot, also of connections whose answers stand.
#[test]
fn who_may_send_no_longer_does_not() {
    for family in Family::BOTH {
        let (target, base) = (pod(family, 1, 2), tables(&[]));
        let no_peers = NodeTables {
            peers: Arc::new(PeerTable::build([], [])),
            ..base.clone()
        };
        let local = Local {
            gateways: vec![world(family)],
            ..Local::clone(&base.local)
        };
        let our_own = NodeTables {
            local: Arc::new(local),
            ..base.clone()
        };
        for (from, source, changed, reason) in [
            (
                From::Peer,
                pod(family, 2, 5),
                no_peers,
                DropReason::TunnelUnknownPeer,
            ),
            (From::World, world(family), our_own, DropReason::PlainFromOverlay),
        ] {
            let mut node = node(&[]);
            let ip = packet(UDP, (source, 4000), (target, 53));
            let delivered = || To::Pod(2).expect(&hop(&ip));
            for name in ["first", "second", "third"] {
                say(&mut node, name, from, &ip, delivered());
            }
            node.publish_changed(changed, &HashSet::new());
            say(&mut node, "no longer", from, &ip, Expect::Drop(reason));
            node.publish_changed(base.clone(), &HashSet::new());
            say(&mut node, "again", from, &ip, delivered());
        }
    }
}
