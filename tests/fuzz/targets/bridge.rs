//! Bridged networks: any bytes at a member's port or from the wire take one exit, teach nothing wrong, and what is forwarded,
//! or copied, is what a stranger's parser finds a whole frame, elsewhere than where it came from.
#![no_main]

use std::cell::RefCell;

use bridge::{BLUE, NARROW, RED, Switch, at, behind, blue, red, station, tables};
use etherparse::{EtherType, Ethernet2HeaderSlice, Ipv4HeaderSlice, UdpHeaderSlice};
use libfuzzer_sys::fuzz_target;
use millrace_dataplane::frame::MAX_PACKET_LEN;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{Location, Segment};
use millrace_dataplane::verdict::{Cast, Verdict};
use world::{port, uplink};

#[allow(dead_code, unused_imports, reason = "the walks' tests use the rest")]
#[path = "../../walks/bridge/scene.rs"]
mod bridge;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/packets.rs"]
mod packets;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/world.rs"]
mod world;

thread_local! {
    static SWITCH: RefCell<Switch> = RefCell::new(switch());
}

/// A switch whose networks hand to the slow path what they can, and know a station at each kind of place.
fn switch() -> Switch {
    let heard = Segment {
        suppresses: true,
        snoops: true,
        ..red()
    };
    let mut switch = Switch::with(tables([(RED, heard), (BLUE, blue())]));
    let places = [at(10), at(11), at(NARROW), behind(2), behind(6)];
    for (number, place) in (1..).zip(places) {
        switch.know(RED, station(number), place);
    }
    switch
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, frame)) = data.split_first() else {
        return;
    };
    if frame.len() > MAX_PACKET_LEN {
        return;
    }
    let ingress = if choice & 7 == 0 {
        uplink()
    } else {
        port(9 + u16::from(choice & 7))
    };
    SWITCH.with_borrow_mut(|switch| {
        let (verdict, left) = switch.receive(ingress, frame);
        check(switch, ingress, verdict, &left);
        for lesson in switch.lessons() {
            assert!(lesson.mac.is_unicast(), "{lesson:?}");
            match lesson.location {
                Location::Port(port) => assert_eq!(port, ingress),
                Location::Remote(_) => assert_eq!(ingress, uplink()),
                Location::Switch => panic!("{lesson:?}"),
            }
        }
        let from = if ingress == uplink() {
            behind(2)
        } else {
            Location::Port(ingress)
        };
        let (verdict, left) = switch.originate(frame, RED, from);
        check(switch, ingress, verdict, &left);
    });
});

/// What holds for whatever leaves.
fn check(switch: &mut Switch, ingress: PortId, verdict: Verdict, left: &[u8]) {
    match verdict {
        Verdict::Forward(exit) => check_left(ingress, exit, left),
        Verdict::Replicate(cast @ Cast { from, .. }) => {
            assert!(from != Location::Switch);
            for (verdict, left) in switch.copies(cast, left) {
                match verdict {
                    Verdict::Forward(exit) => check_left(ingress, exit, &left),
                    Verdict::Drop(_) => {}
                    Verdict::Punt(..) | Verdict::Replicate(_) => panic!("{verdict:?}"),
                }
            }
        }
        Verdict::Drop(_) | Verdict::Punt(..) => {}
    }
}

/// A frame goes to another port than it came from, and to the wire in a tunnel that is whole.
fn check_left(ingress: PortId, exit: PortId, left: &[u8]) {
    // What is routed goes where the walk's fuzzer looks after it.
    if exit.index() != 0 && exit.index() < 10 {
        return;
    }
    assert_ne!(exit, ingress);
    let ethernet = Ethernet2HeaderSlice::from_slice(left).expect("a header");
    if exit == uplink() && ethernet.ether_type() == EtherType::IPV4 {
        let ip = Ipv4HeaderSlice::from_slice(&left[14..]).expect("an outer header");
        let header = ip.to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len) + 14, left.len());
        let udp = UdpHeaderSlice::from_slice(&left[34..]).expect("a UDP header");
        assert_eq!(usize::from(udp.length()) + 34, left.len());
    }
}
