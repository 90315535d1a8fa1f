//! Pods' ports: attach, detach, adopt after a restart, and notice when one has gone by itself.

mod addresses;
mod attachments;
mod bandwidth;

pub(super) use bandwidth::{differs as bandwidth_differs, limit_rows, limits};

use std::net::IpAddr;

use millrace_dataplane::port::xsk::FillPolicy;
use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::wire::{MacAddr, ipip, vxlan};
use millrace_dataplane::xdp::{self, ProgramKind, XdpMode};
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::Daemon;
use super::compile::overhead;
use super::fabric::{PortSpec, Sockets};
use super::links::VETH;
use super::ports::{PodRow, Port, Saved};
use crate::admin::protocol::{Attach, Attached, Attachment, Bandwidth, Failure, HostPort};
use crate::config::OverlayKind;
use crate::durable::StateError;
use crate::kernel::{Link, PodPortSpec, pod_interface_name};
use crate::objects::{Encapsulation, Family, Network, NodeRecord, Peer, PodKey, Store};

/// A pod's port that is to be served.
struct Wanted {
    pod: PodKey,
    interface: String,
    ifindex: u32,
    queues: u32,
    mac: MacAddr,
    pod_mac: MacAddr,
    mtu: u32,
    addresses: Vec<IpAddr>,
    attachment: Option<Attachment>,
    host_ports: Vec<HostPort>,
    bandwidth: Bandwidth,
}

impl Daemon {
    /// Makes a port for a pod, from the veth pair to the workers. It is written down before it is made, so that a
    /// daemon that is killed in between leaves nothing that nobody knows of.
    async fn attach_pod(&mut self, attach: &Attach) -> Result<Attached, Failure> {
        let pod = parse_pod(&attach.pod)?;
        if let Some((_, port)) = self.ports.of_pod(&pod) {
            return Err(Failure::failed(format!(
                "{pod} is attached already, as {}; detach it first",
                port.interface
            )));
        }
        let addresses = self.pod_addresses(&pod, &attach.addresses)?;
        let no_uplink =
            || Failure::failed("the uplink is gone, so the pod's MTU is not known; bring it back first");
        let mtu = self.pod_mtu().ok_or_else(no_uplink)?;
        let row = PodRow {
            interface: pod_interface_name(pod.namespace(), pod.name()),
            pod_mac: pod_mac(&pod).to_string(),
            pod: pod.to_string(),
            addresses: addresses.clone(),
            attachment: attach.attachment(),
            host_ports: attach.host_ports.clone(),
            bandwidth: attach.bandwidth,
        };
        self.unserved.retain(|other| other.pod != row.pod);
        self.unserved.push(row.clone());
        self.remember()
            .map_err(|error| Failure::failed(error.to_string()))?;
        let made = self.make_pod(attach, &pod, &row, mtu).await;
        if made.is_ok() {
            info!(%pod, interface = row.interface, ?addresses, "attached");
        }
        self.unserved.retain(|other| other.pod != row.pod);
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        made?;
        self.attached(&pod)
            .ok_or_else(|| Failure::failed(format!("{pod} was attached, and is gone already")))
    }

    /// The veth pair, then the port; neither stays without the other.
    async fn make_pod(
        &mut self,
        attach: &Attach,
        pod: &PodKey,
        row: &PodRow,
        mtu: u32,
    ) -> Result<(), Failure> {
        let queues = u32::try_from(self.fabric.workers().len()).unwrap_or(u32::MAX);
        let pod_mac = pod_mac(pod);
        let made = self
            .kernel
            .attach_pod(&PodPortSpec {
                host_ifname: row.interface.clone(),
                pod_ifname: attach.interface.clone(),
                netns_path: attach.netns.clone(),
                mac_host: None,
                mac_pod: Some(pod_mac.0),
                gateways: self.gateways_for(&row.addresses),
                addresses: row.addresses.clone(),
                mtu,
                queues,
            })
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let opened = match made.mac_host {
            Some(mac) => {
                let wanted = Wanted {
                    pod: pod.clone(),
                    interface: row.interface.clone(),
                    ifindex: made.ifindex,
                    queues,
                    mac: MacAddr(mac),
                    pod_mac,
                    mtu,
                    addresses: row.addresses.clone(),
                    attachment: row.attachment.clone(),
                    host_ports: row.host_ports.clone(),
                    bandwidth: row.bandwidth,
                };
                self.open_pod(wanted).await
            }
            None => Err(Failure::failed(format!(
                "{} came up without a MAC address",
                row.interface
            ))),
        };
        if opened.is_err() {
            self.undo_pod(&row.interface).await;
        }
        opened
    }

    /// Gives a pod's interface to the workers, then sets it up: not a packet passes before tables know the port.
    async fn open_pod(&mut self, wanted: Wanted) -> Result<(), Failure> {
        let no_number = || Failure::failed("all port numbers are taken; detach a pod first");
        let id = self.ports.free_id().ok_or_else(no_number)?;
        let spec = PortSpec {
            id,
            interface: wanted.interface.clone(),
            ifindex: wanted.ifindex,
            vlan: None,
            queues: wanted.queues,
            kernel_queues: Vec::new(),
            kind: ProgramKind::Port,
            mode: XdpMode::Auto,
            sockets: Sockets::Shared(FillPolicy::POD),
        };
        let attached = self
            .fabric
            .attach(spec)
            .map_err(|error| Failure::failed(error.to_string()))?;
        self.settle_mode(&wanted.interface, &attached.attachment).await;
        let facts = PortFacts {
            role: Role::Pod,
            mac: wanted.mac,
            peer_mac: wanted.pod_mac,
            sources: wanted.addresses,
            mtu: overhead(wanted.mtu as usize),
            finish_checksums: true,
        };
        let limits = bandwidth::limits(&wanted.bandwidth);
        // In the workers' queues of orders it is behind the port's own sockets, and before the first packet.
        let limited = self.fabric.limit(id, &limits);
        self.ports.insert(Port {
            interface: wanted.interface.clone(),
            pod: Some(wanted.pod),
            facts,
            attached,
            attachment: wanted.attachment,
            host_ports: wanted.host_ports,
            bandwidth: wanted.bandwidth,
            limits,
        });
        self.publish().await;
        let failed = match limited {
            Ok(()) => self
                .kernel
                .set_up(&wanted.interface, true)
                .await
                .err()
                .map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let Some(reason) = failed else {
            return Ok(());
        };
        if let Some(port) = self.ports.remove(id) {
            self.publish().await;
            self.close(port);
        }
        Err(Failure::failed(reason))
    }

    /// Takes a pod's port away, down to the veth pair. Succeeds again and again, also when the namespace is gone.
    pub(super) async fn detach_pod(&mut self, pod: &str) -> Result<serde_json::Value, Failure> {
        let pod = parse_pod(pod)?;
        let found = self.ports.of_pod(&pod).map(|(id, _)| id);
        if let Some(port) = found.and_then(|id| self.ports.remove(id)) {
            self.publish().await;
            self.close(port);
        }
        self.unserved.retain(|row| row.pod != pod.to_string());
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        let interface = pod_interface_name(pod.namespace(), pod.name());
        let removed = self
            .kernel
            .detach_pod(&interface)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        info!(%pod, "detached");
        Ok(serde_json::json!({ "pod": pod.to_string(), "removed": removed || found.is_some() }))
    }

    /// Serves again the pods' ports that were written down and are not served: after a restart, or when it failed
    /// before. One that cannot be served is named, stays cut off, and is tried again; one whose interface is gone is
    /// forgotten.
    pub(super) async fn adopt_pods(&mut self) {
        // Each stays among them until it is settled: every publication in between writes down what there is.
        for row in self.unserved.clone() {
            match self.kernel.find_link(&row.interface).await {
                Ok(None) => info!(
                    pod = row.pod,
                    interface = row.interface,
                    "gone meanwhile, and forgotten"
                ),
                Ok(Some(link)) => match self.adopt(&row, &link).await {
                    Ok(()) => info!(pod = row.pod, interface = row.interface, "adopted"),
                    Err(failure) => {
                        warn!(
                            "{} cannot be served, and stays cut off: {}",
                            row.pod, failure.message
                        );
                        continue;
                    }
                },
                Err(error) => {
                    warn!("{error}");
                    continue;
                }
            }
            self.unserved.retain(|other| other.interface != row.interface);
        }
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
    }

    /// Serves a port that an earlier run made. What is written down is believed only as far as it can be checked.
    async fn adopt(&mut self, row: &PodRow, link: &Link) -> Result<(), Failure> {
        let pod = parse_pod(&row.pod)?;
        let pod_mac = row
            .pod_mac
            .parse()
            .map_err(|_| Failure::failed(format!("{} is no MAC address", row.pod_mac)))?;
        if row.interface != pod_interface_name(pod.namespace(), pod.name())
            || link.kind.as_deref() != Some(VETH)
        {
            return Err(Failure::failed(format!(
                "{} is not the port of a pod",
                row.interface
            )));
        }
        for address in &row.addresses {
            self.check_address(&pod, *address)?;
        }
        let mac = link
            .mac
            .ok_or_else(|| Failure::failed(format!("{} has no MAC address", row.interface)))?;
        let wanted = Wanted {
            pod,
            interface: row.interface.clone(),
            ifindex: link.ifindex,
            queues: link.rx_queues,
            mac: MacAddr(mac),
            pod_mac,
            mtu: link.mtu,
            addresses: row.addresses.clone(),
            attachment: row.attachment.clone(),
            host_ports: row.host_ports.clone(),
            bandwidth: row.bandwidth,
        };
        let ours = matches!(xdp::query(link.ifindex), Ok(Some(program)) if program.is_ours());
        if !ours && link.up {
            // Without our program the kernel itself would take the pod's packets.
            self.kernel
                .set_up(&row.interface, false)
                .await
                .map_err(|error| Failure::failed(error.to_string()))?;
        }
        self.open_pod(wanted).await
    }

    /// Takes a port from the workers; its interface is somebody else's business.
    pub(super) fn close(&mut self, port: Port) {
        let interface = port.interface;
        self.connections.flows.forget_opener(port.attached.spec.id);
        if let Err(error) = self.fabric.detach(port.attached) {
            warn!("{interface}: {error}");
        }
    }

    /// Writes down which pods are attached, served or not.
    pub(super) fn remember(&mut self) -> Result<(), StateError> {
        let rows: Vec<_> = self.rows().collect();
        let members: Vec<_> = self.members.rows().cloned().collect();
        let networks = self.numbers.networks();
        if rows == self.saved.ports && members == self.saved.members && *networks == self.saved.networks {
            return Ok(());
        }
        let next = Saved {
            ports: rows,
            members,
            networks: networks.clone(),
            ..self.saved.clone()
        };
        // What could not be written down is not taken for written the next time.
        next.store(&self.config.node.state_dir)?;
        self.saved = next;
        Ok(())
    }

    async fn undo_pod(&self, interface: &str) {
        if let Err(error) = self.kernel.detach_pod(interface).await {
            warn!("{error}");
        }
    }

    /// What fits a pod's packets into the uplink's, tunnel header and all.
    pub(super) fn pod_mtu(&self) -> Option<u32> {
        let uplink = self.ports.of_role(Role::Uplink)?.1.facts.mtu;
        Some(u32::from(uplink.saturating_sub(tunnel_overhead(
            self.config.overlay.kind,
            &self.own,
            &self.store,
        ))))
    }
}

/// The MAC address of a pod's end: locally administered, from the pod's name, so that a pod attached again keeps it.
fn pod_mac(pod: &PodKey) -> MacAddr {
    let digest = Sha256::digest(format!("millrace pod {pod}"));
    let mut mac = [0; 6];
    for (byte, from) in mac.iter_mut().zip(digest.iter()) {
        *byte = *from;
    }
    // Unicast and locally administered (IEEE 802, section 8.4.4).
    mac[0] = (mac[0] & 0xfc) | 0x02;
    MacAddr(mac)
}

/// What a tunnel of this kind adds to a packet, in bytes; of two underlays, or of several pools of a Calico cluster, the one
/// that adds most.
pub(super) fn tunnel_overhead(kind: OverlayKind, own: &NodeRecord, store: &Store) -> u16 {
    if store.network() == Network::Calico {
        let added = store
            .encapsulations()
            .map(|(pool, encapsulation)| match encapsulation {
                Encapsulation::Plain => 0,
                Encapsulation::Ipip { .. } => ipip::MTU_OVERHEAD,
                Encapsulation::Vxlan { .. } if pool.addr().is_ipv4() => vxlan::MTU_OVERHEAD_IPV4,
                Encapsulation::Vxlan { .. } => vxlan::MTU_OVERHEAD_IPV6,
            });
        return overhead(added.max().unwrap_or_default());
    }
    overhead(match kind {
        OverlayKind::Vxlan if Peer::of(own, Family::V6).is_ok() => vxlan::MTU_OVERHEAD_IPV6,
        OverlayKind::Vxlan => vxlan::MTU_OVERHEAD_IPV4,
        OverlayKind::Ipip => ipip::MTU_OVERHEAD,
    })
}

pub(super) fn parse_pod(name: &str) -> Result<PodKey, Failure> {
    let wrong = |reason: String| {
        Failure::wrong(format!(
            "{name} is no pod ({reason}); NAMESPACE/NAME would be right"
        ))
    };
    let (namespace, pod) = name
        .split_once('/')
        .ok_or_else(|| wrong("no slash in it".into()))?;
    PodKey::new(namespace, pod).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_mac_address_is_its_own_and_stays() {
        let mac = |name| pod_mac(&parse_pod(name).unwrap());
        assert_eq!(mac("default/web-0"), mac("default/web-0"));
        assert_ne!(mac("default/web-0"), mac("default/web-1"));
        assert!(!mac("default/web-0").is_multicast());
        assert_eq!(mac("default/web-0").0[0] & 2, 2, "locally administered");
    }

    #[test]
    fn what_is_no_pod_is_named() {
        for wrong in ["web-0", "/web-0", "default/", "De fault/x"] {
            let failure = parse_pod(wrong).unwrap_err();
            assert!(
                failure.status == 2 && failure.message.contains("NAMESPACE/NAME"),
                "{failure:?}"
            );
        }
    }
}
