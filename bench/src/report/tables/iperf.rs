//! iperf3 between pods.

use super::super::figures::Figures;
use super::super::table::{Table, cell};

/// Where the pods are, and the key.
const NODES: [(&str, &str); 2] = [("one node", "one"), ("two nodes, VXLAN", "two")];
/// Who forwards, and the key.
const WAYS: [(&str, &str); 3] = [
    ("the switch", "switch"),
    ("the kernel", "kernel"),
    ("the kernel, offloads off", "kernel-plain"),
];
const LOADS: [&str; 3] = ["tcp-1", "tcp-4", "udp"];

/// Payload that arrived, and the cores that were busy.
pub(super) fn transfers(figures: &Figures) -> Option<String> {
    figures.under("iperf/").next()?;
    let mut table = Table::new(&["", "", "TCP, 1 connection", "TCP, 4 connections", "UDP"]);
    for (place, nodes) in NODES {
        for (who, way) in WAYS {
            let mut cells = vec![place.to_owned(), who.to_owned()];
            cells.extend(LOADS.map(|load| {
                let key = format!("iperf/{nodes}/{way}/{load}");
                let cores = figures.number(&key, "/busy_cores");
                cell(figures.number(&key, "/gbps"), |gbps| {
                    format!(
                        "{gbps:.2} Gbit/s, {} cores",
                        cell(cores, |cores| format!("{cores:.1}"))
                    )
                })
            }));
            table.row(&cells);
        }
    }
    Some(table.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_way_is_a_row() {
        let all = json!({"iperf/two/switch/tcp-1": {"gbps": 1.234, "busy_cores": 1.97}});
        let text = transfers(&Figures::new(all.as_object().unwrap().clone())).unwrap();
        let row = "| two nodes, VXLAN | the switch | 1.23 Gbit/s, 2.0 cores | – | – |";
        assert!(text.contains(row), "{text}");
    }
}
