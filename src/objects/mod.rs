//! Kubernetes objects: from a source to a checked [`Store`].
//!
//! Configuration *is* Kubernetes objects. A [`Source`] reads them (here: from a folder of manifests,
//! [`FolderSource`]; [`Mirror`] is what one that asks an API server keeps), each is made a record that is sound in itself ([`NodeRecord`], [`ServiceRecord`], ...), and a
//! [`Store`] holds those that are also sound beside one another. Whatever is refused is reported by name with
//! the reason ([`Notice`]), and everything else keeps working.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod address;
mod attachment;
mod calico;
mod check;
mod endpoint_slice;
mod excerpt;
mod fault;
pub mod flannel;
mod folder;
pub mod manifests;
mod mirror;
mod name;
mod namespace;
mod network;
mod network_status;
mod node;
mod notice;
mod object;
mod pod;
mod policy;
mod selector;
mod service;
mod store;
mod watch;
mod watched;

pub use address::{MacError, UnicastMac, Vni, VniError, refused_address_class, refused_class};
pub use attachment::{
    AttachmentFault, Bridge, NetworkAttachmentDefinition, NetworkKey, NetworkKind, NetworkRecord,
    PLUGIN_TYPE, PeerChoice, RouteOverlap, RouteTo, Routing,
};
pub use calico::{
    Block, BlockAffinity, BlockRecord, CalicoFault, CalicoNode, Encapsulation, IpPool, IpamBlock, PoolMode,
    PoolRecord,
};
pub use check::{CheckCounts, CheckReport, OwnNode, check};
pub use endpoint_slice::{Endpoint, SlicePort, SliceRecord};
pub use fault::Fault;
pub use flannel::{Backend, Family, FlannelLease, VxlanLease};
pub use folder::{FOLDER_MAX_FILES, Folder};
pub use mirror::{Mirror, Reference};
pub use name::{NameError, NodeName, ObjectId, PodKey, check_label, check_subdomain};
pub use namespace::NamespaceRecord;
pub use network::{Network, NetworkChoice};
pub use network_status::NetworkAddresses;
pub use node::{NodeRecord, gateway_of};
pub use notice::{Notice, Origin, Severity};
pub use object::{DEFAULT_NAMESPACE, Object, ObjectFault, namespace_of};
pub use pod::{NamedPort, PodRecord};
pub use policy::{
    ClusterNetworkPolicy, MultiNetworkPolicy, NamespaceScope, PodSelector, PolicyFault, PolicyKey,
    PolicyKind, PolicyPeer, PolicyPort, PolicyRecord, PolicyRule, PolicyTier, RuleAction,
};
pub use selector::{Labels, Selector};
pub use service::{
    AFFINITY_DEFAULT_S, AFFINITY_MAX_S, BalancerWish, CLASS_PREFIX, Claim, PROXY_NAME, Protocol, SHARING_KEY,
    ServiceFault, ServiceKey, ServiceKind, ServicePort, ServiceRecord, VipKind, WANTED_ADDRESSES,
    WANTED_POOL,
};
pub use store::{Entry, Peer, PeerTunnel, Record, ServiceEntry, Store};
pub use watch::{Assigned, Assigner, FolderSource, Source, SourceError};
pub use watched::{Served, Sighting, Version, WATCHED, Watched};
