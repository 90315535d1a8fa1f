//! Consistent hashing after "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4.
//!
//! Each backend has its own order of all slots, and the backends take turns at claiming the first slot in their order
//! that is still free. So all get nearly the same share, and when a backend comes or goes few slots of the others
//! change hands. The table depends on the key, the backends and how many endpoints are listed, and on nothing that went
//! before, so every node with the same key chooses alike.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use super::backend::scale;
use crate::table::HashKey;

/// The least number of slots for each backend. With so many, shares differ by about one per cent, and a backend that
/// goes moves little more than its own connections (section 5.3 of the paper).
pub const SLOTS_PER_BACKEND: usize = 100;

/// Numbers of slots that a table can have: primes, each about four times the one before. The first is for up to 20
/// backends, so that hardly any Service ever crosses a border.
pub const MAGLEV_LADDER: [usize; 7] = [2_039, 8_191, 32_749, 131_071, 524_287, 2_097_143, 6_553_577];

/// The size of the table for so many endpoints: the smallest of the ladder with at least [`SLOTS_PER_BACKEND`] slots for
/// each.
///
/// What is counted are all endpoints that are *listed*, ready or not, terminating or not. That is the hysteresis: a table
/// grows as soon as an endpoint is announced, before it is used, and shrinks only when one is gone from the list, so
/// one that fails and recovers, or a rollout, does not carry a Service back and forth over a border. How many there were
/// before does not count: a node that starts late, or has seen other changes, must choose as all others do. So a list that
/// crosses a border of the ladder (20, 81, 327, 1310, 5242, 20971) does give almost every hash another backend. Connections do
/// not notice, since each keeps what it was given; what changes is where new ones of the same client go.
#[must_use]
pub fn ladder_size(listed: usize) -> usize {
    let wanted = listed.saturating_mul(SLOTS_PER_BACKEND);
    let last = MAGLEV_LADDER[MAGLEV_LADDER.len() - 1];
    let size = MAGLEV_LADDER.iter().copied().find(|size| *size >= wanted);
    size.unwrap_or(last)
}

/// A lookup table from slots to backends, which stand for themselves by their place in ascending order of address and
/// port. A copy shares the slots.
#[derive(Clone, PartialEq, Eq)]
pub struct Maglev {
    slots: Arc<[u16]>,
    backends: usize,
}

/// A lookup table that is there as long as somebody uses it.
#[derive(Debug)]
pub struct WeakMaglev {
    slots: Weak<[u16]>,
    backends: usize,
}

impl WeakMaglev {
    /// The table, if anybody uses it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Maglev> {
        Some(Maglev {
            slots: self.slots.upgrade()?,
            backends: self.backends,
        })
    }

    /// Whether anybody uses it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.slots.strong_count() > 0
    }
}

impl Maglev {
    /// The most backends that a table can tell apart.
    pub const BACKENDS_MAX: usize = u16::MAX as usize;

    /// The table for `backends`, which are in ascending order; those beyond [`Self::BACKENDS_MAX`] get nothing. Its size
    /// is that for `listed` endpoints ([`ladder_size`]), of which the backends are those in use.
    #[must_use]
    pub fn build(key: &HashKey, backends: &[(IpAddr, u16)], listed: usize) -> Self {
        let backends = backends.get(..Self::BACKENDS_MAX).unwrap_or(backends);
        // A prime, so that each backend's steps reach every slot.
        let size = ladder_size(listed.max(backends.len()));
        let mut turns: Vec<Turn> = backends
            .iter()
            .map(|backend| Turn::new(key, *backend, size))
            .collect();
        let mut slots = vec![FREE; size];
        let mut left = if turns.is_empty() { 0 } else { size };
        while left > 0 {
            for (place, turn) in (0..FREE).zip(&mut turns) {
                if left == 0 {
                    break;
                }
                turn.claim(&mut slots, place);
                left -= 1;
            }
        }
        Self {
            slots: slots.into(),
            backends: backends.len(),
        }
    }

    /// The same table, for whoever does not keep it.
    #[must_use]
    pub fn downgrade(&self) -> WeakMaglev {
        WeakMaglev {
            slots: Arc::downgrade(&self.slots),
            backends: self.backends,
        }
    }

    /// Whether both are one and the same in memory.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slots, &other.slots)
    }

    /// The place of the backend for this hash.
    #[inline]
    #[must_use]
    pub fn backend(&self, hash: u64) -> usize {
        self.slots
            .get(scale(hash, self.slots.len()))
            .map_or(usize::MAX, |place| usize::from(*place))
    }

    /// For how many backends it was made.
    #[must_use]
    pub fn backends(&self) -> usize {
        self.backends
    }

    /// How many slots it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// What its slots take in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

impl fmt::Debug for Maglev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maglev")
            .field("size", &self.size())
            .field("backends", &self.backends)
            .finish()
    }
}

/// A slot that nobody has claimed.
const FREE: u16 = u16::MAX;

/// One backend's order of the slots, and where in it it stands.
struct Turn {
    next: usize,
    step: usize,
}

impl Turn {
    fn new(key: &HashKey, (address, port): (IpAddr, u16), size: usize) -> Self {
        let [a, b] = words(address);
        let order = |salt: u64| key.hash([salt, a, b, u64::from(port)]);
        Self {
            next: scale(order(1), size),
            // From 1 to size - 1: with a prime size every such step reaches all slots.
            step: 1 + scale(order(2), size.saturating_sub(1)),
        }
    }

    /// Claims the first free slot in its order. The caller knows that there is one.
    fn claim(&mut self, slots: &mut [u16], place: u16) {
        for _ in 0..slots.len() {
            let here = self.next;
            self.next += self.step;
            if self.next >= slots.len() {
                self.next -= slots.len();
            }
            if let Some(slot) = slots.get_mut(here).filter(|slot| **slot == FREE) {
                *slot = place;
                return;
            }
        }
    }
}

/// An address as two words, those of the two families apart.
#[inline]
pub(super) fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(v4) => [0, u64::from(v4.to_bits())],
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            // INVARIANT: both are halves of 128 bits.
            #[allow(clippy::cast_possible_truncation)]
            let halves = [(bits >> 64) as u64, bits as u64];
            halves
        }
    }
}
