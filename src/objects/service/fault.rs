//! What can be wrong with a Service or an EndpointSlice, or with one of its addresses.

use std::net::IpAddr;

use crate::objects::fault::value_excerpt;
use crate::objects::notice::Severity;

use super::{AFFINITY_MAX_S, Protocol};

/// What is wrong with a Service, an EndpointSlice, or one of its addresses or ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceFault {
    // Of a Service by itself.
    /// A field holds none of the words it may hold.
    #[error("{field}: `{}` is none of {wanted}", value_excerpt(value))]
    Word {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: String,
        /// What it may hold.
        wanted: &'static str,
    },
    /// A number out of its range.
    #[error("{field}: {value} is not within {least}..={most}")]
    Range {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: i64,
        /// The least it may hold.
        least: i64,
        /// The most it may hold.
        most: i64,
    },
    /// No port at all.
    #[error("spec.ports: a Service that is not headless needs at least one")]
    NoPorts,
    /// Two ports of one name, or two without.
    #[error(
        "spec.ports[{index}].name: `{}` is the name of another port too; each needs its own",
        value_excerpt(name)
    )]
    PortName {
        /// Place of the second of the two.
        index: usize,
        /// The name.
        name: String,
    },
    /// Two ports of one protocol and number.
    #[error("spec.ports[{index}]: {protocol} {port} stands there twice")]
    PortTwice {
        /// Place of the second of the two.
        index: usize,
        /// The protocol.
        protocol: Protocol,
        /// The number.
        port: u16,
    },
    /// `spec.clusterIP` and the first of `spec.clusterIPs` differ.
    #[error(
        "spec.clusterIP `{}` is not the first of spec.clusterIPs, `{}`",
        value_excerpt(single),
        value_excerpt(first)
    )]
    ClusterIpMismatch {
        /// `spec.clusterIP`.
        single: String,
        /// The first of `spec.clusterIPs`.
        first: String,
    },
    /// Two cluster IPs of one family.
    #[error("spec.clusterIPs: {first} and {second} are of one family; there is at most one of each")]
    ClusterIpFamilyTwice {
        /// The first of the two.
        first: IpAddr,
        /// The second.
        second: IpAddr,
    },
    /// A source range that is none. The whole Service is refused, as without it everyone could call.
    #[error(
        "spec.loadBalancerSourceRanges[{index}]: `{}` is no CIDR, write it as in 192.0.2.0/24",
        value_excerpt(value)
    )]
    SourceRange {
        /// Its place.
        index: usize,
        /// What stands there.
        value: String,
    },
    /// A virtual address of a class that is never one; the rest of the Service is in force.
    #[error("{field}: {address} is {class} address and cannot lead to a Service")]
    RefusedVip {
        /// Path of the field.
        field: String,
        /// The address.
        address: IpAddr,
        /// Its class, with an article.
        class: &'static str,
    },
    /// Two addresses of one family are asked for.
    #[error("{field}: {first} and {second} are of one family; a Service gets at most one of each")]
    WantedFamilyTwice {
        /// Path of the field.
        field: String,
        /// The first of the two.
        first: IpAddr,
        /// The second.
        second: IpAddr,
    },
    /// Source ranges of the other family only: kube-proxy leaves such an address open, and so does this program.
    #[error(
        "spec.loadBalancerSourceRanges has no range of the family of {address}, so everyone may call that"
    )]
    OpenFamily {
        /// The load balancer's address.
        address: IpAddr,
    },
    /// Not headless, and no cluster IP yet.
    #[error("it has no spec.clusterIP yet")]
    NoClusterIp,
    /// Another proxy's.
    #[error("its label service.kubernetes.io/service-proxy-name leaves it to `{}`", value_excerpt(.0))]
    OtherProxy(String),

    // Of an EndpointSlice by itself.
    /// No Service is named.
    #[error("it has no label kubernetes.io/service-name, so it belongs to no Service")]
    NoServiceName,
    /// Names, which are for DNS.
    #[error("addressType FQDN is not for a proxy")]
    Fqdn,
    /// An address of a class that no endpoint may have; the rest of the slice is in force.
    #[error("{field}: {address} is {class} address, which no endpoint may have")]
    RefusedEndpoint {
        /// Path of the field.
        field: String,
        /// The address.
        address: IpAddr,
        /// Its class, with an article.
        class: &'static str,
    },
    /// An endpoint whose address is not of the slice's family, or none.
    #[error("{field}: `{}` is no {wanted} address", value_excerpt(value))]
    EndpointAddress {
        /// Path of the field.
        field: String,
        /// What stands there.
        value: String,
        /// `IPv4` or `IPv6`.
        wanted: &'static str,
    },

    // Between objects.
    /// A virtual address that an older Service has; the rest of the Service is in force.
    #[error("{claim} belongs to {older}, which is older and keeps it")]
    Taken {
        /// What is claimed, in words.
        claim: String,
        /// The older Service.
        older: String,
    },
    /// A virtual address that a younger Service wants too.
    #[error("{claim} is claimed by {younger} too, which is younger and does not get it")]
    Contested {
        /// What is claimed, in words.
        claim: String,
        /// The younger Service.
        younger: String,
    },
    /// A virtual address inside a pod CIDR; the rest of the Service is in force.
    #[error("{field}: {address} lies in the pod CIDR of Node {node} and cannot lead to a Service")]
    VipInPodCidr {
        /// Path of the field.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
    },
}

impl ServiceFault {
    /// How much of the object is in force with this said about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::OpenFamily { .. } | Self::Contested { .. } => Severity::Warning,
            Self::NoClusterIp | Self::OtherProxy(_) | Self::NoServiceName | Self::Fqdn => Severity::Skipped,
            Self::Word { .. }
            | Self::Range { .. }
            | Self::NoPorts
            | Self::PortName { .. }
            | Self::PortTwice { .. }
            | Self::ClusterIpMismatch { .. }
            | Self::ClusterIpFamilyTwice { .. }
            | Self::SourceRange { .. }
            | Self::RefusedVip { .. }
            | Self::WantedFamilyTwice { .. }
            | Self::RefusedEndpoint { .. }
            | Self::EndpointAddress { .. }
            | Self::Taken { .. }
            | Self::VipInPodCidr { .. } => Severity::Refused,
        }
    }

    /// A timeout of session affinity out of its range.
    pub(super) fn affinity(value: i32) -> Self {
        Self::Range {
            field: "spec.sessionAffinityConfig.clientIP.timeoutSeconds".to_owned(),
            value: i64::from(value),
            least: 1,
            most: i64::from(AFFINITY_MAX_S),
        }
    }

    /// A port out of its range.
    pub(crate) fn port(field: impl Into<String>, value: i32) -> Self {
        Self::Range {
            field: field.into(),
            value: i64::from(value),
            least: 1,
            most: i64::from(u16::MAX),
        }
    }
}
