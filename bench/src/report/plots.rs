//! The pictures.

use millrace_tools::chart::{Axis, Chart, Series, document};

use super::figures::Figures;

/// How a picture is drawn of the figures; nothing if there are none for it.
type Draw = fn(&Figures) -> Option<String>;

/// Every picture, by its file's name.
pub(super) const ALL: &[(&str, Draw)] = &[("memory", memory)];

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
