//! Pods' ports as a container runtime asks for them: again and again, for a new container in the place of an old one, and
//! after a restart of either side in between.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use tracing::{info, warn};

use super::{bandwidth, parse_pod};
use crate::admin::protocol::{
    Attach, Attached, Attachment, DnsFacts, Failure, HostPort, NodeFacts, Retain, Verify,
};
use crate::daemon::Daemon;
use crate::daemon::compile::FAIL_SAFE_PORTS;
use crate::daemon::ports::{PodRow, Port};
use crate::dns::service::ResolverService;
use crate::kernel::{PodEnd, pod_end_fault};
use crate::objects::{PodKey, gateway_of};

impl Daemon {
    /// Makes a pod's port. Where a container runtime asks, one that is there and whole is left as it is; one that is
    /// there and not whole, or is that of an earlier container of the same pod, is taken away first.
    pub(in crate::daemon) async fn attach(&mut self, attach: &Attach) -> Result<Attached, Failure> {
        let pod = parse_pod(&attach.pod)?;
        let wrong = |reason| Failure::wrong(format!("bandwidth of {pod}: {reason}"));
        attach.bandwidth.check().map_err(wrong)?;
        let row = self.rows().find(|row| row.pod == attach.pod);
        if let (Some(wanted), Some(row)) = (attach.attachment(), row) {
            match &row.attachment {
                Some(there) if *there == wanted => {
                    let is_same = row.addresses == attach.addresses && row.host_ports == attach.host_ports;
                    let whole = self.is_whole(&pod, &attach.netns, &attach.interface).await;
                    match (is_same, whole, self.attached(&pod)) {
                        (true, Ok(()), Some(attached)) => {
                            self.limit_pod(&pod, attach.bandwidth)?;
                            return Ok(attached);
                        }
                        (_, Err(failure), _) => {
                            info!(%pod, "not as it was made, and made anew: {}", failure.message);
                        }
                        _ => info!(%pod, "wanted otherwise, and made anew"),
                    }
                    self.detach_pod(&attach.pod).await?;
                }
                Some(there) if (&there.network, &there.container) == (&wanted.network, &wanted.container) => {
                    return Err(Failure::wrong(format!(
                        "{pod} has a port already, as {} in its container; a pod has one",
                        there.interface
                    )));
                }
                Some(there) => {
                    info!(%pod, container = there.container, "an earlier container's port makes room");
                    self.detach_pod(&attach.pod).await?;
                }
                // Who made it by hand takes it away.
                None => {}
            }
        }
        self.check_host_ports(&attach.pod, &attach.host_ports)?;
        self.attach_pod(attach).await
    }

    /// Whether a container's port is served, and its end in the container as it was made.
    pub(in crate::daemon) async fn verify(&self, verify: &Verify) -> Result<Value, Failure> {
        let wanted = &verify.attachment;
        if let Some(verified) = self.verify_member(wanted, verify).await {
            return verified.map(|()| json!({}));
        }
        let row = self.row_of(wanted).ok_or_else(|| {
            Failure::failed(format!(
                "container {} has no port of the switch as {} in network {}",
                wanted.container, wanted.interface, wanted.network
            ))
        })?;
        let is_there = |address: &&IpAddr| !row.addresses.contains(address);
        if let Some(missing) = verify.addresses.iter().find(is_there) {
            return Err(Failure::failed(format!(
                "{missing} is not the address of {}, which has {:?}",
                row.pod, row.addresses
            )));
        }
        if let Some(wanted) = verify.bandwidth.filter(|wanted| *wanted != row.bandwidth) {
            return Err(bandwidth::differs(&row.pod, &row.bandwidth, &wanted));
        }
        let pod = parse_pod(&row.pod)?;
        self.is_whole(&pod, &verify.netns, &wanted.interface).await?;
        Ok(json!({}))
    }

    /// Takes a container's port away. That of a later container of the same pod stays.
    pub(in crate::daemon) async fn release(&mut self, attachment: &Attachment) -> Result<Value, Failure> {
        match self.row_of(attachment) {
            Some(row) => self.detach_pod(&row.pod).await,
            None => self.release_member(attachment).await,
        }
    }

    /// Takes away the ports of a network's containers that are not named; one that fails does not keep the others.
    pub(in crate::daemon) async fn retain(&mut self, retain: &Retain) -> Result<Value, Failure> {
        let is_stale = |row: &PodRow| {
            row.attachment.as_ref().is_some_and(|there| {
                let is_it = |(container, interface): &(String, String)| {
                    (container, interface) == (&there.container, &there.interface)
                };
                there.network == retain.network && !retain.valid.iter().any(is_it)
            })
        };
        let stale: Vec<PodRow> = self.rows().filter(is_stale).collect();
        let mut failures = Vec::new();
        for row in &stale {
            if let Err(failure) = self.detach_pod(&row.pod).await {
                warn!(pod = row.pod, "{}", failure.message);
                failures.push(format!("{}: {}", row.pod, failure.message));
            }
        }
        let more = self.retain_members(retain, &mut failures).await;
        if failures.is_empty() {
            return Ok(json!({ "removed": stale.len() + more }));
        }
        Err(Failure::failed(failures.join("; ")))
    }

    /// What a pod's addresses are chosen by.
    pub(in crate::daemon) fn node_facts(&self) -> NodeFacts {
        let own = &self.own;
        let of_cidr = |cidr: ipnet::IpNet| {
            let broadcast = cidr.addr().is_ipv4().then(|| cidr.broadcast());
            [Some(cidr.network()), Some(gateway_of(cidr)), broadcast]
        };
        let is_flannels = own.blocks.is_none();
        let cidrs = own.pod_prefixes().filter(|_| is_flannels);
        NodeFacts {
            node: own.name.to_string(),
            pod_cidrs: own.pod_prefixes().collect(),
            // In a Calico cluster any address of a block may be a pod's, save the node's own.
            reserved: cidrs
                .flat_map(of_cidr)
                .flatten()
                .chain(own.tunnel_addresses())
                .collect(),
            mtu: self.pod_mtu(),
            ports_free: self.ports.room().saturating_sub(self.unserved.len()),
            dns: ResolverService::of(&self.config.dns, own).map(|resolver| DnsFacts {
                nameservers: resolver.addresses,
                domain: self.config.dns.domain.to_string(),
            }),
        }
    }

    /// All pods' ports, served or not, as they are written down.
    pub(super) fn rows(&self) -> impl Iterator<Item = PodRow> + '_ {
        let served = self.ports.iter().filter_map(|(_, port)| row(port));
        // One that is just being made or adopted stands in both.
        let is_served =
            move |row: &&PodRow| self.ports.iter().any(|(_, port)| port.interface == row.interface);
        served.chain(self.unserved.iter().filter(move |row| !is_served(row)).cloned())
    }

    /// What is told of a pod's port once it is served.
    pub(super) fn attached(&self, pod: &PodKey) -> Option<Attached> {
        let (_, port) = self.ports.of_pod(pod)?;
        Some(Attached {
            pod: pod.to_string(),
            interface: port.interface.clone(),
            host_mac: port.facts.mac.to_string(),
            addresses: port.facts.sources.clone(),
            gateways: self.gateways_for(&port.facts.sources),
            mac: port.facts.peer_mac.to_string(),
            mtu: u32::from(port.facts.mtu),
        })
    }

    fn row_of(&self, attachment: &Attachment) -> Option<PodRow> {
        self.rows()
            .find(|row| row.attachment.as_ref() == Some(attachment))
    }

    /// Whether a pod's port is served, and its end in the pod as it was made; else what is not.
    async fn is_whole(&self, pod: &PodKey, netns: &Path, interface: &str) -> Result<(), Failure> {
        let (_, port) = self.ports.of_pod(pod).ok_or_else(|| {
            Failure::failed(format!(
                "the port of {pod} is not served; the daemon's log says why"
            ))
        })?;
        let failed = |error: crate::kernel::KernelError| Failure::failed(error.to_string());
        let link = self.kernel.find_link(&port.interface).await.map_err(failed)?;
        let link = link.filter(|link| link.ifindex == port.attached.spec.ifindex);
        let link = link.ok_or_else(|| Failure::failed(format!("{} of {pod} is gone", port.interface)))?;
        if !link.up {
            return Err(Failure::failed(format!("{} of {pod} is down", link.name)));
        }
        let wanted = PodEnd {
            ifname: interface.to_owned(),
            host_ifindex: link.ifindex,
            mac: port.facts.peer_mac.0,
            addresses: port.facts.sources.clone(),
        };
        match pod_end_fault(netns, wanted).await.map_err(failed)? {
            None => Ok(()),
            Some(fault) => Err(Failure::failed(format!("{pod}: {fault}"))),
        }
    }

    /// Host ports that nobody else has, at addresses of this node.
    fn check_host_ports(&self, pod: &str, ports: &[HostPort]) -> Result<(), Failure> {
        let own = |address: IpAddr| {
            self.state
                .addresses()
                .any(|entry| entry.address.addr() == address)
        };
        for (place, port) in ports.iter().enumerate() {
            if FAIL_SAFE_PORTS.contains(&port.host_port.get()) {
                return Err(Failure::wrong(format!(
                    "{port} of {pod} always stays with the node; choose another"
                )));
            }
            if let Some(address) = port.host_ip.filter(|address| !address.is_unspecified())
                && (address.is_loopback() || !own(address))
            {
                return Err(Failure::wrong(format!(
                    "{port} of {pod}: {address} is no address at which this node can be called"
                )));
            }
            if ports.iter().take(place).any(|earlier| earlier.overlaps(port)) {
                return Err(Failure::wrong(format!("{port} of {pod} is asked for twice")));
            }
            let others = self.rows().filter(|row| row.pod != pod);
            let mut having = others.filter(|row| row.host_ports.iter().any(|other| other.overlaps(port)));
            if let Some(row) = having.next() {
                return Err(Failure::wrong(format!(
                    "{port} of {pod} is {}'s already",
                    row.pod
                )));
            }
        }
        Ok(())
    }
}

/// As what a port is written down; `None` if it is no pod's.
fn row(port: &Port) -> Option<PodRow> {
    Some(PodRow {
        pod: port.pod.as_ref()?.to_string(),
        interface: port.interface.clone(),
        addresses: port.facts.sources.clone(),
        pod_mac: port.facts.peer_mac.to_string(),
        attachment: port.attachment.clone(),
        host_ports: port.host_ports.clone(),
        bandwidth: port.bandwidth,
    })
}
