//! Routes with several ways, and routes that change their way, in both families.

use std::net::SocketAddr;
use std::time::Instant;

use millrace_tools::lab::Lab;
use millrace_tools::lab::plan::UPLINK;

use super::PORT;
use super::flows::{Answerer, Flow, Talk, ask_all};
use super::speakers::Bird;
use crate::rig::{await_that, daemon, node, pod, row};

/// Flows to the address that both machines have.
const FLOWS: usize = 48;
/// How often a route is swung.
const SWINGS: usize = 20;
/// Datagrams that may be lost when a way goes and comes back. None is, unless the daemon or the kernel takes away the whole
/// route for a moment to put in the changed one.
const LOST_MAX: u64 = 8;

/// What leads to both machines, and what to one of them at a time: a prefix each, and the address in it that both have.
pub(super) struct Ways {
    /// The protocol of BIRD's by which both machines announce it.
    announced_by: &'static str,
    pub(super) shared: (&'static str, &'static str),
    /// By hand.
    pub(super) swung: (&'static str, &'static str),
}

pub(super) const ANYCAST: Ways = Ways {
    announced_by: "anycast",
    shared: ("10.88.0.0/24", "10.88.0.1"),
    swung: ("10.89.0.0/24", "10.89.0.1"),
};
pub(super) const ANYCAST_V6: Ways = Ways {
    announced_by: "anycast6",
    shared: ("fd88::/64", "fd88::1"),
    swung: ("fd89::/64", "fd89::1"),
};
pub(super) const FAMILIES: [&Ways; 2] = [&ANYCAST, &ANYCAST_V6];

/// Flows to an address that two machines have: both get some, each flow stays with one, and only those of a machine that
/// is gone move.
pub(super) fn share_flows(lab: &Lab, d: &Bird, ways: &Ways) {
    let (prefix, address) = ways.shared;
    let await_kind = |what: &str, wanted: &str| {
        for name in ["node-a", "node-b"] {
            await_that(&format!("{what} to {prefix} at {name}"), || {
                row(daemon(lab, name), "routes", "prefix", prefix).is_some_and(|row| row["kind"] == wanted)
            });
        }
    };
    await_kind("two ways", "spread");
    let at = SocketAddr::new(address.parse().unwrap(), PORT);
    let _answerers = answerers(lab, at);
    for name in ["pod-a1", "pod-b1"] {
        let flows: Vec<Flow> = (0..FLOWS).map(|_| Flow::open(pod(lab, name), at)).collect();
        let first = ask_all(&flows);
        assert!(
            first.contains(&b'c') && first.contains(&b'd'),
            "{name} to {address}: {first:?}"
        );
        assert_eq!(ask_all(&flows), first, "{name}: a flow stays with one");
        let talk = Talk::start(flows);
        talk.await_round();
        d.tell(&format!("disable {}", ways.announced_by));
        await_kind("one way", "via");
        talk.await_round();
        d.tell(&format!("enable {}", ways.announced_by));
        await_kind("both ways again", "spread");
        talk.await_round();
        let heard = talk.end();
        println!(
            "{name} to {address} while a way goes and comes: {} lost of {}",
            heard.lost, heard.asked
        );
        for (letters, first) in heard.letters.iter().zip(&first) {
            let expected: &[u8] = if *first == b'c' { b"c" } else { b"dcd" };
            assert_eq!(
                letters, expected,
                "{name} to {address}: only those of the way that is gone move"
            );
        }
        assert!(heard.lost <= LOST_MAX, "{name} to {address}: {} lost", heard.lost);
        assert_eq!(ask_all(&heard.flows), first, "{name}: as before");
    }
}

/// Has each of the machines answer at an address, with a letter of its own.
fn answerers(lab: &Lab, at: SocketAddr) -> Vec<Answerer> {
    let machines = lab.guests().iter().zip(*b"cd");
    machines
        .map(|(guest, letter)| Answerer::start(guest.namespace(), at, letter))
        .collect()
}

/// The machines as next hops: in IPv6 by the addresses of their links, as routing daemons have it.
fn next_hops(lab: &Lab, ways: &Ways) -> Vec<String> {
    let of_link = |shown: String| {
        let mut words = shown.split_whitespace().skip_while(|word| *word != "inet6");
        let address = words.nth(1).unwrap_or_else(|| panic!("{shown}"));
        address.split('/').next().unwrap().to_owned()
    };
    let guests = lab.guests().iter();
    if ways.swung.0.contains(':') {
        let show = ["-6", "-o", "address", "show", "dev", UPLINK, "scope", "link"];
        guests
            .map(|guest| of_link(guest.namespace().ip(&show).unwrap()))
            .collect()
    } else {
        guests.map(|guest| guest.address().to_string()).collect()
    }
}

/// Swings a route between the machines, and measures how long it takes until packets go the other way. Shown, not judged.
pub(super) fn swing(lab: &Lab, ways: &Ways) {
    let (prefix, address) = ways.swung;
    let at = SocketAddr::new(address.parse().unwrap(), PORT);
    let _answerers = answerers(lab, at);
    let node = node(lab, "node-a");
    let next_hops = next_hops(lab, ways);
    let swing_to = |place: usize| {
        let via = &next_hops[place];
        node.ip(&[
            "route", "replace", prefix, "via", via, "dev", UPLINK, "proto", "bird", "metric", "32",
        ])
        .unwrap();
    };
    swing_to(0);
    let flow = Flow::open(pod(lab, "pod-a1"), at);
    await_that("the first of the two to answer", || flow.ask() == b'c');
    let mut times = Vec::new();
    for turn in 1..=SWINGS {
        let place = turn % 2;
        let since = Instant::now();
        swing_to(place);
        while flow.ask() != b"cd"[place] {}
        times.push(since.elapsed());
    }
    times.sort();
    println!(
        "a route to {prefix} that changes is gone by after: median {:?}, {:?} at most, the command and one answer included",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    node.ip(&["route", "del", prefix]).unwrap();
}
