//! The summary, as the report reads it.

use serde_json::{Map, Value};

/// All figures of all parts.
pub(super) struct Figures(Map<String, Value>);

impl Figures {
    pub(super) fn new(all: Map<String, Value>) -> Self {
        Self(all)
    }

    /// A figure: `key` is the summary's, `pointer` leads to it from there (RFC 6901; empty if the key is the figure).
    pub(super) fn number(&self, key: &str, pointer: &str) -> Option<f64> {
        self.value(key)?.pointer(pointer)?.as_f64()
    }

    /// What stands under a key.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Everything whose key starts with `prefix`, with the rest of the key.
    pub(super) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0
            .iter()
            .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
    }
}
