//! Two workers that share what comes in by one queue of the first.

use super::*;
use crate::worker::spread::Look;

/// Far more than is under way at once.
const RING: usize = 4096;

/// Port 0 has one queue, the first worker's; port 1 has one of each, on one wire.
struct Two {
    first: Bench,
    second: Bench,
    output: Wire,
    /// What is said to have come in and got through, and the time.
    passed: u64,
    now: u64,
    /// What gets through from one look to the next: alone, and while something is shared.
    rates: [u64; 2],
}

/// From one look to the next, in nanoseconds.
const LOOK_NS: u64 = 20_000_000;
/// Looks until a worker that stays drowned has given something away for the first time.
const UNTIL_GIVEN: usize = 7;

fn two(mode: SpreadMode) -> Two {
    let (mut first, mut second) = (bench(1, 1, 32), bench(0, 1, 32));
    let (io, output) = MemoryPort::new(RING);
    let other = MemoryPort::on(&output, RING);
    for (bench, io, queue) in [(&mut first, io, 0), (&mut second, other, 1)] {
        let stats = Arc::new(QueueStats::new(port(1), QueueId(queue)));
        bench.worker.add(port(1), io, Holder::port(1), stats);
    }
    let handles = [first.handle.clone(), second.handle.clone()];
    let mut all = spread(&handles, mode, crate::frame::MAX_PACKET_LEN).into_iter();
    first.worker.spread = all.next().unwrap();
    second.worker.spread = all.next().unwrap();
    Two {
        first,
        second,
        output,
        passed: 0,
        now: 0,
        rates: [1000, 2000],
    }
}

/// A packet of a flow.
fn packet(kind: u8, flow: u8, number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mut packet = vec![kind, 0, flow, high, low];
    // Lengths of all kinds, not of whole words either.
    packet.resize(60 + usize::from(flow), flow);
    packet
}

impl Two {
    fn put(&self, kind: u8, flow: u8, number: u16) {
        self.first.wires[0].put(&packet(kind, flow, number));
    }

    /// The loads as they were seen last: the first worker's, then the other's.
    fn look(&mut self, load: u64, other: u64) {
        self.second.handle.stats().recent_load.set(other);
        let worker = &mut self.first.worker;
        self.passed += self.rates[usize::from(worker.spread.is_sharing())];
        self.now += LOOK_NS;
        worker.spread.look(&Look {
            load,
            all_left: worker.stirred.is_empty(),
            passed: self.passed,
            now: self.now,
            patience: 0,
        });
    }

    fn settle(&mut self) {
        self.first.settle();
        self.second.settle();
    }

    /// What was sent, as (flow, number): each packet whole.
    fn sent(&self) -> Vec<(u8, u16)> {
        let packets = std::iter::from_fn(|| self.output.take());
        let read = |bytes: Vec<u8>| {
            let (flow, number) = (bytes[2], u16::from_be_bytes([bytes[3], bytes[4]]));
            let mut whole = packet(bytes[0], flow, number);
            whole[1] = 0xff;
            assert_eq!(bytes, whole);
            (flow, number)
        };
        packets.map(read).collect()
    }

    fn read(&self) -> [crate::stats::WorkerCounters; 2] {
        [&self.first, &self.second].map(|bench| bench.handle.stats().read())
    }
}

#[test]
fn each_has_its_share_of_the_flows_and_every_flow_its_order() {
    let mut two = two(SpreadMode::Always);
    for number in 0..20 {
        for flow in 0..16 {
            two.put(0, flow, number);
        }
        two.settle();
    }
    let sent = two.sent();
    assert_eq!(sent.len(), 320);
    for flow in 0..16 {
        let numbers = sent
            .iter()
            .filter(|(of, _)| *of == flow)
            .map(|(_, number)| *number);
        assert!(numbers.eq(0..20), "flow {flow}");
    }
    let [here, there] = two.read();
    assert_eq!(
        (here.received, here.transmitted, here.spread_out, here.handed_over),
        (320, 160, 160, 160)
    );
    assert_eq!(
        (
            there.received,
            there.transmitted,
            there.spread_in,
            there.taken_over
        ),
        (0, 160, 160, 160)
    );
}

#[test]
fn what_has_no_flow_and_what_comes_in_elsewhere_stays() {
    let mut two = two(SpreadMode::Always);
    // Too short for this pipeline to find a flow.
    two.first.wires[0].put(&[0, 0, 1]);
    let (io, input) = MemoryPort::new(32);
    let stats = Arc::new(QueueStats::new(port(2), QueueId(0)));
    two.first.worker.add(port(2), io, Holder::port(2), stats);
    input.put(&packet(0, 1, 0));
    two.settle();
    let [here, _] = two.read();
    assert_eq!((here.received, here.handed_over), (2, 0));
}

#[test]
fn the_other_exits_of_what_was_given_are_taken_and_counted_by_whoever_got_it() {
    let mut two = two(SpreadMode::Always);
    for kind in [DROP, PUNT, NOWHERE] {
        two.put(kind, 1, 0);
    }
    two.settle();
    let [here, there] = two.read();
    assert_eq!((here.received, here.spread_out, here.dropped.len()), (3, 3, 0));
    assert_eq!(there.dropped.get("not_for_us"), Some(&1));
    assert_eq!(there.dropped.get("port_gone"), Some(&1));
    assert_eq!(there.punted.values().sum::<u64>(), 1);
    let punt = two.second.punts.try_recv().unwrap();
    assert_eq!(
        (punt.ingress, punt.packet.bytes()),
        (port(0), &packet(PUNT, 1, 0)[..])
    );
}

#[test]
fn what_a_helper_does_not_take_is_a_drop_and_keeps_no_frame() {
    let mut two = two(SpreadMode::Always);
    for number in 0..2100 {
        two.put(0, 1, number);
        two.first.worker.turn(false);
    }
    two.first.settle();
    let [here, _] = two.read();
    assert_eq!(
        (here.spread_out, here.dropped.get("spread_full")),
        (2048, Some(&52))
    );
    two.settle();
    let sent = two.sent();
    assert!(sent.iter().map(|(_, number)| *number).eq(0..2048), "{sent:?}");
}

#[test]
fn a_helper_without_frames_drops_by_name() {
    let mut two = two(SpreadMode::Always);
    let taken: Vec<_> = std::iter::from_fn(|| two.second.worker.pool_mut().take()).collect();
    two.put(0, 1, 0);
    two.first.settle();
    two.second.worker.turn(true);
    let [_, there] = two.read();
    assert_eq!((there.spread_in, there.dropped.get("no_room")), (1, Some(&1)));
    taken
        .into_iter()
        .for_each(|frame| two.second.worker.pool_mut().give(frame));
    two.settle();
}

#[test]
fn what_is_given_wakes_the_helper_that_sleeps() {
    let two = two(SpreadMode::Always);
    let Two {
        mut first,
        second,
        output,
        ..
    } = two;
    let handle = second.handle.clone();
    let thread = second.worker.spawn(|| {}).unwrap();
    while handle.stats().read().sleeps < 2 {
        std::thread::yield_now();
    }
    let asked = Instant::now();
    first.wires[0].put(&packet(0, 1, 0));
    first.settle();
    while output.take().is_none() {
        assert!(
            asked.elapsed() < Duration::from_millis(700),
            "it sleeps for a second otherwise"
        );
        std::thread::yield_now();
    }
    handle.tell(Command::Stop).unwrap();
    thread.join().unwrap();
}

/// How many of the 64 flows the helper has, each with a packet, after this was seen.
fn away_after(looks: &[(u64, u64)], two: &mut Two) -> u64 {
    for (load, other) in looks {
        for flow in 0..64 {
            two.put(0, flow, 0);
        }
        two.settle();
        two.look(*load, *other);
    }
    let before = two.read()[0].spread_out;
    for flow in 0..64 {
        two.put(0, flow, 0);
    }
    two.settle();
    two.read()[0].spread_out - before
}

/// So many looks at a drowned worker beside one that does nothing.
fn drowned(looks: usize) -> Vec<(u64, u64)> {
    vec![(1000, 0); looks]
}

#[test]
fn half_of_the_difference_goes_to_a_helper_and_comes_back_when_it_can() {
    let mut two = two(SpreadMode::Auto);
    assert_eq!(away_after(&[(899, 0); 20], &mut two), 0, "not drowned");
    assert_eq!(away_after(&[(1000, 900); 20], &mut two), 0, "nor is anybody free");
    assert_eq!(
        away_after(&drowned(UNTIL_GIVEN - 1), &mut two),
        0,
        "it is only counted, and looked whose the packets are"
    );
    assert_eq!(away_after(&[(1000, 0)], &mut two), 32);
    assert_eq!(away_after(&[(1000, 500)], &mut two), 40);
    assert_eq!(away_after(&[(700, 700); 20], &mut two), 40, "all is well");
    assert_eq!(away_after(&[(599, 700)], &mut two), 24, "a piece at a time");
    assert_eq!(away_after(&[(599, 700), (599, 700)], &mut two), 0);
}

#[test]
fn a_helper_that_is_drowned_itself_is_relieved() {
    let mut two = two(SpreadMode::Auto);
    assert_eq!(away_after(&drowned(UNTIL_GIVEN), &mut two), 32);
    assert_eq!(away_after(&[(700, 1000)], &mut two), 16);
    assert_eq!(
        away_after(&[(950, 1000)], &mut two),
        16,
        "not by one that is no better off"
    );
}

#[test]
fn what_does_not_pay_comes_home_and_goes_again_once_it_may() {
    let mut two = two(SpreadMode::Auto);
    two.rates = [1000, 700];
    assert_eq!(away_after(&drowned(UNTIL_GIVEN), &mut two), 32);
    assert_eq!(away_after(&drowned(10), &mut two), 0, "less gets through");
    assert_eq!(away_after(&drowned(20), &mut two), 0, "left alone");
    two.rates = [1000, 1500];
    assert!(
        away_after(&drowned(60), &mut two) >= 32,
        "tried again, and it pays"
    );
}

#[test]
fn drops_for_want_of_room_do_not_count_as_got_through() {
    let mut two = two(SpreadMode::Auto);
    two.rates = [1000, 1500];
    assert_eq!(away_after(&drowned(UNTIL_GIVEN), &mut two), 32);
    for _ in 0..20 {
        // Of what comes in, the other has frames for little.
        for _ in 0..600 {
            two.second.handle.stats().dropped(DropReason::NoRoom, None);
        }
        two.look(1000, 0);
    }
    assert!(!two.first.worker.spread.is_sharing());
}

#[test]
fn while_anything_is_under_way_not_everything_comes_home() {
    let mut two = two(SpreadMode::Auto);
    two.rates = [1000, 700];
    assert_eq!(away_after(&drowned(UNTIL_GIVEN), &mut two), 32);
    for flow in 0..64 {
        two.put(0, flow, 0);
    }
    two.first.settle();
    for (load, other) in drowned(20) {
        two.look(load, other);
    }
    assert!(
        two.first.worker.spread.is_sharing(),
        "the helper did not get to run"
    );
    two.settle();
    two.look(1000, 0);
    assert!(!two.first.worker.spread.is_sharing());
}

#[test]
fn a_flow_that_is_too_much_for_anybody_stays_and_the_others_leave_it() {
    let mut two = two(SpreadMode::Auto);
    for _ in 0..UNTIL_GIVEN {
        for number in 0..100 {
            two.put(0, 7, number);
            two.settle();
        }
        for flow in 0..30 {
            two.put(0, 100 + flow, 0);
        }
        two.settle();
        two.look(1000, 0);
    }
    let before = two.read()[0].spread_out;
    two.put(0, 7, 0);
    two.settle();
    assert_eq!(two.read()[0].spread_out, before, "the large one");
    for flow in 0..30 {
        two.put(0, 100 + flow, 0);
    }
    two.settle();
    assert_eq!(two.read()[0].spread_out, before + 30);
}

/// Whatever the loads, whoever gets to run, and whether the wire takes packets or not: no packet overtakes an earlier one of
/// its flow, and each is sent or counted as dropped.
#[test]
fn no_packet_overtakes_another_of_its_flow_however_flows_move() {
    let (mut moves, mut turns) = (0, 0);
    for seed in 1..=60_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut two = two(SpreadMode::Auto);
        let mut next = [0_u16; 24];
        let (mut sent, mut was_sharing) = (Vec::new(), false);
        for _ in 0..600 {
            match random(8) {
                0..=2 => {
                    for _ in 0..random(8) {
                        let flow = u8::try_from(random(24)).unwrap();
                        two.put(0, flow, next[usize::from(flow)]);
                        next[usize::from(flow)] += 1;
                    }
                }
                3 | 4 => drop(two.first.worker.turn(random(2) == 0)),
                5 => drop(two.second.worker.turn(random(2) == 0)),
                // Now and then long enough for it to be tried, to pay or not, and to be given up.
                6 => {
                    if random(4) == 0 {
                        two.rates = [1000, 800 + random(1200)];
                    }
                    let (load, looks) = match random(6) {
                        0..=3 => (1000, 1 + random(12)),
                        4 => (950, 1 + random(12)),
                        _ => (500, 1),
                    };
                    for _ in 0..looks {
                        let other = random(700);
                        two.look(load, other);
                    }
                    two.now += LOOK_NS * random(60);
                }
                _ => two.output.hold(random(3) == 0),
            }
            let is_sharing = two.first.worker.spread.is_sharing();
            turns += u32::from(std::mem::replace(&mut was_sharing, is_sharing) != is_sharing);
            sent.extend(two.sent());
        }
        two.output.hold(false);
        two.settle();
        sent.extend(two.sent());
        let mut last = [None; 24];
        for (flow, number) in &sent {
            let last = &mut last[usize::from(*flow)];
            assert!(
                last.is_none_or(|last| last < *number),
                "seed {seed}: flow {flow}: {number} after {last:?}"
            );
            *last = Some(*number);
        }
        let [here, there] = two.read();
        let dropped: u64 = here.dropped.values().chain(there.dropped.values()).sum();
        assert_eq!(sent.len() as u64 + dropped, here.received, "seed {seed}");
        moves += there.spread_in;
    }
    assert!(moves > 1000, "{moves} packets went another way: too few to tell");
    assert!(
        turns > 200,
        "sharing began or ended {turns} times: too few to tell"
    );
}
