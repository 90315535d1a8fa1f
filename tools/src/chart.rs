//! Lines and points as a picture: SVG by hand, readable on light and on dark pages.
//!
//! ```
//! use millrace_tools::chart::{Axis, Chart, Series, document};
//!
//! let chart = Chart {
//!     title: "Cost",
//!     x: Axis::decades("flows"),
//!     y: Axis::from_zero("cycles per packet"),
//!     series: vec![Series::line("forward", vec![(10.0, 120.0), (1e6, 200.0)])],
//! };
//! assert!(document(&[chart]).starts_with("<svg"));
//! ```

use std::fmt::Write as _;

/// Size of one chart, in pixels, and what is left free around it for axes and words.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 45.0;
/// About how many lines there are between two axes.
const GRID: f64 = 5.0;
/// About how wide a letter is, and what is left between two names, in pixels.
const LETTER: f64 = 6.0;
const GAP: f64 = 24.0;
/// Decades of an axis up to which 2 and 5 are marked too.
const FEW_DECADES: i32 = 2;
/// Colours that people with any colour vision tell apart (Okabe and Ito), on light paper and on dark.
const COLOURS: [(&str, &str); 4] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#e69f00"),
    ("#009e73", "#2dc08d"),
    ("#cc79a7", "#e3a5c7"),
];

/// How values of an axis are written.
pub type Label = fn(f64) -> String;

/// One axis of a chart.
#[derive(Clone, Copy, Debug)]
pub struct Axis<'a> {
    /// What stands beside it.
    pub name: &'a str,
    /// How its values are written.
    pub label: Label,
    /// Whether each decade takes the same room; values must then be above 0.
    pub is_logarithmic: bool,
}

impl<'a> Axis<'a> {
    /// An axis that begins at 0, whose values are written with the units of thousands.
    #[must_use]
    pub fn from_zero(name: &'a str) -> Self {
        Self {
            name,
            label: plain,
            is_logarithmic: false,
        }
    }

    /// An axis of decades, whose values are written with the units of thousands.
    #[must_use]
    pub fn decades(name: &'a str) -> Self {
        Self {
            is_logarithmic: true,
            ..Self::from_zero(name)
        }
    }
}

/// A line, or points, of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is called.
    pub name: String,
    /// Its values: along, and up.
    pub points: Vec<(f64, f64)>,
    /// Whether the points are joined.
    pub is_line: bool,
}

impl Series {
    /// A line.
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.into(),
            points,
            is_line: true,
        }
    }

    /// Points.
    pub fn dots(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self {
            is_line: false,
            ..Self::line(name, points)
        }
    }
}

/// One chart.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// The axis along.
    pub x: Axis<'a>,
    /// The axis up.
    pub y: Axis<'a>,
    /// What it shows.
    pub series: Vec<Series>,
}

/// A number with at most three decimals and `k`, `M` or `G` for thousands.
#[must_use]
pub fn plain(value: f64) -> String {
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

/// Text as XML has it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// From where to where an axis goes, and where on it there are lines.
struct Range {
    from: f64,
    to: f64,
    is_logarithmic: bool,
    marks: Vec<f64>,
}

impl Range {
    fn over(axis: &Axis<'_>, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values.fold((f64::MAX, 0.0), |(least, most): (f64, f64), value| {
            (least.min(value), most.max(value))
        });
        if axis.is_logarithmic {
            Self::decades(least, most)
        } else {
            Self::from_zero(most.max(1e-9))
        }
    }

    /// From 0 on, up to `most` at least, with lines at round numbers.
    fn from_zero(most: f64) -> Self {
        let rough = most / GRID;
        let decade = 10f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * decade);
        let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        // INVARIANT: at most twice GRID.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let lines = (most / step).ceil() as u32;
        Self {
            from: 0.0,
            to: step * f64::from(lines),
            is_logarithmic: false,
            marks: (0..=lines).map(|line| f64::from(line) * step).collect(),
        }
    }

    /// The decades around these values.
    fn decades(least: f64, most: f64) -> Self {
        let (least, most) = if least > 0.0 && most >= least && most.is_finite() {
            (least, most)
        } else {
            (1.0, 10.0)
        };
        // INVARIANT: decades of a finite number.
        #[allow(clippy::cast_possible_truncation)]
        let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let last = last.max(first + 1);
        let factors: &[f64] = if last - first <= FEW_DECADES {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let to = 10f64.powi(last);
        let marks = (first..=last).flat_map(|decade| factors.iter().map(move |by| by * 10f64.powi(decade)));
        Self {
            from: 10f64.powi(first),
            to,
            is_logarithmic: true,
            marks: marks.filter(|mark| *mark <= to * 1.001).collect(),
        }
    }

    /// How far along the axis a value is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        if self.is_logarithmic {
            let value = value.max(self.from);
            (value / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        }
    }
}

/// Where values come to stand.
struct Scale {
    top: f64,
    x: Range,
    y: Range,
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart<'_> {
    fn draw(&self, svg: &mut String, top: f64) {
        let all = || self.series.iter().flat_map(|series| series.points.iter());
        let scale = Scale {
            top,
            x: Range::over(&self.x, all().map(|point| point.0)),
            y: Range::over(&self.y, all().map(|point| point.1)),
        };
        self.draw_frame(svg, &scale);
        let mut at_x = LEFT;
        for (series, colour) in self.series.iter().zip((0..COLOURS.len()).cycle()) {
            series.draw(svg, &scale, colour);
            let (at_y, name) = (top + 38.0, escape(&series.name));
            let _ = writeln!(
                svg,
                r#"<text class="c{colour}" x="{at_x:.1}" y="{at_y:.1}" style="fill:currentColor">{name}</text>"#
            );
            // INVARIANT: a name is short.
            #[allow(clippy::cast_precision_loss)]
            let letters = series.name.chars().count() as f64;
            at_x += letters * LETTER + GAP;
        }
    }

    fn draw_frame(&self, svg: &mut String, scale: &Scale) {
        let (right, low, high) = (WIDTH - RIGHT, scale.y(scale.y.from), scale.y(scale.y.to));
        let (title, at_y) = (escape(self.title), scale.top + 18.0);
        let _ = writeln!(
            svg,
            r#"<text x="{LEFT}" y="{at_y:.1}" font-weight="bold">{title}</text>"#
        );
        for value in &scale.y.marks {
            let (at_y, label) = (scale.y(*value), escape(&(self.y.label)(*value)));
            let (words_x, words_y) = (LEFT - 6.0, at_y + 4.0);
            let _ = writeln!(svg, r#"<path class="grid" d="M{LEFT} {at_y:.1}H{right}"/>"#);
            let _ = writeln!(
                svg,
                r#"<text x="{words_x:.1}" y="{words_y:.1}" text-anchor="end">{label}</text>"#
            );
        }
        for value in &scale.x.marks {
            let (at_x, label, words_y) = (scale.x(*value), escape(&(self.x.label)(*value)), low + 16.0);
            let _ = writeln!(svg, r#"<path class="grid" d="M{at_x:.1} {low:.1}V{high:.1}"/>"#);
            let _ = writeln!(
                svg,
                r#"<text x="{at_x:.1}" y="{words_y:.1}" text-anchor="middle">{label}</text>"#
            );
        }
        let (middle, bottom) = (f64::midpoint(LEFT, right), scale.top + HEIGHT - 10.0);
        let (x, y) = (escape(self.x.name), escape(self.y.name));
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
    fn draw(&self, svg: &mut String, scale: &Scale, colour: usize) {
        let places: Vec<_> = self
            .points
            .iter()
            .map(|(at, value)| (scale.x(*at), scale.y(*value)))
            .collect();
        if self.is_line {
            let points: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let points = points.join(" ");
            let _ = writeln!(
                svg,
                r#"<polyline class="c{colour}" fill="none" stroke="currentColor" stroke-width="1.5" points="{points}"/>"#
            );
            return;
        }
        for (x, y) in places {
            let _ = writeln!(
                svg,
                r#"<circle class="c{colour}" cx="{x:.1}" cy="{y:.1}" r="3" fill="currentColor"/>"#
            );
        }
    }
}

/// Colours of paper, words and lines, for a page that is light and one that is dark.
fn style() -> String {
    let themes = [
        ("#ffffff", "#24292f", "#d8dee4", COLOURS.map(|(light, _)| light)),
        ("#0d1117", "#e6edf3", "#30363d", COLOURS.map(|(_, dark)| dark)),
    ];
    let rules = themes.map(|(paper, words, grid, colours)| {
        let mut rules = format!(".paper{{fill:{paper}}}text{{fill:{words}}}.grid{{stroke:{grid};fill:none}}");
        for (number, colour) in colours.iter().enumerate() {
            let _ = write!(rules, ".c{number}{{color:{colour}}}");
        }
        rules
    });
    let [light, dark] = rules;
    format!("<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>\n")
}

/// The charts as one picture, one below the other.
#[must_use]
pub fn document(charts: &[Chart<'_>]) -> String {
    #[allow(clippy::cast_precision_loss)] // INVARIANT: a handful.
    let height = HEIGHT * charts.len() as f64;
    let mut svg = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" "#,
            r#"font-family="sans-serif" font-size="11">"#,
            "\n"
        ),
        WIDTH = WIDTH,
        height = height
    );
    svg.push_str(&style());
    svg.push_str("<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n");
    let mut top = 0.0;
    for chart in charts {
        chart.draw(&mut svg, top);
        top += HEIGHT;
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Axis<'static>, points: Vec<(f64, f64)>) -> Chart<'static> {
        Chart {
            title: "a<b>&c",
            x,
            y: Axis::from_zero("<y>"),
            series: vec![
                Series::line("<line>", points.clone()),
                Series::dots("dots", points),
            ],
        }
    }

    #[test]
    fn lines_are_at_round_numbers() {
        for (most, step, lines) in [
            (312_634.0, 100_000.0, 4),
            (4.2, 1.0, 5),
            (9.0, 2.0, 5),
            (1e-9, 2e-10, 5),
        ] {
            let range = Range::from_zero(most);
            assert_eq!(range.marks.len(), lines + 1, "{most}");
            let second = range.marks.get(1).copied().unwrap_or_default();
            assert!((second / step - 1.0).abs() < 1e-6, "{most}: {second}");
            assert!(range.to >= most);
        }
        assert_eq!([250_000.0, 1e6, 0.5].map(plain), ["250k", "1M", "0.5"]);
    }

    #[test]
    fn decades_take_the_same_room() {
        let range = Range::decades(10.0, 4e6);
        assert_eq!(range.marks, [10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7]);
        assert!((range.share(1e4) - 0.5).abs() < 1e-9);
        let narrow = Range::decades(2.0, 250.0);
        assert_eq!(narrow.marks, [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Range::decades(20.0, 70.0).marks, [10.0, 20.0, 50.0, 100.0]);
        assert_eq!(Range::decades(10.0, 10.0).marks, [10.0, 20.0, 50.0, 100.0]);
    }

    #[test]
    fn words_cannot_break_the_picture_and_nothing_is_a_picture_too() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
        for axis in [Axis::from_zero("x"), Axis::decades("x")] {
            for points in [
                vec![],
                vec![(1.0, 0.0)],
                vec![(0.0, 1.0)],
                vec![(5.0, 5.0), (9e9, 1.0)],
            ] {
                let picture = document(&[chart(axis, points.clone()), chart(axis, points)]);
                assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
                assert!(
                    !picture.contains("NaN") && !picture.contains("inf") && !picture.contains("<line>"),
                    "{picture}"
                );
            }
        }
    }

    #[test]
    fn a_dark_page_has_a_dark_picture() {
        let picture = document(&[chart(Axis::from_zero("x"), vec![(1.0, 1.0)])]);
        assert!(picture.contains("prefers-color-scheme:dark"));
    }
}
