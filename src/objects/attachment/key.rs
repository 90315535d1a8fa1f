//! A network's name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::objects::name::{NameError, PodKey};

/// Namespace and name of a network's definition, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkKey(PodKey);

impl NetworkKey {
    /// Takes a namespace (DNS-1123 label) and a name (DNS-1123 subdomain).
    ///
    /// # Errors
    /// [`NameError`] for the first of the two that breaks its rule.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, NameError> {
        PodKey::new(namespace, name).map(Self)
    }

    /// `metadata.namespace`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.namespace()
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

impl FromStr for NetworkKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
