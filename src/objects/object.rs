//! Kubernetes objects by kind: from an untyped tree to the typed object, with a fault that names the field.

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::attachment::{ATTACHMENT_API_VERSION, NetworkAttachmentDefinition};
use super::calico::{BlockAffinity, CALICO_API_VERSIONS, IpPool, IpamBlock};
use super::fault::Fault;
use super::name::ObjectId;
use super::policy::{ClusterNetworkPolicy, MULTI_API_VERSIONS, MultiNetworkPolicy};

/// Namespace of an object that names none, as `kubectl apply` has it.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Namespace of a namespaced object.
#[must_use]
pub fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or(DEFAULT_NAMESPACE)
}

/// An object that this version understands.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// `v1` Node.
    Node(Box<Node>),
    /// `v1` Pod.
    Pod(Box<Pod>),
    /// `v1` Service.
    Service(Box<Service>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// `v1` Namespace.
    Namespace(Box<Namespace>),
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy(Box<NetworkPolicy>),
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy(Box<ClusterNetworkPolicy>),
    /// A MultiNetworkPolicy.
    MultiNetworkPolicy(Box<MultiNetworkPolicy>),
    /// Calico's IPPool, as it is stored or as its API server has it.
    IpPool(Box<IpPool>),
    /// Calico's IPAMBlock.
    IpamBlock(Box<IpamBlock>),
    /// Calico's BlockAffinity.
    BlockAffinity(Box<BlockAffinity>),
    /// A NetworkAttachmentDefinition.
    Attachment(Box<NetworkAttachmentDefinition>),
}

/// Kinds that live in a Namespace.
const NAMESPACED: [&str; 6] = [
    Pod::KIND,
    Service::KIND,
    EndpointSlice::KIND,
    NetworkPolicy::KIND,
    MultiNetworkPolicy::KIND,
    NetworkAttachmentDefinition::KIND,
];

/// Why a tree gave no object, and which object it would have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFault {
    /// The object's identity, as far as it can be told.
    pub object: Option<ObjectId>,
    /// The reason.
    pub reason: Fault,
}

/// What stands at the top of every object.
struct Header<'a> {
    api_version: &'a str,
    kind: &'a str,
}

/// Reads `apiVersion` and `kind`.
fn header(tree: &Value) -> Result<Header<'_>, Fault> {
    let Value::Object(fields) = tree else {
        return Err(Fault::NotAnObject("it is not a mapping"));
    };
    let text = |name: &str| {
        fields
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let api_version = text("apiVersion").ok_or(Fault::NotAnObject("apiVersion is missing or no text"))?;
    let kind = text("kind").ok_or(Fault::NotAnObject("kind is missing or no text"))?;
    Ok(Header { api_version, kind })
}

/// Tells which object a tree is, as far as it can be told: without a `kind` and a name there is none to tell.
fn identify(tree: &Value, kind: &str) -> Option<ObjectId> {
    let metadata = tree.get("metadata")?;
    let text = |name: &str| {
        metadata
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let name = text("name");
    if name.is_empty() {
        return None;
    }
    let mut namespace = text("namespace");
    if NAMESPACED.contains(&kind) && namespace.is_empty() {
        DEFAULT_NAMESPACE.clone_into(&mut namespace);
    }
    Some(ObjectId {
        kind: kind.to_owned(),
        namespace,
        name,
    })
}

/// Makes the typed object, with the path of the field that does not fit.
fn typed<T: DeserializeOwned>(tree: Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(tree).map_err(|error| Fault::Field {
        field: match error.path().to_string() {
            path if path == "." => "the object".to_owned(),
            path => path,
        },
        reason: error.inner().to_string(),
    })
}

impl Object {
    /// Which object it is; `None` if it has no name.
    #[must_use]
    pub fn id(&self) -> Option<ObjectId> {
        let (kind, namespace, metadata) = match self {
            Self::Node(node) => (Node::KIND, "", &node.metadata),
            Self::Pod(pod) => (Pod::KIND, namespace_of(&pod.metadata), &pod.metadata),
            Self::Service(service) => (Service::KIND, namespace_of(&service.metadata), &service.metadata),
            Self::EndpointSlice(slice) => (
                EndpointSlice::KIND,
                namespace_of(&slice.metadata),
                &slice.metadata,
            ),
            Self::Namespace(namespace) => (Namespace::KIND, "", &namespace.metadata),
            Self::NetworkPolicy(policy) => (
                NetworkPolicy::KIND,
                namespace_of(&policy.metadata),
                &policy.metadata,
            ),
            Self::ClusterNetworkPolicy(policy) => (ClusterNetworkPolicy::KIND, "", &policy.metadata),
            Self::MultiNetworkPolicy(policy) => (
                MultiNetworkPolicy::KIND,
                namespace_of(&policy.metadata),
                &policy.metadata,
            ),
            Self::IpPool(pool) => (IpPool::KIND, "", &pool.metadata),
            Self::IpamBlock(block) => (IpamBlock::KIND, "", &block.metadata),
            Self::BlockAffinity(affinity) => (BlockAffinity::KIND, "", &affinity.metadata),
            Self::Attachment(definition) => (
                NetworkAttachmentDefinition::KIND,
                namespace_of(&definition.metadata),
                &definition.metadata,
            ),
        };
        let name = metadata.name.clone().filter(|name| !name.is_empty())?;
        Some(ObjectId {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name,
        })
    }

    /// Makes a typed object of a tree, by its `apiVersion` and `kind`.
    ///
    /// # Errors
    /// [`Fault::NotAnObject`] if it is none, [`Fault::UnusedKind`] for a kind that this version has no use
    /// for, [`Fault::Field`] for a field that does not fit.
    pub fn from_tree(tree: Value) -> Result<Self, Box<ObjectFault>> {
        let (api_version, kind) = match header(&tree) {
            Ok(header) => (header.api_version.to_owned(), header.kind.to_owned()),
            Err(reason) => return Err(Box::new(ObjectFault { object: None, reason })),
        };
        let object = identify(&tree, &kind);
        let read = match (api_version.as_str(), kind.as_str()) {
            (Node::API_VERSION, Node::KIND) => typed(tree).map(Box::new).map(Self::Node),
            (Pod::API_VERSION, Pod::KIND) => typed(tree).map(Box::new).map(Self::Pod),
            (Service::API_VERSION, Service::KIND) => typed(tree).map(Box::new).map(Self::Service),
            (EndpointSlice::API_VERSION, EndpointSlice::KIND) => {
                typed(tree).map(Box::new).map(Self::EndpointSlice)
            }
            (Namespace::API_VERSION, Namespace::KIND) => typed(tree).map(Box::new).map(Self::Namespace),
            (NetworkPolicy::API_VERSION, NetworkPolicy::KIND) => {
                typed(tree).map(Box::new).map(Self::NetworkPolicy)
            }
            (ClusterNetworkPolicy::API_VERSION, ClusterNetworkPolicy::KIND) => {
                typed(tree).map(Box::new).map(Self::ClusterNetworkPolicy)
            }
            (version, MultiNetworkPolicy::KIND) if MULTI_API_VERSIONS.contains(&version) => {
                typed(tree).map(Box::new).map(Self::MultiNetworkPolicy)
            }
            (version, IpPool::KIND) if CALICO_API_VERSIONS.contains(&version) => {
                typed(tree).map(Box::new).map(Self::IpPool)
            }
            (version, IpamBlock::KIND) if CALICO_API_VERSIONS.contains(&version) => {
                typed(tree).map(Box::new).map(Self::IpamBlock)
            }
            (version, BlockAffinity::KIND) if CALICO_API_VERSIONS.contains(&version) => {
                typed(tree).map(Box::new).map(Self::BlockAffinity)
            }
            (ATTACHMENT_API_VERSION, NetworkAttachmentDefinition::KIND) => {
                typed(tree).map(Box::new).map(Self::Attachment)
            }
            _ => Err(Fault::UnusedKind { api_version, kind }),
        };
        read.map_err(|reason| Box::new(ObjectFault { object, reason }))
    }
}

/// A document's tree, by whether it is one object or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    /// One object.
    One(Value),
    /// The items of `kind: List`, or of a typed list such as `NodeList`.
    List(Vec<Value>),
}

impl Tree {
    /// Tells a list from an object. The items of a typed list get the `apiVersion` and `kind` that such a
    /// list leaves out.
    ///
    /// # Errors
    /// [`Fault::Field`] if `items` is not a sequence.
    pub(super) fn new(mut tree: Value) -> Result<Self, Fault> {
        let Some((api_version, item_kind)) = list_of(&tree) else {
            return Ok(Self::One(tree));
        };
        let mut items = match tree.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            Some(Value::Null) | None => Vec::new(),
            Some(_) => {
                return Err(Fault::Field {
                    field: "items".to_owned(),
                    reason: "it must be a sequence".to_owned(),
                });
            }
        };
        if !item_kind.is_empty() {
            for fields in items.iter_mut().filter_map(Value::as_object_mut) {
                fields
                    .entry("apiVersion")
                    .or_insert_with(|| Value::String(api_version.clone()));
                fields
                    .entry("kind")
                    .or_insert_with(|| Value::String(item_kind.clone()));
            }
        }
        Ok(Self::List(items))
    }
}

/// For a list, its `apiVersion` and the kind of its items (empty for a plain `List`).
fn list_of(tree: &Value) -> Option<(String, String)> {
    let Header { api_version, kind } = header(tree).ok()?;
    let item_kind = kind.strip_suffix("List")?;
    // A typed list is known by its items, so that a kind of somebody's own that ends in "List" is not taken
    // for one.
    if item_kind.is_empty() || tree.get("items").is_some() {
        return Some((api_version.to_owned(), item_kind.to_owned()));
    }
    None
}

/// Whether a tree is itself a list, which within a list is not read.
pub(super) fn is_list(tree: &Value) -> bool {
    list_of(tree).is_some()
}
