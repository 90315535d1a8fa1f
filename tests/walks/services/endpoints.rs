//! When an endpoint goes, and what a change elsewhere leaves alone.

use std::collections::HashSet;
use std::sync::Arc;

use millrace_dataplane::table::service::Serving;
use millrace_dataplane::table::{Local, NodeTables, SubjectId};
use millrace_dataplane::verdict::{PuntDetail, PuntReason, Verdict};

use super::{At, From, Sketch, TCP, To, UDP, backend, hop, node, packet, say, tables, vip};
use crate::packets::Family;
use crate::rows::{Expect, punt};
use crate::world::{pod, pod_port};

const OLD: u8 = 5;
const NEW: u8 = 6;

fn sketch(family: Family, serving: &[u8], others: &[(u8, Serving)]) -> Sketch {
    let backends: Vec<_> = serving
        .iter()
        .map(|last| (pod(family, 2, *last), 80, false))
        .collect();
    let mut sketch = Sketch::new(1, At::Cluster(vip(family, 1)), 80, &backends);
    sketch.others = others
        .iter()
        .map(|(last, serving)| (pod(family, 2, *last), 80, *serving))
        .collect();
    sketch
}

/// To which pod of node 2 a call goes now.
fn call(family: Family, protocol: u8) -> (super::Ip, impl Fn(u8) -> Expect) {
    let own = (pod(family, 1, 2), 4000);
    let goes_to = move |last| To::Peer.expect(&hop(&packet(protocol, own, (pod(family, 2, last), 80))));
    (packet(protocol, own, (vip(family, 1), 80)), goes_to)
}

/// UDP flows bound to an endpoint are unbound at once, also when it was the last one and a new one comes later.
#[test]
fn udp_leaves_an_endpoint_that_goes_and_tcp_drains() {
    for family in Family::BOTH {
        for (protocol, serving) in [
            (UDP, Serving::Draining),
            (UDP, Serving::No),
            (TCP, Serving::Draining),
            (TCP, Serving::No),
        ] {
            let mut node = node(&[sketch(family, &[OLD], &[])]);
            let (packet, goes_to) = call(family, protocol);
            say(&mut node, "before", From::Pod(2), &packet, goes_to(OLD));
            let changed = [backend(1, 0), backend(1, 1)];
            let next = sketch(family, &[NEW], &[(OLD, serving)]);
            node.publish_next(tables(&[next]), &changed);
            let stays = if protocol == TCP { OLD } else { NEW };
            let name = format!("{family:?} {protocol}, {serving:?}");
            say(&mut node, &name, From::Pod(2), &packet, goes_to(stays));
            say(&mut node, &name, From::Pod(2), &packet, goes_to(stays));
        }
    }
}

#[test]
fn udp_is_refused_while_there_is_no_endpoint_and_finds_the_next_one_hours_later() {
    for family in Family::BOTH {
        let mut node = node(&[sketch(family, &[OLD], &[])]);
        let (packet, goes_to) = call(family, UDP);
        say(&mut node, "before", From::Pod(2), &packet, goes_to(OLD));
        node.publish_next(tables(&[sketch(family, &[], &[])]), &[backend(1, 0)]);
        let refused = || {
            punt(
                PuntReason::ServiceReject,
                PuntDetail::Nothing,
                &From::Pod(2).frame(&packet),
            )
        };
        for _ in 0..100 {
            say(&mut node, "the last has gone", From::Pod(2), &packet, refused());
            node.wait(20);
        }
        node.publish_next(tables(&[sketch(family, &[NEW], &[])]), &[backend(1, 0)]);
        say(&mut node, "another has come", From::Pod(2), &packet, goes_to(NEW));
    }
}

/// If the operator asks for it, TCP is reset towards the client once its endpoint is removed, and not before.
#[test]
fn tcp_is_reset_once_its_endpoint_is_removed_where_that_is_wanted() {
    for family in Family::BOTH {
        let resetting = |sketch: Sketch| {
            let base = tables(&[sketch]);
            let local = Local {
                resets_removed_endpoints: true,
                ..Local::clone(&base.local)
            };
            NodeTables {
                local: Arc::new(local),
                ..base
            }
        };
        let mut node = crate::world::Node::with(resetting(sketch(family, &[OLD], &[])));
        let (packet, goes_to) = call(family, TCP);
        say(&mut node, "before", From::Pod(2), &packet, goes_to(OLD));
        let next = sketch(family, &[NEW], &[(OLD, Serving::Draining)]);
        node.publish_next(resetting(next), &[backend(1, 0)]);
        say(&mut node, "it terminates", From::Pod(2), &packet, goes_to(OLD));
        node.publish_next(resetting(sketch(family, &[NEW], &[])), &[backend(1, 0)]);
        let reset = punt(
            PuntReason::EndpointGone,
            PuntDetail::Nothing,
            &From::Pod(2).frame(&packet),
        );
        say(&mut node, "it is gone", From::Pod(2), &packet, reset);
    }
}

/// A change of anything else leaves a connection where it is, though it would be given another endpoint if it began
/// now.
#[test]
fn a_connection_is_never_moved_by_what_is_none_of_its_business() {
    for family in Family::BOTH {
        let mut node = node(&[sketch(family, &[OLD], &[])]);
        let (packet, goes_to) = call(family, UDP);
        say(&mut node, "before", From::Pod(2), &packet, goes_to(OLD));
        // Both serve from now on, and the hash may prefer the new one: no subject of the flow has changed.
        for _ in 0..3 {
            let next = sketch(family, &[OLD, NEW, 7, 8, 9, 10, 11], &[]);
            node.publish_next(tables(&[next]), &[backend(1, 1), backend(9, 0)]);
            say(&mut node, "others came", From::Pod(2), &packet, goes_to(OLD));
        }
        // Even asked again, it stays: its backend still serves.
        let again = tables(&[sketch(family, &[OLD, NEW, 7, 8, 9, 10, 11], &[])]);
        let all = HashSet::from([backend(1, 0).subject(), SubjectId::ROUTES]);
        node.publish_changed(again, &all);
        say(&mut node, "asked again", From::Pod(2), &packet, goes_to(OLD));
        let answer = super::packet(UDP, (pod(family, 2, OLD), 80), (pod(family, 1, 2), 4000));
        let returned = super::packet(UDP, (vip(family, 1), 80), (pod(family, 1, 2), 4000));
        let (verdict, _) = node.receive(crate::world::uplink(), &From::Peer.frame(&answer));
        assert_eq!(verdict, Verdict::Forward(pod_port(2)));
        say(
            &mut node,
            "the answer",
            From::Peer,
            &answer,
            To::Pod(2).expect(&hop(&returned)),
        );
    }
}
