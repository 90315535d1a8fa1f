//! What things cost as a node grows.

use super::super::figures::Figures;
use super::super::table::{Table, bytes, cell, two_digits, whole};

/// What grows: what stands in the table, and the key.
const AXES: [(&str, &str); 5] = [
    ("flows", "flows"),
    ("Services", "services"),
    ("policies", "policies"),
    ("ports", "ports"),
    ("workers", "workers"),
];

/// The sizes of an axis that were measured, the smallest first.
pub(in super::super) fn sizes(figures: &Figures, axis: &str) -> Vec<u32> {
    let prefix = format!("scale/{axis}/");
    let mut sizes: Vec<u32> = figures
        .under(&prefix)
        .filter_map(|(size, _)| size.parse().ok())
        .collect();
    sizes.sort_unstable();
    sizes
}

/// Every size of everything that grows.
pub(super) fn growth(figures: &Figures) -> Option<String> {
    let mut table = Table::new(&[
        "what grows",
        "to",
        "a packet",
        "a connection's first packet",
        "tables",
    ]);
    let mut seen = false;
    for (what, axis) in AXES {
        for size in sizes(figures, axis) {
            seen = true;
            let key = format!("scale/{axis}/{size}");
            let figure = |name: &str| figures.number(&key, name);
            let packet = figure("/ns")
                .zip(figure("/cycles"))
                .map(|(ns, cycles)| format!("{} ns, {}", whole(ns), whole(cycles)));
            let optional = |text: Option<String>| text.unwrap_or_default();
            table.row(&[
                what.to_owned(),
                whole(size.into()),
                packet.unwrap_or_else(|| cell(None, whole)),
                optional(figure("/first_ns").map(|ns| format!("{} ns", two_digits(ns)))),
                optional(figure("/bytes").map(bytes)),
            ]);
        }
    }
    seen.then(|| table.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_are_in_order() {
        let cost = |cycles: f64| json!({"ns": cycles / 2.0, "cycles": cycles});
        let all = json!({"scale/flows/1000": cost(150.0), "scale/flows/10": cost(140.0), "scale/flows/65536": cost(200.0),
                         "scale/services/10": {"ns": 70.0, "cycles": 140.0, "first_ns": 512.4, "bytes": 12_345}});
        let all = Figures::new(all.as_object().unwrap().clone());
        assert_eq!(sizes(&all, "flows"), [10, 1000, 65_536]);
        let text = growth(&all).unwrap();
        assert!(text.contains("| flows | 1,000 | 75 ns, 150 |  |  |"), "{text}");
        assert!(
            text.contains("| Services | 10 | 70 ns, 140 | 512 ns | 12 kB |"),
            "{text}"
        );
    }
}
