//! How much may pass in a while: a bucket that fills at a rate, shared by all who take from it.
//!
//! It polices and does not shape: what is over is refused, and nothing waits. The bucket is one word, the moment at which
//! all that has passed is paid for (the virtual scheduling of ITU-T I.371, annex A, known as GCRA). A packet passes if that
//! moment is no further ahead than the burst takes to fill, and puts it off by its own length. So one that is longer than
//! what is left passes on credit, and the next ones pay: no length is too long for a bucket, and within any time there pass
//! at most the rate times that time, the burst, and one packet.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// The least that a bucket holds, as time to fill it. A sender of TCP that runs into an empty bucket often sees nothing more
/// of its flight, and is silent for its shortest retransmission timeout, 200 ms on Linux: a bucket that is full before that
/// is over loses of the rate what it cannot hold.
pub const BURST_MIN_MS: u64 = 250;
/// The least that a bucket holds, in bytes: at a very low rate, what a few packets need that go back and forth at the start
/// of a conversation.
pub const BURST_MIN_BYTES: u64 = 16 * 1024;

/// Parts of a cycle in which the moment is kept.
const PARTS: u64 = 256;
/// Bits behind the point of the price of a byte: at 100 Gbit/s it is a few parts.
const FRACTION_BITS: u32 = 20;
/// The furthest that a moment of any bucket is ahead, in parts of a cycle. A quarter of what the word can tell.
const FURTHEST: u64 = 1 << 62;
/// More than the length of any packet, in bytes.
const LONGEST: usize = 1 << 17;
/// How far apart the moments may be at which two take who take at once, in seconds: one of them may be interrupted.
const APART_S: u64 = 60;

/// A rate, and how much may pass at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits in a second, of Ethernet frames without their checksum.
    pub bits_per_second: NonZeroU64,
    /// Bits at once, after a while in which nothing passed.
    pub burst_bits: u64,
}

impl Rate {
    /// A rate with the burst that is asked for, or the least if that is less or none is.
    #[must_use]
    pub fn new(bits_per_second: NonZeroU64, burst_bits: Option<u64>) -> Self {
        let in_time = u128::from(bits_per_second.get()) * u128::from(BURST_MIN_MS) / 1000;
        let least = u64::try_from(in_time)
            .unwrap_or(u64::MAX)
            .max(BURST_MIN_BYTES * 8);
        Self {
            bits_per_second,
            burst_bits: burst_bits.unwrap_or_default().max(least),
        }
    }
}

/// What may pass still. Time is an argument, in cycles of a counter that all who take read.
#[derive(Debug)]
pub struct Bucket {
    /// The moment at which all that passed is paid for, in parts of a cycle, round and round.
    paid_at: AtomicU64,
    /// What a byte costs, in parts of a cycle, with a fraction.
    byte_price: u64,
    /// How far ahead that moment may be, in parts of a cycle.
    credit: u64,
    /// How far ahead that moment ever is, in parts of a cycle; beyond that it is long past.
    furthest: u64,
    /// Packets that were refused.
    refused: AtomicU64,
}

impl Bucket {
    /// A full bucket at the moment `now`, of a counter with so many cycles in a second.
    #[must_use]
    pub fn new(rate: Rate, cycles_per_second: u64, now: u64) -> Self {
        let per_bit = u128::from(cycles_per_second) * u128::from(PARTS);
        let bits_per_second = u128::from(rate.bits_per_second.get());
        let bounded = |parts: u128| u64::try_from(parts).unwrap_or(u64::MAX);
        let mut bucket = Self {
            paid_at: AtomicU64::new(now.wrapping_mul(PARTS)),
            byte_price: bounded(((per_bit * 8) << FRACTION_BITS) / bits_per_second),
            credit: bounded(u128::from(rate.burst_bits) * per_bit / bits_per_second).min(FURTHEST / 2),
            furthest: FURTHEST,
            refused: AtomicU64::new(0),
        };
        let ahead = bucket.credit.saturating_add(bucket.price(LONGEST));
        let apart = bounded(per_bit * u128::from(APART_S));
        bucket.furthest = ahead.saturating_add(apart).min(FURTHEST);
        bucket
    }

    /// Whether a packet of so many bytes may pass at the moment `now`; then it is charged for.
    #[inline]
    pub fn take(&self, bytes: usize, now: u64) -> bool {
        let now = now.wrapping_mul(PARTS);
        let price = self.price(bytes);
        // Bounded by who takes at once: where it fails another one has succeeded.
        let taken = self
            .paid_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_at| {
                let ahead = self.ahead(paid_at, now);
                (ahead <= self.credit).then(|| now.wrapping_add(ahead).wrapping_add(price))
            });
        if taken.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Packets that were refused since the bucket was made.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn price(&self, bytes: usize) -> u64 {
        let parts = (bytes as u128 * u128::from(self.byte_price)) >> FRACTION_BITS;
        u64::try_from(parts).unwrap_or(u64::MAX).min(FURTHEST / 2)
    }

    /// How far the moment is ahead; not at all if it is past. Of who was silent for just as long as the word takes to go round,
    /// nine months at 3 GHz, it seems to be ahead: then a burst's time and a minute pass until it is past.
    fn ahead(&self, paid_at: u64, now: u64) -> u64 {
        let ahead = paid_at.wrapping_sub(now);
        if ahead <= self.furthest { ahead } else { 0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HZ: u64 = 3_000_000_000;

    fn bucket(bits_per_second: u64, burst_bits: Option<u64>, now: u64) -> (Bucket, Rate) {
        let rate = Rate::new(NonZeroU64::new(bits_per_second).unwrap(), burst_bits);
        (Bucket::new(rate, HZ, now), rate)
    }

    /// The bytes that pass of packets of `bytes` each, one in every `every` cycles, within so many seconds.
    fn passed(bucket: &Bucket, start: u64, (bytes, every): (usize, u64), seconds: u64) -> u64 {
        let moments = (0..seconds * HZ / every).map(|place| start.wrapping_add(place * every));
        moments.filter(|now| bucket.take(bytes, *now)).count() as u64 * bytes as u64
    }

    #[test]
    fn in_the_long_run_the_rate_passes_to_the_packet_whatever_the_packets_length() {
        for (rate, bytes, seconds) in [
            (1_000, 60, 4000),
            (1_000_000, 1514, 60),
            (10_000_000, 60, 10),
            (10_000_000, 9014, 10),
            (999_999_937, 1514, 2),
        ] {
            // Twice as much as may pass, or somewhat more.
            let every = bytes as u64 * 8 * HZ / rate / 2;
            let (bucket, Rate { burst_bits, .. }) = bucket(rate, None, 77);
            let passed = passed(&bucket, 77, (bytes, every), seconds) as f64;
            let may = (rate * seconds + burst_bits) as f64 / 8.0;
            let over = passed - may;
            assert!(
                (-2.0 * bytes as f64..=2.0 * bytes as f64).contains(&over),
                "{rate} bit/s, {bytes} bytes: {over} bytes over {may}"
            );
        }
    }

    #[test]
    fn the_price_of_a_byte_is_exact_to_two_thousandths_at_any_rate_of_a_network() {
        for rate in [1_000, 1_000_000_000, 100_000_000_000, 800_000_000_000] {
            let (bucket, _) = bucket(rate, None, 0);
            let exact = 60.0 * 8.0 * (HZ * PARTS) as f64 / rate as f64;
            let ratio = bucket.price(60) as f64 / exact;
            assert!((0.998..=1.0).contains(&ratio), "{rate}: {ratio}");
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_one_packet_on_credit() {
        let (bucket, rate) = bucket(1_000_000, Some(8 * 100_000), 0);
        assert_eq!(rate.burst_bits, 800_000);
        let at_once = (0..1000).filter(|_| bucket.take(1000, 5)).count();
        assert_eq!((at_once, bucket.refused()), (101, 899));
        // A packet's time later there is room for one again.
        let packet = 8 * 1000 * HZ / 1_000_000;
        assert!(!bucket.take(1000, 5 + packet - 5));
        assert!(bucket.take(1000, 5 + packet));
        assert!(!bucket.take(1000, 5 + packet));
    }

    #[test]
    fn a_burst_that_is_too_small_is_raised_and_a_long_packet_is_never_stuck() {
        let burst = |rate, asked| bucket(rate, asked, 0).1.burst_bits;
        assert_eq!(burst(10_000_000, None), 2_500_000);
        assert_eq!(burst(10_000_000, Some(1)), 2_500_000);
        assert_eq!(burst(10_000_000, Some(3_000_000)), 3_000_000);
        assert_eq!(burst(1_000, Some(0)), BURST_MIN_BYTES * 8);
        assert_eq!(burst(u64::MAX, None), u64::MAX / 4);
        let (bucket, _) = bucket(1_000, None, 0);
        assert!(bucket.take(100_000, 0));
        assert!(!bucket.take(60, HZ));
    }

    #[test]
    fn who_was_silent_for_years_has_a_full_bucket_and_no_more() {
        // The word has gone round several times, or half of it, or is just about to.
        for silence in [
            0,
            1,
            HZ * 3600,
            1 << 54,
            1 << 55,
            7 << 53,
            (1 << 56) - 1,
            1 << 56,
            3 << 60,
        ] {
            let start = u64::MAX - 9;
            let (bucket, _) = bucket(1_000_000, Some(8 * 100_000), start);
            let now = start.wrapping_add(silence);
            let passed = (0..1000).filter(|_| bucket.take(1000, now)).count();
            // A cycle before the word has gone round, that cycle is owed.
            assert!((100..=101).contains(&passed), "{silence}: {passed}");
        }
    }

    #[test]
    fn the_extremes_neither_overflow_nor_stop_everything() {
        for rate in [1, 1_000, 1_000_000_000_000_000, u64::MAX] {
            for burst in [None, Some(0), Some(u64::MAX)] {
                let (bucket, _) = bucket(rate, burst, 3);
                assert!(bucket.take(65_535, 3), "{rate} {burst:?}");
                let _ = bucket.take(usize::MAX, 4);
                let _ = bucket.take(0, u64::MAX);
            }
        }
    }

    #[test]
    fn many_that_take_at_once_get_what_one_alone_would() {
        const TAKERS: usize = 4;
        let (bucket, _) = bucket(1_000_000, Some(8 * 5_000_000), 0);
        let passed: usize = std::thread::scope(|scope| {
            let bucket = &bucket;
            let taker = move || (0..4000).filter(|_| bucket.take(1000, 9)).count();
            let takers: Vec<_> = (0..TAKERS).map(|_| scope.spawn(taker)).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!((passed, bucket.refused()), (5001, (TAKERS * 4000 - 5001) as u64));
    }

    proptest! {
        /// Whatever comes and whoever's clock is behind: within no window pass more than rate, burst and one packet.
        #[test]
        fn no_window_lets_pass_more_than_it_may(
            rate in 1_000u64..1_000_000_000,
            gaps in prop::collection::vec((0u64..2_000_000, 1usize..9000), 1..400),
        ) {
            let (bucket, Rate { burst_bits, .. }) = bucket(rate, None, 0);
            let mut now = 0;
            let mut passed = Vec::new();
            for (gap, bytes) in gaps {
                now += gap;
                if bucket.take(bytes, now) {
                    passed.push((now, bytes as u64));
                }
            }
            for (place, (from, _)) in passed.iter().enumerate() {
                let mut bits = 0;
                for (to, bytes) in &passed[place..] {
                    bits += bytes * 8;
                    let time = u128::from(to - from) * u128::from(rate) / u128::from(HZ);
                    // A thousandth for what a price is rounded down.
                    let may = (time + u128::from(burst_bits)) * 1001 / 1000 + 9000 * 8;
                    prop_assert!(u128::from(bits) <= may, "{bits} bits in {time}");
                }
            }
        }
    }
}
