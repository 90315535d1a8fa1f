//! `cross`: a packet that its network's routes lead into another one walks on there, as from one router to the next: its
//! connection is followed a second time, the policies of that network judge it, and its routes lead on.
//!
//! Both walks are one hop, counted in the first. Nothing is written into the packet before the second has found its way, but
//! for an ICMP error about a packet that was changed: so what is punted is as it came, and is its first network's.
//! What there is to tell its sender (that it is too large, that there is nobody) is told from there, by the gateway
//! that it knows; and when it has waited it crosses anew.

use std::net::IpAddr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::NetworkId;
use millrace_dataplane::table::flow::Rewrite;
use millrace_dataplane::verdict::{DropReason, Exit, PuntDetail, PuntReason};
use millrace_dataplane::wire::{Ethernet, Ipv4, Ipv6};

use crate::clamp::clamp_crossing;
use crate::connections::Context;
use crate::converse::converse;
use crate::depart::depart;
use crate::encap::Wrapper;
use crate::entry::Entry;
use crate::family::Family;
use crate::limit::Hop;
use crate::packet::{Addresses, Carries, Packet};
use crate::piece::crossed;
use crate::pieces::Pieces;
use crate::route::Leads;
use crate::scout::tuple;
use crate::translate::translate;

/// Walks a packet on in the network that its course leads into; answers the port that it leaves by.
#[inline(never)]
pub(crate) fn cross<A: Family>(
    cx: &Context<'_>,
    (wrapper, pieces): (&mut Wrapper, &mut Pieces),
    frame: &mut Frame,
    packet: &Packet,
    (network, hop, change): (NetworkId, Hop, Option<Rewrite<A>>),
) -> Result<PortId, Exit> {
    let gone = Exit::Punt(PuntReason::Unreachable, PuntDetail::Nothing);
    let is_own = cx.entry.is_own();
    let there = Context {
        tables: cx.top.of(network).ok_or(gone)?,
        entry: Entry::Crossed {
            from: cx.network(),
            is_own,
        },
        ..*cx
    };
    let (arriving, addresses) = arriving(frame, packet, change.as_ref())?;
    let flows = A::flows(&cx.connections.flows);
    let own_tuple = tuple(&there, &arriving, addresses);
    let candidate = own_tuple.and_then(|tuple| flows.find(flows.hash(&tuple)));
    let course = converse(&there, pieces, frame, &arriving, addresses, candidate)?;
    let way = match course.leads {
        Leads::Out(way) => way,
        // INVARIANT: no route that a crossing packet is given leads so.
        Leads::Into(_) => return Err(DropReason::NetworkTransit.into()),
    };
    if let Some(fragment) = packet.fragment.filter(|_| !is_own) {
        crossed(cx, pieces, frame, (packet, fragment))?;
    }
    if let Some(change) = &change {
        translate(frame, packet, change)?;
    }
    clamp_crossing(cx, frame, packet)?;
    depart(&there, wrapper, frame, &arriving, (way, hop, course.rewrite))
}

/// The packet as it comes into the second network: changed as the first changes it, and out of its tunnel.
fn arriving<A: Family>(
    frame: &Frame,
    packet: &Packet,
    change: Option<&Rewrite<A>>,
) -> Result<(Packet, (A, A)), Exit> {
    let (source, destination): (IpAddr, IpAddr) = match change {
        Some(change) => {
            let (source, destination) = change.addresses();
            (source.into(), destination.into())
        }
        None if packet.carries == Carries::Error => written(frame, packet)?,
        None => (packet.addresses.source(), packet.addresses.destination()),
    };
    // INVARIANT: a packet is of one family, before a change and after it.
    let addresses = Addresses::of(source, destination).ok_or(DropReason::NoRoute)?;
    let pair = A::of(source).zip(A::of(destination)).ok_or(DropReason::NoRoute)?;
    let arriving = Packet {
        addresses,
        ports: packet.ports.map(|ports| change.map_or(ports, Rewrite::ports)),
        is_tunnelled: false,
        ..*packet
    };
    Ok((arriving, pair))
}

/// The addresses that stand in the packet: those of an error are written as soon as they are known.
fn written(frame: &Frame, packet: &Packet) -> Result<(IpAddr, IpAddr), Exit> {
    let ethernet = Ethernet::parse(frame.bytes())?;
    Ok(match packet.addresses {
        Addresses::V4 { .. } => {
            let ip = Ipv4::parse(ethernet.payload())?;
            (ip.source().into(), ip.destination().into())
        }
        Addresses::V6 { .. } => {
            let ip = Ipv6::parse(ethernet.payload())?;
            (ip.source().into(), ip.destination().into())
        }
    })
}
