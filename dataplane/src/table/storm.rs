//! How much may come of a location in a second: of frames to be flooded, by all workers, or of lessons, by one.
//!
//! A location's state is one word, the moment until which all that has passed is paid for (the virtual scheduling of
//! ITU-T I.371, annex A, known as GCRA). A frame passes if that moment is no further ahead than the burst takes, and puts it
//! off by what one frame costs. Time is an argument, in cycles of a counter that all workers read.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Location, RemoteId};
use crate::port::PortId;

/// A rate, and how much may pass at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StormLimit {
    /// What a frame costs, in cycles.
    price: u64,
    /// How far ahead the moment may be when a frame passes, in cycles.
    credit: u64,
}

impl StormLimit {
    /// So many a second and, after a while in which there were none, so many at once; one at least. The counter has
    /// so many cycles in a second.
    #[must_use]
    pub fn new(packets_per_second: NonZeroU32, burst: u32, cycles_per_second: u64) -> Self {
        let price = (cycles_per_second / u64::from(packets_per_second.get())).max(1);
        Self {
            price,
            credit: price.saturating_mul(u64::from(burst.saturating_sub(1))),
        }
    }
}

/// What each location has had pass.
#[derive(Debug)]
pub struct Storms {
    ports: Box<[AtomicU64]>,
    remotes: Box<[AtomicU64]>,
}

impl Default for Storms {
    fn default() -> Self {
        let silent = |count: u16| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            ports: silent(PortId::LIMIT),
            remotes: silent(RemoteId::LIMIT),
        }
    }
}

impl Storms {
    /// Whether one more of a location may pass at the moment `now`; then it is counted. The switch's own always may.
    #[inline]
    #[must_use]
    pub fn may_pass(&self, from: Location, limit: StormLimit, now: u64) -> bool {
        let paid_until = match from {
            Location::Switch => None,
            Location::Port(port) => self.ports.get(port.index()),
            Location::Remote(remote) => self.remotes.get(remote.index()),
        };
        let Some(paid_until) = paid_until else { return true };
        // Bounded by who floods at once: where it fails another one has succeeded.
        let paid = paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            let from = until.max(now);
            (from - now <= limit.credit).then(|| from.saturating_add(limit.price))
        });
        paid.is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HZ: u64 = 1_000_000;

    fn limit(rate: u32, burst: u32) -> StormLimit {
        StormLimit::new(NonZeroU32::new(rate).unwrap(), burst, HZ)
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_for_each_location_alone() {
        let storms = Storms::default();
        let limit = limit(100, 10);
        let [port, remote] = [
            Location::Port(PortId::new(4095).unwrap()),
            Location::Remote(RemoteId::new(4095).unwrap()),
        ];
        let passed = |from, now| (0..100).filter(|_| storms.may_pass(from, limit, now)).count();
        assert_eq!((passed(port, 7 * HZ), passed(remote, 7 * HZ)), (10, 10));
        // One in ten thousand cycles.
        assert_eq!(passed(port, 7 * HZ + 9_999), 0);
        assert_eq!(passed(port, 7 * HZ + 10_000), 1);
        assert_eq!(
            passed(port, 8 * HZ),
            10,
            "a whole second later no more than the burst"
        );
        assert_eq!(passed(Location::Switch, 0), 100);
    }

    #[test]
    fn in_the_long_run_the_rate_passes() {
        let storms = Storms::default();
        let limit = limit(1_000, 1);
        let from = Location::Port(PortId::new(0).unwrap());
        let passed = (0..10 * HZ)
            .step_by(100)
            .filter(|now| storms.may_pass(from, limit, HZ + now));
        assert_eq!(passed.count(), 10_000);
    }

    #[test]
    fn workers_that_flood_at_once_get_what_one_would() {
        let storms = Storms::default();
        let limit = limit(1, 5000);
        let from = Location::Port(PortId::new(1).unwrap());
        let passed: usize = std::thread::scope(|scope| {
            let storms = &storms;
            let flooder = move || (0..4000).filter(|_| storms.may_pass(from, limit, 9)).count();
            let flooders: Vec<_> = (0..4).map(|_| scope.spawn(flooder)).collect();
            flooders.into_iter().map(|flooder| flooder.join().unwrap()).sum()
        });
        assert_eq!(passed, 5000);
    }
}
