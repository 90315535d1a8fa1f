#![allow(clippy::unwrap_used, clippy::panic)]

use millrace_dataplane::port::{PortId, QueueId};
use millrace_dataplane::stats::{QueueStats, WorkerStats};
use serde_json::json;

use super::*;

/// An answer made of the counters as the daemon really sends them, with some numbers in.
fn answer() -> Value {
    let mut worker = serde_json::to_value(WorkerStats::new(3).unwrap().read()).unwrap();
    worker["received"] = json!(1_234_567);
    worker["transmitted"] = json!(1_234_500);
    worker["dropped"] = json!({"no_route": 50, "spoofed_mac": 16});
    worker["load_permille"] = json!(423);
    worker["handed_over"] = json!(3);
    worker["taken_over"] = json!(4);
    worker["spread_out"] = json!(2);
    worker["batch_ns"]["p50"] = json!(1_500);
    worker["batch_ns"]["p99"] = json!(20_040);
    worker["batch_packets"]["p99"] = json!(64);
    let mut queue =
        serde_json::to_value(QueueStats::new(PortId::new(1).unwrap(), QueueId(2)).read()).unwrap();
    queue["rx_packets"] = json!(1_234_567);
    queue["rx_bytes"] = json!(98_765_432);
    queue["tx_waiting"] = json!(3);
    queue["tx_under_way"] = json!(1_003);
    queue["stalled_ms"] = json!(4_000);
    queue["device"]["rx_ring_full"] = json!(7);
    queue["device"]["tx_dropped"] = json!(9);
    queue["device"]["rx_no_run"] = json!(5);
    queue["device"]["rx_too_long"] = json!(6);
    json!({
        "node": "node-a",
        "uptime_seconds": 90_061,
        "totals": {
            "received": 1_234_567, "originated": 10, "transmitted": 1_234_500,
            "dropped": {"spoofed_mac": 16, "no_route": 50, "of_tomorrow": 1}, "punted": {"arp": 12},
        },
        "workers": [worker],
        "ports": [{"name": "eth1", "queues": [queue], "steering": {"passed": 99, "to_switch_tunnel": 0}}],
        "slow_path": {"arp_replies": 5},
        "connections": {"ipv4": 7, "ipv4_capacity": 1_048_576},
    })
}

/// The lines of a section, without their indent.
fn section_of(page: &str, title: &str) -> Vec<String> {
    let lines = page.lines().skip_while(|line| *line != title).skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.trim().to_owned())
        .collect()
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn page_has_every_number_and_what_it_means() {
    let page = render(answer()).unwrap();
    assert!(page.starts_with("node node-a, up 1 d 1 h\n"), "{page}");
    let rows = [
        ("Totals", 1, "received 1,234,567 taken from ports"),
        ("Totals", 4, "dropped 67 by reason below"),
        (
            "Totals",
            6,
            "difference -2 received + originated - transmitted - dropped - punted; zero between batches",
        ),
        ("Dropped", 1, "no_route 50 No route to the destination."),
        (
            "Dropped",
            2,
            "spoofed_mac 16 The source MAC address is not the one this port was given.",
        ),
        ("Dropped", 3, "of_tomorrow 1"),
        ("To the slow path", 1, "arp 12 An ARP request or reply."),
        (
            "Workers",
            1,
            "0 3 42.3% 0 1,234,567 0 1,234,500 66 0 3 4 2 0 0 0 0",
        ),
        ("Batches", 1, "0 0 0 64 0 1.5 us 20.0 us 0.0 us 0.0 us"),
        ("Ports", 1, "eth1 2 1,234,567 98,765,432 0 0 0 0 3 1,003 4,000"),
        (
            "Kernel's statistics of the AF_XDP sockets",
            1,
            "eth1 2 0 7 0 0 0 0 9 5 6",
        ),
        ("Steering programs", 1, "eth1 passed 99"),
        ("Slow path", 1, "arp_replies 5"),
    ];
    for (title, line, expected) in rows {
        let lines = section_of(&page, title);
        let line = lines.get(line).unwrap_or_else(|| panic!("{title}:\n{page}"));
        assert_eq!(squeeze(line), expected, "{title}");
    }
    assert_eq!(
        section_of(&page, "Steering programs").len(),
        2,
        "slots that never moved are left out"
    );
}

#[test]
fn quiet_switch_has_a_short_page() {
    let mut quiet = answer();
    quiet["totals"] = serde_json::to_value(Totals::default()).unwrap();
    quiet["workers"] = json!([]);
    let page = render(quiet).unwrap();
    assert!(page.contains("\nDropped: none\n"), "{page}");
    assert!(page.contains("\nWorkers: none\n"), "{page}");
    assert_eq!(
        squeeze(&section_of(&page, "Totals")[6]).split(" received").next(),
        Some("difference 0"),
        "{page}"
    );
}

#[test]
fn counters_of_another_version_are_an_error() {
    for path in ["/workers/0/batch_ns", "/ports/0/queues/0/device", "/totals"] {
        let mut other = answer();
        *other.pointer_mut(path).unwrap() = json!({});
        let failure = render(other).unwrap_err();
        assert!(
            failure.message.contains("of the same version"),
            "{path}: {}",
            failure.message
        );
    }
}

#[test]
fn every_reason_has_its_meaning() {
    for reason in DropReason::ALL {
        assert_eq!(drop_meaning(reason.name()), Some(reason.meaning()));
    }
    for reason in PuntReason::ALL {
        assert_eq!(punt_meaning(reason.name()), Some(reason.meaning()));
    }
    assert_eq!(drop_meaning("of_tomorrow"), None);
}

#[test]
fn durations_are_told_in_two_units() {
    let rows = [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3_600, "1 h 0 min"),
        (86_399, "23 h 59 min"),
        (90_061, "1 d 1 h"),
    ];
    for (seconds, text) in rows {
        assert_eq!(duration(seconds), text);
    }
}
