//! Two workers, and one queue whose packets never end: all tunnel packets of one peer, as a NIC hands them over that cannot
//! tell them apart.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crossbeam::channel::bounded;
use millrace_dataplane::frame::{Frame, Holder, MAX_PACKET_LEN, Pool};
use millrace_dataplane::port::{Port, PortId, QueueId, Settled};
use millrace_dataplane::stats::{QueueStats, WorkerCounters};
use millrace_dataplane::table::{AffinityTable, HashKey, Publisher};
use millrace_dataplane::worker::{
    BATCH_MAX, Command, Idle, SpreadMode, Worker, WorkerConfig, WorkerHandle, spread,
};
use millrace_pipelines::{Connections, NodePipeline};

use super::head::renew;
use super::scene::{Size, flow_table, for_ever, tables};
use super::walk::Walk;

/// The walk of every packet: the NIC of the node cannot tell these apart.
const WALK: Walk = Walk::IpipPull;
/// Frames of a worker: as many as a node file gives it.
const FRAMES: u32 = 16_384;
/// Until every flow is known and the load is shared, if it is.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long is measured.
const MEASURED: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Packets that left, each second.
    pub(crate) per_second: f64,
    /// The workers' loads at the end, in thousandths.
    pub(crate) loads: Vec<u64>,
    /// How many of the packets that left were walked by the second worker.
    pub(crate) shared: f64,
}

/// A queue that always has packets, of all flows in turn, or never any; what is sent by it is forgotten.
struct Endless {
    packets: Arc<[Vec<u8>]>,
    next: usize,
}

impl Port for Endless {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let mut count = 0;
        while count < max {
            let Some(packet) = self.packets.get(self.next) else {
                self.next = 0;
                if self.packets.is_empty() {
                    break;
                }
                continue;
            };
            let Some(frame) = pool.take_with(packet) else {
                break;
            };
            into.push(frame);
            self.next += 1;
            count += 1;
        }
        count
    }

    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        pool.give(frame);
        Ok(())
    }

    fn flush(&mut self) {}

    fn settle(&mut self, _pool: &mut Pool) -> Settled {
        Settled::default()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn last_error(&mut self) -> Option<i32> {
        None
    }
}

/// Has two workers on these cores do with so many flows what they can, the first one having the only queue that receives.
///
/// # Errors
/// When they cannot be started, or lose packets otherwise than by being too slow.
pub(crate) fn drown(
    mode: SpreadMode,
    flows: u32,
    frame_len: usize,
    cores: [usize; 2],
) -> anyhow::Result<Outcome> {
    let size = Size {
        workers: cores.len(),
        ..WALK.size()
    };
    let publisher = Publisher::new(tables(WALK, &size)?);
    let connections = Connections {
        flows: Arc::new(flow_table(WALK.family(), flows)?),
        affinity: Arc::new(AffinityTable::new(1)),
        timeouts: for_ever(),
        workers: cores.len(),
    };
    let packets = packets(flows, frame_len, &size)?;
    let key = HashKey::random();
    let (punts_in, _punts) = bounded(1);
    let (mut handles, mut threads) = (Vec::new(), Vec::new());
    for (index, core) in cores.into_iter().enumerate() {
        let config = WorkerConfig {
            index,
            core,
            batch: BATCH_MAX,
            idle: Idle::Sleep,
            injections: 1,
        };
        let pipeline = NodePipeline::new(publisher.reader(), connections.clone(), key, index);
        let (mut worker, handle) = Worker::new(
            config,
            Pool::on_heap(FRAMES),
            pipeline,
            punts_in.clone(),
            bounded(1).0,
        )?;
        for number in [WALK.ingress(), WALK.egress()] {
            let port = PortId::new(number).context("there is no such port number")?;
            let receives = index == 0 && number == WALK.ingress();
            let packets = if receives {
                Arc::clone(&packets)
            } else {
                Arc::from([])
            };
            let stats = Arc::new(QueueStats::new(port, QueueId(u32::try_from(index)?)));
            worker.add(port, Endless { packets, next: 0 }, Holder::port(number), stats);
        }
        threads.push(worker.spawn(|| {})?);
        handles.push(handle);
    }
    for (handle, share) in handles.iter().zip(spread(&handles, mode, MAX_PACKET_LEN)) {
        handle.tell(Command::Spread(share))?;
    }
    let outcome = watch(&handles);
    for handle in &handles {
        handle.tell(Command::Stop)?;
    }
    for thread in threads {
        let ended = thread.join();
        ended.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
    }
    outcome
}

/// A packet of each flow.
fn packets(flows: u32, frame_len: usize, size: &Size) -> anyhow::Result<Arc<[Vec<u8>]>> {
    let templates = WALK.templates(frame_len, flows, size.called)?;
    let template = templates.first().context("a walk has packets")?;
    let mut pool = Pool::on_heap(1);
    let mut frame = pool.take().context("a pool has a frame")?;
    let made: anyhow::Result<Vec<_>> = (0..flows)
        .map(|flow| {
            ensure!(template.bytes().len() <= MAX_PACKET_LEN, "too long for a frame");
            frame.fill(template.bytes())?;
            renew(&mut frame, template, flow, flow)?;
            Ok(frame.bytes().to_vec())
        })
        .collect();
    pool.give(frame);
    Ok(made?.into())
}

fn watch(handles: &[WorkerHandle<Endless>]) -> anyhow::Result<Outcome> {
    let read = || -> Vec<WorkerCounters> { handles.iter().map(|handle| handle.stats().read()).collect() };
    let sent =
        |counters: &[WorkerCounters]| -> u64 { counters.iter().map(|worker| worker.transmitted).sum() };
    thread::sleep(WARM_UP);
    let (before, began) = (read(), Instant::now());
    thread::sleep(MEASURED);
    let (after, took) = (read(), began.elapsed());
    for worker in &after {
        let others = worker.dropped.keys().find(|reason| **reason != "spread_full");
        ensure!(
            others.is_none() && worker.punted.is_empty(),
            "dropped {:?}, punted {:?}",
            worker.dropped,
            worker.punted
        );
    }
    // INVARIANT: both are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let (all, second) = (
        (sent(&after) - sent(&before)) as f64,
        (after[1].transmitted - before[1].transmitted) as f64,
    );
    ensure!(all > 0.0, "no packet left");
    Ok(Outcome {
        per_second: all / took.as_secs_f64(),
        loads: after.iter().map(|worker| worker.load_permille).collect(),
        shared: second / all,
    })
}
