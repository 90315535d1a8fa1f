//! The addresses of a pod's port: whose they may be.

use std::net::IpAddr;

use crate::admin::protocol::Failure;
use crate::daemon::Daemon;
use crate::objects::{PodKey, gateway_of};

impl Daemon {
    /// The addresses a pod is to have: those asked for, else its object's; each in this node's pod CIDR and free.
    pub(super) fn pod_addresses(&self, pod: &PodKey, asked: &[IpAddr]) -> Result<Vec<IpAddr>, Failure> {
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
        for (place, address) in addresses.iter().enumerate() {
            self.check_address(pod, *address)?;
            if addresses.iter().take(place).any(|earlier| earlier == address) {
                return Err(Failure::wrong(format!(
                    "{address} is given to {pod} twice; once is enough"
                )));
            }
        }
        Ok(addresses)
    }

    /// An address of this node's pods, that nobody else has.
    pub(super) fn check_address(&self, pod: &PodKey, address: IpAddr) -> Result<(), Failure> {
        let cidr = self
            .own
            .pod_prefixes()
            .find(|cidr| cidr.contains(&address))
            .ok_or_else(|| {
                let cidrs: Vec<_> = self.own.pod_prefixes().map(|cidr| cidr.to_string()).collect();
                Failure::wrong(format!(
                    "{address} for {pod} is not in this node's pod CIDR {}",
                    cidrs.join(", ")
                ))
            })?;
        if self.own.blocks.is_some() && self.own.tunnel_addresses().any(|own| own == address) {
            return Err(Failure::wrong(format!(
                "{address} for {pod} is this node's own address in the overlay"
            )));
        }
        let reserved = [cidr.network(), gateway_of(cidr), cidr.broadcast()];
        // In a Calico cluster any address of a block may be a pod's.
        let is_reserved = self.own.blocks.is_none() && reserved.contains(&address);
        if is_reserved && !(address == cidr.broadcast() && address.is_ipv6()) {
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

    /// The gateways for the families that these addresses are of.
    pub(super) fn gateways_for(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let same_family = |gateway: &IpAddr| addresses.iter().any(|ip| ip.is_ipv4() == gateway.is_ipv4());
        self.own.gateway_addresses().filter(same_family).collect()
    }
}
