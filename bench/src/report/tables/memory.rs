//! Walks in memory, and the flow table by itself.

use super::super::figures::Figures;
use super::super::table::{Table, cell, two_digits, whole};
use crate::memory::Family;

/// The walks in the order in which they are read; what is measured beside them comes behind.
const ORDER: [&str; 14] = [
    "forward",
    "bridge",
    "policy",
    "vxlan-push",
    "vxlan-pull",
    "ipip-push",
    "ipip-pull",
    "service",
    "service-10000",
    "chain-out",
    "chain-out-10000",
    "chain-back",
    "masquerade",
    "new-connections",
];
/// The columns: which of a family's lengths of frames, flows.
const COLUMNS: [(usize, u32); 4] = [(0, 1), (0, 65_536), (0, 1_000_000), (1, 65_536)];

/// The lengths of a walk's frames, in bytes.
fn lens(walk: &str) -> &'static [usize; 2] {
    let family = if walk.ends_with('6') {
        Family::V6
    } else {
        Family::V4
    };
    family.frame_lens()
}

/// Nanoseconds and cycles of every walk.
pub(super) fn walks(figures: &Figures) -> Option<String> {
    let mut walks: Vec<&str> = figures
        .under("")
        .filter(|(_, figure)| figure.get("cycles").is_some())
        .filter_map(|(key, _)| {
            let (walk, rest) = key.split_once('/')?;
            (rest == format!("{}/65536", lens(walk)[0])).then_some(walk)
        })
        .collect();
    walks.sort_by_key(|walk| {
        let place = ORDER.iter().position(|known| known == walk);
        (place.unwrap_or(ORDER.len()), *walk)
    });
    let heads = COLUMNS.map(|(which, flows)| {
        let len = Family::V4.frame_lens()[which];
        let flows = format!(
            "{} flow{}",
            whole(flows.into()),
            if flows == 1 { "" } else { "s" }
        );
        format!("{len} bytes, {flows}")
    });
    let mut columns = vec!["walk"];
    columns.extend(heads.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    for walk in &walks {
        let mut cells = vec![format!("`{walk}`")];
        cells.extend(COLUMNS.map(|(which, flows)| {
            let key = format!("{walk}/{}/{flows}", lens(walk)[which]);
            let cycles = figures.number(&key, "/cycles").map(whole);
            cell(figures.number(&key, "/ns"), |ns| {
                format!("{} ns, {}", whole(ns), cycles.clone().unwrap_or_default())
            })
        }));
        table.row(&cells);
    }
    (!walks.is_empty()).then(|| table.text())
}

/// Nanoseconds of every operation of the flow table.
pub(super) fn flows(figures: &Figures) -> Option<String> {
    let mut operations: Vec<(&str, &str)> = Vec::new();
    let mut counts: Vec<u32> = Vec::new();
    for (key, _) in figures.under("flows/") {
        let [family, operation, flows] = key.split('/').collect::<Vec<_>>()[..] else {
            continue;
        };
        let Ok(flows) = flows.parse() else { continue };
        if !operations.contains(&(family, operation)) {
            operations.push((family, operation));
        }
        if !counts.contains(&flows) {
            counts.push(flows);
        }
    }
    counts.sort_unstable();
    let heads: Vec<_> = counts
        .iter()
        .map(|flows| format!("{} flows", whole((*flows).into())))
        .collect();
    let mut columns = vec!["family", "operation"];
    columns.extend(heads.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    for (family, operation) in &operations {
        let mut cells = vec![(*family).to_owned(), (*operation).to_owned()];
        cells.extend(counts.iter().map(|flows| {
            let key = format!("flows/{family}/{operation}/{flows}");
            cell(figures.number(&key, "/ns"), |ns| format!("{} ns", two_digits(ns)))
        }));
        table.row(&cells);
    }
    (!operations.is_empty()).then(|| table.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figures(value: serde_json::Value) -> Figures {
        Figures::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn walks_come_in_order_and_what_is_missing_is_a_dash() {
        let cost = |cycles: f64| json!({"ns": cycles / 2.0, "cycles": cycles, "allocations": 0.0});
        let all = figures(json!({
            "chain-out/64/65536": cost(210.4), "forward/64/65536": cost(100.0), "forward/64/1": cost(80.0),
            "vxlan-push6/80/65536": cost(120.0), "flows/v4/batch/65536": {"ns": 3.0}, "veth/64": {"arms": {}},
        }));
        let text = walks(&all).unwrap();
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `forward` | 40 ns, 80 | 50 ns, 100 | – | – |",
                "| `chain-out` | – | 105 ns, 210 | – | – |",
                "| `vxlan-push6` | – | 60 ns, 120 | – | – |",
            ]
        );
    }

    #[test]
    fn operations_of_the_flow_table_have_a_column_for_each_number_of_flows() {
        let all = figures(json!({
            "flows/v4/batch/64": {"ns": 3.04}, "flows/v4/batch/1000000": {"ns": 31.0}, "flows/v6/batch/64": {"ns": 4.0},
        }));
        let text = flows(&all).unwrap();
        assert_eq!(
            text,
            "| family | operation | 64 flows | 1,000,000 flows |\n| --- | --- | --- | --- |\n\
             | v4 | batch | 3.0 ns | 31 ns |\n| v6 | batch | 4.0 ns | – |\n"
        );
    }
}
