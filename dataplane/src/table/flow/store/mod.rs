//! The flow table in words: what is shared by all workers, without a lock.

/// What is kept as a fixed number of words.
pub trait Words: Copy {
    /// How many.
    const LEN: usize;

    /// The word at `place`, below [`Self::LEN`].
    fn word(&self, place: usize) -> u64;

    /// The value of such words.
    fn from_words(word: impl Fn(usize) -> u64) -> Self;
}
