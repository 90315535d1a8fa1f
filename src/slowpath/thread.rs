//! The slow path's thread: between the workers, the control plane and the clock.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, never, select_biased, tick};
use millrace_dataplane::table::{NodeTables, Reader};
use millrace_dataplane::worker::{Injection, Lesson, Punt, WorkerHandle};
use tokio::sync::mpsc;

use super::{Learned, NeighbourRequest, SharedSlowPathStats, SlowPath, SlowPathConfig, SteerRequest};

/// The thread's name, as the system shows it.
const NAME: &str = "slow-path";
/// How often packets that wait are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Packets, or lessons, handled before events and the clock are looked at again.
const PUNTS_PER_ROUND: usize = 64;

/// What the control plane tells the slow path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowPathEvent {
    /// New tables are published: packets that waited may be able to go.
    TablesChanged,
    /// Leave the loop; packets that wait are forgotten.
    Stop,
}

/// Why the slow path could not start.
#[derive(Debug, thiserror::Error)]
#[error("the {NAME} thread cannot start: {source}")]
pub struct SlowPathError {
    /// What the system said.
    #[from]
    source: std::io::Error,
}

/// What comes to the thread.
#[derive(Debug)]
pub struct Feeds {
    /// Packets, from the workers.
    pub punts: Receiver<Punt>,
    /// Where stations of bridged networks are seen, from the workers.
    pub lessons: Receiver<Lesson>,
    /// From the control plane.
    pub events: Receiver<SlowPathEvent>,
}

/// Starts the thread. It takes what comes by its `feeds` and gives its own packets to the `workers`, by their numbers; it reads the
/// newest `tables`, hands on what it learns, and asks for neighbours and steered ids by the two queues, for which it never
/// waits. It ends when told to, or when the other end of a feed is gone.
///
/// # Errors
/// [`SlowPathError`] when the system has no thread left.
pub fn spawn<P: Send + 'static>(
    config: SlowPathConfig,
    feeds: Feeds,
    workers: Vec<WorkerHandle<P>>,
    (tables, learned): (Reader<NodeTables>, Learned),
    (neighbours, steering): (mpsc::Sender<NeighbourRequest>, mpsc::Sender<SteerRequest>),
) -> Result<SharedSlowPathStats, SlowPathError> {
    let slow_path = SlowPath::new(config, learned);
    let stats = Arc::clone(slow_path.stats());
    start(Loop {
        slow_path,
        feeds,
        workers,
        tables,
        neighbours,
        steering,
    })?;
    Ok(stats)
}

pub(super) fn start<P: Send + 'static>(body: Loop<P>) -> Result<JoinHandle<()>, SlowPathError> {
    Ok(thread::Builder::new().name(NAME.into()).spawn(move || {
        crate::privileges::drop_all();
        body.run();
    })?)
}

/// Everything that the thread owns.
pub(super) struct Loop<P> {
    pub(super) slow_path: SlowPath,
    pub(super) feeds: Feeds,
    pub(super) workers: Vec<WorkerHandle<P>>,
    pub(super) tables: Reader<NodeTables>,
    pub(super) neighbours: mpsc::Sender<NeighbourRequest>,
    pub(super) steering: mpsc::Sender<SteerRequest>,
}

impl<P> Loop<P> {
    fn run(mut self) {
        let (clock, stopped_clock) = (tick(TICK), never());
        loop {
            // Nothing that is kept, nothing to wake up for.
            let clock = if self.slow_path.is_keeping() {
                &clock
            } else {
                &stopped_clock
            };
            // Events and ticks are rare; packets may come without a pause and must not keep them out.
            select_biased! {
                recv(self.feeds.events) -> event => match event {
                    Ok(SlowPathEvent::TablesChanged) => self.look_again(),
                    Ok(SlowPathEvent::Stop) | Err(_) => return,
                },
                recv(clock) -> _ => self.expire(),
                // Rarer than packets, and cheaper: a flood of either leaves room for the other.
                recv(self.feeds.lessons) -> lesson => match lesson {
                    Ok(lesson) => self.learn(lesson),
                    Err(_) => return,
                },
                recv(self.feeds.punts) -> punt => match punt {
                    Ok(punt) => self.handle(punt),
                    Err(_) => return,
                },
            }
        }
    }

    /// Handles a packet, and some of those behind it.
    fn handle(&mut self, first: Punt) {
        let now = Instant::now();
        let tables = self.tables.pin();
        let more = self.feeds.punts.try_iter().take(PUNTS_PER_ROUND - 1);
        for punt in std::iter::once(first).chain(more) {
            let actions = self.slow_path.handle(&punt, &tables, now);
            if let Some(injection) = actions.injection {
                inject(&self.workers, self.slow_path.stats(), punt.worker, injection);
            }
            if let Some(request) = actions.request
                && self.neighbours.try_send(request).is_err()
            {
                self.slow_path.request_lost(request);
            }
            if let Some(request) = actions.steer {
                let awaited = request.awaited;
                if self.steering.try_send(request).is_err() {
                    self.slow_path.steer_lost(awaited);
                }
            }
        }
    }

    /// Takes in a lesson, and some of those behind it; then a round of packets, which must not wait for lessons without end.
    fn learn(&mut self, first: Lesson) {
        let now = Instant::now();
        let more = self.feeds.lessons.try_iter().take(PUNTS_PER_ROUND - 1);
        for lesson in std::iter::once(first).chain(more) {
            self.slow_path.learn(lesson, now);
        }
        if let Ok(punt) = self.feeds.punts.try_recv() {
            self.handle(punt);
        }
    }

    fn look_again(&mut self) {
        let released = self.slow_path.tables_changed(&self.tables.pin());
        for (worker, injection) in released {
            inject(&self.workers, self.slow_path.stats(), worker, injection);
        }
    }

    fn expire(&mut self) {
        let errors = self.slow_path.tick(&self.tables.pin(), Instant::now());
        for (worker, injection) in errors {
            inject(&self.workers, self.slow_path.stats(), worker, injection);
        }
    }
}

/// Gives a packet to a worker; one that the worker has no room for is dropped and counted.
fn inject<P>(workers: &[WorkerHandle<P>], stats: &SharedSlowPathStats, worker: usize, injection: Injection) {
    let taken = workers
        .get(worker)
        .is_some_and(|handle| handle.inject(injection).is_ok());
    if !taken {
        stats.inject_failed.add(1);
    }
}
