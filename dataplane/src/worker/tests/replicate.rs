//! Frames with several destinations, and lessons: every copy has an exit, and nobody waits.

use super::*;
use crate::table::{Location, NetworkId};
use crate::verdict::Audience;
use crate::wire::MacAddr;

/// Sends what comes in at a port to all others of so many, and one place beyond, which drops it. The first byte of a frame
/// may ask for nobody to be there, or for a second replication.
struct Hub {
    ports: u16,
    lessons: u8,
}

const ALONE: u8 = 1;
const AGAIN: u8 = 2;
const NETWORK: NetworkId = NetworkId::new(1);

impl Pipeline for Hub {
    fn process(&mut self, ingress: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>, _: Tick) {
        self.lessons = 3;
        verdicts.extend(frames.iter().map(|frame| {
            let alone = frame.bytes()[0] == ALONE;
            Verdict::Replicate(Cast {
                network: if alone { NetworkId::CLUSTER } else { NETWORK },
                from: Location::Port(ingress),
                audience: Audience::Everybody,
            })
        }));
    }

    fn originate(&mut self, _: &mut Frame, _: Origin, _: Tick) -> Verdict {
        Verdict::Replicate(Cast {
            network: NETWORK,
            from: Location::Switch,
            audience: Audience::Everybody,
        })
    }

    fn destination(&mut self, cast: Cast, from: usize) -> Option<usize> {
        let is_other = |place: &usize| cast.from != Location::Port(port(u16::try_from(*place).unwrap()));
        (from..=usize::from(self.ports)).find(|place| cast.network == NETWORK && is_other(place))
    }

    fn finish_copy(&mut self, frame: &mut Frame, cast: Cast, place: usize) -> Verdict {
        let place = u16::try_from(place).unwrap();
        frame.bytes_mut()[1] = u8::try_from(place).unwrap();
        match frame.bytes()[0] {
            AGAIN => Verdict::Replicate(cast),
            _ if place == self.ports => Verdict::Drop(DropReason::BridgeTooBig),
            _ => Verdict::Forward(port(place)),
        }
    }

    fn lesson(&mut self) -> Option<Lesson> {
        self.lessons = self.lessons.checked_sub(1)?;
        Some(Lesson {
            network: NETWORK,
            mac: MacAddr([2, 0, 0, 0, 0, self.lessons]),
            location: Location::Switch,
        })
    }

    fn sweep(&mut self, _: Tick) -> bool {
        false
    }
}

type HubBench = (
    Worker<MemoryPort, Hub>,
    WorkerHandle<MemoryPort>,
    Vec<Wire>,
    Receiver<Lesson>,
);

/// A hub of so many ports, of which the worker has `served` queues.
fn hub(ports: u16, served: u16, frames: u32) -> HubBench {
    let (punts, _) = bounded(1);
    let (lessons_in, lessons) = bounded(2);
    let pipeline = Hub { ports, lessons: 0 };
    let (mut worker, handle) =
        Worker::new(config(0), Pool::on_heap(frames), pipeline, punts, lessons_in).unwrap();
    let mut wires = Vec::new();
    for number in 0..served {
        let (io, wire) = MemoryPort::new(8);
        let stats = Arc::new(QueueStats::new(port(number), QueueId(0)));
        worker.add(port(number), io, Holder::port(number), stats);
        wires.push(wire);
    }
    (worker, handle, wires, lessons)
}

fn is_whole(worker: &Worker<MemoryPort, Hub>) -> bool {
    worker.pool.census().in_tokens == 0
}

#[test]
fn everybody_else_gets_a_copy_and_each_is_counted() {
    let (mut worker, handle, wires, lessons) = hub(4, 4, 64);
    wires[1].put(&[9, 0, 7]);
    worker.turn(true);
    for (number, wire) in wires.iter().enumerate() {
        let expected = (number != 1).then(|| vec![9, u8::try_from(number).unwrap(), 7]);
        assert_eq!(wire.take(), expected);
        assert_eq!(wire.take(), None);
    }
    let counters = handle.stats().read();
    // To ports 0, 2 and 3, and to a place that drops it: three of the four are copies.
    assert_eq!(
        (counters.received, counters.originated, counters.replicated),
        (1, 3, 3)
    );
    assert_eq!(counters.transmitted, 3);
    assert_eq!(counters.dropped.get("bridge_too_big"), Some(&1));
    assert_eq!(counters.balance(), 0);
    assert!(is_whole(&worker));
    // Two of three lessons had a place in the queue.
    assert_eq!((counters.lessons, counters.lessons_lost), (2, 1));
    assert_eq!(lessons.try_iter().count(), 2);
}

#[test]
fn where_nobody_else_is_a_frame_is_dropped() {
    let (mut worker, handle, wires, _lessons) = hub(2, 2, 64);
    wires[0].put(&[ALONE, 0]);
    worker.turn(true);
    let counters = handle.stats().read();
    assert_eq!(counters.dropped.get("bridge_alone"), Some(&1));
    assert_eq!((counters.replicated, counters.balance()), (0, 0));
    assert!(is_whole(&worker));
}

#[test]
fn a_copy_asks_for_no_copies() {
    let (mut worker, handle, wires, _lessons) = hub(3, 3, 64);
    wires[0].put(&[AGAIN, 0]);
    worker.turn(true);
    let counters = handle.stats().read();
    assert_eq!(counters.dropped.get("originated_stuck"), Some(&3));
    assert_eq!(counters.balance(), 0);
    assert!(is_whole(&worker));
}

#[test]
fn without_frames_for_copies_each_is_a_drop_and_the_last_one_goes() {
    let (mut worker, handle, wires, _lessons) = hub(4, 4, 64);
    wires[0].put(&[9, 0]);
    worker.turn(true);
    wires.iter().for_each(|wire| while wire.take().is_some() {});
    worker.turn(true);
    // All but one are taken: in that one the frame comes.
    let mut held: Vec<_> = std::iter::from_fn(|| worker.pool_mut().take()).collect();
    let one = held.pop().unwrap();
    worker.pool_mut().give(one);
    wires[0].put(&[9, 0]);
    let before = handle.stats().read();
    worker.turn(true);
    let after = handle.stats().read();
    assert_eq!(after.balance(), 0);
    assert_eq!(after.received - before.received, 1);
    let no_room = |counters: &crate::stats::WorkerCounters| counters.dropped.get("no_room").copied();
    assert_eq!(no_room(&after), Some(3));
    assert_eq!(no_room(&before), None);
    held.drain(..).for_each(|frame| worker.pool_mut().give(frame));
}

#[test]
fn copies_for_ports_of_another_worker_are_handed_over() {
    let (mut worker, handle, wires, _lessons) = hub(3, 1, 64);
    let (mut other, other_handle, other_wires, _other_lessons) = hub(3, 3, 64);
    for number in [1, 2] {
        worker.relay(port(number), other_handle.relay());
    }
    wires[0].put(&[9, 0]);
    worker.turn(true);
    other.turn(true);
    for number in [1, 2] {
        assert_eq!(
            other_wires[number].take(),
            Some(vec![9, u8::try_from(number).unwrap()])
        );
    }
    let counters = handle.stats().read();
    assert_eq!((counters.handed_over, counters.balance()), (2, 0));
    assert_eq!(other_handle.stats().read().balance(), 0);
}

#[test]
fn what_the_slow_path_sends_may_go_to_everybody() {
    let (mut worker, handle, wires, _lessons) = hub(2, 2, 64);
    let packet = PacketCopy::new(&[9, 0]);
    let way = Way::Walk(Origin::Switch(NetworkId::CLUSTER));
    handle.inject(Injection { way, packet }).unwrap();
    worker.turn(true);
    assert_eq!(
        (wires[0].take(), wires[1].take()),
        (Some(vec![9, 0]), Some(vec![9, 1]))
    );
    let counters = handle.stats().read();
    assert_eq!(
        (counters.originated, counters.replicated, counters.balance()),
        (3, 2, 0)
    );
}

#[test]
fn a_tap_sees_what_was_replicated_and_each_copy() {
    let (mut worker, handle, wires, _lessons) = hub(2, 2, 64);
    let (copies_in, copies) = bounded(8);
    for (tapped, direction) in [
        (
            0,
            Direction::Received(Verdict::Replicate(Cast {
                network: NETWORK,
                from: Location::Port(port(0)),
                audience: Audience::Everybody,
            })),
        ),
        (1, Direction::Sent(Some(port(0)))),
    ] {
        handle
            .tell(Command::Tap(Tap::new(port(tapped), BATCH_MAX, copies_in.clone())))
            .unwrap();
        worker.turn(true);
        wires[0].put(&[9, 0]);
        worker.turn(true);
        let seen: Vec<Captured> = copies.try_iter().collect();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].direction, direction);
    }
}
