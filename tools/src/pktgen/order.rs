//! In which order a sender takes its flows.

/// In which order flows are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    /// One after the other, round and round.
    RoundRobin,
    /// Each packet's flow drawn uniformly at random.
    Random,
    /// Each packet's flow drawn at random, flow `n` (from 1) with a probability in proportion to `1 / n^exponent`.
    Zipf {
        /// Above 0: 1 is the law as Zipf found it, more of it prefers the first flows more.
        exponent: f64,
    },
}

/// Where among several senders one stands: each takes every `of`-th flow of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Counted from 0.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl Share {
    /// The only sender's.
    pub const WHOLE: Self = Self { number: 0, of: 1 };
}

/// Draws the flow of each packet.
#[derive(Debug, Clone)]
pub(crate) struct Chooser {
    order: Order,
    share: Share,
    count: u32,
    random: Random,
    zipf: Zipf,
}

impl Chooser {
    /// Flows are numbered below `count`; `seed` makes one run's randomness another's than the next one's.
    pub(crate) fn new(order: Order, share: Share, count: u32, seed: u64) -> Self {
        let exponent = match order {
            Order::Zipf { exponent } => exponent,
            Order::RoundRobin | Order::Random => 1.0,
        };
        Self {
            order,
            share,
            count: count.max(1),
            random: Random(seed | 1),
            zipf: Zipf::new(count.max(1), exponent),
        }
    }

    /// The flow of packet `sequence`.
    #[inline]
    pub(crate) fn next(&mut self, sequence: u64) -> u32 {
        match self.order {
            Order::RoundRobin => {
                let number = sequence * u64::from(self.share.of) + u64::from(self.share.number);
                // INVARIANT: below the number of flows, which is 32 bits wide.
                u32::try_from(number % u64::from(self.count)).unwrap_or(0)
            }
            Order::Random => self.random.below(self.count),
            Order::Zipf { .. } => self.zipf.draw(&mut self.random),
        }
    }
}

/// Marsaglia's xorshift64 (Journal of Statistical Software 8(14), 2003). Its state is never zero.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    #[inline]
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`.
    #[inline]
    fn below(&mut self, limit: u32) -> u32 {
        // INVARIANT: a product of two 32-bit numbers, of which the upper half is below the second.
        #[allow(clippy::cast_possible_truncation)]
        let number = (((self.next() >> 32) * u64::from(limit)) >> 32) as u32;
        number
    }

    /// Between 0 and 1, 1 not included.
    #[inline]
    #[allow(clippy::cast_precision_loss)] // INVARIANT: 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Zipf's law over `1..=count`, drawn by rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate
/// variates from monotone discrete distributions", ACM TOMACS 6(3), 1996): no table, whatever the number of flows.
#[derive(Debug, Clone)]
struct Zipf {
    count: f64,
    exponent: f64,
    /// The integral at both ends, between which a place is drawn.
    low: f64,
    high: f64,
    /// Numbers so near above their place are taken without a second look.
    sure: f64,
}

impl Zipf {
    fn new(count: u32, exponent: f64) -> Self {
        let mut zipf = Self {
            count: f64::from(count),
            exponent,
            low: 0.0,
            high: 0.0,
            sure: 0.0,
        };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.count + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// How likely a number is, but for a common factor.
    fn weight(&self, number: f64) -> f64 {
        number.powf(-self.exponent)
    }

    /// An integral of [`Self::weight`]; that of the exponent 1 is a logarithm.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let scaled = (1.0 - self.exponent) * log;
        if scaled.abs() < 1e-8 {
            log
        } else {
            log * scaled.exp_m1() / scaled
        }
    }

    /// The inverse of [`Self::integral`].
    fn inverse(&self, y: f64) -> f64 {
        let scaled = ((1.0 - self.exponent) * y).max(-1.0);
        if scaled.abs() < 1e-8 {
            y.exp()
        } else {
            (y * scaled.ln_1p() / scaled).exp()
        }
    }

    /// A flow, numbered from 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // INVARIANT: between 1 and count.
    fn draw(&self, random: &mut Random) -> u32 {
        loop {
            let place = self.high + random.unit() * (self.low - self.high);
            let x = self.inverse(place);
            let number = x.round().clamp(1.0, self.count);
            if number - x <= self.sure || place >= self.integral(number + 0.5) - self.weight(number) {
                return number as u32 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// How often each flow is drawn.
    fn draw(order: Order, count: u32, packets: u64) -> Vec<u64> {
        let mut chooser = Chooser::new(order, Share::WHOLE, count, 0x9e37_79b9_7f4a_7c15);
        let mut drawn = vec![0; count as usize];
        for sequence in 0..packets {
            drawn[chooser.next(sequence) as usize] += 1;
        }
        drawn
    }

    #[test]
    #[allow(clippy::cast_precision_loss)]
    fn zipfs_frequencies_are_those_of_the_law() {
        const PACKETS: u64 = 2_000_000;
        for exponent in [0.5, 0.99, 1.0, 1.2, 2.5] {
            let drawn = draw(Order::Zipf { exponent }, 100, PACKETS);
            let weight = |number: usize| ((number + 1) as f64).powf(-exponent);
            let total: f64 = (0..100).map(weight).sum();
            for (number, times) in drawn.into_iter().enumerate() {
                let expected = weight(number) / total * PACKETS as f64;
                // Six standard deviations: with a fixed seed it is the same every time.
                let room = 6.0 * expected.sqrt() + 1.0;
                assert!(
                    (times as f64 - expected).abs() < room,
                    "exponent {exponent}, flow {number}: {times}, not {expected:.0}"
                );
            }
        }
    }

    #[test]
    fn one_flow_is_always_the_same_and_four_thousand_million_are_all_in_reach() {
        for order in [Order::RoundRobin, Order::Random, Order::Zipf { exponent: 1.0 }] {
            assert_eq!(draw(order, 1, 50), [50]);
            let mut chooser = Chooser::new(order, Share::WHOLE, u32::MAX, 7);
            assert!((0..1000).all(|sequence| chooser.next(sequence) < u32::MAX));
        }
    }

    #[test]
    fn uniform_is_even() {
        assert!(
            draw(Order::Random, 16, 160_000)
                .iter()
                .all(|times| (9_400..10_600).contains(times))
        );
        assert_eq!(draw(Order::RoundRobin, 7, 70), [10; 7]);
    }

    #[test]
    fn several_senders_together_take_every_flow_once_before_any_comes_again() {
        let mut taken = HashSet::new();
        for number in 0..3 {
            let mut chooser = Chooser::new(Order::RoundRobin, Share { number, of: 3 }, 300, 1);
            for sequence in 0..100 {
                assert!(
                    taken.insert(chooser.next(sequence)),
                    "sender {number}, packet {sequence}"
                );
            }
        }
        assert_eq!(taken.len(), 300);
    }
}
