//! What was found, one line each.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Unseen,
    /// It works, and somebody should know.
    Warn,
    /// The switch would not start, or pods would not be reached.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Unseen => "unseen",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is there.
    pub found: String,
    /// What to do, where there is something to be done.
    #[serde(rename = "to-do", skip_serializing_if = "Option::is_none")]
    pub to_do: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found, None)
    }

    pub(super) fn warn(check: &'static str, found: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self::new(check, Level::Warn, found, Some(to_do.into()))
    }

    pub(super) fn fail(check: &'static str, found: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self::new(check, Level::Fail, found, Some(to_do.into()))
    }

    /// It could not be looked at, and why.
    pub(super) fn unseen(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Level::Unseen, why, None)
    }

    fn new(check: &'static str, level: Level, found: impl Into<String>, to_do: Option<String>) -> Self {
        let one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            check,
            level,
            found: one_line(found.into()),
            to_do: to_do.map(one_line),
        }
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are of a level.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    }

    /// Whether the switch can run here.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.count(Level::Fail) == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            write!(f, "{:<7} {:<14} {}", finding.level, finding.check, finding.found)?;
            if let Some(to_do) = &finding.to_do {
                write!(f, " -> {to_do}")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "{} ok, {} to know of, {} to put right, {} not looked at",
            self.count(Level::Ok),
            self.count(Level::Warn),
            self.count(Level::Fail),
            self.count(Level::Unseen)
        )
    }
}
