//! The pictures.

use millrace_tools::chart::{Axis, Chart, Series, document, plain};

use super::figures::Figures;
use super::tables::sizes;

/// How a picture is drawn of the figures; nothing if there are none for it.
type Draw = fn(&Figures) -> Option<String>;

/// Every picture, by its file's name.
pub(super) const ALL: &[(&str, Draw)] = &[
    ("memory", memory),
    ("scale", scale),
    ("veth", veth),
    ("latency", latency),
];

/// The walks that are drawn: no more than there are colours.
const WALKS: [&str; 4] = ["forward", "vxlan-push", "chain-out", "chain-back"];
const FLOWS: [u32; 3] = [1, 65_536, 1_000_000];

/// Cycles against flows.
fn memory(figures: &Figures) -> Option<String> {
    let series = WALKS.iter().filter_map(|walk| {
        let points = FLOWS.iter().filter_map(|flows| {
            let cycles = figures.number(&format!("{walk}/64/{flows}"), "/cycles")?;
            Some((f64::from(*flows), cycles))
        });
        let points: Vec<_> = points.collect();
        (!points.is_empty()).then(|| Series::line(*walk, points))
    });
    let series: Vec<_> = series.collect();
    (!series.is_empty()).then(|| {
        document(&[Chart {
            title: "64-byte packets between ports in memory",
            x: Axis::decades("flows"),
            y: Axis::from_zero("cycles per packet"),
            series,
        }])
    })
}

/// What grows in the chart of costs, and in the chart of memory: the key, and how it is called.
const COSTS: [(&str, &str); 4] = [
    ("flows", "flows"),
    ("services", "Services"),
    ("policies", "policies"),
    ("ports", "ports"),
];
const TABLES: [(&str, &str); 3] = [
    ("flows", "flows"),
    ("services", "Services"),
    ("policies", "policies"),
];

/// Cycles and memory against whatever grows.
fn scale(figures: &Figures) -> Option<String> {
    let series = |axes: &[(&str, &str)], figure: &str| -> Vec<Series> {
        let of_axis = |(axis, name): &(&str, &str)| {
            let points: Vec<_> = sizes(figures, axis)
                .into_iter()
                .filter_map(|size| {
                    let value = figures.number(&format!("scale/{axis}/{size}"), figure)?;
                    Some((f64::from(size), value))
                })
                .collect();
            (!points.is_empty()).then(|| Series::line(*name, points))
        };
        axes.iter().filter_map(of_axis).collect()
    };
    let (costs, tables) = (series(&COSTS, "/cycles"), series(&TABLES, "/bytes"));
    (!costs.is_empty()).then(|| {
        document(&[
            Chart {
                title: "The whole chain, 64-byte packets between ports in memory",
                x: Axis::decades("how many"),
                y: Axis::from_zero("cycles per packet"),
                series: costs,
            },
            Chart {
                title: "Memory of the table that grows",
                x: Axis::decades("how many"),
                y: Axis {
                    label: |value| plain(value) + "B",
                    ..Axis::decades("bytes")
                },
                series: tables,
            },
        ])
    })
}

/// Packets a second of everyone on veths, round by round, as they were interleaved.
fn veth(figures: &Figures) -> Option<String> {
    let arms = figures.value("veth/64")?.get("arms")?.as_object()?;
    let series = arms.iter().filter_map(|(name, arm)| {
        let rounds = arm.get("rounds")?.as_array()?.iter().enumerate();
        let points = rounds.filter_map(|(round, rate)| {
            let round = u32::try_from(round + 1).ok()?;
            Some((f64::from(round), rate.as_f64()?))
        });
        let points: Vec<_> = points.collect();
        (!points.is_empty()).then(|| Series::line(name, points))
    });
    let series: Vec<_> = series.collect();
    (!series.is_empty()).then(|| {
        document(&[Chart {
            title: "64-byte packets between veths, the same share of a core for each process",
            x: Axis::from_zero("round"),
            y: Axis::from_zero("packets a second"),
            series,
        }])
    })
}

/// Whose latency is drawn, with what they are given: no more than there are colours.
const DELAYED: [(&str, &str); 4] = [
    ("core", "forwarder"),
    ("core", "switch-10000"),
    ("core", "ovs-10000"),
    ("both_cores", "kernel-10000"),
];

/// Latency against the rate at which it was measured.
fn latency(figures: &Figures) -> Option<String> {
    let search = figures.value("chain/search")?;
    let series = |place: &str| -> Vec<Series> {
        let of_arm = |(given, name): &(&str, &str)| {
            let shares = search.get(given)?.get(name)?.get("latency_at_percent_of_it")?;
            let points = shares.as_object()?.values().filter_map(|delays| {
                let rate = delays.get("packets_per_second")?.as_f64()?;
                Some((rate, delays.get(place)?.as_f64()? / 1000.0))
            });
            let mut points: Vec<_> = points.collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            (!points.is_empty()).then(|| Series::line(*name, points))
        };
        DELAYED.iter().filter_map(of_arm).collect()
    };
    let (median, worst) = (series("p50_ns"), series("p99_ns"));
    let chart = |title, series| Chart {
        title,
        x: Axis::from_zero("packets a second"),
        y: Axis::decades("microseconds"),
        series,
    };
    (!median.is_empty()).then(|| {
        document(&[
            chart("Service NAT, policies and VXLAN on veths: latency, p50", median),
            chart("The same: latency, p99", worst),
        ])
    })
}
