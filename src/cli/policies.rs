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

/// A row for each rule; where there are policies of networks beside the cluster's own, with the network.
pub(super) fn table(rows: &[PolicyRow]) -> Table {
    let has_networks = rows.iter().any(|row| row.network.is_some());
    let columns = [
        "POLICY",
        "NETWORK",
        "TIER",
        "FOR",
        ">PODS",
        "SIDE",
        ">RULE",
        "ACTION",
        "PEERS",
        ">CONNECTIONS",
    ];
    let shown = |column: &&str| has_networks || *column != "NETWORK";
    let mut table = Table::new(&columns.into_iter().filter(shown).collect::<Vec<_>>());
    for row in rows {
        let network = row.network.clone().map(|network| match network.as_str() {
            "" => "none".to_owned(),
            _ => network,
        });
        let network = has_networks.then(|| network.unwrap_or_else(|| "-".to_owned()));
        let head = || {
            let rest = [row.tier.clone(), row.subject.clone(), row.pods.to_string()];
            [row.policy.clone()]
                .into_iter()
                .chain(network.clone())
                .chain(rest)
        };
        if row.rules.is_empty() {
            table.row(head().chain(["-", "-", "-", "-", "-"].map(str::to_owned)));
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
            table.row(head().chain(rest));
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
        // Less than before, where a network has gone with its log.
        let lost = packets.lost.saturating_sub(lost_before.unwrap_or(packets.lost));
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
    let network = row.network.as_ref();
    let network = network.map_or_else(String::new, |network| format!(" in network {network}"));
    let service = row
        .service
        .map(|address| format!(", sent to {address}"))
        .unwrap_or_default();
    format!(
        "{} -> {}{port} {}{service}{network}: {} denied by {} ({})",
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

    fn policy(policy: &str, network: Option<&str>) -> PolicyRow {
        PolicyRow {
            policy: policy.into(),
            network: network.map(str::to_owned),
            tier: "NetworkPolicy".into(),
            subject: "shop/*".into(),
            pods: 2,
            rules: Vec::new(),
        }
    }

    #[test]
    fn networks_are_shown_where_policies_are_for_some() {
        let own = policy("NetworkPolicy shop/a", None);
        let text = table(std::slice::from_ref(&own)).render("");
        assert!(!text.contains("NETWORK "), "{text}");
        let others = [
            policy("MultiNetworkPolicy shop/b", Some("shop/red")),
            policy("MultiNetworkPolicy shop/c", Some("")),
        ];
        let rows = [&[own][..], &others].concat();
        let text = table(&rows).render("");
        let column: Vec<&str> = text
            .lines()
            .map(|line| line.split_whitespace().nth(2).unwrap())
            .collect();
        assert_eq!(column[1..], ["-", "shop/red", "none"], "{text}");
    }

    #[test]
    fn words_for_a_person() {
        let row = DeniedRow {
            source: "10.244.1.2".parse().unwrap(),
            source_pod: Some("shop/web".into()),
            destination: "10.244.1.3".parse().unwrap(),
            destination_pod: None,
            network: None,
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
        let row = DeniedRow {
            service: None,
            network: Some("shop/red".into()),
            ..row
        };
        assert!(denied_line(&row).contains("10.244.1.3 port 80 TCP in network shop/red: ingress denied by"));
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
