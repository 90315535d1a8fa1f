//! What a core is taken away for while somebody wants all of it: by the machine's host, by interrupts, by other threads. No
//! packet is faster than that.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use millrace_tools::pktgen::pin;
use serde_json::{Value, json};

use crate::statistics::{median, rounded};

/// Two looks at the clock are this far apart, in nanoseconds, where there was an interruption between them.
const LEAST_NS: u64 = 1000;
/// The longest interruption there may be, in nanoseconds.
const MOST_NS: f64 = 1e9;
/// Halvings of that until a delay is known to a nanosecond.
const HALVINGS: u32 = 30;
/// The shares of packets that wait longer, by their names.
const WHAT: [(&str, f64); 2] = [("p99", 0.01), ("p99.9", 0.001)];

/// The interruptions of some whiles.
#[derive(Debug, Default)]
pub(super) struct Interruptions(Vec<While>);

/// A while that a thread spent looking at the clock.
#[derive(Debug)]
struct While {
    ns: f64,
    /// How long each interruption was, in nanoseconds.
    gaps: Vec<u64>,
}

impl Interruptions {
    /// Looks at the clock for a while, on this core.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn watch(&mut self, core: usize, duration: Duration) -> anyhow::Result<()> {
        let watched = thread::scope(|scope| {
            let watch = || {
                pin(Some(core));
                While::of(duration)
            };
            scope.spawn(watch).join()
        });
        self.0
            .push(watched.map_err(|_| anyhow!("the thread that looks at the clock panicked"))?);
        Ok(())
    }

    /// How long so large a share of packets would wait at least, in nanoseconds: the median.
    fn ns(&self, share: f64) -> f64 {
        let delays: Vec<f64> = self.0.iter().map(|watched| watched.delay_ns(share)).collect();
        median(&delays)
    }

    /// A line of text.
    pub(super) fn line(&self) -> String {
        let [p99, p999] = WHAT.map(|(_, share)| self.ns(share) / 1000.0);
        format!(
            "a thread that only looks at the clock, on the same core, would delay packets by {p99:.1} us at p99, {p999:.1} us at p99.9"
        )
    }

    /// For the summary, in nanoseconds.
    pub(super) fn figures(&self) -> Value {
        let [p99, p999] = WHAT.map(|(name, share)| (format!("{name}_ns"), json!(rounded(self.ns(share), 0))));
        Value::Object([p99, p999].into_iter().collect())
    }
}

impl While {
    fn of(duration: Duration) -> Self {
        let start = Instant::now();
        let (mut last, mut gaps) = (start, Vec::new());
        while last.duration_since(start) < duration {
            let now = Instant::now();
            // INVARIANT: far below the 584 years that fit.
            #[allow(clippy::cast_possible_truncation)]
            let gap = now.duration_since(last).as_nanos() as u64;
            if gap >= LEAST_NS {
                gaps.push(gap);
            }
            last = now;
        }
        Self {
            ns: last.duration_since(start).as_secs_f64() * 1e9,
            gaps,
        }
    }

    /// The delay that this share of all packets exceeds, if they come at any time alike: one that comes in an interruption
    /// waits for its end.
    #[allow(clippy::cast_precision_loss)] // INVARIANT: below a second of nanoseconds.
    fn delay_ns(&self, share: f64) -> f64 {
        let beyond = |delay: f64| {
            self.gaps
                .iter()
                .map(|gap| (*gap as f64 - delay).max(0.0))
                .sum::<f64>()
        };
        let (mut low, mut high) = (0.0, MOST_NS);
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            if beyond(middle) > share * self.ns {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn packets_wait_for_the_end_of_an_interruption() {
        // 1,000,000 ns of which 100,000 are one interruption: a tenth of all packets wait, 1 % longer than 90,000 ns.
        let watched = While {
            ns: 1e6,
            gaps: vec![100_000],
        };
        assert!((watched.delay_ns(0.01) - 90_000.0).abs() < 2.0);
        assert!((watched.delay_ns(0.001) - 99_000.0).abs() < 2.0);
        assert!(watched.delay_ns(0.2) < 2.0);
    }

    #[test]
    fn a_thread_that_sleeps_nowhere_sees_most_of_its_time() {
        let mut interruptions = Interruptions::default();
        interruptions.watch(0, Duration::from_millis(5)).unwrap();
        assert!(interruptions.0[0].ns >= 5e6);
        assert!(interruptions.figures()["p99_ns"].is_f64());
    }
}
