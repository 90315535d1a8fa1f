//! Rows of bits, one bit a rule.

use std::collections::HashMap;

/// Some of a rule set's rules, by their places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleBits(Box<[u64]>);

impl RuleBits {
    /// None of `rules` rules.
    #[must_use]
    pub fn none(rules: usize) -> Self {
        Self(vec![0; words(rules)].into_boxed_slice())
    }

    /// Puts the rule at `place` in.
    pub fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// As a row has them.
    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    /// Takes the rule at `place` out.
    pub(super) fn remove(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word &= !(1 << (place % 64));
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// How many words that many rules take; at least one.
pub(super) fn words(rules: usize) -> usize {
    rules.div_ceil(64).max(1)
}

/// The place of a row among its [`Rows`].
pub(super) type RowId = u32;

/// Rows of one length, each once.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    words: usize,
    bits: Vec<u64>,
}

impl Rows {
    /// The row without a rule, which is always there.
    pub(super) const EMPTY: RowId = 0;

    /// Without any row but the empty one.
    pub(super) fn new(rules: usize) -> Self {
        let words = words(rules);
        Self {
            words,
            bits: vec![0; words],
        }
    }

    /// A row's words. One that is not there is empty.
    #[inline]
    pub(super) fn get(&self, row: RowId) -> &[u64] {
        let at = row as usize * self.words;
        match self.bits.get(at..at + self.words) {
            Some(words) => words,
            None => &self.bits[..self.words],
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.bits.len() / self.words
    }

    /// Finds a row, or adds it. Looks at every row: for one at a time.
    pub(super) fn place(&mut self, row: &RuleBits) -> RowId {
        let found = self
            .bits
            .chunks_exact(self.words)
            .position(|known| *known == *row.0);
        match found {
            Some(place) => place_of(place),
            None => self.push(row),
        }
    }

    fn push(&mut self, row: &RuleBits) -> RowId {
        self.copy(&row.0)
    }

    /// Adds a row of another table, whether or not it is there.
    pub(super) fn copy(&mut self, words: &[u64]) -> RowId {
        let place = place_of(self.len());
        self.bits.extend_from_slice(words);
        place
    }

    pub(super) fn memory(&self) -> usize {
        self.bits.capacity() * size_of::<u64>()
    }
}

/// INVARIANT: rows are at most as many as stations and ranges, far fewer than 2^32.
#[allow(clippy::cast_possible_truncation)]
fn place_of(place: usize) -> RowId {
    place as RowId
}

/// Rows in the making: finds each that is there already by its hash.
#[derive(Debug)]
pub(super) struct RowMaker {
    rows: Rows,
    known: HashMap<RuleBits, RowId>,
}

impl RowMaker {
    pub(super) fn new(rules: usize) -> Self {
        Self {
            rows: Rows::new(rules),
            known: HashMap::from([(RuleBits::none(rules), Rows::EMPTY)]),
        }
    }

    pub(super) fn place(&mut self, row: &RuleBits) -> RowId {
        if let Some(place) = self.known.get(row) {
            return *place;
        }
        let place = self.rows.push(row);
        self.known.insert(row.clone(), place);
        place
    }

    pub(super) fn finish(mut self) -> Rows {
        self.rows.bits.shrink_to_fit();
        self.rows
    }
}
