//! What the daemon asks of the kernel for the sake of Services: ports kept free, the node's own connections turned to
//! the switch, and all of it undone.

use std::ops::RangeInclusive;

use tracing::{info, warn};

use super::Daemon;
use super::ports::Saved;
use crate::config::Config;
use crate::kernel::{
    HostPortSpec, Kernel, KernelError, Link, OwnServices, PortSet, check_ports, release_ports, reserve_ports,
};
use crate::objects::NodeRecord;

/// What the kernel was last given of the node's own way to Services.
#[derive(Debug, Default)]
pub(super) struct HostPath {
    own_services: OwnServices,
    /// Why it did not take them, as it was said.
    failure: Option<String>,
}

/// The host port as it is to be.
pub(super) fn host_port_spec(config: &Config, own: &NodeRecord, uplink: &Link) -> HostPortSpec {
    let queues = u32::try_from(config.workers.cores.as_slice().len()).unwrap_or(u32::MAX);
    HostPortSpec {
        name: config.host_port.name.kernel_side().as_str().to_owned(),
        switch_name: config.host_port.name.switch_side().as_str().to_owned(),
        queues,
        mtu: uplink
            .mtu
            .saturating_sub(u32::from(super::pods::tunnel_overhead(config.overlay.kind))),
        mac: None,
        switch_mac: None,
        addresses: own.tunnel_addresses().collect(),
        // The switch answers ARP, and no neighbour solicitations.
        neighbours: own
            .gateway_addresses()
            .filter(std::net::IpAddr::is_ipv6)
            .collect(),
    }
}

/// The ports that source NAT is to have to itself.
fn snat_ports(config: &Config) -> RangeInclusive<u16> {
    config.services.snat_ports.first()..=config.services.snat_ports.last()
}

/// Checks that the kernel gives none of source NAT's ports to its own connections.
///
/// # Errors
/// [`KernelError::PortsGivenOut`] says what would be right.
pub(super) fn look_at_ports(config: &Config) -> Result<(), KernelError> {
    check_ports(&snat_ports(config))
}

impl Daemon {
    /// Keeps source NAT's ports free, and remembers which of them were not before; those of an earlier node file are
    /// given out again.
    ///
    /// # Errors
    /// When the kernel does not keep them, or that could not be remembered.
    pub(super) fn keep_ports_free(&mut self) -> anyhow::Result<()> {
        let ports = snat_ports(&self.config);
        let added = reserve_ports(ports.clone())?;
        let mut stale = PortSet::parse(&self.saved.reserved_ports).unwrap_or_default();
        let mut ours = added.clone();
        for port in ports.filter(|port| stale.contains(*port)) {
            ours.insert(port..=port);
        }
        ours.runs()
            .into_iter()
            .flatten()
            .for_each(|port| stale.remove(port));
        if let Err(error) = release_ports(&stale) {
            warn!("{error}");
        }
        let remembered = std::mem::replace(&mut self.saved.reserved_ports, ours.to_string());
        if remembered == self.saved.reserved_ports {
            return Ok(());
        }
        if let Err(error) = self.saved.store(&self.config.node.state_dir) {
            let _ = release_ports(&added);
            return Err(error.into());
        }
        Ok(())
    }

    /// Has the kernel turn the node's own connections to Services at its own addresses to the switch. What fails is
    /// said once, and tried again with the next publication.
    pub(super) fn sync_own_services(&mut self, wanted: &OwnServices) {
        if *wanted == self.host_path.own_services && self.host_path.failure.is_none() {
            return;
        }
        match self.kernel.set_own_services(wanted) {
            Ok(()) => {
                self.host_path = HostPath {
                    own_services: wanted.clone(),
                    failure: None,
                };
            }
            Err(error) => {
                let failure = error.to_string();
                if self.host_path.failure.as_ref() != Some(&failure) {
                    warn!(
                        "the node itself does not reach Services at its own addresses and node ports, which needs nf_tables with nat: {failure}"
                    );
                }
                self.host_path.failure = Some(failure);
            }
        }
    }

    /// Puts our table of nftables back where somebody has cleared it: a firewall that loads its rules anew begins so.
    pub(super) fn restore_own_services(&mut self) {
        if self.host_path.own_services.is_empty()
            || matches!(self.kernel.has_own_services(), Ok(true) | Err(_))
        {
            return;
        }
        info!("somebody cleared the tables of nftables; ours is made anew");
        let wanted = std::mem::take(&mut self.host_path.own_services);
        self.sync_own_services(&wanted);
    }
}

/// Undoes both. Says what was done, or why it could not be.
pub(super) fn undo(kernel: &Kernel, saved: &Saved) -> [(String, Result<bool, KernelError>); 2] {
    let ports = PortSet::parse(&saved.reserved_ports).unwrap_or_default();
    [
        (
            format!("ports {} given out again", saved.reserved_ports),
            release_ports(&ports),
        ),
        (
            "nftables table of the node's own connections".to_owned(),
            kernel.remove_own_services(),
        ),
    ]
}
