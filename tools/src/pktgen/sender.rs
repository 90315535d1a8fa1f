//! The sending end: one thread, one queue, one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use millrace_dataplane::clock;
use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::{Port, QueueId};
use millrace_dataplane::stats::Counter;
use serde::Serialize;

use super::affinity::{check_core, pin};
use super::error::PktgenError;
use super::link::{Binding, SendEnd};
use super::marker::now_ns;
use super::order::{Order, Share};
use super::place::Place;
use super::rate::{Pace, Rate, Rest};
use super::template::Template;
use super::traffic::{Mix, Traffic, Writer};

/// How long the end of a run waits for the device to take what is in the ring.
const DRAIN: Duration = Duration::from_millis(200);
/// The thread's name.
const THREAD: &str = "pktgen-send";

/// How packets of one template are sent.
#[derive(Debug, Clone)]
pub struct SenderOptions {
    /// By which interface.
    pub place: Place,
    /// By which of its queues.
    pub queue: QueueId,
    /// On which core; `None` for wherever the scheduler likes.
    pub core: Option<usize>,
    /// Packets handed to the kernel at once.
    pub batch: usize,
    /// Packets per second; `None` for as many as go.
    pub rate: Option<u64>,
    /// How many packets in all; `None` for as many as go until it is stopped.
    pub packets: Option<u64>,
    /// In which order the flows come.
    pub order: Order,
}

/// What one sender does in one run.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it sends.
    pub traffic: Traffic,
    /// In which order the flows come.
    pub order: Order,
    /// Which of how many senders it is.
    pub share: Share,
    /// The run that its packets are marked with.
    pub run: u16,
    /// How fast all senders together send.
    pub rate: Rate,
    /// How many packets in all; `None` for as many as go until it is stopped.
    pub packets: Option<u64>,
    /// Packets handed to the port at once.
    pub batch: usize,
    /// On which core; `None` for wherever the scheduler likes.
    pub core: Option<usize>,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sent {
    /// Packets that the device took.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Those among them without a mark, of a recording: nobody can tell whether they arrive.
    pub unmarked: u64,
    /// Packets that the device refused; they are not among those sent, and their sequence numbers never arrive.
    pub refused: u64,
    /// Times the device reported an error.
    pub device_errors: u64,
    /// How long it took, from the first packet on, in nanoseconds; the device's emptying its ring left out.
    pub active_ns: u64,
}

/// Shared with the thread, which alone writes the counters.
#[derive(Debug, Default)]
struct Shared {
    packets: Counter,
    bytes: Counter,
    unmarked: Counter,
    refused: Counter,
    device_errors: Counter,
    active_ns: Counter,
    stop: AtomicBool,
}

impl Shared {
    fn read(&self) -> Sent {
        Sent {
            packets: self.packets.get(),
            bytes: self.bytes.get(),
            unmarked: self.unmarked.get(),
            refused: self.refused.get(),
            device_errors: self.device_errors.get(),
            active_ns: self.active_ns.get(),
        }
    }
}

/// A generator at work. Dropping it stops it.
pub struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<SendEnd>>,
}

impl Sender {
    /// Opens a queue and starts sending packets of a template by it.
    ///
    /// # Errors
    /// [`PktgenError`] when there is no such interface, queue, core or memory; nothing is left behind.
    pub fn start(template: Template, options: &SenderOptions) -> Result<Self, PktgenError> {
        let run = template.run();
        Self::start_traffic(Traffic::Mix(Mix::one(template)), run, options)
    }

    /// Opens a queue and starts sending `traffic` by it, marked with `run`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_traffic(traffic: Traffic, run: u16, options: &SenderOptions) -> Result<Self, PktgenError> {
        if let Some(core) = options.core {
            check_core(core)?;
        }
        let place = &options.place;
        // In copy mode a socket is bound by its interface's name.
        let (end, _) =
            place.within(|| SendEnd::bind((&place.interface, 0), options.queue, Binding::Copy))??;
        #[allow(clippy::cast_precision_loss)] // INVARIANT: rates are far below 2^52.
        let rate = options.rate.map_or(Rate::Max, |rate| Rate::Packets(rate as f64));
        let job = Job {
            traffic,
            order: options.order,
            share: Share::WHOLE,
            run,
            rate,
            packets: options.packets,
            batch: options.batch,
            core: options.core,
        };
        Self::launch(end, job)
    }

    /// Starts sending by an end that is open.
    ///
    /// # Errors
    /// [`PktgenError`] without such a core, or a thread.
    pub fn launch(end: SendEnd, job: Job) -> Result<Self, PktgenError> {
        if let Some(core) = job.core {
            check_core(core)?;
        }
        let shared = Arc::new(Shared::default());
        let pace = job.traffic.pace(job.rate, job.share.of);
        let core = job.core;
        let work = Work {
            writer: Writer::new(job.traffic, job.order, job.share, job.run, clock::cycles()),
            end,
            shared: Arc::clone(&shared),
            pace,
            batch: job.batch.max(1) as u64,
            limit: job.packets.unwrap_or(u64::MAX),
            sent: 0,
            refused_before: 0,
        };
        let body = move || {
            pin(core);
            work.run()
        };
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(body)
            .map_err(|source| PktgenError::Thread { name: THREAD, source })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What was sent so far. Packets still in the transmit ring count until the end of the run.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.shared.read()
    }

    /// Whether the run has ended, because all packets are sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops, and answers what the device took in all.
    ///
    /// # Errors
    /// [`PktgenError::Panicked`].
    pub fn stop(self) -> Result<Sent, PktgenError> {
        self.finish().map(|(sent, _)| sent)
    }

    /// The same, with the end back, for another run.
    ///
    /// # Errors
    /// [`PktgenError::Panicked`].
    pub fn finish(mut self) -> Result<(Sent, SendEnd), PktgenError> {
        let end = self.end().ok_or(PktgenError::Panicked(THREAD))?;
        Ok((self.shared.read(), end))
    }

    /// Tells the thread to stop, without waiting for it.
    pub(crate) fn ask_to_stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    fn end(&mut self) -> Option<SendEnd> {
        self.ask_to_stop();
        self.thread.take()?.join().ok()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end();
    }
}

/// The thread's own.
struct Work {
    writer: Writer,
    end: SendEnd,
    shared: Arc<Shared>,
    pace: Pace,
    batch: u64,
    limit: u64,
    sent: u64,
    /// What the device had refused before the run.
    refused_before: u64,
}

impl Work {
    fn run(mut self) -> SendEnd {
        let SendEnd { port, pool } = &mut self.end;
        port.settle(pool);
        self.refused_before = refused(port.as_ref());
        if self.writer.is_empty() {
            self.limit = 0;
        }
        let start = now_ns();
        while self.sent < self.limit && !self.shared.stop.load(Ordering::Relaxed) {
            let now = now_ns();
            let Some(due) = self.pace.due_ns(self.sent).map(|due| start.saturating_add(due)) else {
                self.send(start, now);
                continue;
            };
            if due <= now {
                self.send(start, now);
                continue;
            }
            match Pace::rest(due - now) {
                Rest::Spin => std::hint::spin_loop(),
                Rest::Sleep { ns } => thread::sleep(Duration::from_nanos(ns)),
            }
        }
        self.shared.active_ns.set(now_ns().saturating_sub(start));
        self.drain();
        self.end
    }

    /// Sends a batch of what is due by now; less when the ring is full.
    fn send(&mut self, start: u64, now: u64) {
        let (mut packets, mut bytes) = (0, 0);
        let most = self.batch.min(self.limit - self.sent);
        while packets < most {
            let number = self.sent + packets;
            let due = self
                .pace
                .due_ns(number)
                .map_or(now, |due| start.saturating_add(due));
            if due > now {
                break;
            }
            let Some(frame) = self.next_frame(number, due) else {
                break;
            };
            let len = frame.len() as u64;
            let SendEnd { port, pool } = &mut self.end;
            if let Err(frame) = port.send(pool, frame) {
                pool.give(frame);
                break;
            }
            packets += 1;
            bytes += len;
        }
        let SendEnd { port, pool } = &mut self.end;
        port.flush();
        port.settle(pool);
        self.sent += packets;
        let shared = &self.shared;
        shared.packets.add(packets);
        shared.bytes.add(bytes);
        shared.active_ns.set(now.saturating_sub(start));
        shared.device_errors.add(u64::from(port.last_error().is_some()));
    }

    /// Packet `number`, in a frame of its own; `None` when all frames are under way.
    #[inline]
    fn next_frame(&mut self, number: u64, due: u64) -> Option<Frame> {
        let mut frame = self.end.pool.take()?;
        if self.writer.write(&mut frame, number, due) {
            return Some(frame);
        }
        self.end.pool.give(frame);
        None
    }

    /// Waits until the device has taken everything; what it has not after a while was never sent.
    fn drain(&mut self) {
        let SendEnd { port, pool } = &mut self.end;
        let deadline = Instant::now() + DRAIN;
        while (pool.census().in_ports > 0 || port.pending()) && Instant::now() < deadline {
            port.flush();
            port.settle(pool);
        }
        let refused = refused(port.as_ref()).saturating_sub(self.refused_before);
        let unsent = u64::from(pool.census().in_ports) + refused;
        let (packets, bytes) = (self.shared.packets.get(), self.shared.bytes.get());
        let left = packets.saturating_sub(unsent);
        self.shared.packets.set(left);
        self.shared.refused.set(refused);
        // Of several sizes, the mean is as near as one can come.
        let unsent_bytes = bytes.checked_div(packets).unwrap_or(0) * unsent;
        self.shared.bytes.set(bytes.saturating_sub(unsent_bytes));
        self.shared.unmarked.set(self.writer.unmarked_among(left));
    }
}

/// Packets that a port's device did not take.
fn refused(port: &dyn Port) -> u64 {
    port.device_statistics().map_or(0, |device| device.tx_dropped)
}
