//! What the control plane costs: Services and policies.

use super::super::figures::Figures;
use super::super::table::{Table, bytes, cell, two_digits};

/// How a figure is written.
type Write = fn(f64) -> String;

fn ms(value: f64) -> String {
    format!("{} ms", two_digits(value))
}

fn ns(value: f64) -> String {
    format!("{} ns", two_digits(value))
}

/// What a row says, the figure's name, and how it is written.
const SERVICES: [(&str, &str, Write); 8] = [
    ("all of them parsed", "parse_ms", ms),
    ("all of them compiled, to the workers", "load_ms", ms),
    ("one of them changes: its file parsed", "change_parse_ms", ms),
    (
        "one of them changes, from parsed objects to the workers",
        "change_ms",
        ms,
    ),
    ("a new connection's backend chosen", "decision_ns", ns),
    ("tables for consistent hashing", "lookup_tables_bytes", bytes),
    ("compiler and tables together", "compiler_bytes", bytes),
    ("store of objects", "store_bytes", bytes),
];

/// Loading, changing and asking, with few Services and with many.
pub(super) fn services(figures: &Figures) -> Option<String> {
    let mut table = Table::new(&["", "10 Services", "10,000 Services"]);
    let mut seen = false;
    for (what, name, write) in SERVICES {
        let figure = |services: u32| figures.number(&format!("services/{services}/{name}"), "");
        let (few, many) = (figure(10), figure(10_000));
        seen |= few.is_some() || many.is_some();
        table.row(&[what.to_owned(), cell(few, write), cell(many, write)]);
    }
    seen.then(|| table.text())
}

/// What a row says, the names of the median and of the worst, and how they are written.
const POLICIES: [(&str, &str, Option<&str>, Write); 9] = [
    (
        "a pod's label changes, from parsed objects to the workers",
        "label_ms",
        Some("label_worst_ms"),
        ms,
    ),
    (
        "of that, all objects checked against one another",
        "label_check_ms",
        None,
        ms,
    ),
    ("a new pod", "new_pod_ms", Some("new_pod_worst_ms"), ms),
    ("a policy changes", "policy_ms", Some("policy_worst_ms"), ms),
    ("everything compiled anew", "rebuild_ms", None, ms),
    (
        "a new connection judged, few rules on the pod",
        "few_rules_judgement_ns",
        None,
        ns,
    ),
    (
        "a new connection judged, 1,000 rules on the pod",
        "many_rules_judgement_ns",
        None,
        ns,
    ),
    ("tables and compiler", "bytes", None, bytes),
    ("of that, what the workers read", "table_bytes", None, bytes),
];

/// Compiling, changing and judging.
pub(super) fn policies(figures: &Figures) -> Option<String> {
    let mut table = Table::new(&["", "median", "worst"]);
    let mut seen = false;
    for (what, name, worst, write) in POLICIES {
        let figure = |name: &str| figures.number(&format!("policies/{name}"), "");
        let median = figure(name);
        seen |= median.is_some();
        let worst = worst.map_or_else(String::new, |name| cell(figure(name), write));
        table.row(&[what.to_owned(), cell(median, write), worst]);
    }
    seen.then(|| table.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_stand_with_their_units() {
        let all = json!({
            "services/10/load_ms": 0.73, "services/10000/load_ms": 172.7, "services/10000/decision_ns": 51.3,
            "policies/label_ms": 11.03, "policies/label_worst_ms": 12.2, "policies/bytes": 6_979_632,
        });
        let all = Figures::new(all.as_object().unwrap().clone());
        let text = services(&all).unwrap();
        assert!(
            text.contains("| all of them compiled, to the workers | 0.73 ms | 173 ms |"),
            "{text}"
        );
        assert!(text.contains("backend chosen | – | 51 ns |"), "{text}");
        let text = policies(&all).unwrap();
        assert!(text.contains("to the workers | 11 ms | 12 ms |"), "{text}");
        assert!(text.contains("| tables and compiler | 7.0 MB |  |"), "{text}");
    }
}
