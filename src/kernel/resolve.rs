//! Which way a destination goes, by the followed routes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::state::{KernelState, NextHop, Route, RouteKey, RouteKind};

impl KernelState {
    /// The next hop to `destination` by the main table, as the kernel would choose it: the longest prefix,
    /// and in it the lowest metric. `None` if there is no route, or the route found drops. Of a multipath
    /// route the first living hop counts; routes for a type of service are left out.
    #[must_use]
    pub fn resolve_route(&self, destination: IpAddr) -> Option<NextHop> {
        for route in self.covering(destination) {
            match route.kind {
                RouteKind::Unicast => {
                    if let Some(hop) = living_hop(route, None) {
                        return Some(hop);
                    }
                }
                RouteKind::Local
                | RouteKind::Blackhole
                | RouteKind::Unreachable
                | RouteKind::Prohibit
                | RouteKind::Throw
                | RouteKind::Other(_) => return None,
            }
        }
        None
    }

    /// The next hop to `destination` on one interface only: routes over other interfaces, and routes that
    /// drop, are passed over.
    #[must_use]
    pub fn resolve_route_on(&self, destination: IpAddr, ifindex: u32) -> Option<NextHop> {
        self.covering(destination)
            .filter(|route| route.kind == RouteKind::Unicast)
            .find_map(|route| living_hop(route, Some(ifindex)))
    }

    /// The routes that cover `destination`, best first.
    fn covering(&self, destination: IpAddr) -> impl Iterator<Item = &Route> {
        let longest: u8 = if destination.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .filter_map(move |length| prefix_of(destination, length))
            .flat_map(|prefix| {
                let lowest = RouteKey {
                    destination: prefix,
                    tos: 0,
                    metric: 0,
                };
                let highest = RouteKey {
                    destination: prefix,
                    tos: 0,
                    metric: u32::MAX,
                };
                self.routes.range(lowest..=highest).flat_map(|(_, routes)| routes)
            })
    }
}

/// The prefix of this length that the address is in.
fn prefix_of(address: IpAddr, length: u8) -> Option<IpNet> {
    match address {
        IpAddr::V4(address) => Ipv4Net::new(address, length)
            .ok()
            .map(|net| IpNet::V4(net.trunc())),
        IpAddr::V6(address) => Ipv6Net::new(address, length)
            .ok()
            .map(|net| IpNet::V6(net.trunc())),
    }
}

/// The first hop of a route that the kernel would use, on the given interface if one is given.
fn living_hop(route: &Route, ifindex: Option<u32>) -> Option<NextHop> {
    route
        .hops
        .iter()
        .find(|hop| !hop.dead && ifindex.is_none_or(|wanted| hop.ifindex == wanted))
        .map(|hop| NextHop {
            ifindex: hop.ifindex,
            gateway: hop.gateway,
        })
}
