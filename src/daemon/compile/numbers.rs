//! Numbers that peers and neighbours keep from one snapshot to the next: what is stored by number stays right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{NeighbourId, NetworkId, PeerId, RemoteId, SubjectId, TunnelKind};
use serde::{Deserialize, Serialize};

use crate::objects::{Family, NetworkKey, NodeName};

/// Neighbours that may have a number, those that are gone included. Beyond it the gone ones give theirs up.
const NEIGHBOURS_MAX: usize = 1 << 14;

/// Networks beside the cluster's own that can be served at once.
const NETWORKS_MAX: u16 = 4096;

/// Numbers of things that come and go, of which one just given up is the last to be given again: what is remembered by it
/// somewhere is gone by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "K: Ord + Deserialize<'de>"))]
pub struct Spares<K: Ord> {
    given: BTreeMap<K, u16>,
    /// Where the search for a free one begins.
    next: u16,
}

/// Numbers of networks beside the cluster's own, as they are written down: connections name networks by them.
pub type NetworkNumbers = Spares<NetworkKey>;

impl<K: Ord> Default for Spares<K> {
    fn default() -> Self {
        Self {
            given: BTreeMap::new(),
            next: 0,
        }
    }
}

impl NetworkNumbers {
    /// Those that are given.
    pub fn ids(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.given.values().map(|number| network_id(*number))
    }
}

impl<K: Ord + Clone> Spares<K> {
    /// Whether none was ever given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.next == 0
    }

    /// A number below `limit`; `None` when all are taken.
    fn number_of(&mut self, key: &K, limit: u16) -> Option<u16> {
        if let Some(number) = self.given.get(key) {
            return Some(*number);
        }
        let taken: BTreeSet<u16> = self.given.values().copied().collect();
        let mut candidates = (self.next..limit).chain(0..self.next.min(limit));
        let number = candidates.find(|number| !taken.contains(number))?;
        self.next = (number + 1) % limit;
        self.given.insert(key.clone(), number);
        Some(number)
    }
}

/// By what a peer is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PeerKey {
    /// An object says that it is a node; there may be several tunnels to it.
    Node(NodeName, Family, TunnelKind),
    /// A route of the kernel's leads to it through a tunnel.
    NextHop(IpAddr),
}

/// The numbers given so far.
#[derive(Debug, Default)]
pub struct Numbers {
    peers: BTreeMap<PeerKey, u16>,
    neighbours: BTreeMap<(PortId, IpAddr), u16>,
    /// Networks beside the cluster's own, from 1.
    networks: NetworkNumbers,
    /// Other ends of their tunnels, from 0.
    remotes: Spares<IpAddr>,
    /// Ports on which numbers of neighbours were given anew.
    renumbered: BTreeSet<PortId>,
}

impl Numbers {
    /// As they were written down.
    #[must_use]
    pub fn with_networks(networks: NetworkNumbers) -> Self {
        Self {
            networks,
            ..Self::default()
        }
    }

    /// To be written down.
    #[must_use]
    pub fn networks(&self) -> &NetworkNumbers {
        &self.networks
    }

    /// Forgets the nodes that are gone, and next hops through tunnels that no route has, so that their numbers are free:
    /// the routes to them are gone as well, and with them every stored answer.
    pub(super) fn keep_peers(
        &mut self,
        is_node: impl Fn(&NodeName) -> bool,
        is_next_hop: impl Fn(IpAddr) -> bool,
    ) {
        self.peers.retain(|key, _| match key {
            PeerKey::Node(name, ..) => is_node(name),
            PeerKey::NextHop(address) => is_next_hop(*address),
        });
    }

    /// A peer's number, by the family of the underlay to it and the kind of its tunnel; `None` when all are taken.
    pub(super) fn of_peer(&mut self, node: &NodeName, underlay: Family, kind: TunnelKind) -> Option<PeerId> {
        self.of_key(PeerKey::Node(node.clone(), underlay, kind))
    }

    /// The number of a peer that is known as a next hop alone; `None` when all are taken.
    pub(super) fn of_next_hop(&mut self, address: IpAddr) -> Option<PeerId> {
        self.of_key(PeerKey::NextHop(address))
    }

    /// Forgets networks that are gone.
    pub(super) fn keep_networks(&mut self, is_there: impl Fn(&NetworkKey) -> bool) {
        self.networks.given.retain(|key, _| is_there(key));
    }

    /// Forgets other ends of networks' tunnels but those.
    pub(super) fn keep_remotes(&mut self, wanted: &BTreeSet<IpAddr>) {
        self.remotes.given.retain(|address, _| wanted.contains(address));
    }

    /// A network's number; `None` when all are taken.
    pub(super) fn of_network(&mut self, key: &NetworkKey) -> Option<NetworkId> {
        let number = self.networks.number_of(key, NETWORKS_MAX)?;
        Some(network_id(number))
    }

    /// The number of another end of networks' tunnels; `None` when all are taken.
    pub(super) fn of_remote(&mut self, address: IpAddr) -> Option<RemoteId> {
        RemoteId::new(self.remotes.number_of(&address, RemoteId::LIMIT)?)
    }

    fn of_key(&mut self, key: PeerKey) -> Option<PeerId> {
        if let Some(number) = self.peers.get(&key) {
            return Some(PeerId::new(*number));
        }
        let number = free(self.peers.values())?;
        self.peers.insert(key, number);
        Some(PeerId::new(number))
    }

    /// A neighbour's number. One that is gone keeps its own, since flows may still name it; only when there are too
    /// many are all numbers given anew, and every answer that leads to a neighbour is found again.
    pub(super) fn of_neighbour(&mut self, port: PortId, address: IpAddr) -> Option<NeighbourId> {
        if let Some(number) = self.neighbours.get(&(port, address)) {
            return Some(NeighbourId::new(*number));
        }
        if self.neighbours.len() >= NEIGHBOURS_MAX {
            self.renumbered
                .extend(self.neighbours.keys().map(|(port, _)| *port));
            self.neighbours.clear();
        }
        let number = u16::try_from(self.neighbours.len()).ok()?;
        self.neighbours.insert((port, address), number);
        Some(NeighbourId::new(number))
    }

    /// What rests on numbers that have another meaning since the last call.
    pub fn take_renumbered(&mut self) -> impl Iterator<Item = SubjectId> {
        std::mem::take(&mut self.renumbered)
            .into_iter()
            .map(SubjectId::port)
    }
}

/// A network's number in the tables, where 0 is the cluster's own.
fn network_id(number: u16) -> NetworkId {
    NetworkId::new(number.saturating_add(1))
}

/// The lowest number that is none of these.
fn free<'a>(taken: impl Iterator<Item = &'a u16>) -> Option<u16> {
    let taken: BTreeSet<u16> = taken.copied().collect();
    (0..u16::MAX).find(|number| !taken.contains(number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_keeps_its_number_until_there_are_too_many() {
        let mut numbers = Numbers::default();
        let port = PortId::new(1).unwrap();
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        let first = numbers.of_neighbour(port, address(0));
        for number in 1..NEIGHBOURS_MAX {
            assert_ne!(numbers.of_neighbour(port, address(number)), first);
        }
        assert_eq!(numbers.of_neighbour(port, address(0)), first);
        assert_eq!(numbers.take_renumbered().count(), 0);
        assert_eq!(numbers.of_neighbour(port, address(NEIGHBOURS_MAX)), first);
        let renumbered: Vec<_> = numbers.take_renumbered().collect();
        assert_eq!(renumbered, [SubjectId::port(port)]);
        assert_eq!(numbers.take_renumbered().count(), 0);
    }
}
