//! The forwarding database of bridged networks: where each station is.
//!
//! One table for all networks and workers, of fixed size. A worker looks stations up and says that it has seen them, and
//! waits for nobody (`fdb/shelf.rs` says why what it reads belongs together). To learn, move and forget is for whoever holds the
//! one [`FdbWriter`]: the slow path, and the control plane for what is given.

mod shelf;
mod writer;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::{HashKey, Location, NetworkId, RemoteId, Tick};
use crate::port::PortId;
use crate::wire::MacAddr;
use shelf::{Found, PAYLOAD_BITS, Shelf};
use writer::Ledger;
pub use writer::{AGEING_S, Bounds, FdbWriter, Learnt, Refusal, STATIONS_PER_NETWORK, STATIONS_PER_PORT};

/// Places for each entry that there may be: with half of them free, hardly any entry finds none within reach.
const PLACES_PER_ENTRY: u32 = 2;
/// A payload: the moment in the lowest bits, then whether it is static, then where.
const SEEN_BITS: u32 = 24;
const SEEN: u64 = (1 << SEEN_BITS) - 1;
const STATIC: u64 = 1 << SEEN_BITS;
const WHERE: u32 = SEEN_BITS + 1;
const NUMBER_BITS: u32 = 12;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;
const KIND: u32 = WHERE + NUMBER_BITS;
const _: () = assert!(KIND + 2 == PAYLOAD_BITS);
const _: () = assert!(PortId::LIMIT == 1 << NUMBER_BITS && RemoteId::LIMIT == 1 << NUMBER_BITS);

/// A station that is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    found: Found,
}

impl Entry {
    /// Where it is.
    #[inline(always)]
    #[must_use]
    pub fn location(&self) -> Location {
        location_of(self.found.payload())
    }

    /// Whether it was given, and not learned: then it neither moves nor ages.
    #[inline(always)]
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.found.payload() & STATIC != 0
    }

    /// Seconds since a frame of its was last seen; half a year at most.
    #[must_use]
    pub fn age(&self, now: Tick) -> u32 {
        // INVARIANT: masked to 24 bits.
        #[allow(clippy::cast_possible_truncation)]
        let age = (moment(now).wrapping_sub(self.found.payload()) & SEEN) as u32;
        // Seen by a worker whose clock was read a moment later.
        if age > 1 << (SEEN_BITS - 1) { 0 } else { age }
    }

    /// Whether a frame of its was seen in this second.
    #[inline(always)]
    fn is_fresh(&self, now: Tick) -> bool {
        self.found.payload() & SEEN == moment(now)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_static() { "static" } else { "learned" };
        write!(f, "Entry({:?}, {kind})", self.location())
    }
}

#[inline(always)]
fn moment(tick: Tick) -> u64 {
    u64::from(tick.seconds()) & SEEN
}

#[inline(always)]
fn payload(location: Location, is_static: bool, seen: Tick) -> u64 {
    let (kind, number) = match location {
        Location::Switch => (0, 0),
        Location::Port(port) => (1, port.index()),
        Location::Remote(remote) => (2, remote.index()),
    };
    let fixed = if is_static { STATIC } else { 0 };
    kind << KIND | (number as u64 & NUMBER) << WHERE | fixed | moment(seen)
}

#[inline(always)]
fn location_of(payload: u64) -> Location {
    // INVARIANT: masked to 12 bits.
    #[allow(clippy::cast_possible_truncation)]
    let number = (payload >> WHERE & NUMBER) as u16;
    let (port, remote) = (PortId::new(number), RemoteId::new(number));
    match payload >> KIND & 3 {
        1 => port.map_or(Location::Switch, Location::Port),
        2 => remote.map_or(Location::Switch, Location::Remote),
        _ => Location::Switch,
    }
}

/// A network and a station's address as one word, which is none of no station: a station's address is not zero.
#[inline(always)]
fn key_of(network: NetworkId, mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    u64::from(network.number()) << 48 | mac
}

fn named_by(key: u64) -> (NetworkId, MacAddr) {
    let [n, m, mac @ ..] = key.to_be_bytes();
    (NetworkId::new(u16::from_be_bytes([n, m])), MacAddr(mac))
}

/// Where a station's entry is, if there is one: found out once, and used to fetch and to read it.
#[derive(Debug, Clone, Copy)]
pub struct Station {
    key: u64,
    hash: u64,
}

impl Station {
    /// Its address.
    #[must_use]
    pub fn mac(self) -> MacAddr {
        named_by(self.key).1
    }

    /// A keyed hash of network and address.
    #[inline(always)]
    #[must_use]
    pub fn hash(self) -> u64 {
        self.hash
    }
}

/// The forwarding database.
pub struct Fdb {
    shelf: Shelf,
    key: HashKey,
    capacity: u32,
    ledger: Mutex<Ledger>,
}

impl fmt::Debug for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fdb({} entries at most)", self.capacity)
    }
}

impl Fdb {
    /// An empty one for at most so many stations of all networks; all its memory is taken here, 32 bytes for each.
    #[must_use]
    pub fn new(capacity: u32, key: HashKey) -> Self {
        Self {
            shelf: Shelf::new(capacity.saturating_mul(PLACES_PER_ENTRY)),
            key,
            capacity,
            ledger: Mutex::default(),
        }
    }

    /// How many stations of all networks it can hold.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Where a station's entry is to be found.
    #[inline(always)]
    #[must_use]
    pub fn station(&self, network: NetworkId, mac: MacAddr) -> Station {
        let key = key_of(network, mac);
        let hash = self.key.hash([key]);
        Station { key, hash }
    }

    /// Begins to fetch a station's entry from memory.
    #[inline(always)]
    pub fn prefetch(&self, station: Station) {
        self.shelf.prefetch(station.hash);
    }

    /// What is known of a station. Never waits.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, station: Station) -> Option<Entry> {
        let found = self.shelf.find(station.hash, station.key)?;
        Some(Entry { found })
    }

    /// What is known of a station whose entry is where it is looked for first, as nearly all are; `None` says nothing. Never
    /// waits.
    #[inline(always)]
    #[must_use]
    pub fn find_near(&self, station: Station) -> Option<Entry> {
        let found = self.shelf.find_near(station.hash, station.key)?;
        Some(Entry { found })
    }

    /// What is known of a station of a network. Never waits.
    #[inline]
    #[must_use]
    pub fn lookup(&self, network: NetworkId, mac: MacAddr) -> Option<Entry> {
        self.find(self.station(network, mac))
    }

    /// Notes that a frame of a station's has come, from where it was found to be; once a second at most. If the entry has
    /// changed meanwhile it stays as it is.
    #[inline(always)]
    pub fn refresh(&self, entry: &Entry, now: Tick) {
        if !entry.is_fresh(now) {
            let seen = entry.found.payload() & !SEEN | moment(now);
            self.shelf.exchange(entry.found, seen);
        }
    }

    /// Every station that is known, in no order. What changes meanwhile may be in it or not.
    pub fn iter(&self) -> impl Iterator<Item = (NetworkId, MacAddr, Entry)> {
        let entries = (0..self.shelf.places()).filter_map(|place| self.shelf.entry(place));
        entries.map(|(key, found)| {
            let (network, mac) = named_by(key);
            (network, mac, Entry { found })
        })
    }

    /// Who alone may write, until it is dropped; waits for another one to be, and so for ever if that is the caller's own.
    pub fn write(&self) -> FdbWriter<'_> {
        FdbWriter {
            fdb: self,
            ledger: self.ledger.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests;
