//! Pods' ports: attach, detach, adopt after a restart, and notice when one has gone by itself.

use std::net::IpAddr;

use millrace_dataplane::port::xsk::FillPolicy;
use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::xdp::{ProgramKind, XdpMode};
use tracing::{info, warn};

use super::Daemon;
use super::compile::overhead;
use super::fabric::PortSpec;
use super::ports::{PodRow, Port, SavedError};
use crate::admin::protocol::{Attach, Failure};
use crate::config::OverlayKind;
use crate::kernel::{PodPortSpec, pod_interface_name};
use crate::objects::{PodKey, gateway_of};

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
}

impl Daemon {
    /// Makes a port for a pod, from the veth pair to the workers.
    pub(super) async fn attach_pod(&mut self, attach: &Attach) -> Result<serde_json::Value, Failure> {
        let pod = parse_pod(&attach.pod)?;
        if let Some((_, port)) = self.ports.of_pod(&pod) {
            return Err(Failure::failed(format!(
                "{pod} is attached already, as {}; detach it first",
                port.interface
            )));
        }
        let addresses = self.pod_addresses(&pod, &attach.addresses)?;
        let interface = pod_interface_name(pod.namespace(), pod.name());
        let queues = u32::try_from(self.fabric.workers().len()).unwrap_or(u32::MAX);
        let mtu = self
            .pod_mtu()
            .ok_or_else(|| Failure::failed("the uplink is gone, so the pod's MTU is not known"))?;
        let made = self
            .kernel
            .attach_pod(&PodPortSpec {
                host_ifname: interface.clone(),
                pod_ifname: attach.interface.clone(),
                netns_path: attach.netns.clone(),
                mac_host: None,
                mac_pod: None,
                gateways: self.gateways_for(&addresses),
                addresses: addresses.clone(),
                mtu,
                queues,
            })
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let (Some(mac), Some(pod_mac)) = (made.mac_host, made.mac_pod) else {
            self.undo_pod(&interface).await;
            return Err(Failure::failed(format!(
                "{interface} came up without a MAC address"
            )));
        };
        let wanted = Wanted {
            pod: pod.clone(),
            interface: interface.clone(),
            ifindex: made.ifindex,
            queues,
            mac: MacAddr(mac),
            pod_mac: MacAddr(pod_mac),
            mtu,
            addresses: addresses.clone(),
        };
        if let Err(failure) = self.open_pod(wanted).await {
            self.undo_pod(&interface).await;
            return Err(failure);
        }
        self.publish().await;
        if let Err(error) = self.remember() {
            warn!("{error}; after a restart {pod} has to be attached anew");
        }
        info!(%pod, %interface, ?addresses, "attached");
        Ok(serde_json::json!({
            "pod": pod.to_string(), "interface": interface, "addresses": addresses,
            "mac": MacAddr(pod_mac).to_string(), "mtu": mtu,
        }))
    }

    /// Gives a pod's interface to the workers, then sets it up: not a packet passes before.
    async fn open_pod(&mut self, wanted: Wanted) -> Result<(), Failure> {
        let id = self
            .ports
            .free_id()
            .ok_or_else(|| Failure::failed("all port numbers are taken"))?;
        let spec = PortSpec {
            id,
            interface: wanted.interface.clone(),
            ifindex: wanted.ifindex,
            queues: wanted.queues,
            kind: ProgramKind::Port,
            mode: XdpMode::Auto,
            fill: FillPolicy::POD,
        };
        let attached = self
            .fabric
            .attach(spec, |_| Ok(()))
            .map_err(|error| Failure::failed(error.to_string()))?;
        let facts = PortFacts {
            role: Role::Pod,
            mac: wanted.mac,
            peer_mac: wanted.pod_mac,
            sources: wanted.addresses,
            mtu: overhead(wanted.mtu as usize),
            finish_checksums: true,
        };
        self.ports.insert(Port {
            interface: wanted.interface.clone(),
            pod: Some(wanted.pod),
            facts,
            attached,
        });
        match self.kernel.set_up(&wanted.interface, true).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if let Some(port) = self.ports.remove(id) {
                    self.close(port);
                }
                Err(Failure::failed(error.to_string()))
            }
        }
    }

    /// Takes a pod's port away, down to the veth pair.
    pub(super) async fn detach_pod(&mut self, pod: &str) -> Result<serde_json::Value, Failure> {
        let pod = parse_pod(pod)?;
        let found = self.ports.of_pod(&pod).map(|(id, _)| id);
        // A pair that an attach left behind, or one whose namespace is gone: detach succeeds again and again.
        let interface = pod_interface_name(pod.namespace(), pod.name());
        if let Some(port) = found.and_then(|id| self.ports.remove(id)) {
            self.publish().await;
            self.close(port);
        }
        let removed = self
            .kernel
            .detach_pod(&interface)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        info!(%pod, "detached");
        Ok(serde_json::json!({ "pod": pod.to_string(), "removed": removed || found.is_some() }))
    }

    /// Serves again the pods' ports that the last run left. One that cannot be served is named, and the others are.
    pub(super) async fn adopt_pods(&mut self) {
        for row in self.saved.ports.clone() {
            let adopted = match self.describe(&row) {
                Ok(wanted) => self.open_pod(wanted).await,
                Err(failure) => Err(failure),
            };
            match adopted {
                Ok(()) => info!(pod = row.pod, interface = row.interface, "adopted"),
                Err(failure) => warn!("{} cannot be served again: {}", row.pod, failure.message),
            }
        }
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
    }

    fn describe(&self, row: &PodRow) -> Result<Wanted, Failure> {
        let gone = || Failure::failed(format!("its interface {} is gone", row.interface));
        let link = self.state.link_by_name(&row.interface).ok_or_else(gone)?;
        let pod_mac = row
            .pod_mac
            .parse()
            .map_err(|_| Failure::failed(format!("{} is no MAC address", row.pod_mac)))?;
        Ok(Wanted {
            pod: parse_pod(&row.pod)?,
            interface: row.interface.clone(),
            ifindex: link.ifindex,
            queues: link.rx_queues,
            mac: MacAddr(link.mac.ok_or_else(gone)?),
            pod_mac,
            mtu: link.mtu,
            addresses: row.addresses.clone(),
        })
    }

    /// Looks what became of the ports' interfaces: serves no longer what is gone, and takes the uplink's MTU and
    /// state as they are now.
    pub(super) async fn follow_links(&mut self) {
        let missing: Vec<_> = self
            .ports
            .iter()
            .map(|(id, port)| (id, port.attached.spec.ifindex))
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
            warn!("{} is gone; its port is closed", port.interface);
            self.close(port);
        }
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        if let Some(link) = self.follow_uplink_facts() {
            match self.attach_uplink(&link).await {
                Ok(()) => info!("{} is back", link.name),
                Err(error) => warn!("{} is back, but: {error:#}", link.name),
            }
        }
    }

    /// Takes a port from the workers; its interface is somebody else's business.
    pub(super) fn close(&mut self, port: Port) {
        let interface = port.interface;
        if let Err(error) = self.fabric.detach(port.attached) {
            warn!("{interface}: {error}");
        }
    }

    /// Writes down which pods are attached.
    fn remember(&mut self) -> Result<(), SavedError> {
        let rows: Vec<_> = self
            .ports
            .iter()
            .filter_map(|(_, port)| {
                Some(PodRow {
                    pod: port.pod.as_ref()?.to_string(),
                    interface: port.interface.clone(),
                    addresses: port.facts.sources.clone(),
                    pod_mac: port.facts.peer_mac.to_string(),
                })
            })
            .collect();
        if rows == self.saved.ports {
            return Ok(());
        }
        self.saved.ports = rows;
        self.saved.store(&self.config.node.state_dir)
    }

    async fn undo_pod(&self, interface: &str) {
        if let Err(error) = self.kernel.detach_pod(interface).await {
            warn!("{error}");
        }
    }

    /// The addresses a pod is to have: those asked for, else its object's; each in this node's pod CIDR and free.
    fn pod_addresses(&self, pod: &PodKey, asked: &[IpAddr]) -> Result<Vec<IpAddr>, Failure> {
        let addresses = if asked.is_empty() {
            let known = self
                .store
                .pod(pod)
                .map(|record| record.ips.clone())
                .unwrap_or_default();
            if known.is_empty() {
                return Err(Failure::wrong(format!(
                    "{pod} has no address: there is no Pod object with status.podIPs for it; give one with --address"
                )));
            }
            known
        } else {
            asked.to_vec()
        };
        for address in &addresses {
            self.check_address(pod, *address)?;
        }
        Ok(addresses)
    }

    fn check_address(&self, pod: &PodKey, address: IpAddr) -> Result<(), Failure> {
        let cidr = self
            .own
            .pod_cidrs()
            .find(|cidr| cidr.contains(&address))
            .ok_or_else(|| {
                let cidrs: Vec<_> = self.own.pod_cidrs().map(|cidr| cidr.to_string()).collect();
                Failure::wrong(format!(
                    "{address} for {pod} is not in this node's pod CIDR {}",
                    cidrs.join(", ")
                ))
            })?;
        let reserved = [cidr.network(), gateway_of(cidr), cidr.broadcast()];
        if reserved.contains(&address) && !(address == cidr.broadcast() && address.is_ipv6()) {
            return Err(Failure::wrong(format!(
                "{address} for {pod} is the tunnel address, the gateway or the broadcast address of {cidr}"
            )));
        }
        match self
            .ports
            .iter()
            .find(|(_, port)| port.facts.sources.contains(&address))
        {
            Some((_, port)) => Err(Failure::wrong(format!(
                "{address} is the address of {} already",
                port.name()
            ))),
            None => Ok(()),
        }
    }

    fn gateways_for(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let same_family = |gateway: &IpAddr| addresses.iter().any(|ip| ip.is_ipv4() == gateway.is_ipv4());
        self.own.gateway_addresses().filter(same_family).collect()
    }

    /// What fits a pod's packets into the uplink's, tunnel header and all.
    fn pod_mtu(&self) -> Option<u32> {
        let uplink = self.ports.of_role(Role::Uplink)?.1.facts.mtu;
        Some(u32::from(
            uplink.saturating_sub(tunnel_overhead(self.config.overlay.kind)),
        ))
    }
}

/// What a tunnel of this kind adds to a packet, in bytes.
pub(super) fn tunnel_overhead(kind: OverlayKind) -> u16 {
    overhead(match kind {
        OverlayKind::Vxlan => millrace_dataplane::wire::vxlan::MTU_OVERHEAD_IPV4,
        OverlayKind::Ipip => millrace_dataplane::wire::ipip::MTU_OVERHEAD,
    })
}

fn parse_pod(name: &str) -> Result<PodKey, Failure> {
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
