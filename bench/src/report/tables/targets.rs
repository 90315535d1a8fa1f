//! What was aimed at, beside what was seen.

use super::super::figures::Figures;
use super::super::table::{Table, cell, percent, two_digits, whole};
use super::chain::{beside_idle_ports, delay_beside_kernel, worse_ratio};
use super::storms;

/// Flows of the three columns of [`MEMORY`].
const FLOWS: [u32; 3] = [1, 65_536, 1_000_000];
/// Walks of 64-byte packets and the cycles they may take, for so many flows; the last column is left empty where there is no
/// such aim.
const MEMORY: [(&str, &[f64]); 6] = [
    ("chain-out", &[80.0, 120.0, 200.0]),
    ("chain-back", &[90.0, 130.0, 210.0]),
    ("vxlan-push", &[65.0, 100.0, 180.0]),
    ("ipip-push", &[65.0, 100.0, 180.0]),
    ("service", &[65.0, 100.0, 180.0]),
    ("bridge", &[60.0, 90.0]),
];

/// Cycles per packet.
pub(super) fn memory(figures: &Figures) -> Option<String> {
    let mut table = Table::new(&["walk", "1 flow", "65,536 flows", "1,000,000 flows"]);
    let mut seen = false;
    for (walk, aims) in MEMORY {
        let mut cells = vec![format!("`{walk}`")];
        for (place, flows) in FLOWS.into_iter().enumerate() {
            let Some(aim) = aims.get(place) else {
                cells.push(String::new());
                continue;
            };
            let cycles = figures.number(&format!("{walk}/64/{flows}"), "/cycles");
            seen |= cycles.is_some();
            cells.push(format!("{} of {}", cell(cycles, whole), whole(*aim)));
        }
        table.row(&cells);
    }
    seen.then(|| table.text())
}

/// Which side of the aim is right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    AtLeast,
    Below,
}

/// Something that was aimed at.
struct Aim {
    what: &'static str,
    side: Side,
    aim: f64,
    /// What was seen; nothing if it was not measured.
    seen: fn(&Figures) -> Option<f64>,
    write: fn(f64) -> String,
}

fn ratio(value: f64) -> String {
    format!("{value:.3}")
}

/// A walk's cycles beside another's.
fn cost(figures: &Figures, of: &str, to: &str) -> Option<f64> {
    Some(figures.number(of, "/cycles")? / figures.number(to, "/cycles")?)
}

const OTHERS: [Aim; 12] = [
    Aim {
        what: "new connections a second (`new-connections`)",
        side: Side::AtLeast,
        aim: 2e6,
        seen: |figures| {
            let mut all = figures.under("new-connections/64/");
            all.find_map(|(_, figure)| figure.get("per_second")?.as_f64())
        },
        write: whole,
    },
    Aim {
        what: "allocations per packet, of any walk",
        side: Side::Below,
        aim: f64::MIN_POSITIVE,
        seen: |figures| {
            let all = figures
                .under("")
                .filter_map(|(_, figure)| figure.get("allocations")?.as_f64());
            all.reduce(f64::max)
        },
        write: two_digits,
    },
    Aim {
        what: "1500 bytes beside 64 (`chain-out`, 65,536 flows)",
        side: Side::Below,
        aim: 1.1,
        seen: |figures| cost(figures, "chain-out/1500/65536", "chain-out/64/65536"),
        write: ratio,
    },
    Aim {
        what: "10,000 Services beside 10 (`chain-out`, 65,536 flows)",
        side: Side::Below,
        aim: 1.05,
        seen: |figures| cost(figures, "chain-out-10000/64/65536", "chain-out/64/65536"),
        write: ratio,
    },
    Aim {
        what: "packets on veth beside a bare AF_XDP forwarder (`veth`)",
        side: Side::AtLeast,
        aim: 0.95,
        seen: |figures| figures.number("veth/64", "/switch_of_forwarder"),
        write: ratio,
    },
    Aim {
        what: "the same with 10,000 Services and policies (`chain`, the worse way)",
        side: Side::AtLeast,
        aim: 0.95,
        seen: |figures| worse_ratio(figures, "switch_of_forwarder"),
        write: ratio,
    },
    Aim {
        what: "times the kernel's packets, with both cores (`chain`, the worse way)",
        side: Side::AtLeast,
        aim: 3.5,
        seen: |figures| worse_ratio(figures, "switch_of_kernel_on_both_cores"),
        write: two_digits,
    },
    Aim {
        what: "p99 latency at half the kernel's load beside the kernel's (`chain`)",
        side: Side::Below,
        aim: 1.0,
        seen: delay_beside_kernel,
        write: ratio,
    },
    Aim {
        what: "packets with 250 idle ports beside none (`chain`, the worse way)",
        side: Side::AtLeast,
        aim: 0.95,
        seen: beside_idle_ports,
        write: ratio,
    },
    Aim {
        what: "established traffic that gets through beside the worst storm (`storms`)",
        side: Side::AtLeast,
        aim: 0.95,
        seen: storms::worst,
        write: ratio,
    },
    Aim {
        what: "a worker's share of a core without traffic (`idle`)",
        side: Side::Below,
        aim: 0.03,
        seen: |figures| figures.number("idle/asleep", "/worker_core_share"),
        write: percent,
    },
    Aim {
        what: "what waking up adds to the latency's p99, in microseconds (`idle`)",
        side: Side::Below,
        aim: 50.0,
        seen: |figures| figures.number("idle/wake-up", "/added_p99_us"),
        write: two_digits,
    },
];

/// Everything else that was aimed at.
pub(super) fn others(figures: &Figures) -> Option<String> {
    let mut table = Table::new(&["", "aim", "seen", ""]);
    let mut any = false;
    for Aim {
        what,
        side,
        aim,
        seen,
        write,
    } in OTHERS
    {
        let seen = seen(figures);
        any |= seen.is_some();
        let (word, is_met) = match side {
            Side::AtLeast => ("at least", seen.map(|seen| seen >= aim)),
            Side::Below => ("below", seen.map(|seen| seen < aim)),
        };
        let aim = if aim <= f64::MIN_POSITIVE {
            "none".to_owned()
        } else {
            format!("{word} {}", write(aim))
        };
        let verdict = is_met.map_or("", |is_met| if is_met { "met" } else { "missed" });
        table.row(&[what.to_owned(), aim, cell(seen, write), verdict.to_owned()]);
    }
    any.then(|| table.text())
}
