//! What the switch in the machine counts, and that it adds up.

use std::time::Instant;

use millrace_tools::lab::machine::MachineNode;
use millrace_tools::lab::plan::UPLINK;
use serde_json::Value;

use crate::rig::PATIENCE;

/// `[workers] frames` where a node file does not say.
const FRAMES: u64 = 16_384;

/// An answer to `millrace stats --json`.
#[derive(Debug, Clone)]
pub(crate) struct Counters(Value);

impl Counters {
    fn read(node: &MachineNode) -> Self {
        Self(node.json(&["stats"]).unwrap_or_else(|error| panic!("{error}")))
    }

    /// The counters once nothing moves any more: each worker's packets have all left, and its frames are all there.
    pub(crate) fn settled(node: &MachineNode) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let mut before = Self::read(node);
        loop {
            let now = Self::read(node);
            let workers = now.workers();
            let missing: Vec<i128> = workers.iter().map(imbalance).collect();
            let lost: Vec<u64> = workers.iter().map(|worker| FRAMES - frames(worker)).collect();
            let at_rest = before.0["totals"] == now.0["totals"];
            if at_rest
                && missing.iter().all(|packets| *packets == 0)
                && lost.iter().all(|frames| *frames == 0)
            {
                now.check_strays();
                return now;
            }
            assert!(
                Instant::now() < deadline,
                "packets of each worker that are nowhere: {missing:?}, frames: {lost:?}\n{:#}",
                now.0
            );
            before = now;
        }
    }

    fn check_strays(&self) {
        for worker in self.workers() {
            assert_eq!(number(&worker["stray_descriptors"]), 0, "{worker:#}");
        }
    }

    fn workers(&self) -> &[Value] {
        self.0["workers"].as_array().unwrap()
    }

    /// What each queue of the uplink carried since `before`, as (received, sent).
    pub(crate) fn uplink_growth(&self, before: &Self) -> Vec<(u64, u64)> {
        let pairs = before.uplink_queues().into_iter().zip(self.uplink_queues());
        pairs
            .map(|(before, now)| (now.0 - before.0, now.1 - before.1))
            .collect()
    }

    fn uplink(&self) -> &Value {
        let ports = self.0["ports"].as_array().unwrap();
        let uplink = ports.iter().find(|port| port["name"] == UPLINK);
        uplink.unwrap_or_else(|| panic!("no uplink in {:#}", self.0))
    }

    /// Packets in and out of each queue of the uplink.
    fn uplink_queues(&self) -> Vec<(u64, u64)> {
        let queues = self.uplink()["queues"].as_array().unwrap();
        let of = |queue: &Value| (number(&queue["rx_packets"]), number(&queue["tx_packets"]));
        queues.iter().map(of).collect()
    }

    /// Frames that the uplink was given to send and that have not come back.
    pub(crate) fn uplink_under_way(&self) -> u64 {
        let queues = self.uplink()["queues"].as_array().unwrap().iter();
        queues.map(|queue| number(&queue["tx_under_way"])).sum()
    }

    /// How many packets were dropped for a reason.
    pub(crate) fn dropped_for(&self, reason: &str) -> u64 {
        self.dropped()[reason].as_u64().unwrap_or_default()
    }

    /// All dropped packets, as the answer tells them.
    pub(crate) fn dropped(&self) -> &Value {
        &self.0["totals"]["dropped"]
    }
}

/// How many packets of a worker came and did not leave.
fn imbalance(worker: &Value) -> i128 {
    let field = |name: &str| i128::from(number(&worker[name]));
    let sum = |name: &str| -> i128 {
        let table = worker[name].as_object().unwrap();
        table.values().map(|count| i128::from(number(count))).sum()
    };
    let came = field("received") + field("originated") + field("taken_over");
    came - field("transmitted") - field("handed_over") - sum("dropped") - sum("punted")
}

/// The frames of a worker, wherever they are.
fn frames(worker: &Value) -> u64 {
    let places = ["free", "in_tokens", "in_ports"];
    places.iter().map(|place| number(&worker["frames"][place])).sum()
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no whole number"))
}
