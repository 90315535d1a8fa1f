//! The switch at rest, and under load.

use super::super::figures::Figures;
use super::super::table::{Table, cell, two_digits, whole};

/// The rows of the wake-up: what stands in the table, and the key.
const SLEEPERS: [(&str, &str); 3] = [
    ("a packet that finds the worker asleep", "sleep"),
    ("a packet that finds it polling", "poll"),
    ("for scale: to wake a thread that sleeps at a pipe", "thread"),
];

fn us(value: f64) -> String {
    format!("{} µs", two_digits(value))
}

/// How long one packet takes after a silence.
pub(super) fn wake_up(figures: &Figures) -> Option<String> {
    let key = "idle/wake-up";
    figures.value(key)?;
    let mut table = Table::new(&["", "p50", "p90", "p99"]);
    for (what, arm) in SLEEPERS {
        let at = |name: &str| cell(figures.number(key, &format!("/{arm}/{name}")), us);
        table.row(&[what.to_owned(), at("p50_us"), at("p90_us"), at("p99_us")]);
    }
    Some(table.text())
}

/// What `millrace stats` says of a worker's load.
pub(super) fn load(figures: &Figures) -> Option<String> {
    let mut rows: Vec<(u32, &str)> = figures
        .under("idle/load/")
        .map(|(share, _)| (share.parse().unwrap_or(u32::MAX), share))
        .collect();
    rows.sort_unstable();
    let mut table = Table::new(&["sent, of what it can take", "packets/s", "forwarded/s", "load"]);
    for (_, share) in &rows {
        let key = format!("idle/load/{share}");
        let what = if share.parse::<u32>().is_ok() {
            format!("{share} %")
        } else {
            "more".to_owned()
        };
        table.row(&[
            what,
            cell(figures.number(&key, "/offered_per_second"), whole),
            cell(figures.number(&key, "/forwarded_per_second"), whole),
            cell(figures.number(&key, "/load_permille"), |permille| {
                format!("{:.1} %", permille / 10.0)
            }),
        ]);
    }
    (!rows.is_empty()).then(|| table.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn loads_come_in_the_order_of_their_rates() {
        let load_of = |permille: u32| json!({"offered_per_second": 1000, "forwarded_per_second": 999, "load_permille": permille});
        let all = json!({"idle/load/0": load_of(0), "idle/load/10": load_of(131), "idle/load/90": load_of(880),
                         "idle/load/flood": load_of(998), "idle/load/50": load_of(600)});
        let text = load(&Figures::new(all.as_object().unwrap().clone())).unwrap();
        let shares: Vec<_> = text
            .lines()
            .skip(2)
            .filter_map(|row| row.split(" | ").next())
            .collect();
        assert_eq!(shares, ["| 0 %", "| 10 %", "| 50 %", "| 90 %", "| more"]);
        assert!(text.contains("| 10 % | 1,000 | 999 | 13.1 % |"), "{text}");
    }

    #[test]
    fn a_wake_up_is_in_microseconds() {
        let all = json!({"idle/wake-up": {"sleep": {"p50_us": 12.34, "p90_us": 20.0, "p99_us": 48.0}}});
        let text = wake_up(&Figures::new(all.as_object().unwrap().clone())).unwrap();
        assert!(text.contains("asleep | 12 µs | 20 µs | 48 µs |"), "{text}");
    }
}
