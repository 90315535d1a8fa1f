//! A picture of everything about the machine's network that Millrace could change.

use std::collections::BTreeSet;

use millrace_tools::lab::plan::UPLINK;

use crate::rig::{Rig, await_that};

/// Lines that say how the machine is.
#[derive(Debug, Clone)]
pub(crate) struct Picture(BTreeSet<String>);

impl Picture {
    /// Interfaces with their XDP programs, addresses, routes, rules, the NIC's features, channels, spreading and rings, and every
    /// setting of the network.
    pub(crate) fn of(rig: &Rig) -> Self {
        let commands = [
            "ip -d -o link show".to_owned(),
            "ip -o address show".to_owned(),
            "ip -o -4 route show table all".to_owned(),
            "ip -o -6 route show table all".to_owned(),
            "ip -o rule show".to_owned(),
            format!("ethtool -k {UPLINK}"),
            format!("ethtool -l {UPLINK}"),
            format!("ethtool -x {UPLINK}"),
            format!("ethtool -g {UPLINK}"),
            format!(
                "grep -H . /sys/class/net/{UPLINK}/napi_defer_hard_irqs /sys/class/net/{UPLINK}/gro_flush_timeout"
            ),
            "grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 /proc/sys/net/core -s".to_owned(),
        ];
        await_that("a link, and an address that is nobody else's", || {
            let link = rig.inside(&format!("ip link show {UPLINK}"));
            link.contains("state UP") && !rig.inside("ip address show").contains("tentative")
        });
        let mut lines = BTreeSet::new();
        for command in &commands {
            let told = rig.told_inside(command);
            lines.extend(
                told.lines()
                    .map(|line| format!("{command}: {}", without_number(line))),
            );
        }
        Self(lines)
    }

    /// What is different in `later`, line by line.
    pub(crate) fn changes(&self, later: &Self) -> Vec<String> {
        let gone = self.0.difference(&later.0).map(|line| format!("- {line}"));
        let new = later.0.difference(&self.0).map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }
}

/// A line of `ip` without the interface's number, which a NIC has anew after its driver was taken off and given back.
fn without_number(line: &str) -> &str {
    match line.split_once(": ") {
        Some((number, rest)) if number.chars().all(|letter| letter.is_ascii_digit()) => rest,
        _ => line,
    }
}
