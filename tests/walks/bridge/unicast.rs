//! Stations that are known, and how they come to be.

use super::*;

#[test]
fn what_is_for_a_known_station_goes_there_alone_and_as_it_is() {
    let mut switch = switch();
    switch.know(RED, station(1), at(10));
    switch.know(RED, station(2), at(11));
    let frame = frame(station(1), station(2));
    assert_eq!(
        switch.receive(port(10), &frame),
        (Verdict::Forward(port(11)), frame)
    );
    assert_eq!(switch.lessons(), [], "all is known");
}

#[test]
fn the_trunk_is_two_networks_and_a_tag_tells_them_apart() {
    let mut switch = switch();
    for (network, location) in [(RED, at(10)), (BLUE, at(12))] {
        switch.know(network, station(1), location);
        switch.know(network, station(2), at(TRUNK));
    }
    let (there, back) = (frame(station(1), station(2)), frame(station(2), station(1)));
    for (number, tag) in [(10, 10), (12, 20)] {
        let sent = (Verdict::Forward(port(TRUNK)), tagged(&there, tag));
        assert_eq!(switch.receive(port(number), &there), sent);
        let sent = (Verdict::Forward(port(number)), back.clone());
        assert_eq!(switch.receive(port(TRUNK), &tagged(&back, tag)), sent);
        // A priority does not change what network it is.
        assert_eq!(switch.receive(port(TRUNK), &tagged(&back, tag | 0xe000)), sent);
    }
}

#[test]
fn what_a_network_knows_no_other_one_does() {
    let mut switch = switch();
    switch.know(RED, station(2), at(11));
    assert_eq!(
        switch.verdict(12, &frame(station(1), station(2))),
        cast(BLUE, at(12))
    );
}

#[test]
fn nothing_goes_back_to_where_it_came_from() {
    let mut switch = switch();
    switch.know(RED, station(2), at(10));
    switch.know(RED, station(3), behind(2));
    let hairpin = dropped(DropReason::BridgeHairpin);
    assert_eq!(switch.verdict(10, &frame(station(1), station(2))), hairpin);
    let from_tunnel = |node| tunnelled(node, RED_VNI, &frame(station(1), station(3)));
    assert_eq!(switch.verdict(0, &from_tunnel(2)), hairpin);
    let split = dropped(DropReason::BridgeSplitHorizon);
    assert_eq!(
        switch.verdict(0, &from_tunnel(3)),
        split,
        "nor from one node to another"
    );
    // A station at the switch itself.
    switch
        .fdb
        .write()
        .set_static(RED, station(9), Location::Switch, switch.now)
        .unwrap();
    let not_for_us = dropped(DropReason::NotForUs);
    assert_eq!(switch.verdict(10, &frame(station(1), station(9))), not_for_us);
}

#[test]
fn who_is_not_known_is_told_of_once_and_then_known() {
    let mut switch = switch();
    let sent = frame(station(1), station(2));
    let lesson = |mac, location| Lesson {
        network: RED,
        mac,
        location,
    };
    let batch = vec![sent.clone(); 8];
    switch.receive_all(port(10), &batch);
    assert_eq!(
        switch.lessons(),
        [lesson(station(1), at(10))],
        "of eight frames, and within moments"
    );
    switch.fdb.write().learn(RED, station(1), at(10), switch.now);
    switch.receive_all(port(10), &batch);
    assert_eq!(switch.lessons(), []);
    // It moves, to another node and back: each time it is told at once.
    switch.receive(uplink(), &tunnelled(2, RED_VNI, &sent));
    assert_eq!(switch.lessons(), [lesson(station(1), behind(2))]);
    switch.fdb.write().learn(RED, station(1), behind(2), switch.now);
    switch.receive(port(10), &sent);
    assert_eq!(switch.lessons(), [lesson(station(1), at(10))]);
}

#[test]
fn who_is_still_not_known_a_while_later_is_told_of_again() {
    let mut switch = switch();
    let sent = frame(station(1), station(2));
    let mut told = 0;
    let mut looks = 0;
    // Ten milliseconds, and none of the frames in between puts it off.
    while told < 3 {
        looks += 1;
        switch.receive(port(10), &sent);
        told += switch.lessons().len();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(looks < 10_000, "told of {told} times");
    }
}

#[test]
fn a_batch_of_strangers_is_told_of_one_by_one() {
    let mut switch = switch();
    let batch: Vec<_> = (0..64)
        .map(|number| frame(station(number), station(200)))
        .collect();
    switch.receive_all(port(10), &batch);
    let told = switch.lessons().len();
    // Two that share a place in the memory for what was told are both told, in any case.
    assert_eq!(told, 64);
    switch.receive_all(port(10), &[]);
    assert_eq!(switch.lessons(), []);
}

#[test]
fn a_flood_of_strangers_is_told_of_in_part_and_others_all_the_same() {
    let mut switch = switch();
    let stranger = |number: u16| {
        let [high, low] = number.to_be_bytes();
        frame(MacAddr([0x02, 0x0f, 0, 0, high, low]), station(200))
    };
    let (began, mut told) = (std::time::Instant::now(), 0);
    for batch in (0..8192).map(stranger).collect::<Vec<_>>().chunks(64) {
        switch.receive_all(port(10), batch);
        told += switch.lessons().len();
    }
    // All at once that a port may have unless told otherwise, and then one in a millisecond.
    let later = usize::try_from(began.elapsed().as_millis()).unwrap();
    assert!((1024..=1025 + later).contains(&told), "{told} in {later} ms");
    for (place, ingress) in [(at(10), port(11)), (at(11), port(15))] {
        switch.receive(ingress, &frame(station(7), station(200)));
        let heard = switch.lessons();
        assert_eq!(heard.len(), 1, "not from {place:?}");
        assert_ne!(heard[0].location, place);
    }
}

#[test]
fn what_is_not_to_be_learned_is_not_told() {
    let quiet = Segment {
        learns_from_ports: false,
        learns_from_remotes: false,
        ..red()
    };
    for (from_ports, from_remotes) in [(false, false), (true, false), (false, true)] {
        let mut switch = switch_with(Segment {
            learns_from_ports: from_ports,
            learns_from_remotes: from_remotes,
            ..quiet.clone()
        });
        let sent = frame(station(1), station(2));
        assert_eq!(switch.verdict(10, &sent), cast(RED, at(10)));
        assert_eq!(switch.lessons().len(), usize::from(from_ports));
        let from_remote = cast(RED, behind(2));
        assert_eq!(switch.verdict(0, &tunnelled(2, RED_VNI, &sent)), from_remote);
        assert_eq!(switch.lessons().len(), usize::from(from_remotes));
    }
}

#[test]
fn who_was_given_a_place_is_nowhere_else() {
    let mut switch = switch();
    let now = switch.now;
    switch
        .fdb
        .write()
        .set_static(RED, station(1), at(10), now)
        .unwrap();
    switch.know(RED, station(2), at(11));
    let sent = frame(station(1), station(2));
    assert_eq!(switch.verdict(10, &sent), Verdict::Forward(port(11)));
    let spoofed = dropped(DropReason::SpoofedMac);
    assert_eq!(switch.verdict(11, &sent), spoofed);
    assert_eq!(switch.verdict(0, &tunnelled(3, RED_VNI, &sent)), spoofed);
    assert_eq!(switch.lessons(), []);
}

#[test]
fn who_speaks_is_seen_once_a_second() {
    let mut switch = switch();
    switch.know(RED, station(1), at(10));
    let sent = frame(station(1), station(2));
    for second in [1000, 1001, 1007] {
        switch.now = Tick::from_seconds(second);
        switch.receive(port(10), &sent);
        assert_eq!(switch.fdb.lookup(RED, station(1)).unwrap().age(switch.now), 0);
    }
    // What others say to it is no sign of life.
    switch.now = Tick::from_seconds(1010);
    switch.receive(port(11), &frame(station(2), station(1)));
    assert_eq!(switch.fdb.lookup(RED, station(1)).unwrap().age(switch.now), 3);
}

#[test]
fn who_has_left_is_looked_for_everywhere_again() {
    let mut switch = switch();
    switch.know(RED, station(2), at(12));
    switch.know(RED, station(3), behind(5));
    for gone in [station(2), station(3)] {
        assert_eq!(switch.verdict(10, &frame(station(1), gone)), cast(RED, at(10)));
    }
}

#[test]
fn a_frame_longer_than_its_way_is_dropped() {
    let mut switch = switch();
    switch.know(RED, station(2), at(NARROW));
    switch.know(RED, station(3), behind(2));
    for (to, mtu) in [(station(2), NARROW_MTU), (station(3), MTU)] {
        let sized = |len: u16| ethernet(to, station(1), 0x88b5, &vec![7; usize::from(len)]);
        assert!(matches!(switch.verdict(10, &sized(mtu)), Verdict::Forward(_)));
        assert_eq!(
            switch.verdict(10, &sized(mtu + 1)),
            dropped(DropReason::BridgeTooBig)
        );
    }
}
