//! What the daemon asks of the kernel for the sake of Services: ports kept free, the node's own connections turned to
//! the switch, and all of it undone.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use millrace_dataplane::wire::IpProtocol;
use tracing::{info, warn};

use super::Daemon;
use super::compile::services::HostListens;
use super::ports::Saved;
use crate::config::Config;
use crate::kernel::{
    HostPortSpec, Kernel, KernelError, Link, OwnServices, PortSet, check_ports, release_ports, reserve_ports,
};
use crate::objects::{NodeRecord, Store};

/// What the kernel was last given of the node's own way to Services.
#[derive(Debug, Default)]
pub(super) struct HostPath {
    own_services: OwnServices,
    /// What it did not take after that, and why, as it was said.
    failure: Option<(OwnServices, String)>,
    /// Ports at the node's own addresses that Services have and programs listen on.
    listened: BTreeSet<(IpAddr, IpProtocol, u16)>,
}

/// The host port as it is to be.
pub(super) fn host_port_spec(
    config: &Config,
    (own, store): (&NodeRecord, &Store),
    uplink: &Link,
) -> HostPortSpec {
    let queues = u32::try_from(config.workers.cores.as_slice().len()).unwrap_or(u32::MAX);
    HostPortSpec {
        name: config.host_port.name.kernel_side().as_str().to_owned(),
        switch_name: config.host_port.name.switch_side().as_str().to_owned(),
        queues,
        mtu: uplink.mtu.saturating_sub(u32::from(super::pods::tunnel_overhead(
            config.overlay.kind,
            own,
            store,
        ))),
        mac: None,
        switch_mac: None,
        addresses: own.tunnel_addresses().collect(),
        // The node goes to its Services by them at once, before a switch answers solicitations.
        neighbours: own.gateway_addresses().filter(IpAddr::is_ipv6).collect(),
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
    /// said once, and tried again with every refresh.
    pub(super) fn sync_own_services(&mut self, wanted: &OwnServices) {
        if *wanted == self.host_path.own_services && self.host_path.failure.is_none() {
            return;
        }
        match self.kernel.set_own_services(wanted) {
            Ok(()) => {
                self.host_path.own_services = wanted.clone();
                if self.host_path.failure.take().is_some() {
                    info!("the node itself reaches Services at its own addresses and node ports now");
                }
            }
            Err(error) => {
                let failure = error.to_string();
                if self.host_path.failure.as_ref().map(|(_, said)| said) != Some(&failure) {
                    warn!(
                        "the node itself does not reach Services at its own addresses and node ports, which needs nf_tables with nat; all others do: {failure}"
                    );
                }
                self.host_path.failure = Some((wanted.clone(), failure));
            }
        }
    }

    /// Looks at what the node itself listens on: says so where a Service has that, and answers whether one could have
    /// more now, as a program has ended.
    pub(super) fn look_at_listeners(&mut self) -> bool {
        let listening = OnceCell::new();
        let is_listened = |(address, protocol, port): &(IpAddr, IpProtocol, u16)| {
            super::listens(&listening, *address, *protocol, *port) == Ok(true)
        };
        let own_ports = self.services.steering().own_ports.iter().copied();
        let listened: BTreeSet<_> = own_ports.filter(is_listened).collect();
        for (address, protocol, port) in listened.difference(&self.host_path.listened) {
            warn!(
                "a program of the node listens on {protocol} {port} at {address}, which a Service has had before it: what comes by the uplink is the Service's"
            );
        }
        self.host_path.listened = listened;
        self.services
            .can_give_more(HostListens(&|address, protocol, port| {
                super::listens(&listening, address, protocol, port)
            }))
    }

    /// Puts our table of nftables back where somebody has cleared it: a firewall that loads its rules anew begins so. What
    /// the kernel did not take, it is asked to take again.
    pub(super) fn restore_own_services(&mut self) {
        if let Some((wanted, _)) = self.host_path.failure.clone() {
            self.sync_own_services(&wanted);
            return;
        }
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
