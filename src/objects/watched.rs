//! The kinds of objects that are watched where they come from an API server, and what of each is kept.
//!
//! An API server sends objects whole: a Pod has volumes, probes and a list of who manages which field, of which nothing is
//! used here. What is not used goes at once, before an object is even made of it, so neither does it take memory, nor does
//! a change of it make work, nor can a field that is of no interest here have an object refused.

use k8s_openapi::Resource as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;

use super::attachment::{ATTACHMENT_API_VERSION, NetworkAttachmentDefinition};
use super::calico::{BlockAffinity, CALICO_API_VERSIONS, IpPool, IpamBlock};
use super::name::ObjectId;
use super::network_status::{self, NETWORK_STATUS};
use super::policy::{ClusterNetworkPolicy, MULTI_API_VERSIONS, MultiNetworkPolicy};

/// A kind of object that is watched.
#[derive(Debug, PartialEq, Eq)]
pub struct Watched {
    /// `kind`.
    pub kind: &'static str,
    /// Under which `apiVersion`s it may be served, and the path of each. The first that is counts.
    pub served: &'static [Served],
    /// Whether a cluster may well not have the kind.
    pub is_optional: bool,
    /// Fields beside those of the metadata that every kind has.
    kept: &'static [&'static str],
}

/// A place where a kind is served.
#[derive(Debug, PartialEq, Eq)]
pub struct Served {
    /// `apiVersion`.
    pub api_version: &'static str,
    /// Path of all of its objects, in whatever namespace.
    pub path: &'static str,
}

const fn served(api_version: &'static str, path: &'static str) -> Served {
    Served { api_version, path }
}

/// Every kind that is watched. Nodes, Namespaces and what policies say come first: what the rest is judged by.
pub static WATCHED: [Watched; 12] = [
    Watched {
        kind: Node::KIND,
        served: &[served(Node::API_VERSION, "/api/v1/nodes")],
        is_optional: false,
        kept: &[
            "metadata.annotations",
            "spec.podCIDR",
            "spec.podCIDRs",
            "spec.taints",
            "status.addresses",
        ],
    },
    Watched {
        kind: Namespace::KIND,
        served: &[served(Namespace::API_VERSION, "/api/v1/namespaces")],
        is_optional: false,
        kept: &[],
    },
    Watched {
        kind: NetworkPolicy::KIND,
        served: &[served(
            NetworkPolicy::API_VERSION,
            "/apis/networking.k8s.io/v1/networkpolicies",
        )],
        is_optional: false,
        kept: &["spec"],
    },
    Watched {
        kind: ClusterNetworkPolicy::KIND,
        served: &[served(
            ClusterNetworkPolicy::API_VERSION,
            "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        )],
        is_optional: true,
        kept: &["spec"],
    },
    Watched {
        kind: MultiNetworkPolicy::KIND,
        served: &[
            served(
                MULTI_API_VERSIONS[0],
                "/apis/k8s.cni.cncf.io/v1beta2/multi-networkpolicies",
            ),
            served(
                MULTI_API_VERSIONS[1],
                "/apis/k8s.cni.cncf.io/v1beta1/multi-networkpolicies",
            ),
        ],
        is_optional: true,
        kept: &["metadata.annotations.k8s.v1.cni.cncf.io/policy-for", "spec"],
    },
    Watched {
        kind: IpPool::KIND,
        served: &[
            served(CALICO_API_VERSIONS[0], "/apis/crd.projectcalico.org/v1/ippools"),
            served(CALICO_API_VERSIONS[1], "/apis/projectcalico.org/v3/ippools"),
        ],
        is_optional: true,
        kept: &["spec"],
    },
    Watched {
        kind: IpamBlock::KIND,
        served: &[
            served(
                CALICO_API_VERSIONS[0],
                "/apis/crd.projectcalico.org/v1/ipamblocks",
            ),
            served(CALICO_API_VERSIONS[1], "/apis/projectcalico.org/v3/ipamblocks"),
        ],
        is_optional: true,
        kept: &["spec"],
    },
    Watched {
        kind: BlockAffinity::KIND,
        served: &[
            served(
                CALICO_API_VERSIONS[0],
                "/apis/crd.projectcalico.org/v1/blockaffinities",
            ),
            served(
                CALICO_API_VERSIONS[1],
                "/apis/projectcalico.org/v3/blockaffinities",
            ),
        ],
        is_optional: true,
        kept: &["spec"],
    },
    Watched {
        kind: NetworkAttachmentDefinition::KIND,
        served: &[served(
            ATTACHMENT_API_VERSION,
            "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions",
        )],
        is_optional: true,
        kept: &["spec.config"],
    },
    Watched {
        kind: Pod::KIND,
        served: &[served(Pod::API_VERSION, "/api/v1/pods")],
        is_optional: false,
        kept: &[
            // Of this what network_status::essence leaves.
            "metadata.annotations.k8s.v1.cni.cncf.io/network-status",
            "spec.nodeName",
            "spec.hostNetwork",
            "spec.containers.name",
            "spec.containers.ports",
            "spec.initContainers.name",
            "spec.initContainers.ports",
            "status.phase",
            "status.podIP",
            "status.podIPs",
        ],
    },
    Watched {
        kind: Service::KIND,
        served: &[served(Service::API_VERSION, "/api/v1/services")],
        is_optional: false,
        kept: &["metadata.annotations", "spec", "status.loadBalancer"],
    },
    Watched {
        kind: EndpointSlice::KIND,
        served: &[served(
            EndpointSlice::API_VERSION,
            "/apis/discovery.k8s.io/v1/endpointslices",
        )],
        is_optional: false,
        kept: &["addressType", "endpoints", "ports"],
    },
];

/// What is kept of every kind.
const KEPT_OF_ALL: [&str; 9] = [
    "apiVersion",
    "kind",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.resourceVersion",
];
/// The annotation in which `kubectl apply` keeps a whole copy of the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// In which state of the API server's an object is: later states of one kind have higher numbers. They are comparable by
/// number since Kubernetes 1.35 (KEP-5504), and were numbers all along; `None` for one that is none, which tells nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Version(Option<u64>);

impl Version {
    /// Whether this is known to be no later than `other`.
    #[must_use]
    pub fn is_past(self, other: Self) -> bool {
        matches!((self.0, other.0), (Some(this), Some(other)) if this <= other)
    }
}

/// An object as an API server tells of it, cut down to what is used; it may still make no sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// Its kind.
    pub watched: &'static Watched,
    /// Which one it is.
    pub id: ObjectId,
    /// Its `metadata.resourceVersion`.
    pub version: Version,
    /// What is kept of it, without its version.
    pub(super) tree: Value,
}

impl Sighting {
    /// Takes an object that the API server sent for a kind; `None` if it has no name, so that it is none.
    #[must_use]
    pub fn new(watched: &'static Watched, served: &Served, mut tree: Value) -> Option<Self> {
        let fields = tree.as_object_mut()?;
        // The items of a list leave out what the list says.
        for (key, value) in [("apiVersion", served.api_version), ("kind", watched.kind)] {
            fields.insert(key.to_owned(), Value::String(value.to_owned()));
        }
        watched.cut_down(&mut tree);
        Self::of_kept(watched, tree)
    }

    /// Takes what was kept of an object.
    pub(super) fn of_kept(watched: &'static Watched, mut tree: Value) -> Option<Self> {
        let metadata = tree.get_mut("metadata")?.as_object_mut()?;
        let version = metadata.remove("resourceVersion");
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
        let id = ObjectId {
            kind: watched.kind.to_owned(),
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
        };
        if id.name.is_empty() {
            return None;
        }
        let number = version.as_ref().and_then(Value::as_str);
        let version = Version(number.and_then(|number| number.parse().ok()));
        Some(Self {
            watched,
            id,
            version,
            tree,
        })
    }

    /// Reads a line of a saved copy; `None` if it is no object of a kind that is watched.
    pub(super) fn of_line(line: &str) -> Option<Self> {
        let tree: Value = serde_json::from_str(line).ok()?;
        let kind = tree.get("kind")?.as_str()?;
        let watched = WATCHED.iter().find(|watched| watched.kind == kind)?;
        Self::of_kept(watched, tree)
    }
}

impl Watched {
    /// Takes away what is not kept.
    fn cut_down(&self, tree: &mut Value) {
        let paths: Vec<&'static str> = KEPT_OF_ALL.iter().chain(self.kept).copied().collect();
        keep(tree, &paths);
        let Some(metadata) = tree.get_mut("metadata") else {
            return;
        };
        let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else {
            return;
        };
        annotations.remove(LAST_APPLIED);
        if let Some(Value::String(status)) = annotations.get_mut(NETWORK_STATUS) {
            match network_status::essence(std::mem::take(status)) {
                Some(essence) => *status = essence,
                None => drop(annotations.remove(NETWORK_STATUS)),
            }
        }
        if annotations.is_empty()
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.remove("annotations");
        }
    }
}

/// Keeps the fields with these paths, in each item where there is a sequence.
fn keep(tree: &mut Value, paths: &[&'static str]) {
    match tree {
        Value::Object(fields) => {
            let found = std::mem::take(fields).into_iter();
            *fields = found
                .filter_map(|(key, value)| keep_field(&key, value, paths).map(|value| (key, value)))
                .collect();
        }
        Value::Array(items) => items.iter_mut().for_each(|item| keep(item, paths)),
        // What should hold fields and does not is for whoever makes an object of it to refuse.
        _ => {}
    }
}

/// What is kept of a field; `None` if nothing is.
fn keep_field(key: &str, mut value: Value, paths: &[&'static str]) -> Option<Value> {
    if paths.contains(&key) {
        return Some(value);
    }
    let below = |path: &&'static str| path.strip_prefix(key)?.strip_prefix('.');
    let paths: Vec<&'static str> = paths.iter().filter_map(below).collect();
    if paths.is_empty() {
        return None;
    }
    keep(&mut value, &paths);
    Some(value)
}

#[cfg(test)]
mod tests;
