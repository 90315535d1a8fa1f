//! The other nodes: which can be used, and the tunnel to each.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::table::{OuterLink, Peer, PeerId, Prefix, Senders, Target, Tunnel, Underlay};
use millrace_dataplane::wire::{MacAddr, Vni, ipip, ipv6, vxlan};

use super::ends::OwnEnds;
use super::next_hops::next_hops;
use super::{Inputs, Numbers, PeerName, PeerWay, PortInput, overhead, prefix};
use crate::objects::{Family, Network, NodeRecord, PeerTunnel};

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
    pub(super) inner_sources: Vec<(Prefix, Senders)>,
    pub(super) next_hops: Vec<(u32, IpAddr)>,
    /// By address and tunnel.
    pub(super) by_remote: BTreeMap<IpAddr, Vec<(Tunnel, PeerId)>>,
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
        let tunnelled = next_hops(inputs);
        numbers.keep_peers(
            |name| inputs.store.node(name).is_some(),
            |address| tunnelled.contains(&address),
        );
        for (family, words, has_end) in [
            (Family::V4, "IPv4", local.v4.is_some()),
            (Family::V6, "IPv6", local.v6.is_some()),
        ] {
            let there = inputs.store.peers(family);
            let mut there = there.filter(|peer| match family {
                Family::V4 => true,
                Family::V6 => peer.node.blocks.is_some() || meets_over_v6(inputs.own, peer.node),
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
                let added = peers.add(inputs, numbers, (uplink, local), family, &peer);
                if let Some(reason) = added.unwrap_or_else(Some) {
                    let warning = format!("node {}: {reason}", peer.node.name);
                    // Once for all blocks of a node.
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
            }
        }
        if let Some(uplink) = uplink {
            peers.add_next_hops(inputs, (uplink, local), numbers, &tunnelled, warnings);
        }
        // What this node has borrowed from another's block.
        let blocks = inputs.own.blocks.iter().flatten();
        let borrowed = blocks.filter(|block| block.is_borrowed);
        let borrowed = borrowed.filter_map(|block| prefix(block.cidr));
        peers
            .inner_sources
            .extend(borrowed.map(|own| (own, Senders::Nobody)));
        peers
    }

    /// Puts a peer into the table.
    pub(super) fn insert(&mut self, id: PeerId, peer: Peer) {
        let tunnels = self.by_remote.entry(peer.remote).or_default();
        tunnels.push((peer.tunnel, id));
        self.table.push((id, peer));
    }

    /// Takes a peer, with a tunnel, or plainly, or both: what is on one's own subnet may come either way. Answers what is wrong
    /// with it all the same, if anything is.
    fn add(
        &mut self,
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
        (uplink, local): (&PortInput, OwnEnds),
        family: Family,
        peer: &crate::objects::Peer<'_>,
    ) -> Result<Option<String>, String> {
        let remote = peer.public_ip;
        if local.contains(remote) {
            return Err(format!("its public address {remote} is this node's own"));
        }
        let is_plain = is_plain(inputs, uplink, peer);
        if is_plain {
            self.add_plain(uplink, peer)?;
        }
        let Some((tunnel, overhead)) = tunnel_to(inputs, family, peer)? else {
            return Ok(None);
        };
        let mtu = uplink.facts.mtu.saturating_sub(overhead);
        let id = numbers.of_peer(&peer.node.name, family, tunnel.kind());
        let id = id.ok_or("there are more peers than can be numbered")?;
        if !self.table.iter().any(|(known, _)| *known == id) {
            let ends = local.to(remote).ok_or_else(|| {
                format!("its public address {remote} is of another family than this node's")
            })?;
            let underlay = self.underlay(inputs, uplink, remote);
            let link = link(inputs, uplink, underlay.next_hop);
            self.insert(id, Peer::new(ends, tunnel, underlay, mtu, link));
            self.add_own_sources(inputs, (id, family), tunnel, peer);
        }
        let cidrs = self.add_pods(inputs, (id, family), tunnel, peer, is_plain)?;
        let fault = too_narrow(mtu, &cidrs);
        if !cidrs.is_empty() {
            self.name(PeerWay::Tunnel(id), peer, cidrs);
        }
        Ok(fault)
    }

    /// The way to a peer through the underlay, whose first station is kept resolved.
    pub(super) fn underlay(&mut self, inputs: &Inputs<'_>, uplink: &PortInput, remote: IpAddr) -> Underlay {
        // A peer on the uplink's subnet is its own next hop; without a route it is tried as one all the same.
        let hop = inputs.kernel.resolve_route_on(remote, uplink.ifindex);
        let next_hop = hop.and_then(|hop| hop.gateway).unwrap_or(remote);
        self.next_hops.push((uplink.ifindex, next_hop));
        Underlay {
            port: uplink.id,
            next_hop,
        }
    }

    /// Packets to a peer's pods as they are.
    fn add_plain(&mut self, uplink: &PortInput, peer: &crate::objects::Peer<'_>) -> Result<(), String> {
        let cidr = prefix(peer.pod_cidr).ok_or("its pod CIDR is no prefix")?;
        let target = Target::Via {
            port: uplink.id,
            next_hop: peer.public_ip,
        };
        self.next_hops.push((uplink.ifindex, peer.public_ip));
        self.routes.push((cidr, target));
        self.name(PeerWay::Plain(peer.public_ip), peer, vec![peer.pod_cidr]);
        Ok(())
    }

    /// Whose pods may be in a tunnel; answers those that it leads to.
    fn add_pods(
        &mut self,
        inputs: &Inputs<'_>,
        (id, family): (PeerId, Family),
        tunnel: Tunnel,
        peer: &crate::objects::Peer<'_>,
        is_plain: bool,
    ) -> Result<Vec<IpNet>, String> {
        let takes = Takes::of(inputs, family, tunnel, peer);
        let spec = peer.node.pod_cidrs();
        let cidrs: Vec<IpNet> = match peer.node.blocks {
            // One block of several, each with its own way.
            Some(_) => vec![peer.pod_cidr],
            None => spec.filter(|cidr| takes.takes(cidr.addr())).collect(),
        };
        let mut tunnelled = Vec::new();
        for cidr in cidrs {
            let pods = prefix(cidr).ok_or("its pod CIDR is no prefix")?;
            self.inner_sources.push((pods, Senders::One(id)));
            if !is_plain || cidr != peer.pod_cidr {
                self.routes.push((pods, Target::Tunnel(id)));
                tunnelled.push(cidr);
            }
        }
        Ok(tunnelled)
    }

    /// The addresses of a peer's own that may be in a tunnel.
    fn add_own_sources(
        &mut self,
        inputs: &Inputs<'_>,
        (id, family): (PeerId, Family),
        tunnel: Tunnel,
        peer: &crate::objects::Peer<'_>,
    ) {
        let takes = Takes::of(inputs, family, tunnel, peer);
        let addresses = peer.node.internal_ips.iter().copied();
        // flannel's are in its pod CIDR.
        let calico = peer.node.blocks.iter().flat_map(|_| peer.node.tunnel_addresses());
        // Where there is one tunnel, nobody else sends from any of its addresses.
        let addresses = addresses.chain(calico);
        let addresses = addresses.filter(|address| !takes.is_apart || takes.takes(*address));
        let addresses = addresses.chain([peer.public_ip]);
        self.inner_sources
            .extend(addresses.map(|address| (Prefix::host(address), Senders::One(id))));
    }

    /// Notes down how pods are reached, for who asks.
    fn name(&mut self, way: PeerWay, peer: &crate::objects::Peer<'_>, cidrs: Vec<IpNet>) {
        let node = &peer.node.name;
        let known = self
            .names
            .iter_mut()
            .find(|name| name.way == way && name.node == *node);
        match known {
            Some(known) => known.pod_cidrs.extend(cidrs),
            None => self.names.push(PeerName {
                way,
                node: node.clone(),
                pod_cidrs: cidrs,
            }),
        }
    }

    /// From where packets come in no tunnel: the pods of peers to whose they go so, less what others have of their blocks.
    pub(super) fn plain_sources(&self, own: &NodeRecord) -> Vec<(Prefix, bool)> {
        let is_plain = |name: &&PeerName| matches!(name.way, PeerWay::Plain(_));
        let plain = self.names.iter().filter(is_plain);
        let plain: Vec<IpNet> = plain.flat_map(|name| name.pod_cidrs.iter().copied()).collect();
        if plain.is_empty() {
            return Vec::new();
        }
        let not_plain = self.names.iter().filter(|name| !is_plain(name));
        let not_plain = not_plain.flat_map(|name| name.pod_cidrs.iter().copied());
        let others = own.pod_prefixes().chain(not_plain).map(|cidr| (cidr, false));
        let all = others.chain(plain.iter().map(|cidr| (*cidr, true)));
        all.filter_map(|(cidr, is)| Some((prefix(cidr)?, is))).collect()
    }
}

/// Which families of pods' packets are in a tunnel.
struct Takes {
    v4: bool,
    v6: bool,
    /// Whether each has a tunnel of its own.
    is_apart: bool,
}

impl Takes {
    /// Two tunnels to one node take a family of pods each; a single one takes both, save that protocol 4 has no IPv6.
    fn of(inputs: &Inputs<'_>, family: Family, tunnel: Tunnel, peer: &crate::objects::Peer<'_>) -> Self {
        let is_apart = peer.node.blocks.is_some() || meets_over_v6(inputs.own, peer.node);
        Self {
            v4: family == Family::V4,
            v6: family == Family::V6 || (!is_apart && tunnel != Tunnel::Ipip),
            is_apart,
        }
    }

    fn takes(&self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Whether packets go to a peer as they are: it wants them so from its own subnet, and this node is on it.
fn is_plain(inputs: &Inputs<'_>, uplink: &PortInput, peer: &crate::objects::Peer<'_>) -> bool {
    let network = inputs.store.network();
    let by_config = network == Network::Flannel && inputs.config.overlay.direct_routing;
    if !peer.is_plain_if_near && !by_config {
        return false;
    }
    // Calico goes by what its Node says, flannel by the kernel's route.
    let calico = inputs.own.calico.as_ref().filter(|_| network == Network::Calico);
    calico
        .and_then(|calico| calico.is_near(peer.public_ip))
        .unwrap_or_else(|| {
            let hop = inputs.kernel.resolve_route_on(peer.public_ip, uplink.ifindex);
            hop.is_some_and(|hop| hop.gateway.is_none())
        })
}

/// The link addresses of the first link to a peer, if they are known.
pub(super) fn link(inputs: &Inputs<'_>, uplink: &PortInput, next_hop: IpAddr) -> Option<OuterLink> {
    let known = inputs.kernel.neighbour(uplink.ifindex, next_hop);
    let mac = known.and_then(|entry| entry.usable_mac())?;
    Some(OuterLink {
        source: uplink.facts.mac,
        destination: MacAddr(mac),
    })
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

/// The tunnel to a peer, if there is one, and what it adds to a packet.
fn tunnel_to(
    inputs: &Inputs<'_>,
    family: Family,
    peer: &crate::objects::Peer<'_>,
) -> Result<Option<(Tunnel, u16)>, String> {
    match peer.tunnel {
        PeerTunnel::None => Ok(None),
        PeerTunnel::Ipip => Ok(Some((Tunnel::Ipip, overhead(ipip::MTU_OVERHEAD)))),
        PeerTunnel::Vxlan(lease) => {
            let (overlay, network) = (&inputs.config.overlay, inputs.store.network());
            let own = overlay.vni_in(network).get();
            if let Some(other) = lease.vni.map(|vni| vni.get()).filter(|vni| *vni != own) {
                return Err(format!("its VNI is {other}, this node's is {own}"));
            }
            let tunnel = Tunnel::Vxlan {
                vni: Vni::try_from(own).map_err(|_| format!("{own} is no VNI"))?,
                port: overlay.port_in(network).get(),
                local_mac: MacAddr(inputs.own.vtep_mac_or_derived(family).octets()),
                remote_mac: MacAddr(lease.vtep_mac.octets()),
            };
            let added = match family {
                Family::V4 => vxlan::MTU_OVERHEAD_IPV4,
                Family::V6 => vxlan::MTU_OVERHEAD_IPV6,
            };
            Ok(Some((tunnel, overhead(added))))
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
