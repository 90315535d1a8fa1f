//! What a Service does not get, and why.

use std::fmt;
use std::net::IpAddr;

use crate::objects::{Family, Protocol, ServiceKey};

/// What a Service does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The Service.
    pub service: ServiceKey,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a Service does not get an address, or what is to be said about one that it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum RefusalReason {
    /// Another has it.
    #[error("{address} belongs to Service {holder}: {why}")]
    Held {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ServiceKey,
        /// Why they cannot share it.
        why: Unshared,
    },
    /// Another wants what this one has, and keeps.
    #[error("{address} is asked for by Service {other} too, which does not get it: {why}")]
    Contested {
        /// The address.
        address: IpAddr,
        /// Who wants it.
        other: ServiceKey,
        /// Why they cannot share it.
        why: Unshared,
    },
    /// It is somebody's by other means.
    #[error("{address} is an address of {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        holder: String,
    },
    /// It was just given, and a host outside of the cluster answers for it.
    #[error("another host ({by}) answers for {address}, so {instead} is given in its place")]
    Declined {
        /// The address.
        address: IpAddr,
        /// The host's link address.
        by: String,
        /// What the Service has now.
        instead: IpAddr,
    },
    /// It is in no pool.
    #[error("{0} is in no pool of [load-balancer]")]
    InNoPool(IpAddr),
    /// It is in a pool that the Service may not use.
    #[error("{address} is in pool `{pool}`, which this Service may not use")]
    NotAdmitted {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: String,
    },
    /// It is in another pool than the one that the Service asks for.
    #[error("{address} is in pool `{pool}`, and pool `{wanted}` is asked for")]
    OtherPool {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: String,
        /// The pool that is asked for.
        wanted: String,
    },
    /// It is in a pool that gives out nothing, since it collides with something.
    #[error("pool `{0}` gives out nothing new: it collides, as the log says")]
    PoolRefused(String),
    /// There is no such pool.
    #[error("there is no pool `{0}` in [load-balancer]")]
    NoSuchPool(String),
    /// The Service may not use that pool.
    #[error("pool `{0}` is asked for, which this Service may not use")]
    PoolNotAdmitted(String),
    /// It is not of the Service's families.
    #[error("{0} is of a family that this Service does not have")]
    OtherFamily(IpAddr),
    /// What it asks for could not be read.
    #[error("what it asks for is no address, so it gets none")]
    Unreadable,
    /// No pool that it may use has addresses of the family.
    #[error("no pool that this Service may use has {0} addresses")]
    NoPool(FamilyName),
    /// All are given out.
    #[error("every {family} address that this Service may have is given out{or_aside}, of {pools}")]
    Exhausted {
        /// The family.
        family: FamilyName,
        /// The pools, in words.
        pools: String,
        /// That some of them are passed over, in words.
        or_aside: &'static str,
    },
    /// It takes both families or none, and one is not to be had.
    #[error("it requires addresses of both families, and there is none of one of them")]
    NotBoth,
}

/// A family, as Kubernetes writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FamilyName(pub Family);

impl fmt::Display for FamilyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Why two Services cannot share an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unshared {
    /// They have no sharing key in common.
    #[error("they do not have the same millrace.io/allow-shared-ip")]
    Key,
    /// They have a port in common.
    #[error("both have {0} {1}")]
    Port(Protocol, u16),
    /// By their policies, one's clients could end at the other's pods.
    #[error("sharing needs externalTrafficPolicy Cluster on both, or Local and the same selector")]
    Policy,
}

impl RefusalReason {
    /// A word for it, as the reason of an Event.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Held { .. } | Self::Contested { .. } | Self::Taken { .. } | Self::Declined { .. } => {
                "AddressConflict"
            }
            Self::Exhausted { .. } | Self::NoPool(_) => "AddressesExhausted",
            Self::InNoPool(_)
            | Self::NotAdmitted { .. }
            | Self::OtherPool { .. }
            | Self::PoolRefused(_)
            | Self::NoSuchPool(_)
            | Self::PoolNotAdmitted(_)
            | Self::OtherFamily(_)
            | Self::Unreadable
            | Self::NotBoth => "AddressRefused",
        }
    }
}
