//! `millrace show load-balancers`.

use super::output::Table;
use super::show::{list, or_nothing};
use crate::admin::protocol::LoadBalancerRow;

/// A row for each address, and for what was refused.
pub(super) fn table(rows: &[LoadBalancerRow]) -> Table {
    let mut table = Table::new(&[
        "ADDRESS",
        "POOL",
        "SERVICES",
        "STATE",
        "ANNOUNCED-BY",
        ">SINCE",
        "REASON",
    ]);
    for row in rows {
        let claimed = row.claimed_by.as_ref().map(|mac| format!("{mac} has it too"));
        table.row([
            or_nothing(row.address.map(|address| address.to_string())),
            or_nothing(row.pool.clone()),
            list(&row.services),
            row.state.clone(),
            or_nothing(row.announced_by.clone()),
            or_nothing(row.since_seconds.map(|seconds| format!("{seconds} s"))),
            or_nothing(row.reason.clone().or(claimed)),
        ]);
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_refusals_have_their_rows() {
        let rows: Vec<LoadBalancerRow> = serde_json::from_value(serde_json::json!([
            {"address": "192.0.2.80", "pool": "public", "services": ["default/a", "default/b"], "state": "announced",
             "announced_by": "node-a", "since_seconds": 12, "claimed_by": "02:00:00:00:00:02", "reason": null},
            {"address": null, "pool": null, "services": ["default/c"], "state": "refused", "announced_by": null,
             "since_seconds": null, "claimed_by": null, "reason": "there is no pool `x` in [load-balancer]"},
        ]))
        .unwrap();
        let text = table(&rows).render("");
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            [
                "192.0.2.80",
                "public",
                "default/a,default/b",
                "announced",
                "node-a",
                "12",
                "s",
                "02:00:00:00:00:02",
                "has",
                "it",
                "too"
            ]
        );
        assert_eq!(lines[2][..6], ["-", "-", "default/c", "refused", "-", "-"]);
        assert!(text.contains("there is no pool `x`"), "{text}");
    }
}
