//! What a verb fails with, as the runtime is told (CNI 1.1, section 5, "Error").

use std::fmt::Display;
use std::io;

use serde_json::json;

/// An error with its code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}")]
pub struct CniError {
    /// See the constants.
    pub code: u32,
    /// One line: what, where, and what would be right.
    pub msg: String,
    /// More of it; may be empty.
    pub details: String,
}

/// The configuration's `cniVersion` is none that is spoken here, or has no such verb.
pub const INCOMPATIBLE_VERSION: u32 = 1;
/// A field of the configuration is not supported.
pub const UNSUPPORTED_FIELD: u32 = 2;
/// An environment variable is missing or makes no sense.
pub const INVALID_ENVIRONMENT: u32 = 4;
/// Reading or writing failed.
pub const IO_FAILURE: u32 = 5;
/// What was read is no JSON, or not of the shape it should be.
pub const DECODING_FAILURE: u32 = 6;
/// The configuration makes no sense.
pub const INVALID_CONFIG: u32 = 7;
/// It may go well later.
pub const TRY_AGAIN_LATER: u32 = 11;
/// STATUS: no container can be added.
pub const NOT_AVAILABLE: u32 = 50;
/// STATUS: no container can be added, and those that are there may be cut off.
pub const LIMITED_CONNECTIVITY: u32 = 51;
/// Of our own: the switch will not have it.
pub const REFUSED: u32 = 100;
/// Of our own: CHECK found something that is not as it was made.
pub const NOT_AS_MADE: u32 = 101;

impl CniError {
    /// An error without details.
    #[must_use]
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// A field that is not supported, or has a value that is not. The specification wants both named.
    #[must_use]
    pub fn field(key: &str, value: impl Display, why: &str) -> Self {
        Self {
            code: UNSUPPORTED_FIELD,
            msg: format!("{key} = {value} is not supported: {why}"),
            details: String::new(),
        }
    }

    /// Reading or writing failed.
    #[must_use]
    pub fn io(doing: &str, error: &io::Error) -> Self {
        Self::new(IO_FAILURE, format!("{doing}: {error}"))
    }

    /// The same error with another code.
    #[must_use]
    pub fn with_code(self, code: u32) -> Self {
        Self { code, ..self }
    }

    /// What is printed on standard output; `version` is that of the configuration, the newest one if it is empty.
    #[must_use]
    pub fn to_json(&self, version: &str) -> String {
        let version = if version.is_empty() {
            crate::config::Version::NEWEST.text()
        } else {
            version
        };
        let mut error = json!({"cniVersion": version, "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        format!("{error}\n")
    }
}
