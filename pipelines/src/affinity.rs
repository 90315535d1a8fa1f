//! Session affinity between the Services, which say when, and the table that remembers.

use std::cell::Cell;
use std::net::IpAddr;

use millrace_dataplane::table::affinity::Bound;
use millrace_dataplane::table::service::{Affinity, ServiceId};
use millrace_dataplane::table::{AffinityTable, Tick};

/// What one decision asks of the affinity table.
pub(crate) struct Remembering<'t> {
    table: &'t AffinityTable,
    now: Tick,
    /// What the decision was told is remembered, and for how long.
    told: Cell<(Option<Bound>, u32)>,
}

impl<'t> Remembering<'t> {
    pub(crate) fn new(table: &'t AffinityTable, now: Tick) -> Self {
        Self {
            table,
            now,
            told: Cell::new((None, 0)),
        }
    }
}

impl Affinity for Remembering<'_> {
    fn remembered(
        &self,
        service: ServiceId,
        client: IpAddr,
        timeout_s: u32,
        _: u32,
    ) -> Option<(IpAddr, u16)> {
        let bound = self.table.find(client, service.get(), timeout_s, self.now);
        self.told.set((bound, timeout_s));
        bound.map(|bound| (bound.address, bound.port))
    }

    fn remember(&self, service: ServiceId, client: IpAddr, (address, port): (IpAddr, u16), _: u32) {
        let (told, timeout_s) = self.told.get();
        let chosen = Bound { address, port };
        // Finding it has begun its time anew.
        if told != Some(chosen) {
            self.table
                .bind(client, service.get(), chosen, told, timeout_s, self.now);
        }
    }
}
