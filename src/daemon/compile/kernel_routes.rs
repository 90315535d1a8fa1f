//! Where the kernel's routes lead, whoever put them there: an administrator, or a routing daemon such as BIRD or FRR.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use millrace_dataplane::table::{Hop, PeerId, Prefix, RouteTable, Senders, Spread, Target};
use millrace_dataplane::wire::MacAddr;

use super::peers::Peers;
use super::{Inputs, PortInput, prefix};
use crate::kernel::{Link, OWN_ROUTE_PROTOCOL, Route, RouteHop, RouteKind};

/// Kinds of devices, as the kernel names them.
const IPIP: &str = "ipip";
const TUN: &str = "tun";
const VXLAN: &str = "vxlan";

/// Routes that are named one by one in a warning; of more it is said how many they are.
const NAMED_MAX: usize = 3;

/// The kernel's routes, as the switch goes by them.
#[derive(Default)]
pub(super) struct KernelRoutes {
    /// Of several routes for one prefix the one with the lowest cost.
    pub(super) routes: Vec<(Prefix, Target)>,
    /// What `Target::Spread` stands for.
    pub(super) spreads: Vec<Arc<Spread>>,
    /// Prefixes that lie behind tunnels; elsewhere are others' networks.
    pub(super) tunnelled: Vec<Prefix>,
    /// Who may send from where: whoever the longest route leads to, if that is a peer.
    pub(super) senders: Vec<(Prefix, Senders)>,
}

/// Devices by which a route means IP in IP to its next hop: the kernel's own, and the stand-in for one.
pub(super) fn ipip_devices(inputs: &Inputs<'_>) -> BTreeSet<u32> {
    let stand_in = inputs.config.overlay.stand_in();
    let is_one = |link: &&Link| match link.kind.as_deref() {
        Some(IPIP) => true,
        Some(TUN) => stand_in.as_ref().is_some_and(|name| name.as_str() == link.name),
        _ => false,
    };
    inputs
        .kernel
        .links()
        .filter(is_one)
        .map(|link| link.ifindex)
        .collect()
}

impl KernelRoutes {
    /// Takes every route that a packet of the switch's can go by. What leads through a tunnel to nobody who is known is
    /// named in `warnings`.
    pub(super) fn collect(
        inputs: &Inputs<'_>,
        uplink: Option<&PortInput>,
        host: Option<&PortInput>,
        peers: &Peers,
        warnings: &mut Vec<String>,
    ) -> Self {
        let vxlan = |link: &&Link| link.kind.as_deref() == Some(VXLAN);
        let mut ways = Ways {
            inputs,
            uplink,
            host,
            peers,
            ipip: ipip_devices(inputs),
            vxlan: inputs
                .kernel
                .links()
                .filter(vxlan)
                .map(|link| link.ifindex)
                .collect(),
            spreads: HashMap::new(),
            result: Self::default(),
            unknown: Vec::new(),
            foreign: Vec::new(),
        };
        let mut best: BTreeMap<IpNet, &Route> = BTreeMap::new();
        for route in inputs.kernel.routes().filter(|route| route.tos == 0) {
            if !counts(route) || ways.is_own_doing(route) {
                continue;
            }
            let entry = best.entry(route.destination.trunc()).or_insert(route);
            if route.metric < entry.metric {
                *entry = route;
            }
        }
        for (net, route) in best {
            if let Some(prefix) = prefix(net) {
                ways.take(prefix, route);
            }
        }
        warnings.extend(ways.warnings());
        let mut result = ways.result;
        // Where no route leads through a tunnel, the objects alone say who may send.
        if result.tunnelled.is_empty() {
            result.senders.clear();
        }
        result
    }
}

/// Whether a route decides anything here: it drops, or has a way that lives.
fn counts(route: &Route) -> bool {
    match route.kind {
        RouteKind::Unicast => route.hops.iter().any(|hop| !hop.dead),
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => true,
        RouteKind::Local | RouteKind::Throw | RouteKind::Other(_) => false,
    }
}

/// What routes are judged by, and what has come of them so far.
struct Ways<'i> {
    inputs: &'i Inputs<'i>,
    uplink: Option<&'i PortInput>,
    host: Option<&'i PortInput>,
    peers: &'i Peers,
    ipip: BTreeSet<u32>,
    vxlan: BTreeSet<u32>,
    /// Routes by the thousand have the same few next hops.
    spreads: HashMap<Vec<Hop>, Target>,
    result: KernelRoutes,
    /// Prefixes behind tunnels to nobody who is known.
    unknown: Vec<Prefix>,
    /// Prefixes behind vxlan devices that the kernel forwards by.
    foreign: Vec<Prefix>,
}

impl Ways<'_> {
    /// The way to pods through the host port is our own doing and leads back here.
    fn is_own_doing(&self, route: &Route) -> bool {
        let is_uplink = |hop: &RouteHop| self.uplink.is_some_and(|port| port.ifindex == hop.ifindex);
        route.protocol == OWN_ROUTE_PROTOCOL && !route.hops.iter().any(is_uplink)
    }

    fn take(&mut self, prefix: Prefix, route: &Route) {
        let hops = match route.kind {
            RouteKind::Unicast => self.hops(prefix, route),
            _ => Vec::new(),
        };
        let target = match route.kind {
            RouteKind::Blackhole => Some(Target::Blackhole),
            RouteKind::Unreachable | RouteKind::Prohibit => Some(Target::Unreachable),
            _ => self.one_or_spread(&hops),
        };
        let Some(target) = target else { return };
        self.result.routes.push((prefix, target));
        let mut ends: Vec<PeerId> = Vec::new();
        for hop in &hops {
            if let Target::Tunnel(peer) = hop.target
                && !ends.contains(&peer)
            {
                ends.push(peer);
            }
        }
        if !ends.is_empty() {
            self.result.tunnelled.push(prefix);
        }
        let senders = match ends.as_slice() {
            [] => Senders::Nobody,
            [one] => Senders::One(*one),
            _ => Senders::Any(ends),
        };
        self.result.senders.push((prefix, senders));
    }

    /// The ways of a route with next hops, in an order that is always the same.
    fn hops(&mut self, prefix: Prefix, route: &Route) -> Vec<Hop> {
        let mut hops: Vec<Hop> = Vec::new();
        for hop in route.hops.iter().filter(|hop| !hop.dead) {
            let Some(target) = self.hop(hop) else {
                self.unknown.push(prefix);
                continue;
            };
            if self.vxlan.contains(&hop.ifindex) && !matches!(target, Target::Tunnel(_)) {
                self.foreign.push(prefix);
            }
            let unspecified = match prefix.address() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            hops.push(Hop {
                target,
                address: hop.gateway.unwrap_or(unspecified),
                weight: hop.weight,
            });
        }
        hops.sort_by_key(|hop| hop.address);
        hops
    }

    /// One way, or several that flows are spread over.
    fn one_or_spread(&mut self, hops: &[Hop]) -> Option<Target> {
        let first = hops.first()?.target;
        if hops.iter().all(|hop| hop.target == first) {
            return Some(first);
        }
        if let Some(known) = self.spreads.get(hops) {
            return Some(*known);
        }
        let id = RouteTable::spread_id(self.result.spreads.len())?;
        self.result.spreads.push(Arc::new(Spread::new(hops)?));
        self.spreads.insert(hops.to_vec(), Target::Spread(id));
        Some(Target::Spread(id))
    }

    /// Where one next hop is. What the kernel sends out by other interfaces is the kernel's to forward. `None` if it is the
    /// end of a tunnel to nobody who is known.
    fn hop(&self, hop: &RouteHop) -> Option<Target> {
        if let Some(uplink) = self.uplink.filter(|port| port.ifindex == hop.ifindex) {
            return Some(match hop.gateway {
                Some(next_hop) => Target::Via {
                    port: uplink.id,
                    next_hop,
                },
                None => Target::OnLink { port: uplink.id },
            });
        }
        if self.ipip.contains(&hop.ifindex) {
            return hop
                .gateway
                .and_then(|address| self.peers.ipip_to(address))
                .map(Target::Tunnel);
        }
        if self.vxlan.contains(&hop.ifindex)
            && let Some(peer) = self.vxlan_peer(hop)
        {
            return Some(Target::Tunnel(peer));
        }
        self.host.map(|port| Target::Port(port.id))
    }

    /// The peer at the end of a vxlan device, as the device's neighbour tells: its MAC address is the peer's own.
    fn vxlan_peer(&self, hop: &RouteHop) -> Option<PeerId> {
        let neighbour = self.inputs.kernel.neighbour(hop.ifindex, hop.gateway?)?;
        self.peers.vxlan_to(MacAddr(neighbour.usable_mac()?))
    }

    /// Says what leads through tunnels of which nothing is known.
    fn warnings(&self) -> impl Iterator<Item = String> {
        let unknown = named(&self.unknown).map(|which| {
            format!("routes by an ipip device need an IPv4 next hop that is another node's address; left out: {which}")
        });
        let foreign = named(&self.foreign).map(|which| {
            format!("routes by a vxlan device to no node that is known are the kernel's to carry: {which}")
        });
        unknown.into_iter().chain(foreign)
    }
}

/// Some of them by name, and how many there are besides.
fn named(prefixes: &[Prefix]) -> Option<String> {
    let first: Vec<String> = prefixes.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    match prefixes.len().saturating_sub(NAMED_MAX) {
        _ if first.is_empty() => None,
        0 => Some(first.join(", ")),
        more => Some(format!("{} and {more} more", first.join(", "))),
    }
}
