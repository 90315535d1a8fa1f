//! The switch of a window: one worker, the slow path's own thread on another core, and a bridged network of five ports.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crossbeam::channel::{Sender, bounded};
use millrace::slowpath::{Feeds, Learned, SharedSlowPathStats, SlowPathConfig, SlowPathEvent, spawn};
use millrace_dataplane::clock::{self, Clock};
use millrace_dataplane::frame::{Holder, Pool};
use millrace_dataplane::port::{PortId, QueueId};
use millrace_dataplane::stats::{QueueStats, WorkerCounters};
use millrace_dataplane::table::fdb::Bounds;
use millrace_dataplane::table::{
    AffinityTable, Fdb, Guard, HashKey, Listeners, Location, Member, NetworkId, Networks, NodeTables,
    PortFacts, PortTable, Publisher, Role, Segment, SharedFdb, StormLimit,
};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::worker::{BATCH_MAX, Command, Idle, Worker, WorkerConfig, WorkerHandle};
use millrace_pipelines::{Bridging, Connections, SwitchPipeline};
use millrace_tools::pktgen::pin;
use tokio::sync::mpsc;

use super::frames::{PORT_A, PORT_B, PORT_C, PORT_D, PORT_SINK, PORTS, STATIONS, station};
use super::port::{Counts, StormPort};
use super::storm::Storm;
use crate::memory::{Family, flow_table};

pub(super) const NETWORK: NetworkId = NetworkId::new(1);
/// As many as a node has room for.
const FDB_ENTRIES: u32 = 65_536;
/// A network's bound for a port, unless its definition says otherwise.
pub(super) const STATIONS_PER_PORT: u32 = 1024;
/// Broadcasts in a second of a port, and at once, unless its definition says otherwise.
pub(super) const STORM_LIMIT: u32 = 1000;
pub(super) const STORM_BURST: u32 = 100;
/// As many as wait for a node's slow path at once, packets and lessons.
const PUNTS: usize = 4096;
const LESSONS: usize = 4096;
const INJECTIONS: usize = 1024;
const FRAMES: u32 = 16_384;
const MTU: u16 = 1500;

/// The cores of the worker and of the slow path, and how long a window is warmed up and measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) cores: [usize; 2],
    pub(super) warm_up: Duration,
    pub(super) window: Duration,
}

/// What came of a window.
#[derive(Debug)]
pub(super) struct Window {
    /// Frames that the established traffic offered, and those of them that left.
    pub(super) offered: u64,
    pub(super) delivered: u64,
    /// What left, in each second of the worker's own time.
    pub(super) per_second: f64,
    /// Frames of the storm's that the worker took in one.
    pub(super) storm_per_second: f64,
    /// What the worker, the slow path and the forwarding database had in the end.
    pub(super) worker: WorkerCounters,
    pub(super) slow_path: std::collections::BTreeMap<&'static str, u64>,
    /// Stations that were learned at ports C and D, and entries in all.
    pub(super) learned: [u32; 2],
    pub(super) entries: u32,
    /// Since the worker began, in seconds.
    pub(super) seconds: f64,
}

/// What was counted at a moment, since the worker began.
struct Reading {
    ns: u64,
    offered: u64,
    delivered: u64,
    storm: u64,
}

/// A window's switch, while it runs.
struct Stand {
    fdb: SharedFdb,
    counts: Vec<Arc<Counts>>,
    handle: WorkerHandle<StormPort>,
    worker: thread::JoinHandle<()>,
    events: Sender<SlowPathEvent>,
    slow_path: SharedSlowPathStats,
    _kept: Kept,
}

/// What must not end before the slow path does.
type Kept = (
    Publisher<NodeTables>,
    mpsc::Receiver<millrace::slowpath::NeighbourRequest>,
    mpsc::Receiver<millrace::slowpath::SteerRequest>,
);

fn port(number: u16) -> anyhow::Result<PortId> {
    PortId::new(number).context("there is no such port number")
}

fn tables() -> anyhow::Result<NodeTables> {
    let (mut members, mut ports) = (Vec::new(), Vec::new());
    for number in 0..PORTS {
        let guard = Guard::default();
        let network = NETWORK;
        members.push((port(number)?, Member::Access { network, guard }));
        let facts = PortFacts {
            role: Role::Segment,
            mac: MacAddr::ZERO,
            peer_mac: MacAddr::ZERO,
            sources: Vec::new(),
            mtu: MTU,
            finish_checksums: false,
        };
        ports.push((port(number)?, facts));
    }
    let limit = NonZeroU32::new(STORM_LIMIT).context("a limit")?;
    let segment = Segment {
        tunnel: None,
        remotes: Box::default(),
        learns_from_ports: true,
        learns_from_remotes: true,
        suppresses: true,
        snoops: false,
        storm: Some(StormLimit::new(
            limit,
            STORM_BURST,
            Clock::calibrated().cycles_per_second(),
        )),
        mtu: MTU,
    };
    Ok(NodeTables {
        networks: Arc::new(Networks::build(members, [(NETWORK, segment)], [], [])),
        ports: Arc::new(PortTable::build(ports)),
        ..NodeTables::default()
    })
}

/// A database that has learned the stations of the established traffic, and those that ordinary traffic is from and for.
fn fdb(storm: Storm) -> anyhow::Result<SharedFdb> {
    let fdb = Fdb::new(FDB_ENTRIES, HashKey::random());
    let mut writer = fdb.write();
    let bounds = Bounds {
        per_port: STATIONS_PER_PORT,
        ..Bounds::default()
    };
    writer.set_bounds(NETWORK, bounds);
    let known = [PORT_A, PORT_B, PORT_SINK].into_iter();
    for number in known.chain(storm.known()) {
        let location = Location::Port(port(number)?);
        for count in 0..STATIONS {
            writer.learn(NETWORK, station(number, count), location, clock::now());
        }
    }
    drop(writer);
    Ok(Arc::new(fdb))
}

impl Stand {
    /// Starts all of it.
    fn start(storm: Storm, alone: f64, [core, slow_core]: [usize; 2]) -> anyhow::Result<Self> {
        let publisher = Publisher::new(tables()?);
        let (fdb, listeners) = (fdb(storm)?, Publisher::new(Listeners::default()));
        let connections = Connections {
            flows: Arc::new(flow_table(Family::V4, 1)?),
            affinity: Arc::new(AffinityTable::new(1)),
            timeouts: millrace_dataplane::table::flow::Timeouts::default(),
            workers: 1,
        };
        let bridging = Bridging {
            fdb: Arc::clone(&fdb),
            storms: Arc::default(),
            listeners: listeners.reader(),
        };
        let pipeline = SwitchPipeline::new(publisher.reader(), connections, bridging, HashKey::random(), 0);
        let config = WorkerConfig {
            index: 0,
            core,
            batch: BATCH_MAX,
            idle: Idle::Poll,
            injections: INJECTIONS,
        };
        let ((punts_in, punts), (lessons_in, lessons)) = (bounded(PUNTS), bounded(LESSONS));
        let (mut worker, handle) =
            Worker::new(config, Pool::on_heap(FRAMES), pipeline, punts_in, lessons_in)?;
        let mut counts = Vec::new();
        for number in 0..PORTS {
            let counted = Arc::new(Counts::default());
            let (frames, offer) = storm.traffic(number, alone);
            let io = StormPort::new(frames, offer, Arc::clone(&counted));
            let id = port(number)?;
            let stats = Arc::new(QueueStats::new(id, QueueId(0)));
            worker.add(id, io, Holder::port(number), stats);
            counts.push(counted);
        }
        let (events, heard) = bounded(4);
        let (neighbours, neighbours_out) = mpsc::channel(1);
        let (steering, steering_out) = mpsc::channel(1);
        let feeds = Feeds {
            punts,
            lessons,
            events: heard,
        };
        let learned = Learned {
            fdb: Arc::clone(&fdb),
            listeners,
        };
        let config = SlowPathConfig {
            icmp_errors_per_second: 1,
        };
        let (workers, tables) = (vec![handle.clone()], publisher.reader());
        // A thread has its core from whoever starts it.
        let start = move || {
            pin(Some(slow_core));
            spawn(config, feeds, workers, (tables, learned), (neighbours, steering))
        };
        let started = thread::scope(|scope| scope.spawn(start).join());
        let slow_path = started.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
        events.send(SlowPathEvent::TablesChanged)?;
        Ok(Self {
            fdb,
            counts,
            handle,
            worker: worker.spawn(|| {})?,
            events,
            slow_path,
            _kept: (publisher, neighbours_out, steering_out),
        })
    }

    fn count(&self, port: u16, of: impl Fn(&Counts) -> u64) -> u64 {
        self.counts.get(usize::from(port)).map_or(0, |counts| of(counts))
    }
}

/// Measures one window: established traffic beside a storm or nothing, where the worker forwards so many frames a second alone.
///
/// # Errors
/// When the switch cannot be started, or no packet leaves.
pub(super) fn window(storm: Storm, alone: f64, setting: &Setting) -> anyhow::Result<Window> {
    let began = Instant::now();
    let stand = Stand::start(storm, alone, setting.cores)?;
    let read = || {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let taken = [PORT_C, PORT_D].map(|number| stand.count(number, |counts| load(&counts.taken)));
        Reading {
            ns: stand.count(PORT_A, |counts| load(&counts.ns)),
            offered: stand.count(PORT_A, |counts| load(&counts.offered)),
            delivered: stand.count(PORT_B, |counts| load(&counts.sent)),
            storm: taken.iter().sum(),
        }
    };
    thread::sleep(setting.warm_up);
    let before = read();
    thread::sleep(setting.window);
    let after = read();
    let seconds = began.elapsed().as_secs_f64();
    stand.handle.tell(Command::Stop)?;
    let ended = stand.worker.join();
    ended.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
    // It has ended by itself if it knows already that there is no worker any more.
    let _ = stand.events.send(SlowPathEvent::Stop);
    let writer = stand.fdb.write();
    let mut learned = [0; 2];
    for (learned, number) in learned.iter_mut().zip([PORT_C, PORT_D]) {
        *learned = writer.learned_at(NETWORK, Location::Port(port(number)?));
    }
    let entries = writer.entries();
    drop(writer);
    // INVARIANT: all are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let by_second = |count: u64| count as f64 * 1e9 / (after.ns - before.ns) as f64;
    let delivered = after.delivered - before.delivered;
    ensure!(delivered > 0, "no packet left");
    Ok(Window {
        offered: after.offered - before.offered,
        delivered,
        per_second: by_second(delivered),
        storm_per_second: by_second(after.storm - before.storm),
        worker: stand.handle.stats().read(),
        slow_path: stand.slow_path.read(),
        learned,
        entries,
        seconds,
    })
}
