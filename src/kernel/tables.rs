//! Changes to the followed tables: what the kernel's events do to a [`KernelState`].

use std::fmt;
use std::net::IpAddr;

use super::state::{InterfaceAddress, KernelState, Link, Neighbour, Route, RouteHop};

/// One of the followed tables. Each is read from the kernel on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Links,
    Addresses,
    Routes,
    Neighbours,
}

impl Table {
    /// All tables, in the order in which they are first read.
    pub(super) const ALL: [Self; 4] = [Self::Links, Self::Addresses, Self::Routes, Self::Neighbours];
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Links => "interfaces",
            Self::Addresses => "addresses",
            Self::Routes => "routes",
            Self::Neighbours => "neighbours",
        })
    }
}

/// Where a new route goes among those with its destination, type of service and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    /// Before them (the kernel's default, `NLM_F_CREATE` alone).
    First,
    /// After them (`NLM_F_APPEND`, and the order in which a table is read).
    Last,
    /// In the first one's place (`NLM_F_REPLACE`).
    InPlaceOfFirst,
}

/// One change of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    LinkSet(Link),
    LinkGone(u32),
    AddressSet(InterfaceAddress),
    AddressGone(InterfaceAddress),
    RouteSet(Route, Placement),
    RouteGone(Route),
    NeighbourSet(Neighbour),
    NeighbourGone(u32, IpAddr),
}

impl Change {
    /// The table it is about.
    pub(super) fn table(&self) -> Table {
        match self {
            Self::LinkSet(_) | Self::LinkGone(_) => Table::Links,
            Self::AddressSet(_) | Self::AddressGone(_) => Table::Addresses,
            Self::RouteSet(..) | Self::RouteGone(_) => Table::Routes,
            Self::NeighbourSet(_) | Self::NeighbourGone(..) => Table::Neighbours,
        }
    }
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Effect {
    /// The state is another one now.
    pub(super) changed: bool,
    /// The routes may have changed without a word: the kernel takes IPv4 routes away without saying so when
    /// an interface goes down or an address is removed (`fib_table_flush` in `net/ipv4/fib_trie.c`); or the
    /// change did not fit what was there.
    pub(super) routes_doubtful: bool,
}

impl KernelState {
    /// Does to the tables what the kernel said.
    pub(super) fn apply(&mut self, change: Change) -> Effect {
        match change {
            Change::LinkSet(link) => self.set_link(link),
            Change::LinkGone(ifindex) => self.remove_link(ifindex),
            Change::AddressSet(address) => {
                let key = (address.ifindex, address.address);
                let former = self.addresses.insert(key, address.clone());
                Effect {
                    changed: former.as_ref() != Some(&address),
                    routes_doubtful: false,
                }
            }
            Change::AddressGone(address) => {
                let changed = self
                    .addresses
                    .remove(&(address.ifindex, address.address))
                    .is_some();
                Effect {
                    changed,
                    routes_doubtful: changed,
                }
            }
            Change::RouteSet(route, placement) => self.set_route(route, placement),
            Change::RouteGone(route) => self.remove_route(&route),
            Change::NeighbourSet(neighbour) => {
                let key = (neighbour.ifindex, neighbour.address);
                let former = self.neighbours.insert(key, neighbour.clone());
                Effect {
                    changed: former.as_ref() != Some(&neighbour),
                    routes_doubtful: false,
                }
            }
            Change::NeighbourGone(ifindex, address) => {
                let changed = self.neighbours.remove(&(ifindex, address)).is_some();
                Effect {
                    changed,
                    routes_doubtful: false,
                }
            }
        }
    }

    /// Puts one table of `fresh` in place of ours. Says whether it was another.
    pub(super) fn adopt(&mut self, table: Table, fresh: &mut Self) -> bool {
        fn adopt<T: PartialEq + Default>(ours: &mut T, theirs: &mut T) -> bool {
            let changed = ours != theirs;
            *ours = std::mem::take(theirs);
            changed
        }
        match table {
            Table::Links => adopt(&mut self.links, &mut fresh.links),
            Table::Addresses => adopt(&mut self.addresses, &mut fresh.addresses),
            Table::Routes => adopt(&mut self.routes, &mut fresh.routes),
            Table::Neighbours => adopt(&mut self.neighbours, &mut fresh.neighbours),
        }
    }

    fn set_link(&mut self, link: Link) -> Effect {
        let ifindex = link.ifindex;
        let (up, running) = (link.up, link.running);
        let former = self.links.insert(ifindex, link);
        let now = self.links.get(&ifindex);
        let changed = former.as_ref() != now;
        let routes_doubtful = former.is_some_and(|former| former.up != up || former.running != running);
        Effect {
            changed,
            routes_doubtful,
        }
    }

    fn remove_link(&mut self, ifindex: u32) -> Effect {
        let changed = self.links.remove(&ifindex).is_some();
        self.addresses.retain(|(on, _), _| *on != ifindex);
        self.neighbours.retain(|(on, _), _| *on != ifindex);
        Effect {
            changed,
            routes_doubtful: changed,
        }
    }

    fn set_route(&mut self, mut route: Route, placement: Placement) -> Effect {
        let routes = self.routes.entry(route.key()).or_default();
        let same = routes
            .iter_mut()
            .find(|known| same_way(known, &route) || grows_into(known, &route));
        if let Some(same) = same {
            // An event names the new hops first; in the table they come last.
            let rank = |hop: &RouteHop| same.hops.iter().position(|known| same_hop(known, hop));
            route.hops.sort_by_key(|hop| rank(hop).unwrap_or(usize::MAX));
            let changed = *same != route;
            *same = route;
            return Effect {
                changed,
                routes_doubtful: false,
            };
        }
        match (placement, routes.first_mut()) {
            (Placement::InPlaceOfFirst, Some(first)) => *first = route,
            // IPv6 always puts a new one last (`fib6_add_rt2node` in `net/ipv6/ip6_fib.c`).
            (Placement::Last, _) => routes.push(route),
            _ if route.destination.addr().is_ipv6() => routes.push(route),
            (Placement::First | Placement::InPlaceOfFirst, _) => routes.insert(0, route),
        }
        Effect {
            changed: true,
            routes_doubtful: false,
        }
    }

    fn remove_route(&mut self, route: &Route) -> Effect {
        let key = route.key();
        let Some(routes) = self.routes.get_mut(&key) else {
            return Effect {
                changed: false,
                routes_doubtful: true,
            };
        };
        let before = routes.len();
        if let Some(position) = routes.iter().position(|known| same_way(known, route)) {
            routes.remove(position);
        } else if let Some(many) = routes.iter_mut().find(|known| grows_into(route, known)) {
            // IPv6 says which hop of a multipath route is gone, not which ones are left.
            many.hops
                .retain(|hop| !route.hops.iter().any(|gone| same_hop(gone, hop)));
            return Effect {
                changed: true,
                routes_doubtful: false,
            };
        }
        let changed = routes.len() != before;
        if routes.is_empty() {
            self.routes.remove(&key);
        }
        Effect {
            changed,
            routes_doubtful: !changed,
        }
    }
}

/// Whether two routes of one key go the same way. Flags of hops and the like may differ.
fn same_way(one: &Route, other: &Route) -> bool {
    one.kind == other.kind
        && one.hops.len() == other.hops.len()
        && one.hops.iter().zip(&other.hops).all(|(a, b)| same_hop(a, b))
}

/// Whether the IPv6 route `large` is `small` with more hops: to IPv6, hops added one by one are one route.
fn grows_into(small: &Route, large: &Route) -> bool {
    large.destination.addr().is_ipv6()
        && small.kind == large.kind
        && !small.hops.is_empty()
        && small.hops.len() < large.hops.len()
        && small
            .hops
            .iter()
            .all(|hop| large.hops.iter().any(|other| same_hop(hop, other)))
}

fn same_hop(one: &RouteHop, other: &RouteHop) -> bool {
    one.ifindex == other.ifindex && one.gateway == other.gateway
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::kernel::state::{RouteKind, Scope};

    fn hop(gateway: &str) -> RouteHop {
        RouteHop {
            ifindex: 2,
            gateway: Some(gateway.parse().unwrap()),
            onlink: false,
            weight: 1,
            dead: false,
        }
    }

    fn route(destination: &str, gateways: &[&str]) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            tos: 0,
            metric: 0,
            kind: RouteKind::Unicast,
            scope: Scope::Universe,
            protocol: 4,
            source: None,
            hops: gateways.iter().map(|gateway| hop(gateway)).collect(),
        }
    }

    /// One event about the route to one prefix.
    enum Event {
        Set(&'static [&'static str], Placement),
        Gone(&'static [&'static str]),
    }

    /// Events about a prefix, the gateways of its routes after them, and whether the last event fitted.
    struct Row(
        &'static str,
        &'static [Event],
        &'static [&'static [&'static str]],
        bool,
    );

    #[test]
    fn routes_to_one_destination_stand_as_in_the_kernel() {
        use Event::{Gone, Set};
        use Placement::{First, InPlaceOfFirst, Last};
        let (v4, v6) = ("10.0.0.0/8", "2001:db8::/32");
        let rows = [
            Row(
                v4,
                &[Set(&["192.0.2.1"], First), Set(&["192.0.2.2"], First)],
                &[&["192.0.2.2"], &["192.0.2.1"]],
                true,
            ),
            Row(
                v4,
                &[Set(&["192.0.2.1"], First), Set(&["192.0.2.2"], Last)],
                &[&["192.0.2.1"], &["192.0.2.2"]],
                true,
            ),
            Row(
                v4,
                &[Set(&["192.0.2.1"], First), Set(&["192.0.2.2"], InPlaceOfFirst)],
                &[&["192.0.2.2"]],
                true,
            ),
            Row(
                v4,
                &[Set(&["192.0.2.1"], InPlaceOfFirst)],
                &[&["192.0.2.1"]],
                true,
            ),
            Row(
                v4,
                &[Set(&["192.0.2.1"], First), Set(&["192.0.2.1"], First)],
                &[&["192.0.2.1"]],
                true,
            ),
            Row(v4, &[Set(&["192.0.2.1"], First), Gone(&["192.0.2.1"])], &[], true),
            Row(
                v4,
                &[Set(&["192.0.2.1"], First), Gone(&["192.0.2.2"])],
                &[&["192.0.2.1"]],
                false,
            ),
            Row(v4, &[Gone(&["192.0.2.1"])], &[], false),
            Row(
                v4,
                &[Set(&["192.0.2.1", "192.0.2.2"], First), Gone(&["192.0.2.1"])],
                &[&["192.0.2.1", "192.0.2.2"]],
                false,
            ),
            Row(
                v6,
                &[Set(&["fe80::1"], First), Set(&["fe80::2"], First)],
                &[&["fe80::1"], &["fe80::2"]],
                true,
            ),
            Row(
                v6,
                &[Set(&["fe80::1"], First), Set(&["fe80::2", "fe80::1"], Last)],
                &[&["fe80::1", "fe80::2"]],
                true,
            ),
            Row(
                v6,
                &[Set(&["fe80::1", "fe80::2"], First), Gone(&["fe80::1"])],
                &[&["fe80::2"]],
                true,
            ),
            Row(
                v6,
                &[Set(&["fe80::1", "fe80::2"], First), Gone(&["fe80::3"])],
                &[&["fe80::1", "fe80::2"]],
                false,
            ),
        ];
        for (number, Row(prefix, events, wanted, fits)) in rows.iter().enumerate() {
            let mut state = KernelState::default();
            let mut effect = Effect::default();
            for event in *events {
                effect = state.apply(match event {
                    Set(gateways, placement) => Change::RouteSet(route(prefix, gateways), *placement),
                    Gone(gateways) => Change::RouteGone(route(prefix, gateways)),
                });
            }
            let wanted: Vec<Route> = wanted.iter().map(|gateways| route(prefix, gateways)).collect();
            assert_eq!(
                state.routes().cloned().collect::<Vec<_>>(),
                wanted,
                "row {number}"
            );
            assert_eq!(effect.routes_doubtful, !fits, "row {number}");
        }
    }

    #[test]
    fn what_says_nothing_new_is_no_change() {
        let mut state = KernelState::default();
        let set = Change::RouteSet(route("10.0.0.0/8", &["192.0.2.1"]), Placement::First);
        assert!(state.apply(set.clone()).changed);
        assert_eq!(state.apply(set), Effect::default());
        let mut fresh = state.clone();
        assert!(!state.adopt(Table::Routes, &mut fresh));
        assert!(state.adopt(Table::Routes, &mut KernelState::default()));
    }
}
