//! What becomes of the ports' interfaces while they are served.

use anyhow::bail;
use millrace_dataplane::frame::{MAX_PACKET_LEN, MAX_RUN_PACKET_LEN};
use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::wire::{MacAddr, eth, vlan};
use millrace_dataplane::xdp::{AttachedMode, Attachment, Packets};
use tracing::{info, warn};

use super::Daemon;
use crate::config::{Config, Jumbo};
use crate::kernel::Link;

/// The kind of a virtual Ethernet pair.
pub(super) const VETH: &str = "veth";

/// The longest packets that frames carry, Ethernet header included, in bytes.
pub(super) fn longest(packets: Packets) -> usize {
    match packets {
        Packets::Whole => MAX_PACKET_LEN,
        Packets::InPieces => MAX_RUN_PACKET_LEN,
    }
}

/// Whether packets of the uplink are to be carried that lie in several buffers each.
pub(super) fn packets_of(config: &Config, uplink: &Link) -> Packets {
    if config.workers.jumbo == Jumbo::Auto && u32::from(mtu_of(uplink, Packets::Whole)) < uplink.mtu {
        Packets::InPieces
    } else {
        Packets::Whole
    }
}

impl Daemon {
    /// Serves no longer what is gone, and takes the uplink as it is now.
    ///
    /// # Errors
    /// When the host port is gone: the workers' memory hangs on it, so only a restart helps.
    pub(super) async fn follow_links(&mut self) -> anyhow::Result<()> {
        let missing: Vec<_> = self
            .ports
            .iter()
            .flat_map(|(id, port)| {
                let spec = &port.attached.spec;
                [(id, spec.ifindex), (id, spec.bearer())]
            })
            .filter(|(_, ifindex)| self.state.link(*ifindex).is_none())
            .collect();
        for (id, ifindex) in missing {
            // A port may be younger than the state that was followed; only the kernel itself knows what is gone.
            if !matches!(self.kernel.link_by_index(ifindex).await, Ok(None)) {
                continue;
            }
            let Some(port) = self.ports.remove(id) else {
                continue;
            };
            if port.facts.role == Role::Host {
                bail!(
                    "the host port {} is gone; a restart makes it anew and takes over all pods",
                    port.interface
                );
            }
            warn!("{} is gone; its port is closed", port.interface);
            self.members.forget(id);
            self.publish().await;
            self.close(port);
        }
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        self.follow_stand_in().await;
        if let Some(link) = self.follow_uplink() {
            match self.attach_uplink(&link).await {
                Ok(()) => info!("{} is back", link.name),
                Err(error) => warn!(
                    "{} is back, but cannot be served, and is tried again: {error:#}",
                    link.name
                ),
            }
        }
        Ok(())
    }

    /// Attaches the uplink anew when it has another number of queues than it was attached with: a queue without a socket
    /// loses what is ours. (The kernel lets nobody take queues away that have sockets; it does let more be added.)
    pub(super) async fn follow_queues(&mut self) {
        let Some((id, port)) = self.ports.of_role(Role::Uplink) else {
            return;
        };
        let spec = &port.attached.spec;
        let (name, interface, served) = (port.interface.clone(), spec.interface.clone(), spec.queues);
        // An interface that is going says nothing of its queues; `follow_links` sees to that.
        let Ok(channels) = self.kernel.channel_count(&interface).await else {
            return;
        };
        let queues = channels.receiving();
        if queues == served || queues == 0 {
            return;
        }
        let Ok(Some(link)) = self.kernel.find_link(&name).await else {
            return;
        };
        warn!("{interface} has {queues} queues now, and had {served}: it is attached anew");
        if let Some(port) = self.ports.remove(id) {
            self.close(port);
        }
        if let Err(error) = self.attach_uplink(&link).await {
            warn!("{interface} cannot be served with {queues} queues, and is tried again: {error:#}");
        }
        self.publish().await;
    }

    /// Takes the uplink's MTU and MAC address as they are now; answers its link when it is back after it was gone.
    fn follow_uplink(&mut self) -> Option<Link> {
        let name = self.config.uplink.interface.as_str();
        let link = self.state.link_by_name(name).cloned();
        match (self.ports.of_role(Role::Uplink).map(|(id, _)| id), link) {
            (Some(id), Some(link)) => {
                self.tell_link(&link);
                let packets = self.fabric.packets();
                if let Some(port) = self.ports.get_mut(id)
                    && let Some(facts) = uplink_facts(&link, packets, port.facts.finish_checksums)
                    && port.facts != facts
                {
                    port.facts = facts;
                    warn_of_mtu(&link, packets);
                }
                None
            }
            (None, Some(link)) if link.up => Some(link),
            _ => None,
        }
    }

    /// Says when the uplink's link goes and when it comes.
    fn tell_link(&mut self, link: &Link) {
        if link.running == self.uplink_is_up {
            return;
        }
        self.uplink_is_up = link.running;
        let name = &link.name;
        if link.running {
            info!("{name} has its link again");
        } else if link.up {
            warn!(
                "{name} has no link: nothing comes or goes by it until its cable and what is behind it work again"
            );
        } else {
            warn!("{name} was set down: nothing comes or goes by it until it is set up again");
        }
    }

    /// Says when the driver refused native mode, and sees that generic mode gets no merged super-frames, which fit no
    /// frame: receive merging goes off, to be put back by uninstall.
    pub(super) async fn settle_mode(&mut self, interface: &str, attachment: &Attachment) {
        if let Some(refusal) = &attachment.native_refusal {
            warn!("{interface}: the driver refuses native XDP ({refusal}); generic XDP is used, slower");
        }
        if attachment.mode != AttachedMode::Generic {
            return;
        }
        match self.kernel.set_gro(interface, false).await {
            Ok(true) => {
                if !self.saved.gro_was_on.iter().any(|name| name == interface) {
                    self.saved.gro_was_on.push(interface.to_owned());
                }
                if let Err(error) = self.saved.store(&self.config.node.state_dir) {
                    warn!("{error}; uninstall will not put receive merging of {interface} back");
                }
            }
            Ok(false) => {}
            Err(error) => warn!("{error}; frames that the kernel merged will be dropped"),
        }
    }
}

/// What is known of the uplink. A veth as the device under it may hand over packets whose checksums were left for hardware to
/// finish; a NIC does not.
pub(super) fn uplink_facts(link: &Link, packets: Packets, finish_checksums: bool) -> Option<PortFacts> {
    Some(PortFacts {
        role: Role::Uplink,
        mac: MacAddr(link.mac?),
        peer_mac: MacAddr([0; 6]),
        sources: Vec::new(),
        mtu: mtu_of(link, packets),
        finish_checksums,
    })
}

/// The MTU of a link, as far as frames carry it.
pub(super) fn mtu_of(link: &Link, packets: Packets) -> u16 {
    let tag = if link.vlan.is_some() { vlan::TAG_LEN } else { 0 };
    let largest = u16::try_from(longest(packets) - eth::HEADER_LEN - tag).unwrap_or(u16::MAX);
    u16::try_from(link.mtu).unwrap_or(u16::MAX).min(largest)
}

/// A link may carry larger packets than frames do; they are lost in the kernel, so somebody should know.
pub(super) fn warn_of_mtu(link: &Link, packets: Packets) {
    let used = mtu_of(link, packets);
    if link.mtu > u32::from(used) {
        warn!(
            "{} has an MTU of {}, but frames carry {used} bytes: larger packets to pods are lost; an MTU of at most {used} would be right",
            link.name, link.mtu
        );
    }
}
