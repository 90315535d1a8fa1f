//! Several windows of one subject, and whether it was the limit in them.

use std::time::Duration;

use anyhow::bail;
use millrace_dataplane::worker::BATCH_MAX;
use serde_json::{Value, json};

use super::{Bed, Direction, Window};
use crate::statistics::{median, rounded};

/// The shares of its core that a process gets, in hundredths, until it is the bottleneck.
const SHARES: [u32; 6] = [100, 75, 50, 35, 25, 15];
/// A node that loses less than this share of the packets may not be the bottleneck.
const LOSS_MIN: f64 = 0.05;
/// Neither may one whose batches are less full than this: who is faster than its packets takes a few at a time.
const BATCH_FILL_MIN: f64 = 0.25;
/// The kernel, which holds the generator up rather than lose packets, is the bottleneck when its core is this busy.
const KERNEL_CORE_SHARE_MIN: f64 = 0.9;
/// A share is small enough when whoever has it loses this much: a ratio is that of two who had too much to do all the
/// time, not of one who now and then waited.
const DROWNING_LOSS: f64 = 0.25;
/// How long one share is tried.
const TRIAL: Duration = Duration::from_secs(1);

/// What was measured of one subject.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Its key in the summary.
    pub(crate) name: String,
    /// Whether its share of its core was limited; else it may have had all of it.
    is_limited: bool,
    pub(crate) windows: Vec<Window>,
}

impl Measured {
    /// Nothing yet, of what stands in a bed.
    pub(crate) fn of(name: &str, bed: &Bed) -> Self {
        Self {
            name: name.to_owned(),
            is_limited: bed.is_limited(),
            windows: Vec::new(),
        }
    }

    /// The median of something over all windows.
    pub(crate) fn median(&self, of: impl Fn(&Window) -> f64) -> f64 {
        median(&self.windows.iter().map(of).collect::<Vec<_>>())
    }

    /// Packets that arrived, per second.
    pub(crate) fn rate(&self) -> f64 {
        self.median(Window::delivered_per_second)
    }

    /// Packets that arrived, per second of processor time.
    pub(crate) fn efficiency(&self) -> f64 {
        self.median(Window::per_core_second)
    }

    /// Whether it was the bottleneck, by medians, as all figures are: something else on the machine may spoil a round.
    pub(crate) fn is_saturated(&self) -> bool {
        let busy = !self.is_limited && self.median(Window::core_share) >= KERNEL_CORE_SHARE_MIN;
        let batches: Vec<f64> = self
            .windows
            .iter()
            .filter_map(|window| window.mean_batch)
            .collect();
        let full = batches.is_empty() || median(&batches) >= full_batch();
        busy || (self.median(Window::loss) >= LOSS_MIN && full)
    }

    /// For the summary.
    pub(crate) fn figures(&self) -> Value {
        let rates: Vec<f64> = self
            .windows
            .iter()
            .map(|window| rounded(window.delivered_per_second(), 0))
            .collect();
        json!({
            "packets_per_second": rounded(self.rate(), 0),
            "offered_per_second": rounded(self.median(Window::offered_per_second), 0),
            "loss": rounded(self.median(Window::loss), 4),
            "core_share": rounded(self.median(Window::core_share), 4),
            "packets_per_core_second": rounded(self.efficiency(), 0),
            "mean_batch": self.windows.last().and_then(|window| window.mean_batch).map(|mean| rounded(mean, 1)),
            "saturated": self.is_saturated(),
            "rounds": rates,
        })
    }

    /// The head of [`Self::row`].
    pub(crate) fn head() -> String {
        format!(
            "{:<24}{:>12}{:>14}{:>9}{:>12}{:>22}{:>12}",
            "", "packets/s", "offered/s", "loss", "core share", "packets/core second", "mean batch"
        )
    }

    /// A line of a table.
    pub(crate) fn row(&self) -> String {
        let batch = self.windows.last().and_then(|window| window.mean_batch);
        format!(
            "{:<24}{:>12.0}{:>14.0}{:>8.1}%{:>11.1}%{:>22.0}{:>12}",
            self.name,
            self.rate(),
            self.median(Window::offered_per_second),
            self.median(Window::loss) * 100.0,
            self.median(Window::core_share) * 100.0,
            self.efficiency(),
            batch.map_or("-".to_owned(), |batch| format!("{batch:.1}")),
        )
    }
}

/// Tries smaller and smaller shares of the core, in hundredths, until with one nobody stays `afloat`, and answers it.
///
/// # Errors
/// When somebody always does, for the generator is too slow; and what `afloat` fails with.
pub(crate) fn find_share(
    mut afloat: impl FnMut(u32) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<u32> {
    let mut last = String::new();
    for share in SHARES {
        match afloat(share)? {
            None => return Ok(share),
            Some(who) => last = format!("with {share} % of a core {who}"),
        }
    }
    bail!("the generator is too slow to make everyone the bottleneck: even {last}")
}

/// Whether whoever stands in this bed can take about all packets that come: then who it is, and how it does.
///
/// # Errors
/// When it fails, and on an interrupt.
pub(crate) fn afloat(
    bed: &mut Bed,
    direction: Direction,
    warm_up: Duration,
) -> anyhow::Result<Option<String>> {
    let window = Window::measure(bed, direction, warm_up, TRIAL)?;
    let (loss, batch) = (window.loss(), window.mean_batch);
    let is_drowning = loss >= DROWNING_LOSS && batch.is_none_or(|mean| mean >= full_batch());
    Ok((!is_drowning).then(|| {
        let batch = batch.map_or(String::new(), |mean| format!(", in batches of {mean:.0}"));
        format!(
            "{} ({}) loses {:.0} %{batch}",
            bed.name(),
            direction.name(),
            loss * 100.0
        )
    }))
}

/// How many packets a batch has at least that did not wait for packets.
fn full_batch() -> f64 {
    // INVARIANT: a small constant.
    #[allow(clippy::cast_precision_loss)]
    let most = BATCH_MAX as f64;
    most * BATCH_FILL_MIN
}
