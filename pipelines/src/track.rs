//! `track`: which connection a packet belongs to, and whether it may. What the first packet found out is taken from the
//! flow; what the flow does not know, or no longer, the later stages find out.

use std::hint;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{
    Address, Answer, Candidate, Direction, Flow, Freshness, Onward, Rewrite, TcpSegment, TcpVerdict, Tuple,
};
use millrace_dataplane::table::service::Serving;
use millrace_dataplane::table::{Spread, SubjectId};
use millrace_dataplane::verdict::{Awaited, DropReason, Exit, PuntDetail, PuntReason};
use millrace_dataplane::wire::{IpProtocol, Tcp, TcpFlags, eth};

use crate::connections::Context;
use crate::depart::depart;
use crate::encap::Wrapper;
use crate::entry::Entry;
use crate::family::Family;
use crate::limit::{Hop, is_from_us, limit, limit_leads};
use crate::open::open;
use crate::packet::Packet;
use crate::police::{police_again, subject};
use crate::route::{Leads, Route, Way, into_network, recall, route};

/// How often a packet is looked up at most: its connection may be over, or be another worker's doing.
const LOOKUPS_MAX: u32 = 6;
/// Pauses of the processor before the third look, which come to less than a microsecond; four times as many before each later
/// one. In so long another worker has claimed the connection, unless it was interrupted at that.
const PAUSES: u32 = 16;

/// Where a packet goes, and what changes in it.
#[derive(Debug)]
pub(crate) struct Course<'t, A: Address> {
    pub(crate) leads: Leads<'t>,
    pub(crate) hop: Hop,
    pub(crate) rewrite: Option<Rewrite<A>>,
}

/// Takes the course of a connection whose stored answer stands, as nearly every packet does; answers the port that it
/// leaves by. `None` if there is more to find out or to say, which is [`track`]'s to do, from the beginning.
///
/// Nothing in here is returned or lent to a function that is not inlined. Whatever is, the compiler keeps in memory:
/// written in small parts, and read at once in large ones before those have arrived.
#[inline]
pub(crate) fn track_at_once<A: Family>(
    cx: &Context<'_>,
    wrapper: &mut Wrapper,
    frame: &mut Frame,
    packet: &Packet,
    tuple: &Tuple<A>,
    candidate: Candidate,
) -> Option<Result<PortId, Exit>> {
    let flows = A::flows(&cx.connections.flows);
    let flow = flows.read_here(candidate, tuple)?;
    let freshness = freshness(cx, &flow);
    let way = standing(cx, &flow, freshness).ok()??;
    let hop = limit(is_from_us(cx.entry), (packet.hops, packet.len), &way).ok()?;
    if let Some(segment) = segment(frame, packet) {
        match judge(flows.track_tcp(flow.id, &segment)) {
            Ok(Judged::Accepted) => {}
            Ok(Judged::Reopen | Judged::Gone) => return None,
            Err(reason) => return Some(Err(reason.into())),
        }
    }
    touch(cx, &flow, freshness);
    Some(depart(cx, wrapper, frame, packet, (way, hop, flow.rewrite)))
}

/// Follows the connection of `tuple`, or begins it. `candidate` is where a look ahead has seen it.
pub(crate) fn track<'t, A: Family>(
    cx: &Context<'t>,
    frame: &Frame,
    packet: &Packet,
    tuple: &Tuple<A>,
    candidate: Option<Candidate>,
) -> Result<Course<'t, A>, Exit> {
    let flows = A::flows(&cx.connections.flows);
    let segment = segment(frame, packet);
    let mut found = candidate.and_then(|candidate| flows.read(candidate, tuple));
    // What begins no connection may belong to one that has begun since the look ahead, with a packet of the same batch.
    if found.is_none()
        && segment
            .as_ref()
            .is_some_and(|segment| !segment.flags.contains(TcpFlags::SYN))
    {
        found = flows.lookup(tuple);
    }
    for look in 0..LOOKUPS_MAX {
        if look > 0 {
            // One that is over is followed by another at once; who still finds none has met another worker.
            let pauses = look.checked_sub(2).map_or(0, |doubts| PAUSES << (2 * doubts));
            (0..pauses).for_each(|_| hint::spin_loop());
            found = flows.lookup(tuple);
        }
        let course = match &found {
            Some(flow) => follow(cx, packet, tuple, flow, segment.as_ref())?,
            None => open(cx, packet, tuple, segment, look + 1 == LOOKUPS_MAX)?,
        };
        if let Some(course) = course {
            return Ok(course);
        }
    }
    Err(DropReason::FlowRaced.into())
}

/// Follows the connection of a later piece, whose ports and TCP segment the first one had; `None` if there is none.
#[cold]
pub(crate) fn track_piece<'t, A: Family>(
    cx: &Context<'t>,
    packet: &Packet,
    tuple: &Tuple<A>,
    segment: Option<&TcpSegment>,
) -> Result<Option<Course<'t, A>>, Exit> {
    match A::flows(&cx.connections.flows).lookup(tuple) {
        Some(flow) => follow(cx, packet, tuple, &flow, segment),
        None => Ok(None),
    }
}

/// The TCP segment, if the packet is one, or begins with one in its first piece.
#[inline]
pub(crate) fn segment(frame: &Frame, packet: &Packet) -> Option<TcpSegment> {
    if packet.protocol != IpProtocol::TCP {
        return None;
    }
    let at = eth::HEADER_LEN + usize::from(packet.transport_at);
    let tcp = Tcp::parse(frame.bytes().get(at..)?).ok()?;
    Some(TcpSegment::new(&tcp))
}

/// What a connection makes of a segment that is not dropped.
pub(crate) enum Judged {
    Accepted,
    /// It begins another connection in the place of this one, which is over.
    Reopen,
    /// The connection is over.
    Gone,
}

#[inline]
pub(crate) fn judge(verdict: TcpVerdict) -> Result<Judged, DropReason> {
    match verdict {
        TcpVerdict::Accept => Ok(Judged::Accepted),
        TcpVerdict::OutOfWindow => Err(DropReason::TcpWindow),
        TcpVerdict::Invalid => Err(DropReason::TcpInvalid),
        TcpVerdict::Reopen => Ok(Judged::Reopen),
        TcpVerdict::Gone => Ok(Judged::Gone),
    }
}

/// A packet of a connection that is known; `None` if that is over, and the packet is to be looked up again.
fn follow<'t, A: Family>(
    cx: &Context<'t>,
    packet: &Packet,
    tuple: &Tuple<A>,
    flow: &Flow<A>,
    segment: Option<&TcpSegment>,
) -> Result<Option<Course<'t, A>>, Exit> {
    let flows = A::flows(&cx.connections.flows);
    if let Some(segment) = segment {
        match judge(flows.track_tcp(flow.id, segment))? {
            Judged::Accepted => {}
            Judged::Reopen => {
                flows.remove(flow.id);
                return Ok(None);
            }
            Judged::Gone => return Ok(None),
        }
    }
    let freshness = freshness(cx, flow);
    let leads = match standing(cx, flow, freshness)? {
        Some(way) => Leads::Out(way),
        None => match standing_network(cx, flow, freshness)? {
            Some(leads) => leads,
            None => match renew(cx, packet, tuple, flow)? {
                Some(leads) => leads,
                None => return Ok(None),
            },
        },
    };
    let hop = limit_leads(is_from_us(cx.entry), (packet.hops, packet.len), &leads)?;
    touch(cx, flow, freshness);
    Ok(Some(Course {
        leads,
        hop,
        rewrite: flow.rewrite,
    }))
}

/// Notes that the flow is in use, and what its answer holds in.
#[inline(always)]
pub(crate) fn touch<A: Family>(cx: &Context<'_>, flow: &Flow<A>, freshness: Freshness) {
    let flows = A::flows(&cx.connections.flows);
    match freshness {
        Freshness::Restamp => flows.touch_in(flow, cx.now, cx.tables.epoch),
        Freshness::Fresh | Freshness::Stale => flows.touch(flow, cx.now),
    }
}

/// The way out that the flow remembers, if it leads out and what it rests on has not changed.
#[inline(always)]
pub(crate) fn standing<'t, A: Family>(
    cx: &Context<'t>,
    flow: &Flow<A>,
    freshness: Freshness,
) -> Result<Option<Way<'t>>, Exit> {
    match (&flow.answer, freshness) {
        (Some(answer), Freshness::Fresh | Freshness::Restamp) => recall(cx.tables, answer.onward, A::IS_V6),
        (None, _) | (_, Freshness::Stale) => Ok(None),
    }
}

/// The network that the flow leads into, if it does and what that rests on has not changed.
fn standing_network<'t, A: Family>(
    cx: &Context<'t>,
    flow: &Flow<A>,
    freshness: Freshness,
) -> Result<Option<Leads<'t>>, Exit> {
    match (flow.answer.map(|answer| answer.onward), freshness) {
        (Some(Onward::Network(network)), Freshness::Fresh | Freshness::Restamp) => {
            into_network(cx, network).map(Some)
        }
        (Some(Onward::Port(_) | Onward::Neighbour(_) | Onward::Peer(_) | Onward::Refused(_)) | None, _)
        | (Some(Onward::Network(_)), Freshness::Stale) => Ok(None),
    }
}

/// Whether what the flow remembers holds.
#[inline(always)]
pub(crate) fn freshness<A: Family>(cx: &Context<'_>, flow: &Flow<A>) -> Freshness {
    flow.answer.as_ref().map_or(Freshness::Stale, |answer| {
        answer.freshness(cx.tables.epoch, &cx.tables.subjects)
    })
}

/// Finds the way of a known connection anew; its addresses and ports stay as they are. `None` if the connection is to
/// be forgotten, because its backend no longer serves it.
#[cold]
fn renew<'t, A: Family>(
    cx: &Context<'t>,
    packet: &Packet,
    tuple: &Tuple<A>,
    flow: &Flow<A>,
) -> Result<Option<Leads<'t>>, Exit> {
    let flows = A::flows(&cx.connections.flows);
    let leaving = flow
        .rewrite
        .map_or(*tuple, |rewrite| rewrite.tuple(tuple.protocol, tuple.network));
    let mut backend = SubjectId::NONE;
    if flow.id.direction() == Direction::Original {
        match bound_to(cx, tuple, flow) {
            Bound::Nobody => {}
            Bound::To(number) => backend = SubjectId::backend(number),
            Bound::Over => {
                flows.remove(flow.id);
                return Ok(None);
            }
            Bound::Gone => {
                // The client is told once; should it call again from the same port, that is a new connection.
                flows.remove(flow.id);
                return Err(Exit::Punt(PuntReason::EndpointGone, PuntDetail::Nothing));
            }
        }
    }
    if police_again(cx, flow)?.is_none() {
        return Ok(None);
    }
    let found = route(cx, leaving.destination.into(), flow.rewrite.is_some(), || {
        tuple.hash_with(&Spread::KEY)
    })?;
    if flow.answer.is_none() && !packet.protocol.has_ports() {
        steer_answers(cx, tuple, &leaving, &found)?;
    }
    flows.store_answer(flow.id, &answer(cx, &found, backend));
    Ok(Some(found.leads))
}

/// What a connection is bound to.
enum Bound {
    /// No Service's backend.
    Nobody,
    /// This backend, which still serves it.
    To(u32),
    /// A backend that does not, and there is nothing to be said about it.
    Over,
    /// A backend that does not, and the caller is to be told.
    Gone,
}

/// Asks what the backend of a connection does now. One that is over for UDP is over at once, so that the next packet
/// finds a backend that answers; TCP cannot move, and ends with its backend.
fn bound_to<A: Family>(cx: &Context<'_>, tuple: &Tuple<A>, flow: &Flow<A>) -> Bound {
    let connection = A::flows(&cx.connections.flows).connection(flow.id);
    let Some((connection, binding)) = connection.and_then(|found| Some((found, found.binding?))) else {
        return Bound::Nobody;
    };
    let backend = connection.reply.source.into();
    let port = connection.reply.ports.source;
    let serving = cx.tables.services.still_serves(
        tuple.source.into(),
        tuple.protocol,
        (tuple.destination.into(), tuple.ports.destination),
        (backend, port),
    );
    let is_tcp = tuple.protocol == IpProtocol::TCP;
    match serving {
        Serving::Yes => Bound::To(binding.backend),
        Serving::Draining if is_tcp => Bound::To(binding.backend),
        Serving::No if is_tcp && cx.tables.local.resets_removed_endpoints => Bound::Gone,
        Serving::No if is_tcp => Bound::To(binding.backend),
        Serving::Draining | Serving::No => Bound::Over,
    }
}

/// Holds the first echo request back that leaves by the uplink with an id of ours, and the first packet of a protocol
/// without ports to a remote, until the uplink's steering knows: the answer would go to the node's own network stack.
#[inline]
pub(crate) fn steer_answers<A: Family>(
    cx: &Context<'_>,
    tuple: &Tuple<A>,
    leaving: &Tuple<A>,
    found: &Route<'_>,
) -> Result<(), Exit> {
    let is_ours =
        found.leads.is_to_wire() && leaving.source != tuple.source && leaving.ports.destination == 0;
    let is_steered = matches!(cx.entry, Entry::Held { is_steered: true, .. });
    if is_ours && !is_steered {
        let (reason, awaited) = if tuple.protocol == A::ICMP_PROTOCOL {
            (PuntReason::EchoId, Awaited::Echo(leaving.ports.source))
        } else {
            (PuntReason::Portless, Awaited::Protocol(tuple.protocol))
        };
        let detail = PuntDetail::Answers(awaited, leaving.destination.into());
        return Err(Exit::Punt(reason, detail));
    }
    Ok(())
}

/// The answer that a flow remembers.
#[inline]
pub(crate) fn answer(cx: &Context<'_>, found: &Route<'_>, backend: SubjectId) -> Answer {
    Answer {
        onward: found.onward,
        subjects: [found.subject, backend, subject(cx)],
        epoch: cx.tables.epoch,
    }
}
