//! Backends, and how one of them is chosen.

use std::net::IpAddr;
use std::sync::Arc;

use super::{BackendId, Maglev};

/// Where connections of a Service can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its number.
    pub id: BackendId,
    /// Whether it is on this node.
    pub is_local: bool,
}

/// What an endpoint that a connection is bound to does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Serving {
    /// It takes connections.
    Yes,
    /// It takes no new ones: it is terminating, or not ready. TCP connections live on to their end; a UDP flow is
    /// given another backend.
    Draining,
    /// The Service has it no longer, or is itself gone. TCP connections are reset, if that is wanted.
    No,
}

/// The backends that one kind of traffic is spread over. It lies in its Service itself, so that the way to a backend has
/// few steps in memory; a copy shares what it points to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendSet {
    /// Sorted by address and port.
    backends: Arc<[Backend]>,
    /// Absent where there is nothing to choose, or the choice is random.
    slots: Option<Maglev>,
}

impl BackendSet {
    /// A set of `backends`, each address and port once. `slots` must have been made for exactly these addresses and
    /// ports in ascending order; without it the hash alone decides.
    #[must_use]
    pub fn new(mut backends: Vec<Backend>, slots: Option<Maglev>) -> Self {
        backends.sort_unstable_by_key(|backend| (backend.address, backend.port));
        backends.dedup_by_key(|backend| (backend.address, backend.port));
        let slots = slots.filter(|slots| slots.backends() == backends.len());
        Self {
            backends: backends.into(),
            slots,
        }
    }

    /// The backends, in ascending order of address and port.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Whether both are one and the same in memory.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backends, &other.backends)
    }

    /// The lookup table, if there is one.
    #[must_use]
    pub fn slots(&self) -> Option<&Maglev> {
        self.slots.as_ref()
    }

    /// The backend for a connection with this hash; `None` if there is none at all.
    #[inline]
    #[must_use]
    pub fn choose(&self, hash: u64) -> Option<&Backend> {
        let place = match &self.slots {
            Some(slots) => slots.backend(hash),
            None => scale(hash, self.backends.len()),
        };
        self.backends.get(place)
    }

    /// The backend with this address and port.
    #[inline]
    #[must_use]
    pub fn find(&self, address: IpAddr, port: u16) -> Option<&Backend> {
        let place = self
            .backends
            .binary_search_by_key(&(address, port), |backend| (backend.address, backend.port));
        self.backends.get(place.ok()?)
    }
}

/// A hash as a number below `len`, evenly; without the division that a remainder costs.
#[inline]
pub(super) fn scale(hash: u64, len: usize) -> usize {
    let scaled = (u128::from(hash) * len as u128) >> 64;
    // INVARIANT: below `len`, which is a usize.
    #[allow(clippy::cast_possible_truncation)]
    let place = scaled as usize;
    place
}
