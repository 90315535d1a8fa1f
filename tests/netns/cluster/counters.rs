//! What the switch counts, and that it adds up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_tools::lab::Daemon;
use serde_json::Value;

/// `[workers] frames` where a node file does not say.
pub(crate) const FRAMES: u64 = 16_384;
/// How long the switch may take to finish what it has in hand.
const SETTLING: Duration = Duration::from_secs(10);

/// An answer to `millrace stats --json`.
#[derive(Debug, Clone)]
pub(crate) struct Counters(Value);

pub(crate) type Counts = BTreeMap<String, u64>;

impl Counters {
    /// The counters now.
    pub(crate) fn read(daemon: &Daemon) -> Self {
        Self(daemon.json(&["stats"]).unwrap())
    }

    /// The counters once nothing moves any more. Then `received + originated = transmitted + dropped + punted` holds for
    /// every worker, no frame is missing, and none came back from where it was not.
    pub(crate) fn settled(daemon: &Daemon) -> Self {
        let deadline = Instant::now() + SETTLING;
        let mut before = Self::read(daemon);
        loop {
            let counters = Self::read(daemon);
            let imbalance: Vec<i128> = counters.workers().iter().map(imbalance).collect();
            let at_rest = before.0["totals"] == counters.0["totals"];
            if at_rest && imbalance.iter().all(|difference| *difference == 0) {
                counters.check_frames();
                counters.check_totals();
                return counters;
            }
            assert!(
                Instant::now() < deadline,
                "packets of each worker that are nowhere: {imbalance:?}\n{:#}",
                counters.0
            );
            before = counters;
        }
    }

    /// All frames are accounted for, and none was given back twice.
    fn check_frames(&self) {
        for worker in self.workers() {
            let frames = &worker["frames"];
            let all = number(&frames["free"]) + number(&frames["in_tokens"]) + number(&frames["in_ports"]);
            assert!(all.is_power_of_two() && all >= 1024, "{frames}");
            assert_eq!(number(&worker["stray_descriptors"]), 0, "{worker:#}");
        }
    }

    /// The totals are the workers' sums, and a port's packets are among them.
    fn check_totals(&self) {
        for name in ["received", "originated", "transmitted"] {
            let sum: u64 = self.workers().iter().map(|worker| number(&worker[name])).sum();
            assert_eq!(self.total(name), sum, "{name}");
        }
        let at_ports: u64 = self
            .ports()
            .iter()
            .flat_map(queues_of)
            .map(|queue| number(&queue["rx_packets"]))
            .sum();
        assert!(at_ports <= self.total("received"), "{:#}", self.0);
    }

    /// One of the totals that are a number.
    pub(crate) fn total(&self, name: &str) -> u64 {
        number(&self.0["totals"][name])
    }

    /// Dropped packets, by reason.
    pub(crate) fn dropped(&self) -> Counts {
        counts(&self.0["totals"]["dropped"])
    }

    /// Packets for the slow path, by reason.
    pub(crate) fn punted(&self) -> Counts {
        counts(&self.0["totals"]["punted"])
    }

    /// The slow path's own counters.
    pub(crate) fn slow_path(&self) -> Counts {
        counts(&self.0["slow_path"])
    }

    /// The workers, by number.
    pub(crate) fn workers(&self) -> &[Value] {
        self.0["workers"].as_array().unwrap()
    }

    fn ports(&self) -> &[Value] {
        self.0["ports"].as_array().unwrap()
    }

    /// The names of the ports.
    pub(crate) fn port_names(&self) -> Vec<String> {
        let names = self.ports().iter().map(|port| port["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    fn port(&self, name: &str) -> &Value {
        let found = self.ports().iter().find(|port| port["name"] == name);
        found.unwrap_or_else(|| panic!("no port {name} in {:#}", self.0))
    }

    /// The queues of a port, by number.
    pub(crate) fn queues(&self, port: &str) -> Vec<Value> {
        queues_of(self.port(port))
    }

    /// The packets dropped that came in at a port, by reason.
    pub(crate) fn dropped_at(&self, port: &str) -> Counts {
        let mut all = Counts::new();
        for queue in self.queues(port) {
            for (reason, count) in counts(&queue["dropped"]) {
                *all.entry(reason).or_default() += count;
            }
        }
        all
    }

    /// The counters of the steering program on a port.
    pub(crate) fn steering(&self, port: &str) -> Counts {
        counts(&self.port(port)["steering"])
    }

    /// Frames of each worker that are with its ports.
    pub(crate) fn frames_in_ports(&self) -> Vec<u64> {
        self.workers()
            .iter()
            .map(|worker| number(&worker["frames"]["in_ports"]))
            .collect()
    }
}

fn queues_of(port: &Value) -> Vec<Value> {
    port["queues"].as_array().unwrap().clone()
}

/// How many packets of a worker came and did not leave.
fn imbalance(worker: &Value) -> i128 {
    let field = |name: &str| i128::from(number(&worker[name]));
    let sum = |name: &str| counts(&worker[name]).into_values().map(i128::from).sum::<i128>();
    let came = field("received") + field("originated") + field("taken_over");
    came - field("transmitted") - field("handed_over") - sum("dropped") - sum("punted")
}

/// A whole number of the answer.
pub(crate) fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no whole number"))
}

/// A table of numbers by name.
fn counts(value: &Value) -> Counts {
    let table = value.as_object().unwrap_or_else(|| panic!("{value} is no table"));
    table
        .iter()
        .map(|(name, count)| (name.clone(), number(count)))
        .collect()
}

/// By how much each number grew, those that did not left out.
pub(crate) fn growth(before: &Counts, after: &Counts) -> Counts {
    let grown = after
        .iter()
        .map(|(name, now)| (name.clone(), now - before.get(name).copied().unwrap_or(0)));
    grown.filter(|(_, more)| *more > 0).collect()
}
