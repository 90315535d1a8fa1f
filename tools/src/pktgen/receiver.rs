//! The receiving end that looks into every packet: a socket on each queue of the interface, read by one or more threads.

use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::QueueId;
use millrace_dataplane::port::xsk::{BindMode, XskPort};
use millrace_dataplane::stats::Counter;
use millrace_dataplane::xdp::{AttachedMode, XdpMode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::affinity::{check_core, pin};
pub use super::books::Received;
use super::books::{Books, look};
use super::error::PktgenError;
use super::link::{Binding, ReceiveEnd, bind_receivers};
use super::marker::{Runs, now_ns};
use super::place::Place;
use super::steering::Steering;

/// Packets taken from a queue at once.
const BATCH: usize = 64;
/// How long a thread looks for packets again and again before it sleeps, as a worker of the switch does.
const ATTENTION: Duration = Duration::from_micros(50);
/// How long a wait for packets goes on before the thread looks whether it is to stop.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// The same where there is nothing that would wake it.
const NAP: Duration = Duration::from_micros(100);
/// The thread's name.
const THREAD: &str = "pktgen-receive";

/// How packets are received by one thread, in copy mode.
#[derive(Debug, Clone)]
pub struct ReceiverOptions {
    /// By which interface.
    pub place: Place,
    /// On which core; `None` for wherever the scheduler likes.
    pub core: Option<usize>,
    /// How the steering program is attached.
    pub mode: XdpMode,
    /// The only run whose packets count; `None` for every run's.
    pub run: Option<u16>,
}

/// How packets are received.
#[derive(Debug, Clone)]
pub struct Listening {
    /// By which interface.
    pub place: Place,
    /// By which of its queues; none for all of them. What comes by another is counted and dropped.
    pub queues: Vec<QueueId>,
    /// One thread for each of these cores, which share the queues; none for one thread, anywhere.
    pub cores: Vec<usize>,
    /// How the steering program is attached.
    pub mode: XdpMode,
    /// How sockets are bound.
    pub binding: Binding,
}

/// How an interface was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The mode the steering program runs in.
    pub attached: AttachedMode,
    /// How packets get into packet memory.
    pub bound: BindMode,
}

/// Shared with the threads.
#[derive(Debug)]
struct Shared {
    books: Mutex<Books>,
    overrun: Vec<Counter>,
    stop: AtomicBool,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiving end at work. Dropping it stops it and takes its program off the interface.
pub struct Receiver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// What had been overrun when the books were opened.
    overrun_before: u64,
    opened: Option<Opened>,
    steering: Option<Steering>,
}

impl Receiver {
    /// Starts receiving.
    ///
    /// # Errors
    /// [`PktgenError`] when there is no such interface or core, or the interface has an XDP program already; nothing is
    /// left behind.
    pub fn start(options: &ReceiverOptions) -> Result<Self, PktgenError> {
        let listening = Listening {
            place: options.place.clone(),
            queues: Vec::new(),
            cores: options.core.into_iter().collect(),
            mode: options.mode,
            binding: Binding::Copy,
        };
        let runs = options.run.map(|first| Runs { first, count: 1 });
        Self::listen(&listening, runs)
    }

    /// Starts receiving packets of some runs, or of any.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn listen(options: &Listening, runs: Option<Runs>) -> Result<Self, PktgenError> {
        options.cores.iter().try_for_each(|core| check_core(*core))?;
        let place = &options.place;
        let facts = place.facts()?;
        let all: Vec<_> = (0..facts.queues).map(QueueId).collect();
        let is_all = options.queues.is_empty();
        let queues = if is_all { &all } else { &options.queues };
        let threads = options.cores.len().clamp(1, queues.len().max(1));
        let interface = (place.interface.as_str(), facts.ifindex);
        let mut ends = Vec::new();
        let mut bound = BindMode::ZeroCopy;
        let mut sockets: Vec<(QueueId, usize, usize)> = Vec::new();
        for thread in 0..threads {
            let mine: Vec<_> = queues.iter().copied().skip(thread).step_by(threads).collect();
            let may_be_fewer = is_all;
            let (ports, pool, mode) =
                place.within(|| bind_receivers(interface, &mine, options.binding, may_be_fewer))??;
            if mode == BindMode::Copy {
                bound = mode;
            }
            sockets.extend(
                (0..ports.len())
                    .zip(&mine)
                    .map(|(port, queue)| (*queue, thread, port)),
            );
            ends.push((ports, pool));
        }
        let fd = |thread: usize, port: usize| ends.get(thread).and_then(|(ports, _)| ports.get(port));
        let by_queue: Vec<_> = sockets
            .iter()
            .filter_map(|(queue, thread, port)| Some((*queue, fd(*thread, *port)?.socket())))
            .collect();
        let steering = Steering::attach_to(place, facts, options.mode, &by_queue)?;
        let opened = Opened {
            attached: steering.mode(),
            bound,
        };
        let ends = ends.into_iter().map(|(ports, pool)| ReceiveEnd {
            ports: ports.into_iter().map(boxed).collect(),
            pool,
        });
        let mut receiver = Self::read(ends.collect(), &options.cores, runs)?;
        receiver.opened = Some(opened);
        receiver.steering = Some(steering);
        Ok(receiver)
    }

    /// Starts reading ends that are open, each by a thread of its own, on these cores.
    ///
    /// # Errors
    /// [`PktgenError`] without such a core, or a thread.
    pub fn read(ends: Vec<ReceiveEnd>, cores: &[usize], runs: Option<Runs>) -> Result<Self, PktgenError> {
        cores.iter().try_for_each(|core| check_core(*core))?;
        let shared = Arc::new(Shared {
            books: Mutex::new(Books::new(runs)),
            overrun: ends.iter().map(|_| Counter::default()).collect(),
            stop: AtomicBool::new(false),
        });
        let mut receiver = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            overrun_before: 0,
            opened: None,
            steering: None,
        };
        let mut first_queue = 0;
        for (number, end) in ends.into_iter().enumerate() {
            let work = Work {
                first_queue,
                frames: Vec::with_capacity(BATCH),
                seen: Vec::with_capacity(BATCH),
                number,
                shared: Arc::clone(&shared),
                end,
            };
            first_queue += work.end.ports.len();
            let core = cores.get(number).copied();
            let body = move || {
                pin(core);
                work.run();
            };
            let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(body);
            let thread = thread.map_err(|source| PktgenError::Thread { name: THREAD, source })?;
            receiver.threads.push(thread);
        }
        Ok(receiver)
    }

    /// How the interface was opened; none for ends that were.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        self.opened
    }

    /// Begins anew, for other runs.
    pub fn reopen(&mut self, runs: Option<Runs>) {
        self.overrun_before = self.overrun();
        *self.shared.books() = Books::new(runs);
    }

    fn overrun(&self) -> u64 {
        self.shared.overrun.iter().map(Counter::get).sum()
    }

    /// What was received so far.
    #[must_use]
    pub fn received(&self) -> Received {
        let received = self.shared.books().read();
        Received {
            overrun: self.overrun().saturating_sub(self.overrun_before),
            ..received
        }
    }

    /// How long packets were under way so far, in nanoseconds.
    #[must_use]
    pub fn latency(&self) -> Histogram<u64> {
        self.shared.books().latency().clone()
    }

    /// Stops, and answers what was received in all.
    ///
    /// # Errors
    /// [`PktgenError::Panicked`].
    pub fn stop(mut self) -> Result<Received, PktgenError> {
        self.end()?;
        Ok(self.received())
    }

    fn end(&mut self) -> Result<(), PktgenError> {
        // Before the sockets: with some drivers the other order ends badly (docs/hardware.md).
        self.steering = None;
        self.shared.stop.store(true, Ordering::Relaxed);
        let joined: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        if joined.iter().any(Result::is_err) {
            return Err(PktgenError::Panicked(THREAD));
        }
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end();
    }
}

fn boxed(port: XskPort) -> Box<dyn millrace_dataplane::port::Port + Send> {
    Box::new(port)
}

/// A thread's own.
struct Work {
    end: ReceiveEnd,
    number: usize,
    /// The number of its first queue among all.
    first_queue: usize,
    frames: Vec<Frame>,
    seen: Vec<super::books::Seen>,
    shared: Arc<Shared>,
}

impl Work {
    fn run(mut self) {
        let mut busy_at = Instant::now();
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.turn() > 0 {
                busy_at = Instant::now();
            } else if busy_at.elapsed() < ATTENTION {
                std::hint::spin_loop();
            } else {
                self.note_overrun();
                self.wait();
            }
        }
        // What is in the rings when it is told to stop has been received.
        while self.turn() > 0 {}
        self.note_overrun();
    }

    fn turn(&mut self) -> usize {
        (0..self.end.ports.len()).map(|queue| self.take(queue)).sum()
    }

    /// Takes a batch from a queue; answers how many packets it was.
    fn take(&mut self, queue: usize) -> usize {
        let ReceiveEnd { ports, pool } = &mut self.end;
        let Some(port) = ports.get_mut(queue) else {
            return 0;
        };
        let count = port.receive(pool, &mut self.frames, BATCH);
        let now = now_ns();
        if count > 0 {
            let runs = self.shared.books().runs;
            let mut frames = mem::take(&mut self.frames);
            for frame in frames.drain(..) {
                self.seen.push(look(frame.bytes(), runs));
                pool.give(frame);
            }
            self.frames = frames;
            self.shared
                .books()
                .note(self.first_queue + queue, &self.seen, now);
            self.seen.clear();
        }
        port.settle(pool);
        count
    }

    /// Reads what the kernel could not deliver.
    fn note_overrun(&self) {
        let lost = self.end.ports.iter().filter_map(|port| port.device_statistics());
        if let Some(counter) = self.shared.overrun.get(self.number) {
            // An empty fill ring is among the dropped ones.
            counter.set(lost.map(|kernel| kernel.rx_dropped + kernel.rx_ring_full).sum());
        }
    }

    /// Sleeps until there is something to receive, for a while.
    fn wait(&self) {
        let descriptors: Vec<BorrowedFd<'_>> = self.end.ports.iter().filter_map(|port| port.fd()).collect();
        if descriptors.is_empty() {
            thread::sleep(NAP);
            return;
        }
        let mut events: Vec<_> = descriptors
            .into_iter()
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        // A signal, or an error, only shortens the wait: the thread looks into its rings itself.
        let _ = poll(&mut events, Some(&PATIENCE));
    }
}
