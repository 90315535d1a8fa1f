//! What is reported about the objects: which was refused or skipped, where it stands, and why.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::excerpt::excerpt;
use super::fault::Fault;
use super::name::ObjectId;

/// Most characters of each part of a notice.
const NOTICE_MAX_CHARS: usize = 512;

/// Where an object, or trouble with one, was found. Orders by file name, then by position in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The folder of manifests as a whole.
    Folder {
        /// Path of the folder.
        path: PathBuf,
    },
    /// A file of the folder as a whole.
    File {
        /// Path of the file.
        file: PathBuf,
    },
    /// One object in a file.
    Document {
        /// Path of the file.
        file: PathBuf,
        /// Number of the document in the file, from 1.
        document: usize,
        /// Number of the item in the document, from 1, if the document is a list.
        item: Option<usize>,
        /// Line in the file, from 1: of the mistake where the parser knows it, else of the object's
        /// beginning.
        line: u64,
    },
    /// The cluster's API server, where each object is known by its name.
    Api,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path } => write!(f, "{}", path.display()),
            Self::File { file } => write!(f, "{}", file.display()),
            Self::Document {
                file,
                document,
                item,
                line,
            } => {
                write!(f, "{}:{line} (document {document}", file.display())?;
                if let Some(item) = item {
                    write!(f, ", item {item}")?;
                }
                f.write_str(")")
            }
            Self::Api => f.write_str("API server"),
        }
    }
}

/// How much of the object is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// What stands there is not in force, and somebody must put it right.
    Refused,
    /// In force, but something about it is not as it should be.
    Warning,
    /// Rightly not used; nothing is wrong with it.
    Skipped,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Warning => "warning",
            Self::Skipped => "skipped",
        })
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Notice {
    /// How much of the object is in force.
    pub severity: Severity,
    /// Where it stands.
    pub origin: Origin,
    /// Which object it is about, if that could be read.
    pub object: Option<ObjectId>,
    /// Why, and where it matters what would be right.
    pub reason: Fault,
    /// Whether an earlier, good version of what was refused stays in force.
    pub last_good_kept: bool,
}

impl Notice {
    /// Makes a notice whose severity follows from its reason.
    #[must_use]
    pub fn new(origin: Origin, object: Option<ObjectId>, reason: Fault) -> Self {
        Self {
            severity: reason.severity(),
            origin,
            object,
            reason,
            last_good_kept: false,
        }
    }
}

impl fmt::Display for Notice {
    /// One line, of bounded length, without control characters, whatever stands in the manifest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: ",
            excerpt(&self.origin.to_string(), NOTICE_MAX_CHARS),
            self.severity
        )?;
        if let Some(object) = &self.object {
            write!(f, "{}: ", excerpt(&object.to_string(), NOTICE_MAX_CHARS))?;
        }
        f.write_str(&excerpt(&self.reason.to_string(), NOTICE_MAX_CHARS))?;
        if self.last_good_kept {
            f.write_str("; the last good version stays in force")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_one_short_line_whatever_it_quotes() {
        let nasty = format!("a\n\u{1b}[31m{}", "x".repeat(100_000));
        let object = ObjectId {
            kind: nasty.clone(),
            namespace: nasty.clone(),
            name: nasty.clone(),
        };
        let origin = Origin::File {
            file: PathBuf::from(&nasty),
        };
        let reasons = [
            Fault::Cidr {
                field: "spec.podCIDR".to_owned(),
                value: nasty.clone(),
            },
            Fault::Field {
                field: nasty.clone(),
                reason: nasty.clone(),
            },
            Fault::UnknownBackend(nasty.clone()),
            Fault::Syntax(nasty),
        ];
        for reason in reasons {
            let text = Notice::new(origin.clone(), Some(object.clone()), reason).to_string();
            assert!(
                text.chars().count() < 2_000,
                "{} characters",
                text.chars().count()
            );
            assert!(!text.contains(char::is_control), "{text}");
        }
        // The value is cut, not what is said about it.
        let reason = Fault::Cidr {
            field: "spec.podCIDR".to_owned(),
            value: "7".repeat(1_000),
        };
        let text = Notice::new(
            Origin::Folder {
                path: PathBuf::from("m"),
            },
            None,
            reason,
        )
        .to_string();
        let cut = format!("{}...", "7".repeat(80));
        assert_eq!(
            text,
            format!("m: refused: spec.podCIDR: `{cut}` is no CIDR, write it as in 10.244.1.0/24")
        );
    }
}
