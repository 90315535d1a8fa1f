//! What is the same in several networks, and yet has nothing to do with each other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::frame::Pool;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::Side;
use millrace_dataplane::table::{
    HashKey, NetworkId, NodeTables, PeerId, PeerTable, Prefix, Publisher, RouteTable, Target,
};
use millrace_dataplane::verdict::{DropReason, PuntReason, Verdict};
use millrace_dataplane::worker::Pipeline;
use millrace_pipelines::NodePipeline;
use proptest::prelude::*;

use super::scene::*;
use crate::packets::{Body, Family, Ip, Segment, cut, payload_at};
use crate::rows::sent;
use crate::services::errors::port_unreachable;
use crate::world::{
    Node, VNI, VXLAN_PORT, connections, narrow, outer, pod, pod_port, station_mac, switch_mac, uplink,
    vtep_mac,
};

/// The cluster's own network, red and blue, in which all addresses are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Same {
    Cluster,
    Other(Net),
}

const SAME: [Same; 3] = [Same::Cluster, Same::Other(RED), Same::Other(BLUE)];

impl Same {
    fn id(self) -> NetworkId {
        match self {
            Self::Cluster => NetworkId::CLUSTER,
            Self::Other(net) => net.id,
        }
    }

    fn port(self, number: u8) -> PortId {
        match self {
            Self::Cluster => pod_port(number),
            Self::Other(net) => net.port(number),
        }
    }

    fn tunnelled(self, node: u8, ip: &Ip) -> Vec<u8> {
        match self {
            Self::Cluster => {
                let inner = ip.frame(vtep_mac(1), vtep_mac(node));
                outer(node, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner)
            }
            Self::Other(net) => net.tunnelled(node, ip),
        }
    }

    fn delivered(self, ip: &Ip, number: u8) -> (Verdict, Vec<u8>) {
        let port = self.port(number);
        (
            Verdict::Forward(port),
            ip.frame(station_mac(1, port), switch_mac(1, port)),
        )
    }
}

fn of(ports: [(PortId, IpAddr); 2], same: Same, isolated: &[Isolated]) -> NodeTables {
    with_policies(same.id(), policies(ports, isolated))
}

#[test]
fn one_tuple_is_a_connection_in_each_network() {
    for family in Family::BOTH {
        let mut node = node();
        let there = Ip::udp(pod(family, 1, 2), pod(family, 1, 3));
        let back = Ip::udp(pod(family, 1, 3), pod(family, 1, 2)).body(Body::Udp(53, 4000, vec![1; 9]));
        for _ in 0..3 {
            for same in SAME {
                let frame = sent(&there, same.port(2));
                let expected = same.delivered(&there.clone().ttl(63), 3);
                assert_eq!(
                    node.receive(same.port(2), &frame),
                    expected,
                    "{family:?} {same:?}"
                );
                let frame = sent(&back, same.port(3));
                let expected = same.delivered(&back.clone().ttl(63), 2);
                assert_eq!(
                    node.receive(same.port(3), &frame),
                    expected,
                    "{family:?} {same:?}: back"
                );
            }
        }
        let flows = &node.connections.flows;
        let networks: BTreeSet<NetworkId> = match family {
            Family::V4 => flows.v4().connections().map(|c| c.original.network).collect(),
            Family::V6 => flows.v6().connections().map(|c| c.original.network).collect(),
        };
        assert_eq!(networks, BTreeSet::from(SAME.map(Same::id)));
        assert_eq!(flows.v4().len() + flows.v6().len(), 3);
    }
}

/// In whatever order they come from the wire, and whose bridged or unknown ones are among them.
#[test]
fn a_mixed_batch_from_the_wire_goes_to_each_network_in_order() {
    for family in Family::BOTH {
        let mut node = node();
        let ip = Ip::udp(pod(family, 2, 9), pod(family, 1, 3));
        let stranger = Net { vni: 999, ..RED };
        let order = [0, 1, 2, 0, 0, 1, 1, 2, 3, 1, 0, 2, 2, 3, 3, 0];
        let numbered = |number: usize| {
            let data = vec![u8::try_from(number).unwrap(); 40];
            ip.clone().body(Body::Udp(4000, 53, data))
        };
        let frame = |(number, whose): (usize, &usize)| match SAME.get(*whose) {
            Some(same) => same.tunnelled(2, &numbered(number)),
            None => stranger.tunnelled(2, &numbered(number)),
        };
        let frames: Vec<_> = order.iter().enumerate().map(frame).collect();
        for _ in 0..3 {
            let ends = node.receive_all(uplink(), &frames);
            for ((number, whose), end) in order.iter().enumerate().zip(ends) {
                match SAME.get(*whose) {
                    Some(same) => assert_eq!(end, same.delivered(&numbered(number).ttl(63), 3)),
                    None => assert_eq!(end.0, Verdict::Drop(DropReason::TunnelWrongVni)),
                }
            }
        }
    }
}

/// Three packets in pieces, equal in all that tells packets apart but for their network.
#[test]
fn pieces_are_put_together_with_those_of_their_network() {
    for family in Family::BOTH {
        let mut node = node();
        let whole = Ip::udp(pod(family, 1, 2), pod(family, 1, 3)).body(Body::Udp(7, 8, vec![3; 200]));
        let piece = |same: Same, part: std::ops::Range<usize>, more| {
            cut(family, &sent(&whole, same.port(2)), part, more)
        };
        let len = sent(&whole, pod_port(2)).len() - payload_at(family);
        let mut pass = |same: Same, part, more| {
            let frame = piece(same, part, more);
            node.receive(same.port(2), &frame).0
        };
        for same in SAME {
            assert_eq!(pass(same, 0..64, true), Verdict::Forward(same.port(3)));
        }
        assert_eq!(
            pass(Same::Other(RED), 32..96, true),
            Verdict::Drop(DropReason::FragmentOverlap),
            "red's packet is spoilt, and no other"
        );
        let spoilt = Verdict::Drop(DropReason::FragmentOverlap);
        assert_eq!(pass(Same::Other(RED), 64..len, false), spoilt);
        for same in [Same::Cluster, Same::Other(BLUE)] {
            assert_eq!(pass(same, 64..len, false), Verdict::Forward(same.port(3)));
        }
    }
}

/// An error is about a connection of its own network, and a pod is no router there: what it has to say about another's is
/// dropped; where there is no such connection it is about nothing.
#[test]
fn an_error_is_about_a_connection_of_its_network() {
    for family in Family::BOTH {
        let mut node = node();
        let there = Ip::udp(pod(family, 1, 2), pod(family, 1, 3));
        let red = Same::Other(RED);
        let opened = node.receive(red.port(2), &sent(&there, red.port(2))).0;
        assert_eq!(opened, Verdict::Forward(red.port(3)));
        for same in SAME {
            let narrow = match same {
                Same::Cluster => narrow(),
                Same::Other(net) => net.port(9),
            };
            let forged = port_unreachable(pod(family, 1, 9), pod(family, 1, 2), &there.clone().ttl(63));
            let (verdict, _) = node.receive(narrow, &sent(&forged, narrow));
            let expected = if same == red {
                Verdict::Drop(DropReason::IcmpUnrelated)
            } else {
                Verdict::Forward(same.port(2))
            };
            assert_eq!(verdict, expected, "{family:?} {same:?}");
        }
    }
}

/// A worker that drowns shares what comes in other networks' tunnels as well, by flow.
#[test]
fn flows_in_a_networks_tunnel_are_told_apart() {
    let publisher = Publisher::new(tables(1));
    let key = HashKey::from_words([11, 22, 33]);
    let pipeline = NodePipeline::new(publisher.reader(), connections(), key, 0);
    let mut pool = Pool::on_heap(1);
    let mut flow = |frame: &[u8]| {
        let (frame, mut flows) = (pool.take_with(frame).unwrap(), Vec::new());
        pipeline.flows(uplink(), std::slice::from_ref(&frame), &mut flows);
        pool.give(frame);
        flows[0]
    };
    for (family, net) in Family::BOTH
        .into_iter()
        .flat_map(|family| [RED, BLUE].map(|net| (family, net)))
    {
        let ip = |port| {
            let body = Body::Udp(port, 53, vec![1; 20]);
            Ip::udp(net.pod(family, 2, 9), net.pod(family, 1, 2)).body(body)
        };
        let [one, again, other] = [1, 1, 2].map(|port| flow(&net.tunnelled(2, &ip(port))));
        assert!(
            one.is_some() && one == again && one != other,
            "{family:?} {}",
            net.id
        );
    }
    // At blue's port another network's is a stranger's.
    let stranger = Net {
        udp_port: BLUE.udp_port,
        ..RED
    };
    let ip = Ip::udp(RED.pod(Family::V4, 2, 9), RED.pod(Family::V4, 1, 2));
    assert_eq!(flow(&stranger.tunnelled(2, &ip)), None);
}

/// Which node may send from an address in one network says nothing about another.
#[test]
fn who_may_send_is_asked_in_each_network() {
    for family in Family::BOTH {
        let top = top(1);
        let red = tables_of(RED, 1, &top);
        // In red the address is another node's pod's.
        let moved = Prefix::host(pod(family, 2, 9));
        let peers = red.peers.iter().map(|(id, peer)| (id, peer.clone()));
        let red = NodeTables {
            peers: Arc::new(PeerTable::build(peers, [(moved, PeerId::new(3))])),
            ..red
        };
        let mut node = Node::with(with(top.clone(), [red, tables_of(BLUE, 1, &top)]));
        let ip = Ip::udp(pod(family, 2, 9), pod(family, 1, 3));
        for _ in 0..3 {
            for same in SAME {
                let (verdict, _) = node.receive(uplink(), &same.tunnelled(2, &ip));
                let expected = match same {
                    Same::Other(RED) => Verdict::Drop(DropReason::TunnelSpoofedAddress),
                    Same::Other(_) | Same::Cluster => Verdict::Forward(same.port(3)),
                };
                assert_eq!(verdict, expected, "{same:?}");
            }
            let (verdict, _) = node.receive(uplink(), &RED.tunnelled(3, &ip));
            assert_eq!(verdict, Verdict::Forward(RED.port(3)));
        }
    }
}

#[test]
fn policies_are_those_of_the_network() {
    for (family, isolated) in Family::BOTH.into_iter().flat_map(|f| SAME.map(|same| (f, same))) {
        let ports = [2, 3].map(|number| (isolated.port(number), pod(family, 1, number)));
        let mut node = Node::with(of(ports, isolated, &[(3, Side::Ingress, None)])).alone();
        let ip = Ip::udp(pod(family, 1, 2), pod(family, 1, 3));
        for same in SAME {
            let (verdict, _) = node.receive(same.port(2), &sent(&ip, same.port(2)));
            if same == isolated {
                assert_eq!(verdict, Verdict::Drop(DropReason::PolicyIngress));
            } else {
                assert_eq!(
                    verdict,
                    Verdict::Forward(same.port(3)),
                    "{same:?} beside {isolated:?}"
                );
            }
        }
    }
}

/// A change of one network's routes makes answers stale there, by numbers that mean something else in others.
#[test]
fn a_stored_answer_rests_on_its_own_networks_tables() {
    for family in Family::BOTH {
        let mut node = node();
        let ip = Ip::udp(pod(family, 1, 2), pod(family, 2, 9));
        let frame = |same: Same| sent(&ip, same.port(2));
        for same in SAME {
            assert_eq!(
                node.receive(same.port(2), &frame(same)).0,
                Verdict::Forward(uplink())
            );
        }
        // Red loses the way, and says so; the epoch is everybody's.
        let old = node.tables();
        let epoch = old.epoch.next();
        let changed = std::collections::HashSet::from([Target::Tunnel(PeerId::new(2)).subject()]);
        let top = NodeTables { epoch, ..top(1) };
        let red = tables_of(RED, 1, &top);
        let red = NodeTables {
            routes: Arc::new(RouteTable::build([])),
            subjects: red.subjects.with_changes(&changed, epoch),
            ..red
        };
        node.publish(with(top.clone(), [red, tables_of(BLUE, 1, &top)]));
        for same in SAME {
            let (verdict, _) = node.receive(same.port(2), &frame(same));
            match same {
                Same::Other(RED) => assert!(
                    matches!(verdict, Verdict::Punt(PuntReason::Unreachable, _)),
                    "{verdict:?}"
                ),
                Same::Other(_) | Same::Cluster => assert_eq!(verdict, Verdict::Forward(uplink())),
            }
        }
    }
}

/// One step of what stations do, in a network whose addresses are the same as another's.
#[derive(Debug, Clone, Copy)]
struct Step {
    is_red: bool,
    from: u8,
    to: u8,
    is_far: bool,
    form: u8,
    port: u16,
}

fn step() -> impl Strategy<Value = Step> {
    (any::<bool>(), 2_u8..4, 2_u8..4, any::<bool>(), 0_u8..5, 1_u16..4).prop_map(
        |(is_red, from, to, is_far, form, port)| Step {
            is_red,
            from,
            to,
            is_far,
            form,
            port,
        },
    )
}

impl Step {
    fn packet(self, family: Family) -> Ip {
        let to = if self.is_far {
            pod(family, 2, self.to)
        } else {
            pod(family, 1, self.to)
        };
        let segment = |syn, acknowledgment, rst| {
            Body::Segment(Segment {
                ports: (self.port, self.port ^ 3),
                sequence: 1000,
                acknowledgment,
                window: 100,
                syn,
                rst,
                ..Segment::default()
            })
        };
        let body = match self.form {
            0 => Body::Udp(self.port, self.port ^ 3, vec![1; 20]),
            1 => segment(true, None, false),
            2 => segment(true, Some(1001), false),
            3 => segment(false, Some(1001), false),
            _ => segment(false, None, true),
        };
        Ip::udp(pod(family, 1, self.from), to).body(body)
    }

    /// The verdict, as it would be in the cluster's own network.
    fn run(self, node: &mut Node, family: Family, same: Same) -> Verdict {
        let at = same.port(self.from);
        let (verdict, _) = node.receive(at, &sent(&self.packet(family), at));
        match verdict {
            Verdict::Forward(exit) => {
                let own = [2, 3].into_iter().find(|number| same.port(*number) == exit);
                Verdict::Forward(own.map_or(exit, pod_port))
            }
            Verdict::Drop(_) | Verdict::Punt(..) | Verdict::Replicate(_) => verdict,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// What happens in one network makes no difference to another in which everything has the same name.
    #[test]
    fn two_networks_answer_as_each_would_alone(steps in proptest::collection::vec(step(), 1..60), is_v6: bool) {
        let family = Family::BOTH[usize::from(is_v6)];
        let whose = |step: &Step| if step.is_red { Same::Other(RED) } else { Same::Cluster };
        let mut both = node();
        let together: Vec<_> = steps.iter().map(|step| step.run(&mut both, family, whose(step))).collect();
        let mut alone = [node(), node()];
        let apart: Vec<_> = steps
            .iter()
            .map(|step| step.run(&mut alone[usize::from(step.is_red)], family, whose(step)))
            .collect();
        prop_assert_eq!(&together, &apart);
        // And red is to itself what the cluster's own network is.
        let mut cluster = node();
        let red: Vec<_> = steps.iter().filter(|step| step.is_red).collect();
        let as_cluster: Vec<_> = red.iter().map(|step| step.run(&mut cluster, family, Same::Cluster)).collect();
        let in_red: Vec<_> = together.iter().zip(&steps).filter(|(_, step)| step.is_red).map(|(v, _)| *v).collect();
        prop_assert_eq!(as_cluster, in_red);
    }
}
