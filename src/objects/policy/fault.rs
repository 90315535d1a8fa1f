//! What can be wrong with a policy, with one of its rules, or with what policies select by.

use ipnet::IpNet;

use crate::objects::fault::value_excerpt;
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
}

impl PolicyFault {
    /// How much of the object is in force with this said about it.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::ExceptOutside { .. } => Severity::Warning,
            _ => Severity::Refused,
        }
    }
}
