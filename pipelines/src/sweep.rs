//! Forgetting connections whose time is over, a bounded piece at a time.

use std::net::{Ipv4Addr, Ipv6Addr};

use millrace_dataplane::table::Tick;
use millrace_dataplane::table::flow::{FlowShard, SweepCursor};

use crate::connections::Connections;
use crate::family::Family;

/// How long it takes to look at every connection once, in seconds: how much later than its timeout one may go.
const ROUND_S: u32 = 10;
/// Records that are looked at in one turn, at most.
const RECORDS_PER_TURN: u32 = 256;

/// One worker's share of the work.
#[derive(Debug)]
pub(crate) struct Sweeper {
    v4: Share,
    v6: Share,
    last: Tick,
}

/// Its share of one family.
#[derive(Debug)]
struct Share {
    cursor: SweepCursor,
    per_second: u32,
    /// Records to be looked at by now.
    due: u32,
}

impl Sweeper {
    pub(crate) fn new(connections: &Connections, worker: usize) -> Self {
        Self {
            v4: Share::new::<Ipv4Addr>(connections, worker),
            v6: Share::new::<Ipv6Addr>(connections, worker),
            last: Tick::NEVER,
        }
    }

    /// Does a turn's part; answers whether more is due.
    #[inline]
    pub(crate) fn sweep(&mut self, connections: &Connections, now: Tick) -> bool {
        if now != self.last {
            let seconds = if self.last.is_never() {
                1
            } else {
                now.since(self.last)
            };
            self.last = now;
            self.v4.fall_due(seconds);
            self.v6.fall_due(seconds);
        }
        self.v4.sweep(connections.flows.v4(), connections, now);
        self.v6.sweep(connections.flows.v6(), connections, now);
        self.v4.due > 0 || self.v6.due > 0
    }
}

impl Share {
    fn new<A: Family>(connections: &Connections, worker: usize) -> Self {
        let flows = A::flows(&connections.flows);
        // INVARIANT: there are far fewer workers than this can say.
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let workers = number(connections.workers).max(1);
        Self {
            cursor: flows.cursor(number(worker), workers),
            per_second: (flows.capacity() / workers / ROUND_S).max(1),
            due: 0,
        }
    }

    /// A worker that was long kept from it makes up for one round at most.
    fn fall_due(&mut self, seconds: u32) {
        let round = self.per_second.saturating_mul(ROUND_S);
        self.due = self
            .due
            .saturating_add(self.per_second.saturating_mul(seconds))
            .min(round);
    }

    #[inline]
    fn sweep<A: Family>(&mut self, flows: &FlowShard<A>, connections: &Connections, now: Tick) {
        if self.due == 0 {
            return;
        }
        if flows.is_empty() {
            self.due = 0;
            return;
        }
        let budget = self.due.min(RECORDS_PER_TURN);
        let swept = flows.sweep(&mut self.cursor, budget, now, &connections.timeouts);
        // More than all of it is not due within a second.
        self.due = if swept.is_round { 0 } else { self.due - budget };
    }
}
