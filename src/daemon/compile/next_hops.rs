//! Peers that no object tells of: the next hops of the kernel's routes through IP in IP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use millrace_dataplane::table::{Peer, PeerId, Prefix, Senders, Tunnel};
use millrace_dataplane::wire::{MacAddr, ipip};

use super::ends::OwnEnds;
use super::kernel_routes::ipip_devices;
use super::peers::{Peers, link};
use super::{Inputs, Numbers, PeerName, PeerWay, PortInput, overhead};
use crate::objects::NodeName;

/// The next hops of the kernel's routes through IP in IP.
pub(super) fn next_hops(inputs: &Inputs<'_>) -> BTreeSet<IpAddr> {
    let devices = ipip_devices(inputs);
    if devices.is_empty() {
        return BTreeSet::new();
    }
    let hops = inputs.kernel.routes().flat_map(|route| &route.hops);
    let tunnelled = hops.filter(|hop| devices.contains(&hop.ifindex));
    tunnelled.filter_map(|hop| hop.gateway).collect()
}

impl Peers {
    /// Takes the next hops of the kernel's routes through IP in IP that no object tells of.
    pub(super) fn add_next_hops(
        &mut self,
        inputs: &Inputs<'_>,
        (uplink, local): (&PortInput, OwnEnds),
        numbers: &mut Numbers,
        next_hops: &BTreeSet<IpAddr>,
        warnings: &mut Vec<String>,
    ) {
        for address in next_hops.iter().copied().filter(IpAddr::is_ipv4) {
            let Some(ends) = local.to(address) else { continue };
            if local.contains(address) || self.ipip_to(address).is_some() {
                continue;
            }
            let numbered = numbers.of_next_hop(address);
            let (Some(id), Ok(node)) = (numbered, NodeName::new(address.to_string())) else {
                warnings.push(format!(
                    "next hop {address}: there are more peers than can be numbered"
                ));
                continue;
            };
            let underlay = self.underlay(inputs, uplink, address);
            let link = link(inputs, uplink, underlay.next_hop);
            let mtu = uplink.facts.mtu.saturating_sub(overhead(ipip::MTU_OVERHEAD));
            self.insert(id, Peer::new(ends, Tunnel::Ipip, underlay, mtu, link));
            // It may answer a pod under the address that the pod called.
            self.inner_sources.push((Prefix::host(address), Senders::One(id)));
            self.names.push(PeerName {
                way: PeerWay::Tunnel(id),
                node,
                pod_cidrs: Vec::new(),
            });
        }
    }

    /// The addresses of all of them in the underlay.
    pub(super) fn remotes(&self) -> impl Iterator<Item = IpAddr> {
        self.by_remote.keys().copied()
    }

    /// The peer at this address to which there is an IPIP tunnel.
    pub(super) fn ipip_to(&self, address: IpAddr) -> Option<PeerId> {
        let tunnels = self.by_remote.get(&address)?;
        let ipip = tunnels.iter().find(|(tunnel, _)| *tunnel == Tunnel::Ipip);
        ipip.map(|(_, id)| *id)
    }

    /// The peer whose VXLAN device has this MAC address.
    pub(super) fn vxlan_to(&self, mac: MacAddr) -> Option<PeerId> {
        let mut tunnels = self.by_remote.values().flatten();
        let is_it =
            |tunnel: &Tunnel| matches!(tunnel, Tunnel::Vxlan { remote_mac, .. } if *remote_mac == mac);
        tunnels.find(|(tunnel, _)| is_it(tunnel)).map(|(_, id)| *id)
    }
}
