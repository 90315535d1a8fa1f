//! Networks beside the cluster's own, as far as their tunnels tell them apart; and the bridged ones: which port is in which,
//! and where a frame of one may go.
//!
//! A network is told by a small number, and a *segment* is what of it is on this node: ports that are its members, and the
//! other nodes that have members too, each behind a VXLAN tunnel. Network 0 is the cluster's own, which is routed and has no
//! segment. Others that are routed have none either, but tables of their own ([`RoutedNetworks`](super::RoutedNetworks)).

mod member;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::outer::{OuterHeader, OuterLink, TunnelEnds};
use super::{HashKey, StormLimit, Tunnel};
use crate::port::PortId;
use crate::wire::vlan::VlanId;
use crate::wire::{MacAddr, Vni};

pub use member::{Guard, Member};

/// A network's number: dense, from 1; 0 is the cluster's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize)]
#[serde(transparent)]
pub struct NetworkId(u16);

impl NetworkId {
    /// The cluster's own network.
    pub const CLUSTER: Self = Self(0);

    /// The network with this number.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The number as an index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of another node's end of bridged networks' tunnels: dense, from 0, one for each underlay address whichever
/// networks are behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RemoteId(u16);

impl RemoteId {
    /// How many there can be at once.
    pub const LIMIT: u16 = 4096;

    /// The remote with this number; `None` from [`Self::LIMIT`] on.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::LIMIT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number as an index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for RemoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a station is, or where a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// The switch itself.
    Switch,
    /// Behind this port.
    Port(PortId),
    /// Behind this other node.
    Remote(RemoteId),
}

/// How a network's VXLAN packets are told from others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentTunnel {
    /// The network identifier.
    pub vni: Vni,
    /// The UDP port of both ends.
    pub port: u16,
}

impl SegmentTunnel {
    /// The same as one word.
    const fn word(self) -> u64 {
        (self.port as u64) << 24 | self.vni.get() as u64
    }
}

/// The way to another node that has members of a network.
#[derive(Debug, Clone)]
pub struct RemoteExit {
    remote: RemoteId,
    port: PortId,
    outer: Option<OuterHeader>,
}

impl RemoteExit {
    /// The way through the uplink `port`; `link` is `None` while the underlay's next hop is unknown.
    #[must_use]
    pub fn new(
        remote: RemoteId,
        port: PortId,
        ends: TunnelEnds,
        tunnel: SegmentTunnel,
        link: Option<OuterLink>,
    ) -> Self {
        // The frame inside keeps its own header, which is written over the template's.
        let vxlan = Tunnel::Vxlan {
            vni: tunnel.vni,
            port: tunnel.port,
            local_mac: MacAddr::ZERO,
            remote_mac: MacAddr::ZERO,
        };
        Self {
            remote,
            port,
            outer: link.and_then(|link| OuterHeader::new(link, ends, vxlan)),
        }
    }

    /// Which node.
    #[inline]
    #[must_use]
    pub fn remote(&self) -> RemoteId {
        self.remote
    }

    /// The uplink.
    #[inline]
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// The outer header, whose inner Ethernet header is all zero; `None` while the underlay's next hop is unknown.
    #[inline]
    #[must_use]
    pub fn outer(&self) -> Option<&OuterHeader> {
        self.outer.as_ref()
    }
}

/// What of a bridged network is on this node.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its VXLAN; `None` for a network of this node alone.
    pub tunnel: Option<SegmentTunnel>,
    /// The other nodes that frames for all go to, and from which they are taken. In the order of their numbers.
    pub remotes: Box<[RemoteExit]>,
    /// Whether stations are learned from what comes in at ports.
    pub learns_from_ports: bool,
    /// Whether stations are learned from what comes out of tunnels.
    pub learns_from_remotes: bool,
    /// Whether ARP and neighbour discovery for all go to the slow path, which answers what it knows.
    pub suppresses: bool,
    /// Whether reports of group membership (IGMP, MLD) go to the slow path.
    pub snoops: bool,
    /// How many frames for all, groups and unknown stations each location may send.
    pub storm: Option<StormLimit>,
    /// The largest IP packet, in bytes, that fits the tunnels.
    pub mtu: u16,
}

impl Segment {
    /// The way to a node, if it is one of the network's.
    #[inline]
    #[must_use]
    pub fn remote(&self, remote: RemoteId) -> Option<&RemoteExit> {
        let place = self.remotes.binary_search_by_key(&remote, RemoteExit::remote);
        self.remotes.get(place.ok()?)
    }

    /// Whether stations are learned from what comes from there.
    #[inline]
    #[must_use]
    pub fn learns_from(&self, location: Location) -> bool {
        match location {
            Location::Switch => false,
            Location::Port(_) => self.learns_from_ports,
            Location::Remote(_) => self.learns_from_remotes,
        }
    }
}

/// A segment and the ports that are its members, each with the tag of what goes there.
#[derive(Debug, Clone)]
struct Place {
    segment: Segment,
    exits: Box<[(PortId, Option<VlanId>)]>,
}

/// The bridged networks of a node, and which tunnels are whose.
#[derive(Debug, Clone)]
pub struct Networks {
    /// Indexed by [`PortId::index`].
    members: Vec<Option<Member>>,
    /// Indexed by [`NetworkId::index`].
    places: Vec<Option<Place>>,
    by_tunnel: HashMap<u64, NetworkId, HashKey>,
    remotes: HashMap<IpAddr, RemoteId, HashKey>,
}

impl Default for Networks {
    fn default() -> Self {
        Self::build([], [], [], [])
    }
}

impl Networks {
    /// Builds the tables. `remotes` are the other nodes' underlay addresses. A member of a network that has no segment is
    /// no member of it. `routed` are the tunnels of routed networks. Of two networks of one VNI and UDP port, a bridged one or else
    /// the one with the higher number gets the packets.
    #[must_use]
    pub fn build(
        members: impl IntoIterator<Item = (PortId, Member)>,
        segments: impl IntoIterator<Item = (NetworkId, Segment)>,
        remotes: impl IntoIterator<Item = (IpAddr, RemoteId)>,
        routed: impl IntoIterator<Item = (NetworkId, SegmentTunnel)>,
    ) -> Self {
        let key = HashKey::random();
        let mut networks = Self {
            members: Vec::new(),
            places: Vec::new(),
            by_tunnel: HashMap::with_hasher(key),
            remotes: HashMap::with_hasher(key),
        };
        let mut routed: Vec<_> = routed.into_iter().collect();
        routed.sort_by_key(|(network, _)| *network);
        let tunnels = routed.into_iter();
        networks
            .by_tunnel
            .extend(tunnels.map(|(network, tunnel)| (tunnel.word(), network)));
        for (port, member) in members {
            put(&mut networks.members, port.index(), member);
        }
        let mut segments: Vec<_> = segments.into_iter().collect();
        segments.sort_by_key(|(network, _)| *network);
        for (network, mut segment) in segments {
            if let Some(tunnel) = segment.tunnel {
                networks.by_tunnel.insert(tunnel.word(), network);
            }
            segment.remotes.sort_by_key(RemoteExit::remote);
            let exits = numbered(&networks.members)
                .filter_map(|(port, member)| Some((port, member.tag(network)?)))
                .collect();
            put(&mut networks.places, network.index(), Place { segment, exits });
        }
        networks.remotes.extend(remotes);
        networks
    }

    /// How a port is in networks, if it is in any.
    #[inline]
    #[must_use]
    pub fn member(&self, port: PortId) -> Option<&Member> {
        self.members.get(port.index())?.as_ref()
    }

    /// A network's segment.
    #[inline]
    #[must_use]
    pub fn segment(&self, network: NetworkId) -> Option<&Segment> {
        Some(&self.places.get(network.index())?.as_ref()?.segment)
    }

    /// The ports that are in a network, in the order of their numbers, each with the tag of what goes there.
    #[inline]
    #[must_use]
    pub fn exits(&self, network: NetworkId) -> &[(PortId, Option<VlanId>)] {
        let place = self.places.get(network.index()).and_then(Option::as_ref);
        place.map_or(&[], |place| &place.exits)
    }

    /// Whether there is any tunnel to look for among what comes from the wire.
    #[inline]
    #[must_use]
    pub fn has_tunnels(&self) -> bool {
        !self.by_tunnel.is_empty()
    }

    /// The network of VXLAN packets with this identifier, to this UDP port.
    #[inline]
    #[must_use]
    pub fn by_tunnel(&self, tunnel: SegmentTunnel) -> Option<NetworkId> {
        self.by_tunnel.get(&tunnel.word()).copied()
    }

    /// The other node with this underlay address.
    #[inline]
    #[must_use]
    pub fn remote(&self, address: IpAddr) -> Option<RemoteId> {
        self.remotes.get(&address).copied()
    }

    /// Every segment there is, in the order of their networks.
    pub fn iter(&self) -> impl Iterator<Item = (NetworkId, &Segment)> {
        let numbered = (0..=u16::MAX).map(NetworkId::new).zip(&self.places);
        numbered.filter_map(|(network, place)| Some((network, &place.as_ref()?.segment)))
    }

    /// Every port that is in any network, in the order of their numbers.
    pub fn members(&self) -> impl Iterator<Item = (PortId, &Member)> {
        numbered(&self.members)
    }
}

/// What there is of a list by port.
fn numbered<T>(list: &[Option<T>]) -> impl Iterator<Item = (PortId, &T)> {
    let numbered = (0..PortId::LIMIT).filter_map(PortId::new).zip(list);
    numbered.filter_map(|(port, item)| Some((port, item.as_ref()?)))
}

/// Puts an item at its place in a list that is as long as it has to be.
fn put<T>(list: &mut Vec<Option<T>>, at: usize, item: T) {
    if list.len() <= at {
        list.resize_with(at + 1, || None);
    }
    if let Some(place) = list.get_mut(at) {
        *place = Some(item);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn port(number: u16) -> PortId {
        PortId::new(number).unwrap()
    }

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    fn segment(tunnel: Option<SegmentTunnel>, remotes: &[u16]) -> Segment {
        let exit = |number| {
            let remote = RemoteId::new(number).unwrap();
            let ends = TunnelEnds::V4 {
                local: [192, 0, 2, 1].into(),
                remote: [192, 0, 2, 2].into(),
            };
            RemoteExit::new(remote, port(0), ends, tunnel.unwrap(), None)
        };
        Segment {
            tunnel,
            remotes: remotes.iter().copied().map(exit).collect(),
            learns_from_ports: true,
            learns_from_remotes: false,
            suppresses: false,
            snoops: false,
            storm: None,
            mtu: 1450,
        }
    }

    #[test]
    fn ports_networks_and_tunnels_lead_to_each_other() {
        let [red, blue, green] = [1, 2, 9].map(NetworkId::new);
        let tunnel = |vni: u32, port| SegmentTunnel {
            vni: Vni::try_from(vni).unwrap(),
            port,
        };
        let access = |network| Member::Access {
            network,
            guard: Guard::default(),
        };
        let networks = Networks::build(
            [
                (port(7), access(red)),
                (port(3), Member::trunk([(vlan(20), blue), (vlan(10), red)], None)),
                (port(5), Member::trunk([(vlan(7), NetworkId::new(4))], Some(blue))),
            ],
            [
                (blue, segment(Some(tunnel(100, 8472)), &[4, 2])),
                (red, segment(None, &[])),
                (green, segment(Some(tunnel(100, 4789)), &[2])),
            ],
            [("192.0.2.2".parse().unwrap(), RemoteId::new(2).unwrap())],
            [
                (NetworkId::new(12), tunnel(300, 8472)),
                (NetworkId::new(11), tunnel(300, 8472)),
                (NetworkId::new(13), tunnel(100, 4789)),
            ],
        );
        assert_eq!(networks.exits(red), [(port(3), Some(vlan(10))), (port(7), None)]);
        assert_eq!(networks.exits(blue), [(port(3), Some(vlan(20))), (port(5), None)]);
        assert_eq!(networks.exits(green), []);
        assert_eq!(networks.exits(NetworkId::new(4)), [], "no segment");
        assert!(networks.has_tunnels() && !Networks::default().has_tunnels());
        assert_eq!(networks.by_tunnel(tunnel(100, 8472)), Some(blue));
        assert_eq!(
            networks.by_tunnel(tunnel(100, 4789)),
            Some(green),
            "the bridged one's"
        );
        let routed = NetworkId::new(12);
        assert_eq!(networks.by_tunnel(tunnel(300, 8472)), Some(routed));
        assert!(networks.segment(routed).is_none() && networks.exits(routed).is_empty());
        assert_eq!(networks.by_tunnel(tunnel(101, 4789)), None);
        let remote = networks.remote("192.0.2.2".parse().unwrap()).unwrap();
        let segment = networks.segment(blue).unwrap();
        assert!(segment.remote(remote).is_some_and(|exit| exit.outer().is_none()));
        assert!(segment.remote(RemoteId::new(3).unwrap()).is_none());
        let numbers: Vec<_> = networks.iter().map(|(network, _)| network).collect();
        assert_eq!(numbers, [red, blue, green]);
    }

    #[test]
    fn a_tag_leads_to_a_network_and_back() {
        let [red, blue] = [1, 2].map(NetworkId::new);
        let trunk = Member::trunk([(vlan(20), blue), (vlan(10), red)], Some(red));
        assert_eq!(trunk.network(Some(vlan(20))), Some(blue));
        assert_eq!(trunk.network(Some(vlan(21))), None);
        assert_eq!(trunk.network(None), Some(red));
        assert_eq!(trunk.tag(red), Some(None), "without a tag, if it may");
        assert_eq!(trunk.tag(blue), Some(Some(vlan(20))));
        assert_eq!(trunk.tag(NetworkId::new(3)), None);
        let access = Member::Access {
            network: red,
            guard: Guard::default(),
        };
        assert_eq!(access.network(Some(vlan(10))), None);
        assert_eq!((access.tag(red), access.tag(blue)), (Some(None), None));
        assert_eq!(trunk.networks().collect::<Vec<_>>(), [red, red, blue]);
    }
}
