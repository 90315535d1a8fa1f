//! Marks in a page: lines of their own that say where a table stands.
//!
//! ```text
//! <!-- table: memory -->
//! what the report writes
//! <!-- end -->
//! ```

use std::fmt::{self, Display, Formatter};

/// Comments of a page that are no marks of a table.
const OTHERS: [&str; 2] = ["Measured: begin", "Measured: end"];
/// Tables that the fault of an unknown mark names.
type Known = Vec<&'static str>;

/// What is to stand between two marks.
pub(super) enum Content {
    /// This.
    New(String),
    /// What stands there already: there are no figures.
    Old,
    /// There is no table of that name, but these.
    Unknown(Known),
}

/// A page with its tables filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) text: String,
    /// Tables that were left as they were.
    pub(super) left: Vec<String>,
}

/// A mark that means nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Fault {
    /// The same with the page's name.
    pub(super) fn of(self, page: &str) -> anyhow::Error {
        anyhow::anyhow!("{page}:{self}")
    }
}

impl Display for Fault {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.line, self.what)
    }
}

/// What a line of a page is.
enum Line<'a> {
    Begin(&'a str),
    End,
    Text,
    Unknown,
}

fn parse(line: &str) -> Line<'_> {
    let comment = line.trim().strip_prefix("<!--").map(str::trim);
    let Some(comment) = comment.and_then(|rest| rest.strip_suffix("-->")).map(str::trim) else {
        return Line::Text;
    };
    match comment.strip_prefix("table:") {
        Some(name) => Line::Begin(name.trim()),
        None if comment == "end" => Line::End,
        None if OTHERS.iter().any(|other| comment.starts_with(other)) => Line::Text,
        None => Line::Unknown,
    }
}

/// Fills a page's tables with what `content` says of each.
///
/// # Errors
/// A [`Fault`] at the first mark that is unknown, stands within another's table or is never ended.
pub(super) fn fill(page: &str, content: impl Fn(&str) -> Content) -> Result<Filled, Fault> {
    let mut filled = Filled {
        text: String::with_capacity(page.len()),
        left: Vec::new(),
    };
    // The table that has begun: its name, its line, and whether its lines are kept.
    let mut open: Option<(&str, usize, bool)> = None;
    for (number, line) in (1..).zip(page.lines()) {
        let fault = |what: String| Err(Fault { line: number, what });
        match (parse(line), open) {
            (Line::Begin(name), None) => {
                keep(&mut filled, line);
                let is_kept = match content(name) {
                    Content::New(text) => {
                        text.lines().for_each(|line| keep(&mut filled, line));
                        false
                    }
                    Content::Old => {
                        filled.left.push(name.to_owned());
                        true
                    }
                    Content::Unknown(known) => {
                        let known = known.join(", ");
                        return fault(format!("there is no table `{name}`; there are {known}"));
                    }
                };
                open = Some((name, number, is_kept));
            }
            (Line::End, Some(_)) => {
                open = None;
                keep(&mut filled, line);
            }
            (Line::Begin(name), Some((outer, ..))) => {
                return fault(format!(
                    "table `{name}` begins within table `{outer}`: `<!-- end -->` is missing"
                ));
            }
            (Line::End, None) => return fault("`<!-- end -->` ends no table".to_owned()),
            (Line::Unknown, _) => {
                return fault(format!(
                    "`{}` is no mark; `<!-- table: NAME -->` and `<!-- end -->` are",
                    line.trim()
                ));
            }
            (Line::Text, Some((.., false))) => {}
            (Line::Text, _) => keep(&mut filled, line),
        }
    }
    match open {
        Some((name, line, _)) => Err(Fault {
            line,
            what: format!("table `{name}` is never ended by `<!-- end -->`"),
        }),
        None => Ok(filled),
    }
}

fn keep(filled: &mut Filled, line: &str) {
    filled.text.push_str(line);
    filled.text.push('\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn content(name: &str) -> Content {
        match name {
            "new" => Content::New("| a |\n| - |".to_owned()),
            "old" => Content::Old,
            _ => Content::Unknown(vec!["new", "old"]),
        }
    }

    const PAGE: &str = "# Page\n<!-- Measured: begin. -->\n<!-- table: new -->\nwhat was\n\n<!-- end -->\nprose\n\
                        <!-- table: old -->\nwhat stays\n<!-- end -->\n<!-- Measured: end. -->\n";

    #[test]
    fn tables_are_filled_and_the_rest_stays() {
        let filled = fill(PAGE, content).unwrap();
        assert_eq!(filled.text, PAGE.replace("what was\n\n", "| a |\n| - |\n"));
        assert_eq!(filled.left, ["old"]);
    }

    #[test]
    fn filling_twice_changes_nothing() {
        let once = fill(PAGE, content).unwrap();
        assert_eq!(fill(&once.text, content).unwrap(), once);
    }

    #[test]
    fn a_wrong_mark_is_named_with_its_line() {
        for (page, line, word) in [
            (
                "a\n<!-- table: other -->\n<!-- end -->\n",
                2,
                "`other`; there are new, old",
            ),
            (
                "<!-- tabel: new -->\n<!-- end -->\n",
                1,
                "`<!-- tabel: new -->` is no mark",
            ),
            ("a\nb\n<!-- end -->\n", 3, "ends no table"),
            ("a\n<!-- table: new -->\nb\n", 2, "`new` is never ended"),
            (
                "<!-- table: new -->\n<!-- table: old -->\n<!-- end -->\n",
                2,
                "within table `new`",
            ),
        ] {
            let fault = fill(page, content).unwrap_err();
            assert_eq!(fault.line, line, "{page}");
            let shown = fault.of("README.md").to_string();
            assert!(
                shown.starts_with(&format!("README.md:{line}: ")) && shown.contains(word),
                "{shown}"
            );
        }
    }
}
