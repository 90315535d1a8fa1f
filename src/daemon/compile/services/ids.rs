//! Numbers of Services and backends, and the lookup tables that several of them share.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use millrace_dataplane::table::HashKey;
use millrace_dataplane::table::service::{
    Backend, BackendId, BackendSet, Maglev, ServiceId, WeakMaglev, ladder_size,
};

/// Gives out numbers; the one that has been free for longest comes first, so that what still names an old one has
/// time to be found out.
#[derive(Debug, Default)]
pub(super) struct Ids {
    next: u32,
    free: VecDeque<u32>,
}

impl Ids {
    /// A number that nobody has, if it is below `limit`.
    fn take(&mut self, limit: u32) -> Option<u32> {
        if self.next < limit {
            // Numbers are not used again before there are so many free that it keeps tables small.
            if self.free.len() < FREE_MIN {
                self.next += 1;
                return Some(self.next - 1);
            }
        }
        self.free.pop_front()
    }

    /// A number for a Service.
    pub(super) fn service(&mut self) -> Option<ServiceId> {
        self.take(ServiceId::LIMIT).and_then(ServiceId::new)
    }

    /// A number for a backend.
    pub(super) fn backend(&mut self) -> Option<BackendId> {
        self.take(BackendId::LIMIT).and_then(BackendId::new)
    }

    /// Takes a number back.
    pub(super) fn give_back(&mut self, number: u32) {
        self.free.push_back(number);
    }

    /// One more than the largest number ever given.
    pub(super) fn end(&self) -> usize {
        self.next as usize
    }
}

/// Numbers that stay free for a while before they are used again.
const FREE_MIN: usize = 1024;

/// Addresses and ports in ascending order, and the size of their lookup table.
type SetKey = (Box<[(IpAddr, u16)]>, usize);

/// Makes backend sets; those with equal endpoints share one lookup table.
#[derive(Debug)]
pub(super) struct Sets {
    key: HashKey,
    is_random: bool,
    known: HashMap<SetKey, WeakMaglev>,
    /// How many there may be before those are looked for that nobody uses any more.
    sweep_at: usize,
}

impl Sets {
    /// With the hash key that all nodes share.
    pub(super) fn new(key: HashKey, is_random: bool) -> Self {
        Self {
            key,
            is_random,
            known: HashMap::new(),
            sweep_at: SWEEP_MIN,
        }
    }

    /// The set of these backends, in ascending order of address and port, out of so many `listed` endpoints. What it
    /// chooses depends on nothing else, or nodes with another history would choose otherwise.
    pub(super) fn make(&mut self, backends: Vec<Backend>, listed: usize) -> BackendSet {
        if self.is_random || backends.len() < 2 {
            return BackendSet::new(backends, None);
        }
        let endpoints = backends
            .iter()
            .map(|backend| (backend.address, backend.port))
            .collect();
        let slots = self.table(endpoints, listed);
        BackendSet::new(backends, Some(slots))
    }

    fn table(&mut self, endpoints: Box<[(IpAddr, u16)]>, listed: usize) -> Maglev {
        let key = (endpoints, ladder_size(listed));
        if let Some(known) = self.known.get(&key).and_then(WeakMaglev::upgrade) {
            return known;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, table| table.is_used());
            self.sweep_at = SWEEP_MIN.max(2 * self.known.len());
        }
        let table = Maglev::build(&self.key, &key.0, listed);
        self.known.insert(key, table.downgrade());
        table
    }

    /// What all lookup tables take in memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        let tables = self.known.values().filter_map(WeakMaglev::upgrade);
        tables.map(|table| table.memory()).sum()
    }

    /// How many lookup tables there are.
    pub(super) fn len(&self) -> usize {
        self.known.values().filter(|table| table.is_used()).count()
    }
}

/// The fewest lookup tables that are worth looking for unused ones among.
const SWEEP_MIN: usize = 1024;
