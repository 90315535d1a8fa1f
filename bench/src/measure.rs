//! One measurement: what some work takes from the heap, and times as they are written down.

use std::time::Duration;

use allocation_counter::AllocationInfo;
use serde_json::Value;

use crate::statistics::rounded;

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
