//! Namespaces as the switch sees them: what policies select them by.

use k8s_openapi::api::core::v1::Namespace;
use serde::Serialize;

use super::fault::Fault;
use super::name::check_label;
use super::selector::Labels;

/// The label that every Namespace has, with its own name
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/>). The API server puts it there; a manifest may
/// leave it out.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What the switch knows of a Namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespaceRecord {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`, with that of its name.
    pub labels: Labels,
}

impl NamespaceRecord {
    /// Reads a Namespace object.
    ///
    /// # Errors
    /// [`Fault`] if its name is none.
    pub fn read(namespace: &Namespace) -> Result<Self, Fault> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        check_label(&name).map_err(|error| Fault::Name {
            field: "metadata.name",
            error,
        })?;
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        Ok(Self::new(name, labels))
    }

    /// A Namespace of which there is no object: every pod has one all the same.
    #[must_use]
    pub fn unlabelled(name: &str) -> Self {
        Self::new(name.to_owned(), Labels::new())
    }

    fn new(name: String, mut labels: Labels) -> Self {
        labels.insert(NAME_LABEL.to_owned(), name.clone());
        Self { name, labels }
    }
}
