//! Policies on node 1: who is let through, about whom they are asked, and what becomes of a connection when they change.
//!
//! Which rule matches what is the business of `tests/policies`; here the rules are few, and the packets whole.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, icmpv4, icmpv6};
use millrace_dataplane::table::policy::{
    Action, AddressRange, Denied, DeniedLog, Identity, PodPolicies, PolicyCounts, PolicyTable, PortRange,
    Query, RuleId, RuleSet, RuleSpec, Side, Station, Stations, Tier,
};
use millrace_dataplane::table::{HashKey, NodeTables, SubjectId};
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_dataplane::wire::IpProtocol;

use crate::packets::{Body, Family, Ip, Segment, cut, patch, patch_ipv4};
use crate::services::{At, From, SCTP, Sketch, TCP, UDP, client, external, local, packet, tables, vip};
use crate::world::{Node, node_address, pod, pod_port, uplink, world};

/// Reasons that only a conversation shows.
pub const DROPS: [DropReason; 2] = [DropReason::PolicyEgress, DropReason::PolicyIngress];

const DENIED_IN: Verdict = Verdict::Drop(DropReason::PolicyIngress);
const DENIED_OUT: Verdict = Verdict::Drop(DropReason::PolicyEgress);
/// The rule that accepts, and the isolation behind it.
const ACCEPTS: RuleId = RuleId::new(1);
const ISOLATES: RuleId = RuleId::new(2);

/// What a pod is isolated but for: an address, and a port where there is one.
#[derive(Clone, Copy)]
struct But(IpAddr, Option<u16>);

fn rules(but: Option<But>) -> Arc<RuleSet> {
    let accept = but.map(|But(address, port)| RuleSpec {
        id: ACCEPTS,
        tier: Tier::Middle,
        action: Action::Accept,
        addresses: Some(vec![AddressRange {
            first: address,
            last: address,
        }]),
        ports: port.map(|port| {
            let range = |protocol| PortRange {
                protocol,
                first: port,
                last: port,
            };
            vec![range(IpProtocol::UDP), range(IpProtocol::TCP)]
        }),
    });
    let isolation = RuleSpec {
        id: ISOLATES,
        tier: Tier::Middle,
        action: Action::Deny,
        addresses: None,
        ports: None,
    };
    let specs: Vec<_> = accept.into_iter().chain([isolation]).collect();
    Arc::new(RuleSet::build(&specs).unwrap())
}

/// Pods 2 and 3 of node 1, of which these are isolated.
fn policies(family: Family, isolated: &[(u8, Side, Option<But>)]) -> PolicyTable {
    let mut stations = Stations::with_hasher(HashKey::random());
    stations.insert(node_address(family, 1), Station::Node);
    stations.insert(pod(family, 1, 1), Station::Node);
    for number in [2, 3] {
        let station = Station::Pod {
            identity: Some(Identity::new(number.into())),
            port: Some(pod_port(number)),
        };
        stations.insert(pod(family, 1, number), station);
    }
    let pods = [2, 3].map(|number| {
        let mut policies = PodPolicies::default();
        for (_, side, but) in isolated.iter().filter(|(of, ..)| *of == number) {
            match side {
                Side::Egress => policies.egress = Some(rules(*but)),
                Side::Ingress => policies.ingress = Some(rules(*but)),
            }
        }
        (pod_port(number), policies)
    });
    let mut counts = PolicyCounts::new(1);
    counts.grow(8);
    let denied = Arc::new(DeniedLog::new(1));
    denied.follow(true);
    PolicyTable::build(Arc::new(stations), pods, Arc::new(counts), denied)
}

fn with(family: Family, sketches: &[Sketch], isolated: &[(u8, Side, Option<But>)]) -> NodeTables {
    NodeTables {
        policies: Arc::new(policies(family, isolated)),
        ..tables(sketches)
    }
}

fn verdict(node: &mut Node, from: From, ip: &Ip) -> Verdict {
    node.receive(from.port(), &from.frame(ip)).0
}

fn to_pod(number: u8) -> Verdict {
    Verdict::Forward(pod_port(number))
}

/// What the policy of a pod changes.
fn of_pods(numbers: &[u8]) -> HashSet<SubjectId> {
    let subjects = numbers.iter().map(|number| pod_port(*number));
    subjects
        .flat_map(|port| [SubjectId::policy(port), SubjectId::port(port)])
        .collect()
}

#[test]
fn an_isolated_pod_is_called_by_whom_a_rule_names_and_answers() {
    for family in Family::BOTH {
        let own = pod(family, 1, 3);
        let but = But(pod(family, 1, 2), Some(80));
        let mut node = Node::with(with(family, &[], &[(3, Side::Ingress, Some(but))])).alone();
        let caller = (pod(family, 1, 2), 4000);
        let call = |port| packet(UDP, caller, (own, port));
        assert_eq!(verdict(&mut node, From::Pod(2), &call(80)), to_pod(3));
        assert_eq!(
            verdict(&mut node, From::Pod(3), &packet(UDP, (own, 80), caller)),
            to_pod(2),
            "the answer"
        );
        assert_eq!(
            verdict(&mut node, From::Pod(2), &call(81)),
            DENIED_IN,
            "another port"
        );
        let stranger = packet(UDP, (pod(family, 2, 5), 4000), (own, 80));
        assert_eq!(
            verdict(&mut node, From::Peer, &stranger),
            DENIED_IN,
            "another node's pod"
        );
        let outside = packet(UDP, (world(family), 4000), (own, 80));
        assert_eq!(verdict(&mut node, From::World, &outside), DENIED_IN);
        let probe = packet(UDP, (pod(family, 1, 1), 4000), (own, 81));
        assert_eq!(verdict(&mut node, From::Host, &probe), to_pod(3), "its own node");
        let elsewhere = packet(UDP, (own, 4001), (pod(family, 2, 5), 80));
        assert_eq!(
            verdict(&mut node, From::Pod(3), &elsewhere),
            Verdict::Forward(uplink()),
            "what it opens itself"
        );
        let table = node.tables().policies;
        assert_eq!((table.counts().of(ACCEPTS), table.counts().of(ISOLATES)), (1, 3));
        let denied = table.denied().take(10);
        let first = Denied {
            query: Query {
                source: caller.0,
                destination: own,
                protocol: IpProtocol::UDP,
                port: 81,
            },
            sent_to: own,
            side: Side::Ingress,
            rule: ISOLATES,
        };
        assert_eq!((denied.len(), denied[0]), (3, first));
    }
}

#[test]
fn a_pod_isolated_for_egress_calls_whom_a_rule_names() {
    for family in Family::BOTH {
        let own = (pod(family, 1, 2), 4000);
        let but = But(world(family), Some(53));
        let mut node = Node::with(with(family, &[], &[(2, Side::Egress, Some(but))]));
        let call = |to, port| packet(UDP, own, (to, port));
        assert_eq!(
            verdict(&mut node, From::Pod(2), &call(world(family), 53)),
            Verdict::Forward(uplink())
        );
        assert_eq!(
            verdict(&mut node, From::Pod(2), &call(world(family), 54)),
            DENIED_OUT
        );
        assert_eq!(
            verdict(&mut node, From::Pod(2), &call(pod(family, 1, 3), 53)),
            DENIED_OUT
        );
        assert_eq!(
            verdict(&mut node, From::Pod(2), &call(pod(family, 2, 5), 53)),
            DENIED_OUT
        );
        let asked = packet(UDP, (pod(family, 1, 3), 4000), (own.0, 80));
        assert_eq!(
            verdict(&mut node, From::Pod(3), &asked),
            to_pod(2),
            "what others open"
        );
        let answer = packet(UDP, (own.0, 80), (pod(family, 1, 3), 4000));
        assert_eq!(
            verdict(&mut node, From::Pod(2), &answer),
            to_pod(3),
            "and its answer"
        );
    }
}

#[test]
fn policies_see_the_backend_and_not_the_service() {
    for family in Family::BOTH {
        let (backend, port) = local(family);
        let sketches = [Sketch::new(
            1,
            At::Cluster(vip(family, 1)),
            80,
            &[(backend, port, true)],
        )];
        let caller = (pod(family, 1, 2), 4000);
        let call = packet(UDP, caller, (vip(family, 1), 80));
        for (side, of, other, expected) in [
            (Side::Ingress, 3, But(caller.0, Some(port)), to_pod(3)),
            (Side::Ingress, 3, But(caller.0, Some(80)), DENIED_IN),
            (Side::Egress, 2, But(backend, Some(port)), to_pod(3)),
            (Side::Egress, 2, But(backend, Some(80)), DENIED_OUT),
            (Side::Egress, 2, But(vip(family, 1), Some(80)), DENIED_OUT),
        ] {
            let mut node = Node::with(with(family, &sketches, &[(of, side, Some(other))]));
            assert_eq!(verdict(&mut node, From::Pod(2), &call), expected, "{side:?}");
            if expected == DENIED_IN || expected == DENIED_OUT {
                let denied = node.tables().policies.denied().take(2);
                assert_eq!(
                    (denied[0].query.destination, denied[0].sent_to),
                    (backend, vip(family, 1))
                );
            }
        }
        // A pod that reaches itself through a Service.
        let mut node = Node::with(with(
            family,
            &sketches,
            &[(3, Side::Ingress, None), (3, Side::Egress, None)],
        ));
        let itself = packet(UDP, (backend, 4000), (vip(family, 1), 80));
        assert_eq!(verdict(&mut node, From::Pod(3), &itself), to_pod(3));
    }
}

#[test]
fn policies_see_the_client_and_not_what_source_nat_makes_of_it() {
    for family in Family::BOTH {
        let (backend, port) = local(family);
        let at = At::External(external(family, 1));
        let sketches = [Sketch::new(1, at, 80, &[(backend, port, true)])];
        let call = packet(TCP, client(family), (external(family, 1), 80));
        for (but, expected) in [
            (But(client(family).0, Some(port)), to_pod(3)),
            // What the pod sees as the source, were it let through.
            (But(pod(family, 2, 1), Some(port)), DENIED_IN),
        ] {
            let mut node = Node::with(with(family, &sketches, &[(3, Side::Ingress, Some(but))]));
            assert_eq!(verdict(&mut node, From::World, &call), expected);
        }
    }
}

#[test]
fn a_connection_that_is_no_longer_allowed_is_cut_both_ways_and_comes_back() {
    for family in Family::BOTH {
        for (isolated, side, denied) in [(3, Side::Ingress, DENIED_IN), (2, Side::Egress, DENIED_OUT)] {
            let (caller, own) = ((pod(family, 1, 2), 4000), (pod(family, 1, 3), 80));
            let (call, answer) = (packet(UDP, caller, own), packet(UDP, own, caller));
            let mut node = Node::with(with(family, &[], &[]));
            assert_eq!(verdict(&mut node, From::Pod(2), &call), to_pod(3));
            assert_eq!(verdict(&mut node, From::Pod(3), &answer), to_pod(2));
            let closed = || with(family, &[], &[(isolated, side, None)]);
            node.publish_changed(closed(), &of_pods(&[isolated]));
            for _ in 0..2 {
                assert_eq!(
                    verdict(&mut node, From::Pod(3), &answer),
                    denied,
                    "the answer goes first"
                );
                assert_eq!(verdict(&mut node, From::Pod(2), &call), denied);
            }
            // Another's change says nothing about it.
            node.publish_changed(closed(), &of_pods(&[9]));
            assert_eq!(verdict(&mut node, From::Pod(2), &call), denied);
            node.publish_changed(with(family, &[], &[]), &of_pods(&[isolated]));
            assert_eq!(verdict(&mut node, From::Pod(3), &answer), to_pod(2));
            assert_eq!(verdict(&mut node, From::Pod(2), &call), to_pod(3));
        }
    }
}

#[test]
fn a_change_of_others_policies_leaves_a_connection_alone() {
    for family in Family::BOTH {
        let (caller, own) = ((pod(family, 1, 2), 4000), (pod(family, 1, 3), 80));
        let call = packet(UDP, caller, own);
        let mut node = Node::with(with(family, &[], &[]));
        assert_eq!(verdict(&mut node, From::Pod(2), &call), to_pod(3));
        // Were it asked again, it would be cut.
        node.publish_changed(with(family, &[], &[(3, Side::Ingress, None)]), &of_pods(&[9]));
        assert_eq!(verdict(&mut node, From::Pod(2), &call), to_pod(3));
    }
}

#[test]
fn an_established_tcp_connection_is_cut_and_a_new_one_refused() {
    for family in Family::BOTH {
        let segment = |forth: bool, sequence, acknowledgment, syn| {
            let (caller, own) = (pod(family, 1, 2), pod(family, 1, 3));
            let (source, destination, ports) = if forth {
                (caller, own, (4000, 80))
            } else {
                (own, caller, (80, 4000))
            };
            Ip::udp(source, destination).body(Body::Segment(Segment {
                ports,
                sequence,
                acknowledgment,
                window: 1000,
                syn,
                ..Segment::default()
            }))
        };
        let mut node = Node::with(with(family, &[], &[]));
        assert_eq!(
            verdict(&mut node, From::Pod(2), &segment(true, 10, None, true)),
            to_pod(3)
        );
        assert_eq!(
            verdict(&mut node, From::Pod(3), &segment(false, 50, Some(11), true)),
            to_pod(2)
        );
        assert_eq!(
            verdict(&mut node, From::Pod(2), &segment(true, 11, Some(51), false)),
            to_pod(3)
        );
        node.publish_changed(with(family, &[], &[(3, Side::Ingress, None)]), &of_pods(&[3]));
        // The server is heard first, and must not be taken for one who opens a connection of its own.
        assert_eq!(
            verdict(&mut node, From::Pod(3), &segment(false, 51, Some(11), false)),
            DENIED_IN
        );
        assert_eq!(
            verdict(&mut node, From::Pod(2), &segment(true, 11, Some(51), false)),
            DENIED_IN
        );
        assert_eq!(
            verdict(&mut node, From::Pod(3), &segment(false, 51, Some(11), false)),
            DENIED_IN
        );
    }
}

#[test]
fn an_echo_passes_by_a_rule_without_ports() {
    for family in Family::BOTH {
        let (caller, own) = (pod(family, 1, 2), pod(family, 1, 3));
        let echo = Ip::udp(caller, own).body(Body::Echo(7, vec![1; 8]));
        for (port, expected) in [(None, to_pod(3)), (Some(80), DENIED_IN)] {
            let mut node = Node::with(with(family, &[], &[(3, Side::Ingress, Some(But(caller, port)))]));
            assert_eq!(verdict(&mut node, From::Pod(2), &echo), expected);
            // So do protocols that have none at all.
            let other = Ip::udp(caller, own).body(Body::Raw(47, vec![0; 16]));
            assert_eq!(verdict(&mut node, From::Pod(2), &other), expected);
        }
    }
}

fn port_unreachable(source: IpAddr, destination: IpAddr, quoted: &Ip) -> Ip {
    let quote = quoted.build();
    match (source, destination) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            let header = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), &quote).unwrap();
            Ip::udp(source, destination).body(Body::Raw(58, [&header.to_bytes()[..], &quote].concat()))
        }
        _ => {
            let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            let header = Icmpv4Header::with_checksum(kind, &quote);
            Ip::udp(source, destination).body(Body::Raw(1, [&header.to_bytes()[..], &quote].concat()))
        }
    }
}

#[test]
fn an_error_reaches_an_isolated_pod_only_about_what_is_allowed() {
    for family in Family::BOTH {
        let (own, peer) = ((pod(family, 1, 3), 4000), (pod(family, 2, 5), 80));
        let isolated = |but| [(3, Side::Ingress, but)];
        // The pod calls, which nothing forbids; the error about its call is no call of another's.
        let mut node = Node::with(with(family, &[], &isolated(None)));
        let call = packet(UDP, own, peer);
        assert_eq!(
            verdict(&mut node, From::Pod(3), &call),
            Verdict::Forward(uplink())
        );
        let about = port_unreachable(peer.0, own.0, &call);
        assert_eq!(verdict(&mut node, From::Peer, &about), to_pod(3));
        let never_sent = packet(UDP, (own.0, 4001), peer);
        let unrelated = port_unreachable(peer.0, own.0, &never_sent);
        assert_eq!(verdict(&mut node, From::Peer, &unrelated), DENIED_IN);
        // Not even from whom a rule allows everything: what it is about is nothing that a rule allows.
        let mut node = Node::with(with(family, &[], &isolated(Some(But(peer.0, None)))));
        assert_eq!(verdict(&mut node, From::Peer, &unrelated), DENIED_IN);
        let mut node = Node::with(with(family, &[], &[]));
        assert_eq!(
            verdict(&mut node, From::Peer, &unrelated),
            to_pod(3),
            "nobody is isolated"
        );
        // About a connection that has been cut.
        let mut node = Node::with(with(family, &[], &[]));
        assert_eq!(
            verdict(&mut node, From::Pod(3), &call),
            Verdict::Forward(uplink())
        );
        node.publish_changed(with(family, &[], &[(3, Side::Egress, None)]), &of_pods(&[3]));
        assert_eq!(
            verdict(&mut node, From::Peer, &packet(UDP, peer, own)),
            DENIED_OUT
        );
        assert_eq!(verdict(&mut node, From::Pod(3), &call), DENIED_OUT);
        assert_eq!(verdict(&mut node, From::Peer, &about), DENIED_OUT);
    }
}

#[test]
fn pieces_share_what_was_said_of_their_first() {
    for family in Family::BOTH {
        let (caller, own) = ((pod(family, 1, 2), 4000), pod(family, 1, 3));
        // The same datagram to two ports: its pieces look alike but for the identification.
        let piece = |port: u16, id: u8, is_first: bool| {
            let ip = Ip::udp(caller.0, own).body(Body::Udp(caller.1, port, vec![0x5a; 64]));
            let part = if is_first { 0..40 } else { 40..72 };
            let piece = cut(family, &From::Pod(2).frame(&ip), part, is_first);
            match family {
                Family::V4 => patch_ipv4(piece, 18, &[0, id]),
                // The last byte of the fragment header's identification.
                Family::V6 => patch(piece, 61, &[id]),
            }
        };
        let mut node = Node::with(with(
            family,
            &[],
            &[(3, Side::Ingress, Some(But(caller.0, Some(80))))],
        ));
        let mut pass = |port, id, is_first| node.receive(pod_port(2), &piece(port, id, is_first)).0;
        assert_eq!(
            pass(80, 1, false),
            DENIED_IN,
            "nobody knows yet what it belongs to"
        );
        assert_eq!(pass(80, 1, true), to_pod(3));
        assert_eq!(pass(80, 1, false), to_pod(3));
        assert_eq!(pass(81, 2, true), DENIED_IN);
        assert_eq!(pass(81, 2, false), DENIED_IN);
    }
}

#[test]
fn an_answer_in_pieces_reaches_who_asked_whatever_may_call_it() {
    for family in Family::BOTH {
        let (own, other) = ((pod(family, 1, 3), 4000), (pod(family, 1, 2), 53));
        let mut node = Node::with(with(family, &[], &[(3, Side::Ingress, None)]));
        let mut pieces = |from: From, ip: &Ip| {
            [(0..40, true), (40..72, false)].map(|(part, more)| {
                node.receive(from.port(), &cut(family, &from.frame(ip), part, more))
                    .0
            })
        };
        let datagram = |from: (IpAddr, u16), to: (IpAddr, u16)| {
            Ip::udp(from.0, to.0).body(Body::Udp(from.1, to.1, vec![0x5a; 64]))
        };
        let unasked = pieces(From::Pod(2), &datagram(other, own));
        assert_eq!(unasked, [DENIED_IN; 2], "{family:?}");
        let asked = pieces(From::Pod(3), &datagram(own, other));
        assert_eq!(asked, [to_pod(2); 2], "{family:?}");
        let answered = pieces(From::Pod(2), &datagram(other, own));
        assert_eq!(answered, [to_pod(3); 2], "{family:?}");
    }
}

/// Packets of any protocol from anywhere in the world, to any port of a pod: the same ones each time.
fn anything(to: IpAddr, count: u64) -> Vec<Vec<u8>> {
    let key = HashKey::from_words([1, 2, 3]);
    (0..count)
        .map(|number| {
            let [a, b, c, d, e, f, g, h] = key.hash([number]).to_be_bytes();
            let from = IpAddr::from([203, a, b, c | 1]);
            let (source, destination) = (u16::from_be_bytes([d, e]), u16::from_be_bytes([f, g]));
            let protocol = [TCP, UDP, SCTP, UDP][usize::from(h % 4)];
            From::World.frame(&packet(protocol, (from, source), (to, destination)))
        })
        .collect()
}

#[test]
fn headers_made_up_at_random_leave_nothing_and_cost_established_connections_nothing() {
    const CALLS: u16 = 64;
    const LAPS: usize = 12;
    /// Of the rate that they had, in percent.
    const KEPT_MIN: u32 = 80;
    let (caller, own) = (pod(Family::V4, 1, 2), pod(Family::V4, 1, 3));
    let mut node = Node::with(with(
        Family::V4,
        &[],
        &[(3, Side::Ingress, Some(But(caller, Some(80))))],
    ));
    let calls: Vec<Vec<u8>> = (0..CALLS)
        .map(|number| From::Pod(2).frame(&packet(UDP, (caller, 4000 + number), (own, 80))))
        .collect();
    let flood = anything(own, 4096);
    let call = |node: &mut Node| {
        let started = Instant::now();
        let verdicts = node.receive_all(pod_port(2), &calls);
        let elapsed = started.elapsed();
        assert!(verdicts.iter().all(|(verdict, _)| *verdict == to_pod(3)));
        elapsed
    };
    call(&mut node);
    let connections = node.connections.flows.v4().len();
    // The fastest of each counts, since nothing else slows both alike.
    let (mut before, mut during) = (Duration::MAX, Duration::MAX);
    for _ in 0..LAPS {
        for batch in flood.chunks(64) {
            before = before.min(call(&mut node));
            let verdicts = node.receive_all(uplink(), batch);
            assert!(
                verdicts.iter().all(|(verdict, _)| *verdict == DENIED_IN),
                "{verdicts:?}"
            );
            during = during.min(call(&mut node));
        }
    }
    assert_eq!(node.connections.flows.v4().len(), connections);
    assert!(
        before * 100 >= during * KEPT_MIN,
        "{before:?} for {CALLS} packets before the flood, {during:?} during it"
    );
}
