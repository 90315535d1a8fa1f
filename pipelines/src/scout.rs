//! Looking ahead for a packet's flow, so that the memory of it arrives while other packets are read.

use millrace_dataplane::table::flow::{Candidate, Hash, Tuple};

use crate::connections::Context;
use crate::entry::Entry;
use crate::family::Family;
use crate::packet::{Addresses, Carries, Packet};

/// Where a packet's flow is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scouted {
    hash: Option<Hash>,
    pub(crate) candidate: Option<Candidate>,
}

impl Scouted {
    /// Nowhere.
    pub(crate) const NOTHING: Self = Self {
        hash: None,
        candidate: None,
    };
}

impl Scouted {
    /// By this hash, at a place that is not known yet.
    pub(crate) const fn by(hash: Hash) -> Self {
        Self {
            hash: Some(hash),
            candidate: None,
        }
    }
}

/// Where what is found out about a packet stays.
pub(crate) struct Place<'s> {
    pub(crate) packet: &'s mut Packet,
    pub(crate) scouted: &'s mut Scouted,
}

impl<'s> Place<'s> {
    /// Looks ahead for the packet's flow, and writes down both. In this order: what is read back right after it was
    /// written, in other parts than it was, is waited for.
    #[inline(always)]
    pub(crate) fn take(self, cx: &Context<'_>, found: Packet) -> &'s mut Packet {
        *self.scouted = scout(cx, &found);
        *self.packet = found;
        self.packet
    }
}

/// Asks the memory for where the packet's flow would be. A packet that belongs to no connection has none, and neither
/// has one that the switch sends itself.
#[inline(always)]
fn scout(cx: &Context<'_>, packet: &Packet) -> Scouted {
    let is_tracked = packet.carries == Carries::Connection && !matches!(cx.entry, Entry::Switch);
    let hash = is_tracked.then(|| match packet.addresses {
        Addresses::V4 { source, destination } => ask(cx, packet, (source, destination)),
        Addresses::V6 { source, destination } => ask(cx, packet, (source, destination)),
    });
    Scouted {
        hash: hash.flatten(),
        candidate: None,
    }
}

#[inline(always)]
fn ask<A: Family>(cx: &Context<'_>, packet: &Packet, addresses: (A, A)) -> Option<Hash> {
    let flows = A::flows(&cx.connections.flows);
    let hash = flows.hash(&tuple(cx, packet, addresses)?);
    flows.prefetch_bucket(hash);
    Some(hash)
}

/// The tuple of a packet whose ports are known.
#[inline]
pub(crate) fn tuple<A: Family>(
    cx: &Context<'_>,
    packet: &Packet,
    (source, destination): (A, A),
) -> Option<Tuple<A>> {
    Some(Tuple {
        source,
        destination,
        protocol: packet.protocol,
        ports: packet.ports?,
        network: cx.network(),
    })
}

impl Scouted {
    /// Looks where the packet's flow would be, and asks the memory for the flow itself.
    #[inline]
    pub(crate) fn look(&mut self, cx: &Context<'_>, packet: &Packet) {
        let Some(hash) = self.hash else { return };
        match packet.addresses {
            Addresses::V4 { .. } => {
                let flows = cx.connections.flows.v4();
                self.candidate = flows.find(hash);
                self.candidate
                    .into_iter()
                    .for_each(|found| flows.prefetch_entry(found));
            }
            Addresses::V6 { .. } => {
                let flows = cx.connections.flows.v6();
                self.candidate = flows.find(hash);
                self.candidate
                    .into_iter()
                    .for_each(|found| flows.prefetch_entry(found));
            }
        }
    }
}
