//! The switch between real interfaces.

use super::super::figures::Figures;
use super::super::table::{Table, cell, percent, whole};

/// The frames' length that is measured by default, in bytes.
const KEY: &str = "veth/64";
/// The arms: what stands in the table, and the key.
const ARMS: [(&str, &str); 3] = [
    ("bare AF_XDP forwarder", "forwarder"),
    ("the switch, with VXLAN push", "switch"),
    ("the kernel's forwarding and vxlan", "kernel"),
];

/// What each arm did.
pub(super) fn arms(figures: &Figures) -> Option<String> {
    figures.value(KEY)?;
    let mut table = Table::new(&["", "packets/s", "offered/s", "loss", "packets/core second"]);
    for (what, arm) in ARMS {
        let figure = |name: &str| figures.number(KEY, &format!("/arms/{arm}/{name}"));
        table.row(&[
            what.to_owned(),
            cell(figure("packets_per_second"), whole),
            cell(figure("offered_per_second"), whole),
            cell(figure("loss"), percent),
            cell(figure("packets_per_core_second"), whole),
        ]);
    }
    Some(table.text())
}

/// What that is beside one another.
pub(super) fn ratios(figures: &Figures) -> Option<String> {
    figures.value(KEY)?;
    let ratio = |name: &str| cell(figures.number(KEY, name), |ratio| format!("{ratio:.2}"));
    let mut table = Table::new(&["the switch beside", "packets", "packets per core second"]);
    table.row(&[
        "the bare forwarder".to_owned(),
        ratio("/switch_of_forwarder"),
        ratio("/switch_of_forwarder_per_core_second"),
    ]);
    table.row(&[
        "the kernel".to_owned(),
        String::new(),
        ratio("/switch_of_kernel_per_core_second"),
    ]);
    Some(table.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_arm_is_a_row() {
        let all = json!({"veth/64": {
            "arms": {"switch": {"packets_per_second": 682_195.0, "offered_per_second": 1_267_671.0, "loss": 0.4622,
                                "packets_per_core_second": 1_364_573.0}},
            "switch_of_forwarder": 0.9402, "switch_of_kernel_per_core_second": 2.41,
        }});
        let all = Figures::new(all.as_object().unwrap().clone());
        let text = arms(&all).unwrap();
        assert!(
            text.contains("| the switch, with VXLAN push | 682,195 | 1,267,671 | 46.2 % | 1,364,573 |"),
            "{text}"
        );
        let text = ratios(&all).unwrap();
        assert!(text.contains("| the bare forwarder | 0.94 | – |"), "{text}");
        assert!(text.contains("| the kernel |  | 2.41 |"), "{text}");
    }
}
