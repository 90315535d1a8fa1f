//! Link addresses of next hops.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::HashKey;
use crate::port::PortId;
use crate::wire::MacAddr;

/// Who is asked for: an address on a port's link, as three words to hash.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Station {
    port: PortId,
    address: IpAddr,
}

impl Hash for Station {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = self.port.index() as u64;
        match self.address {
            IpAddr::V4(address) => state.write_u64(port << 32 | u64::from(address.to_bits())),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                // INVARIANT: both are halves of 128 bits.
                #[allow(clippy::cast_possible_truncation)]
                let (high, low) = ((bits >> 64) as u64, bits as u64);
                state.write_u64(port);
                state.write_u64(high);
                state.write_u64(low);
            }
        }
    }
}

/// The number by which the control plane knows a next hop: the same one as long as it is known, whatever becomes of
/// its link address, so that a flow which remembers it need not be told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NeighbourId(u16);

impl NeighbourId {
    /// Next hop `number`.
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
}

/// A next hop whose link address is known.
#[derive(Debug)]
pub struct Neighbour {
    mac: MacAddr,
    used: AtomicBool,
}

impl Neighbour {
    /// The neighbour's link address.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }
}

/// The neighbours on every port's link, by port and address.
///
/// A lookup marks what it finds as used, so that the control plane can keep alive what is in use
/// ([`Self::take_used`]): the kernel sees none of the switch's traffic and would let its entries age.
pub struct NeighbourTable {
    neighbours: HashMap<Station, Neighbour, HashKey>,
}

impl NeighbourTable {
    /// Builds the table. Of two entries for one station the later one counts.
    #[must_use]
    pub fn build(key: HashKey, neighbours: impl IntoIterator<Item = (PortId, IpAddr, MacAddr)>) -> Self {
        let mut table = HashMap::with_hasher(key);
        for (port, address, mac) in neighbours {
            table.insert(
                Station { port, address },
                Neighbour {
                    mac,
                    used: AtomicBool::new(false),
                },
            );
        }
        Self { neighbours: table }
    }

    /// The link address of `address` on a port's link, marked as used; `None` if it is not known.
    #[inline]
    #[must_use]
    pub fn lookup(&self, port: PortId, address: IpAddr) -> Option<MacAddr> {
        let neighbour = self.neighbours.get(&Station { port, address })?;
        // Written once per beat only: a cache line that every worker writes for every packet would bounce.
        if !neighbour.used.load(Ordering::Relaxed) {
            neighbour.used.store(true, Ordering::Relaxed);
        }
        Some(neighbour.mac)
    }

    /// Everyone who was asked for since the last call, and forgets it.
    pub fn take_used(&self) -> impl Iterator<Item = (PortId, IpAddr)> {
        let used = self
            .neighbours
            .iter()
            .filter(|(_, neighbour)| neighbour.used.swap(false, Ordering::Relaxed));
        used.map(|(station, _)| (station.port, station.address))
    }

    /// Every neighbour, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, IpAddr, MacAddr)> {
        self.neighbours
            .iter()
            .map(|(station, neighbour)| (station.port, station.address, neighbour.mac))
    }

    /// How many neighbours there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.neighbours.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.neighbours.is_empty()
    }
}

impl Default for NeighbourTable {
    fn default() -> Self {
        Self::build(HashKey::random(), [])
    }
}

impl fmt::Debug for NeighbourTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stations_are_told_apart_by_port_family_and_address() {
        let (one, two) = (PortId::new(1).unwrap(), PortId::new(2).unwrap());
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let v6: IpAddr = "fe80::1".parse().unwrap();
        let entries = [
            (one, v4, mac(1)),
            (two, v4, mac(2)),
            (one, mapped, mac(3)),
            (one, v6, mac(9)),
            (one, v6, mac(4)),
        ];
        let table = NeighbourTable::build(HashKey::random(), entries);
        assert_eq!(table.len(), 4);
        assert_eq!(table.lookup(one, v4), Some(mac(1)));
        assert_eq!(table.lookup(two, v4), Some(mac(2)));
        assert_eq!(table.lookup(one, mapped), Some(mac(3)));
        assert_eq!(table.lookup(one, v6), Some(mac(4)), "the later one counts");
        assert_eq!(table.lookup(two, v6), None);
    }

    #[test]
    fn use_is_remembered_until_it_is_taken() {
        let port = PortId::new(0).unwrap();
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let table = NeighbourTable::build(
            HashKey::random(),
            [(port, a, MacAddr::ZERO), (port, b, MacAddr::ZERO)],
        );
        assert_eq!(table.take_used().count(), 0);
        assert!(table.lookup(port, b).is_some());
        assert_eq!(table.take_used().collect::<Vec<_>>(), [(port, b)]);
        assert_eq!(table.take_used().count(), 0);
    }
}
