//! Numbers drawn from a seed: the same on every machine, so that a seed stands for a case.

/// A generator of random numbers (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    /// True so many times of a hundred.
    pub(crate) fn percent(&mut self, times: usize) -> bool {
        self.below(100) < times
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// So many different ones of several, or all there are, in their order.
    pub(crate) fn some<T: Copy>(&mut self, count: usize, of: &[T]) -> Vec<T> {
        let mut left = count.min(of.len());
        let mut chosen = Vec::new();
        for (place, one) in of.iter().enumerate() {
            if self.below(of.len() - place) < left {
                chosen.push(*one);
                left -= 1;
            }
        }
        chosen
    }
}
