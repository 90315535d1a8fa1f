//! `millrace show services`, and the Services of `millrace stats`.

use super::output::{Table, grouped};
use super::show::{list, or_nothing};
use crate::admin::protocol::{EndpointRow, ServiceCounts, ServicePortRow, ServiceRow};

/// Most endpoints of one port that are listed; JSON has all.
const ENDPOINTS_SHOWN: usize = 8;

/// A row for each port of a Service; one for a Service without any, with the reason in place of endpoints.
pub(super) fn table(rows: &[ServiceRow]) -> Table {
    let mut table = Table::new(&[
        "SERVICE",
        "TYPE",
        "CLUSTER-IPS",
        "EXTERNAL-IPS",
        "PORT",
        ">NODE-PORT",
        "POLICY",
        ">CONNECTIONS",
        "ENDPOINTS",
    ]);
    for row in rows {
        if row.ports.is_empty() {
            let [name, kind, cluster, external] = head(row, None);
            let none = [NONE, NONE, NONE, NONE].map(str::to_owned);
            let why = match &row.external_name {
                Some(name) => format!("{}: {name}", row.state),
                None => row.state.clone(),
            };
            table.row(
                [name, kind, cluster, external]
                    .into_iter()
                    .chain(none)
                    .chain([why]),
            );
        }
        for port in &row.ports {
            let ends = [
                described(port),
                or_nothing(port.node_port.map(|port| port.to_string())),
                policy(row),
                grouped(port.connections),
                endpoints(&port.endpoints),
            ];
            table.row(head(row, Some(&port.family)).into_iter().chain(ends));
        }
    }
    table
}

const NONE: &str = "-";

/// Name, type, and the addresses of one family, or all.
fn head(row: &ServiceRow, family: Option<&str>) -> [String; 4] {
    let of_family = |addresses: &[std::net::IpAddr]| {
        let wanted = addresses
            .iter()
            .filter(|address| family.is_none_or(|family| (family == "IPv6") == address.is_ipv6()));
        wanted.copied().collect::<Vec<_>>()
    };
    let outside = [of_family(&row.external_ips), of_family(&row.load_balancer_ips)];
    [
        row.service.clone(),
        row.kind.clone(),
        list(of_family(&row.cluster_ips)),
        list(outside.concat()),
    ]
}

fn described(port: &ServicePortRow) -> String {
    let number = format!("{}/{}", port.port, port.protocol);
    if port.name.is_empty() {
        number
    } else {
        format!("{} {number}", port.name)
    }
}

/// What is not as it usually is.
fn policy(row: &ServiceRow) -> String {
    let mut words = Vec::new();
    if row.internal_policy == "Local" {
        words.push("internal-local".to_owned());
    }
    if row.external_policy.as_deref() == Some("Local") {
        words.push("external-local".to_owned());
    }
    if let Some(timeout_s) = row.affinity_s {
        words.push(format!("affinity-{timeout_s}s"));
    }
    if !row.source_ranges.is_empty() {
        words.push("source-ranges".to_owned());
    }
    if !row.refused.is_empty() {
        words.push(format!("refused-{}", row.refused.len()));
    }
    list(words)
}

/// Endpoints that are used; after them, in brackets, those that are not.
fn endpoints(rows: &[EndpointRow]) -> String {
    let shown = rows.iter().take(ENDPOINTS_SHOWN).map(|endpoint| {
        let at = std::net::SocketAddr::new(endpoint.address, endpoint.port);
        match (endpoint.used, endpoint.state.as_str()) {
            (true, "ready") => at.to_string(),
            (true, state) => format!("{at} ({state})"),
            (false, state) => format!("[{at} {state}]"),
        }
    });
    let mut words: Vec<String> = shown.collect();
    if let Some(more) = rows.len().checked_sub(ENDPOINTS_SHOWN).filter(|more| *more > 0) {
        words.push(format!("and {more} more"));
    }
    list(words)
}

/// A row for each endpoint that was given connections, below that of its Service's port.
pub(super) fn counts(rows: &[ServiceCounts]) -> Table {
    let mut table = Table::new(&["SERVICE", "PORT", "ENDPOINT", ">CONNECTIONS"]);
    for row in rows {
        let port = format!("{}/{}", row.port, row.protocol);
        table.row([
            row.service.clone(),
            port,
            NONE.to_owned(),
            grouped(row.connections),
        ]);
        for endpoint in &row.endpoints {
            let at = std::net::SocketAddr::new(endpoint.address, endpoint.port);
            let indent = [String::new(), String::new()];
            table.row(
                indent
                    .into_iter()
                    .chain([at.to_string(), grouped(endpoint.connections)]),
            );
        }
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(rows: serde_json::Value) -> Vec<String> {
        let rows: Vec<ServiceRow> = serde_json::from_value(rows).unwrap();
        table(&rows).render("").lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_port_to_a_row_with_what_is_unusual() {
        let endpoint = |address: &str, state: &str, used: bool| {
            json!({"address": address, "port": 8080, "state": state, "used": used, "local": false, "pod": null,
                "connections": 5})
        };
        let web = json!({"service": "default/web", "type": "LoadBalancer", "state": "programmed",
            "external_name": null, "cluster_ips": ["10.96.0.10", "fd00::10"], "external_ips": [],
            "load_balancer_ips": ["192.0.2.80"], "internal_policy": "Cluster", "external_policy": "Local",
            "affinity_s": 10800, "source_ranges": [], "health_check_node_port": 30999,
            "refused": ["status.loadBalancer.ingress: 192.0.2.81 TCP 80: not its own"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "node_port": 30080, "family": "IPv4",
                "connections": 1234, "endpoints": [endpoint("10.244.1.2", "ready", true),
                endpoint("10.244.2.2", "terminating", false)]}]});
        let name = json!({"service": "default/db", "type": "ExternalName", "state": "dns-only",
            "external_name": "db.example.org", "cluster_ips": [], "external_ips": [], "load_balancer_ips": [],
            "internal_policy": "Cluster", "external_policy": null, "affinity_s": null, "source_ranges": [],
            "health_check_node_port": null, "refused": [], "ports": []});
        assert_eq!(
            lines(json!([name, web])),
            [
                "SERVICE      TYPE          CLUSTER-IPS  EXTERNAL-IPS  PORT         NODE-PORT  \
                 POLICY                                    CONNECTIONS  ENDPOINTS",
                "default/db   ExternalName  -            -             -                    -  \
                 -                                                   -  dns-only: db.example.org",
                "default/web  LoadBalancer  10.96.0.10   192.0.2.80    http 80/TCP      30080  \
                 external-local,affinity-10800s,refused-1        1,234  10.244.1.2:8080,[10.244.2.2:8080 terminating]",
            ]
        );
    }

    #[test]
    fn many_endpoints_are_cut() {
        let rows: Vec<EndpointRow> = (0..20_u8)
            .map(|last| EndpointRow {
                address: [10, 0, 0, last].into(),
                port: 80,
                state: "ready".to_owned(),
                used: true,
                local: true,
                pod: None,
                connections: 0,
            })
            .collect();
        assert!(endpoints(&rows).ends_with("10.0.0.7:80,and 12 more"));
        assert_eq!(endpoints(&[]), "-");
    }

    #[test]
    fn counts_stand_below_their_service() {
        let rows: Vec<ServiceCounts> =
            serde_json::from_value(json!([{"service": "a/b", "protocol": "UDP", "port": 53,
            "connections": 3000, "endpoints": [{"address": "fd00::1", "port": 53, "connections": 3000}]}]))
            .unwrap();
        let page = counts(&rows).render("");
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(
            lines,
            [
                "SERVICE  PORT    ENDPOINT      CONNECTIONS",
                "a/b      53/UDP  -                   3,000",
                "                 [fd00::1]:53        3,000",
            ]
        );
    }
}
