//! The receiving end that looks into every packet: one thread, a socket on each queue of the interface.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{Port, QueueId};
use millrace_dataplane::stats::Counter;
use millrace_dataplane::xdp::XdpMode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::affinity::{check_core, pin};
use super::error::PktgenError;
use super::marker::{Recognised, Wrapping, recognise};
use super::place::Place;
use super::steering::Steering;

/// Frames of packet memory for each queue.
const FRAMES_PER_QUEUE: u32 = 4096;
/// Packets taken from a queue at once.
const BATCH: usize = 64;
/// How long a wait for packets goes on before the thread looks whether it is to stop.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// What the kernel answers who binds to a queue that an interface does not use.
const NO_SUCH_QUEUE: i32 = rustix::io::Errno::INVAL.raw_os_error();
/// The thread's name.
const THREAD: &str = "pktgen-receive";

/// How packets are received.
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

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Received {
    /// Packets of the run.
    pub packets: u64,
    /// Their bytes, from the (outer) Ethernet header on.
    pub bytes: u64,
    /// Those among them that came in VXLAN.
    pub vxlan: u64,
    /// Those among them that came in IP-in-IP.
    pub ipip: u64,
    /// Those among them with a wrong checksum somewhere.
    pub corrupt: u64,
    /// Those among them that came after a later one of the same queue.
    pub reordered: u64,
    /// Packets of anyone else.
    pub strangers: u64,
    /// Packets the socket had no room for.
    pub overrun: u64,
}

/// Shared with the thread, which alone writes the counters.
#[derive(Debug, Default)]
struct Shared {
    packets: Counter,
    bytes: Counter,
    vxlan: Counter,
    ipip: Counter,
    corrupt: Counter,
    reordered: Counter,
    strangers: Counter,
    overrun: Counter,
    stop: AtomicBool,
}

impl Shared {
    fn read(&self) -> Received {
        Received {
            packets: self.packets.get(),
            bytes: self.bytes.get(),
            vxlan: self.vxlan.get(),
            ipip: self.ipip.get(),
            corrupt: self.corrupt.get(),
            reordered: self.reordered.get(),
            strangers: self.strangers.get(),
            overrun: self.overrun.get(),
        }
    }
}

/// A receiving end at work. Dropping it stops it and takes its program off the interface.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _steering: Steering,
}

impl Receiver {
    /// Starts receiving.
    ///
    /// # Errors
    /// [`PktgenError`] when there is no such interface or core, or the interface has an XDP program already; nothing is
    /// left behind.
    pub fn start(options: &ReceiverOptions) -> Result<Self, PktgenError> {
        if let Some(core) = options.core {
            check_core(core)?;
        }
        let place = &options.place;
        let facts = place.facts()?;
        let (ports, pool) = place.within(|| bind(&place.interface, facts.queues))??;
        let sockets: Vec<_> = ports.iter().map(XskPort::socket).collect();
        let steering = Steering::attach(place, facts, options.mode, &sockets)?;
        let shared = Arc::new(Shared::default());
        let work = Work {
            latest: HashMap::new(),
            frames: Vec::with_capacity(BATCH),
            ports,
            pool,
            shared: Arc::clone(&shared),
            run: options.run,
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
            _steering: steering,
        })
    }

    /// What was received so far.
    #[must_use]
    pub fn received(&self) -> Received {
        self.shared.read()
    }

    /// Stops, and answers what was received in all.
    ///
    /// # Errors
    /// [`PktgenError::Panicked`].
    pub fn stop(mut self) -> Result<Received, PktgenError> {
        self.end()?;
        Ok(self.shared.read())
    }

    fn end(&mut self) -> Result<(), PktgenError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map_or(Ok(()), JoinHandle::join);
        joined.map_err(|_| PktgenError::Panicked(THREAD))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end();
    }
}

/// Takes memory and binds a socket to every queue, all in the interface's namespace: the first socket on a UMEM is the
/// one that the memory was registered with, and so belongs to the namespace in which that happened.
fn bind(interface: &str, queues: u32) -> Result<(Vec<XskPort>, Pool), PktgenError> {
    let (umem, mut pool) = Umem::new(FRAMES_PER_QUEUE.saturating_mul(queues))?;
    let mut ports = Vec::new();
    for (queue, holder) in (0..queues).zip(0..u16::MAX) {
        match XskPort::bind(
            &umem,
            interface,
            QueueId(queue),
            Holder::port(holder),
            FillPolicy::WIDE,
        ) {
            Ok(mut port) => {
                port.settle(&mut pool);
                ports.push(port);
            }
            // An interface may have been made for more queues than it uses.
            Err(error) if queue > 0 && error.errno == Some(NO_SUCH_QUEUE) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok((ports, pool))
}

/// The thread's own.
struct Work {
    ports: Vec<XskPort>,
    pool: Pool,
    frames: Vec<Frame>,
    shared: Arc<Shared>,
    run: Option<u16>,
    /// The highest sequence number seen, by queue and run.
    latest: HashMap<(usize, u16), u64>,
}

impl Work {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let count: usize = (0..self.ports.len()).map(|queue| self.take(queue)).sum();
            if count == 0 {
                self.note_overrun();
                self.wait();
            }
        }
        // What is in the rings when it is told to stop has been received.
        while (0..self.ports.len()).map(|queue| self.take(queue)).sum::<usize>() > 0 {}
        self.note_overrun();
    }

    /// Takes a batch from a queue; answers how many packets it was.
    fn take(&mut self, queue: usize) -> usize {
        let Some(port) = self.ports.get_mut(queue) else {
            return 0;
        };
        let count = port.receive(&mut self.pool, &mut self.frames, BATCH);
        let mut frames = std::mem::take(&mut self.frames);
        for frame in frames.drain(..) {
            self.count(queue, frame.bytes());
            self.pool.give(frame);
        }
        self.frames = frames;
        if let Some(port) = self.ports.get_mut(queue) {
            port.settle(&mut self.pool);
        }
        count
    }

    fn count(&mut self, queue: usize, packet: &[u8]) {
        let shared = &self.shared;
        let ours = recognise(packet).filter(|found| self.run.is_none_or(|run| run == found.marker.run));
        let Some(Recognised {
            marker,
            wrapping,
            is_intact,
        }) = ours
        else {
            shared.strangers.add(1);
            return;
        };
        shared.packets.add(1);
        shared.bytes.add(packet.len() as u64);
        match wrapping {
            Wrapping::Plain => {}
            Wrapping::Vxlan => shared.vxlan.add(1),
            Wrapping::Ipip => shared.ipip.add(1),
        }
        shared.corrupt.add(u64::from(!is_intact));
        let latest = self.latest.entry((queue, marker.run)).or_insert(marker.sequence);
        shared.reordered.add(u64::from(marker.sequence < *latest));
        *latest = marker.sequence.max(*latest);
    }

    /// Reads what the kernel could not deliver.
    fn note_overrun(&self) {
        let lost = |port: &XskPort| {
            // An empty fill ring is among the dropped ones.
            port.device_statistics()
                .map_or(0, |kernel| kernel.rx_dropped + kernel.rx_ring_full)
        };
        self.shared.overrun.set(self.ports.iter().map(lost).sum());
    }

    /// Sleeps until there is something to receive, for a while.
    fn wait(&self) {
        let mut events: Vec<_> = self
            .ports
            .iter()
            .map(|port| PollFd::from_borrowed_fd(port.socket(), PollFlags::IN))
            .collect();
        // A signal, or an error, only shortens the wait: the thread looks into its rings itself.
        let _ = poll(&mut events, Some(&PATIENCE));
    }
}
