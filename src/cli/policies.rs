//! `millrace show policies`, `millrace explain` and `millrace denied`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::output::{self, Table, grouped, understand};
use crate::admin::client::Client;
use crate::admin::protocol::{DeniedPackets, DeniedRow, Explain, Explanation, Failure, PolicyRow, Request};
use crate::daemon::explain_alone;

/// How often the daemon is asked what was denied.
const DENIED_PAUSE: Duration = Duration::from_millis(250);

/// A row for each rule.
pub(super) fn table(rows: &[PolicyRow]) -> Table {
    let mut table = Table::new(&[
        "POLICY",
        "TIER",
        "FOR",
        ">PODS",
        "SIDE",
        ">RULE",
        "ACTION",
        "PEERS",
        ">CONNECTIONS",
    ]);
    for row in rows {
        let head = || {
            [
                row.policy.clone(),
                row.tier.clone(),
                row.subject.clone(),
                row.pods.to_string(),
            ]
        };
        if row.rules.is_empty() {
            table.row(
                head()
                    .into_iter()
                    .chain(["-", "-", "-", "-", "-"].map(str::to_owned)),
            );
        }
        for rule in &row.rules {
            let number = rule.rule.map_or_else(|| "-".to_owned(), |rule| rule.to_string());
            let name = rule
                .name
                .as_ref()
                .map_or(number.clone(), |name| format!("{number} {name}"));
            let rest = [
                rule.side.clone(),
                name,
                rule.action.clone(),
                rule.peers.clone(),
                grouped(rule.connections),
            ];
            table.row(head().into_iter().chain(rest));
        }
    }
    table
}

/// Asks whether a connection would be allowed; says so, and answers it with the exit status.
pub(super) fn explain(socket: &Path, ask: Explain, is_json: bool) -> Result<(), Failure> {
    let (answer, explanation) = match (Client::connect(socket), &ask.manifests) {
        // Manifests can be asked about where no switch runs.
        (Err(_), Some(folder)) => {
            let explanation = explain_alone(&ask, folder)?;
            let answer = serde_json::to_value(&explanation);
            (
                answer.map_err(|error| Failure::failed(error.to_string()))?,
                explanation,
            )
        }
        (client, _) => {
            let answer = client?.request(&Request::Explain(ask))?;
            (answer.clone(), understand(answer)?)
        }
    };
    conclude(&answer, &explanation, is_json, "allowed")
}

/// Says what every stage says, and whether it would be what `word` says; answers that with the exit status.
pub(super) fn conclude(
    answer: &Value,
    explanation: &Explanation,
    is_json: bool,
    word: &str,
) -> Result<(), Failure> {
    output::print(&if is_json {
        output::json(answer)?
    } else {
        explained(explanation, word)
    })?;
    if explanation.allowed {
        return Ok(());
    }
    Err(Failure::failed(format!("it would not be {word}")))
}

fn explained(explanation: &Explanation, word: &str) -> String {
    let mut text = String::new();
    for stage in &explanation.stages {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<12}{}", stage.stage, stage.answer);
    }
    let not = if explanation.allowed { "" } else { "not " };
    format!("{text}{not}{word}\n")
}

/// Shows what policies deny, from now on: for a while, or until Ctrl-C.
pub(super) fn denied(socket: &Path, is_followed: bool, is_json: bool) -> Result<(), Failure> {
    let mut client = Client::connect(socket)?;
    let mut lost_before = None;
    let rounds = if is_followed { usize::MAX } else { 8 };
    for _ in 0..rounds {
        let packets: DeniedPackets = understand(client.request(&Request::Denied)?)?;
        for row in &packets.rows {
            let line = if is_json {
                serde_json::to_string(row).map_err(|error| Failure::failed(error.to_string()))?
            } else {
                denied_line(row)
            };
            output::print(&(line + "\n"))?;
        }
        let lost = packets.lost - lost_before.unwrap_or(packets.lost);
        lost_before = Some(packets.lost);
        if lost > 0 {
            output::print(&if is_json {
                format!("{{\"lost\":{lost}}}\n")
            } else {
                format!("{} more were denied\n", grouped(lost))
            })?;
        }
        std::thread::sleep(DENIED_PAUSE);
    }
    Ok(())
}

fn denied_line(row: &DeniedRow) -> String {
    let end = |address: std::net::IpAddr, pod: &Option<String>| match pod {
        Some(pod) => format!("{pod} ({address})"),
        None => address.to_string(),
    };
    let port = row.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let service = row
        .service
        .map(|address| format!(", sent to {address}"))
        .unwrap_or_default();
    format!(
        "{} -> {}{port} {}{service}: {} denied by {} ({})",
        end(row.source, &row.source_pod),
        end(row.destination, &row.destination_pod),
        row.protocol,
        row.side,
        row.by,
        row.packets
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::admin::protocol::ExplainedStage;

    #[test]
    fn words_for_a_person() {
        let row = DeniedRow {
            source: "10.244.1.2".parse().unwrap(),
            source_pod: Some("shop/web".into()),
            destination: "10.244.1.3".parse().unwrap(),
            destination_pod: None,
            service: Some("10.96.0.1".parse().unwrap()),
            protocol: "TCP".into(),
            port: Some(80),
            side: "ingress".into(),
            by: "NetworkPolicy shop/deny, which isolates the pod for ingress".into(),
            packets: 3,
        };
        assert_eq!(
            denied_line(&row),
            "shop/web (10.244.1.2) -> 10.244.1.3 port 80 TCP, sent to 10.96.0.1: ingress denied by NetworkPolicy shop/deny, which isolates the pod for ingress (3)"
        );
        let explanation = Explanation {
            allowed: false,
            stages: vec![ExplainedStage {
                stage: "egress".into(),
                answer: "shop/web: allowed".into(),
            }],
        };
        assert_eq!(
            explained(&explanation, "allowed"),
            "egress      shop/web: allowed\nnot allowed\n"
        );
    }
}
