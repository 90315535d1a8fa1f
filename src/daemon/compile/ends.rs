//! This node's ends of tunnels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::table::{Endpoint, EndpointKind, Peer, Tunnel, TunnelEnds};
use millrace_dataplane::wire::{MacAddr, Vni};

use super::peers::Peers;
use super::{Inputs, PortInput, addresses_on, as_v4, as_v6};
use crate::config::OverlayKind;
use crate::objects::{Family, Network};

/// This node's ends of tunnels: an address of each family of underlay, if it has one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnEnds {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
}

impl OwnEnds {
    /// Both ends of a tunnel to `remote`, over an underlay of its family.
    pub(super) fn to(self, remote: IpAddr) -> Option<TunnelEnds> {
        match remote {
            IpAddr::V4(remote) => Some((self.v4?, remote).into()),
            IpAddr::V6(remote) => Some((self.v6?, remote).into()),
        }
    }

    /// Whether an address is this node's end.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        self.v4.map(IpAddr::V4) == Some(address) || self.v6.map(IpAddr::V6) == Some(address)
    }
}

/// The addresses at which tunnels end here: of each family the published one if the uplink has it, else the uplink's
/// first that is not link-local.
pub(super) fn own_ends(inputs: &Inputs<'_>, uplink: Option<&PortInput>) -> OwnEnds {
    let on_uplink = uplink.map(|port| addresses_on(inputs.kernel, port.ifindex));
    let on_uplink = on_uplink.unwrap_or_default();
    OwnEnds {
        v4: end_among(&on_uplink, inputs.own.public_ips().find_map(as_v4), as_v4),
        v6: end_among(&on_uplink, inputs.own.public_ips().find_map(as_v6), as_v6),
    }
}

fn end_among<A: PartialEq + Copy>(
    on_uplink: &[IpAddr],
    published: Option<A>,
    of_family: fn(IpAddr) -> Option<A>,
) -> Option<A> {
    let mut of_uplink = on_uplink
        .iter()
        .copied()
        .filter(|address| !is_link_local_v6(address))
        .filter_map(of_family);
    published
        .filter(|address| of_uplink.clone().any(|other| other == *address))
        .or_else(|| of_uplink.next())
}

pub(super) fn is_link_local_v6(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Where tunnels end here.
pub(super) fn endpoints(inputs: &Inputs<'_>, ends: OwnEnds, peers: &Peers) -> Vec<Endpoint> {
    let mut endpoints = ends
        .v4
        .map_or_else(Vec::new, |end| endpoints_v4(inputs, end, peers));
    // One that no peer sends to would take from the kernel what comes to that port.
    let is_used = |peer: &Peer| peer.remote.is_ipv6();
    let own = &inputs.config.overlay;
    let network = inputs.store.network();
    if let (Some(end), Ok(vni)) = (ends.v6, Vni::try_from(own.vni_in(network).get()))
        && peers.table.iter().any(|(_, peer)| is_used(peer))
    {
        let kind = EndpointKind::Vxlan {
            vni,
            port: own.port_in(network).get(),
            mac: MacAddr(inputs.own.vtep_mac_or_derived(Family::V6).octets()),
        };
        let local = IpAddr::V6(end);
        endpoints.push(Endpoint { local, kind });
    }
    endpoints
}

fn endpoints_v4(inputs: &Inputs<'_>, local: Ipv4Addr, peers: &Peers) -> Vec<Endpoint> {
    let local = IpAddr::V4(local);
    let overlay = &inputs.config.overlay;
    let uses = |tunnel: fn(&Tunnel) -> bool| peers.table.iter().any(|(_, peer)| tunnel(&peer.tunnel));
    let mut endpoints = Vec::new();
    let network = inputs.store.network();
    // In Calico's network there are no tunnels but those of pools.
    let own_kind = (network == Network::Flannel).then_some(overlay.kind);
    let vni = Vni::try_from(overlay.vni_in(network).get());
    if let Ok(vni) = vni
        && (own_kind == Some(OverlayKind::Vxlan) || uses(|tunnel| matches!(tunnel, Tunnel::Vxlan { .. })))
    {
        let mac = MacAddr(inputs.own.vtep_mac_or_derived(Family::V4).octets());
        let kind = EndpointKind::Vxlan {
            vni,
            port: overlay.port_in(network).get(),
            mac,
        };
        endpoints.push(Endpoint { local, kind });
    }
    if own_kind == Some(OverlayKind::Ipip) || uses(|tunnel| *tunnel == Tunnel::Ipip) {
        endpoints.push(Endpoint {
            local,
            kind: EndpointKind::Ipip,
        });
    }
    endpoints
}
