//! Ports in networks beside the cluster's own: tap devices of virtual machines, and interfaces of pods beside their first.
//!
//! As with pods' first ports, one is written down before it is made, and taken up after a restart.

mod container;
mod routed;
mod rows;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use millrace_dataplane::port::PortId;
use millrace_dataplane::port::xsk::FillPolicy;
use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::xdp::{self, ProgramKind, XdpMode};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Daemon;
use super::compile::overhead;
use super::fabric::{PortSpec, Sockets};
use super::links::VETH;
use super::pods::limits;
use super::ports::Port;
use crate::admin::protocol::{Failure, Join, Joined, MemberEnd, MemberName, MemberRoute};
use crate::kernel::{self, KernelError, Link, MemberPortSpec, RouteSpec, TapWish, member_interface_name};
pub use rows::MemberRow;

/// Ports in networks beside the cluster's own.
#[derive(Debug, Default)]
pub struct Members {
    served: BTreeMap<PortId, MemberRow>,
    /// Those that are not served now: they are tried again.
    unserved: Vec<MemberRow>,
    /// Ports of which frames that are too long were told.
    long_frames: BTreeSet<PortId>,
}

impl Members {
    /// What was written down, none of it served.
    #[must_use]
    pub fn found(rows: Vec<MemberRow>) -> Self {
        Self {
            served: BTreeMap::new(),
            unserved: rows,
            long_frames: BTreeSet::new(),
        }
    }

    /// All of them, as they are written down.
    pub fn rows(&self) -> impl Iterator<Item = &MemberRow> {
        // One that is just being made or adopted stands in both.
        let waiting = self.unserved.iter();
        let waiting = waiting.filter(move |row| self.port_of(&row.interface).is_none());
        self.served.values().chain(waiting)
    }

    /// Those that are served, by port.
    pub fn served(&self) -> impl Iterator<Item = (PortId, &MemberRow)> {
        self.served.iter().map(|(id, row)| (*id, row))
    }

    /// A served one by its port.
    #[must_use]
    pub fn get(&self, id: PortId) -> Option<&MemberRow> {
        self.served.get(&id)
    }

    /// Its interface is gone.
    pub fn forget(&mut self, id: PortId) {
        self.long_frames.remove(&id);
        self.served.remove(&id);
    }

    /// Whether frames that are too long were told of this port.
    pub(super) fn has_long_frames(&self, id: PortId) -> bool {
        self.long_frames.contains(&id)
    }

    pub(super) fn note_long_frames(&mut self, ports: Vec<PortId>) {
        self.long_frames.extend(ports);
    }

    /// It waits no longer to be served.
    fn settle(&mut self, interface: &str) {
        self.unserved.retain(|row| row.interface != interface);
    }

    /// How many are not served.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.unserved.len()
    }

    fn of_interface(&self, interface: &str) -> Option<&MemberRow> {
        self.rows().find(|row| row.interface == interface)
    }

    fn port_of(&self, interface: &str) -> Option<PortId> {
        let mut served = self.served.iter();
        served
            .find(|(_, row)| row.interface == interface)
            .map(|(id, _)| *id)
    }
}

fn failed(error: KernelError) -> Failure {
    Failure::failed(error.to_string())
}

impl Daemon {
    /// Makes a port, from the device to the workers. Where a container runtime asks, one that is there and whole is left as it
    /// is.
    pub(super) async fn join(&mut self, join: &Join) -> Result<Joined, Failure> {
        let mut row = self.wanted_member(join)?;
        if row.is_tap() && self.members.of_interface(&row.interface).is_none() {
            // The kernel itself is asked: what was followed of it may be older than a device that was just made, or taken away.
            let there = self.kernel.find_link(&row.interface).await.map_err(failed)?;
            row.was_there = there.is_some();
        }
        if let Some(there) = self.members.of_interface(&row.interface) {
            if there.attachment.is_none() || row.attachment.is_none() {
                return Err(Failure::failed(format!(
                    "{} is attached already; detach it first",
                    row.interface
                )));
            }
            let is_same = *there == row;
            let netns = row.netns().to_owned();
            match (is_same, self.check_member(&row, &netns).await) {
                (true, Ok(())) => return self.joined(&row),
                (_, Err(failure)) => info!(
                    row.interface,
                    "not as it was made, and made anew: {}", failure.message
                ),
                (false, Ok(())) => info!(row.interface, "wanted otherwise, and made anew"),
            }
            self.part_row(&row.interface.clone()).await?;
        }
        self.members.unserved.push(row.clone());
        if let Err(error) = self.remember() {
            // Else a tap device that is there would be adopted in spite of what is answered.
            self.members.settle(&row.interface);
            return Err(Failure::failed(error.to_string()));
        }
        let made = self.make_member(&row).await;
        self.members.settle(&row.interface);
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        made?;
        info!(interface = row.interface, networks = ?row.networks().collect::<Vec<_>>(), "attached");
        self.joined(&row)
    }

    /// The device, then the port; neither stays without the other, save a device that was there before.
    async fn make_member(&mut self, row: &MemberRow) -> Result<(), Failure> {
        let mtu = self.mtu_of_member(row)?;
        let (link, is_new) = match &row.end {
            MemberEnd::Tap(tap) => {
                let wish = TapWish {
                    name: tap.name.clone(),
                    user: tap.user,
                    group: tap.group,
                    mtu,
                };
                self.kernel.ensure_tap(&wish).await.map_err(failed)?
            }
            MemberEnd::Pod(end) => {
                let spec = MemberPortSpec {
                    host_ifname: row.interface.clone(),
                    pod_ifname: end.interface.clone(),
                    netns_path: end.netns.clone(),
                    mac_pod: row.mac.map_or([0; 6], crate::objects::UnicastMac::octets),
                    addresses: row.addresses.clone(),
                    routes: self.routes_of_member(row).into_iter().map(route).collect(),
                    mtu,
                    queues: u32::try_from(self.fabric.workers().len()).unwrap_or(u32::MAX),
                };
                (self.kernel.attach_member(&spec).await.map_err(failed)?, true)
            }
        };
        let opened = self.open_member(row, &link).await;
        if opened.is_err() {
            let undone = if is_new {
                self.kernel.delete_link(&row.interface).await.map_err(Into::into)
            } else {
                give_back(&self.kernel, &row.interface).await
            };
            if let Err(error) = undone {
                warn!("{error}");
            }
        }
        opened
    }

    /// Gives an interface to the workers, then sets it up: not a frame passes before tables know the port.
    async fn open_member(&mut self, row: &MemberRow, link: &Link) -> Result<(), Failure> {
        let no_number = || Failure::failed("all port numbers are taken; detach something first");
        let id = self.ports.free_id().ok_or_else(no_number)?;
        let mac = link
            .mac
            .ok_or_else(|| Failure::failed(format!("{} has no MAC address", row.interface)))?;
        let spec = PortSpec {
            id,
            interface: row.interface.clone(),
            ifindex: link.ifindex,
            vlan: None,
            queues: link.rx_queues,
            kernel_queues: Vec::new(),
            kind: ProgramKind::Port,
            mode: XdpMode::Auto,
            sockets: Sockets::Shared(FillPolicy::POD),
        };
        let attached = self.fabric.attach(spec);
        let attached = attached.map_err(|error| Failure::failed(error.to_string()))?;
        self.settle_mode(&row.interface, &attached.attachment).await;
        let limits = limits(&row.bandwidth);
        // In the workers' queues of orders it is behind the port's own sockets, and before the first packet.
        let limited = self.fabric.limit(id, &limits);
        self.ports.insert(Port {
            interface: row.interface.clone(),
            pod: None,
            facts: PortFacts {
                // A port in a routed network is a pod's there, and nowhere once that network is gone: the tables say so.
                role: Role::Segment,
                mac: MacAddr(mac),
                peer_mac: MacAddr(row.mac.map_or([0; 6], crate::objects::UnicastMac::octets)),
                sources: row.addresses.iter().map(IpNet::addr).collect(),
                mtu: overhead(link.mtu as usize),
                finish_checksums: true,
            },
            attached,
            attachment: row.attachment.clone(),
            host_ports: Vec::new(),
            bandwidth: row.bandwidth,
            limits,
        });
        self.members.served.insert(id, row.clone());
        self.publish().await;
        let failed = match limited {
            Ok(()) => {
                let up = self.kernel.set_up(&row.interface, true).await;
                up.err().map(|error| error.to_string())
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = failed {
            self.members.forget(id);
            if let Some(port) = self.ports.remove(id) {
                self.publish().await;
                self.close(port);
            }
            return Err(Failure::failed(reason));
        }
        Ok(())
    }

    /// Takes a port away, a pod's down to its veth pair; a tap device of ours too. Succeeds again and again.
    pub(super) async fn part(&mut self, name: &MemberName) -> Result<Value, Failure> {
        let interface = match name {
            MemberName::Interface(interface) => Some(interface.clone()),
            MemberName::Pod { pod, network } => {
                let mut rows = self.members.rows();
                let found = rows.find(|row| row.pod() == Some(pod) && row.network.as_ref() == Some(network));
                found.map(|row| row.interface.clone())
            }
        };
        let removed = match interface {
            Some(interface) => self.part_row(&interface).await?,
            None => false,
        };
        Ok(json!({ "removed": removed }))
    }

    async fn part_row(&mut self, interface: &str) -> Result<bool, Failure> {
        let Some(row) = self.members.of_interface(interface).cloned() else {
            return Ok(false);
        };
        if let Some(id) = self.members.port_of(interface) {
            self.members.forget(id);
            if let Some(port) = self.ports.remove(id) {
                self.publish().await;
                self.close(port);
            }
        }
        self.members.settle(interface);
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        if row.is_lent() {
            if let Err(error) = give_back(&self.kernel, interface).await {
                warn!("{interface}: {error}");
            }
        } else {
            remove_device(&self.kernel, &row).await.map_err(failed)?;
        }
        info!(interface, "detached");
        Ok(true)
    }

    /// Serves again the ports that were written down and are not served. One whose interface is gone is forgotten.
    pub(super) async fn adopt_members(&mut self) {
        // Each stays among them until it is settled: every publication in between writes down what there is.
        for row in self.members.unserved.clone() {
            match self.kernel.find_link(&row.interface).await {
                Ok(None) => info!(interface = row.interface, "gone meanwhile, and forgotten"),
                Ok(Some(link)) => match self.adopt_member(&row, link).await {
                    Ok(()) => info!(interface = row.interface, "adopted"),
                    Err(failure) => {
                        warn!(
                            "{} cannot be served, and stays cut off: {}",
                            row.interface, failure.message
                        );
                        continue;
                    }
                },
                Err(error) => {
                    warn!("{error}");
                    continue;
                }
            }
            self.members.settle(&row.interface);
        }
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
    }

    async fn adopt_member(&mut self, row: &MemberRow, link: Link) -> Result<(), Failure> {
        let link = match &row.end {
            MemberEnd::Tap(tap) => {
                let wish = TapWish {
                    name: tap.name.clone(),
                    user: tap.user,
                    group: tap.group,
                    mtu: link.mtu,
                };
                self.kernel.ensure_tap(&wish).await.map_err(failed)?.0
            }
            MemberEnd::Pod(end) => {
                let is_its = row.interface == member_interface_name(&end.pod, &end.interface);
                if !is_its || link.kind.as_deref() != Some(VETH) {
                    let reason = format!("{} is not the port of a pod", row.interface);
                    return Err(Failure::failed(reason));
                }
                link
            }
        };
        let ours = matches!(xdp::query(link.ifindex), Ok(Some(program)) if program.is_ours());
        if !ours && link.up {
            // Without our program the kernel itself would take the frames.
            let down = self.kernel.set_up(&row.interface, false).await;
            down.map_err(failed)?;
        }
        self.open_member(row, &link).await
    }
}

/// Removes the device of a port that we made.
pub(super) async fn remove_device(kernel: &kernel::Kernel, row: &MemberRow) -> Result<bool, KernelError> {
    match row.end {
        MemberEnd::Tap(_) => kernel.remove_tap(&row.interface).await,
        MemberEnd::Pod(_) => kernel.detach_pod(&row.interface).await,
    }
}

/// Takes our program off a device that is somebody else's, and leaves it down: else the kernel itself would take the frames of a
/// machine that was in a network of its own. Says whether there was such a program.
pub(super) async fn give_back(kernel: &kernel::Kernel, interface: &str) -> anyhow::Result<bool> {
    let Some(link) = kernel.find_link(interface).await? else {
        return Ok(false);
    };
    if !matches!(xdp::query(link.ifindex), Ok(Some(program)) if program.is_ours()) {
        return Ok(false);
    }
    kernel.set_up(interface, false).await?;
    Ok(xdp::detach_ours(link.ifindex)?)
}

fn route(route: MemberRoute) -> RouteSpec {
    RouteSpec {
        prefix: route.destination,
        gateway: Some(route.gateway),
        onlink: false,
        source: None,
    }
}

/// An address with its subnet's prefix.
fn with_prefix(address: std::net::IpAddr, subnet: IpNet) -> IpNet {
    // INVARIANT: the subnet is of the address's family, so its length fits.
    IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_being_taken_up_is_written_down_once_and_the_others_with_it() {
        let row = |name: &str| -> MemberRow {
            let text = json!({"interface": name, "end": {"tap": {"name": name}}, "network": "shop/blue"});
            serde_json::from_value(text).unwrap()
        };
        let names = |members: &Members| -> Vec<String> {
            let rows = members.rows();
            rows.map(|row| row.interface.clone()).collect()
        };
        let mut members = Members::found(vec![row("vm1"), row("vm2")]);
        members.served.insert(PortId::new(2).unwrap(), row("vm1"));
        assert_eq!(names(&members), ["vm1", "vm2"]);
        members.settle("vm1");
        assert_eq!((names(&members).len(), members.waiting()), (2, 1));
    }
}
