//! How many answers may be sent: a limit for all, and within it a share for each sender.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_dataplane::table::{HashKey, NetworkId};

/// Answers that may be sent at once after a quiet time.
pub(super) const BURST: u32 = 50;
/// Of those, answers that one sender may get.
pub(super) const BURST_PER_SOURCE: u32 = BURST / 2;
/// One sender may get this fraction of the rate, so that it takes several to silence the switch for the others.
pub(super) const SOURCES_AT_FULL_RATE: u32 = 4;
/// Buckets for senders; two senders that fall into one share it.
const SOURCE_BUCKETS: usize = 1024;

/// The pace of a token bucket.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// The time in which one token comes in.
    interval: Duration,
    /// How far the bucket may run ahead of the clock: the time in which all but one token of a burst come in.
    tolerance: Duration,
}

impl Pace {
    /// `None` if there is to be nothing at all.
    fn new(per_second: u64, burst: u32) -> Option<Self> {
        let interval = Duration::from_nanos(1_000_000_000_u64.checked_div(per_second)?);
        Some(Self {
            interval,
            tolerance: interval.saturating_mul(burst.saturating_sub(1)),
        })
    }
}

/// A token bucket as the one instant at which it is full again (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// The bucket with one token less, if there is one.
    fn taken(self, pace: Pace, now: Instant) -> Option<Self> {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let ahead = full_at.duration_since(now);
        (ahead <= pace.tolerance).then(|| Self {
            full_at: full_at.checked_add(pace.interval),
        })
    }
}

/// Limits answers by a token bucket for all of them and one for each sender that gets them.
#[derive(Debug)]
pub(crate) struct Limiter {
    paces: Option<(Pace, Pace)>,
    all: Bucket,
    sources: Vec<Bucket>,
    /// Which bucket a sender falls into must not be for senders to choose.
    key: HashKey,
}

impl Limiter {
    /// A limiter that lets `per_second` answers pass in the long run; none if it is zero.
    pub(crate) fn new(per_second: usize, key: HashKey) -> Self {
        let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        let share = per_second.div_ceil(u64::from(SOURCES_AT_FULL_RATE));
        let paces = Pace::new(per_second, BURST).zip(Pace::new(share, BURST_PER_SOURCE));
        Self {
            paces,
            all: Bucket::default(),
            sources: vec![Bucket::default(); SOURCE_BUCKETS],
            key,
        }
    }

    /// Whether `source` may get an answer now; if so, it counts.
    pub(crate) fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        self.take_in(NetworkId::CLUSTER, source, now)
    }

    /// The same for who has that address in this network.
    pub(crate) fn take_in(&mut self, network: NetworkId, source: IpAddr, now: Instant) -> bool {
        let Some((pace, share)) = self.paces else {
            return false;
        };
        let place = self.bucket(network, source);
        let Some(bucket) = self.sources.get_mut(place) else {
            return false;
        };
        let (Some(all), Some(one)) = (self.all.taken(pace, now), bucket.taken(share, now)) else {
            return false;
        };
        (self.all, *bucket) = (all, one);
        true
    }

    fn bucket(&self, network: NetworkId, source: IpAddr) -> usize {
        let bits = match source {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        // INVARIANT: both are halves of 128 bits, and the remainder is below SOURCE_BUCKETS.
        #[allow(clippy::cast_possible_truncation)]
        let place = {
            let words = [(bits >> 64) as u64, bits as u64, u64::from(network.number())];
            self.key.hash(words) as usize % SOURCE_BUCKETS
        };
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: usize = 100;

    fn limiter(rate: usize) -> Limiter {
        Limiter::new(rate, HashKey::from_words([1, 2, 3]))
    }

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// Answers that get through when each of `sources` senders asks `each` times at `now`.
    fn passed(limiter: &mut Limiter, sources: u8, each: u32, now: Instant) -> u32 {
        let asked = (0..each).flat_map(|_| (0..sources).map(source));
        asked.map(|source| u32::from(limiter.take(source, now))).sum()
    }

    #[test]
    fn senders_fall_into_different_buckets() {
        let limiter = limiter(RATE);
        let buckets: std::collections::HashSet<_> = (0..8)
            .map(|n| limiter.bucket(NetworkId::CLUSTER, source(n)))
            .collect();
        assert_eq!(buckets.len(), 8, "the other tests rest on it");
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut limiter = limiter(RATE);
        let start = Instant::now();
        assert_eq!(passed(&mut limiter, 8, 100, start), BURST);
        assert_eq!(passed(&mut limiter, 8, 100, start), 0);
        let tenth = start + Duration::from_millis(100);
        assert_eq!(passed(&mut limiter, 8, 100, tenth), 10);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(
            passed(&mut limiter, 8, 100, much_later),
            BURST,
            "no more than a burst is saved up"
        );
    }

    #[test]
    fn one_sender_cannot_take_it_all() {
        let mut limiter = limiter(RATE);
        let start = Instant::now();
        assert_eq!(passed(&mut limiter, 1, 1000, start), BURST_PER_SOURCE);
        assert!(
            limiter.take(source(7), start),
            "another sender still gets its answer"
        );
        let second = start + Duration::from_secs(1);
        let share = u32::try_from(RATE).unwrap_or(0) / SOURCES_AT_FULL_RATE;
        assert_eq!(passed(&mut limiter, 1, 1000, second), share);
    }

    #[test]
    fn a_refusal_costs_nothing() {
        let mut limiter = limiter(RATE);
        let start = Instant::now();
        passed(&mut limiter, 8, 100, start);
        // Asking all the time does not postpone the next token.
        let allowed: u32 = (1..=1000)
            .map(|ms| passed(&mut limiter, 8, 1, start + Duration::from_millis(ms)))
            .sum();
        assert_eq!(allowed, 100);
    }

    #[test]
    fn zero_means_none_and_the_largest_rate_works() {
        let now = Instant::now();
        assert_eq!(passed(&mut limiter(0), 8, 10, now), 0);
        for rate in [1, 1_000_000, usize::MAX] {
            assert!(limiter(rate).take(source(1), now), "{rate}");
        }
    }
}
