//! The forwarding database of bridged networks: where each station is.
//!
//! One table for all networks and workers, of fixed size. A worker looks stations up and says that it has seen them, and
//! waits for nobody ([`shelf`] says why what it reads belongs together). To learn, move and forget is for whoever holds the
//! one [`FdbWriter`]: the slow path, and the control plane for what is given.

mod shelf;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{HashKey, Location, NetworkId, RemoteId, Tick};
use crate::port::PortId;
use crate::wire::MacAddr;
use shelf::{Found, PAYLOAD_BITS, Shelf};

/// Places for each entry that there may be: with half of them free, hardly any entry finds none within reach.
const PLACES_PER_ENTRY: u32 = 2;
/// How long a station that is silent is kept unless told otherwise, in seconds: IEEE 802.1Q table 8-6.
pub const AGEING_S: u32 = 300;
/// How many stations are learned behind one port unless told otherwise.
pub const STATIONS_PER_PORT: u32 = 256;
/// How many stations of one network are learned unless told otherwise.
pub const STATIONS_PER_NETWORK: u32 = 16_384;

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
    /// A keyed hash of network and address.
    #[inline(always)]
    #[must_use]
    pub fn hash(self) -> u64 {
        self.hash
    }
}

/// How many stations of a network are learned, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Behind one port.
    pub per_port: u32,
    /// In all of it.
    pub in_all: u32,
    /// How long one that is silent is kept, in seconds.
    pub ageing_s: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            per_port: STATIONS_PER_PORT,
            in_all: STATIONS_PER_NETWORK,
            ageing_s: AGEING_S,
        }
    }
}

/// What became of a lesson.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learnt {
    /// The station was not known.
    New,
    /// It is where it was.
    Same,
    /// It was elsewhere.
    Moved {
        /// Where.
        from: Location,
    },
    /// Nothing: it stays as it is.
    Refused(Refusal),
}

/// Why a station is not learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No station has such an address.
    #[error("no station has such an address: a group's, or zero")]
    NoStation,
    /// It was given another location.
    #[error("the station was given another location")]
    Static,
    /// As many as may be are learned behind the port.
    #[error("as many stations as may be are learned behind the port")]
    PortFull,
    /// As many as may be are learned in the network.
    #[error("as many stations as may be are learned in the network")]
    NetworkFull,
    /// The table is full, or has no place near where the station's would be.
    #[error("the forwarding database is full")]
    TableFull,
}

/// What the writer keeps in mind.
#[derive(Debug, Default)]
struct Ledger {
    entries: u32,
    bounds: HashMap<NetworkId, Bounds>,
    learned: HashMap<NetworkId, u32>,
    learned_at: HashMap<(NetworkId, Location), u32>,
    /// The place at which ageing goes on.
    next: usize,
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

    /// Where a station's entry is to be found.
    #[inline(always)]
    #[must_use]
    pub fn station(&self, network: NetworkId, mac: MacAddr) -> Station {
        let key = key_of(network, mac);
        let hash = self.key.hash([key]);
        Station { key, hash }
    }

    /// Begins to fetch a station's entry from memory; the answer means nothing, and is to be used, so that this is not left
    /// out.
    #[inline(always)]
    #[must_use]
    pub fn touch(&self, station: Station) -> u64 {
        self.shelf.touch(station.hash)
    }

    /// What is known of a station. Never waits.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, station: Station) -> Option<Entry> {
        let found = self.shelf.find(station.hash, station.key)?;
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

/// The writing side of the forwarding database: there is one at a time.
#[derive(Debug)]
pub struct FdbWriter<'f> {
    fdb: &'f Fdb,
    ledger: MutexGuard<'f, Ledger>,
}

impl FdbWriter<'_> {
    /// Sets a network's bounds. What is learned already stays until it ages.
    pub fn set_bounds(&mut self, network: NetworkId, bounds: Bounds) {
        self.ledger.bounds.insert(network, bounds);
    }

    fn bounds(&self, network: NetworkId) -> Bounds {
        self.ledger.bounds.get(&network).copied().unwrap_or_default()
    }

    /// How many entries there are, learned and given.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.ledger.entries
    }

    /// How many stations of a network are learned.
    #[must_use]
    pub fn learned(&self, network: NetworkId) -> u32 {
        self.ledger.learned.get(&network).copied().unwrap_or_default()
    }

    /// How many stations of a network are learned at a location.
    #[must_use]
    pub fn learned_at(&self, network: NetworkId, location: Location) -> u32 {
        let counts = &self.ledger.learned_at;
        counts.get(&(network, location)).copied().unwrap_or_default()
    }

    /// Takes in that a frame of a station's came from `location` at `now`.
    pub fn learn(&mut self, network: NetworkId, mac: MacAddr, location: Location, now: Tick) -> Learnt {
        if !mac.is_unicast() {
            return Learnt::Refused(Refusal::NoStation);
        }
        let station = self.fdb.station(network, mac);
        let known = self.fdb.find(station);
        if let Some(entry) = known {
            let from = entry.location();
            if from == location {
                self.fdb.refresh(&entry, now);
                return Learnt::Same;
            }
            if entry.is_static() {
                return Learnt::Refused(Refusal::Static);
            }
            if let Err(refusal) = self.room_at(network, location) {
                return Learnt::Refused(refusal);
            }
            self.fdb.shelf.set(entry.found, payload(location, false, now));
            self.uncount(network, from);
            self.count(network, location);
            return Learnt::Moved { from };
        }
        match self.insert(network, location, station, now) {
            Ok(()) => Learnt::New,
            Err(refusal) => Learnt::Refused(refusal),
        }
    }

    fn insert(
        &mut self,
        network: NetworkId,
        location: Location,
        station: Station,
        now: Tick,
    ) -> Result<(), Refusal> {
        self.room_at(network, location)?;
        if self.learned(network) >= self.bounds(network).in_all {
            return Err(Refusal::NetworkFull);
        }
        self.put(station, payload(location, false, now))?;
        self.count(network, location);
        Ok(())
    }

    /// Whether one more may be learned at a location. Another node's stations are bounded by the network's alone.
    fn room_at(&self, network: NetworkId, location: Location) -> Result<(), Refusal> {
        match location {
            Location::Port(_) if self.learned_at(network, location) >= self.bounds(network).per_port => {
                Err(Refusal::PortFull)
            }
            Location::Port(_) | Location::Remote(_) | Location::Switch => Ok(()),
        }
    }

    fn put(&mut self, station: Station, payload: u64) -> Result<(), Refusal> {
        if self.ledger.entries >= self.fdb.capacity {
            return Err(Refusal::TableFull);
        }
        let put = self.fdb.shelf.insert(station.hash, station.key, payload);
        put.ok_or(Refusal::TableFull)?;
        self.ledger.entries += 1;
        Ok(())
    }

    /// Gives a station its location for good, whatever was learned or given before.
    ///
    /// # Errors
    /// [`Refusal::NoStation`] or [`Refusal::TableFull`]; bounds are about what is learned.
    pub fn set_static(
        &mut self,
        network: NetworkId,
        mac: MacAddr,
        location: Location,
        now: Tick,
    ) -> Result<(), Refusal> {
        if !mac.is_unicast() {
            return Err(Refusal::NoStation);
        }
        let station = self.fdb.station(network, mac);
        let given = payload(location, true, now);
        let Some(entry) = self.fdb.find(station) else {
            return self.put(station, given);
        };
        self.fdb.shelf.set(entry.found, given);
        if !entry.is_static() {
            self.uncount(network, entry.location());
        }
        Ok(())
    }

    /// Forgets a station, learned or given; answers what was known of it.
    pub fn remove(&mut self, network: NetworkId, mac: MacAddr) -> Option<Entry> {
        let entry = self.fdb.lookup(network, mac)?;
        self.forget(network, entry);
        Some(entry)
    }

    /// Forgets every station behind a port, learned or given, and answers how many there were.
    pub fn forget_port(&mut self, port: PortId) -> usize {
        self.forget_all(|_, entry| entry.location() == Location::Port(port))
    }

    /// Forgets every station behind another node.
    pub fn forget_remote(&mut self, remote: RemoteId) -> usize {
        self.forget_all(|_, entry| entry.location() == Location::Remote(remote))
    }

    /// Forgets a network: its stations and its bounds.
    pub fn forget_network(&mut self, network: NetworkId) -> usize {
        let count = self.forget_all(|named, _| named == network);
        self.ledger.bounds.remove(&network);
        count
    }

    /// Forgets every station that this is true of.
    pub fn forget_all(&mut self, is_gone: impl Fn(NetworkId, &Entry) -> bool) -> usize {
        self.forget_among(0..self.fdb.shelf.places(), is_gone)
    }

    /// Looks through the next so many places for learned stations that have been silent for too long, and forgets them;
    /// answers how many. [`Self::places`] at a time is all of it.
    pub fn age(&mut self, now: Tick, places: usize) -> usize {
        let all = self.fdb.shelf.places();
        let first = self.ledger.next % all.max(1);
        let last = first.saturating_add(places).min(all);
        self.ledger.next = if last == all { 0 } else { last };
        let bounds = self.ledger.bounds.clone();
        let ageing = |network| bounds.get(&network).copied().unwrap_or_default().ageing_s;
        self.forget_among(first..last, |network, entry| {
            !entry.is_static() && entry.age(now) > ageing(network)
        })
    }

    /// How many places the table has.
    #[must_use]
    pub fn places(&self) -> usize {
        self.fdb.shelf.places()
    }

    fn forget_among(
        &mut self,
        places: std::ops::Range<usize>,
        is_gone: impl Fn(NetworkId, &Entry) -> bool,
    ) -> usize {
        let mut count = 0;
        for place in places {
            let Some((key, found)) = self.fdb.shelf.entry(place) else {
                continue;
            };
            let ((network, _), entry) = (named_by(key), Entry { found });
            if is_gone(network, &entry) {
                self.forget(network, entry);
                count += 1;
            }
        }
        count
    }

    fn forget(&mut self, network: NetworkId, entry: Entry) {
        self.fdb.shelf.remove(entry.found);
        self.ledger.entries = self.ledger.entries.saturating_sub(1);
        if !entry.is_static() {
            self.uncount(network, entry.location());
        }
    }

    fn count(&mut self, network: NetworkId, location: Location) {
        *self.ledger.learned.entry(network).or_default() += 1;
        *self.ledger.learned_at.entry((network, location)).or_default() += 1;
    }

    fn uncount(&mut self, network: NetworkId, location: Location) {
        take_one(&mut self.ledger.learned, network);
        take_one(&mut self.ledger.learned_at, (network, location));
    }
}

/// One less of what is counted; nothing is kept of what there is none of.
fn take_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, of: K) {
    if let Some(count) = counts.get_mut(&of) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests;
