//! Random numbers that cost next to nothing.

use millrace_dataplane::clock;

/// Marsaglia's xorshift64 (Journal of Statistical Software 8(14), 2003).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(clock::cycles() | 1)
    }

    /// A number below `limit`, uniformly.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // INVARIANT: the product's upper half is below `limit`.
        #[allow(clippy::cast_possible_truncation)]
        let number = (((self.0 >> 32) * u64::from(limit)) >> 32) as u32;
        number
    }
}
