//! What can be wrong with a policy, with one of its rules, or with what policies select by.

use std::net::IpAddr;

use ipnet::IpNet;

use super::multi::POLICY_FOR;
use crate::objects::attachment::NetworkKey;
use crate::objects::fault::value_excerpt;
use crate::objects::name::{NodeName, PodKey};
use crate::objects::network_status::NETWORK_STATUS;
use crate::objects::notice::Severity;

/// What is wrong with a policy or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
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
    /// A label selector that makes no sense.
    #[error("{field}: operator `{}` {reason}", value_excerpt(value))]
    Selector {
        /// Path of the requirement.
        field: String,
        /// The operator.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A number that is no port.
    #[error("{field}: {value} is not within {least}..=65535")]
    Port {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: i64,
        /// The least that would do.
        least: u16,
    },
    /// `endPort` where there can be none.
    #[error("{field}: endPort needs a port by number in the same entry; that entry matches nothing")]
    EndWithoutPort {
        /// Path of the entry.
        field: String,
    },
    /// A name that no port can have.
    #[error(
        "{field}: `{}` is no port's name: at most 15 of a-z, 0-9 and `-`, one letter at least",
        value_excerpt(value)
    )]
    PortName {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: String,
    },
    /// Text that is no CIDR.
    #[error(
        "{field}: `{}` is no CIDR, write it as in 192.0.2.0/24; {}",
        value_excerpt(value),
        consequence
    )]
    Cidr {
        /// Path of the field.
        field: String,
        /// What it holds.
        value: String,
        /// What follows.
        consequence: &'static str,
    },
    /// An exception from addresses that do not hold it.
    #[error("{field}: {except} does not lie within {cidr}, so it excepts nothing")]
    ExceptOutside {
        /// Path of the field.
        field: String,
        /// The exception.
        except: IpNet,
        /// What it is to be an exception from.
        cidr: IpNet,
    },
    /// A peer that does not say who it is, or says it twice.
    #[error("{field}: it must name {wanted}; {consequence}")]
    Peer {
        /// Path of the peer.
        field: String,
        /// What would be right.
        wanted: &'static str,
        /// What follows.
        consequence: &'static str,
    },
    /// A field of a rule that this version does not know or does not support.
    #[error("{field}: it is not supported; {consequence}")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// What follows.
        consequence: &'static str,
    },
    /// A list that needs at least one entry, or a choice of which one needs to be made.
    #[error("{field}: it needs {wanted}; {consequence}")]
    Missing {
        /// Path of the field.
        field: String,
        /// What is missing.
        wanted: &'static str,
        /// What follows.
        consequence: &'static str,
    },
    /// A priority out of its range.
    #[error("spec.priority: {value} is not within 0..=1000")]
    Priority {
        /// What it holds.
        value: i64,
    },
    /// No subject, or two.
    #[error("spec.subject: it must name exactly one of namespaces, pods")]
    Subject,
    /// A MultiNetworkPolicy that does not say for which networks it is.
    #[error(
        "annotation {POLICY_FOR}: it names no network, so the policy is in force nowhere; write it as `NAMESPACE/NAME,NAME`"
    )]
    ForNoNetwork,
    /// A name there that no network can have.
    #[error("annotation {POLICY_FOR}: `{}` is no network's name; write it as NAMESPACE/NAME, or as NAME for one in the policy's own namespace", value_excerpt(.0))]
    NetworkName(String),
    /// A network that there is not.
    #[error(
        "annotation {POLICY_FOR}: there is no network {0}; it would be a NetworkAttachmentDefinition of type millrace-cni with `\"kind\": \"routed\"`"
    )]
    NetworkUnknown(NetworkKey),
    /// A network in which nothing is policed.
    #[error(
        "annotation {POLICY_FOR}: network {0} is bridged, where no policy is in force; name routed networks only"
    )]
    NetworkBridged(NetworkKey),
    /// What a Pod says of its addresses in other networks, not readable.
    #[error(
        "annotation {NETWORK_STATUS}: {}; policies of networks beside the cluster's own do not know {}",
        value_excerpt(reason),
        unknown
    )]
    NetworkStatus {
        /// What is wrong with it.
        reason: String,
        /// What is not known now.
        unknown: &'static str,
    },
    /// An address in another network that is another pod's.
    #[error(
        "annotation {NETWORK_STATUS}: {address} in network {network} is that of Pod {pod}, which came first and keeps it"
    )]
    NetworkAddressShared {
        /// The address.
        address: IpAddr,
        /// The network.
        network: NetworkKey,
        /// Whose it is.
        pod: PodKey,
    },
    /// An address in another network that cannot be there.
    #[error(
        "annotation {NETWORK_STATUS}: {address} is in none of the subnets of network {network}, so policies there do not know it"
    )]
    NetworkAddressOutside {
        /// The address.
        address: IpAddr,
        /// The network.
        network: NetworkKey,
    },
    /// An address in a routed network that is not behind the Pod's node.
    #[error(
        "annotation {NETWORK_STATUS}: {address} is in none of the nodeBlocks of {node} in network {network}, so policies there do not know it"
    )]
    NetworkAddressElsewhere {
        /// The address.
        address: IpAddr,
        /// The network.
        network: NetworkKey,
        /// The Pod's node.
        node: NodeName,
    },
}

impl PolicyFault {
    /// How much of the object is in force with this said about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::ExceptOutside { .. }
            | Self::ForNoNetwork
            | Self::NetworkName(_)
            | Self::NetworkUnknown(_)
            | Self::NetworkBridged(_)
            | Self::NetworkStatus { .. }
            | Self::NetworkAddressShared { .. }
            | Self::NetworkAddressOutside { .. }
            | Self::NetworkAddressElsewhere { .. } => Severity::Warning,
            _ => Severity::Refused,
        }
    }
}
