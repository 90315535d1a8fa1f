//! Who is to have addresses, and who has some by other means.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::objects::{Family, Labels, Protocol, ServiceKey};

/// A Service that is to have addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// The Service.
    pub service: ServiceKey,
    /// When it was made, in seconds of Unix time; one that does not say comes after those that do.
    pub created_s: Option<i64>,
    /// In which families.
    pub families: Vec<Family>,
    /// Whether it takes addresses in all of its families or none.
    pub needs_all: bool,
    /// Whether what it asks for could not be read: it keeps what it has, and gets nothing more.
    pub is_unreadable: bool,
    /// Addresses that it asks for, at most one of each family.
    pub wanted: Vec<IpAddr>,
    /// The pool that it asks for.
    pub pool: Option<String>,
    /// With whom it shares.
    pub sharing: Option<Sharing>,
    /// Its ports.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// The pools that its labels and its namespace admit it to, by their places, in ascending order.
    pub admitted: Vec<usize>,
    /// What it has.
    pub held: Vec<IpAddr>,
    /// What of it was just given and turned out to be another host's before it was ever announced.
    pub declined: Vec<IpAddr>,
}

/// With whom a Service shares an address: those that say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// The key.
    pub key: String,
    /// With `externalTrafficPolicy: Local`, the selector of its pods.
    pub local_pods: Option<Labels>,
}

/// Who has an address by other means, so that no pool can give it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// A node.
    Node(String),
    /// A Service, among its external or cluster IPs, or from another load balancer.
    Service(ServiceKey),
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Service(key) => write!(f, "Service {key}"),
        }
    }
}

/// An address that a Service has from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The address.
    pub address: IpAddr,
    /// The pool's name.
    pub pool: String,
}
