//! The sending end: one thread, one AF_XDP socket, one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use millrace_dataplane::clock::{self, Clock};
use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{Port, QueueId};
use millrace_dataplane::stats::Counter;
use serde::Serialize;

use super::affinity::{check_core, pin};
use super::error::PktgenError;
use super::pace::{Due, Pace};
use super::place::Place;
use super::template::Template;

/// Frames of packet memory: more than the transmit ring holds, so that the ring is the limit.
const FRAMES: u32 = 4096;
/// A sending socket has no frames to receive into.
const NO_RECEIVING: FillPolicy = FillPolicy { base: 0, max: 0 };
/// How long the end of a run waits for the device to take what is in the ring.
const DRAIN: Duration = Duration::from_millis(200);
/// The thread's name.
const THREAD: &str = "pktgen-send";

/// In which order flows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other, round and round.
    RoundRobin,
    /// Each packet's flow drawn uniformly at random.
    Random,
}

/// How packets are sent.
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

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sent {
    /// Packets that the device took.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Times the device reported an error.
    pub device_errors: u64,
}

/// Shared with the thread, which alone writes the counters.
#[derive(Debug, Default)]
struct Shared {
    packets: Counter,
    bytes: Counter,
    device_errors: Counter,
    stop: AtomicBool,
}

impl Shared {
    fn read(&self) -> Sent {
        Sent {
            packets: self.packets.get(),
            bytes: self.bytes.get(),
            device_errors: self.device_errors.get(),
        }
    }
}

/// A generator at work. Dropping it stops it.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Starts sending.
    ///
    /// # Errors
    /// [`PktgenError`] when there is no such interface, queue, core or memory; nothing is left behind.
    pub fn start(template: Template, options: &SenderOptions) -> Result<Self, PktgenError> {
        if let Some(core) = options.core {
            check_core(core)?;
        }
        let (port, pool) = options.place.within(|| bind(options))??;
        let shared = Arc::new(Shared::default());
        let work = Work {
            template,
            port,
            pool,
            shared: Arc::clone(&shared),
            pace: Pace::new(options.rate, Clock::calibrated()),
            batch: options.batch.max(1) as u64,
            limit: options.packets.unwrap_or(u64::MAX),
            order: options.order,
            state: clock::cycles() | 1,
            sequence: 0,
        };
        let core = options.core;
        let body = move || {
            pin(core);
            work.run();
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
    pub fn stop(mut self) -> Result<Sent, PktgenError> {
        self.end()?;
        Ok(self.shared.read())
    }

    fn end(&mut self) -> Result<(), PktgenError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map_or(Ok(()), JoinHandle::join);
        joined.map_err(|_| PktgenError::Panicked(THREAD))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end();
    }
}

/// Takes memory and binds a socket, both in the interface's namespace: the first socket on a UMEM is the one that the
/// memory was registered with, and so belongs to the namespace in which that happened.
fn bind(options: &SenderOptions) -> Result<(XskPort, Pool), PktgenError> {
    let (umem, pool) = Umem::new(FRAMES)?;
    let (interface, holder) = (&options.place.interface, Holder::port(0));
    let port = XskPort::bind(&umem, interface, options.queue, holder, NO_RECEIVING)?;
    Ok((port, pool))
}

/// The thread's own.
struct Work {
    template: Template,
    port: XskPort,
    pool: Pool,
    shared: Arc<Shared>,
    pace: Pace,
    batch: u64,
    limit: u64,
    order: Order,
    /// State of the random numbers; never zero.
    state: u64,
    sequence: u64,
}

impl Work {
    fn run(mut self) {
        self.port.settle(&mut self.pool);
        let start = clock::cycles();
        while self.sequence < self.limit && !self.shared.stop.load(Ordering::Relaxed) {
            match self
                .pace
                .due(clock::cycles().wrapping_sub(start), self.sequence, self.batch)
            {
                Due::Packets(count) => self.send(count.min(self.limit - self.sequence)),
                Due::Spin => std::hint::spin_loop(),
                Due::SleepUs(pause_us) => thread::sleep(Duration::from_micros(pause_us)),
            }
        }
        self.drain();
    }

    /// Sends up to `count` packets; fewer when the ring is full.
    fn send(&mut self, count: u64) {
        let (mut packets, mut bytes) = (0, 0);
        while packets < count {
            let Some(frame) = self.next_frame() else { break };
            let len = frame.len() as u64;
            if let Err(frame) = self.port.send(&mut self.pool, frame) {
                self.pool.give(frame);
                break;
            }
            self.sequence += 1;
            packets += 1;
            bytes += len;
        }
        self.port.flush();
        self.port.settle(&mut self.pool);
        self.shared.packets.add(packets);
        self.shared.bytes.add(bytes);
        self.shared
            .device_errors
            .add(u64::from(self.port.last_error().is_some()));
    }

    /// The next packet, in a frame of its own; `None` when all frames are under way.
    #[inline]
    fn next_frame(&mut self) -> Option<Frame> {
        let mut frame = self.pool.take()?;
        let flow = self.next_flow();
        let written = frame.fill(self.template.bytes()).is_ok()
            && self
                .template
                .stamp(frame.bytes_mut(), flow, self.sequence)
                .is_ok();
        if written {
            return Some(frame);
        }
        // INVARIANT: the template fits a frame and can be stamped: its maker has tried.
        self.pool.give(frame);
        None
    }

    #[inline]
    fn next_flow(&mut self) -> u32 {
        let count = u64::from(self.template.flows().count());
        let number = match self.order {
            Order::RoundRobin => self.sequence % count,
            Order::Random => {
                // Marsaglia's xorshift64 (Journal of Statistical Software 8(14), 2003).
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                ((self.state >> 32) * count) >> 32
            }
        };
        // INVARIANT: below the number of flows, which is 32 bits wide.
        u32::try_from(number).unwrap_or(0)
    }

    /// Waits until the device has taken everything; what it has not after a while was never sent.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        while self.pool.census().in_ports > 0 && Instant::now() < deadline {
            self.port.flush();
            self.port.settle(&mut self.pool);
        }
        let unsent = u64::from(self.pool.census().in_ports);
        self.shared
            .packets
            .set(self.shared.packets.get().saturating_sub(unsent));
        let unsent_bytes = unsent * self.template.bytes().len() as u64;
        self.shared
            .bytes
            .set(self.shared.bytes.get().saturating_sub(unsent_bytes));
    }
}
