//! The uplink, and the device under it: the uplink itself, or what carries it where it is a VLAN.
//!
//! An operator names the interface that has the node's address, as everywhere else. Of a VLAN that is the kernel's VLAN
//! device: its addresses, routes, neighbours and MTU are the underlay's. Packets come by the device under it, with a tag.

use anyhow::{Context as _, bail};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{Epoch, PortFacts};
use millrace_dataplane::wire::vlan::VlanId;
use millrace_dataplane::worker::Limits;
use millrace_dataplane::xdp::{self, Hint, ProgramKind, XdpError, XdpMode};
use tracing::{info, warn};

use super::compile::PortInput;
use super::fabric::{AttachedPort, Fabric, PortSpec, Sockets, Steered, Vlan, steer};
use super::links::{VETH, uplink_facts};
use super::look::{queue_count, queue_limit};
use super::ports::Port;
use super::stalls::Stalls;
use super::start::misconfigured;
use super::{Daemon, nic};
use crate::admin::protocol::Bandwidth;
use crate::config;
use crate::kernel::{Kernel, Link};

/// The uplink, and the device that its packets come and go by.
#[derive(Debug, Clone)]
pub(crate) struct Underlay {
    /// What the node file names.
    pub(super) link: Link,
    /// What the steering program and the sockets are on.
    pub(crate) device: Link,
    /// The VLAN, if the one is a VLAN on the other.
    pub(super) vlan: Option<Vlan>,
}

/// Kinds of devices that hand on what comes in by others.
const BONDS: [&str; 2] = ["bond", "team"];
const BRIDGES: [&str; 2] = ["bridge", "openvswitch"];

/// Why an interface cannot be an uplink, or be under one, for what it is or is part of; `None` if it can.
///
/// A program on a bond runs in its members' drivers, and a socket takes only what its own device received
/// (`xsk_rcv_check` in `net/xdp/xsk.c`): on a bond none ever receives, on a member the addresses are missing.
fn refusal(link: &Link, controller: Option<&Link>) -> Option<String> {
    let is_of =
        |link: &Link, kinds: [&str; 2]| link.kind.as_deref().is_some_and(|kind| kinds.contains(&kind));
    let name = &link.name;
    if is_of(link, BONDS) {
        return Some(format!(
            "{name} is a bond: AF_XDP sockets receive nothing on one, as packets come in by its members; an interface in no \
             bond would be right (two of them with a routing daemon over both, or the NIC's own bonding beneath a virtual \
             function)"
        ));
    }
    let controller = controller?;
    let of = &controller.name;
    if is_of(controller, BONDS) {
        return Some(format!(
            "{name} is a member of the bond {of}, which has its addresses: take it out (`ip link set dev {name} nomaster`) and \
             give it the node's address"
        ));
    }
    is_of(controller, BRIDGES).then(|| {
        format!(
            "{name} is a port of the bridge {of}, which has its addresses: take it out (`ip link set dev {name} nomaster`) and \
             give it the node's address"
        )
    })
}

impl Underlay {
    /// Finds the device under an uplink.
    ///
    /// # Errors
    /// When it is a bond or part of one or of a bridge, a VLAN of a kind that is not carried, or on a device that cannot be
    /// had; one line.
    pub(crate) async fn of(kernel: &Kernel, link: &Link) -> anyhow::Result<Self> {
        let controller = match link.controller {
            Some(ifindex) => kernel.link_by_index(ifindex).await?,
            None => None,
        };
        if let Some(reason) = refusal(link, controller.as_ref()) {
            bail!(reason);
        }
        let Some(vlan) = link.vlan else {
            return Ok(Self {
                link: link.clone(),
                device: link.clone(),
                vlan: None,
            });
        };
        let name = &link.name;
        if !vlan.is_8021q {
            bail!(
                "{name} is a VLAN of another protocol than 802.1Q (802.1ad, say): one of 802.1Q would be right"
            );
        }
        let number = vlan.number;
        let id = VlanId::new(number).with_context(|| {
            format!("{name} is VLAN {number}, a number that names none: 1 to 4094 would be right")
        })?;
        let device = kernel.peer_of(link).await?.with_context(|| {
            format!("{name} is a VLAN on a device of another network namespace: one of this would be right")
        })?;
        if device.vlan.is_some() {
            bail!(
                "{name} is a VLAN on {}, which is one itself: packets with two tags are not carried; a VLAN on a device \
                 that is none would be right",
                device.name
            );
        }
        if let Some(reason) = refusal(&device, None) {
            bail!("{name} is a VLAN on {}: {reason}", device.name);
        }
        let ifindex = link.ifindex;
        Ok(Self {
            link: link.clone(),
            device,
            vlan: Some(Vlan { id, ifindex }),
        })
    }
}

/// Takes a full table for what it is: said, and no reason to serve nothing.
fn full_is_told(error: XdpError) -> Result<(), XdpError> {
    match error {
        XdpError::Map {
            hint: Hint::TableFull,
            ..
        } => {
            warn!("{error}");
            Ok(())
        }
        other => Err(other),
    }
}

impl Daemon {
    /// Attaches the uplink; its program knows all its tables before it sees a packet.
    pub(super) async fn attach_uplink(&mut self, link: &Link) -> anyhow::Result<()> {
        let id = self.ports.free_id().context("no port number is free")?;
        let underlay = Underlay::of(&self.kernel, link).await?;
        let device = &underlay.device;
        let facts = uplink_facts(link, self.fabric.packets(), device.kind.as_deref() == Some(VETH))
            .context("the uplink has no MAC address: an Ethernet interface would be right")?;
        self.note_device(&underlay).await.map_err(nic::misconfigured)?;
        self.size_nic().await.map_err(nic::misconfigured)?;
        self.note_merging(device).await.map_err(nic::misconfigured)?;
        let steered = self.steer_uplink(id, &underlay, &facts).await?;
        let (mode, replaced) = (steered.attachment().mode, steered.attachment().replaced.is_some());
        let attached = match self.serve_uplink(id, &underlay, steered).await {
            Ok(attached) => attached,
            Err(error) => {
                if !replaced {
                    // What failed is said below; a program that cannot be taken off is said by uninstall.
                    let _ = xdp::detach_ours(device.ifindex);
                }
                return Err(error);
            }
        };
        self.settle_mode(&device.name, &attached.attachment).await;
        self.delay_interrupts(device);
        attached.spec.tell_receivers();
        if let Some(refusal) = &attached.zero_copy_refusal {
            info!(
                interface = device.name,
                driver = nic::driver(&device.name),
                "no zero-copy here, so the kernel copies: {refusal}"
            );
        }
        let (queues, bind_mode) = (attached.spec.queues, attached.bind_mode());
        info!(interface = link.name, queues, %mode, %bind_mode, "uplink attached");
        self.stalls = Stalls::default();
        self.ports.insert(Port {
            interface: link.name.clone(),
            pod: None,
            facts,
            attached,
            attachment: None,
            host_ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            limits: Limits::default(),
        });
        Ok(())
    }

    /// Puts the steering program on the uplink, for as many queues as it can come to have.
    async fn steer_uplink(
        &mut self,
        id: PortId,
        underlay: &Underlay,
        facts: &PortFacts,
    ) -> anyhow::Result<Steered> {
        let device = &underlay.device;
        let mode = match self.config.uplink.xdp_mode {
            config::XdpMode::Auto => XdpMode::Auto,
            config::XdpMode::Native => XdpMode::Native,
            config::XdpMode::Generic => XdpMode::Generic,
        };
        let limit = queue_limit(&self.kernel, device).await?;
        let mut inputs = self.ports.inputs();
        inputs.push(PortInput {
            id,
            ifindex: underlay.link.ifindex,
            vlan: underlay.vlan.map(|vlan| vlan.id),
            facts: facts.clone(),
            pod: None,
            host_ports: Vec::new(),
        });
        let steering = self.compile(&inputs, Epoch(0)).steering;
        let awaited: Vec<_> = self.awaited.iter().collect();
        let kind = (device.ifindex, ProgramKind::Uplink, mode);
        let steered = steer((self.fabric.packets(), kind), limit, |program| {
            // More Services than there is room for keep nobody from the others.
            program.set_tables(&steering).or_else(full_is_told)?;
            program.set_awaited(awaited)
        })?;
        self.steering = steering;
        Ok(steered)
    }

    /// Serves the uplink's queues. They are counted only now: some drivers take more of them when a program is attached
    /// (virtio-net: one for each core to transmit by, as far as there are any).
    async fn serve_uplink(
        &mut self,
        id: PortId,
        underlay: &Underlay,
        steered: Steered,
    ) -> anyhow::Result<AttachedPort> {
        let device = &underlay.device;
        let queues = queue_count(&self.kernel, device).await?;
        self.note_queues(queues).map_err(nic::misconfigured)?;
        let workers = self.fabric.workers().len();
        let left = self.config.uplink.kernel_queues.as_slice().to_vec();
        Fabric::check_queues(&device.name, queues, &left, workers).map_err(misconfigured)?;
        self.spread_nic(queues).map_err(nic::misconfigured)?;
        let spec = PortSpec {
            id,
            interface: device.name.clone(),
            ifindex: device.ifindex,
            vlan: underlay.vlan,
            queues,
            kernel_queues: left,
            kind: ProgramKind::Uplink,
            mode: XdpMode::Auto,
            sockets: Sockets::Own(nic::sockets(&self.kernel, &self.config.uplink, device).await),
        };
        self.fabric.serve(spec, steered).map_err(misconfigured)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::refusal;
    use crate::kernel::Link;

    fn link(name: &str, kind: Option<&str>) -> Link {
        Link {
            ifindex: 2,
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            kind: kind.map(str::to_owned),
            rx_queues: 1,
            tx_queues: 1,
            peer_ifindex: None,
            peer_elsewhere: false,
            controller: None,
            vlan: None,
        }
    }

    #[test]
    fn bonds_and_parts_of_bonds_and_bridges_are_refused_with_the_reason() {
        let nic = link("eth1", None);
        let rows = [
            (link("bond0", Some("bond")), None, Some("bond0 is a bond")),
            (link("team0", Some("team")), None, Some("team0 is a bond")),
            (
                nic.clone(),
                Some(link("bond0", Some("bond"))),
                Some("a member of the bond bond0"),
            ),
            (
                nic.clone(),
                Some(link("br0", Some("bridge"))),
                Some("a port of the bridge br0"),
            ),
            (nic.clone(), Some(link("red", Some("vrf"))), None),
            (link("br0", Some("bridge")), None, None),
            (link("eth1.10", Some("vlan")), None, None),
            (nic, None, None),
        ];
        for (link, controller, expected) in rows {
            let found = refusal(&link, controller.as_ref());
            match expected {
                Some(words) => assert!(found.as_ref().unwrap().contains(words), "{found:?}"),
                None => assert_eq!(found, None, "{}", link.name),
            }
        }
    }
}
