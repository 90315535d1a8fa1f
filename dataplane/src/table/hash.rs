//! A keyed hash for small fixed-size keys: flows, neighbours.
//!
//! Every step multiplies two secret-masked 64-bit words and folds the 128-bit product, so one step costs one
//! multiplication. The secret is drawn when the process starts: who does not know it cannot choose keys that fall on
//! one value. It is no cryptographic hash: who could see many hash values next to their keys might find the secret,
//! so a hash value itself never leaves the switch; of a flow's hash a peer sees at most the bits of a port number.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

/// The secret of a keyed hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey {
    start: u64,
    step: u64,
    finish: u64,
}

impl HashKey {
    /// A new secret from the operating system's entropy.
    #[must_use]
    pub fn random() -> Self {
        // The standard library's hasher is SipHash with a key from the operating system: its outputs for fixed
        // inputs are as secret as that key.
        let source = RandomState::new();
        Self::from_words([
            source.hash_one(0_u8),
            source.hash_one(1_u8),
            source.hash_one(2_u8),
        ])
    }

    /// The secret that these words make; for tests, and to share one between processes.
    #[must_use]
    pub const fn from_words(words: [u64; 3]) -> Self {
        let [start, step, finish] = words;
        // An odd factor is never zero, which would fold everything to zero.
        Self {
            start,
            step: step | 1,
            finish: finish | 1,
        }
    }

    /// Hashes a key of `N` words.
    #[inline(always)]
    #[must_use]
    pub const fn hash<const N: usize>(&self, words: [u64; N]) -> u64 {
        let mut state = self.start;
        let mut i = 0;
        while i < N {
            // INVARIANT: i < N is the array's length.
            state = fold(state ^ words[i], self.step);
            i += 1;
        }
        fold(state ^ self.start, self.finish)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// The two halves of the product, folded.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    // INVARIANT: both are halves of 128 bits.
    #[allow(clippy::cast_possible_truncation)]
    let halves = ((product >> 64) as u64, product as u64);
    halves.0 ^ halves.1
}

impl BuildHasher for HashKey {
    type Hasher = KeyedHasher;

    #[inline]
    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher {
            key: *self,
            state: self.start,
        }
    }
}

/// [`HashKey::hash`] for the standard library's maps.
#[derive(Debug, Clone)]
pub struct KeyedHasher {
    key: HashKey,
    state: u64,
}

impl Hasher for KeyedHasher {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.key.step);
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.write_u64(u64::from_le_bytes(last));
        self.write_u64(bytes.len() as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        fold(self.state ^ self.key.start, self.key.finish)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_secret_decides() {
        let (a, b) = (HashKey::random(), HashKey::random());
        let differs = (0..64).filter(|word| a.hash([*word]) != b.hash([*word])).count();
        assert!(differs >= 60, "two secrets agree on {} of 64 keys", 64 - differs);
        assert_eq!(a.hash([1, 2]), a.hash([1, 2]));
        assert!(!format!("{a:?}").contains(char::is_numeric));
    }

    /// Keys as an attacker without the secret would choose them: they differ in few bits, at every place.
    #[test]
    fn near_keys_spread_over_every_bucket() {
        for round in 0..8 {
            let key = HashKey::random();
            for (low, high) in [(0, 0), (20, 0), (0, 32), (48, 16)] {
                let mut buckets = [0_u32; 256];
                for i in 0..16_384_u64 {
                    let hash = key.hash([(i & 0x7f) << low, (i >> 7) << high]);
                    buckets[(hash >> 56) as usize] += 1;
                }
                let fullest = buckets.iter().max().unwrap();
                assert!(
                    *fullest < 2 * 64,
                    "round {round}: a bucket with {fullest} of 64 on average"
                );
            }
        }
    }

    #[test]
    fn the_hasher_sees_every_byte_and_the_length() {
        let key = HashKey::random();
        let hashes: HashSet<u64> = (0..32).map(|len| key.hash_one(&vec![0_u8; len][..])).collect();
        assert_eq!(hashes.len(), 32);
        let mut one = key.build_hasher();
        one.write_u64(7);
        assert_eq!(one.finish(), key.hash([7]));
    }
}
