//! The end of connections: after their timeout, or because somebody says so.

use super::flow::Opened;
use super::shard::seen_at;
use super::store::{self, Life};
use super::tuple::Address;
use super::{Connection, FlowId, FlowShard, SweepCursor, Swept, Timeouts, protocol};
use crate::port::PortId;
use crate::table::Tick;

/// How many records ahead of a sweep the memory is asked for.
const AHEAD: u32 = 8;
/// How often a removal is tried while others change the connection.
const REMOVE_TRIES: usize = 128;

impl<A: Address> FlowShard<A> {
    /// Removes the connection of a flow; `false` if it was gone before.
    pub fn remove(&self, id: FlowId) -> bool {
        for _ in 0..REMOVE_TRIES {
            let state = self.store.state(id.record());
            if state.life() != Life::Live || state.incarnation() != store::incarnation(id.version) {
                return false;
            }
            if self.take_out(self.store.remove(id.record(), state)) {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Looks at the next `budget` records of a share, or at those left of it, and forgets the connections whose time is
    /// over.
    pub fn sweep(&self, cursor: &mut SweepCursor, budget: u32, now: Tick, timeouts: &Timeouts) -> Swept {
        let mut swept = Swept::default();
        let used = self.store.used();
        for _ in 0..budget {
            if cursor.next >= used {
                cursor.next = cursor.first;
                swept.is_round = true;
                break;
            }
            let ahead = cursor.next.saturating_add(cursor.step.saturating_mul(AHEAD));
            self.store.prefetch_record(ahead);
            swept.expired += u32::from(self.expire(cursor.next, now, timeouts));
            cursor.next = cursor.next.saturating_add(cursor.step);
        }
        swept
    }

    /// Forgets the connection of a record if its time is over.
    fn expire(&self, record: u32, now: Tick, timeouts: &Timeouts) -> bool {
        let state = self.store.state(record);
        match state.life() {
            Life::Live => {
                // A packet that comes between the look and the removal is too late: it walks as a first one.
                self.age(record, now) > protocol::timeout_s(state.notes(), timeouts)
                    && self.take_out(self.store.remove(record, state))
            }
            Life::Dying => {
                self.take_out(self.store.finish_dying(record, state));
                false
            }
            Life::Free | Life::Claiming | Life::Removing => false,
        }
    }

    /// Seconds since a packet of either direction was seen.
    pub(super) fn age(&self, record: u32, now: Tick) -> u32 {
        let [original, reply] = [record << 1, record << 1 | 1].map(|place| seen_at(self.store.stamp(place)));
        now.since(original.latest(reply))
    }

    /// Removes every connection that `is_over` says so of; returns how many. Looks at every record: for the control
    /// plane.
    pub fn remove_where(&self, mut is_over: impl FnMut(&Connection<A>) -> bool) -> u32 {
        let over = self.connections().filter(|connection| is_over(connection));
        over.map(|connection| u32::from(self.remove(connection.id))).sum()
    }

    /// Every connection, each as it was at one moment; those that come and go meanwhile may or may not be there.
    pub fn connections(&self) -> impl Iterator<Item = Connection<A>> + '_ {
        (0..self.store.used()).filter_map(|record| self.connection_in(record, |_| true))
    }

    /// Charges every connection anew to whom `opener` names of those it is given: who is charged so far, and the
    /// connection.
    pub(super) fn charge_anew(&self, opener: impl Fn(&Connection<A>) -> Option<PortId>) {
        for connection in self.connections() {
            self.charge_to(&connection, opener(&connection));
        }
    }

    /// Charges nothing to `port` any more, and ends what it has in protocols without ports.
    pub(super) fn forget_opener(&self, port: PortId) {
        for connection in self.connections().filter(|found| found.opener == Some(port)) {
            if protocol::is_portless(connection.original.protocol) {
                self.remove(connection.id);
            } else {
                self.charge_to(&connection, None);
            }
        }
    }

    fn charge_to(&self, connection: &Connection<A>, new: Option<PortId>) {
        let old = connection.opener;
        if old == new {
            return;
        }
        if let Some(port) = new {
            self.charges.charge_existing(port);
        }
        let word = |by| {
            Opened {
                at: connection.created,
                by,
            }
            .word()
        };
        // Who takes the word out of a record settles what it says: here, or where the connection is removed.
        let exchanged = self.store.reopen(connection.id.record(), word(old), word(new));
        if let Some(port) = if exchanged { old } else { new } {
            self.charges.release(port);
        }
    }
}
