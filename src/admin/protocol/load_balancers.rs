//! What is said about load balancers' addresses.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A row of [`Request::ShowLoadBalancers`](super::Request::ShowLoadBalancers): an address, or something that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerRow {
    /// The address; none of what was refused.
    pub address: Option<IpAddr>,
    /// The pool.
    pub pool: Option<String>,
    /// The Services that have it, or want it, `NAMESPACE/NAME`.
    pub services: Vec<String>,
    /// announced; probing; conflict, if somebody else has it; elsewhere, if another node announces it; no-node, if no node
    /// may; routed; given, if nothing is to be announced; refused; set-aside, if no Service has it and another host does.
    pub state: String,
    /// The node that announces it, as this one sees it.
    pub announced_by: Option<String>,
    /// For how many seconds it has been in this state here.
    pub since_seconds: Option<u64>,
    /// Who else claims it: a link address.
    pub claimed_by: Option<String>,
    /// Why it was refused.
    pub reason: Option<String>,
}
