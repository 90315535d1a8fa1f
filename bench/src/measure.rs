//! One measurement: what some work takes from the heap, how long laps of it take, and times as they are written down.

use std::time::Duration;

use allocation_counter::AllocationInfo;
use millrace_dataplane::clock::Clock;
use serde_json::{Value, json};

use crate::statistics::{median, rounded};

/// What comes of `work`, and what it took from the heap.
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> (T, AllocationInfo) {
    let mut done = None;
    let info = allocation_counter::measure(|| done = Some(work()));
    // INVARIANT: the closure ran.
    #[allow(clippy::expect_used)]
    let done = done.expect("the work was done");
    (done, info)
}

pub(crate) fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// Nanoseconds as milliseconds.
pub(crate) fn ms(nanoseconds: f64) -> Value {
    rounded(nanoseconds / 1e6, 3).into()
}

/// What each step of something cost in every lap of it, in cycles of the time-stamp counter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Laps(Vec<f64>);

impl Laps {
    /// Prints the head of a table of laps.
    pub(crate) fn print_head() {
        println!(
            "{:<40}{:>10}{:>10}{:>22}",
            "", "ns", "cycles", "cycles, best-worst"
        );
    }

    /// One lap more.
    pub(crate) fn push(&mut self, cycles: f64) {
        self.0.push(cycles);
    }

    /// The cycles of a step, by the median.
    pub(crate) fn cycles(&self) -> f64 {
        median(&self.0)
    }

    /// Its nanoseconds.
    pub(crate) fn ns(&self) -> f64 {
        // INVARIANT: far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let per_second = Clock::calibrated().cycles_per_second() as f64;
        self.cycles() * 1e9 / per_second
    }

    /// Prints a row of a table.
    pub(crate) fn print(&self, name: &str) {
        let (best, worst) = self.0.iter().fold((f64::MAX, 0f64), |(best, worst), lap| {
            (best.min(*lap), worst.max(*lap))
        });
        println!(
            "{name:<40}{:>10.1}{:>10.1}{:>22}",
            self.ns(),
            self.cycles(),
            format!("{best:.1}-{worst:.1}")
        );
    }

    /// As written down.
    pub(crate) fn figures(&self) -> Value {
        json!({
            "ns": rounded(self.ns(), 2),
            "cycles": rounded(self.cycles(), 2),
            "laps": self.0.len(),
        })
    }
}
