//! Services: which backend a connection to a virtual address goes to.
//!
//! A [`Service`] here is one port of a Service in one address family: the thing that a virtual address, protocol and
//! port lead to. It is found by a [`Query`], the first packet of a connection, and answers a [`Decision`]. Nothing is
//! remembered here but what an [`AffinityTable`](super::AffinityTable) remembers: the connection itself is the flow table's.
//!
//! The meaning follows kube-proxy's duties (<https://kubernetes.io/docs/reference/networking/virtual-ips/>), in the
//! order in which kube-proxy's nftables mode decides: source ranges, then the traffic policy, then the endpoints.

mod backend;
mod balance;
mod counts;
mod frontend;
mod maglev;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::{Prefix, SubjectId};
use crate::verdict::DropReason;
use crate::wire::IpProtocol;

pub use backend::{Backend, BackendSet, Serving};
pub use counts::{CountRow, ServiceCounts};
pub use frontend::{Frontend, FrontendKey, NodeFacts, Scope, ServiceTable};
pub use maglev::{MAGLEV_LADDER, Maglev, SLOTS_PER_BACKEND, WeakMaglev, ladder_size};

/// The number of a [`Service`]; it keeps it as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ServiceId(u32);

/// The number of a backend of one [`Service`]; it keeps it as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct BackendId(u32);

/// Gives an id its number and its bounds.
macro_rules! number {
    ($name:ident) => {
        impl $name {
            /// How many there can be at once: a subject's number has room for no more.
            pub const LIMIT: u32 = SubjectId::NUMBER_MAX;

            /// The one with this number; `None` from [`Self::LIMIT`] on.
            #[must_use]
            pub const fn new(number: u32) -> Option<Self> {
                if number < Self::LIMIT {
                    Some(Self(number))
                } else {
                    None
                }
            }

            /// The number.
            #[inline]
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(ServiceId);
number!(BackendId);

impl BackendId {
    /// What a stored answer names to rest on this backend: it changes whenever the backend begins or ceases to take
    /// connections, or is gone.
    #[inline]
    #[must_use]
    pub const fn subject(self) -> SubjectId {
        SubjectId::backend(self.0)
    }
}

/// Who begins a connection, as far as Services tell callers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A pod of this node.
    LocalPod,
    /// This node itself.
    Host,
    /// Whoever is behind a tunnel: the packet came out of one.
    Peer,
    /// Whoever else is on the uplink: the packet came plain.
    External,
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address, of the same family.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: IpProtocol,
    /// Its source port; 0 for a protocol without ports.
    pub source_port: u16,
    /// Its destination port; 0 for a protocol without ports. ICMP has none here, whatever its flow is keyed by.
    pub destination_port: u16,
    /// Where it came from.
    pub caller: Caller,
    /// Whether its source lies in some node's pod prefix.
    pub from_pods: bool,
}

/// What becomes of a connection, as far as Services are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is to no Service; it goes on as it is.
    NotAService,
    /// Drop it without a word.
    Drop(DropReason),
    /// Refuse it: a TCP reset or an ICMP port unreachable, in the virtual address's name.
    Reject,
    /// Send it to this backend.
    Backend(Choice),
}

/// A backend chosen for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The new destination address.
    pub address: IpAddr,
    /// The new destination port.
    pub port: u16,
    /// The backend's number.
    pub backend: BackendId,
    /// The number of the Service it was chosen for.
    pub service: ServiceId,
    /// Whether the source has to be changed too, so that the reply comes back through this node.
    pub masquerade: bool,
}

/// One port of a Service in one address family. What most decisions read is one cache line, the first: of thousands of
/// Services the next one called is in no cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// For how long a client keeps its backend, in seconds; `None` without session affinity.
    pub affinity_s: Option<u32>,
    /// Whether any endpoint anywhere could take a connection: without one it is refused, with one elsewhere dropped.
    pub has_endpoints: bool,
    /// Whether connections to cluster addresses stay on this node.
    pub internal_local: bool,
    /// Whether connections from outside stay on this node, and keep their source.
    pub external_local: bool,
    /// Backends for traffic that may go to any node.
    pub cluster: BackendSet,
    /// Backends for traffic that has to stay on this node.
    pub local: BackendSet,
    /// Endpoints that are in neither list, with what they still do; sorted by address and port.
    pub others: Box<[(IpAddr, u16, Serving)]>,
    /// Who may call load-balancer addresses; empty means everyone.
    pub source_ranges: Box<[Prefix]>,
}

const _: () = assert!(
    std::mem::offset_of!(Service, local) <= 64,
    "what most decisions read is in the first cache line"
);
