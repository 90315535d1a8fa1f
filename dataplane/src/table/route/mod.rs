//! Routes: longest-prefix match for both families.
//!
//! [`Lpm`] is built once from a list and never changed; a change is a new build (10,000 prefixes take a few
//! milliseconds). A lookup follows at most three dependent loads for IPv4, and one more to fetch the value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;

use super::{NetworkId, PeerId, Prefix, SubjectId};
use crate::port::PortId;

mod spread;
mod v4;
mod v6;

pub use spread::{Hop, Spread};

use v4::TrieV4;
use v6::TrieV6;

/// A place in a trie: nothing, a value, or a deeper node, in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const NONE: Self = Self(0);
    const NODE: u32 = 1 << 31;

    /// The value with this index, below [`Lpm::CAPACITY`].
    const fn leaf(value: u32) -> Self {
        Self((value + 1) & !Self::NODE)
    }

    /// The node with this index. A trie of 2^31 nodes would need two terabytes.
    const fn node(index: usize) -> Self {
        Self((index as u64 & 0x7fff_ffff) as u32 | Self::NODE)
    }

    /// The index of the node, if it is one.
    #[inline]
    const fn as_node(self) -> Option<usize> {
        if self.0 & Self::NODE != 0 {
            Some((self.0 & !Self::NODE) as usize)
        } else {
            None
        }
    }

    /// The index of the value; wraps to a number that no value has if there is none.
    #[inline]
    const fn value(self) -> usize {
        self.0.wrapping_sub(1) as usize
    }
}

/// A longest-prefix match from addresses of both families to values.
///
/// Memory: nothing while it is empty; 256 KiB for the IPv4 root if there is any prefix of that family, 1 KiB for each /16 and each /24 that holds a longer prefix, about 1 KiB for
/// each place where IPv6 prefixes part or end (at most two per prefix), and the values.
#[derive(Clone)]
pub struct Lpm<V> {
    v4: TrieV4,
    v6: TrieV6,
    values: Vec<V>,
}

impl<V: Copy> Lpm<V> {
    /// Most values that one match can hold.
    pub const CAPACITY: usize = (Slot::NODE - 1) as usize;

    /// Builds the match. Of two entries for one prefix the later one counts; what is beyond [`Self::CAPACITY`] is
    /// left out.
    #[must_use]
    pub fn build(entries: impl IntoIterator<Item = (Prefix, V)>) -> Self {
        let (mut v4, mut v6, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (prefix, value)) in (0_u32..).zip(entries.into_iter().take(Self::CAPACITY)) {
            values.push(value);
            match prefix.address() {
                IpAddr::V4(address) => v4.push((address.to_bits(), prefix.len(), Slot::leaf(index))),
                IpAddr::V6(address) => v6.push((address.to_bits(), prefix.len(), Slot::leaf(index))),
            }
        }
        Self {
            v4: TrieV4::build(v4),
            v6: TrieV6::build(v6),
            values,
        }
    }

    /// The value of the longest prefix that `address` lies in.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }

    /// [`Self::lookup`] for IPv4.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> Option<V> {
        self.values
            .get(self.v4.lookup(address.to_bits()).value())
            .copied()
    }

    /// [`Self::lookup`] for IPv6.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> Option<V> {
        self.values
            .get(self.v6.lookup(address.to_bits()).value())
            .copied()
    }

    /// What the match takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.v4.memory() + self.v6.memory() + self.values.capacity() * size_of::<V>()
    }
}

impl<V: Copy> Default for Lpm<V> {
    fn default() -> Self {
        Self::build([])
    }
}

impl<V> fmt::Debug for Lpm<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lpm")
            .field("values", &self.values.len())
            .finish_non_exhaustive()
    }
}

/// What a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The one station behind a pod's port or the host's.
    Port(PortId),
    /// Another node, through the tunnel to it.
    Tunnel(PeerId),
    /// A router on a port's link.
    Via {
        /// The port.
        port: PortId,
        /// The router's address on that link.
        next_hop: IpAddr,
    },
    /// A port's link; the destination itself is the next hop.
    OnLink {
        /// The port.
        port: PortId,
    },
    /// Several ways, of which each flow takes one: [`RouteTable::spread`].
    Spread(SpreadId),
    /// An address that the switch itself has: a pod's gateway.
    Switch,
    /// Another network, whose own routes lead on.
    Network(NetworkId),
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere; the sender is told.
    Unreachable,
}

/// The number of a [`Spread`] in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct SpreadId(u32);

impl Target {
    /// What an answer that led here rests on: it changes whenever another prefix leads here, or no longer does. An
    /// answer never leads to several ways, but to one of them.
    #[inline]
    #[must_use]
    pub fn subject(self) -> SubjectId {
        match self {
            Target::Port(port) | Target::Via { port, .. } | Target::OnLink { port } => SubjectId::port(port),
            Target::Tunnel(peer) => SubjectId::peer(peer),
            Target::Spread(_)
            | Target::Switch
            | Target::Network(_)
            | Target::Blackhole
            | Target::Unreachable => SubjectId::ROUTES,
        }
    }
}

/// The routes of a node.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    targets: Lpm<Target>,
    routes: Vec<(Prefix, Target)>,
    spreads: Vec<Arc<Spread>>,
}

impl RouteTable {
    /// Builds the table. Of two routes for one prefix the later one counts.
    #[must_use]
    pub fn build(routes: impl IntoIterator<Item = (Prefix, Target)>) -> Self {
        Self::with_spreads(routes, Vec::new())
    }

    /// Builds a table in which `Target::Spread(RouteTable::spread_id(n))` stands for the nth of `spreads`.
    #[must_use]
    pub fn with_spreads(
        routes: impl IntoIterator<Item = (Prefix, Target)>,
        spreads: Vec<Arc<Spread>>,
    ) -> Self {
        let routes: Vec<_> = routes.into_iter().collect();
        Self {
            targets: Lpm::build(routes.iter().copied()),
            routes,
            spreads,
        }
    }

    /// The number of the spread at this place; `None` beyond what can be numbered.
    #[must_use]
    pub fn spread_id(place: usize) -> Option<SpreadId> {
        u32::try_from(place).ok().map(SpreadId)
    }

    /// Where packets to `destination` go; `None` without a route.
    #[inline]
    #[must_use]
    pub fn lookup(&self, destination: IpAddr) -> Option<Target> {
        self.targets.lookup(destination)
    }

    /// The ways that such a number stands for.
    #[inline]
    #[must_use]
    pub fn spread(&self, id: SpreadId) -> Option<&Spread> {
        self.spreads.get(id.0 as usize).map(|spread| &**spread)
    }

    /// Every target that packets which are led to `target` can come to: itself, or those of its ways.
    pub fn ends(&self, target: Target) -> impl Iterator<Item = Target> {
        let (single, hops) = match target {
            Target::Spread(id) => (None, self.spread(id).map(Spread::hops).unwrap_or_default()),
            other => (Some(other), &[][..]),
        };
        single.into_iter().chain(hops.iter().map(|hop| hop.target))
    }

    /// The routes as they were given, for people to read.
    #[must_use]
    pub fn routes(&self) -> &[(Prefix, Target)] {
        &self.routes
    }

    /// What the table takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.targets.memory() + self.routes.capacity() * size_of::<(Prefix, Target)>()
    }
}

#[cfg(test)]
mod tests;
