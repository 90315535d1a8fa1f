//! Writing to the terminal: tables, JSON, and silence when nobody reads any more.

use std::io::{self, Write};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::client::ClientError;
use crate::admin::protocol::Failure;

/// Prints text on standard output; a reader that has gone (`| head`) is no error, as it is with `print!`.
///
/// # Errors
/// Standard output cannot be written to.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Prints bytes on standard output. A reader that has gone (`| head`) has what it wanted: no error.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(cannot_write("standard output", &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `cannot write to …`.
pub(super) fn cannot_write(what: &str, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write to {what}: {error}"))
}

/// An answer as JSON for people.
pub(super) fn json(answer: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(answer).map_err(ClientError::NotUnderstood)?;
    Ok(text + "\n")
}

/// An answer as what it stands for.
pub(super) fn understand<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| ClientError::NotUnderstood(error).into())
}

/// The text in one line, without control characters that a terminal would obey.
pub(super) fn one_line(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Thousands set apart, as people read them.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Which side of a column the text stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A table with a line of headings. A line has one cell per column.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows; a heading that begins with `>` stands, like its column, on the right.
    pub(super) fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => (heading, Side::Right),
            None => (*heading, Side::Left),
        };
        Self {
            columns: headings.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = cells.into_iter().map(|cell| one_line(&cell)).collect();
        debug_assert_eq!(row.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each begun by `indent`.
    pub(super) fn render(&self, indent: &str) -> String {
        let length = |text: &str| text.chars().count();
        let width = |(i, (heading, _)): (usize, &(&str, Side))| {
            let cells = self.rows.iter().filter_map(|row| row.get(i));
            cells
                .map(|cell| length(cell))
                .max()
                .unwrap_or(0)
                .max(length(heading))
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let headings: Vec<String> = self
            .columns
            .iter()
            .map(|(heading, _)| (*heading).to_owned())
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let cells = row.iter().zip(&widths).zip(&self.columns);
            let cells = cells.map(|((cell, &width), (_, side))| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(format!("{indent}{line}").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new(&["NAME", ">PACKETS", "MEANING"]);
        table.row(["a".into(), "1".into(), "short".into()]);
        table.row(["größer".into(), "12,345,678".into(), String::new()]);
        let expected = "\
- NAME       PACKETS  MEANING
- a                1  short
- größer  12,345,678
";
        assert_eq!(table.render("- "), expected);
    }

    #[test]
    fn terminal_is_not_commanded_by_what_is_shown() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc\n"), "a [2Jb c");
    }
}
