//! What this node lets a Service have.

use millrace_dataplane::wire::IpProtocol;

use super::ServiceInputs;
use crate::config::PortRange;
use crate::objects::{Claim, Protocol, VipKind};

/// Whether this node lets a Service have what it claims; `Err` says why not, and what would be right.
pub(super) fn check_claim(
    claim: &Claim,
    inputs: &ServiceInputs<'_>,
    node_ports: PortRange,
) -> Result<(), String> {
    match *claim {
        Claim::NodePort { port, .. } if !node_ports.contains(port) => Err(format!(
            "the port is outside {node_ports}, which [services] node-port-range sets aside for node ports"
        )),
        Claim::NodePort { .. } => Ok(()),
        Claim::Vip {
            kind,
            address,
            protocol,
            port,
        } => {
            if inputs.gateways.contains(&address) {
                return Err("the address is the pods' gateway".to_owned());
            }
            if !inputs.own_addresses.contains(&address) {
                return Ok(());
            }
            if kind == VipKind::Cluster {
                return Err(
                    "the address is this node's own; no node may have one of [services] cidrs".to_owned(),
                );
            }
            if inputs.fail_safe_ports.contains(&port) {
                return Err(format!(
                    "the address is this node's own, and port {port} always stays with the node"
                ));
            }
            match (inputs.listens.0)(address, number(protocol), port) {
                Ok(false) => Ok(()),
                Ok(true) => Err(format!(
                    "the address is this node's own, and a program listens on {protocol} {port} there"
                )),
                Err(why) => Err(format!(
                    "the address is this node's own, and what listens there cannot be told: {why}"
                )),
            }
        }
    }
}

/// The protocol's number in a packet.
pub(super) fn number(protocol: Protocol) -> IpProtocol {
    match protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
        Protocol::Sctp => IpProtocol::SCTP,
    }
}
