//! The uplink's device: its queues, rings, spreading and interrupts, set as the node file says and put back by
//! uninstall.
//!
//! What is changed is written down with its former value before it is changed, so that a daemon that is killed in
//! between leaves nothing that nobody knows of.

mod before;
mod error;

use std::path::Path;

use millrace_dataplane::port::nic;
use millrace_dataplane::port::own::BusyPoll;
use millrace_dataplane::xdp;
use tracing::{info, warn};

use super::Daemon;
use super::fabric::OwnSockets;
use super::look::Misconfigured;
use super::underlay::Underlay;
use crate::config::{self, Config, Uplink};
use crate::durable::StateError;
use crate::kernel::{Channels, Device, InterruptDelay, Kernel, KernelError, Link, Rings, numa_node_of_core};

pub(super) use before::NicBefore;
pub(super) use before::restore;
pub(super) use error::NicError;

/// What the node file asks of the device and cannot be had is said as such.
pub(super) fn misconfigured(error: NicError) -> anyhow::Error {
    match error {
        NicError::Saved(_) => error.into(),
        NicError::Queues { .. }
        | NicError::Ring { .. }
        | NicError::Driver { .. }
        | NicError::Spreading { .. }
        | NicError::Tags { .. } => Misconfigured::because(error.into()),
    }
}

/// The name of an interface's driver, for people.
pub(super) fn driver(interface: &str) -> String {
    nic::driver(interface).unwrap_or_else(|_| "unknown".to_owned())
}

/// Why a driver that offers zero-copy is not to be trusted with it unasked.
pub(crate) fn fault_of_zero_copy(interface: &str) -> Option<&'static str> {
    // A driver that is part of the kernel has no such file.
    let is_module = |name: &str| Path::new("/sys/module").join(name).join("initstate").exists();
    let name = nic::driver(interface).ok()?;
    known_fault(&name, is_module(&name))
}

/// virtio-net has the header it sends before every frame mapped as if it were the kernel's own memory (`xsk_hdr` in
/// `drivers/net/virtio_net.c`, seen with 7.3): of a module, the device reads whatever is at some other address.
fn known_fault(driver: &str, is_module: bool) -> Option<&'static str> {
    (driver == "virtio_net" && is_module).then_some(
        "virtio_net as a module was seen to send what stands anywhere in memory as the header of its packets, and to lose \
         them; [uplink] mode = \"zero-copy\" would have it all the same",
    )
}

/// Some drivers take another number of queues only without a program; ours goes on again a moment later.
async fn set_channels(kernel: &Kernel, interface: &str, target: Channels) -> Result<(), KernelError> {
    let Err(refused) = kernel.set_channels(interface, target).await else {
        return Ok(());
    };
    let link = kernel.link_by_name(interface).await?;
    let detached = xdp::detach_ours(link.ifindex).unwrap_or(false);
    if !detached {
        return Err(refused);
    }
    warn!(
        "{interface}: its driver sets queues only without an XDP program, so ours was taken off for a moment; packets to \
         pods went to the kernel meanwhile"
    );
    kernel.set_channels(interface, target).await
}

/// An indirection table that deals `queues` in turn.
fn spread_over(queues: &[u32], entries: usize) -> Vec<u32> {
    queues.iter().copied().cycle().take(entries).collect()
}

/// What the sockets of the uplink's queues are like.
pub(super) async fn sockets(kernel: &Kernel, uplink: &Uplink, link: &Link) -> OwnSockets {
    // A driver that does not tell its descriptors gets no more frames than it must.
    let rings = kernel.rings(&link.name).await;
    OwnSockets {
        mode: uplink.mode,
        // Where sysfs is that of another namespace, nothing is known to the contrary.
        sending: Device::of(link)
            .ok()
            .and_then(|device| device.sending_queues())
            .unwrap_or(u32::MAX),
        ring: narrow(uplink.socket_ring.get()),
        device_ring: rings.map_or(0, |(now, _)| now.rx),
        busy_poll: uplink.busy_poll.then(|| BusyPoll {
            usecs: narrow(uplink.busy_poll_usecs.get()),
            budget: narrow(uplink.busy_poll_budget.get()),
        }),
    }
}

/// The uplink's NUMA node, if there is more than one. Says which workers are away from it.
pub(super) fn numa_node(config: &Config, link: &Link) -> Option<u32> {
    let node = Device::of(link).ok()?.numa_node()?;
    for (worker, core) in config.workers.cores.as_slice().iter().enumerate() {
        if let Some(other) = numa_node_of_core(*core).filter(|other| *other != node) {
            warn!(
                "worker {worker} runs on core {core} of NUMA node {other}, but {} is at node {node}: every packet crosses \
                 between them; a core of node {node} in [workers] cores would be right",
                link.name
            );
        }
    }
    Some(node)
}

/// A number of the node file; all their ranges end far below.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Daemon {
    /// Sets queues and descriptors as the node file wants them.
    pub(super) async fn size_nic(&mut self) -> Result<(), NicError> {
        let uplink = self.config.uplink.clone();
        if let Some(wanted) = uplink.queues {
            self.set_queues(narrow(wanted.get())).await?;
        }
        if uplink.rx_ring.is_some() || uplink.tx_ring.is_some() {
            self.set_rings(&uplink).await?;
        }
        Ok(())
    }

    async fn set_queues(&mut self, wanted: u32) -> Result<(), NicError> {
        let device = self.device.link.name.clone();
        let interface = device.as_str();
        let failed = |source| NicError::driver("queues", interface, source);
        self.take_off_where_short(interface, wanted)
            .await
            .map_err(failed)?;
        let (now, most) = self.kernel.channels(interface).await.map_err(failed)?;
        let target = most.pairs_of(wanted).ok_or_else(|| NicError::Queues {
            interface: interface.to_owned(),
            driver: driver(interface),
            wanted,
            most: most.receiving().min(most.transmitting()),
        })?;
        let became = self.saved.nic.as_ref().and_then(|nic| nic.channels_became);
        if now == target || became == Some((wanted, now.receiving())) {
            return Ok(());
        }
        self.remember_nic(NicBefore {
            channels: Some(now),
            ..NicBefore::default()
        })?;
        set_channels(&self.kernel, interface, target)
            .await
            .map_err(failed)?;
        info!(interface, queues = wanted, former = now.receiving(), "queues set");
        Ok(())
    }

    /// Takes our program off a device that has `wanted` queues only for the program's sake and sends by fewer: asked for
    /// as many as it seems to have, the kernel would change nothing.
    async fn take_off_where_short(&self, interface: &str, wanted: u32) -> Result<(), KernelError> {
        let now = self.kernel.channel_count(interface).await?;
        let link = self.kernel.link_by_name(interface).await?;
        let sending = Device::of(&link).ok().and_then(|device| device.sending_queues());
        if now.transmitting() >= wanted && sending.is_some_and(|sending| sending < wanted) {
            let _ = xdp::detach_ours(link.ifindex);
        }
        Ok(())
    }

    async fn set_rings(&mut self, uplink: &Uplink) -> Result<(), NicError> {
        let device = self.device.link.name.clone();
        let interface = device.as_str();
        let failed = |source| NicError::driver("rx-ring", interface, source);
        let (now, most) = self.kernel.rings(interface).await.map_err(failed)?;
        let target = Rings {
            rx: uplink.rx_ring.map_or(now.rx, |wanted| narrow(wanted.get())),
            tx: uplink.tx_ring.map_or(now.tx, |wanted| narrow(wanted.get())),
        };
        for (key, wanted, most) in [("rx-ring", target.rx, most.rx), ("tx-ring", target.tx, most.tx)] {
            if wanted > most {
                return Err(NicError::Ring {
                    key,
                    interface: interface.to_owned(),
                    driver: driver(interface),
                    wanted,
                    most,
                });
            }
        }
        if now == target {
            return Ok(());
        }
        self.remember_nic(NicBefore {
            rings: Some(now),
            ..NicBefore::default()
        })?;
        self.kernel.set_rings(interface, target).await.map_err(failed)?;
        info!(interface, rx = target.rx, tx = target.tx, "rings set");
        Ok(())
    }

    /// Writes down how many queues there are with the steering program on, where the node file says how many there are
    /// to be: a restart then finds nothing to set.
    pub(super) fn note_queues(&mut self, queues: u32) -> Result<(), NicError> {
        match self.config.uplink.queues {
            Some(wanted) if self.saved.nic.is_some() => Ok(self.remember_nic(NicBefore {
                channels_became: Some((narrow(wanted.get()), queues)),
                ..NicBefore::default()
            })?),
            _ => Ok(()),
        }
    }

    /// Keeps what the device spreads by hash away from queues without a socket.
    pub(super) fn spread_nic(&mut self, queues: u32) -> Result<(), NicError> {
        let (uplink, device) = (self.config.uplink.clone(), self.device.link.name.clone());
        let interface = device.as_str();
        let left = uplink.kernel_queues.as_slice();
        let failed = |source| NicError::Spreading {
            interface: interface.to_owned(),
            driver: driver(interface),
            source,
        };
        if left.is_empty() {
            // Of a former node file.
            let former = self.saved.nic.as_ref().and_then(|nic| nic.indirection.clone());
            return former.map_or(Ok(()), |table| {
                nic::set_indirection(interface, &table).map_err(failed)
            });
        }
        let served: Vec<u32> = (0..queues).filter(|queue| !left.contains(queue)).collect();
        let now = nic::indirection(interface).map_err(failed)?;
        let wanted = spread_over(&served, now.len());
        if now == wanted {
            return Ok(());
        }
        // The driver's own choice is a default that it may change with the number of queues; it is put back as such.
        let everything: Vec<u32> = (0..queues).collect();
        let is_default = now == spread_over(&everything, now.len());
        self.remember_nic(NicBefore {
            indirection: Some(if is_default { Vec::new() } else { now }),
            ..NicBefore::default()
        })?;
        nic::set_indirection(interface, &wanted).map_err(failed)?;
        info!(interface, ?left, ?served, "queues left to the kernel");
        Ok(())
    }

    /// Puts the device's interrupts off while its queues are polled. Where that cannot be, polling does without.
    pub(super) fn delay_interrupts(&mut self, link: &Link) {
        let uplink = &self.config.uplink;
        if !uplink.busy_poll {
            return;
        }
        let wanted = InterruptDelay {
            defer_hard_irqs: uplink.defer_hard_irqs.get() as u64,
            gro_flush_timeout_ns: uplink.busy_poll_usecs.get() as u64 * 1000,
        };
        let mut set = || {
            let device = Device::of(link)?;
            let now = device.interrupt_delay()?;
            if now != wanted {
                self.remember_nic(NicBefore {
                    interrupts: Some(now),
                    ..NicBefore::default()
                })?;
                device.set_interrupt_delay(wanted)?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = set() {
            warn!(
                "{}: its interrupts cannot be put off while it is polled: {error:#}",
                link.name
            );
        }
    }

    /// Writes down by which features the device merges what it received, before a program is attached that may turn them
    /// off. (With one of ours attached already, an earlier start has done so.)
    pub(super) async fn note_merging(&mut self, link: &Link) -> Result<(), NicError> {
        if self.config.uplink.xdp_mode == config::XdpMode::Native {
            return Ok(());
        }
        // A driver that tells nothing merges nothing that could be turned on again.
        let merging = self
            .kernel
            .merging_by_device(&link.name)
            .await
            .unwrap_or_default();
        if !merging.is_empty() {
            self.remember_nic(NicBefore {
                merging: Some(merging),
                ..NicBefore::default()
            })?;
        }
        Ok(())
    }

    /// Takes the device under the uplink for the one that all of this is about; of a VLAN's, tags are to be seen.
    pub(super) async fn note_device(&mut self, underlay: &Underlay) -> Result<(), NicError> {
        self.device.link.clone_from(&underlay.device);
        if underlay.vlan.is_none() {
            return Ok(());
        }
        let name = Some(underlay.device.name.clone());
        if self.saved.vlan_device != name {
            self.saved.vlan_device = name;
            self.saved.store(&self.config.node.state_dir)?;
        }
        self.keep_tags(&underlay.device).await
    }

    /// Has the device leave VLAN tags in the frames, where the switch can see them.
    async fn keep_tags(&mut self, device: &Link) -> Result<(), NicError> {
        let interface = device.name.as_str();
        let failed = |source| NicError::Tags {
            interface: interface.to_owned(),
            driver: driver(interface),
            source: Box::new(source),
        };
        if !self.kernel.takes_tags_off(interface).await.map_err(failed)? {
            return Ok(());
        }
        self.remember_nic(NicBefore {
            took_tags_off: true,
            ..NicBefore::default()
        })?;
        self.kernel
            .take_tags_off(interface, false)
            .await
            .map_err(failed)?;
        info!(interface, "VLAN tags stay in what it receives");
        Ok(())
    }

    /// Takes back what this run changed, and what it wrote down of that.
    pub(super) async fn undo_nic(&mut self) {
        let Some(changes) = self.nic_changes.take() else {
            return;
        };
        for (what, result) in restore(&self.kernel, &changes).await {
            if let Err(error) = result {
                warn!("{what}: {error:#}");
            }
        }
        self.saved.nic = self.nic_found.take();
        if let Err(error) = self.saved.store(&self.config.node.state_dir) {
            warn!("{error}");
        }
    }

    /// Writes down what the device was before a change.
    fn remember_nic(&mut self, now: NicBefore) -> Result<(), StateError> {
        let interface = self.device.link.name.as_str();
        let fresh = || NicBefore {
            interface: interface.to_owned(),
            ..NicBefore::default()
        };
        for kept in [&mut self.nic_changes, &mut self.saved.nic] {
            let earlier = kept.take().filter(|kept| kept.interface == interface);
            let mut whole = now.clone();
            whole.or(&earlier.unwrap_or_else(fresh));
            *kept = Some(whole);
        }
        self.saved.store(&self.config.node.state_dir)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_driver_is_not_trusted_with_zero_copy_as_a_module() {
        assert!(known_fault("virtio_net", true).is_some());
        assert_eq!(known_fault("virtio_net", false), None);
        assert_eq!(known_fault("ice", true), None);
    }

    #[test]
    fn a_table_deals_the_served_queues_in_turn() {
        assert_eq!(spread_over(&[1, 3], 5), [1, 3, 1, 3, 1]);
        assert_eq!(spread_over(&[2], 3), [2, 2, 2]);
        assert_eq!(spread_over(&[1], 0), [0; 0]);
    }
}
