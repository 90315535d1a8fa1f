//! `millrace show networks`.

use super::output::Table;
use super::show::{list, or_nothing};
use crate::admin::protocol::NetworkRow;

/// One line for each network.
pub(super) fn table(rows: &[NetworkRow]) -> Table {
    let mut table = Table::new(&[
        "NETWORK",
        "KIND",
        ">VNI",
        ">PORT",
        "SUBNETS",
        ">MTU",
        "PORTS-HERE",
        ">STATIONS",
        "ROUTES-TO",
        "REMOTES",
        "STATE",
    ]);
    for row in rows {
        let remotes = row.remotes.iter().map(|remote| {
            let name = remote.node.clone().unwrap_or_else(|| remote.address.to_string());
            if remote.ready {
                name
            } else {
                format!("{name} (unresolved)")
            }
        });
        let remotes: Vec<String> = remotes.collect();
        table.row([
            row.network.clone(),
            row.kind.clone(),
            row.vni.to_string(),
            row.port.to_string(),
            list(&row.subnets),
            or_nothing(row.mtu.map(|mtu| mtu.to_string())),
            list(&row.members),
            // In a routed one nobody is learned.
            or_nothing((row.kind != "routed").then(|| row.stations.to_string())),
            list(&row.routes_to),
            list(&remotes),
            row.fault.clone().unwrap_or_else(|| "served".to_owned()),
        ]);
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_a_line() {
        let rows: Vec<NetworkRow> = serde_json::from_value(serde_json::json!([
            {"network": "shop/blue", "kind": "bridged", "vni": 100, "port": 8472, "subnets": ["10.9.0.0/16"],
             "mtu": 1450, "members": ["vm7", "mr1 (shop/db-0)"], "stations": 3, "fault": null,
             "remotes": [{"address": "192.0.2.2", "node": "node-b", "ready": true},
                 {"address": "192.0.2.9", "node": null, "ready": false}]},
            {"network": "shop/amber", "kind": "routed", "vni": 101, "port": 8472, "subnets": ["10.8.0.0/16"], "mtu": 1450,
             "members": ["mr2 (shop/db-0)"], "stations": 0, "fault": null, "routes_to": ["shop/cyan", "cluster"],
             "gateways": ["10.8.0.1"], "remotes": [{"address": "192.0.2.2", "node": "node-b", "mac": "02:4d:c0:00:02:02", "ready": true}]},
            {"network": "shop/red", "kind": "bridged", "vni": 1, "port": 8472, "subnets": [], "mtu": null,
             "members": [], "stations": 0, "remotes": [], "fault": "it is the cluster's own number"},
        ]))
        .unwrap();
        let text = table(&rows).render("");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains(
                "vm7,mr1 (shop/db-0)         3  -                  node-b,192.0.2.9 (unresolved)  served"
            ),
            "{text}"
        );
        assert!(
            lines[2].contains("mr2 (shop/db-0)             -  shop/cyan,cluster  node-b "),
            "{text}"
        );
        assert!(lines[3].contains("it is the cluster's own number"), "{text}");
    }
}
