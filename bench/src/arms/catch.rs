//! Frames as they arrive at one of the generator's ends, before the kernel there sees them.

use std::thread;
use std::time::{Duration, Instant};

use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{Port, QueueId};
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::lab::interrupt;
use millrace_tools::pktgen::{Place, Steering};

/// Frames of packet memory.
const FRAMES: u32 = 8192;
/// Frames taken at once.
const BATCH: usize = 64;
/// How long nobody looks when there is nothing.
const PAUSE: Duration = Duration::from_micros(100);

/// An AF_XDP socket that takes all that arrives at an interface of one queue. Dropping it takes it off again.
pub(crate) struct Catcher {
    // The program goes before the socket it leads to.
    _steering: Steering,
    port: XskPort,
    pool: Pool,
}

impl Catcher {
    /// Catches from now on.
    ///
    /// # Errors
    /// When there is no such interface, or something else takes its packets.
    pub(crate) fn at(place: &Place) -> anyhow::Result<Self> {
        let facts = place.facts()?;
        let (umem, mut pool, mut port) = place.within(|| {
            let (umem, pool) = Umem::new(FRAMES)?;
            let port = XskPort::bind(
                &umem,
                &place.interface,
                QueueId(0),
                Holder::port(0),
                FillPolicy::WIDE,
            )?;
            Ok::<_, anyhow::Error>((umem, pool, port))
        })??;
        drop(umem);
        port.settle(&mut pool);
        let steering = Steering::attach(place, facts, XdpMode::Auto, &[port.socket()])?;
        Ok(Self {
            _steering: steering,
            port,
            pool,
        })
    }

    /// Reads at most so many frames that are there, by way of `frames`, which is empty before and after.
    pub(crate) fn read(
        &mut self,
        frames: &mut Vec<Frame>,
        most: usize,
        mut look: impl FnMut(&[u8]),
    ) -> usize {
        let count = self.port.receive(&mut self.pool, frames, most);
        for frame in frames.drain(..) {
            look(frame.bytes());
            self.pool.give(frame);
        }
        self.port.settle(&mut self.pool);
        count
    }

    /// Frames that the socket had no room for, so far.
    pub(crate) fn overrun(&self) -> u64 {
        // Of a socket's own counters; an empty fill ring is among the dropped ones.
        Port::device_statistics(&self.port).map_or(0, |kernel| kernel.rx_dropped + kernel.rx_ring_full)
    }

    /// Takes frames until there are `enough`, or none has come for a while.
    ///
    /// # Errors
    /// On an interrupt.
    pub(crate) fn take(&mut self, enough: usize, patience: Duration) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut caught: Vec<Vec<u8>> = Vec::new();
        let mut frames = Vec::with_capacity(BATCH);
        let mut last = Instant::now();
        while caught.len() < enough && last.elapsed() < patience {
            if self.read(&mut frames, BATCH, |bytes| caught.push(bytes.to_vec())) > 0 {
                last = Instant::now();
            } else {
                interrupt::check()?;
                thread::sleep(PAUSE);
            }
        }
        Ok(caught)
    }
}
