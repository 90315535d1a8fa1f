//! Who has been found to be allowed to send from which addresses, so that not every packet from the wire asks the tables.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::table::{Epoch, NetworkId, NodeTables, Tunnel, TunnelKind};

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
    sent: Sent,
}

/// How a packet came, as one word, which is compared at once: a kind, and a UDP port or a network's number below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent(u32);

/// How far left the kind stands.
const KIND_SHIFT: u32 = 16;

impl Sent {
    /// Nothing came.
    const NEVER: Self = Self(0);
    /// In no tunnel.
    pub(super) const PLAIN: Self = Self(1 << KIND_SHIFT);
    /// In IP in IP.
    pub(super) const IPIP: Self = Self(2 << KIND_SHIFT);

    /// In VXLAN to this UDP port, in the cluster's own network.
    #[inline(always)]
    pub(super) const fn vxlan(port: u16) -> Self {
        Self(3 << KIND_SHIFT | port as u32)
    }

    /// In the VXLAN of this other network, to the one UDP port that it has.
    #[inline(always)]
    pub(super) const fn network(network: NetworkId) -> Self {
        Self(4 << KIND_SHIFT | network.number() as u32)
    }
}

impl Known {
    const NOTHING: Self = Self {
        pair: 0,
        epoch: Epoch(0),
        sent: Sent::NEVER,
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
        let known = &mut self.known[place(pair)];
        let now = Known {
            pair,
            sent,
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

/// Where a pair is remembered, by multiplication with the golden ratio (Knuth, TAOCP volume 3, section 6.4): nodes and their
/// pods have addresses in a row, and few bits of them differ. Who chooses addresses to fall on one place gets the tables
/// asked again.
#[inline(always)]
fn place(pair: u64) -> usize {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    // INVARIANT: as many bits as make a number below PLACES.
    #[allow(clippy::cast_possible_truncation)]
    let place = (pair.wrapping_mul(GOLDEN_RATIO) >> (u64::BITS - PLACES.ilog2())) as usize;
    place & (PLACES - 1)
}

#[inline(never)]
fn ask(tables: &NodeTables, outer: Ipv4Addr, inner: Ipv4Addr, sent: Sent) -> bool {
    let inner = IpAddr::V4(inner);
    if sent == Sent::PLAIN {
        return may_come_plain(tables, inner);
    }
    let kind = if sent == Sent::IPIP {
        TunnelKind::Ipip
    } else {
        TunnelKind::Vxlan
    };
    let Some((id, peer)) = tables.peers.by_outer_source(IpAddr::V4(outer), kind) else {
        return false;
    };
    let is_agreed = match peer.tunnel {
        Tunnel::Ipip => sent == Sent::IPIP,
        Tunnel::Vxlan { port, .. } if tables.network == NetworkId::CLUSTER => sent == Sent::vxlan(port),
        Tunnel::Vxlan { port, .. } => {
            sent == Sent::network(tables.network) && tables.local.has_vxlan_port(port)
        }
    };
    is_agreed && tables.peers.may_send(id, inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Nodes and pods are numbered in a row, with 256 or 64 addresses for each node.
    #[test]
    fn the_pods_of_a_cluster_are_remembered_side_by_side() {
        for (nodes, pods, block) in [(8, 8, 256), (20, 50, 256), (250, 4, 256), (64, 16, 64)] {
            let all = (1..=nodes).flat_map(|node| (2..2 + pods).map(move |pod| (node, pod)));
            let places: HashSet<usize> = all
                .map(|(node, pod): (u64, u64)| {
                    let (outer, inner) = (0xc000_0200 + node, 0x0af4_0000 + node * block + pod);
                    place(outer << 32 | inner)
                })
                .collect();
            // What chance would leave of a thousand is 639.
            let wanted = usize::try_from(nodes * pods).map_or(0, |all| all * 6 / 10);
            assert!(
                places.len() >= wanted,
                "{nodes} nodes of {pods}: {}",
                places.len()
            );
        }
    }
}
