//! Which rules are about an address, or about a port: ranges cut where a rule begins or ends to matter.

use super::rows::{RowId, RowMaker, Rows, RuleBits};

/// What ranges are made of.
pub(super) trait Key: Copy + Ord {
    /// The next one, if there is one.
    fn next(self) -> Option<Self>;
}

impl Key for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Key for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// A rule matters from the first key to the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<K> {
    pub(super) first: K,
    pub(super) last: K,
    /// The rule's place.
    pub(super) rule: usize,
}

/// From each key to a row: a binary search over at most two cuts for every span.
#[derive(Debug, Clone)]
pub(super) struct RangeMap<K> {
    /// Where another row begins, ascending.
    starts: Box<[K]>,
    /// The row from there on.
    rows: Box<[RowId]>,
}

impl<K: Key> RangeMap<K> {
    /// Cuts the keys where spans begin and end. Spans of one rule may overlap.
    pub(super) fn build(spans: &[Span<K>], rules: usize, maker: &mut RowMaker) -> Self {
        // Ends first would be wrong as well as right: the row counts only once all of a key's events are seen.
        let mut events: Vec<(K, usize, bool)> = Vec::with_capacity(spans.len() * 2);
        for span in spans.iter().filter(|span| span.first <= span.last) {
            events.push((span.first, span.rule, true));
            events.extend(span.last.next().map(|after| (after, span.rule, false)));
        }
        events.sort_unstable_by_key(|(key, ..)| *key);
        let mut depth = vec![0_i64; rules];
        let mut row = RuleBits::none(rules);
        let (mut starts, mut rows) = (Vec::new(), Vec::new());
        for at_key in events.chunk_by(|a, b| a.0 == b.0) {
            for (_, rule, begins) in at_key {
                let Some(depth) = depth.get_mut(*rule) else {
                    continue;
                };
                *depth += if *begins { 1 } else { -1 };
            }
            for (_, rule, _) in at_key {
                if depth.get(*rule).is_some_and(|depth| *depth > 0) {
                    row.insert(*rule);
                } else {
                    row.remove(*rule);
                }
            }
            let place = maker.place(&row);
            if rows.last() != Some(&place) {
                starts.extend(at_key.first().map(|(key, ..)| *key));
                rows.push(place);
            }
        }
        Self {
            starts: starts.into_boxed_slice(),
            rows: rows.into_boxed_slice(),
        }
    }

    /// The row of a key.
    #[inline]
    pub(super) fn row(&self, key: K) -> RowId {
        let after = self.starts.partition_point(|start| *start <= key);
        let row = after.checked_sub(1).and_then(|place| self.rows.get(place));
        row.copied().unwrap_or(Rows::EMPTY)
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.rows)
    }
}
