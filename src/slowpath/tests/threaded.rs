//! The thread between a worker, its pipeline and the tables: packets in at one wire, out at another.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use etherparse::Icmpv4Type;
use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::QueueId;
use millrace_dataplane::port::memory::{MemoryPort, Wire};
use millrace_dataplane::stats::QueueStats;
use millrace_dataplane::table::flow::{FlowOptions, Timeouts};
use millrace_dataplane::table::{AffinityTable, FlowTable, Tick};
use millrace_dataplane::verdict::Verdict;
use millrace_dataplane::worker::{Idle, Pipeline, Worker, WorkerConfig, WorkerHandle};
use millrace_pipelines::{Connections, NodePipeline};
use tokio::sync::mpsc;

use super::thread::Loop;
use super::*;

/// Frames of the worker.
const FRAMES: u32 = 64;
/// How long anything may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

struct Bench {
    worker: Worker<MemoryPort, NodePipeline>,
    handle: WorkerHandle<MemoryPort>,
    wires: BTreeMap<PortId, Wire>,
    publisher: Publisher<NodeTables>,
    events: Sender<SlowPathEvent>,
    requests: mpsc::Receiver<NeighbourRequest>,
    stats: SharedSlowPathStats,
    thread: JoinHandle<()>,
}

fn bench() -> Bench {
    let publisher = Publisher::new(tables(&[]));
    let ((punts_in, punts), (lessons_in, lessons)) = (bounded(64), bounded(64));
    let config = WorkerConfig {
        index: 0,
        core: 0,
        batch: 8,
        idle: Idle::Sleep,
        injections: 64,
    };
    let options = FlowOptions {
        ipv4: 64,
        ipv6: 64,
        ..FlowOptions::default()
    };
    let connections = Connections {
        flows: Arc::new(FlowTable::in_memory(&options).unwrap()),
        affinity: Arc::new(AffinityTable::new(16)),
        timeouts: Timeouts::default(),
        workers: 1,
    };
    let pipeline = NodePipeline::new(publisher.reader(), connections, HashKey::random(), 0);
    let (mut worker, handle) =
        Worker::new(config, Pool::on_heap(FRAMES), pipeline, punts_in, lessons_in).unwrap();
    let mut wires = BTreeMap::new();
    for port in [HOST, UPLINK, POD_A, POD_B] {
        let (io, wire) = MemoryPort::new(32);
        let holder = Holder::port(port.index() as u16);
        worker.add(port, io, holder, Arc::new(QueueStats::new(port, QueueId(0))));
        wires.insert(port, wire);
    }
    let (events, events_out) = bounded(4);
    let (requests_in, requests) = mpsc::channel(4);
    let slow_path = slow_path();
    let stats = Arc::clone(slow_path.stats());
    let body = Loop {
        slow_path,
        feeds: Feeds {
            punts,
            lessons,
            events: events_out,
        },
        workers: vec![handle.clone()],
        tables: publisher.reader(),
        neighbours: requests_in,
        steering: mpsc::channel(4).0,
    };
    let thread = thread::start(body).unwrap();
    Bench {
        worker,
        handle,
        wires,
        publisher,
        events,
        requests,
        stats,
        thread,
    }
}

/// Repeats `attempt` until it gives something.
#[track_caller]
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "nothing in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Bench {
    fn put(&self, port: PortId, packet: &Packet) {
        self.wires[&port].put(&packet.frame(switch_mac(port), peer_mac(port)));
    }

    /// Lets the worker work until a packet comes out of `port`.
    #[track_caller]
    fn take(&mut self, port: PortId) -> Vec<u8> {
        eventually(|| {
            self.worker.turn(true);
            self.wires[&port].take()
        })
    }

    #[track_caller]
    fn requested(&mut self) -> IpAddr {
        eventually(|| {
            self.worker.turn(true);
            self.requests.try_recv().ok()
        })
        .address
    }

    fn publish(&mut self, tables: NodeTables) {
        self.publisher.publish(tables);
        self.events.send(SlowPathEvent::TablesChanged).unwrap();
    }

    /// Ends the thread; checks that no packet and no frame got lost, and that nothing came out unasked.
    fn stop(mut self) -> BTreeMap<&'static str, u64> {
        self.events.send(SlowPathEvent::Stop).unwrap();
        self.thread.join().unwrap();
        while self.worker.turn(true) > 0 {}
        let counters = self.handle.stats().read();
        assert_eq!(counters.balance(), 0, "{counters:?}");
        assert_eq!(self.worker.pool_mut().census().free, FRAMES);
        for (port, wire) in &self.wires {
            assert_eq!(wire.take(), None, "port {port}");
        }
        let mut counters = self.stats.read();
        counters.retain(|_, count| *count > 0);
        counters
    }
}

#[test]
fn answers_find_their_way_back_through_the_pipeline() {
    let mut bench = bench();
    let echo = etherparse::IcmpEchoHeader { id: 7, seq: 1 };
    let ping = |source| Packet::icmp_v4(source, GATEWAY, Icmpv4Type::EchoRequest(echo), b"payload");
    let pong = Packet {
        id: 1,
        ..Packet::icmp_v4(GATEWAY, A, Icmpv4Type::EchoReply(echo), b"payload")
    };
    bench.put(POD_A, &ping(A));
    assert_eq!(bench.take(POD_A), pong.frame(peer_mac(POD_A), switch_mac(POD_A)));
    bench.put(HOST, &ping(NODE));
    let reply = bench.take(HOST);
    assert_eq!(
        (&reply[..6], reply[34]),
        (&peer_mac(HOST).0[..], 0),
        "an echo reply"
    );

    bench.put(
        POD_A,
        &Packet {
            hops: 1,
            ..Packet::udp(A, B, 20)
        },
    );
    let exceeded = bench.take(POD_A);
    assert_eq!((&exceeded[..6], exceeded[34]), (&peer_mac(POD_A).0[..], 11));
    bench.put(POD_A, &Packet::udp(A, NOBODY, 20));
    assert_eq!(bench.take(POD_A)[34..36], [3, 1]);

    let asks = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]
        .into_iter()
        .chain(peer_mac(POD_B).0)
        .chain(v4(B).octets());
    let link = MacAddr::BROADCAST.0.into_iter().chain(peer_mac(POD_B).0);
    let request: Vec<u8> = link.chain(asks).chain([0; 6]).chain(v4(A).octets()).collect();
    bench.wires[&POD_B].put(&request);
    let reply = bench.take(POD_B);
    assert_eq!(
        (reply.len(), &reply[6..12], &reply[20..22]),
        (60, &switch_mac(POD_B).0[..], &[0, 2][..])
    );
    let expected = [
        ("arp_replies", 1),
        ("echo_replies", 2),
        ("time_exceeded_sent", 1),
        ("unreachable_sent", 1),
    ];
    assert_eq!(
        bench.stop(),
        BTreeMap::from(expected)
            .into_iter()
            .chain([("punts", 5)])
            .collect()
    );
}

#[test]
fn packets_wait_for_the_control_plane_and_go_on() {
    let mut bench = bench();
    bench.put(POD_A, &Packet::udp(A, WORLD, 10));
    assert_eq!(bench.requested(), ip(ROUTER));
    bench.put(HOST, &Packet::udp(NODE, REMOTE, 10));
    assert_eq!(bench.requested(), ip(PEER));
    bench.publish(tables(&[ROUTER]));
    let forwarded = Packet {
        hops: 63,
        ..Packet::udp(A, WORLD, 10)
    };
    assert_eq!(
        bench.take(UPLINK),
        forwarded.frame(peer_mac(UPLINK), switch_mac(UPLINK))
    );
    bench.publish(tables(&[ROUTER, PEER]));
    let tunnelled = bench.take(UPLINK);
    assert_eq!(
        tunnelled[34..],
        Packet::udp(NODE, REMOTE, 10).bytes(),
        "the host's own TTL stays"
    );
    let expected = [
        ("held", 2),
        ("neighbour_requests", 2),
        ("punts", 2),
        ("released", 2),
    ];
    assert_eq!(bench.stop(), BTreeMap::from(expected));
}

#[test]
fn who_waits_in_vain_is_told_though_nothing_else_happens() {
    let mut bench = bench();
    bench.put(POD_A, &Packet::udp(A, WORLD, 10));
    assert_eq!(bench.take(POD_A)[34..36], [3, 1], "host unreachable");
    let expected = [
        ("held", 1),
        ("held_expired", 1),
        ("neighbour_requests", 1),
        ("punts", 1),
        ("unreachable_sent", 1),
    ];
    assert_eq!(bench.stop(), BTreeMap::from(expected));
}

/// A pipeline that is never asked.
struct Idler;

impl Pipeline for Idler {
    fn process(&mut self, _: PortId, _: &mut [Frame], _: &mut Vec<Verdict>, _: Tick) {}

    fn sweep(&mut self, _: Tick) -> bool {
        false
    }

    fn originate(&mut self, _: &mut Frame, _: Origin, _: Tick) -> Verdict {
        Verdict::Forward(HOST)
    }
}

/// A thread whose worker has room for `injections` packets and takes none, and whose control plane listens to nobody.
fn stuck(
    injections: usize,
) -> (
    Sender<Punt>,
    Sender<SlowPathEvent>,
    SharedSlowPathStats,
    impl Sized,
) {
    let publisher = Publisher::new(tables(&[]));
    let ((worker_punts, _), (lessons_in, lessons)) = (bounded(1), bounded(1));
    let config = WorkerConfig {
        index: 0,
        core: 0,
        batch: 8,
        idle: Idle::Sleep,
        injections,
    };
    let (worker, handle) =
        Worker::<MemoryPort, _>::new(config, Pool::on_heap(4), Idler, worker_punts, lessons_in).unwrap();
    let (punts, punts_out) = bounded(64);
    let (events, events_out): (_, Receiver<_>) = bounded(1);
    let (requests_in, requests) = mpsc::channel(1);
    let config = SlowPathConfig {
        icmp_errors_per_second: 1000,
    };
    let stats = spawn(
        config,
        Feeds {
            punts: punts_out,
            lessons,
            events: events_out,
        },
        vec![handle],
        (publisher.reader(), learned()),
        (requests_in, mpsc::channel(1).0),
    )
    .unwrap();
    (punts, events, stats, (worker, requests, publisher))
}

#[test]
fn full_queues_are_counted_and_never_waited_for() {
    let (punts, _events, stats, _stuck) = stuck(2);
    let lost = Packet::udp(A, LOST, 0);
    for worker in [0, 0, 0, 7] {
        let punt = lost.punt(POD_A, PuntReason::Unreachable, PuntDetail::Nothing);
        punts.send(Punt { worker, ..punt }).unwrap();
    }
    for (to, next_hop) in [(WORLD, ROUTER), (NEIGHBOUR, NEIGHBOUR), (REMOTE, PEER)] {
        let detail = PuntDetail::NextHop(UPLINK, ip(next_hop));
        punts
            .send(Packet::udp(A, to, 0).punt(POD_A, PuntReason::NeighbourUnresolved, detail))
            .unwrap();
    }
    let counters =
        eventually(|| Some(stats.read()).filter(|counters| counters["neighbour_requests_lost"] == 2));
    assert_eq!(counters["unreachable_sent"], 4);
    assert_eq!(
        counters["inject_failed"], 2,
        "one too many, and one for a worker that is not there"
    );
    assert_eq!((counters["held"], counters["neighbour_requests"]), (3, 3));
}

#[test]
fn the_thread_ends_with_the_workers_or_with_the_control_plane() {
    let (punts, events, stats, _stuck) = stuck(1);
    drop(punts);
    eventually(|| (Arc::strong_count(&stats) == 1).then_some(()));
    drop(events);
    let (punts, events, stats, _stuck) = stuck(1);
    drop(events);
    eventually(|| (Arc::strong_count(&stats) == 1).then_some(()));
    drop(punts);
}
