//! The part of the kernel's network configuration that the switch follows, as plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// An Ethernet address, in the order of the wire.
pub type MacAddr = [u8; 6];

/// An interface (`RTM_NEWLINK`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of the interface, unique in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` where it has no address of six bytes.
    pub mac: Option<MacAddr>,
    /// The longest packet it takes, in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether it is set up and its carrier is there (`IFF_RUNNING`).
    pub running: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Its kind, such as `veth`, `vxlan` or `bridge`; `None` for a hardware device.
    pub kind: Option<String>,
    /// Receive queues it was made with; how many are in use says [`super::Kernel::channel_count`].
    pub rx_queues: u32,
    /// Transmit queues it was made with.
    pub tx_queues: u32,
    /// The interface number of what it stands on: of a veth's other end, of a VLAN's lower device.
    pub peer_ifindex: Option<u32>,
    /// Whether that other interface is in another network namespace, where its number counts.
    pub peer_elsewhere: bool,
    /// The interface number of the bridge or bond it is a port of.
    pub controller: Option<u32>,
    /// The VLAN it is on the device it stands on, if it is one.
    pub vlan: Option<LinkVlan>,
}

/// What a VLAN device says of itself (`IFLA_VLAN_ID`, `IFLA_VLAN_PROTOCOL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkVlan {
    /// The number in its tag.
    pub number: u16,
    /// Whether the tag is of IEEE 802.1Q, and of no other kind.
    pub is_8021q: bool,
}

/// How far an address or a route reaches (`rt_scope_t`, `linux/rtnetlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Anywhere.
    Universe,
    /// Within a site.
    Site,
    /// On the link itself.
    Link,
    /// On this machine.
    Host,
    /// Nowhere: such a destination does not exist.
    Nowhere,
    /// A scope defined by the administrator.
    Other(u8),
}

/// An address of an interface (`RTM_NEWADDR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's number.
    pub ifindex: u32,
    /// The address with the length of its subnet's prefix.
    pub address: IpNet,
    /// How far it reaches.
    pub scope: Scope,
}

/// What a route does with a packet (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it to a next hop.
    Unicast,
    /// Takes it in on this machine.
    Local,
    /// Drops it silently.
    Blackhole,
    /// Drops it with ICMP host unreachable.
    Unreachable,
    /// Drops it with ICMP administratively prohibited.
    Prohibit,
    /// Goes on with the next routing rule.
    Throw,
    /// Another type, by its number.
    Other(u8),
}

/// One way out of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteHop {
    /// The interface to send on.
    pub ifindex: u32,
    /// The router to send to; `None` if the destination itself is on the link. It can be an IPv6 address on
    /// an IPv4 route (`RTA_VIA`).
    pub gateway: Option<IpAddr>,
    /// Whether the gateway counts as on the link although no subnet covers it (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// The share of flows it takes among the hops of its route, at least 1.
    pub weight: u16,
    /// Whether the kernel does not use it, because its interface is down (`RTNH_F_DEAD`).
    pub dead: bool,
}

/// A route of the main table (`RTM_NEWROUTE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The destinations it is for.
    pub destination: IpNet,
    /// The type-of-service value it is for; 0 for any.
    pub tos: u8,
    /// Its cost; among routes to the same destination the lowest counts.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// How far it reaches.
    pub scope: Scope,
    /// Who made it (`rtm_protocol`); ours is [`super::OWN_ROUTE_PROTOCOL`].
    pub protocol: u8,
    /// The source address of packets that this machine sends along it.
    pub source: Option<IpAddr>,
    /// Its ways out: one, several for a multipath route, none for a route that drops.
    pub hops: Vec<RouteHop>,
}

impl Route {
    /// The first hop's interface.
    #[must_use]
    pub fn ifindex(&self) -> Option<u32> {
        self.hops.first().map(|hop| hop.ifindex)
    }

    /// The first hop's gateway.
    #[must_use]
    pub fn gateway(&self) -> Option<IpAddr> {
        self.hops.first().and_then(|hop| hop.gateway)
    }

    pub(super) fn key(&self) -> RouteKey {
        RouteKey {
            destination: self.destination,
            tos: self.tos,
            metric: self.metric,
        }
    }
}

/// What the kernel knows of a neighbour (`ndm_state`, `NUD_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    /// Being asked for the first time.
    Incomplete,
    /// Confirmed a short while ago.
    Reachable,
    /// Not confirmed for a while; still used.
    Stale,
    /// Used while stale; asked soon.
    Delay,
    /// Being asked again.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    Noarp,
    /// Set by an administrator.
    Permanent,
    /// Nothing known.
    None,
    /// Another value, by its number.
    Other(u16),
}

/// An entry of the neighbour table: ARP or neighbour discovery (`RTM_NEWNEIGH`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is on.
    pub ifindex: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address, when known.
    pub mac: Option<MacAddr>,
    /// What the kernel knows of it.
    pub state: NeighbourState,
}

impl Neighbour {
    /// The Ethernet address to send to: there while the kernel itself would use it (`NUD_VALID`,
    /// `net/neighbour.h`).
    #[must_use]
    pub fn usable_mac(&self) -> Option<MacAddr> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Noarp
            | NeighbourState::Permanent => self.mac,
            NeighbourState::Incomplete
            | NeighbourState::Failed
            | NeighbourState::None
            | NeighbourState::Other(_) => None,
        }
    }
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The interface to send on.
    pub ifindex: u32,
    /// The router to send to; `None` if the destination itself is on the link.
    pub gateway: Option<IpAddr>,
}

/// What orders the routes: destination, then type of service, then cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) destination: IpNet,
    pub(super) tos: u8,
    pub(super) metric: u32,
}

/// The followed part of the kernel's network configuration, of one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelState {
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) addresses: BTreeMap<(u32, IpNet), InterfaceAddress>,
    /// Several routes can have one key (`ip route append`); the kernel uses the first.
    pub(super) routes: BTreeMap<RouteKey, Vec<Route>>,
    pub(super) neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
}

impl KernelState {
    /// A state made up for a test.
    #[cfg(test)]
    pub(crate) fn made_up(
        links: impl IntoIterator<Item = Link>,
        addresses: impl IntoIterator<Item = InterfaceAddress>,
        routes: impl IntoIterator<Item = Route>,
        neighbours: impl IntoIterator<Item = Neighbour>,
    ) -> Self {
        let mut state = Self::default();
        state
            .links
            .extend(links.into_iter().map(|link| (link.ifindex, link)));
        state.addresses.extend(
            addresses
                .into_iter()
                .map(|entry| ((entry.ifindex, entry.address), entry)),
        );
        for route in routes {
            state.routes.entry(route.key()).or_default().push(route);
        }
        state.neighbours.extend(
            neighbours
                .into_iter()
                .map(|entry| ((entry.ifindex, entry.address), entry)),
        );
        state
    }

    /// Whether packets would go another way than by `other`: states of neighbours that come and go without their
    /// address changing do not count.
    #[must_use]
    pub fn differs_for_packets(&self, other: &Self) -> bool {
        let usable = |state: &Self| {
            let known = state
                .neighbours
                .iter()
                .filter_map(|(key, entry)| Some((*key, entry.usable_mac()?)));
            known.collect::<BTreeMap<_, _>>()
        };
        self.links != other.links
            || self.addresses != other.addresses
            || self.routes != other.routes
            || usable(self) != usable(other)
    }

    /// All interfaces, by number.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The interface of this number.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// The interface of this name.
    #[must_use]
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// All addresses, by interface number.
    pub fn addresses(&self) -> impl Iterator<Item = &InterfaceAddress> {
        self.addresses.values()
    }

    /// The addresses of one interface.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = &InterfaceAddress> {
        self.addresses
            .values()
            .filter(move |address| address.ifindex == ifindex)
    }

    /// All routes of the main table, by destination, type of service and cost.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flatten()
    }

    /// All neighbours, by interface number.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values()
    }

    /// The neighbour with this address on this interface.
    #[must_use]
    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&(ifindex, address))
    }
}
