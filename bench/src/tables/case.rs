//! One case: a table, and the keys that it is asked for.

use std::hint::black_box;

use anyhow::ensure;
use millrace_dataplane::clock;

use crate::measure::measured;
use crate::random::Random;

/// Lookups in a lap.
const LOOKUPS: usize = 1 << 16;

/// Whether what is asked for is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// All of it.
    Present,
    /// None of it.
    Absent,
}

/// A table and the keys of a lap.
trait Laps {
    /// Draws the keys of the next lap.
    fn draw(&mut self, random: &mut Random);

    /// Asks for all of them; answers how many were found.
    fn ask(&self) -> usize;
}

struct Table<K, D, L> {
    keys: Vec<K>,
    draw: D,
    lookup: L,
}

impl<K, D: FnMut(&mut Random) -> K, L: Fn(&K) -> bool> Laps for Table<K, D, L> {
    fn draw(&mut self, random: &mut Random) {
        self.keys.clear();
        for _ in 0..LOOKUPS {
            self.keys.push((self.draw)(random));
        }
    }

    fn ask(&self) -> usize {
        let mut found = 0;
        for key in &self.keys {
            found += usize::from((self.lookup)(black_box(key)));
        }
        found
    }
}

/// A case of the bench.
pub(crate) struct Case {
    key: String,
    asked: Asked,
    table: Box<dyn Laps>,
}

impl Case {
    /// A case with this key in the summary; `draw` makes a key, and `lookup` looks it up: with the whole of what it found
    /// handed to [`black_box`], or it might be left out.
    pub(crate) fn new<K: 'static, V>(
        key: String,
        asked: Asked,
        draw: impl FnMut(&mut Random) -> K + 'static,
        lookup: impl Fn(&K) -> Option<V> + 'static,
    ) -> Self {
        let table = Table {
            keys: Vec::with_capacity(LOOKUPS),
            draw,
            lookup: move |key: &K| black_box(lookup(key)).is_some(),
        };
        Self {
            key,
            asked,
            table: Box::new(table),
        }
    }

    /// Its key in the summary.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// One lap, in cycles for each lookup.
    ///
    /// # Errors
    /// When something else is found than what is there, and when a lookup allocates.
    pub(crate) fn lap(&mut self, random: &mut Random) -> anyhow::Result<f64> {
        self.table.draw(random);
        let ((found, cycles), info) = measured(|| {
            let began = clock::cycles();
            let found = self.table.ask();
            (found, clock::cycles().wrapping_sub(began))
        });
        let expected = match self.asked {
            Asked::Present => LOOKUPS,
            Asked::Absent => 0,
        };
        ensure!(
            found == expected,
            "{}: {found} of {LOOKUPS} were found; {expected} would be right",
            self.key
        );
        ensure!(
            info.count_total == 0,
            "{} allocates, and must not: {} times",
            self.key,
            info.count_total
        );
        // INVARIANT: far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let each = cycles as f64 / LOOKUPS as f64;
        Ok(each)
    }
}
