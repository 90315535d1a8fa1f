//! A table as Markdown has it, and how figures are written in its cells.

/// A table that is being written.
pub(super) struct Table(String);

/// What stands where there is no figure.
const NOTHING: &str = "–";

impl Table {
    /// A table with these columns.
    pub(super) fn new(columns: &[&str]) -> Self {
        let mut table = Self(String::new());
        table.row(columns);
        table.row(&vec!["---"; columns.len()]);
        table
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: &[impl AsRef<str>]) {
        self.0.push('|');
        for cell in cells {
            self.0.push(' ');
            self.0.push_str(cell.as_ref());
            self.0.push_str(" |");
        }
        self.0.push('\n');
    }

    /// The table's text.
    pub(super) fn text(self) -> String {
        self.0
    }
}

/// A figure in a cell, written by `write`.
pub(super) fn cell(figure: Option<f64>, write: impl Fn(f64) -> String) -> String {
    figure.map_or_else(|| NOTHING.to_owned(), write)
}

/// A whole number with commas between the thousands.
pub(super) fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && text != "0" {
        text.insert(0, '-');
    }
    text
}

/// Two digits that count, at least: `0.13`, `8.3`, `12`, `1,250`.
pub(super) fn two_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 9.95 || size == 0.0 => whole(value),
        size if size >= 0.995 => format!("{value:.1}"),
        size if size >= 0.0995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A share as per cents.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Bytes in the largest unit that leaves something before the point.
pub(super) fn bytes(value: f64) -> String {
    for (factor, unit) in [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")] {
        if value >= factor {
            return format!("{} {unit}", two_digits(value / factor));
        }
    }
    format!("{} bytes", whole(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new(&["a", "b"]);
        table.row(&["1".to_owned(), cell(None, whole)]);
        assert_eq!(table.text(), "| a | b |\n| --- | --- |\n| 1 | – |\n");
    }

    #[test]
    fn figures_are_written_so_that_they_can_be_read() {
        for (value, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(whole(value), text);
        }
        for (value, text) in [
            (0.0, "0"),
            (0.012, "0.012"),
            (0.13, "0.13"),
            (8.32, "8.3"),
            (12.4, "12"),
            (1250.0, "1,250"),
        ] {
            assert_eq!(two_digits(value), text);
        }
        for (value, text) in [
            (12.0, "12 bytes"),
            (7_000_000.0, "7.0 MB"),
            (44e6, "44 MB"),
            (1.27e9, "1.3 GB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(percent(0.4591), "45.9 %");
    }
}
