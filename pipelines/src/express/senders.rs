//! Who has been found to be allowed to send from which addresses, so that not every packet from the wire asks the tables.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::table::{Epoch, NodeTables, Tunnel};

use crate::decap::may_come_plain;

/// How many pairs of addresses are remembered; a power of two.
const PLACES: usize = 1024;

/// One worker's memory of who may send what. Each place has one pair; another that falls on it takes it.
#[derive(Debug)]
pub(crate) struct Senders {
    known: [Known; PLACES],
}

/// A node's address in the underlay, or none, and a source address in its packets, and the snapshot in which they belonged
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    pair: u64,
    epoch: Epoch,
    /// `None` where nothing is known.
    sent: Option<Sent>,
}

/// How a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// In VXLAN to this UDP port.
    Vxlan(u16),
    /// In IP in IP.
    Ipip,
    /// In no tunnel.
    Plain,
}

impl Known {
    const NOTHING: Self = Self {
        pair: 0,
        epoch: Epoch(0),
        sent: None,
    };
}

impl Senders {
    /// Nobody yet.
    pub(crate) const NONE: Self = Self {
        known: [Known::NOTHING; PLACES],
    };

    /// Whether what came so, in a tunnel from the node at `outer` or in none, may have the source `inner`.
    #[inline(always)]
    pub(super) fn may(
        &mut self,
        tables: &NodeTables,
        (outer, inner): (Ipv4Addr, Ipv4Addr),
        sent: Sent,
    ) -> bool {
        let pair = u64::from(outer.to_bits()) << 32 | u64::from(inner.to_bits());
        // INVARIANT: masked to below PLACES. Who chooses addresses to fall on one place gets the tables asked again.
        #[allow(clippy::cast_possible_truncation)]
        let place = (pair ^ pair >> 21 ^ pair >> 40) as usize & (PLACES - 1);
        let known = &mut self.known[place];
        let now = Known {
            pair,
            sent: Some(sent),
            epoch: tables.epoch,
        };
        if *known == now {
            return true;
        }
        let may = ask(tables, outer, inner, sent);
        if may {
            *known = now;
        }
        may
    }
}

#[inline(never)]
fn ask(tables: &NodeTables, outer: Ipv4Addr, inner: Ipv4Addr, sent: Sent) -> bool {
    let inner = IpAddr::V4(inner);
    if sent == Sent::Plain {
        return may_come_plain(tables, inner);
    }
    let Some((id, peer)) = tables.peers.by_outer_source(IpAddr::V4(outer)) else {
        return false;
    };
    let agreed = match peer.tunnel {
        Tunnel::Vxlan { port, .. } => Sent::Vxlan(port),
        Tunnel::Ipip => Sent::Ipip,
    };
    agreed == sent && tables.peers.by_inner_source(inner) == Some(id)
}
