//! What the node's own network stack has to do for Services and source NAT: connections of the node to its own
//! addresses are turned to the switch, and it leaves the ports of source NAT alone.

use tracing::warn;

use super::Daemon;
use crate::kernel::{KernelError, OwnServices, PortSet, release_ports, reserve_ports};

impl Daemon {
    /// Keeps the ports of source NAT free, and writes down which were not before. What was written down by an earlier
    /// run stays.
    pub(super) fn reserve_ports(&mut self) -> Result<PortSet, KernelError> {
        let range = self.config.services.snat_ports;
        let added = reserve_ports(range.first()..=range.last())?;
        let known = PortSet::parse(&self.saved.reserved_ports).unwrap_or_else(PortSet::new);
        let mut all = known;
        (range.first()..=range.last())
            .filter(|port| added.contains(*port))
            .for_each(|port| all.insert(port..=port));
        self.saved.reserved_ports = all.to_string();
        Ok(added)
    }

    /// Has the node's own connections to Services at its own addresses turned to the switch, those of the newest
    /// tables. What fails is tried again with the next change.
    pub(super) fn sync_own_services(&mut self) {
        let local = &self.tables.local;
        let steering = self.services.steering();
        let wanted = OwnServices {
            addresses: local.addresses.clone(),
            node_ports: steering
                .node_ports
                .iter()
                .map(|(protocol, port)| (protocol.0, *port))
                .collect(),
            ports: steering
                .own_ports
                .iter()
                .map(|(address, protocol, port)| (*address, (protocol.0, *port)))
                .collect(),
            gateways: self.own.gateway_addresses().collect(),
        };
        if self.own_services.as_ref() == Some(&wanted) {
            return;
        }
        match self.kernel.set_own_services(&wanted) {
            Ok(()) => self.own_services = Some(wanted),
            // Where nothing is wanted, nothing is missing.
            Err(_) if wanted.is_empty() => self.own_services = Some(wanted),
            Err(error) => warn!(
                "this node's own connections to its node ports and to Services at its own addresses do not work: {error}"
            ),
        }
    }
}

/// Gives ports back that were kept free; says whether there were any.
pub(super) fn release(saved: &str) -> Result<bool, KernelError> {
    match PortSet::parse(saved) {
        Some(ports) => release_ports(&ports),
        None => Ok(false),
    }
}
