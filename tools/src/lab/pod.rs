//! A pod: a namespace with `eth0` in it.

use std::net::Ipv4Addr;

use super::Namespace;

/// The Kubernetes namespace (no kernel one) that all pods of a lab are in.
pub const POD_NAMESPACE: &str = "lab";
/// The pod's interface.
pub const POD_INTERFACE: &str = "eth0";

/// A pod of a lab's node.
#[derive(Debug)]
pub struct Pod {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) namespace: Namespace,
}

impl Pod {
    /// `metadata.name` of the Pod object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Namespace and name as `millrace attach` takes them.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{POD_NAMESPACE}/{}", self.name)
    }

    /// `status.podIP` of the Pod object.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The network namespace the pod's processes live in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
