//! What load balancers' addresses need of a cluster: which nodes live, which of them gives out addresses, and the writing
//! of what was given out.
//!
//! A node dies within the time of its Lease for all others (`lease-ms`, two seconds by default), and whoever comes next
//! for its addresses announces them at once: under three seconds from its death to the first answer. A Lease for each
//! address would cost as many renewals as there are addresses; a Lease for each node costs what there are nodes, and the rest
//! is arithmetic that every node does alike ([`elect`](super::elect)). The allocator has a Lease of its own, with
//! client-go's times.
//!
//! Everything that talks with the API server is behind [`Board`].

pub mod book;
pub mod lead;
mod run;
mod server;
mod write;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

pub use book::{NodeLease, Said};
pub use lead::Held;
pub use run::{Options, run};
pub use server::{Server, spawn};

use crate::objects::{NodeName, ServiceKey};

/// Why something could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// The object is not there, or no longer.
    #[error("it is not there")]
    Gone,
    /// Somebody else wrote it meanwhile.
    #[error("somebody else was faster")]
    Conflict,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// What is read from and written to the API server.
pub trait Board: Send + Sync + 'static {
    /// The Leases of all nodes.
    fn leases(&self) -> impl Future<Output = Result<Vec<NodeLease>, BoardError>> + Send;

    /// Writes the time into a node's own Lease, which is made if it is not there; it is good for so long.
    fn renew(
        &self,
        own: &NodeName,
        said: &Said,
        lease: Duration,
    ) -> impl Future<Output = Result<(), BoardError>> + Send;

    /// The Lease of whoever gives out addresses.
    fn leader(&self) -> impl Future<Output = Result<Option<Held>, BoardError>> + Send;

    /// Writes a holder and the time into it, if it still is as it was seen; `None` where it is to be made.
    fn lead(
        &self,
        own: &NodeName,
        seen: Option<&Held>,
    ) -> impl Future<Output = Result<(), BoardError>> + Send;

    /// Writes a Service's `status.loadBalancer.ingress`.
    fn set_ingress(
        &self,
        service: &ServiceKey,
        addresses: &[IpAddr],
    ) -> impl Future<Output = Result<(), BoardError>> + Send;
}

/// What the control thread wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// These Services are to have these addresses; others stay as they are.
    Ingress(BTreeMap<ServiceKey, Vec<IpAddr>>),
    /// This node does not give out addresses any more: what is not written yet is another's to write.
    Forget,
    /// What this node says of itself, for the other nodes to know.
    Say(Said),
}
