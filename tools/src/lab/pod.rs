//! A pod: a namespace with `eth0` in it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Namespace;
use super::plan::NodePlan;
use super::runtime::Container;

/// The Kubernetes namespace (no kernel one) that all pods of a lab are in.
pub const POD_NAMESPACE: &str = "lab";
/// The pod's interface.
pub const POD_INTERFACE: &str = "eth0";

/// A pod of a lab's node.
#[derive(Debug)]
pub struct Pod {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) address_v6: Option<Ipv6Addr>,
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

    /// Its IPv6 address, in a lab that has that.
    #[must_use]
    pub fn address_v6(&self) -> Option<Ipv6Addr> {
        self.address_v6
    }

    /// As its runtime calls a plugin for it.
    #[must_use]
    pub fn container(&self) -> Container<'_> {
        container(&self.name, &self.namespace)
    }

    /// Both.
    pub(crate) fn addresses(&self) -> (Ipv4Addr, Option<Ipv6Addr>) {
        (self.address, self.address_v6)
    }

    /// The network namespace the pod's processes live in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// A pod of this name as its runtime calls a plugin for it: a pod has one container, which is called after it.
pub(crate) fn container<'a>(name: &'a str, namespace: &'a Namespace) -> Container<'a> {
    Container {
        namespace,
        id: name,
        pod: (POD_NAMESPACE, name),
        interface: POD_INTERFACE,
    }
}

/// The IPv6 address of a pod with this IPv4 address, if the lab has IPv6.
pub(crate) fn address_v6(host: NodePlan, address: Ipv4Addr) -> Option<Ipv6Addr> {
    let [.., number] = address.octets();
    Some(host.v6()?.pod_address(number))
}
