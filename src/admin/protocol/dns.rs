//! What is said of the node's own resolver.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The answer to [`Request::ShowDns`](super::Request::ShowDns), where there is a resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRow {
    /// The addresses at which pods and the node reach it, at port 53.
    pub addresses: Vec<IpAddr>,
    /// Where it listens, behind those.
    pub listens_at: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
    /// How many Services it has names for.
    pub services: usize,
    /// The name servers that it asks for all other names.
    pub upstreams: Vec<DnsUpstreamRow>,
    /// Its counters, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A name server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsUpstreamRow {
    /// Its address, with the port if it is another than 53.
    pub address: String,
    /// Questions that it answered.
    pub answered: u64,
    /// Questions that it did not answer, or said that it cannot.
    pub failed: u64,
    /// Whether it asks the resolver itself, and so is not asked.
    pub is_loop: bool,
}

/// What a pod has to know to resolve names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsFacts {
    /// The resolver's addresses.
    pub nameservers: Vec<IpAddr>,
    /// The cluster's domain.
    pub domain: String,
}
