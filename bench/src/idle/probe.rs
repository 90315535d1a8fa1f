//! One packet at a time, from one pod to the other, after a silence.
//!
//! One thread does both: it sends from a socket in the first pod's namespace and looks for the packet at one in the
//! second's without sleeping, so that nobody's waking up is measured but the switch's.

use std::io::{ErrorKind, PipeWriter, Read as _, Write as _, pipe};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use millrace_tools::lab::interrupt;
use millrace_tools::pktgen::pin;

use super::node::{Node, TO};
use crate::arms::POD;

/// The silence before a packet: far longer than a worker's patience.
const SILENCE: Duration = Duration::from_millis(10);
/// The silences differ by this much from one another, so that no timer of the kernel's keeps step with them.
const JITTER_US: u32 = 1000;
/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Packets before those that count.
const WARM_UP: u32 = 20;
/// Packets that may be lost in a round before something is wrong.
const LOST_MAX: u32 = 2;
/// The longest way that is told apart, in nanoseconds.
const NS_MAX: u64 = 1_000_000_000;

/// Two sockets, and who is between them.
pub(super) struct Probe {
    from: UdpSocket,
    to: UdpSocket,
}

/// A thread that sleeps at a pipe: what waking up costs on this machine, whoever sleeps.
pub(super) struct Sleeper {
    bell: PipeWriter,
    /// The last call that it has heard.
    heard: Arc<AtomicU32>,
}

/// The times that packets took.
pub(super) struct Times(Histogram<u64>);

impl Times {
    /// Microseconds that so large a share of the packets took at most.
    pub(super) fn us_at(&self, quantile: f64) -> f64 {
        // INVARIANT: below a second.
        #[allow(clippy::cast_precision_loss)]
        let ns = self.0.value_at_quantile(quantile) as f64;
        ns / 1000.0
    }
}

impl Probe {
    /// Between the pods of a node.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub(super) fn new(node: &Node) -> anyhow::Result<Self> {
        let (from, to) = (node.socket(POD)?, node.socket(TO)?);
        from.connect(to.local_addr()?)
            .context("cannot connect the pods' sockets")?;
        to.set_nonblocking(true)?;
        Ok(Self { from, to })
    }

    /// How long one packet takes; nothing if it is lost.
    pub(super) fn one(&self, number: u32) -> anyhow::Result<Option<Duration>> {
        let mut buffer = [0; 64];
        let sent = Instant::now();
        self.from
            .send(&number.to_be_bytes())
            .context("cannot send to the other pod")?;
        while sent.elapsed() < PATIENCE {
            match self.to.recv(&mut buffer) {
                Ok(4) if buffer.starts_with(&number.to_be_bytes()) => return Ok(Some(sent.elapsed())),
                // An earlier one, given up already.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => bail!("cannot receive in the other pod: {error}"),
            }
        }
        Ok(None)
    }
}

impl Sleeper {
    /// A thread on `core`. It ends with this.
    ///
    /// # Errors
    /// When there is no pipe or no thread.
    pub(super) fn new(core: usize) -> anyhow::Result<Self> {
        let (mut ear, bell) = pipe().context("cannot make a pipe")?;
        let heard = Arc::new(AtomicU32::new(u32::MAX));
        let hears = Arc::clone(&heard);
        let sleep = move || {
            pin(Some(core));
            let mut number = [0; 4];
            while ear.read_exact(&mut number).is_ok() {
                hears.store(u32::from_be_bytes(number), Ordering::Release);
            }
        };
        let named = thread::Builder::new().name("sleeper".to_owned());
        named.spawn(sleep).context("cannot start a thread")?;
        Ok(Self { bell, heard })
    }

    /// How long one call takes to be heard; nothing if it is not.
    pub(super) fn one(&self, number: u32) -> anyhow::Result<Option<Duration>> {
        let called = Instant::now();
        (&self.bell)
            .write_all(&number.to_be_bytes())
            .context("cannot write into a pipe")?;
        while called.elapsed() < PATIENCE {
            if self.heard.load(Ordering::Acquire) == number {
                return Ok(Some(called.elapsed()));
            }
            std::hint::spin_loop();
        }
        Ok(None)
    }
}

/// Asks `one` so many times, each after a silence, from a thread on `core`, how long something took.
///
/// # Errors
/// When it fails, or takes for ever more often than now and then.
pub(super) fn measure(
    packets: u32,
    core: usize,
    one: impl Fn(u32) -> anyhow::Result<Option<Duration>> + Send,
) -> anyhow::Result<Times> {
    let work = || {
        pin(Some(core));
        repeat(packets, one)
    };
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

fn repeat(packets: u32, one: impl Fn(u32) -> anyhow::Result<Option<Duration>>) -> anyhow::Result<Times> {
    let mut times = Histogram::new_with_bounds(1, NS_MAX, 3)?;
    let mut lost = 0;
    for number in 0..WARM_UP + packets {
        interrupt::check()?;
        let jitter = number.wrapping_mul(0x9e37_79b9) % JITTER_US;
        thread::sleep(SILENCE + Duration::from_micros(jitter.into()));
        match one(number)? {
            Some(took) if number >= WARM_UP => {
                times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(NS_MAX).max(1));
            }
            Some(_) => {}
            // The first ones may be lost: pods that find their gateway, a daemon that was halted.
            None if number < WARM_UP => {}
            None => lost += 1,
        }
    }
    ensure!(lost <= LOST_MAX, "{lost} of {packets} single packets were lost");
    Ok(Times(times))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_hears_every_call_and_ends() {
        let sleeper = Sleeper::new(0).unwrap();
        for number in 0..3 {
            assert!(sleeper.one(number).unwrap().is_some());
        }
        let heard = Arc::clone(&sleeper.heard);
        drop(sleeper);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&heard) > 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(Arc::strong_count(&heard), 1, "the thread goes on");
    }
}
