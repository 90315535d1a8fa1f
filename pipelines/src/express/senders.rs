//! Which nodes have been found to be allowed to send from which addresses, so that not every packet asks the tables.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::table::{Epoch, NodeTables, Tunnel};

/// How many pairs of addresses are remembered; a power of two.
const PLACES: usize = 2048;

/// One worker's memory of who may send what. Each place has one pair; another that falls on it takes it.
#[derive(Debug)]
pub(crate) struct Senders {
    known: Vec<Known>,
}

/// A node's address in the underlay and a source address inside its tunnel, and the snapshot in which they belonged
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    pair: u64,
    epoch: Epoch,
    /// `None` where nothing is known.
    tunnel: Option<Agreed>,
}

/// How a node's packets are to be wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    /// VXLAN to this UDP port.
    Vxlan(u16),
    Ipip,
}

impl Known {
    const NOTHING: Self = Self {
        pair: 0,
        epoch: Epoch(0),
        tunnel: None,
    };
}

impl Senders {
    /// Nobody yet. All memory is taken here.
    pub(crate) fn new() -> Self {
        Self {
            known: vec![Known::NOTHING; PLACES],
        }
    }

    /// Whether the node at `outer` may send from `inner`, in this kind of tunnel.
    #[inline(always)]
    pub(super) fn may(
        &mut self,
        tables: &NodeTables,
        (outer, inner): (Ipv4Addr, Ipv4Addr),
        tunnel: Agreed,
    ) -> bool {
        let pair = u64::from(outer.to_bits()) << 32 | u64::from(inner.to_bits());
        // INVARIANT: masked to below PLACES. Who chooses addresses to fall on one place gets the tables asked again.
        #[allow(clippy::cast_possible_truncation)]
        let place = (pair ^ pair >> 21 ^ pair >> 40) as usize & (PLACES - 1);
        let known = self.known.get_mut(place);
        let now = Known {
            pair,
            tunnel: Some(tunnel),
            epoch: tables.epoch,
        };
        if known.as_deref() == Some(&now) {
            return true;
        }
        let may = ask(tables, outer, inner, tunnel);
        if let Some(known) = known
            && may
        {
            *known = now;
        }
        may
    }
}

#[inline(never)]
fn ask(tables: &NodeTables, outer: Ipv4Addr, inner: Ipv4Addr, tunnel: Agreed) -> bool {
    let Some((id, peer)) = tables.peers.by_outer_source(IpAddr::V4(outer)) else {
        return false;
    };
    let agreed = match peer.tunnel {
        Tunnel::Vxlan { port, .. } => Agreed::Vxlan(port),
        Tunnel::Ipip => Agreed::Ipip,
    };
    agreed == tunnel && tables.peers.by_inner_source(IpAddr::V4(inner)) == Some(id)
}
