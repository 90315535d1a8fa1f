//! The node's own resolver for the cluster's names, for where no CoreDNS runs.
//!
//! It answers for the cluster's domain as the Kubernetes DNS specification says, version 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>), straight from the store of objects, and asks
//! the node's name servers for everything else. A thread of its own does all of it, with no capability left; the format of
//! messages is hickory-proto's. Nothing here is on the way of a packet of anyone else's: a query reaches the resolver as
//! any other packet reaches a Service ([`service`]).
//!
//! Bounded are queries of one client, queries that wait for a name server, TCP connections, of one client too, and the
//! length of what is read.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod index;
mod limit;
mod message;
mod records;
mod resolv;
mod server;
pub mod service;
mod stats;
mod upstream;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use ipnet::IpNet;
use tokio::sync::{oneshot, watch};

use crate::admin::protocol::DnsRow;
use crate::config::Dns;
use crate::objects::Store;
use server::Shared;
pub use stats::DnsStats;

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A socket cannot be had.
    #[error("[dns]: cannot listen at {at} on {device}: {error}; is [dns] port another program's?")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// The interface that it is to hear from.
        device: String,
        /// The system's error.
        error: io::Error,
    },
    /// The thread cannot be started, or what it runs on.
    #[error("cannot start the thread that resolves names: {0}")]
    Thread(io::Error),
}

/// Where the resolver listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Addresses and ports, UDP and TCP.
    pub at: Vec<SocketAddr>,
    /// The only interface that it hears from; without one from all.
    pub device: Option<String>,
}

/// The resolver. Dropping it ends its thread.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    listen: Listen,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Listens, and answers from the newest store from then on. An address in `service_cidrs` has no name but what the
    /// store gives it.
    ///
    /// # Errors
    /// [`DnsError`]
    pub fn start(
        config: &Dns,
        service_cidrs: &[IpNet],
        listen: Listen,
        stores: watch::Receiver<Arc<Store>>,
    ) -> Result<Self, DnsError> {
        let store = Arc::clone(&stores.borrow());
        let shared = Arc::new(Shared::new(config, service_cidrs, &store));
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = sync_channel(1);
        let (of_thread, at) = (Arc::clone(&shared), listen.clone());
        let thread = thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || server::run(&of_thread, &at, stores, stopped, &ready))
            .map_err(DnsError::Thread)?;
        let resolver = Self {
            shared,
            listen,
            stop: Some(stop),
            thread: Some(thread),
        };
        match is_ready.recv() {
            Ok(Ok(())) => Ok(resolver),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DnsError::Thread(io::Error::other("it ended at once"))),
        }
    }

    /// What it counted.
    #[must_use]
    pub fn stats(&self) -> &DnsStats {
        &self.shared.stats
    }

    /// What it is, for a person.
    #[must_use]
    pub fn row(&self, config: &Dns) -> DnsRow {
        DnsRow {
            addresses: config.addresses.clone(),
            listens_at: self.listen.at.iter().map(ToString::to_string).collect(),
            domain: config.domain.to_string(),
            services: self.shared.services(),
            upstreams: self.shared.upstreams.rows(),
            counters: self.shared.stats.read(),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
