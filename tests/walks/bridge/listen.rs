//! What goes to a group, where it is known who listens.

use millrace_dataplane::table::Listeners;
use millrace_dataplane::verdict::PuntDetail;
use millrace_dataplane::wire::{EtherType, checksum};

use super::*;

/// Of 239.1.2.3, and one that nobody listens to.
const GROUP: MacAddr = MacAddr([0x01, 0x00, 0x5e, 1, 2, 3]);
const QUIET: MacAddr = MacAddr([0x01, 0x00, 0x5e, 1, 2, 4]);
/// Of 224.0.0.22, a group of the link itself.
const LINK: MacAddr = MacAddr([0x01, 0x00, 0x5e, 0, 0, 22]);
const IPV6: MacAddr = MacAddr([0x33, 0x33, 0, 1, 0, 7]);

/// A switch that overhears red, where port 11 listens to a group and node 2 asks in IPv4.
fn overhearing() -> Switch {
    let mut switch = switch_with(Segment {
        snoops: true,
        ..red()
    });
    let groups = [(GROUP, vec![at(11)])];
    switch.listen(Listeners::build([(RED, true, [behind(2)], groups)]));
    switch
}

/// The ports by which a frame leaves; 0 for each other node.
fn ends(switch: &mut Switch, ingress: PortId, frame: &[u8]) -> Vec<usize> {
    let left = switch.forward(ingress, frame);
    left.iter().map(|(port, _)| port.index()).collect()
}

fn igmp(kind: u8) -> Vec<u8> {
    let mut message = [kind, 0, 0, 0, 239, 1, 2, 3];
    let sum = checksum::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 9, 0, 1, 239, 1, 2, 3];
    let packet = [&header[..], &message].concat();
    ethernet(GROUP, station(1), EtherType::IPV4.0, &packet)
}

#[test]
fn a_groups_frames_go_to_listeners_and_to_who_asks() {
    let mut switch = overhearing();
    let everybody = [11, 13, 14, 15, 0, 0, 0];
    for (group, expected) in [
        (GROUP, [11, 0].as_slice()),
        (QUIET, &[0]),
        (LINK, &everybody),
        (IPV6, &everybody),
        (MacAddr::BROADCAST, &everybody),
    ] {
        let sent = frame(station(1), group);
        assert_eq!(ends(&mut switch, port(10), &sent), expected, "{group}");
    }
    let sent = frame(station(9), GROUP);
    assert_eq!(ends(&mut switch, port(11), &sent), [0], "not back to who sent it");
    let sent = tunnelled(2, RED_VNI, &frame(station(9), GROUP));
    assert_eq!(ends(&mut switch, uplink(), &sent), [11]);
    let sent = tunnelled(2, RED_VNI, &frame(station(9), QUIET));
    let (verdict, left) = switch.receive(uplink(), &sent);
    let Verdict::Replicate(cast) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(switch.copies(cast, &left).is_empty(), "nobody is left");
}

#[test]
fn where_nothing_is_overheard_groups_are_everybodys() {
    let mut switch = switch();
    let groups = [(GROUP, vec![at(11)])];
    switch.listen(Listeners::build([(RED, true, [behind(2)], groups)]));
    let sent = frame(station(1), GROUP);
    assert_eq!(ends(&mut switch, port(10), &sent).len(), 7);
}

#[test]
fn what_hosts_say_goes_to_who_asks_and_other_nodes_and_a_question_to_everybody() {
    let mut switch = overhearing();
    for (kind, expected) in [(0x16, 3), (0x17, 3), (0x11, 7), (0x99, 7)] {
        let sent = igmp(kind);
        let (verdict, _) = switch.receive(port(10), &sent);
        let detail = PuntDetail::Segment(RED, at(10));
        assert_eq!(verdict, Verdict::Punt(PuntReason::GroupMembership, detail));
        let (verdict, left) = switch.originate(&sent, RED, at(10));
        let Verdict::Replicate(cast) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(switch.copies(cast, &left).len(), expected, "{kind:#x}");
    }
    // A node that asks for somebody behind it hands on to no third one what it hears, so each hears it from who sent it. What
    // comes from there goes to who asks here.
    let (verdict, left) = switch.originate(&igmp(0x16), RED, behind(3));
    let Verdict::Replicate(cast) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(switch.copies(cast, &left).is_empty(), "nobody here asks");
    switch.listen(Listeners::default());
    let (verdict, left) = switch.originate(&igmp(0x16), RED, at(10));
    let Verdict::Replicate(cast) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(switch.copies(cast, &left).len(), 7, "nobody is known to ask");
}
