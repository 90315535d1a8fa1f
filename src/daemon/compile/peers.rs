//! The other nodes: which can be used, and the tunnel to each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use millrace_dataplane::table::{OuterLink, Peer, PeerId, Prefix, Target, Tunnel, TunnelEnds, Underlay};
use millrace_dataplane::wire::{MacAddr, Vni, ipip, ipv6, vxlan};

use super::{Inputs, Numbers, PeerName, PortInput, overhead, prefix};
use crate::objects::{Family, NodeRecord, PeerTunnel};

/// This node's ends of tunnels: an address of each family of underlay, if it has one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnEnds {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
}

impl OwnEnds {
    /// Both ends of a tunnel to `remote`, over an underlay of its family.
    fn to(self, remote: IpAddr) -> Option<TunnelEnds> {
        match remote {
            IpAddr::V4(remote) => Some((self.v4?, remote).into()),
            IpAddr::V6(remote) => Some((self.v6?, remote).into()),
        }
    }

    /// Whether an address is this node's end.
    fn contains(self, address: IpAddr) -> bool {
        self.v4.map(IpAddr::V4) == Some(address) || self.v6.map(IpAddr::V6) == Some(address)
    }
}

/// Whether IPv6 pods of these two nodes talk over an IPv6 underlay: where both publish an end of it, as flannel's nodes do.
/// Else their packets take the tunnel of the IPv4 pods. Both nodes know both, so they agree.
fn meets_over_v6(own: &NodeRecord, other: &NodeRecord) -> bool {
    [own, other]
        .iter()
        .all(|node| crate::objects::Peer::of(node, Family::V6).is_ok())
}

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
        local: OwnEnds,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut peers = Self::default();
        numbers.keep_peers(|name| inputs.store.node(name).is_some());
        for (family, words, has_end) in [
            (Family::V4, "IPv4", local.v4.is_some()),
            (Family::V6, "IPv6", local.v6.is_some()),
        ] {
            let there = inputs.store.peers(family);
            let mut there = there.filter(|peer| match family {
                Family::V4 => true,
                Family::V6 => meets_over_v6(inputs.own, peer.node),
            });
            let Some(uplink) = uplink.filter(|_| has_end) else {
                // Nobody misses an IPv6 underlay who has no peer over it.
                if there.next().is_some() || (family == Family::V4 && local.v6.is_none()) {
                    warnings.push(format!(
                        "{} has no {words} address: no tunnel over {words} works until it has one",
                        inputs.config.uplink.interface.as_str()
                    ));
                }
                continue;
            };
            for peer in there {
                let added = match numbers.of_peer(&peer.node.name, family) {
                    Some(id) => peers.add(inputs, uplink, local, (id, family), &peer, warnings),
                    None => Err("there are more peers than can be numbered".to_owned()),
                };
                if let Err(reason) = added {
                    warnings.push(format!("node {}: {reason}", peer.node.name));
                }
            }
        }
        peers
    }

    fn add(
        &mut self,
        inputs: &Inputs<'_>,
        uplink: &PortInput,
        local: OwnEnds,
        (id, family): (PeerId, Family),
        peer: &crate::objects::Peer<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let remote = peer.public_ip;
        if local.contains(remote) {
            return Err(format!("its public address {remote} is this node's own"));
        }
        let ends = local
            .to(remote)
            .ok_or_else(|| format!("its public address {remote} is of another family than this node's"))?;
        let (tunnel, overhead) = tunnel_to(inputs, family, peer)?;
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
            .push((id, Peer::new(ends, tunnel, underlay, mtu, link)));
        self.next_hops.push((uplink.ifindex, next_hop));
        let is_apart = meets_over_v6(inputs.own, peer.node);
        // Two tunnels to one node take a family of pods each; a single one takes both, save that protocol 4 has no IPv6.
        let takes_v6 = family == Family::V6 || (!is_apart && tunnel != Tunnel::Ipip);
        let takes_v4 = family == Family::V4;
        let is_taken = |address: &IpAddr| if address.is_ipv4() { takes_v4 } else { takes_v6 };
        let pod_cidrs: Vec<IpNet> = peer
            .node
            .pod_cidrs()
            .filter(|cidr| is_taken(&cidr.addr()))
            .collect();
        if let Some(why) = too_narrow(mtu, &pod_cidrs) {
            warnings.push(format!("node {}: {why}", peer.node.name));
        }
        for cidr in &pod_cidrs {
            let cidr = prefix(*cidr).ok_or("its pod CIDR is no prefix")?;
            self.routes.push((cidr, Target::Tunnel(id)));
            self.inner_sources.push((cidr, id));
        }
        let addresses = peer.node.internal_ips.iter().copied();
        // Where there is one tunnel, nobody else sends from any of its addresses.
        let addresses = addresses.filter(|address| !is_apart || is_taken(address));
        self.inner_sources.extend(
            addresses
                .chain([remote])
                .map(|address| (Prefix::host(address), id)),
        );
        self.names.push(PeerName {
            id,
            node: peer.node.name.clone(),
            pod_cidrs,
        });
        Ok(())
    }
}

/// Why IPv6 pods find no way through a tunnel that carries so many bytes: their kernels take no "too big" that says less than
/// every link has to carry.
fn too_narrow(mtu: u16, pod_cidrs: &[IpNet]) -> Option<String> {
    let is_too_narrow = mtu < ipv6::MIN_MTU && pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6());
    is_too_narrow.then(|| {
        let (least, more) = (ipv6::MIN_MTU, ipv6::MIN_MTU - mtu);
        format!("its tunnel takes {mtu} bytes, and IPv6 needs {least}: give the uplink an MTU of {more} more")
    })
}

/// The tunnel to a peer, and what it adds to a packet.
fn tunnel_to(
    inputs: &Inputs<'_>,
    family: Family,
    peer: &crate::objects::Peer<'_>,
) -> Result<(Tunnel, u16), String> {
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
                local_mac: MacAddr(inputs.own.vtep_mac_or_derived(family).octets()),
                remote_mac: MacAddr(lease.vtep_mac.octets()),
            };
            let added = match family {
                Family::V4 => vxlan::MTU_OVERHEAD_IPV4,
                Family::V6 => vxlan::MTU_OVERHEAD_IPV6,
            };
            Ok((tunnel, overhead(added)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_too_narrow_for_ipv6_is_told() {
        let cidrs =
            |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let both = cidrs(&["10.244.2.0/24", "fd00:2::/64"]);
        assert_eq!(too_narrow(1280, &both), None);
        let said = too_narrow(1250, &both).unwrap();
        assert!(said.contains("1250") && said.contains("30 more"), "{said}");
        assert_eq!(too_narrow(600, &cidrs(&["10.244.2.0/24"])), None);
    }
}
