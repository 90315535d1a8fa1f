//! A share of one core for whoever works there: a thread of higher priority takes the rest of it.
//!
//! Of each period the thread sleeps through the share, and then keeps the core busy until the period is over. The kernel's own
//! means, a quota of a control group, is enforced at its tick: with one of 4 ms a process ran for up to 4 ms and was then
//! stopped for 8, and whoever was fast emptied its ring and waited for the generator before it was stopped. Here it runs as
//! long as it should, to some microseconds, for less time than it takes to empty a ring.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_tools::pktgen::pin;

/// The length of a period. Rings of 2,048 entries run over while somebody is stopped, and hold more than can be done in
/// between.
const PERIOD: Duration = Duration::from_millis(4);
/// The thread's priority among those that go before everyone else (`SCHED_FIFO`, sched(7)).
const PRIORITY: &str = "50";

/// Takes a part of a core, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Share {
    /// Leaves so many hundredths of the core to whoever works there.
    ///
    /// # Errors
    /// When the thread does not get its priority.
    pub(crate) fn leave(core: usize, percent: u32) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            pin(Some(core));
            let is_first = go_first();
            let is_ready = is_first.is_ok();
            if tell.send(is_first).is_ok() && is_ready {
                take_rest(PERIOD * percent / 100, &seen);
            }
        });
        let share = Self {
            stop,
            thread: Some(thread),
        };
        told.recv()
            .context("the thread that takes the rest of a core has ended")??;
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// Gives the calling thread its priority.
fn go_first() -> anyhow::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let changed = Command::new("chrt")
        .args(["--fifo", "--pid", PRIORITY, &thread])
        .output()
        .context("cannot run chrt (package util-linux)")?;
    ensure!(
        changed.status.success(),
        "a thread cannot go before all others: {}",
        String::from_utf8_lossy(&changed.stderr).trim()
    );
    Ok(())
}

/// Sleeps for so long of each period, and is busy for the rest of it.
fn take_rest(left: Duration, stop: &AtomicBool) {
    let mut begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let (until, end) = (begin + left, begin + PERIOD);
        thread::sleep(until.saturating_duration_since(Instant::now()));
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        begin = end.max(Instant::now());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_works_there_has_its_share_and_no_more() {
        let _share = Share::leave(0, 25).unwrap();
        let worker = thread::spawn(|| {
            pin(Some(0));
            let start = Instant::now();
            let (mut last, mut stopped) = (start, Duration::ZERO);
            while last.duration_since(start) < 20 * PERIOD {
                let now = Instant::now();
                let gap = now.duration_since(last);
                stopped += if gap > PERIOD / 8 { gap } else { Duration::ZERO };
                last = now;
            }
            (stopped, last.duration_since(start))
        });
        let (stopped, all) = worker.join().unwrap();
        // Three quarters, and more where others want the core too.
        assert!(stopped > all / 2, "{stopped:?} of {all:?}");
    }
}
