//! Which nodes have been found to be allowed to send from which addresses, so that not every packet asks the tables.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::table::{Epoch, NodeTables, PeerId};

/// How many pairs of addresses are remembered; a power of two.
const PLACES: usize = 2048;

/// One worker's memory of who may send what. Each place has one pair; another that falls on it takes it.
#[derive(Debug)]
pub(crate) struct Senders {
    known: [Known; PLACES],
}

/// A node's address in the underlay and a source address inside its tunnel, and the snapshot in which they belonged
/// together.
#[derive(Debug, Clone, Copy)]
struct Known {
    pair: u64,
    epoch: Option<Epoch>,
}

impl Senders {
    pub(crate) const NONE: Self = Self {
        known: [Known { pair: 0, epoch: None }; PLACES],
    };

    /// Whether the node at `outer` may send from `inner`, by a tunnel that `is_ours` finds right.
    #[inline(always)]
    pub(super) fn may(
        &mut self,
        tables: &NodeTables,
        (outer, inner): (Ipv4Addr, Ipv4Addr),
        is_ours: impl Fn(PeerId) -> bool,
    ) -> bool {
        let pair = u64::from(outer.to_bits()) << 32 | u64::from(inner.to_bits());
        // INVARIANT: masked to below PLACES. Who chooses addresses to fall on one place gets the tables asked again.
        #[allow(clippy::cast_possible_truncation)]
        let place = (pair ^ pair >> 21 ^ pair >> 40) as usize & (PLACES - 1);
        let known = &mut self.known[place];
        if known.pair == pair && known.epoch == Some(tables.epoch) {
            return true;
        }
        let may = ask(tables, outer, inner, is_ours);
        if may {
            *known = Known {
                pair,
                epoch: Some(tables.epoch),
            };
        }
        may
    }
}

#[inline(never)]
fn ask(tables: &NodeTables, outer: Ipv4Addr, inner: Ipv4Addr, is_ours: impl Fn(PeerId) -> bool) -> bool {
    let sender = tables.peers.by_outer_source(IpAddr::V4(outer)).map(|(id, _)| id);
    sender.is_some_and(|id| is_ours(id) && tables.peers.by_inner_source(IpAddr::V4(inner)) == Some(id))
}
