//! The other nodes: which can be used, and the tunnel to each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::table::{OuterLink, Peer, PeerId, Prefix, Target, Tunnel, Underlay};
use millrace_dataplane::wire::{MacAddr, Vni, ipip, vxlan};

use super::kernel_routes::ipip_devices;
use super::{Inputs, Numbers, PeerName, PortInput, overhead, prefix};
use crate::objects::{Family, NodeName, PeerTunnel};

/// The peers on their way into the tables.
#[derive(Default)]
pub(super) struct Peers {
    pub(super) table: Vec<(PeerId, Peer)>,
    pub(super) names: Vec<PeerName>,
    pub(super) routes: Vec<(Prefix, Target)>,
    pub(super) inner_sources: Vec<(Prefix, PeerId)>,
    pub(super) next_hops: Vec<(u32, IpAddr)>,
    /// By address and tunnel.
    by_remote: BTreeMap<IpAddr, Vec<(Tunnel, PeerId)>>,
}

impl Peers {
    /// Takes every peer that can be used; the others are named in `warnings`.
    pub(super) fn collect(
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
        uplink: Option<&PortInput>,
        local: Option<Ipv4Addr>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut peers = Self::default();
        let (Some(uplink), Some(local)) = (uplink, local) else {
            warnings.push(format!(
                "{} has no IPv4 address: no tunnel works until it has one",
                inputs.config.uplink.interface.as_str()
            ));
            return peers;
        };
        let tunnelled = next_hops(inputs);
        numbers.keep_peers(
            |name| inputs.store.node(name).is_some(),
            |address| tunnelled.contains(&address),
        );
        for peer in inputs.store.peers(Family::V4) {
            let Some(id) = numbers.of_peer(&peer.node.name) else {
                warnings.push(format!(
                    "node {}: there are more peers than can be numbered",
                    peer.node.name
                ));
                continue;
            };
            match peers.add(inputs, uplink, local, id, &peer) {
                Ok(()) => {}
                Err(reason) => warnings.push(format!("node {}: {reason}", peer.node.name)),
            }
        }
        peers.add_next_hops(inputs, uplink, local, numbers, &tunnelled, warnings);
        peers
    }

    /// Takes the next hops of the kernel's routes through IP in IP that no object tells of.
    fn add_next_hops(
        &mut self,
        inputs: &Inputs<'_>,
        uplink: &PortInput,
        local: Ipv4Addr,
        numbers: &mut Numbers,
        next_hops: &BTreeSet<IpAddr>,
        warnings: &mut Vec<String>,
    ) {
        for address in next_hops {
            let IpAddr::V4(remote) = *address else { continue };
            if remote == local || self.ipip_to(*address).is_some() {
                continue;
            }
            let numbered = numbers.of_next_hop(*address);
            let (Some(id), Ok(node)) = (numbered, NodeName::new(address.to_string())) else {
                warnings.push(format!(
                    "next hop {address}: there are more peers than can be numbered"
                ));
                continue;
            };
            self.insert(
                inputs,
                uplink,
                (local, remote),
                (id, Tunnel::Ipip, overhead(ipip::MTU_OVERHEAD)),
            );
            // It may answer a pod under the address that the pod called.
            self.inner_sources.push((Prefix::host(*address), id));
            self.names.push(PeerName {
                id,
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
        tunnels
            .iter()
            .find(|(tunnel, _)| *tunnel == Tunnel::Ipip)
            .map(|(_, id)| *id)
    }

    /// The peer whose VXLAN device has this MAC address.
    pub(super) fn vxlan_to(&self, mac: MacAddr) -> Option<PeerId> {
        let mut tunnels = self.by_remote.values().flatten();
        let is_it =
            |tunnel: &Tunnel| matches!(tunnel, Tunnel::Vxlan { remote_mac, .. } if *remote_mac == mac);
        tunnels.find(|(tunnel, _)| is_it(tunnel)).map(|(_, id)| *id)
    }

    fn add(
        &mut self,
        inputs: &Inputs<'_>,
        uplink: &PortInput,
        local: Ipv4Addr,
        id: PeerId,
        peer: &crate::objects::Peer<'_>,
    ) -> Result<(), String> {
        let IpAddr::V4(remote) = peer.public_ip else {
            return Err(format!("its public address {} is not IPv4", peer.public_ip));
        };
        if remote == local {
            return Err(format!("its public address {remote} is this node's own"));
        }
        let (tunnel, overhead) = tunnel_to(inputs, peer)?;
        self.insert(inputs, uplink, (local, remote), (id, tunnel, overhead));
        let cidr = prefix(peer.pod_cidr).ok_or("its pod CIDR is no prefix")?;
        self.routes.push((cidr, Target::Tunnel(id)));
        self.inner_sources.push((cidr, id));
        let addresses = peer.node.internal_ips.iter().copied().chain([peer.public_ip]);
        self.inner_sources
            .extend(addresses.map(|address| (Prefix::host(address), id)));
        self.names.push(PeerName {
            id,
            node: peer.node.name.clone(),
            pod_cidrs: vec![peer.pod_cidr],
        });
        Ok(())
    }

    /// Puts a peer into the table, with the way to it.
    fn insert(
        &mut self,
        inputs: &Inputs<'_>,
        uplink: &PortInput,
        (local, remote): (Ipv4Addr, Ipv4Addr),
        (id, tunnel, overhead): (PeerId, Tunnel, u16),
    ) {
        let address = IpAddr::V4(remote);
        // A peer on the uplink's subnet is its own next hop; without a route it is tried as one all the same.
        let hop = inputs.kernel.resolve_route_on(address, uplink.ifindex);
        let next_hop = hop.and_then(|hop| hop.gateway).unwrap_or(address);
        let mac = inputs
            .kernel
            .neighbour(uplink.ifindex, next_hop)
            .and_then(|entry| entry.usable_mac());
        let link = mac.map(|mac| OuterLink {
            source: uplink.facts.mac,
            destination: MacAddr(mac),
        });
        let underlay = Underlay {
            port: uplink.id,
            next_hop,
        };
        let mtu = uplink.facts.mtu.saturating_sub(overhead);
        self.table
            .push((id, Peer::new((local, remote), tunnel, underlay, mtu, link)));
        self.next_hops.push((uplink.ifindex, next_hop));
        self.by_remote.entry(address).or_default().push((tunnel, id));
    }
}

/// The next hops of the kernel's routes through IP in IP.
fn next_hops(inputs: &Inputs<'_>) -> BTreeSet<IpAddr> {
    let devices = ipip_devices(inputs);
    if devices.is_empty() {
        return BTreeSet::new();
    }
    let hops = inputs.kernel.routes().flat_map(|route| &route.hops);
    let tunnelled = hops.filter(|hop| devices.contains(&hop.ifindex));
    tunnelled.filter_map(|hop| hop.gateway).collect()
}

/// The tunnel to a peer, and what it adds to a packet.
fn tunnel_to(inputs: &Inputs<'_>, peer: &crate::objects::Peer<'_>) -> Result<(Tunnel, u16), String> {
    match peer.tunnel {
        PeerTunnel::Ipip => Ok((Tunnel::Ipip, overhead(ipip::MTU_OVERHEAD))),
        PeerTunnel::Vxlan(lease) => {
            let own = inputs.config.overlay.vni.get();
            if let Some(other) = lease.vni.map(|vni| vni.get()).filter(|vni| *vni != own) {
                return Err(format!("its VNI is {other}, this node's is {own}"));
            }
            let tunnel = Tunnel::Vxlan {
                vni: Vni::try_from(own).map_err(|_| format!("{own} is no VNI"))?,
                port: inputs.config.overlay.port.get(),
                local_mac: MacAddr(inputs.own.vtep_mac_or_derived(Family::V4).octets()),
                remote_mac: MacAddr(lease.vtep_mac.octets()),
            };
            Ok((tunnel, overhead(vxlan::MTU_OVERHEAD_IPV4)))
        }
    }
}
