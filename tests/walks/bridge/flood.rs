//! What goes to everybody.

use super::*;
use crate::packets::ARP;

const GROUP: MacAddr = MacAddr([0x01, 0x00, 0x5e, 1, 2, 3]);

#[test]
fn what_is_for_all_groups_and_strangers_goes_to_all_others_of_the_network() {
    let mut switch = switch();
    for to in [MacAddr::BROADCAST, GROUP, station(2)] {
        let sent = frame(station(1), to);
        assert_eq!(switch.verdict(10, &sent), cast(RED, at(10)), "{to}");
        let left = switch.forward(port(10), &sent);
        let ports: Vec<_> = left.iter().map(|(port, _)| port.index()).collect();
        assert_eq!(ports, [11, 13, 14, 15, 0, 0, 0], "ports, and then nodes");
        let plain = [&left[0], &left[2], &left[3]];
        assert!(plain.iter().all(|(_, left)| *left == sent));
        assert_eq!(left[1].1, tagged(&sent, 10));
        for ((_, left), node) in left[4..].iter().zip([2, 3, 6]) {
            super::tunnel::assert_wrapped(left, node, RED_VNI, &sent);
        }
    }
}

#[test]
fn what_comes_from_another_node_goes_to_ports_only() {
    let mut switch = switch();
    let sent = frame(station(1), MacAddr::BROADCAST);
    let left = switch.forward(uplink(), &tunnelled(2, RED_VNI, &sent));
    let ports: Vec<_> = left.iter().map(|(port, _)| port.index()).collect();
    assert_eq!(ports, [10, 11, 13, 14, 15], "split horizon");
    assert_eq!(left[0].1, sent);
}

#[test]
fn a_copy_that_cannot_leave_is_dropped_by_itself() {
    let mut switch = switch();
    let sent = frame(station(1), MacAddr::BROADCAST);
    let (verdict, left) = switch.receive(port(12), &sent);
    assert_eq!(verdict, cast(BLUE, at(12)));
    let from = at(12);
    let ends = switch.copies(
        Cast {
            network: BLUE,
            from,
            audience: Audience::Everybody,
        },
        &left,
    );
    let verdicts: Vec<_> = ends.iter().map(|(verdict, _)| *verdict).collect();
    let unresolved = dropped(DropReason::BridgeUnresolved);
    let expected = [
        Verdict::Forward(port(TRUNK)),
        Verdict::Forward(uplink()),
        unresolved,
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn tables_that_change_between_two_copies_bring_nothing_back() {
    let mut switch = switch();
    let cast = Cast {
        network: RED,
        from: at(11),
        audience: Audience::Everybody,
    };
    let sent = frame(station(1), MacAddr::BROADCAST);
    // Port 10, at place 0, has left: place 0 is now where the frame comes from.
    let mut tables = tables([(RED, red()), (BLUE, blue())]);
    let rest = tables.networks.members().filter(|(id, _)| *id != port(10));
    let rest: Vec<_> = rest.map(|(id, member)| (id, member.clone())).collect();
    tables.networks = Arc::new(Networks::build(rest, [(RED, red())], [], []));
    switch.publish(tables);
    let mut copy = switch.pool.take_with(&sent).unwrap();
    let verdict = switch.pipeline.finish_copy(&mut copy, cast, 0);
    assert_eq!(verdict, dropped(DropReason::BridgeHairpin));
    let beyond = switch.pipeline.finish_copy(&mut copy, cast, 99);
    assert_eq!(beyond, dropped(DropReason::PortGone));
    let from_node = Cast {
        network: RED,
        from: behind(2),
        audience: Audience::Everybody,
    };
    let split = switch.pipeline.finish_copy(&mut copy, from_node, 99);
    assert_eq!(split, dropped(DropReason::BridgeSplitHorizon));
    let of_none = Cast {
        network: BLUE,
        from: at(12),
        audience: Audience::Everybody,
    };
    assert_eq!(switch.pipeline.destination(of_none, 0), None);
    assert_eq!(
        switch.pipeline.finish_copy(&mut copy, of_none, 0),
        dropped(DropReason::PortGone)
    );
    switch.pool.give(copy);
}

#[test]
fn beyond_a_burst_a_storm_ends_where_it_comes_in() {
    let mut switch = switch_with(Segment {
        storm: Some(nearly_none(5)),
        suppresses: true,
        ..red()
    });
    switch.know(RED, station(2), at(11));
    let storm = dropped(DropReason::BridgeStorm);
    let flooded = frame(station(1), MacAddr::BROADCAST);
    let passed = (0..20)
        .filter(|_| switch.verdict(10, &flooded) == cast(RED, at(10)))
        .count();
    assert_eq!(passed, 5);
    assert_eq!(
        switch.verdict(10, &frame(station(1), station(99))),
        storm,
        "a stranger's as well"
    );
    let request = ethernet(MacAddr::BROADCAST, station(1), ARP, &[0; 28]);
    assert_eq!(
        switch.verdict(10, &request),
        storm,
        "and what would go to the slow path"
    );
    let known = Verdict::Forward(port(11));
    assert_eq!(
        switch.verdict(10, &frame(station(1), station(2))),
        known,
        "what is known passes"
    );
    assert_eq!(
        switch.verdict(11, &flooded),
        cast(RED, at(11)),
        "and what comes from others"
    );
    assert_eq!(
        switch.verdict(0, &tunnelled(2, RED_VNI, &flooded)),
        cast(RED, behind(2))
    );
    assert_eq!(
        switch.originate(&flooded, RED, at(10)).0,
        cast(RED, at(10)),
        "and the slow path's"
    );
}

/// A message of neighbour discovery, or of group membership behind a hop-by-hop option.
fn icmp_v6(kind: u8, is_behind_option: bool) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0][..], &[0; 20]].concat();
    let option = [58, 0, 5, 2, 0, 0, 1, 0];
    let (next, body) = if is_behind_option {
        (0, [&option[..], &message].concat())
    } else {
        (58, message)
    };
    let len = u8::try_from(body.len()).unwrap();
    let head = [0x60, 0, 0, 0, 0, len, next, 255];
    let addresses = [[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0xff; 16]].concat();
    [&head[..], &addresses, &body].concat()
}

#[test]
fn what_the_slow_path_wants_to_hear_goes_there_and_not_to_everybody() {
    let igmp = {
        let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 9, 0, 1, 224, 0, 0, 1];
        [&header[..], &[0x16; 8]].concat()
    };
    let rows = [
        (ARP, vec![0; 28], Some(PuntReason::Arp), true),
        (
            0x86dd,
            icmp_v6(135, false),
            Some(PuntReason::NeighbourSolicitation),
            true,
        ),
        (
            0x86dd,
            icmp_v6(136, false),
            Some(PuntReason::NeighbourAdvertisement),
            true,
        ),
        (
            0x86dd,
            icmp_v6(143, true),
            Some(PuntReason::GroupMembership),
            false,
        ),
        (
            0x86dd,
            icmp_v6(130, true),
            Some(PuntReason::GroupMembership),
            false,
        ),
        (0x0800, igmp, Some(PuntReason::GroupMembership), false),
        (0x86dd, icmp_v6(134, false), None, true),
        (0x86dd, vec![0x60; 9], None, true),
        (0x88b5, vec![0; 60], None, true),
    ];
    for (suppresses, snoops) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut switch = switch_with(Segment {
            suppresses,
            snoops,
            ..red()
        });
        for (ether_type, body, reason, is_discovery) in &rows {
            let is_wanted = if *is_discovery { suppresses } else { snoops };
            let to_all = ethernet(MacAddr::BROADCAST, station(1), *ether_type, body);
            let expected = |from| match reason.filter(|_| is_wanted) {
                Some(reason) => punt(reason, RED, from),
                None => cast(RED, from),
            };
            assert_eq!(
                switch.verdict(10, &to_all),
                expected(at(10)),
                "{ether_type:x} {body:?}"
            );
            let (verdict, left) = switch.receive(uplink(), &tunnelled(3, RED_VNI, &to_all));
            assert_eq!(verdict, expected(behind(3)));
            assert_eq!(left, to_all, "without the tunnel");
            let (verdict, left) = switch.receive(port(TRUNK), &tagged(&to_all, 10));
            assert_eq!(
                (verdict, left),
                (expected(at(TRUNK)), to_all.clone()),
                "without the tag"
            );
            // What it gives back goes on to everybody else.
            assert_eq!(switch.originate(&to_all, RED, at(10)).0, cast(RED, at(10)));
            // What is said to one station alone is between the two.
            let to_one = ethernet(station(2), station(1), *ether_type, body);
            assert_eq!(switch.verdict(10, &to_one), cast(RED, at(10)));
        }
    }
}

#[test]
fn what_the_slow_path_sends_takes_the_shortest_way_there_is() {
    let mut switch = switch();
    switch.know(RED, station(2), at(11));
    let reply = frame(station(9), station(2));
    let sent = switch.originate(&reply, RED, Location::Switch);
    assert_eq!(sent, (Verdict::Forward(port(11)), reply.clone()));
    let all = cast(RED, Location::Switch);
    assert_eq!(
        switch
            .originate(&frame(station(9), station(3)), RED, Location::Switch)
            .0,
        all
    );
    assert_eq!(switch.lessons(), [], "and teaches nothing");
    let nowhere = switch.originate(&reply, NetworkId::new(7), Location::Switch).0;
    assert_eq!(nowhere, dropped(DropReason::PortGone));
    let short = switch.originate(&[0; 3], RED, Location::Switch).0;
    assert_eq!(short, dropped(DropReason::EthernetTruncated));
}
