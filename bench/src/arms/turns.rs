//! Latency with one core for both of the generator's ends: one thread that sends what is due and reads what has come, in turns.
//! Two threads on a core would wait for each other, for whole slices of the scheduler's time, and that would be what is
//! measured.

use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{Port, QueueId};
use millrace_tools::pktgen::search::Tried;
use millrace_tools::pktgen::{Latency, Place, Template, elapsed_ns, now_ns, pin, recognise_of};

use super::catch::Catcher;

/// Frames of packet memory to send from.
const FRAMES: u32 = 4096;
/// A sending socket has no frames to receive into.
const NO_RECEIVING: FillPolicy = FillPolicy { base: 0, max: 0 };
/// Packets sent in a turn, and read: few, so that neither waits long for the other.
const SEND_MAX: u64 = 16;
const READ_MAX: usize = 32;
/// The longest latency that is told from a longer one, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;

/// Both ends, opened.
pub(crate) struct Turns {
    out: XskPort,
    pool: Pool,
    catcher: Catcher,
    template: Template,
    /// What had been overrun before a run.
    overrun_before: u64,
}

/// What a run has counted so far.
struct Books {
    sent: u64,
    received: u64,
    latency: Histogram<u64>,
}

impl Turns {
    /// Opens both ends, for packets of this template.
    ///
    /// # Errors
    /// When an interface cannot be used.
    pub(crate) fn open(from: &Place, to: &Place, template: Template) -> anyhow::Result<Self> {
        let catcher = Catcher::at(to)?;
        let (pool, out) = from.within(|| {
            let (umem, pool) = Umem::new(FRAMES)?;
            let queue = QueueId(0);
            let port = XskPort::bind(&umem, &from.interface, queue, Holder::port(0), NO_RECEIVING)?;
            Ok::<_, anyhow::Error>((pool, port))
        })??;
        Ok(Self {
            out,
            pool,
            catcher,
            template,
            overrun_before: 0,
        })
    }

    /// Sends so many packets per second for a while, on this core, and reads what comes out, for so long after the last one.
    ///
    /// # Errors
    /// When there is no thread.
    pub(crate) fn run(
        &mut self,
        core: usize,
        rate: f64,
        (duration, drain): (Duration, Duration),
    ) -> anyhow::Result<Tried> {
        let run = self.template.run().wrapping_add(1);
        self.template.set_run(run);
        self.overrun_before = self.catcher.overrun();
        let mut books = Books {
            sent: 0,
            received: 0,
            latency: Histogram::new_with_max(LONGEST_NS, DIGITS).context("no histogram")?,
        };
        let seconds = thread::scope(|scope| {
            let work = || {
                pin(Some(core));
                self.work(&mut books, rate, duration, drain)
            };
            scope.spawn(work).join()
        });
        let seconds = seconds.map_err(|_| anyhow!("the generator's thread panicked"))?;
        // INVARIANT: counts of packets are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let (sent, received) = (books.sent as f64, books.received as f64);
        let sent_per_second = sent / seconds;
        Ok(Tried {
            asked_per_second: Some(rate),
            sent_per_second,
            received_per_second: received / seconds,
            loss: 1.0 - (received / sent.max(1.0)).min(1.0),
            is_reached: sent_per_second >= rate * 0.99,
            overrun: self.catcher.overrun() - self.overrun_before,
            latency: Latency::of(&books.latency),
        })
    }

    /// The loop; answers how long was sent, in seconds.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // INVARIANT: hours of nanoseconds are far below 2^52.
    fn work(&mut self, books: &mut Books, rate: f64, duration: Duration, drain: Duration) -> f64 {
        let gap_ns = 1e9 / rate.max(1.0);
        let (start, length) = (now_ns(), duration.as_nanos() as u64);
        let most = (length as f64 / gap_ns) as u64;
        let mut frames = Vec::with_capacity(READ_MAX);
        let mut ended = None;
        loop {
            let elapsed = now_ns().saturating_sub(start);
            if books.sent < most && elapsed < length {
                let due = (elapsed as f64 / gap_ns) as u64 + 1;
                self.send(books, due.min(most), |number| {
                    start + (number as f64 * gap_ns) as u64
                });
            } else {
                let ended = *ended.get_or_insert(elapsed);
                let is_over = elapsed - ended >= drain.as_nanos() as u64;
                if is_over || books.received >= books.sent {
                    return ended as f64 / 1e9;
                }
            }
            self.read(books, &mut frames);
        }
    }

    /// Sends what is due: packets below `due` that were not sent yet.
    fn send(&mut self, books: &mut Books, due: u64, time: impl Fn(u64) -> u64) {
        let until = due.min(books.sent + SEND_MAX);
        let before = books.sent;
        while books.sent < until {
            let Some(mut frame) = self.pool.take_with(self.template.bytes()) else {
                break;
            };
            let flow = flow(books.sent, self.template.flows().count());
            let stamped = self
                .template
                .stamp_at(frame.bytes_mut(), flow, books.sent, time(books.sent));
            // INVARIANT: a copy of the template.
            debug_assert!(stamped.is_ok());
            if let Err(frame) = self.out.send(&mut self.pool, frame) {
                self.pool.give(frame);
                break;
            }
            books.sent += 1;
        }
        if books.sent > before || self.out.pending() {
            self.out.flush();
            self.out.settle(&mut self.pool);
        }
    }

    /// Reads what has come.
    fn read(&mut self, books: &mut Books, frames: &mut Vec<Frame>) {
        let run = self.template.run();
        self.catcher.read(frames, READ_MAX, |bytes| {
            let now = now_ns();
            let found = recognise_of(bytes, None).filter(|found| found.marker.run == run);
            if let Some(found) = found {
                books.received += 1;
                books
                    .latency
                    .saturating_record(elapsed_ns(found.marker.time, now));
            }
        });
    }
}

/// The flow of a packet: any of so many, with nothing to do with the one before.
fn flow(number: u64, count: u32) -> u32 {
    // 2^64 divided by the golden ratio; the upper half of a product of two 32-bit numbers is below the second.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u32::try_from((mixed * u64::from(count)) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_flow_has_its_turn() {
        let drawn: HashSet<u32> = (0..10_000).map(|number| flow(number, 1024)).collect();
        assert_eq!(drawn.len(), 1024);
        assert!(drawn.into_iter().all(|flow| flow < 1024));
        assert_eq!(flow(77, 1), 0);
    }
}
