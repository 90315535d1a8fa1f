//! The tables of the pages, by the names their marks give them.

mod chain;
mod control;
mod iperf;
mod memory;
mod peers;
mod rest;
mod scale;
mod storms;
mod targets;
mod veth;

pub(super) use scale::sizes;

use super::figures::Figures;
use super::marks::Content;
use super::table::{Table, cell, two_digits, whole};
use crate::facts;

/// How a table is made of the figures; nothing if there are none for it.
type Make = fn(&Figures) -> Option<String>;

/// Every table.
const ALL: [(&str, Make); 18] = [
    ("machine", machine),
    ("memory", memory::walks),
    ("flows", memory::flows),
    ("services", control::services),
    ("policies", control::policies),
    ("veth", veth::arms),
    ("veth-ratios", veth::ratios),
    ("chain", chain::arms),
    ("chain-ratios", chain::ratios),
    ("tables", peers::tables),
    ("dpdk", peers::dpdk),
    ("wake-up", rest::wake_up),
    ("load", rest::load),
    ("scale", scale::growth),
    ("storms", storms::beside),
    ("iperf", iperf::transfers),
    ("targets-memory", targets::memory),
    ("targets", targets::others),
];

/// What is to stand where a page's mark says `name`.
pub(super) fn write(name: &str, figures: &Figures) -> Content {
    let Some((_, make)) = ALL.iter().find(|(known, _)| *known == name) else {
        return Content::Unknown(ALL.iter().map(|(known, _)| *known).collect());
    };
    make(figures).map_or(Content::Old, Content::New)
}

/// What each part was measured on.
fn machine(figures: &Figures) -> Option<String> {
    let mut runs: Vec<([String; 5], Vec<&str>)> = Vec::new();
    for (part, run) in figures.under(facts::PREFIX) {
        let text = |name: &str| run.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        let number = |name: &str| run.get(name).and_then(serde_json::Value::as_f64);
        let facts = [
            text("date").to_owned(),
            text("commit").to_owned(),
            text("kernel").to_owned(),
            cell(number("cores"), whole),
            cell(number("tsc_ghz"), |ghz| format!("{} GHz", two_digits(ghz))),
        ];
        match runs.iter_mut().find(|(known, _)| *known == facts) {
            Some((_, parts)) => parts.push(part),
            None => runs.push((facts, vec![part])),
        }
    }
    let mut table = Table::new(&["parts", "date", "commit", "kernel", "cores", "time-stamp counter"]);
    for (facts, parts) in &runs {
        let parts: Vec<_> = parts.iter().map(|part| format!("`{part}`")).collect();
        let mut cells = vec![parts.join(", ")];
        cells.extend(facts.iter().cloned());
        table.row(&cells);
    }
    (!runs.is_empty()).then(|| table.text())
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
    fn parts_of_one_run_share_a_row() {
        let facts = |commit: &str| json!({"date": "2026-01-02", "commit": commit, "kernel": "6.1.0", "cores": 2, "tsc_ghz": 2.3});
        let all = figures(
            json!({"run/memory": facts("abc"), "run/flows": facts("abc"), "run/veth": facts("def+")}),
        );
        let text = machine(&all).unwrap();
        assert!(
            text.contains("| `flows`, `memory` | 2026-01-02 | abc | 6.1.0 | 2 | 2.3 GHz |"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn no_table_is_made_of_nothing() {
        let empty = figures(json!({}));
        for (name, make) in ALL {
            assert!(make(&empty).is_none(), "{name}");
        }
    }
}
