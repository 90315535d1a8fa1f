//! What this node lets Services have of what they claim.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use millrace_dataplane::table::service::FrontendKey;
use millrace_dataplane::wire::IpProtocol;

use super::one::Made;
use super::{ServiceCompiler, ServiceInputs, number};
use crate::config::PortRange;
use crate::objects::{Claim, ServiceKey, VipKind};

/// Tells whether a socket of the node itself has an address, protocol and port; `Err` says why that cannot be told.
#[derive(Clone, Copy)]
pub struct HostListens<'a>(pub &'a dyn Fn(IpAddr, IpProtocol, u16) -> Result<bool, String>);

impl fmt::Debug for HostListens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostListens")
    }
}

/// Why a claim is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The reason, and what would be right.
    pub(super) why: String,
    /// Where a program of the node's stands in the way, which may end: the address, protocol and port.
    listened: Option<(IpAddr, IpProtocol, u16)>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, listened: None }
    }
}

impl ServiceCompiler {
    /// Whether a Service could be given now what it was refused because a program of the node's listened there; with
    /// the next [`Self::update`] it has it.
    #[must_use]
    pub fn can_give_more(&self, listens: HostListens<'_>) -> bool {
        !self.freed(listens).is_empty()
    }

    /// The Services that could be given more, as programs have ended.
    pub(super) fn freed(&self, listens: HostListens<'_>) -> HashSet<ServiceKey> {
        let is_free = |refusal: &Refusal| {
            let is_listened = |(address, protocol, port)| (listens.0)(address, protocol, port);
            refusal.listened.map(is_listened) == Some(Ok(false))
        };
        let refused = self
            .refused
            .iter()
            .filter_map(|key| Some((key, self.made.get(key)?)));
        refused
            .filter(|(_, made)| made.refused.iter().any(|(_, refusal)| is_free(refusal)))
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// Whether this node lets a Service have what it claims, which was `before`.
pub(super) fn check(
    claim: &Claim,
    inputs: &ServiceInputs<'_>,
    node_ports: PortRange,
    before: Option<&Made>,
) -> Result<(), Refusal> {
    match *claim {
        Claim::NodePort { port, .. } if !node_ports.contains(port) => Err(format!(
            "the port is outside {node_ports}, which [services] node-port-range sets aside for node ports"
        )
        .into()),
        Claim::NodePort { .. } => Ok(()),
        Claim::Vip {
            kind,
            address,
            protocol,
            port,
        } => {
            if inputs.gateways.contains(&address) {
                return Err("the address is the pods' gateway".to_owned().into());
            }
            if !inputs.own_addresses.contains(&address) {
                return Ok(());
            }
            if kind == VipKind::Cluster {
                let why = "the address is this node's own; no node may have one of [services] cidrs";
                return Err(why.to_owned().into());
            }
            if inputs.fail_safe_ports.contains(&port) {
                let why =
                    format!("the address is this node's own, and port {port} always stays with the node");
                return Err(why.into());
            }
            let wanted = (address, number(protocol), port);
            // Whoever has it keeps it: else any program of the node's could take a Service's port from it.
            if before.is_some_and(|before| before.leads_from(wanted)) {
                return Ok(());
            }
            let why = match (inputs.listens.0)(address, number(protocol), port) {
                Ok(false) => return Ok(()),
                Ok(true) => format!("a program listens on {protocol} {port} there"),
                Err(why) => format!("what listens there cannot be told: {why}"),
            };
            Err(Refusal {
                why: format!("the address is this node's own, and {why}"),
                listened: Some(wanted),
            })
        }
    }
}

impl Made {
    fn leads_from(&self, (address, protocol, port): (IpAddr, IpProtocol, u16)) -> bool {
        let wanted = FrontendKey::Address(address, protocol, port);
        self.frontends.iter().any(|(key, ..)| *key == wanted)
    }
}
