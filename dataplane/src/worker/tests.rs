//! A worker with ports in memory and the simplest of pipelines.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};

mod limits;
mod replicate;
mod shares;

use super::*;
use crate::capture::{Captured, Direction, PacketCopy};
use crate::port::QueueId;
use crate::port::memory::{MemoryPort, Wire};
use crate::table::NetworkId;
use crate::verdict::{DropReason, PuntDetail, PuntReason};

/// Sends port 0's packets to port 1 and back; the first byte may ask for another exit.
struct Patch;

const DROP: u8 = 1;
const PUNT: u8 = 2;
const NOWHERE: u8 = 3;
const ECHO: u8 = 13;

/// A way to a slow path that is not there.
fn unheard() -> Sender<Lesson> {
    bounded(1).0
}

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

impl Pipeline for Patch {
    fn process(&mut self, ingress: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>, _: Tick) {
        verdicts.extend(frames.iter_mut().map(|frame| match frame.bytes()[0] {
            DROP => Verdict::Drop(DropReason::NotForUs),
            PUNT => {
                frame.set_network(NetworkId::new(frame.bytes()[1].into()));
                Verdict::Punt(PuntReason::Arp, PuntDetail::Nothing)
            }
            NOWHERE => Verdict::Forward(port(9)),
            _ => {
                frame.bytes_mut()[1] = 0xff;
                Verdict::Forward(port(u16::from(ingress == port(0))))
            }
        }));
    }

    /// Of port 0 alone: the third byte, if there are more.
    fn flows(&self, ingress: PortId, frames: &[Frame], flows: &mut Vec<Option<u32>>) {
        let flow = |frame: &Frame| match frame.bytes() {
            [_, _, flow, _, ..] => Some(u32::from(*flow) << 24),
            _ => None,
        };
        if ingress == port(0) {
            flows.extend(frames.iter().map(flow));
        }
    }

    fn sweep(&mut self, _: Tick) -> bool {
        false
    }

    fn originate(&mut self, frame: &mut Frame, origin: Origin, _: Tick) -> Verdict {
        if let Origin::Held { network, .. } = origin {
            frame.set_network(network);
        }
        match frame.bytes()[0] {
            PUNT => Verdict::Punt(PuntReason::Unreachable, PuntDetail::Nothing),
            ECHO => Verdict::Punt(PuntReason::EchoId, PuntDetail::Nothing),
            _ => Verdict::Forward(port(1)),
        }
    }
}

struct Bench {
    worker: Worker<MemoryPort, Patch>,
    handle: WorkerHandle<MemoryPort>,
    wires: Vec<Wire>,
    punts: Receiver<Punt>,
}

const FRAMES: u32 = 64;

fn config(index: usize) -> WorkerConfig {
    WorkerConfig {
        index,
        core: 0,
        batch: 8,
        idle: Idle::Sleep,
        injections: 4,
    }
}

fn bench(ports: u16, queues: u32, ring: usize) -> Bench {
    let (punts_in, punts) = bounded(2);
    let config = config(0);
    let (mut worker, handle) =
        Worker::new(config, Pool::on_heap(FRAMES), Patch, punts_in, unheard()).unwrap();
    let mut wires = Vec::new();
    for number in 0..ports {
        for queue in 0..queues {
            let (io, wire) = MemoryPort::new(ring);
            let stats = Arc::new(QueueStats::new(port(number), QueueId(queue)));
            worker.add(port(number), io, Holder::port(number), stats);
            wires.push(wire);
        }
    }
    Bench {
        worker,
        handle,
        wires,
        punts,
    }
}

impl Bench {
    fn settle(&mut self) {
        while self.worker.turn(true) > 0 {}
        let counters = self.handle.stats().read();
        assert_eq!(counters.balance(), 0, "{counters:?}");
        assert_eq!(
            self.worker.pool_mut().census().free,
            FRAMES,
            "every frame is back"
        );
    }
}

#[test]
fn a_worker_that_nobody_can_tell_anything_stops() {
    let Bench {
        mut worker, handle, ..
    } = bench(1, 1, 32);
    worker.turn(true);
    assert!(!worker.stopping);
    drop(handle);
    worker.turn(true);
    assert!(
        worker.stopping,
        "also with nothing to do, or it would sleep for ever"
    );
}

#[test]
fn every_exit_is_counted_and_every_frame_comes_back() {
    let mut bench = bench(2, 1, 32);
    for kind in [0, DROP, PUNT, NOWHERE, 0] {
        bench.wires[0].put(&[kind; 60]);
    }
    bench.settle();
    let counters = bench.handle.stats().read();
    assert_eq!((counters.received, counters.transmitted), (5, 2));
    assert_eq!(counters.dropped.get("not_for_us"), Some(&1));
    assert_eq!(counters.dropped.get("port_gone"), Some(&1));
    assert_eq!(counters.punted.get("arp"), Some(&1));
    assert_eq!(bench.punts.try_recv().unwrap().packet.bytes(), [PUNT; 60]);
    assert_eq!(bench.wires[1].take().unwrap()[1], 0xff);
}

#[test]
fn a_full_slow_path_is_a_drop() {
    let mut bench = bench(2, 1, 32);
    (0..5).for_each(|_| bench.wires[0].put(&[PUNT; 60]));
    bench.settle();
    let counters = bench.handle.stats().read();
    assert_eq!(counters.punted.get("arp"), Some(&2), "the queue holds two");
    assert_eq!(counters.dropped.get("slow_path_full"), Some(&3));
}

#[test]
fn a_full_transmit_ring_is_a_drop() {
    let mut bench = bench(2, 1, 0);
    bench.wires[0].put(&[0; 60]);
    bench.settle();
    assert_eq!(
        bench.handle.stats().read().dropped.get("transmit_ring_full"),
        Some(&1)
    );
}

#[test]
fn a_queue_that_stands_still_is_shown_called_on_and_goes_on() {
    let mut bench = bench(2, 1, 4);
    bench.wires[1].hold(true);
    (0..6).for_each(|_| bench.wires[0].put(&[0; 60]));
    while bench.worker.turn(true) > 0 {}
    let queue = Arc::clone(&bench.worker.slots[1].stats);
    let beat = |bench: &mut Bench| {
        std::thread::sleep(Duration::from_millis(2));
        bench.worker.beat();
        let now = queue.read();
        (
            now.tx_waiting,
            now.tx_under_way,
            now.tx_completed,
            now.stalled_ms > 0,
        )
    };
    assert_eq!(beat(&mut bench), (4, 4, 0, false), "seen for the first time");
    assert_eq!(beat(&mut bench), (4, 4, 0, true));
    assert_eq!(bench.wires[1].calls(), 1, "called on once a beat");
    bench.wires[1].hold(false);
    bench.settle();
    assert_eq!(beat(&mut bench), (0, 0, 4, false));
    assert_eq!(bench.wires[1].calls(), 1, "and no more");
    let dropped = bench.handle.stats().read().dropped;
    assert_eq!(dropped.get("transmit_ring_full"), Some(&2));
}

#[test]
fn more_packets_than_a_ring_holds_are_flushed_on_the_way() {
    let mut bench = bench(2, 1, 4);
    (0..40).for_each(|_| bench.wires[0].put(&[0; 60]));
    bench.settle();
    assert_eq!(bench.handle.stats().read().transmitted, 40);
}

#[test]
fn injected_packets_are_originated() {
    let mut bench = bench(2, 1, 32);
    let packet = || PacketCopy::new(&[7; 60]);
    bench
        .handle
        .inject(Injection {
            way: Way::Exit(port(0)),
            packet: packet(),
        })
        .unwrap();
    bench
        .handle
        .inject(Injection {
            way: Way::Walk(Origin::Switch(NetworkId::CLUSTER)),
            packet: packet(),
        })
        .unwrap();
    bench
        .handle
        .inject(Injection {
            way: Way::Exit(port(8)),
            packet: packet(),
        })
        .unwrap();
    bench.settle();
    let counters = bench.handle.stats().read();
    assert_eq!(
        (counters.originated, counters.transmitted, counters.received),
        (3, 2, 0)
    );
    assert!(bench.wires[0].take().is_some() && bench.wires[1].take().is_some());
}

#[test]
fn a_packet_that_waited_goes_to_the_slow_path_once_more_for_its_echo_id() {
    let (port, network) = (port(0), NetworkId::new(7));
    for (origin, punted) in [
        (Origin::Held { port, network }, 1),
        (Origin::Steered { port, network }, 0),
    ] {
        let mut bench = bench(2, 1, 32);
        let packet = PacketCopy::new(&[ECHO; 60]);
        let way = Way::Walk(origin);
        bench.handle.inject(Injection { way, packet }).unwrap();
        bench.settle();
        let counters = bench.handle.stats().read();
        assert_eq!(counters.originated, 1);
        assert_eq!(counters.punted.get("echo_id").copied().unwrap_or(0), punted);
        assert_eq!(
            counters.dropped.get("originated_stuck").copied().unwrap_or(0),
            1 - punted
        );
        let again = bench.punts.try_recv().ok();
        let expected = (punted == 1).then_some(network);
        assert_eq!(again.map(|punt| punt.network), expected, "{origin:?}");
    }
}

#[test]
fn a_packet_for_the_slow_path_bears_its_network_and_the_next_in_its_frame_none() {
    let mut bench = bench(2, 1, 1);
    for number in [3, 0, 7] {
        bench.wires[0].put(&[PUNT, number, 0, 0]);
        bench.settle();
        let network = bench.punts.try_recv().unwrap().network;
        assert_eq!(network, NetworkId::new(number.into()));
        let frame = bench.worker.pool_mut().take().unwrap();
        assert_eq!(frame.network(), NetworkId::CLUSTER);
        bench.worker.pool_mut().give(frame);
    }
}

#[test]
fn an_originated_packet_never_goes_round_through_the_slow_path() {
    let mut bench = bench(2, 1, 32);
    let packet = PacketCopy::new(&[PUNT; 60]);
    bench
        .handle
        .inject(Injection {
            way: Way::Walk(Origin::Switch(NetworkId::CLUSTER)),
            packet,
        })
        .unwrap();
    bench.settle();
    let counters = bench.handle.stats().read();
    assert_eq!((counters.originated, counters.punted.len()), (1, 0));
    assert_eq!(counters.dropped.get("originated_stuck"), Some(&1));
    assert!(bench.punts.try_recv().is_err());
}

#[test]
fn a_packet_leaves_by_the_queue_that_fits_the_one_it_came_by() {
    let mut bench = bench(2, 2, 32);
    bench.wires[1].put(&[0; 60]);
    bench.settle();
    assert!(bench.wires[2].take().is_none());
    assert!(bench.wires[3].take().is_some());
}

#[test]
fn a_worker_of_several_uses_all_its_queues_to_send() {
    // Worker 0 of two owns queues 0 and 2 of each port.
    let (punts, _keep) = bounded(1);
    let config = config(0);
    let (mut worker, _handle) = Worker::new(config, Pool::on_heap(FRAMES), Patch, punts, unheard()).unwrap();
    let mut wires = Vec::new();
    for (number, queue) in [(0, 0), (0, 2), (1, 0), (1, 2)] {
        let (io, wire) = MemoryPort::new(8);
        let stats = Arc::new(QueueStats::new(port(number), QueueId(queue)));
        worker.add(
            port(number),
            io,
            Holder::port(number * 2 + u16::from(queue > 0)),
            stats,
        );
        wires.push(wire);
    }
    wires[0].put(&[0; 60]);
    wires[1].put(&[0; 61]);
    while worker.turn(true) > 0 {}
    assert_eq!(wires[2].take().unwrap().len(), 60);
    assert_eq!(wires[3].take().unwrap().len(), 61);
}

#[test]
fn lanes_spread_over_all_queues_of_the_exit_port() {
    /// Puts each packet in the lane that its second byte says.
    struct Lanes;
    impl Pipeline for Lanes {
        fn process(&mut self, _: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>, _: Tick) {
            verdicts.extend(frames.iter_mut().map(|frame| {
                assert_eq!(frame.lane(), 0, "its queue's");
                let lane = u16::from(frame.bytes()[1]);
                frame.set_lane(lane);
                Verdict::Forward(port(1))
            }));
        }
        fn originate(&mut self, _: &mut Frame, _: Origin, _: Tick) -> Verdict {
            Verdict::Forward(port(1))
        }
        fn sweep(&mut self, _: Tick) -> bool {
            false
        }
    }
    let (punts, _keep) = bounded(1);
    let (mut worker, _handle) =
        Worker::new(config(0), Pool::on_heap(FRAMES), Lanes, punts, unheard()).unwrap();
    let mut wires = Vec::new();
    for (holder, (number, queue)) in (0..).zip([(0, 0), (1, 0), (1, 2), (1, 4)]) {
        let (io, wire) = MemoryPort::new(32);
        let stats = Arc::new(QueueStats::new(port(number), QueueId(queue)));
        worker.add(port(number), io, Holder::port(holder), stats);
        wires.push(wire);
    }
    for lane in [0, 1, 2, 3, 7, 200] {
        wires[0].put(&[0, lane, 9]);
    }
    while worker.turn(true) > 0 {}
    let sent: Vec<Vec<u8>> = wires[1..]
        .iter_mut()
        .map(|wire| {
            std::iter::from_fn(|| wire.take())
                .map(|packet| packet[1])
                .collect()
        })
        .collect();
    assert_eq!(sent, [vec![0, 3], vec![1, 7], vec![2, 200]], "in order in each");
}

/// Two workers, of which only the second has a queue of port 1.
fn uneven(ring: usize) -> [Bench; 2] {
    let mut first = bench(1, 1, 32);
    let mut second = bench(2, 1, ring);
    second.wires.remove(0);
    first.worker.relay(port(1), second.handle.relay());
    [first, second]
}

#[test]
fn a_worker_without_a_queue_of_the_exit_hands_over() {
    let [mut first, mut second] = uneven(32);
    for flow in 0..5 {
        first.wires[0].put(&[0, 0, flow]);
    }
    first.settle();
    second.settle();
    let sent: Vec<u8> = std::iter::from_fn(|| second.wires[0].take())
        .map(|packet| packet[2])
        .collect();
    assert_eq!(sent, [0, 1, 2, 3, 4], "whole and in order");
    let (here, there) = (first.handle.stats().read(), second.handle.stats().read());
    assert_eq!((here.received, here.transmitted, here.handed_over), (5, 0, 5));
    assert_eq!((there.received, there.transmitted, there.taken_over), (0, 5, 5));
}

/// virtio-net has such queues, for an XDP program's sake.
#[test]
fn a_queue_that_only_receives_is_no_exit() {
    let [mut first, mut second] = uneven(32);
    let (mut io, receiver) = MemoryPort::new(32);
    io.only_receive();
    let stats = Arc::new(QueueStats::new(port(1), QueueId(2)));
    first.worker.add(port(1), io, Holder::port(7), stats);
    first.wires[0].put(&[0, 0, 1]);
    first.settle();
    second.settle();
    assert!(second.wires[0].take().is_some(), "handed over");

    let (io, sender) = MemoryPort::new(32);
    let stats = Arc::new(QueueStats::new(port(1), QueueId(4)));
    first.worker.add(port(1), io, Holder::port(8), stats);
    for lane in 0..3 {
        first.wires[0].put(&[0, lane, 2]);
    }
    first.settle();
    let sent = std::iter::from_fn(|| sender.take()).count();
    assert_eq!(
        (sent, receiver.take(), first.handle.stats().read().handed_over),
        (3, None, 1)
    );
}

#[test]
fn what_is_handed_over_faster_than_it_is_taken_is_a_drop() {
    let [mut first, mut second] = uneven(32);
    for _ in 0..700 {
        first.wires[0].put(&[0; 60]);
        first.worker.turn(false);
    }
    first.settle();
    let here = first.handle.stats().read();
    assert_eq!(
        (here.handed_over, here.dropped.get("handover_full")),
        (512, Some(&188))
    );
    second.settle();
    assert_eq!(second.handle.stats().read().transmitted, 512);
}

#[test]
fn what_was_handed_over_to_a_worker_that_cannot_send_it_is_a_drop_there() {
    let [mut first, mut second] = uneven(0);
    first.wires[0].put(&[0; 60]);
    first.settle();
    second.settle();
    let dropped = second.handle.stats().read().dropped;
    assert_eq!(dropped.get("transmit_ring_full"), Some(&1));
    second.worker.remove(port(1));
    first.wires[0].put(&[0; 60]);
    first.settle();
    second.settle();
    let dropped = second.handle.stats().read().dropped;
    assert_eq!(
        dropped.get("port_gone"),
        Some(&1),
        "and it is handed on to nobody"
    );
    // Once the port is taken from the first worker too, nothing is handed over.
    first.worker.remove(port(1));
    first.wires[0].put(&[0; 60]);
    first.settle();
    assert_eq!(first.handle.stats().read().dropped.get("port_gone"), Some(&1));
}

#[test]
fn a_handover_wakes_the_worker_that_sleeps() {
    let [mut first, second] = uneven(32);
    let Bench {
        worker,
        handle,
        wires,
        ..
    } = second;
    let thread = worker.spawn(|| {}).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut slept = 0;
    while slept < 2 {
        slept = handle.stats().read().sleeps;
        assert!(Instant::now() < deadline, "an idle worker goes to sleep");
        std::thread::yield_now();
    }
    let asked = Instant::now();
    first.wires[0].put(&[0; 60]);
    first.settle();
    while wires[0].take().is_none() {
        assert!(
            asked.elapsed() < Duration::from_millis(700),
            "it sleeps for a second otherwise"
        );
        std::thread::yield_now();
    }
    handle.tell(Command::Stop).unwrap();
    thread.join().unwrap();
}

#[test]
fn frames_are_lent_before_a_socket_is_bound() {
    let mut bench = bench(1, 1, 32);
    let (holder, (lent_in, lent)) = (Holder::port(7), bounded(1));
    for (wanted, got) in [(10, 10), (usize::try_from(FRAMES).unwrap(), 54)] {
        let room = Vec::with_capacity(wanted);
        let asked = room.capacity();
        bench
            .handle
            .tell(Command::Lend {
                holder,
                room,
                lent: lent_in.clone(),
            })
            .unwrap();
        bench.worker.turn(true);
        assert_eq!(asked, wanted);
        assert_eq!(lent.try_recv().unwrap().len(), got, "no more than there are");
    }
    assert_eq!(bench.worker.reclaim(holder), 64);
    bench.settle();
}

#[test]
fn frames_of_a_queue_that_is_still_served_are_not_taken_back() {
    let mut bench = bench(1, 1, 32);
    assert_eq!(bench.worker.reclaim(Holder::port(0)), 0);
}

/// Of many ports few are looked at in a turn, but for those that give something; a packet waits for a bounded number of turns,
/// whatever port it comes by, and what it left behind is cleared up although nobody looks at all ports.
#[test]
fn each_of_many_ports_has_its_turn() {
    const PORTS: u16 = 250;
    let mut bench = bench(PORTS, 1, 32);
    // As long as nothing is known of them all have every turn.
    bench.wires[249].put(&[0; 60]);
    assert_eq!(bench.worker.turn(false), 1);
    while bench.worker.rota.busy(0).is_some() {
        bench.worker.turn(false);
    }
    // Any of them may be what ended a sleep.
    bench.wires[200].put(&[0; 60]);
    assert_eq!(bench.worker.turn(true), 1);
    bench.settle();
    assert_eq!(std::iter::from_fn(|| bench.wires[0].take()).count(), 2);
    for number in [1, 17, PORTS - 1] {
        bench.wires[usize::from(number)].put(&[0; 60]);
        // Port 0 is the exit of all of them, and busy.
        for _ in 0..PORTS.div_ceil(16) {
            bench.wires[0].put(&[0; 60]);
            bench.worker.turn(false);
        }
        let out = std::iter::from_fn(|| bench.wires[0].take()).count();
        assert_eq!(out, 1, "port {number}");
        assert_eq!(bench.worker.pool_mut().census().free, FRAMES, "port {number}");
    }
    let back = std::iter::from_fn(|| bench.wires[1].take()).count();
    assert_eq!(back, usize::from(3 * PORTS.div_ceil(16)), "port 0 had each turn");
    bench.settle();
}

#[test]
fn ports_come_and_go() {
    let mut bench = bench(2, 1, 32);
    let (queues_in, queues) = bounded(1);
    bench
        .handle
        .tell(Command::Remove {
            port: port(1),
            queues: queues_in,
        })
        .unwrap();
    bench.wires[0].put(&[0; 60]);
    bench.settle();
    assert_eq!(queues.try_recv().unwrap().len(), 1);
    assert_eq!(bench.handle.stats().read().dropped.get("port_gone"), Some(&1));
    let (frames_in, frames) = bounded(1);
    bench
        .handle
        .tell(Command::Reclaim {
            holder: Holder::port(1),
            frames: frames_in,
        })
        .unwrap();
    bench.settle();
    assert_eq!(frames.try_recv().unwrap(), 0);
}

#[test]
fn a_tap_sees_packets_as_they_came_and_as_they_went() {
    let mut bench = bench(2, 1, 32);
    let (copies_in, copies) = bounded::<Captured>(2);
    bench
        .handle
        .tell(Command::Tap(Tap::new(port(0), BATCH_MAX, copies_in)))
        .unwrap();
    bench.wires[0].put(&[0; 60]);
    bench.wires[1].put(&[0; 61]);
    bench.settle();
    let came = copies.try_recv().unwrap();
    assert_eq!(came.direction, Direction::Received(Verdict::Forward(port(1))));
    assert_eq!(came.packet.bytes(), [0; 60], "before the walk changed it");
    let went = copies.try_recv().unwrap();
    assert_eq!(went.direction, Direction::Sent(Some(port(1))));
    assert_eq!(went.packet.bytes()[1], 0xff, "as it was sent");
    (0..3).for_each(|_| bench.wires[0].put(&[DROP; 60]));
    bench.settle();
    assert_eq!(
        bench.handle.stats().read().capture_lost,
        1,
        "the capture lost a copy, the traffic nothing"
    );
    drop(copies);
    bench.wires[0].put(&[0; 60]);
    bench.settle();
    assert!(bench.worker.tap.is_none(), "nobody listens any more");
}

#[test]
fn a_sleeping_worker_wakes_when_it_is_told_something() {
    let (punts, _keep) = bounded(1);
    let config = config(0);
    let (worker, handle) =
        Worker::<MemoryPort, _>::new(config, Pool::on_heap(8), Patch, punts, unheard()).unwrap();
    let thread = worker.spawn(|| {}).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while handle.stats().read().sleeps == 0 {
        assert!(Instant::now() < deadline, "an idle worker goes to sleep");
        std::thread::yield_now();
    }
    handle.tell(Command::Stop).unwrap();
    thread.join().unwrap();
    assert_eq!(handle.tell(Command::Untap), Err(WorkerError::Gone(0)));
}

#[test]
fn a_core_that_is_not_there_is_refused_by_name() {
    let error = check_core(1, 4095).unwrap_err().to_string();
    assert!(
        error.contains("core 4095") && error.contains("may name 0"),
        "{error}"
    );
}
