//! The other nodes: which can be used, and the tunnel to each.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::table::{OuterLink, Peer, PeerId, Prefix, Target, Tunnel, Underlay};
use millrace_dataplane::wire::{MacAddr, Vni, ipip, vxlan};

use super::{Inputs, Numbers, PeerName, PortInput, overhead, prefix};
use crate::objects::{Family, PeerTunnel};

/// The peers on their way into the tables.
#[derive(Default)]
pub(super) struct Peers {
    pub(super) table: Vec<(PeerId, Peer)>,
    pub(super) names: Vec<PeerName>,
    pub(super) routes: Vec<(Prefix, Target)>,
    pub(super) inner_sources: Vec<(Prefix, PeerId)>,
    pub(super) next_hops: Vec<(u32, IpAddr)>,
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
        numbers.keep_peers(|name| inputs.store.node(name).is_some());
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
        peers
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
        // A peer on the uplink's subnet is its own next hop; without a route it is tried as one all the same.
        let hop = inputs.kernel.resolve_route_on(peer.public_ip, uplink.ifindex);
        let next_hop = hop.and_then(|hop| hop.gateway).unwrap_or(peer.public_ip);
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
