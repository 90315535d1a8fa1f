//! Results as a picture: throughput and latency, as SVG by hand.

use std::fmt::Write as _;

use super::latency::Latency;
use super::outcome::Outcome;
use super::search::Findings;

/// Size of one chart, in pixels, and what is left free around it for axes and words.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 45.0;
/// About how many lines there are between two axes.
const GRID: f64 = 5.0;
/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A line, or points, of a chart.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    is_line: bool,
}

/// How values of an axis are written.
type Label = fn(f64) -> String;

struct Chart<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    x_label: Label,
    y_label: Label,
    series: Vec<Series>,
}

fn plain(value: f64) -> String {
    for (factor, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= factor {
            return short(value / factor) + unit;
        }
    }
    short(value)
}

/// Up to three decimals, as many as are needed.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Of the decades towards 100 %: 1 is 90 %, 2 is 99 %.
fn nines(value: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-value));
    format!("{percent:.3}")
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
        + " %"
}

/// Text as XML has it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// An axis from 0 on, with lines at round numbers.
struct Axis {
    step: f64,
    lines: u32,
}

impl Axis {
    /// Up to `most` at least.
    fn to(most: f64) -> Self {
        let rough = most / GRID;
        let decade = 10f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * decade);
        let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        // INVARIANT: at most twice GRID.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let lines = (most / step).ceil() as u32;
        Self { step, lines }
    }

    fn end(&self) -> f64 {
        self.step * f64::from(self.lines)
    }

    /// The numbers at which there are lines.
    fn marks(&self) -> impl Iterator<Item = f64> {
        let step = self.step;
        (0..=self.lines).map(move |line| f64::from(line) * step)
    }
}

/// Where values come to stand.
struct Scale {
    top: f64,
    x: Axis,
    y: Axis,
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x.end() * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + HEIGHT - BOTTOM - value / self.y.end() * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart<'_> {
    fn draw(&self, svg: &mut String, top: f64) {
        let all = || self.series.iter().flat_map(|series| series.points.iter());
        let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(0.0, f64::max).max(1e-9);
        let scale = Scale {
            top,
            x: Axis::to(most(|point| point.0)),
            y: Axis::to(most(|point| point.1)),
        };
        self.draw_frame(svg, &scale);
        for (number, (series, colour)) in self.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            series.draw(svg, &scale, colour);
            #[allow(clippy::cast_precision_loss)] // INVARIANT: a handful.
            let at_y = top + TOP + 14.0 * number as f64 + 10.0;
            let (at_x, name) = (LEFT + 10.0, escape(&series.name));
            let _ = writeln!(
                svg,
                r#"<text x="{at_x:.1}" y="{at_y:.1}" fill="{colour}">{name}</text>"#
            );
        }
    }

    fn draw_frame(&self, svg: &mut String, scale: &Scale) {
        let (right, low, high) = (WIDTH - RIGHT, scale.y(0.0), scale.y(scale.y.end()));
        let (title, at_y) = (escape(self.title), scale.top + 18.0);
        let _ = writeln!(
            svg,
            r#"<text x="{LEFT}" y="{at_y:.1}" font-weight="bold">{title}</text>"#
        );
        for value in scale.y.marks() {
            let (at_y, label) = (scale.y(value), (self.y_label)(value));
            let (words_x, words_y) = (LEFT - 6.0, at_y + 4.0);
            let _ = writeln!(svg, r##"<path d="M{LEFT} {at_y:.1}H{right}" stroke="#ddd"/>"##);
            let _ = writeln!(
                svg,
                r#"<text x="{words_x:.1}" y="{words_y:.1}" text-anchor="end">{label}</text>"#
            );
        }
        for value in scale.x.marks() {
            let (at_x, label, words_y) = (scale.x(value), (self.x_label)(value), low + 16.0);
            let _ = writeln!(
                svg,
                r##"<path d="M{at_x:.1} {low:.1}V{high:.1}" stroke="#ddd"/>"##
            );
            let _ = writeln!(
                svg,
                r#"<text x="{at_x:.1}" y="{words_y:.1}" text-anchor="middle">{label}</text>"#
            );
        }
        let (middle, bottom) = (f64::midpoint(LEFT, right), scale.top + HEIGHT - 10.0);
        let (x, y) = (escape(self.x), escape(self.y));
        let _ = writeln!(
            svg,
            r#"<text x="{middle:.1}" y="{bottom:.1}" text-anchor="middle">{x}</text>"#
        );
        let middle = scale.top + HEIGHT / 2.0;
        let _ = writeln!(
            svg,
            r#"<text transform="translate(14 {middle:.1}) rotate(-90)" text-anchor="middle">{y}</text>"#
        );
    }
}

impl Series {
    fn draw(&self, svg: &mut String, scale: &Scale, colour: &str) {
        let places = self
            .points
            .iter()
            .map(|(at, value)| (scale.x(*at), scale.y(*value)));
        if self.is_line {
            let points: Vec<_> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let points = points.join(" ");
            let _ = writeln!(
                svg,
                r#"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>"#
            );
            return;
        }
        for (x, y) in places {
            let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#);
        }
    }
}

fn document(charts: &[Chart<'_>]) -> String {
    #[allow(clippy::cast_precision_loss)] // INVARIANT: two of them.
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" "#,
            r#"font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>"#,
            "\n"
        ),
        WIDTH = WIDTH,
        height = height
    );
    let mut top = 0.0;
    for chart in charts {
        chart.draw(&mut svg, top);
        top += HEIGHT;
    }
    svg.push_str("</svg>\n");
    svg
}

/// A latency distribution over the decades towards 100 %, in microseconds.
#[allow(clippy::cast_precision_loss)] // INVARIANT: latencies are far below 2^52 ns.
fn curve(name: String, latency: &Latency) -> Series {
    let last = 1.0 / latency.packets.max(1) as f64;
    let points = latency.curve.iter().map(|point| {
        let rest = (1.0 - point.percentile / 100.0).max(last);
        (-rest.log10(), point.ns as f64 / 1000.0)
    });
    Series {
        name,
        points: points.collect(),
        is_line: true,
    }
}

fn latency_chart(series: Vec<Series>) -> Chart<'static> {
    Chart {
        title: "Latency",
        x: "share of packets",
        y: "microseconds at most",
        x_label: nines,
        y_label: plain,
        series,
    }
}

/// A run: its rates over time, and how long its packets were under way.
#[must_use]
pub fn of_run(outcome: &Outcome) -> String {
    let over_time = |name: &str, rate: fn(&super::outcome::Sample) -> f64| Series {
        name: name.to_owned(),
        points: outcome
            .samples
            .iter()
            .map(|sample| (sample.at, rate(sample)))
            .collect(),
        is_line: true,
    };
    let throughput = Chart {
        title: "Throughput",
        x: "seconds",
        y: "packets per second",
        x_label: plain,
        y_label: plain,
        series: vec![
            over_time("sent", |sample| sample.sent_per_second),
            over_time("received", |sample| sample.received_per_second),
        ],
    };
    let latency = outcome
        .latency
        .iter()
        .map(|latency| curve("all packets".to_owned(), latency));
    document(&[throughput, latency_chart(latency.collect())])
}

/// A search: what arrived of what was sent in each trial, and the latency at shares of the PDR.
#[must_use]
pub fn of_search(findings: &Findings) -> String {
    let mut tried: Vec<_> = findings
        .trials
        .iter()
        .map(|tried| (tried.sent_per_second, tried.received_per_second))
        .collect();
    tried.sort_by(|one, other| one.0.total_cmp(&other.0));
    let most = tried.iter().map(|point| point.0).fold(0.0, f64::max);
    let mut series = vec![
        Series {
            name: "received".to_owned(),
            points: tried,
            is_line: false,
        },
        Series {
            name: "no loss".to_owned(),
            points: vec![(0.0, 0.0), (most, most)],
            is_line: true,
        },
    ];
    for (name, found) in [("NDR", &findings.ndr), ("PDR", &findings.pdr)] {
        if let Some(found) = found {
            series.push(Series {
                name: format!("{name} {}", plain(found.rate)),
                points: vec![(found.rate, 0.0), (found.rate, found.rate)],
                is_line: true,
            });
        }
    }
    let throughput = Chart {
        title: "Throughput",
        x: "packets per second sent",
        y: "packets per second received",
        x_label: plain,
        y_label: plain,
        series,
    };
    let latency = findings.latency.iter().filter_map(|at| {
        let name = format!("at {:.0} % of the PDR", at.share * 100.0);
        Some(curve(name, at.latency.as_ref()?))
    });
    document(&[throughput, latency_chart(latency.collect())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_written_as_per_cents() {
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(nines), ["0 %", "90 %", "99 %", "99.9 %"]);
    }

    #[test]
    fn lines_are_at_round_numbers() {
        for (most, step, lines) in [
            (312_634.0, 100_000.0, 4),
            (4.2, 1.0, 5),
            (9.0, 2.0, 5),
            (1e-9, 2e-10, 5),
        ] {
            let axis = Axis::to(most);
            assert!((axis.step / step - 1.0).abs() < 1e-6, "{most}: {}", axis.step);
            assert_eq!(axis.lines, lines, "{most}");
            assert!(axis.end() >= most);
        }
        assert_eq!([250_000.0, 1e6, 0.5].map(plain), ["250k", "1M", "0.5"]);
    }

    #[test]
    fn words_cannot_break_the_picture() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
        let empty = document(&[latency_chart(Vec::new())]);
        assert!(empty.starts_with("<svg") && empty.ends_with("</svg>\n"));
        assert!(!empty.contains("NaN") && !empty.contains("inf"));
    }
}
