//! Session affinity: which backend a client was sent to last.
//!
//! One table for all workers, of fixed size, without a lock: sets of a few places each, found by a keyed hash of client
//! and Service. A set that is full forgets its oldest.
//!
//! A set is a sequence lock whose every word is atomic: its first word is odd while somebody writes. A reader that
//! meets a writer begins again, a bounded number of times, and a writer that meets one does without.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{HashKey, Tick};

/// A Service's backend, as an affinity remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bound {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Which backend each client of each Service with `sessionAffinity: ClientIP` was sent to last.
#[derive(Debug)]
pub struct AffinityTable {
    key: HashKey,
    sets: Box<[Set]>,
}

/// Places of a set.
const WAYS: usize = 5;
/// Words of a place: client, backend (two each), Service and last use, port.
const WAY_WORDS: usize = 6;
/// Words of a set: the version, places, and one to make it four whole cache lines.
const SET_WORDS: usize = 1 + WAYS * WAY_WORDS + 1;
/// How often a reader or a writer begins again.
const TRIES: usize = 64;

/// A few places, read and written together.
#[derive(Debug)]
#[repr(align(64))]
struct Set {
    words: [AtomicU64; SET_WORDS],
}

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    who: Who,
    bound: Bound,
    used: Tick,
}

/// A client of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Who {
    client: IpAddr,
    service: u32,
}

impl AffinityTable {
    /// How many clients a table has room for by default, each counted once for every Service.
    pub const CLIENTS_DEFAULT: usize = 1 << 16;

    /// A table with room for at least `clients`, each counted once for every Service.
    #[must_use]
    pub fn new(clients: usize) -> Self {
        let set = || Set {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Self {
            key: HashKey::random(),
            sets: (0..clients.div_ceil(WAYS).max(1)).map(|_| set()).collect(),
        }
    }

    /// The backend that `client` of `service` was sent to no more than `timeout_s` seconds ago, whose time begins
    /// anew; `None` if there is none.
    #[must_use]
    pub fn find(&self, client: IpAddr, service: u32, timeout_s: u32, now: Tick) -> Option<Bound> {
        let who = Who { client, service };
        let (place, way) = self.set(who).read(who)?;
        if now.since(way.used) > timeout_s {
            return None;
        }
        self.set(who).touch(place, &way, now);
        Some(way.bound)
    }

    /// Binds `client` of `service` to `chosen`, unless it is bound already to another than `gone`, the backend that
    /// [`Self::find`] answered and that serves no more. Answers what it is bound to now: of two workers both get the
    /// same. If others write the same set all the while it is not bound at all, and `chosen` is the answer.
    pub fn bind(
        &self,
        client: IpAddr,
        service: u32,
        chosen: Bound,
        gone: Option<Bound>,
        timeout_s: u32,
        now: Tick,
    ) -> Bound {
        let who = Who { client, service };
        let new = Way {
            who,
            bound: chosen,
            used: now,
        };
        let stands = |old: &Way| now.since(old.used) <= timeout_s && Some(old.bound) != gone;
        self.set(who).put(&new, stands, now).unwrap_or(chosen)
    }

    /// What the table takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of_val(&*self.sets)
    }

    fn set(&self, who: Who) -> &Set {
        let [high, low] = halves(who.client);
        let hash = self.key.hash([high, low, u64::from(who.service)]);
        // INVARIANT: a product's upper half is below the number of sets, and there is one at least.
        #[allow(clippy::cast_possible_truncation)]
        let number = ((u128::from(hash) * self.sets.len() as u128) >> 64) as usize;
        &self.sets[number]
    }
}

impl Set {
    /// Word `at` of place `place`.
    fn word(&self, place: usize, at: usize) -> &AtomicU64 {
        &self.words[1 + place * WAY_WORDS + at]
    }

    fn way(&self, place: usize) -> Option<Way> {
        Way::from_words(std::array::from_fn(|at| {
            self.word(place, at).load(Ordering::Relaxed)
        }))
    }

    /// The place of a client, and what it holds. As with an entry of the flow table: the fence after the words meets the
    /// one that a writer set before them.
    fn read(&self, who: Who) -> Option<(usize, Way)> {
        for _ in 0..TRIES {
            let version = self.words[0].load(Ordering::Acquire);
            if version & 1 == 0 {
                let found = self.find(who);
                fence(Ordering::Acquire);
                if self.words[0].load(Ordering::Relaxed) == version {
                    return found;
                }
            }
            std::hint::spin_loop();
        }
        None
    }

    fn find(&self, who: Who) -> Option<(usize, Way)> {
        let mut ways = (0..WAYS).map(|place| (place, self.way(place)));
        ways.find_map(|(place, way)| way.filter(|way| way.who == who).map(|way| (place, way)))
    }

    /// Notes a use. If the place is another's by now, of the same Service and last used in the same second, that one
    /// lives a little longer.
    fn touch(&self, place: usize, way: &Way, now: Tick) {
        if now.since(way.used) > 0 {
            let word = |used| Way { used, ..*way }.words()[Way::USED];
            let (old, new) = (word(way.used), word(now));
            let at = self.word(place, Way::USED);
            let _ = at.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Writes `new`, unless its client has a place that `stands`; answers what the client has then. `None` if others
    /// write all the while.
    fn put(&self, new: &Way, stands: impl Fn(&Way) -> bool, now: Tick) -> Option<Bound> {
        for _ in 0..TRIES {
            let version = self.words[0].load(Ordering::Relaxed);
            let is_mine = version & 1 == 0
                && self.words[0]
                    .compare_exchange(version, version | 1, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok();
            if !is_mine {
                std::hint::spin_loop();
                continue;
            }
            fence(Ordering::Release);
            let found = self.find(new.who);
            let bound = match found.filter(|(_, way)| stands(way)) {
                Some((_, way)) => way.bound,
                None => {
                    let place = found.map_or_else(|| self.oldest(now), |(place, _)| place);
                    for (at, word) in new.words().into_iter().enumerate() {
                        self.word(place, at).store(word, Ordering::Relaxed);
                    }
                    new.bound
                }
            };
            self.words[0].store(version.wrapping_add(2), Ordering::Release);
            return Some(bound);
        }
        None
    }

    /// An empty place, or the one that was not used for the longest time.
    fn oldest(&self, now: Tick) -> usize {
        let age = |place: usize| {
            self.way(place)
                .map_or(u64::MAX, |way| u64::from(now.since(way.used)))
        };
        (0..WAYS).max_by_key(|place| age(*place)).unwrap_or(0)
    }
}

impl Way {
    /// The word that says when it was last used.
    const USED: usize = 4;
    /// In the last word, above the port: whose addresses are of IPv4, in their mapped form (RFC 4291 section 2.5.5.2).
    const CLIENT_V4: u64 = 1 << 16;
    const BACKEND_V4: u64 = 1 << 17;
    const IS_TAKEN: u64 = 1 << 18;

    fn words(&self) -> [u64; WAY_WORDS] {
        let ([a, b], [c, d]) = (halves(self.who.client), halves(self.bound.address));
        let flag = |is: bool, flag| if is { flag } else { 0 };
        let flags = flag(self.who.client.is_ipv4(), Self::CLIENT_V4)
            | flag(self.bound.address.is_ipv4(), Self::BACKEND_V4)
            | Self::IS_TAKEN;
        let used = u64::from(self.who.service) << 32 | u64::from(self.used.seconds());
        [a, b, c, d, used, flags | u64::from(self.bound.port)]
    }

    fn from_words([a, b, c, d, used, flags]: [u64; WAY_WORDS]) -> Option<Self> {
        if flags & Self::IS_TAKEN == 0 {
            return None;
        }
        Some(Self {
            who: Who {
                client: whole([a, b], flags & Self::CLIENT_V4 != 0),
                service: (used >> 32) as u32,
            },
            bound: Bound {
                address: whole([c, d], flags & Self::BACKEND_V4 != 0),
                port: (flags & 0xffff) as u16,
            },
            used: Tick::from_bits((used & 0xffff_ffff) as u32),
        })
    }
}

/// An address as two words; one of IPv4 in its mapped form.
fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    // INVARIANT: both are halves of 128 bits.
    #[allow(clippy::cast_possible_truncation)]
    let halves = [(bits >> 64) as u64, bits as u64];
    halves
}

/// The address that such words are.
fn whole([high, low]: [u64; 2], is_v4: bool) -> IpAddr {
    let v6 = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    match v6.to_ipv4_mapped() {
        Some(v4) if is_v4 => IpAddr::V4(v4),
        _ => IpAddr::V6(v6),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicU32;

    const TIMEOUT_S: u32 = 10_800;

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 | number).into()
    }

    fn backend(number: u16) -> Bound {
        Bound {
            address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number).into(),
            port: number,
        }
    }

    fn at(second: u32) -> Tick {
        Tick::from_seconds(second)
    }

    #[test]
    fn a_client_is_sent_to_the_same_backend_while_its_time_lasts() {
        let table = AffinityTable::new(100);
        let find = |who, service, now| table.find(client(who), service, TIMEOUT_S, at(now));
        assert_eq!(find(1, 1, 100), None);
        let bound = table.bind(client(1), 1, backend(7), None, TIMEOUT_S, at(100));
        assert_eq!(bound, backend(7));
        assert_eq!(find(1, 1, 101), Some(backend(7)));
        assert_eq!((find(1, 2, 101), find(2, 1, 101)), (None, None));
        let mapped = Ipv4Addr::from_bits(0x0a00_0001).to_ipv6_mapped().into();
        assert_eq!(
            table.find(mapped, 1, TIMEOUT_S, at(101)),
            None,
            "another family's address"
        );
        // Every use begins its time anew.
        assert_eq!(find(1, 1, 101 + TIMEOUT_S), Some(backend(7)));
        assert_eq!(find(1, 1, 101 + 2 * TIMEOUT_S), Some(backend(7)));
        assert_eq!(find(1, 1, 102 + 3 * TIMEOUT_S), None);
        let later = at(102 + 3 * TIMEOUT_S);
        assert_eq!(
            table.bind(client(1), 1, backend(8), None, TIMEOUT_S, later),
            backend(8)
        );
    }

    #[test]
    fn a_bound_client_is_bound_again_only_if_its_backend_is_gone() {
        let table = AffinityTable::new(100);
        let bind = |chosen, gone| table.bind(client(1), 1, chosen, gone, TIMEOUT_S, at(5));
        assert_eq!(bind(backend(1), None), backend(1));
        assert_eq!(
            bind(backend(2), None),
            backend(1),
            "another worker was first, and both say so"
        );
        assert_eq!(bind(backend(3), Some(backend(2))), backend(1));
        assert_eq!(bind(backend(3), Some(backend(1))), backend(3));
        assert_eq!(table.find(client(1), 1, TIMEOUT_S, at(6)), Some(backend(3)));
    }

    #[test]
    fn a_full_set_forgets_the_one_not_used_for_the_longest_time() {
        let table = AffinityTable::new(1);
        for number in 0..WAYS as u32 {
            table.bind(client(number), 1, backend(9), None, TIMEOUT_S, at(10 + number));
        }
        assert!(table.find(client(0), 1, TIMEOUT_S, at(50)).is_some());
        table.bind(client(99), 1, backend(9), None, TIMEOUT_S, at(51));
        let there = |number| table.find(client(number), 1, TIMEOUT_S, at(52)).is_some();
        assert!(there(0) && !there(1) && there(2) && there(99));
    }

    #[test]
    fn there_is_room_for_most_clients_when_the_table_is_as_full_as_it_says() {
        let table = AffinityTable::new(10_000);
        for number in 0..10_000 {
            table.bind(client(number), 3, backend(1), None, TIMEOUT_S, at(1));
        }
        let kept = (0..10_000)
            .filter(|number| table.find(client(*number), 3, TIMEOUT_S, at(1)).is_some())
            .count();
        assert!(kept > 7_500, "{kept} of 10,000");
        assert!(table.memory() <= 10_000 * 64, "{} bytes", table.memory());
    }

    #[test]
    fn workers_agree_and_never_read_half_of_an_affinity() {
        const CLIENTS: u32 = 12;
        let table = AffinityTable::new(WAYS);
        let found = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for worker in 0..3_u16 {
                let (table, found) = (&table, &found);
                scope.spawn(move || {
                    for turn in 0..60_000_u32 {
                        let who = (turn ^ u32::from(worker)) % CLIENTS;
                        let chosen = Bound {
                            address: client(who + 1000),
                            port: (who + 7) as u16,
                        };
                        let now = at(1 + turn / 50);
                        let is_whole = |bound: Bound| {
                            assert_eq!(bound.address, client(u32::from(bound.port) - 7 + 1000));
                            assert_eq!(u32::from(bound.port) - 7, who, "another's backend");
                        };
                        if turn % 4 == 0 {
                            is_whole(table.bind(client(who), 1, chosen, None, TIMEOUT_S, now));
                        } else if let Some(bound) = table.find(client(who), 1, TIMEOUT_S, now) {
                            is_whole(bound);
                            found.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(found.load(Ordering::Relaxed) > 1000);
    }
}
