//! Names of Kubernetes objects, checked when they are made.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fault::value_excerpt;

/// Longest DNS-1123 subdomain, in bytes
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>).
const SUBDOMAIN_MAX_BYTES: usize = 253;
/// Longest DNS-1123 label, in bytes (RFC 1123 section 2.1, RFC 1035 section 2.3.4).
const LABEL_MAX_BYTES: usize = 63;

/// A name that Kubernetes would not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no {form}: {rule}", value_excerpt(name))]
pub struct NameError {
    /// The name as it was given.
    name: String,
    /// Which of the two forms it was to have.
    form: &'static str,
    /// What a good name looks like.
    rule: &'static str,
}

/// Checks one label: lower-case letters, digits and `-`, beginning and ending with a letter or digit.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// Checks a DNS-1123 subdomain, the form of the names of Nodes and Pods.
///
/// # Errors
/// [`NameError`] with the rule that `name` breaks.
pub fn check_subdomain(name: &str) -> Result<(), NameError> {
    if name.len() <= SUBDOMAIN_MAX_BYTES && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(NameError {
        name: name.to_owned(),
        form: "DNS-1123 subdomain",
        rule: "at most 253 characters of a-z, 0-9, `-` and `.`, each part beginning and ending with a letter or digit",
    })
}

/// Checks a DNS-1123 label, the form of the names of Namespaces.
///
/// # Errors
/// [`NameError`] with the rule that `name` breaks.
pub fn check_label(name: &str) -> Result<(), NameError> {
    if name.len() <= LABEL_MAX_BYTES && is_label(name) {
        return Ok(());
    }
    Err(NameError {
        name: name.to_owned(),
        form: "DNS-1123 label",
        rule: "at most 63 characters of a-z, 0-9 and `-`, beginning and ending with a letter or digit",
    })
}

/// `metadata.name` of a Node: a DNS-1123 subdomain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// Takes a name that is a DNS-1123 subdomain.
    ///
    /// # Errors
    /// [`NameError`] with the rule that `name` breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        check_subdomain(&name)?;
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Namespace and name of a Pod, written `namespace/name`. There are many, in many places: a copy shares its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodKey {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl PodKey {
    /// Takes a namespace (DNS-1123 label) and a name (DNS-1123 subdomain).
    ///
    /// # Errors
    /// [`NameError`] for the first of the two that breaks its rule.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, NameError> {
        let (namespace, name) = (namespace.into(), name.into());
        check_label(&namespace)?;
        check_subdomain(&name)?;
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    /// `metadata.namespace`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for PodKey {
    type Err = NameError;

    /// Reads `namespace/name`, the form of the command line.
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Err(NameError {
                name: text.to_owned(),
                form: "pod name",
                rule: "write it as NAMESPACE/NAME",
            }),
        }
    }
}

impl TryFrom<String> for PodKey {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<PodKey> for String {
    fn from(key: PodKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which object a notice is about: kind, namespace (empty for cluster-wide kinds) and name, as read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectId {
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`; empty for kinds that live in none.
    pub namespace: String,
    /// `metadata.name`; empty if the object has none.
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() {
            "(without a name)"
        } else {
            &self.name
        };
        if self.namespace.is_empty() {
            write!(f, "{} {name}", self.kind)
        } else {
            write!(f, "{} {}/{name}", self.kind, self.namespace)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dns_1123() {
        let long_label = "a".repeat(64);
        let long_name = format!("{}.{}", "a".repeat(200), "b".repeat(53));
        let rows: &[(&str, bool, bool)] = &[
            // name, good subdomain, good label
            ("node-a", true, true),
            ("10", true, true),
            ("node-a.example.org", true, false),
            ("", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a..b", false, false),
            (".a", false, false),
            ("Node", false, false),
            ("a_b", false, false),
            ("a b", false, false),
            ("nöde", false, false),
            (&long_label, true, false),
            (&long_name, false, false),
        ];
        for (name, subdomain, label) in rows {
            assert_eq!(check_subdomain(name).is_ok(), *subdomain, "{name}");
            assert_eq!(check_label(name).is_ok(), *label, "{name}");
        }
    }

    #[test]
    fn pod_key_reads_what_it_writes() {
        let key: PodKey = "default/web-0.x".parse().unwrap();
        assert_eq!((key.namespace(), key.name()), ("default", "web-0.x"));
        assert_eq!(key.to_string().parse::<PodKey>().unwrap(), key);
        for bad in ["web", "a/b/c", "/web", "default/", "Default/web"] {
            assert!(bad.parse::<PodKey>().is_err(), "{bad}");
        }
    }
}
