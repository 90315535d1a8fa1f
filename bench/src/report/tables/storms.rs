//! Established traffic beside storms.

use super::super::figures::Figures;
use super::super::table::{Table, cell, percent, whole};

/// The rows: what stands in the table, and the key.
const STORMS: [(&str, &str); 7] = [
    ("frames between known stations, one port", "ordinary"),
    ("the same, two ports", "ordinary-2"),
    ("MAC flood, to a known station", "mac-flood"),
    ("MAC flood, to an unknown one", "mac-flood-unknown"),
    ("stations that move to and fro, two ports", "moves"),
    ("broadcasts, far above the limit", "broadcasts"),
    (
        "a trickle of strangers, and no more established traffic than fits",
        "mac-trickle",
    ),
];
/// How many of them are no storms but what these are set beside.
const ORDINARY: usize = 2;

/// What gets through, and what a storm's frame costs.
pub(super) fn beside(figures: &Figures) -> Option<String> {
    let mut table = Table::new(&[
        "beside",
        "gets through",
        "worst round",
        "frames/s of it",
        "cost beside ordinary",
    ]);
    let mut seen = false;
    for (what, storm) in STORMS {
        let at = |name: &str| figures.number(&format!("storms/{storm}"), &format!("/{name}"));
        seen |= at("rate").is_some();
        table.row(&[
            what.to_owned(),
            cell(at("rate"), percent),
            cell(at("worst"), percent),
            cell(at("storm_per_second"), whole),
            cell(at("cost"), |cost| format!("{cost:.2}")),
        ]);
    }
    seen.then(|| table.text())
}

/// What gets through beside the worst storm.
pub(super) fn worst(figures: &Figures) -> Option<f64> {
    let storms = STORMS.iter().skip(ORDINARY);
    let rates = storms.filter_map(|(_, storm)| figures.number(&format!("storms/{storm}"), "/rate"));
    rates.reduce(f64::min)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_worst_is_that_of_a_storm() {
        let of = |rate: f64, cost: f64| json!({"rate": rate, "worst": 0.9, "storm_per_second": 1_234_567, "cost": cost});
        let all = json!({
            "storms/ordinary": {"rate": 0.5, "worst": 0.4, "storm_per_second": 2_000_000},
            "storms/moves": of(0.97, 1.1), "storms/mac-flood": of(0.99, 1.25),
        });
        let figures = Figures::new(all.as_object().unwrap().clone());
        assert_eq!(worst(&figures), Some(0.97));
        let text = beside(&figures).unwrap();
        assert!(
            text.contains("| MAC flood, to a known station | 99.0 % | 90.0 % | 1,234,567 | 1.25 |"),
            "{text}"
        );
        assert_eq!(worst(&Figures::new(serde_json::Map::new())), None);
    }
}
