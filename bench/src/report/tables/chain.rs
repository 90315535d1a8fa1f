//! The whole chain between real interfaces, beside others.

use serde_json::Value;

use super::super::figures::Figures;
use super::super::table::{Table, cell, two_digits, whole};

/// What an arm is given: the key, and what stands in the table.
const GIVEN: [(&str, &str); 3] = [
    ("share", "a share of a core"),
    ("core", "a core"),
    ("both_cores", "both cores"),
];

/// Everything measured of every arm.
pub(super) fn arms(figures: &Figures) -> Option<String> {
    let (rates, search) = (figures.value("chain/rates"), figures.value("chain/search"));
    let mut table = Table::new(&[
        "",
        "given",
        "out, packets/s",
        "back, packets/s",
        "NDR",
        "PDR",
        "p50, p99 at half of what passes read",
    ]);
    let mut seen = false;
    for (given, words) in GIVEN {
        for name in names(&[rates, search], given) {
            seen = true;
            let number = |of: Option<&Value>, place: &str| {
                let arm = of?.get(given)?.get(&name)?;
                arm.pointer(place)?.as_f64()
            };
            let half = |place: &str| {
                let ns = number(search, &format!("/latency_at_percent_of_it/50/{place}"))?;
                Some(format!("{} µs", two_digits(ns / 1000.0)))
            };
            let delays = half("p50_ns").zip(half("p99_ns"));
            table.row(&[
                name.clone(),
                words.to_owned(),
                cell(number(rates, "/out/packets_per_second"), whole),
                cell(number(rates, "/back/packets_per_second"), whole),
                cell(number(search, "/ndr/packets_per_second"), whole),
                cell(number(search, "/pdr/packets_per_second"), whole),
                delays.map_or_else(|| cell(None, whole), |(p50, p99)| format!("{p50}, {p99}")),
            ]);
        }
    }
    seen.then(|| table.text())
}

/// The arms of which there is anything in one of these, each once.
fn names(of: &[Option<&Value>], given: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for arms in of.iter().flatten().filter_map(|all| all.get(given)?.as_object()) {
        for name in arms
            .keys()
            .filter(|name| !names.contains(name))
            .cloned()
            .collect::<Vec<_>>()
        {
            names.push(name);
        }
    }
    names
}

/// The ratios: the key, and what stands in the table.
const RATIOS: [(&str, &str); 4] = [
    ("switch_of_forwarder", "the bare forwarder"),
    ("switch_of_kernel", "the kernel, a core each"),
    ("switch_of_kernel_on_both_cores", "the kernel on both cores"),
    ("many_of_few", "itself with few Services and policies"),
];

/// What that is beside one another.
pub(super) fn ratios(figures: &Figures) -> Option<String> {
    let rates = figures.value("chain/rates")?;
    let mut table = Table::new(&[
        "the switch, with many Services and policies, beside",
        "out",
        "back",
    ]);
    for (key, what) in RATIOS {
        let ratio = |way: &str| cell(ratio_of(rates, key, way), |ratio| format!("{ratio:.2}"));
        table.row(&[what.to_owned(), ratio("out"), ratio("back")]);
    }
    Some(table.text())
}

fn ratio_of(rates: &Value, key: &str, way: &str) -> Option<f64> {
    rates.get(key)?.get(way)?.get("packets")?.as_f64()
}

/// The lower of both ways' ratios.
pub(super) fn worse_ratio(figures: &Figures, key: &str) -> Option<f64> {
    let rates = figures.value("chain/rates")?;
    let both = ["out", "back"]
        .into_iter()
        .filter_map(|way| ratio_of(rates, key, way));
    both.reduce(f64::min)
}

/// Packets that idle ports leave of those without them, the lower of both ways.
pub(super) fn beside_idle_ports(figures: &Figures) -> Option<f64> {
    let ways = figures.value("chain/ports")?.get("ways")?.as_object()?;
    let ratios = ways.values().filter_map(|way| way.get("ratio")?.as_f64());
    ratios.reduce(f64::min)
}

/// The switch's p99 beside the kernel's, both with many Services and policies and at half of what the kernel takes.
pub(super) fn delay_beside_kernel(figures: &Figures) -> Option<f64> {
    let search = figures.value("chain/search")?;
    let of = |given: &str, name: &str| {
        let place = "/latency_at_half_of_the_kernels/p99_ns";
        search.get(given)?.get(name)?.pointer(place)?.as_f64()
    };
    Some(of("core", "switch-10000")? / of("both_cores", "kernel-10000")?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figures() -> Figures {
        let all = json!({
            "chain/rates": {
                "share": {"forwarder": {"out": {"packets_per_second": 700_000.0}, "back": {"packets_per_second": 690_000.0}}},
                "core": {"kernel-10000": {"out": {"packets_per_second": 160_000.0}}},
                "switch_of_forwarder": {"out": {"packets": 0.961, "per_core_second": 0.96}, "back": {"packets": 0.948}},
            },
            "chain/search": {
                "core": {"switch-10000": {"latency_at_half_of_the_kernels": {"p99_ns": 120_000.0}},
                         "kernel-10000": {
                             "ndr": {"packets_per_second": 120_000.0}, "pdr": null,
                             "latency_at_percent_of_it": {"50": {"p50_ns": 31_000.0, "p99_ns": 480_000.0}}}},
                "both_cores": {"kernel-10000": {"latency_at_half_of_the_kernels": {"p99_ns": 480_000.0}}},
            },
            "chain/ports": {"ports": 250, "ways": {"out": {"ratio": 0.97}, "back": {"ratio": 0.96}}},
        });
        Figures::new(all.as_object().unwrap().clone())
    }

    #[test]
    fn an_arm_is_a_row_for_each_thing_it_is_given() {
        let text = arms(&figures()).unwrap();
        assert!(
            text.contains("| forwarder | a share of a core | 700,000 | 690,000 | – | – | – |"),
            "{text}"
        );
        assert!(
            text.contains("| kernel-10000 | a core | 160,000 | – | 120,000 | – | 31 µs, 480 µs |"),
            "{text}"
        );
    }

    #[test]
    fn of_two_ways_the_worse_counts() {
        assert_eq!(worse_ratio(&figures(), "switch_of_forwarder"), Some(0.948));
        assert_eq!(beside_idle_ports(&figures()), Some(0.96));
        assert_eq!(delay_beside_kernel(&figures()), Some(0.25));
        assert!(
            ratios(&figures())
                .unwrap()
                .contains("| the bare forwarder | 0.96 | 0.95 |")
        );
    }
}
