//! The other nodes, and the tunnels to them.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::outer::{OuterHeader, OuterLink, TunnelEnds};
use super::{Lpm, Prefix};
use crate::port::PortId;
use crate::wire::{MacAddr, Vni};

/// Another node's number: dense, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(u16);

impl PeerId {
    /// The peer with this number.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number as an index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How packets to a peer are wrapped, and how those from it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tunnel {
    /// VXLAN (RFC 7348).
    Vxlan {
        /// The network.
        vni: Vni,
        /// The UDP destination port.
        port: u16,
        /// Our tunnel device's MAC address: the inner source.
        local_mac: MacAddr,
        /// The peer's: the inner destination.
        remote_mac: MacAddr,
    },
    /// IP-in-IP (RFC 2003).
    Ipip,
}

/// The way to a peer through the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Underlay {
    /// The port it begins at.
    pub port: PortId,
    /// The first station on it: the peer itself, or a router.
    pub next_hop: IpAddr,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's address in the underlay: where its tunnel packets come from and ours go to.
    pub remote: IpAddr,
    /// How they are wrapped.
    pub tunnel: Tunnel,
    /// The way there.
    pub underlay: Underlay,
    /// The largest inner IP packet that the tunnel takes, in bytes.
    pub mtu: u16,
    /// What goes before a packet to this peer; `None` while the link address of the underlay's next hop is not
    /// known, or its family is not carried.
    pub outer: Option<OuterHeader>,
}

impl Peer {
    /// A peer whose outer header is built from the rest: `ends` are those of the tunnel, ours first, `link` the
    /// addresses of the first link on the way, `None` while they are not known.
    #[must_use]
    pub fn new(
        ends: impl Into<TunnelEnds>,
        tunnel: Tunnel,
        underlay: Underlay,
        mtu: u16,
        link: Option<OuterLink>,
    ) -> Self {
        let ends = ends.into();
        let outer = link.and_then(|link| OuterHeader::new(link, ends, tunnel));
        Self {
            remote: ends.remote(),
            tunnel,
            underlay,
            mtu,
            outer,
        }
    }
}

/// Who may send inner packets from a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Senders {
    /// No peer, although a shorter prefix says otherwise.
    Nobody,
    /// This peer alone.
    One(PeerId),
    /// Any of these: several ways lead there.
    Any(Vec<PeerId>),
}

/// [`Senders`], in a word.
#[derive(Debug, Clone, Copy)]
enum Sender {
    Nobody,
    One(PeerId),
    /// The place among those that are several.
    Any(u32),
}

/// Every other node: by number, by the source address of its tunnel packets, and by what it may send in them.
#[derive(Debug, Clone, Default)]
pub struct PeerTable {
    peers: Vec<Option<Peer>>,
    /// By outer source address, for each kind of tunnel: a node may have one of each. A match on whole addresses costs no
    /// hash and nobody can make it collide.
    vxlan_sources: Lpm<PeerId>,
    ipip_sources: Lpm<PeerId>,
    inner_sources: Lpm<Sender>,
    several: Vec<Box<[PeerId]>>,
    /// Whether what has this source comes in no tunnel; what is in none of the prefixes, as far as it is no peer's.
    plain_sources: Option<Lpm<bool>>,
}

/// A kind of tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// [`Tunnel::Vxlan`].
    Vxlan,
    /// [`Tunnel::Ipip`].
    Ipip,
}

impl Tunnel {
    /// Its kind.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> TunnelKind {
        match self {
            Self::Vxlan { .. } => TunnelKind::Vxlan,
            Self::Ipip => TunnelKind::Ipip,
        }
    }
}

impl PeerTable {
    /// Builds the table. `inner_sources` says which peer may send from which inner addresses: its pod prefixes, its
    /// tunnel address, its node addresses. Of two entries for one number or prefix the later one counts.
    #[must_use]
    pub fn build(
        peers: impl IntoIterator<Item = (PeerId, Peer)>,
        inner_sources: impl IntoIterator<Item = (Prefix, PeerId)>,
    ) -> Self {
        let inner_sources = inner_sources.into_iter();
        Self::with_senders(
            peers,
            inner_sources.map(|(prefix, id)| (prefix, Senders::One(id))),
        )
    }

    /// [`Self::build`], where several peers may send from one prefix, or none.
    #[must_use]
    pub fn with_senders(
        peers: impl IntoIterator<Item = (PeerId, Peer)>,
        inner_sources: impl IntoIterator<Item = (Prefix, Senders)>,
    ) -> Self {
        let mut numbered = Vec::new();
        for (id, peer) in peers {
            if numbered.len() <= id.index() {
                numbered.resize(id.index() + 1, None);
            }
            if let Some(slot) = numbered.get_mut(id.index()) {
                *slot = Some(peer);
            }
        }
        let sources = |kind| {
            let ids = (0..=u16::MAX).map(PeerId).zip(&numbered);
            Lpm::build(ids.filter_map(|(id, peer)| {
                let peer = peer.as_ref().filter(|peer| peer.tunnel.kind() == kind)?;
                Some((Prefix::host(peer.remote), id))
            }))
        };
        let mut several: Vec<Box<[PeerId]>> = Vec::new();
        let inner_sources = Lpm::build(inner_sources.into_iter().map(|(prefix, senders)| {
            let sender = match senders {
                Senders::Nobody => Sender::Nobody,
                Senders::One(id) => Sender::One(id),
                Senders::Any(ids) => {
                    several.push(ids.into());
                    u32::try_from(several.len() - 1).map_or(Sender::Nobody, Sender::Any)
                }
            };
            (prefix, sender)
        }));
        Self {
            vxlan_sources: sources(TunnelKind::Vxlan),
            ipip_sources: sources(TunnelKind::Ipip),
            peers: numbered,
            inner_sources,
            several,
            plain_sources: None,
        }
    }

    /// The table with sources of which packets come plainly routed, as from a node on the same subnet that wraps only what
    /// goes to others: `true` for those, `false` for prefixes within them that are somebody else's.
    #[must_use]
    pub fn with_plain_sources(mut self, sources: impl IntoIterator<Item = (Prefix, bool)>) -> Self {
        let mut sources = sources.into_iter().peekable();
        self.plain_sources = sources.peek().is_some().then(|| Lpm::build(sources));
        self
    }

    /// Whether packets from `address` come in no tunnel, though it is a pod's of another node.
    #[inline]
    #[must_use]
    pub fn comes_plain(&self, address: IpAddr) -> bool {
        let sources = self.plain_sources.as_ref();
        sources.is_some_and(|sources| sources.lookup(address) == Some(true))
    }

    /// The peer with this number.
    #[inline]
    #[must_use]
    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.index())?.as_ref()
    }

    /// The peer whose tunnel packets of this kind come from `address`.
    #[inline]
    #[must_use]
    pub fn by_outer_source(&self, address: IpAddr, kind: TunnelKind) -> Option<(PeerId, &Peer)> {
        let sources = match kind {
            TunnelKind::Vxlan => &self.vxlan_sources,
            TunnelKind::Ipip => &self.ipip_sources,
        };
        let id = sources.lookup(address)?;
        Some((id, self.get(id)?))
    }

    /// The only peer that may send inner packets from `address`, or the first of several; of a node with a tunnel of each
    /// kind, one of the two.
    #[inline]
    #[must_use]
    pub fn by_inner_source(&self, address: IpAddr) -> Option<PeerId> {
        match self.inner_sources.lookup(address)? {
            Sender::One(id) => Some(id),
            Sender::Any(place) => self.several.get(place as usize)?.first().copied(),
            Sender::Nobody => None,
        }
    }

    /// Whether a peer may send inner packets from `address`, by itself or as the other tunnel to the same node.
    #[inline]
    #[must_use]
    pub fn may_send(&self, id: PeerId, address: IpAddr) -> bool {
        let is_it = |known: PeerId| known == id || self.is_one_node(known, id);
        match self.inner_sources.lookup(address) {
            Some(Sender::One(known)) => is_it(known),
            Some(Sender::Any(place)) => {
                let several = self.several.get(place as usize);
                several.is_some_and(|several| several.iter().copied().any(is_it))
            }
            Some(Sender::Nobody) | None => false,
        }
    }

    /// Whether two tunnels end at one node.
    fn is_one_node(&self, one: PeerId, other: PeerId) -> bool {
        let remote = |id| self.get(id).map(|peer| peer.remote);
        remote(one).is_some_and(|address| remote(other) == Some(address))
    }

    /// Every peer, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        (0..=u16::MAX)
            .map(PeerId)
            .zip(&self.peers)
            .filter_map(|(id, peer)| Some((id, peer.as_ref()?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_peer_is_found_by_number_outer_source_and_inner_source() {
        let underlay = Underlay {
            port: PortId::new(0).unwrap(),
            next_hop: IpAddr::from([192, 0, 2, 1]),
        };
        let peer = |last| {
            let ends = (Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, last));
            Peer::new(ends, Tunnel::Ipip, underlay, 1480, None)
        };
        let (a, b) = (PeerId::new(0), PeerId::new(2));
        let inner = [
            ("10.244.1.0/24".parse().unwrap(), a),
            ("10.244.1.64/26".parse().unwrap(), b),
        ];
        let table = PeerTable::build([(a, peer(1)), (b, peer(3))], inner);
        let ipip_from = |last| {
            let found = table.by_outer_source(IpAddr::from([192, 0, 2, last]), TunnelKind::Ipip);
            found.map(|(id, _)| id)
        };
        assert_eq!((ipip_from(3), ipip_from(2)), (Some(b), None));
        assert!(
            table
                .by_outer_source(IpAddr::from([192, 0, 2, 3]), TunnelKind::Vxlan)
                .is_none(),
            "another kind"
        );
        assert!(table.get(PeerId::new(1)).is_none());
        let sends = |address: [u8; 4]| {
            let address = IpAddr::from(address);
            [a, b].map(|id| table.may_send(id, address))
        };
        assert_eq!(sends([10, 244, 1, 65]), [false, true], "a borrowed block");
        assert_eq!(sends([10, 244, 1, 1]), [true, false]);
        assert_eq!(sends([10, 244, 2, 1]), [false, false]);
        assert_eq!(table.iter().map(|(id, _)| id).collect::<Vec<_>>(), [a, b]);
        assert!(
            table.get(a).unwrap().outer.is_none(),
            "no link address, no outer header"
        );
    }

    #[test]
    fn several_may_send_from_one_prefix_and_nobody_from_a_part_of_it() {
        let (a, b, c) = (PeerId::new(0), PeerId::new(1), PeerId::new(2));
        let inner = [
            ("10.0.0.0/8".parse().unwrap(), Senders::Any(vec![a, c])),
            ("10.244.0.0/16".parse().unwrap(), Senders::Nobody),
            ("10.244.1.0/24".parse().unwrap(), Senders::One(b)),
        ];
        let table = PeerTable::with_senders([], inner);
        let may = |address: [u8; 4]| {
            let address = IpAddr::from(address);
            let any = table.by_inner_source(address).is_some();
            let each = [a, b, c].map(|id| table.may_send(id, address));
            assert_eq!(any, each.contains(&true));
            each
        };
        assert_eq!(may([10, 1, 1, 1]), [true, false, true]);
        assert_eq!(may([10, 244, 2, 1]), [false; 3]);
        assert_eq!(may([10, 244, 1, 1]), [false, true, false]);
        assert_eq!(may([192, 0, 2, 1]), [false; 3]);
    }

    #[test]
    fn a_node_may_have_a_tunnel_of_each_kind_and_send_its_own_by_either() {
        let underlay = Underlay {
            port: PortId::new(0).unwrap(),
            next_hop: IpAddr::from([192, 0, 2, 1]),
        };
        let vxlan = Tunnel::Vxlan {
            vni: Vni::MAX,
            port: 4789,
            local_mac: MacAddr::ZERO,
            remote_mac: MacAddr::ZERO,
        };
        let peer = |last, tunnel| {
            let ends = (Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, last));
            Peer::new(ends, tunnel, underlay, 1450, None)
        };
        let ids = [0, 1, 2].map(PeerId::new);
        let peers = [peer(1, Tunnel::Ipip), peer(1, vxlan), peer(2, vxlan)];
        let own = ("10.244.1.0/26".parse().unwrap(), ids[0]);
        let table = PeerTable::build(ids.into_iter().zip(peers), [own]);
        let outer = IpAddr::from([192, 0, 2, 1]);
        for (kind, id) in [(TunnelKind::Ipip, ids[0]), (TunnelKind::Vxlan, ids[1])] {
            assert_eq!(table.by_outer_source(outer, kind).map(|(id, _)| id), Some(id));
        }
        let pod = IpAddr::from([10, 244, 1, 3]);
        assert_eq!(ids.map(|id| table.may_send(id, pod)), [true, true, false]);
        assert!(!table.may_send(ids[0], IpAddr::from([10, 244, 1, 64])));
    }

    #[test]
    fn what_comes_plain_is_decided_by_the_longest_prefix() {
        let table = PeerTable::default();
        assert!(!table.comes_plain(IpAddr::from([10, 244, 1, 3])));
        let plain = [("10.244.1.0/26", true), ("10.244.1.5/32", false)];
        let table = table.with_plain_sources(plain.map(|(prefix, is)| (prefix.parse().unwrap(), is)));
        let asked = [3, 5, 64].map(|last| table.comes_plain(IpAddr::from([10, 244, 1, last])));
        assert_eq!(asked, [true, false, false]);
    }
}
