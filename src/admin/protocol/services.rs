//! What is said about Services.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Which rows are asked for: those to which all that is given applies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShowFilter {
    /// With this pod, `NAMESPACE/NAME`.
    pub pod: Option<String>,
    /// With this address.
    pub address: Option<IpAddr>,
    /// With this port.
    pub port: Option<u16>,
    /// In this state.
    pub state: Option<String>,
    /// In this network, `NAMESPACE/NAME`; only of connections and stations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// So many at most; only of connections, of which there may be a million, and of stations.
    pub limit: Option<usize>,
}

/// A row of [`Request::ShowServices`](super::Request::ShowServices).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// The Service, `NAMESPACE/NAME`.
    pub service: String,
    /// `spec.type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// programmed; or why nothing is: dns-only, headless, no-cluster-ip, other-proxy.
    pub state: String,
    /// What DNS gives out for it.
    pub external_name: Option<String>,
    /// Its addresses inside the cluster.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Its load balancer's addresses that are served here.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: String,
    /// `spec.externalTrafficPolicy`, if it can be called from outside.
    pub external_policy: Option<String>,
    /// For how long a client keeps its endpoint, in seconds.
    pub affinity_s: Option<u32>,
    /// Who may call its load balancer's addresses; empty means everyone.
    pub source_ranges: Vec<String>,
    /// Where load balancers ask whether there is an endpoint here.
    pub health_check_node_port: Option<u16>,
    /// What it claims and does not have, each with the reason.
    pub refused: Vec<String>,
    /// Its ports, those of each family apart.
    pub ports: Vec<ServicePortRow>,
}

/// A port of a [`ServiceRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePortRow {
    /// Its name; empty if it has none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Its number.
    pub port: u16,
    /// The port of every node that leads to it.
    pub node_port: Option<u16>,
    /// IPv4 or IPv6.
    pub family: String,
    /// Connections that were given a backend here.
    pub connections: u64,
    /// Its endpoints.
    pub endpoints: Vec<EndpointRow>,
}

/// An endpoint of a [`ServicePortRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// ready, terminating or not-ready.
    pub state: String,
    /// Whether new connections go there from here.
    pub used: bool,
    /// Whether it is on this node.
    pub local: bool,
    /// The pod, `NAMESPACE/NAME`.
    pub pod: Option<String>,
    /// Connections that it was given here.
    pub connections: u64,
}

/// Connections that a port of a Service was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// The Service, `NAMESPACE/NAME`.
    pub service: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// Connections.
    pub connections: u64,
    /// Of them, by endpoint.
    pub endpoints: Vec<EndpointCounts>,
}

/// Connections that an endpoint was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointCounts {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Connections.
    pub connections: u64,
}
