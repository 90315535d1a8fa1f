//! Session affinity: which backend a client was sent to last.

use std::net::IpAddr;

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
///
/// One table for all workers, of fixed size, without a lock: sets of a few places each. A set that is full forgets
/// its oldest.
#[derive(Debug)]
pub struct AffinityTable {
    key: HashKey,
}

impl AffinityTable {
    /// A table with room for at least `capacity` clients, counted once for each Service.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let _ = capacity;
        Self {
            key: HashKey::random(),
        }
    }

    /// The backend that `client` of `service` was sent to no more than `timeout_s` seconds ago, whose time begins
    /// anew; `None` if there is none.
    #[must_use]
    pub fn find(&self, client: IpAddr, service: u32, timeout_s: u32, now: Tick) -> Option<Bound> {
        let _ = (client, service, timeout_s, now, self.key);
        None
    }

    /// Binds `client` of `service` to `chosen`, unless it is bound already to another than `gone`, the backend that
    /// [`Self::find`] answered and that serves no more. Answers what it is bound to now: of two workers both get the
    /// same.
    pub fn bind(
        &self,
        client: IpAddr,
        service: u32,
        chosen: Bound,
        gone: Option<Bound>,
        timeout_s: u32,
        now: Tick,
    ) -> Bound {
        let _ = (client, service, gone, timeout_s, now);
        chosen
    }
}
