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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
struct Neighbour {
    station: Station,
    mac: MacAddr,
    used: AtomicBool,
}

impl Neighbour {
    /// Its link address, for a packet that goes there now.
    #[inline]
    fn take(&self) -> MacAddr {
        // Written once per beat only: a cache line that every worker writes for every packet would bounce.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.mac
    }
}

/// The neighbours on every port's link, by port and address.
///
/// A lookup marks what it finds as used, so that the control plane can keep alive what is in use
/// ([`Self::take_used`]): the kernel sees none of the switch's traffic and would let its entries age.
pub struct NeighbourTable {
    numbers: HashMap<Station, NeighbourId, HashKey>,
    /// By number; of one that is not known there is none.
    neighbours: Vec<Option<Neighbour>>,
}

impl NeighbourTable {
    /// Builds the table. Of two entries for one station, and of two with one number, the later one counts.
    #[must_use]
    pub fn build(
        key: HashKey,
        entries: impl IntoIterator<Item = (NeighbourId, PortId, IpAddr, MacAddr)>,
    ) -> Self {
        let mut table = Self {
            numbers: HashMap::with_hasher(key),
            neighbours: Vec::new(),
        };
        for (id, port, address, mac) in entries {
            table.insert(id, Station { port, address }, mac);
        }
        table
    }

    fn insert(&mut self, id: NeighbourId, station: Station, mac: MacAddr) {
        let place = usize::from(id.number());
        if self.neighbours.len() <= place {
            self.neighbours.resize_with(place + 1, || None);
        }
        if let Some(former) = self.numbers.insert(station, id)
            && former != id
            && let Some(slot) = self.neighbours.get_mut(usize::from(former.number()))
        {
            *slot = None;
        }
        if let Some(slot) = self.neighbours.get_mut(place) {
            let entry = Neighbour {
                station,
                mac,
                used: AtomicBool::new(false),
            };
            if let Some(former) = slot.replace(entry).filter(|former| former.station != station) {
                self.numbers.remove(&former.station);
            }
        }
    }

    /// The number and link address of `address` on a port's link, marked as used; `None` if it is not known.
    #[inline]
    #[must_use]
    pub fn lookup(&self, port: PortId, address: IpAddr) -> Option<(NeighbourId, MacAddr)> {
        let id = *self.numbers.get(&Station { port, address })?;
        let neighbour = self.neighbours.get(usize::from(id.number()))?.as_ref()?;
        Some((id, neighbour.take()))
    }

    /// The port and link address of a next hop by its number, marked as used; `None` if it is not known.
    #[inline]
    #[must_use]
    pub fn get(&self, id: NeighbourId) -> Option<(PortId, MacAddr)> {
        let neighbour = self.neighbours.get(usize::from(id.number()))?.as_ref()?;
        Some((neighbour.station.port, neighbour.take()))
    }

    /// Everyone who was asked for since the last call, and forgets it.
    pub fn take_used(&self) -> impl Iterator<Item = (PortId, IpAddr)> {
        let used = self
            .neighbours
            .iter()
            .flatten()
            .filter(|neighbour| neighbour.used.swap(false, Ordering::Relaxed));
        used.map(|neighbour| (neighbour.station.port, neighbour.station.address))
    }

    /// Every neighbour, by number.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, IpAddr, MacAddr)> {
        let known = self.neighbours.iter().flatten();
        known.map(|neighbour| (neighbour.station.port, neighbour.station.address, neighbour.mac))
    }

    /// How many neighbours there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
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
        let id = NeighbourId::new;
        let entries = [
            (id(0), one, v4, mac(1)),
            (id(5), two, v4, mac(2)),
            (id(1), one, mapped, mac(3)),
            (id(2), one, v6, mac(9)),
            (id(3), one, v6, mac(4)),
        ];
        let table = NeighbourTable::build(HashKey::random(), entries);
        assert_eq!(table.len(), 4);
        assert_eq!(table.lookup(one, v4), Some((id(0), mac(1))));
        assert_eq!(table.lookup(two, v4), Some((id(5), mac(2))));
        assert_eq!(table.lookup(one, mapped), Some((id(1), mac(3))));
        assert_eq!(
            table.lookup(one, v6),
            Some((id(3), mac(4))),
            "the later one counts"
        );
        assert_eq!(table.lookup(two, v6), None);
        assert_eq!(table.get(id(5)), Some((two, mac(2))));
        assert_eq!(
            (table.get(id(2)), table.get(id(4)), table.get(id(9))),
            (None, None, None)
        );
    }

    #[test]
    fn a_number_stands_for_one_station() {
        let port = PortId::new(1).unwrap();
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let (id, mac) = (NeighbourId::new(3), MacAddr([2, 0, 0, 0, 0, 7]));
        let table = NeighbourTable::build(
            HashKey::random(),
            [(id, port, a, MacAddr::ZERO), (id, port, b, mac)],
        );
        assert_eq!((table.len(), table.lookup(port, a)), (1, None));
        assert_eq!(table.lookup(port, b), Some((id, mac)));
    }

    #[test]
    fn use_is_remembered_until_it_is_taken() {
        let port = PortId::new(0).unwrap();
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let (one, two) = (NeighbourId::new(0), NeighbourId::new(1));
        let entries = [(one, port, a, MacAddr::ZERO), (two, port, b, MacAddr::ZERO)];
        let table = NeighbourTable::build(HashKey::random(), entries);
        assert_eq!(table.take_used().count(), 0);
        assert!(table.lookup(port, b).is_some());
        assert_eq!(table.take_used().collect::<Vec<_>>(), [(port, b)]);
        assert_eq!(table.take_used().count(), 0);
        assert!(table.get(one).is_some());
        assert_eq!(table.take_used().collect::<Vec<_>>(), [(port, a)]);
    }
}
