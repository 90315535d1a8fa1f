//! How many packets are due now.

use millrace_dataplane::clock::Clock;

/// The wait from which on a generator sleeps (half of it at a time) instead of looking again: a shorter sleep would
/// often end too late, since the kernel's timers have a slack of 50 us.
const SLEEP_FROM_US: u64 = 200;

/// A rate that packets are sent at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    cycles_per_packet: Option<f64>,
    sleep_from: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send so many packets.
    Packets(u64),
    /// Look again at once.
    Spin,
    /// Sleep for some microseconds.
    SleepUs(u64),
}

impl Pace {
    /// `packets_per_second`, or as fast as it goes.
    pub(crate) fn new(packets_per_second: Option<u64>, clock: Clock) -> Self {
        // INVARIANT: both are far below 2^52, so that nothing is lost.
        #[allow(clippy::cast_precision_loss)]
        let cycles_per_packet =
            packets_per_second.map(|rate| clock.cycles_per_second() as f64 / rate.max(1) as f64);
        Self {
            cycles_per_packet,
            sleep_from: clock.from_us(SLEEP_FROM_US),
        }
    }

    /// What is due `elapsed` cycles after the start, when `sent` packets have gone, in batches of at most `batch`.
    ///
    /// A generator that was held up sends what it missed as fast as it can, so that the rate holds over the run.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub(crate) fn due(&self, elapsed: u64, sent: u64, batch: u64) -> Due {
        let Some(cycles_per_packet) = self.cycles_per_packet else {
            return Due::Packets(batch);
        };
        // INVARIANT: years of cycles are below 2^63, and all terms are positive.
        let due = (elapsed as f64 / cycles_per_packet) as u64 + 1;
        match due.saturating_sub(sent) {
            0 => {
                let next = (sent as f64 * cycles_per_packet) as u64;
                let wait = next.saturating_sub(elapsed);
                if wait < self.sleep_from {
                    Due::Spin
                } else {
                    Due::SleepUs(SLEEP_FROM_US / 2)
                }
            }
            packets => Due::Packets(packets.min(batch)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_the_run() {
        let clock = Clock::calibrated();
        let second = clock.cycles_per_second();
        let pace = Pace::new(Some(1_000_000), clock);
        assert_eq!(pace.due(0, 0, 64), Due::Packets(1), "the first goes at once");
        assert_eq!(pace.due(second.div_ceil(100_000), 0, 64), Due::Packets(11));
        assert_eq!(
            pace.due(second, 10, 64),
            Due::Packets(64),
            "what was missed comes in full batches"
        );
        assert_eq!(pace.due(second, 2_000_000, 64), Due::SleepUs(SLEEP_FROM_US / 2));
        assert_eq!(pace.due(second, 1_000_010, 64), Due::Spin);
        assert_eq!(Pace::new(None, clock).due(0, u64::MAX, 64), Due::Packets(64));
    }
}
