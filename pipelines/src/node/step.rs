//! A packet's walk through the stages, by itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::Candidate;
use millrace_dataplane::table::{NetworkId, Role};
use millrace_dataplane::verdict::Exit;
use millrace_dataplane::wire::eth;

use super::Own;
use crate::admit::admit;
use crate::classify::classify;
use crate::connections::Context;
use crate::converse::converse;
use crate::cross::cross;
use crate::decap::decap;
use crate::depart::depart;
use crate::entry::Entry;
use crate::express::Plain;
use crate::family::Family;
use crate::packet::{Addresses, Packet};
use crate::route::Leads;
use crate::scout::{Place, Scouted, tuple};
use crate::track::track_at_once;

/// A packet that walks the stages, between the two halves of its walk.
#[derive(Debug)]
pub(super) struct Step {
    /// How its walk has ended already, if it has; the rest then means nothing.
    end: Option<Exit>,
    packet: Packet,
    scouted: Scouted,
}

impl Step {
    pub(super) const FIRST: Self = Self {
        end: None,
        packet: Packet::UNREAD,
        scouted: Scouted::NOTHING,
    };

    /// The first half of a walk.
    #[inline(never)]
    pub(super) fn enter(&mut self, cx: &Context<'_>, frame: &mut Frame) {
        let Self { end, packet, scouted } = self;
        match enter(cx, frame, Place { packet, scouted }) {
            Ok(()) => *end = None,
            Err(exit) => *end = Some(exit),
        }
    }

    /// Looks for the packet's flow, on the way between the two halves.
    #[inline]
    pub(super) fn look(&mut self, cx: &Context<'_>) {
        if self.end.is_none() {
            self.scouted.look(cx, &self.packet);
        }
    }

    /// A whole walk at once.
    #[inline(never)]
    pub(super) fn walk(
        &mut self,
        cx: &Context<'_>,
        own: &mut Own,
        frame: &mut Frame,
    ) -> Result<PortId, Exit> {
        self.enter(cx, frame);
        self.look(cx);
        self.finish(cx, own, frame)
    }

    /// The walk of a packet that the lane has read and does not take.
    #[inline(never)]
    pub(super) fn walk_plain(
        &mut self,
        cx: &Context<'_>,
        own: &mut Own,
        frame: &mut Frame,
        plain: &Plain,
    ) -> Result<PortId, Exit> {
        let Some((packet, hash)) = plain.unwrapped() else {
            return self.walk(cx, own, frame);
        };
        frame.truncate(eth::HEADER_LEN + usize::from(packet.len));
        *self = Self {
            end: None,
            packet,
            scouted: Scouted::by(hash),
        };
        self.look(cx);
        self.finish(cx, own, frame)
    }

    /// The second half of a walk; answers the port that the packet leaves by.
    #[inline(never)]
    pub(super) fn finish(&self, cx: &Context<'_>, own: &mut Own, frame: &mut Frame) -> Result<PortId, Exit> {
        if let Some(exit) = self.end {
            return Err(exit);
        }
        match self.packet.addresses {
            Addresses::V4 { source, destination } => {
                self.leave::<Ipv4Addr>(cx, own, frame, (source, destination))
            }
            Addresses::V6 { source, destination } => {
                self.leave::<Ipv6Addr>(cx, own, frame, (source, destination))
            }
        }
    }

    /// Its connection (`track`, `balance`, `police`, `route`, `limit`), then what changes in it; answers the port it leaves by.
    #[inline]
    fn leave<A: Family>(
        &self,
        cx: &Context<'_>,
        own: &mut Own,
        frame: &mut Frame,
        addresses: (A, A),
    ) -> Result<PortId, Exit> {
        let packet = &self.packet;
        // Pieces are noted down, which is more than to follow a connection.
        if let (Some(candidate), None) = (self.scouted.candidate, packet.fragment)
            && let Some(tuple) = tuple(cx, packet, addresses)
            && let Some(left) = track_at_once(cx, &mut own.wrapper, frame, packet, &tuple, candidate)
        {
            return left;
        }
        leave_slowly(cx, own, frame, packet, addresses, self.scouted.candidate)
    }
}

/// The second half of a walk whose course is not known yet, or about which there is more to say than the port.
#[inline(never)]
fn leave_slowly<A: Family>(
    cx: &Context<'_>,
    own: &mut Own,
    frame: &mut Frame,
    packet: &Packet,
    addresses: (A, A),
    candidate: Option<Candidate>,
) -> Result<PortId, Exit> {
    let course = converse(cx, &mut own.pieces, frame, packet, addresses, candidate)?;
    let (hop, change) = (course.hop, course.rewrite);
    match course.leads {
        Leads::Out(way) => depart(cx, &mut own.wrapper, frame, packet, (way, hop, change)),
        Leads::Into(network) => {
            let memory = (&mut own.wrapper, &mut own.pieces);
            cross(cx, memory, frame, packet, (network, hop, change))
        }
    }
}

/// The first half of a walk: everything that needs nothing but the packet and the tables.
#[inline]
fn enter(cx: &Context<'_>, frame: &mut Frame, place: Place<'_>) -> Result<(), Exit> {
    let mut is_tunnelled = false;
    if let Entry::Port(_, ingress) = cx.entry {
        admit(ingress, frame)?;
        if ingress.role == Role::Uplink {
            is_tunnelled = decap(cx.tables, ingress, frame)?;
        }
    }
    let packet = classify(cx, is_tunnelled, frame, place)?;
    if let Entry::Held { .. } = cx.entry {
        packet.is_tunnelled = came_by_tunnel(cx, packet);
    }
    Ok(())
}

/// Whether a packet that waited had come out of a tunnel, as its source tells: what a peer may send is let in by no
/// other way, but for the peers' own addresses, which the wire may use as well.
#[cold]
fn came_by_tunnel(cx: &Context<'_>, packet: &Packet) -> bool {
    if cx.network() != NetworkId::CLUSTER {
        // By no other way does anything of another network come from the wire.
        return cx.entry.is(Role::Uplink);
    }
    let source = packet.addresses.source();
    cx.entry.is(Role::Uplink)
        && cx.tables.peers.by_inner_source(source).is_some()
        && !cx.tables.peers.comes_plain(source)
        && !cx.tables.local.node_addresses.contains(&source)
}
