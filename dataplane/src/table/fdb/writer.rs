//! Who writes the forwarding database: what is learned, within bounds, and what is given.

use std::collections::HashMap;
use std::sync::MutexGuard;

use super::{Entry, Fdb, Station, named_by, payload};
use crate::port::PortId;
use crate::table::{Location, NetworkId, RemoteId, Tick};
use crate::wire::MacAddr;

/// How long a station that is silent is kept unless told otherwise, in seconds: IEEE 802.1Q table 8-6.
pub const AGEING_S: u32 = 300;
/// How many stations are learned behind one port unless told otherwise.
pub const STATIONS_PER_PORT: u32 = 256;
/// How many stations of one network are learned unless told otherwise.
pub const STATIONS_PER_NETWORK: u32 = 16_384;

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
pub(super) struct Ledger {
    entries: u32,
    bounds: HashMap<NetworkId, Bounds>,
    learned: HashMap<NetworkId, u32>,
    learned_at: HashMap<(NetworkId, Location), u32>,
    /// The place at which ageing goes on.
    next: usize,
}

/// The writing side of the forwarding database: there is one at a time.
#[derive(Debug)]
pub struct FdbWriter<'f> {
    pub(super) fdb: &'f Fdb,
    pub(super) ledger: MutexGuard<'f, Ledger>,
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
