//! The highest rate that was found, over some searches.

use millrace_tools::pktgen::search::Found;
use serde_json::{Value, json};

use crate::statistics::{median, rounded};

/// What the searches found so far.
#[derive(Debug, Default)]
pub(super) struct Highest(Vec<Found>);

impl Highest {
    /// Takes down what a search found.
    pub(super) fn note(&mut self, found: Option<Found>) {
        self.0.extend(found);
    }

    fn median(&self, of: impl Fn(&Found) -> f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| median(&self.0.iter().map(of).collect::<Vec<_>>()))
    }

    /// Whether the generator was the limit, in most searches.
    fn is_generators_limit(&self) -> bool {
        let limited = self.0.iter().filter(|found| found.is_generators_limit).count();
        limited * 2 > self.0.len()
    }

    /// A cell of a table; a plus where what is tested may do more.
    pub(super) fn cell(&self) -> String {
        let more = if self.is_generators_limit() { "+" } else { "" };
        self.median(|found| found.rate)
            .map_or("-".to_owned(), |rate| format!("{rate:.0}{more}"))
    }

    /// For the summary: medians, and what each search found.
    pub(super) fn figures(&self) -> Option<Value> {
        let rates: Vec<f64> = self.0.iter().map(|found| rounded(found.rate, 0)).collect();
        Some(json!({
            "packets_per_second": rounded(self.median(|found| found.rate)?, 0),
            "loss": rounded(self.median(|found| found.loss)?, 6),
            "generator_was_the_limit": self.is_generators_limit(),
            "searches": rates,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(rate: f64, is_generators_limit: bool) -> Found {
        Found {
            loss_allowed: 0.0,
            rate,
            loss: 0.0,
            is_generators_limit,
            verified: 1,
        }
    }

    #[test]
    fn one_search_that_was_disturbed_changes_little() {
        let mut highest = Highest::default();
        assert_eq!((highest.cell(), highest.figures()), ("-".to_owned(), None));
        for (rate, limited) in [(300_000.0, true), (20_000.0, false), (310_000.0, true)] {
            highest.note(Some(found(rate, limited)));
        }
        highest.note(None);
        assert_eq!(highest.cell(), "300000+");
        let figures = highest.figures().unwrap();
        assert_eq!(figures["packets_per_second"], json!(300_000.0));
        assert_eq!(figures["searches"], json!([300_000.0, 20_000.0, 310_000.0]));
    }
}
