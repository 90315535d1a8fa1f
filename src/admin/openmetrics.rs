//! The counters as monitoring systems read them: `millrace stats --openmetrics`, for node_exporter's textfile collector say, and
//! over HTTP ([`scrape`](super::scrape)).
//!
//! The format is OpenMetrics 1.0 (<https://github.com/OpenObservability/OpenMetrics/blob/main/specification/OpenMetrics.md>):
//! each family once, with its type and meaning, its samples behind it, and `# EOF` at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::protocol::{PortStats, Stats};

/// What is written of a worker.
#[derive(Debug, Deserialize)]
struct Worker {
    core: usize,
    sleeps: u64,
    busy_cycles: u64,
    total_cycles: u64,
    spread_out: u64,
}

/// What is written of a port's queue.
#[derive(Debug, Deserialize)]
struct Queue {
    queue: u32,
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    stalled_ms: u64,
}

/// Names and values that tell samples of one family apart.
type Labels = Vec<(&'static str, String)>;

/// A sample: its labels and its value.
type Sample = (Labels, String);

/// The page, as it grows.
struct Page(String);

impl Page {
    /// A family whose values only grow.
    fn counter(&mut self, name: &str, meaning: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "counter", "_total", meaning, samples);
    }

    /// A family whose values come and go.
    fn gauge(&mut self, name: &str, meaning: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "gauge", "", meaning, samples);
    }

    fn family(
        &mut self,
        name: &str,
        kind: &str,
        ending: &str,
        meaning: &str,
        samples: impl IntoIterator<Item = Sample>,
    ) {
        // Writing into a String does not fail.
        let _ = writeln!(
            self.0,
            "# TYPE millrace_{name} {kind}\n# HELP millrace_{name} {meaning}"
        );
        for (labels, value) in samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
                .collect();
            let braces = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", labels.join(","))
            };
            let _ = writeln!(self.0, "millrace_{name}{ending}{braces} {value}");
        }
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// A sample without a label.
fn single(value: u64) -> [Sample; 1] {
    [(Vec::new(), value.to_string())]
}

/// A sample for each name.
fn by_name<'a>(label: &'static str, counts: &'a BTreeMap<String, u64>) -> impl Iterator<Item = Sample> + 'a {
    counts
        .iter()
        .map(move |(name, count)| (vec![(label, name.clone())], count.to_string()))
}

/// The daemon's answer as OpenMetrics.
///
/// # Errors
/// What stands there of a worker or a queue is not what a daemon of this version says.
pub fn render(stats: &Stats) -> Result<String, serde_json::Error> {
    let mut page = Page(String::new());
    let totals = &stats.totals;
    page.gauge(
        "uptime_seconds",
        "Seconds since the daemon started.",
        single(stats.uptime_seconds),
    );
    page.counter(
        "received_packets",
        "Packets taken from ports.",
        single(totals.received),
    );
    page.counter(
        "originated_packets",
        "Packets that the switch made itself or held for a while.",
        single(totals.originated),
    );
    page.counter(
        "transmitted_packets",
        "Packets put into transmit rings.",
        single(totals.transmitted),
    );
    page.counter(
        "dropped_packets",
        "Packets dropped, by reason.",
        by_name("reason", &totals.dropped),
    );
    page.counter(
        "punted_packets",
        "Packets handed to the slow path, by reason.",
        by_name("reason", &totals.punted),
    );
    workers(&mut page, stats)?;
    ports(&mut page, stats)?;
    page.gauge(
        "connections",
        "Connections there are, and that there is room for, by name.",
        by_name("name", &stats.connections),
    );
    page.counter(
        "slow_path",
        "What the slow path did, by name.",
        by_name("name", &stats.slow_path),
    );
    page.0.push_str("# EOF\n");
    Ok(page.0)
}

/// Whether a family's values only grow.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// A family with a sample for each of several things: its kind, name and meaning, and a thing's value.
type Column<T> = (Kind, &'static str, &'static str, fn(&T) -> u64);

/// What is written of each worker.
const WORKER: [Column<Worker>; 4] = [
    (
        Kind::Counter,
        "worker_busy_cycles",
        "Cycles spent on turns that found work.",
        |worker| worker.busy_cycles,
    ),
    (
        Kind::Counter,
        "worker_cycles",
        "Cycles since the worker's start.",
        |worker| worker.total_cycles,
    ),
    (
        Kind::Counter,
        "worker_sleeps",
        "Times the worker went to sleep for want of work.",
        |worker| worker.sleeps,
    ),
    (
        Kind::Counter,
        "worker_shared_packets",
        "Packets that another worker walks in this one's place, which is drowned.",
        |worker| worker.spread_out,
    ),
];

/// What is written of each queue of a port.
const QUEUE: [Column<Queue>; 5] = [
    (
        Kind::Counter,
        "port_received_packets",
        "Packets received by a port's queue.",
        |queue| queue.rx_packets,
    ),
    (
        Kind::Counter,
        "port_received_bytes",
        "Bytes received by a port's queue.",
        |queue| queue.rx_bytes,
    ),
    (
        Kind::Counter,
        "port_transmitted_packets",
        "Packets sent by a port's queue.",
        |queue| queue.tx_packets,
    ),
    (
        Kind::Counter,
        "port_transmitted_bytes",
        "Bytes sent by a port's queue.",
        |queue| queue.tx_bytes,
    ),
    (
        Kind::Gauge,
        "port_stalled_milliseconds",
        "How long frames have waited in a transmit ring without any being taken; 0 for a queue that sends.",
        |queue| queue.stalled_ms,
    ),
];

/// Writes the columns of a table of things, each with its labels.
fn table<T>(page: &mut Page, things: &[(Labels, T)], columns: &[Column<T>]) {
    for (kind, name, meaning, value) in columns {
        let samples = things
            .iter()
            .map(|(labels, thing)| (labels.clone(), value(thing).to_string()));
        match kind {
            Kind::Counter => page.counter(name, meaning, samples),
            Kind::Gauge => page.gauge(name, meaning, samples),
        }
    }
}

fn workers(page: &mut Page, stats: &Stats) -> Result<(), serde_json::Error> {
    let mut workers = Vec::new();
    for (number, worker) in stats.workers.iter().enumerate() {
        let worker = Worker::deserialize(worker)?;
        let labels = vec![("worker", number.to_string()), ("core", worker.core.to_string())];
        workers.push((labels, worker));
    }
    table(page, &workers, &WORKER);
    Ok(())
}

fn ports(page: &mut Page, stats: &Stats) -> Result<(), serde_json::Error> {
    let mut queues = Vec::new();
    for port in &stats.ports {
        for queue in &port.queues {
            let queue = Queue::deserialize(queue)?;
            let mut labels = port_labels(port);
            labels.push(("queue", queue.queue.to_string()));
            queues.push((labels, queue));
        }
    }
    table(page, &queues, &QUEUE);
    let steering = stats.ports.iter().flat_map(|port| {
        let counts = port.steering.iter();
        counts.map(|(name, count)| {
            let mut labels = port_labels(port);
            labels.push(("name", name.clone()));
            (labels, count.to_string())
        })
    });
    page.counter(
        "steering_packets",
        "What the steering programs decided, by name.",
        steering,
    );
    Ok(())
}

/// By what a port is told from others, and its network where it is not in the cluster's own.
fn port_labels(port: &PortStats) -> Vec<(&'static str, String)> {
    let network = port.network.clone().map(|network| ("network", network));
    [("port", port.name.clone())].into_iter().chain(network).collect()
}

/// A daemon's answer, for tests.
#[cfg(test)]
pub(super) mod sample {
    use serde_json::{Value, json};

    pub(in crate::admin) fn answer() -> Value {
        json!({
            "node": "node-a",
            "uptime_seconds": 7,
            "totals": {
                "received": 10, "originated": 2, "transmitted": 9,
                "dropped": {"no_route": 2}, "punted": {"arp": 1},
            },
            "workers": [{"core": 3, "sleeps": 4, "busy_cycles": 5, "total_cycles": 6, "spread_out": 0, "load_permille": 1}],
            "ports": [{
                "name": "eth1 \"uplink\"",
                "queues": [{"queue": 0, "rx_packets": 8, "rx_bytes": 800, "tx_packets": 7, "tx_bytes": 700, "stalled_ms": 0}],
                "steering": {"passed": 11},
            }],
            "slow_path": {"arp_replies": 1},
            "connections": {"ipv4": 12},
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::sample::answer;
    use super::*;

    fn page() -> String {
        render(&serde_json::from_value(answer()).unwrap()).unwrap()
    }

    /// The families of a page, each of which must stand together, with its type before it.
    fn families(page: &str) -> BTreeSet<String> {
        let (mut families, mut now, mut ending) = (BTreeSet::new(), String::new(), "");
        for line in page.strip_suffix("# EOF\n").unwrap().lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(families.insert(name.to_owned()), "{name} is there twice");
                name.clone_into(&mut now);
                ending = if kind == "counter" { "_total" } else { "" };
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.starts_with(&format!("{now} ")), "{line}");
            } else {
                let name: String = line.chars().take_while(|c| !matches!(c, '{' | ' ')).collect();
                assert_eq!(name, format!("{now}{ending}"));
                assert!(line.rsplit(' ').next().unwrap().parse::<u64>().is_ok(), "{line}");
            }
        }
        families
    }

    #[test]
    fn a_page_has_every_number_once_under_its_family() {
        let page = page();
        assert_eq!(families(&page).len(), 18, "{page}");
        for line in [
            "millrace_received_packets_total 10\n",
            "millrace_dropped_packets_total{reason=\"no_route\"} 2\n",
            "millrace_worker_busy_cycles_total{worker=\"0\",core=\"3\"} 5\n",
            "millrace_port_received_bytes_total{port=\"eth1 \\\"uplink\\\"\",queue=\"0\"} 800\n",
            "millrace_connections{name=\"ipv4\"} 12\n",
            "millrace_uptime_seconds 7\n",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
        let mut other = answer();
        other["workers"] = json!([{"core": "first"}]);
        assert!(render(&serde_json::from_value(other).unwrap()).is_err());
    }

    /// The dashboard shows nothing that nobody writes.
    #[test]
    fn the_dashboard_asks_for_what_there_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dashboards/millrace.json");
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let written = families(&page());
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(panels.len() >= 6);
        for panel in panels {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{panel}");
            for target in targets {
                let asked = target["expr"].as_str().unwrap();
                let words = asked.split(|c: char| !c.is_alphanumeric() && c != '_');
                let mut names = words.filter(|word| word.starts_with("millrace_")).peekable();
                assert!(names.peek().is_some(), "{asked}");
                for name in names {
                    let family = name.strip_suffix("_total").unwrap_or(name);
                    assert!(written.contains(family), "{asked}: nobody writes {name}");
                }
            }
        }
    }
}
