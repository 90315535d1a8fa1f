//! Ports with limits: what is over is dropped and counted once, and others are not touched.

use std::num::NonZeroU64;

use super::*;
use crate::clock;
use crate::table::{Bucket, NetworkId, Rate};

/// What passes of packets of [`LENGTH`] bytes: the least burst, 16 KiB, and one on credit. A bit a second fills no bucket
/// while a test runs.
const PASS: usize = 17;
const LENGTH: usize = 1000;

fn bucket() -> Option<Arc<Bucket>> {
    let rate = Rate::new(NonZeroU64::MIN, None);
    let cycles_per_second = Clock::calibrated().cycles_per_second();
    Some(Arc::new(Bucket::new(rate, cycles_per_second, clock::cycles())))
}

fn ingress() -> Limits {
    Limits {
        ingress: bucket(),
        egress: None,
    }
}

fn egress() -> Limits {
    Limits {
        ingress: None,
        egress: bucket(),
    }
}

/// Puts packets on a wire, each with its number and flow.
fn put(wire: &Wire, count: u8) {
    for number in 0..count {
        let mut packet = [0; LENGTH];
        (packet[2], packet[3]) = (number, number);
        wire.put(&packet);
    }
}

/// The numbers of what came out.
fn numbers(wire: &Wire) -> Vec<u8> {
    std::iter::from_fn(|| wire.take())
        .map(|packet| packet[3])
        .collect()
}

fn dropped(bench: &Bench) -> (u64, u64) {
    let dropped = bench.handle.stats().read().dropped;
    let count = |name| dropped.get(name).copied().unwrap_or(0);
    (count("bandwidth_egress"), count("bandwidth_ingress"))
}

#[test]
fn what_a_port_sends_over_its_limit_is_dropped_before_it_walks() {
    let mut bench = bench(2, 1, 32);
    bench.worker.limit(port(0), &egress());
    put(&bench.wires[0], 30);
    put(&bench.wires[1], 30);
    bench.settle();
    let passed: Vec<u8> = (0..).take(PASS).collect();
    assert_eq!(numbers(&bench.wires[1]), passed, "the first ones, in order");
    assert_eq!(numbers(&bench.wires[0]).len(), 30, "the other port has none");
    assert_eq!(dropped(&bench), (13, 0));
    let counters = bench.handle.stats().read();
    assert_eq!((counters.received, counters.transmitted), (60, 47));
    let queue = bench.worker.slots[0].stats.read();
    assert_eq!(queue.dropped.get("bandwidth_egress"), Some(&13));
    assert_eq!(queue.rx_packets, 30, "received it was");
}

#[test]
fn what_a_port_is_sent_over_its_limit_is_dropped_at_its_exit() {
    let mut bench = bench(2, 1, 32);
    bench.worker.limit(port(1), &ingress());
    put(&bench.wires[0], 30);
    put(&bench.wires[1], 30);
    bench.settle();
    let passed: Vec<u8> = (0..).take(PASS).collect();
    assert_eq!(numbers(&bench.wires[1]), passed);
    assert_eq!(numbers(&bench.wires[0]).len(), 30, "what it sends is not limited");
    assert_eq!(dropped(&bench), (0, 13));
    let queue = bench.worker.slots[0].stats.read();
    assert_eq!(
        queue.dropped.get("bandwidth_ingress"),
        Some(&13),
        "counted where it came in"
    );
}

#[test]
fn limits_come_change_and_go() {
    let mut bench = bench(2, 1, 64);
    let limits = |bench: &mut Bench, limits: Limits| {
        let told = Command::Limit {
            port: port(1),
            limits,
        };
        bench.handle.tell(told).unwrap();
        bench.worker.turn(true);
    };
    let passes = |bench: &mut Bench, count| {
        put(&bench.wires[0], count);
        bench.settle();
        numbers(&bench.wires[1]).len()
    };
    limits(&mut bench, ingress());
    assert_eq!(passes(&mut bench, 30), PASS);
    assert_eq!(passes(&mut bench, 3), 0);
    limits(&mut bench, ingress());
    assert_eq!(passes(&mut bench, 30), PASS, "another bucket");
    limits(&mut bench, Limits::default());
    assert_eq!(passes(&mut bench, 30), 30);
    limits(&mut bench, ingress());
    bench.worker.remove(port(1));
    let (io, wire) = MemoryPort::new(64);
    let stats = Arc::new(QueueStats::new(port(1), QueueId(0)));
    bench.worker.add(port(1), io, Holder::port(1), stats);
    bench.wires[1] = wire;
    assert_eq!(
        passes(&mut bench, 30),
        30,
        "the next port of that number has none"
    );
}

#[test]
fn what_the_switch_itself_says_is_not_held_back() {
    let mut bench = bench(2, 1, 32);
    bench.worker.limit(port(1), &ingress());
    put(&bench.wires[0], 30);
    bench.settle();
    assert_eq!(numbers(&bench.wires[1]).len(), PASS);
    for way in [Way::Exit(port(1)), Way::Walk(Origin::Switch(NetworkId::CLUSTER))] {
        let packet = PacketCopy::new(&[7; LENGTH]);
        bench.handle.inject(Injection { way, packet }).unwrap();
    }
    bench.settle();
    assert_eq!(numbers(&bench.wires[1]).len(), 2);
}

#[test]
fn a_capture_sees_what_is_dropped_and_what_passes() {
    let mut bench = bench(2, 1, 32);
    let (copies_in, copies) = bounded::<Captured>(100);
    bench
        .handle
        .tell(Command::Tap(Tap::new(port(0), BATCH_MAX, copies_in)))
        .unwrap();
    bench.worker.limit(port(0), &egress());
    put(&bench.wires[0], 30);
    bench.settle();
    let mut seen: Vec<(u8, Direction)> = copies
        .try_iter()
        .map(|copy| (copy.packet.bytes()[3], copy.direction))
        .collect();
    seen.sort_by_key(|(number, _)| *number);
    let over = Verdict::Drop(DropReason::BandwidthEgress);
    let wanted: Vec<(u8, Direction)> = (0..30)
        .map(|number| {
            let passes = usize::from(number) < PASS;
            let verdict = if passes { Verdict::Forward(port(1)) } else { over };
            (number, Direction::Received(verdict))
        })
        .collect();
    assert_eq!(seen, wanted);
}

/// Two queues of one worker's: the second's packets keep their lane, limit or none.
#[test]
fn a_limited_port_keeps_its_lanes() {
    for limits in [Limits::default(), egress()] {
        let mut bench = bench(2, 2, 32);
        bench.worker.limit(port(0), &limits);
        bench.wires[1].put(&[0; 60]);
        bench.settle();
        assert!(bench.wires[2].take().is_none());
        assert!(bench.wires[3].take().is_some());
    }
}

#[test]
fn workers_share_a_ports_bucket() {
    let limits = Limits {
        ingress: bucket(),
        egress: bucket(),
    };
    let mut benches = [bench(2, 1, 32), bench(2, 1, 32)];
    for bench in &mut benches {
        bench.worker.limit(port(0), &limits);
        put(&bench.wires[0], 12);
        put(&bench.wires[1], 12);
        bench.settle();
    }
    for (place, wire) in [(1, "sends"), (0, "is sent")] {
        let passed: Vec<usize> = benches
            .iter()
            .map(|bench| numbers(&bench.wires[place]).len())
            .collect();
        assert_eq!(passed, [12, PASS - 12], "what it {wire}");
    }
    assert_eq!(dropped(&benches[1]), (7, 7));
}

#[test]
fn what_is_handed_over_to_a_limited_port_is_charged_once() {
    let [mut first, mut second] = uneven(32);
    let limits = ingress();
    for bench in [&mut first, &mut second] {
        bench.worker.limit(port(1), &limits);
    }
    put(&first.wires[0], 30);
    first.settle();
    second.settle();
    assert_eq!(numbers(&second.wires[0]).len(), PASS);
    assert_eq!((dropped(&first), dropped(&second)), ((0, 0), (0, 13)));
    let (here, there) = (first.handle.stats().read(), second.handle.stats().read());
    assert_eq!((here.received, here.handed_over, there.taken_over), (30, 30, 30));
}

/// What a port sends is charged where it came in, and not again by the worker that walks it.
#[test]
fn what_is_given_to_another_worker_is_charged_once() {
    let [mut first, mut second] = [bench(2, 1, 64), bench(2, 1, 64)];
    let handles = [first.handle.clone(), second.handle.clone()];
    let mut shares = spread(&handles, SpreadMode::Always, crate::frame::MAX_PACKET_LEN).into_iter();
    first.worker.spread = shares.next().unwrap();
    second.worker.spread = shares.next().unwrap();
    let limits = egress();
    for bench in [&mut first, &mut second] {
        bench.worker.limit(port(0), &limits);
    }
    put(&first.wires[0], 30);
    while first.worker.turn(true) + second.worker.turn(true) > 0 {}
    let passed = numbers(&first.wires[1]).len() + numbers(&second.wires[1]).len();
    assert_eq!(passed, PASS);
    assert_eq!((dropped(&first), dropped(&second)), ((13, 0), (0, 0)));
    let given = first.handle.stats().read().spread_out;
    assert!((1..PASS as u64).contains(&given), "{given}");
}
