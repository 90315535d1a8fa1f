//! Why an object, a file or the folder is not, or not wholly, in force.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::address::{MacError, UnicastMac};
use super::attachment::AttachmentFault;
use super::calico::CalicoFault;
pub(super) use super::excerpt::value_excerpt;
use super::excerpt::{REASON_MAX_CHARS, excerpt};
use super::flannel::{BACKEND_DATA, BACKEND_TYPE, BackendDataError, KUBE_SUBNET_MANAGER, PUBLIC_IP};
use super::name::NameError;
use super::notice::{Origin, Severity};
use super::policy::PolicyFault;
use super::service::ServiceFault;

/// Why an object, a file or the folder is not, or not wholly, in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    // Of the folder and its files.
    /// The folder cannot be listed.
    #[error("the folder of manifests cannot be read ({0}); what was read before stays in force")]
    FolderUnreadable(String),
    /// The folder cannot be watched for changes.
    #[error("the folder cannot be watched for changes ({reason}); it is looked at every {every_s} s instead")]
    FolderUnwatched {
        /// The system's words.
        reason: String,
        /// Seconds between two looks.
        every_s: u64,
    },
    /// More manifest files than are read.
    #[error("the folder holds more than {limit} manifests; those that come later by name are not read")]
    TooManyFiles {
        /// How many are read.
        limit: usize,
    },
    /// A file cannot be read.
    #[error("it cannot be read ({0})")]
    Unreadable(String),
    /// A name that ends like a manifest's but is no regular file.
    #[error("it is not a regular file (folders are not searched for manifests)")]
    NotAFile,
    /// A file is larger than a manifest may be.
    #[error("it is larger than {limit} bytes; split it")]
    TooLarge {
        /// Largest size that is read, in bytes.
        limit: u64,
    },
    /// A file is not UTF-8.
    #[error("it is not UTF-8 text (byte {offset})")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        offset: usize,
    },
    /// More documents and list items than are read from one file.
    #[error("it holds more than {limit} objects; split the file")]
    TooManyObjects {
        /// How many are read.
        limit: usize,
    },

    // Of a document.
    /// Not YAML or JSON; carries the parser's words.
    #[error("it cannot be parsed: {}", excerpt(.0, REASON_MAX_CHARS))]
    Syntax(String),
    /// No mapping, or one without `apiVersion` and `kind`.
    #[error("it is no Kubernetes object: {0}")]
    NotAnObject(&'static str),
    /// A list inside a list.
    #[error("a list within a list is not read")]
    NestedList,
    /// A field has the wrong type or is missing; carries its path and the parser's words.
    #[error("{}: {}", value_excerpt(field), excerpt(reason, REASON_MAX_CHARS))]
    Field {
        /// Path of the field, such as `spec.podCIDRs[0]`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name or the namespace is not one that Kubernetes accepts.
    #[error("{field}: {error}")]
    Name {
        /// `metadata.name`, `metadata.namespace` or `spec.nodeName`.
        field: &'static str,
        /// What is wrong with it.
        error: NameError,
    },
    /// The same object stands elsewhere, and that one counts.
    #[error("the same object stands at {first}, which counts; remove one of the two")]
    Duplicate {
        /// Where the one that counts stands.
        first: Origin,
    },
    /// A kind that this version has no use for.
    #[error(
        "{} {} is not used by this version",
        value_excerpt(api_version),
        value_excerpt(kind)
    )]
    UnusedKind {
        /// `apiVersion`.
        api_version: String,
        /// `kind`.
        kind: String,
    },

    // Of addresses.
    /// Text that is no address of the wanted family.
    #[error("{field}: `{}` is no {wanted} address", value_excerpt(value))]
    Address {
        /// Field or annotation.
        field: String,
        /// Its value.
        value: String,
        /// `IP`, `IPv4` or `IPv6`.
        wanted: &'static str,
    },
    /// An address that no pod or node may claim.
    #[error("{field}: {address} is {class} address, which no pod or node may have")]
    RefusedAddress {
        /// Field or annotation.
        field: String,
        /// The address.
        address: IpAddr,
        /// The class, with its article.
        class: &'static str,
    },

    // Of Nodes.
    /// Text that is no CIDR.
    #[error(
        "{field}: `{}` is no CIDR, write it as in 10.244.1.0/24",
        value_excerpt(value)
    )]
    Cidr {
        /// The field.
        field: String,
        /// Its value.
        value: String,
    },
    /// A CIDR whose host bits are not zero; they are taken as zero, as flannel does.
    #[error("{field}: `{value}` has bits beyond its prefix, read as {cidr}")]
    CidrHostBits {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// How it was read.
        cidr: IpNet,
    },
    /// A CIDR that reaches into addresses that no pod may have.
    #[error("{field}: {cidr} reaches into {class} range, which no pod may have")]
    CidrRefused {
        /// The field.
        field: String,
        /// The CIDR.
        cidr: IpNet,
        /// The class, with its article.
        class: &'static str,
    },
    /// A CIDR with no room for the tunnel address, the gateway and a pod.
    #[error("{field}: {cidr} has no room for pods, the prefix may be at most /{longest}")]
    CidrTooSmall {
        /// The field.
        field: String,
        /// The CIDR.
        cidr: IpNet,
        /// Longest prefix with room.
        longest: u8,
    },
    /// Two CIDRs of one family.
    #[error("spec.podCIDRs: {first} and {second} are of one family, at most one CIDR per family is allowed")]
    CidrFamilyTwice {
        /// The first.
        first: IpNet,
        /// The second.
        second: IpNet,
    },
    /// `podCIDR` and `podCIDRs` contradict each other.
    #[error(
        "spec.podCIDR `{}` must equal the first of spec.podCIDRs, `{}`",
        value_excerpt(single),
        value_excerpt(first)
    )]
    CidrMismatch {
        /// `spec.podCIDR`.
        single: String,
        /// `spec.podCIDRs[0]`.
        first: String,
    },
    /// Another node has (part of) the CIDR.
    #[error("pod CIDR {cidr} overlaps {other} of Node {node}, which came first and keeps it")]
    CidrOverlap {
        /// The CIDR.
        cidr: IpNet,
        /// The other's CIDR.
        other: IpNet,
        /// The other node.
        node: String,
    },
    /// A pod CIDR covers a node's own address.
    #[error("pod CIDR {cidr} of Node {owner} covers {address}, the address of Node {node}")]
    CidrCoversNode {
        /// The CIDR.
        cidr: IpNet,
        /// The node that has the CIDR.
        owner: String,
        /// The node's address.
        address: IpAddr,
        /// The node that has the address.
        node: String,
    },
    /// The backend's data describe no tunnel endpoint.
    #[error("{annotation}: {error}")]
    BackendData {
        /// The annotation.
        annotation: &'static str,
        /// What is wrong with it.
        error: BackendDataError,
    },
    /// An annotation that is no MAC address.
    #[error("{annotation}: {error}")]
    Mac {
        /// The annotation.
        annotation: &'static str,
        /// What is wrong with it.
        error: MacError,
    },
    /// Two nodes with one VtepMAC.
    #[error("VtepMAC {mac} is that of Node {node}, which came first and keeps it")]
    MacShared {
        /// The address.
        mac: UnicastMac,
        /// The other node.
        node: String,
    },
    /// A public address that is another node's public or internal one.
    #[error("address {address} is that of Node {node}, which came first and keeps it")]
    PublicIpShared {
        /// The address.
        address: IpAddr,
        /// The other node.
        node: String,
    },
    /// A node that does not take part in the overlay.
    #[error("{KUBE_SUBNET_MANAGER} is not \"true\"; no tunnel to it")]
    NotManaged,
    /// A peer whose backend this program does not speak.
    #[error("{BACKEND_TYPE} `{}` is neither vxlan nor ipip; no tunnel to it", value_excerpt(.0))]
    UnknownBackend(String),
    /// A peer without what a tunnel needs.
    #[error("it has no {0}; no tunnel to it")]
    Incomplete(&'static str),

    // Of Pods.
    /// Two addresses of one family.
    #[error(
        "status.podIPs: {first} and {second} are of one family, at most one address per family is allowed"
    )]
    PodIpFamilyTwice {
        /// The first.
        first: IpAddr,
        /// The second.
        second: IpAddr,
    },
    /// `podIP` and `podIPs` contradict each other.
    #[error(
        "status.podIP `{}` must equal the first of status.podIPs, `{}`",
        value_excerpt(single),
        value_excerpt(first)
    )]
    PodIpMismatch {
        /// `status.podIP`.
        single: String,
        /// `status.podIPs[0].ip`.
        first: String,
    },
    /// An address that is not one of the node's pods.
    #[error("{address} lies outside the pod CIDRs of its Node {node} ({cidrs})")]
    PodIpOutside {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
        /// The node's CIDRs.
        cidrs: String,
    },
    /// The tunnel address or the gateway.
    #[error("{address} is the {role} of Node {node}, not an address for pods")]
    PodIpReserved {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
        /// What the address is for.
        role: &'static str,
    },
    /// Another pod has the address.
    #[error("{address} is the address of Pod {pod}, which came first and keeps it")]
    PodIpShared {
        /// The address.
        address: IpAddr,
        /// The other pod.
        pod: String,
    },
    /// A pod in the node's own network with an address of the pod network.
    #[error("{address} lies in the pod CIDR of Node {node}, but spec.hostNetwork is true")]
    HostPodIp {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
    },
    /// A pod of a node that is not known.
    #[error("spec.nodeName: there is no good Node {node}, so its addresses cannot be checked")]
    NodeUnknown {
        /// The node.
        node: String,
    },

    // Of Services and EndpointSlices.
    /// See there.
    #[error(transparent)]
    Service(#[from] ServiceFault),

    // Of Calico's objects.
    /// See there.
    #[error(transparent)]
    Calico(#[from] CalicoFault),

    // Of networks beside the cluster's own.
    /// See there.
    #[error(transparent)]
    Attachment(#[from] AttachmentFault),

    // Of policies, and of what they select by.
    /// See there.
    #[error(transparent)]
    Policy(#[from] PolicyFault),
}

impl Fault {
    /// How much of the object is in force with this said about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Service(fault) => fault.severity(),
            Self::Policy(fault) => fault.severity(),
            Self::Calico(fault) => fault.severity(),
            Self::Attachment(fault) => fault.severity(),
            Self::FolderUnwatched { .. } | Self::CidrHostBits { .. } | Self::NodeUnknown { .. } => {
                Severity::Warning
            }
            Self::NotAFile
            | Self::UnusedKind { .. }
            | Self::NotManaged
            | Self::UnknownBackend(_)
            | Self::Incomplete(_) => Severity::Skipped,
            _ => Severity::Refused,
        }
    }

    /// A peer whose backend data for its pods' family are absent.
    #[must_use]
    pub(super) fn no_backend_data() -> Self {
        Self::Incomplete(BACKEND_DATA)
    }

    /// A peer of a Calico cluster without an address for its pods' family.
    #[must_use]
    pub(super) fn no_node_address() -> Self {
        Self::Incomplete("projectcalico.org/IPv4Address, or InternalIP of its pods' family")
    }

    /// A peer whose public address for its pods' family is absent.
    #[must_use]
    pub(super) fn no_public_ip() -> Self {
        Self::Incomplete(PUBLIC_IP)
    }
}

impl Serialize for Fault {
    /// Serialises as the sentence that a person reads.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
