//! Lookups alone: in the switch's tables, and beside those of DPDK.

use super::super::figures::Figures;
use super::super::table::{Table, cell, two_digits, whole};

/// Every lookup of the tables.
pub(super) fn tables(figures: &Figures) -> Option<String> {
    list(figures, "tables/")
}

/// Every figure of DPDK's, with the one of ours beside it.
pub(super) fn dpdk(figures: &Figures) -> Option<String> {
    list(figures, "dpdk/")
}

/// Nanoseconds and cycles of everything under a prefix.
fn list(figures: &Figures, prefix: &str) -> Option<String> {
    let mut rows: Vec<(String, &str)> = figures
        .under(prefix)
        .filter(|(_, figure)| figure.get("ns").is_some())
        .map(|(key, _)| (order(key), key))
        .collect();
    rows.sort();
    let mut table = Table::new(&["", "ns", "cycles"]);
    for (_, key) in &rows {
        let whole_key = format!("{prefix}{key}");
        table.row(&[
            format!("`{key}`"),
            cell(figures.number(&whole_key, "/ns"), two_digits),
            cell(figures.number(&whole_key, "/cycles"), whole),
        ]);
    }
    (!rows.is_empty()).then(|| table.text())
}

/// A key that sorts by the size of the numbers in it.
fn order(key: &str) -> String {
    let part = |part: &str| {
        part.parse::<u64>()
            .map_or_else(|_| part.to_owned(), |number| format!("{number:020}"))
    };
    key.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_sort_by_their_size() {
        let cost = |ns: f64| json!({"ns": ns, "cycles": ns * 2.3, "laps": 9});
        let all = json!({"tables/route/v4/1000": cost(8.31), "tables/route/v4/64": cost(3.2), "dpdk/memory": "none",
                         "dpdk/hash/bulk/rte_hash": cost(20.0), "dpdk/hash/bulk/flows": cost(19.0)});
        let all = Figures::new(all.as_object().unwrap().clone());
        let text = tables(&all).unwrap();
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            ["| `route/v4/64` | 3.2 | 7 |", "| `route/v4/1000` | 8.3 | 19 |"]
        );
        assert_eq!(dpdk(&all).unwrap().lines().count(), 4);
    }
}
