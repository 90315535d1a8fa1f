//! `balance` and what follows from it: the first packet of a connection. Is it to a Service, to which backend, is it
//! allowed, from which source address and port, and by which way? The connection is claimed with the answers.

use std::net::IpAddr;

use millrace_dataplane::table::flow::{Binding, ClaimError, Claimed, New, Rewrite, TcpSegment, Tuple};
use millrace_dataplane::table::service::{Choice, Decision, Query};
use millrace_dataplane::table::{Role, Spread, SubjectId};
use millrace_dataplane::verdict::{DropReason, Exit, PuntDetail, PuntReason};
use millrace_dataplane::wire::IpProtocol;

use crate::connections::Context;
use crate::family::Family;
use crate::limit::{is_from_us, limit_leads};
use crate::packet::Packet;
use crate::police::police;
use crate::route::{Leads, route};
use crate::source::{Source, source};
use crate::track::{Course, answer, steer_answers};

/// Begins a connection; `None` if another worker has begun it meanwhile. For the `last` time a packet that nothing is to be changed
/// in goes its way all the same: what the other worker, which may have been interrupted, finds out about it is the same.
#[inline]
pub(crate) fn open<'t, A: Family>(
    cx: &Context<'t>,
    packet: &Packet,
    tuple: &Tuple<A>,
    segment: Option<TcpSegment>,
    last: bool,
) -> Result<Option<Course<'t, A>>, Exit> {
    let choice = balance(cx, packet)?;
    let leaving = match choice {
        Some(choice) => towards(tuple, &choice)?,
        None => *tuple,
    };
    refuse_tunnel(cx, &leaving)?;
    // Where its answers will most likely be looked for; it comes while policies and routes are asked.
    let flows = A::flows(&cx.connections.flows);
    flows.prefetch_bucket(flows.hash(&leaving.reversed()));
    let judgement = police(cx, tuple, &leaving)?;
    let found = route(cx, leaving.destination.into(), choice.is_some(), || {
        tuple.hash_with(&Spread::KEY)
    })?;
    let hop = limit_leads(is_from_us(cx.entry), (packet.hops, packet.len), &found.leads)?;
    let masquerade = choice
        .is_some_and(|choice| choice.masquerade || is_answered_past_us(cx, &found.leads, &leaving))
        || is_masqueraded(
            cx,
            &found.leads,
            leaving.source.into(),
            leaving.destination.into(),
        );
    let source = source(cx, &found.leads, &leaving, masquerade)?;
    let Some((claimed, leaving)) = claim(cx, tuple, leaving, &source, choice.as_ref(), segment)? else {
        let goes_as_it_is = last && choice.is_none() && !masquerade && packet.protocol.has_ports();
        return Ok(goes_as_it_is.then_some(Course {
            leads: found.leads,
            hop,
            rewrite: None,
        }));
    };
    if let Some(judgement) = &judgement {
        cx.tables.policies.counts().judged(cx.worker, judgement);
    }
    if let Some(choice) = &choice {
        cx.tables.services.counts().connection(cx.worker, choice);
    }
    if !packet.protocol.has_ports() {
        steer_answers(cx, tuple, &leaving, &found)?;
    }
    let backend = choice.map_or(SubjectId::NONE, |choice| choice.backend.subject());
    A::flows(&cx.connections.flows).store_answer(claimed.original, &answer(cx, &found, backend));
    Ok(Some(Course {
        leads: found.leads,
        hop,
        rewrite: (leaving != *tuple).then(|| Rewrite::between(tuple, &leaving)),
    }))
}

/// Asks the Services. What comes plain from the wire must be for one, or for a pod of ours. What comes from another network
/// has none: a backend's answers would go there past the node that has to turn them back.
pub(crate) fn balance(cx: &Context<'_>, packet: &Packet) -> Result<Option<Choice>, Exit> {
    if cx.entry.is_crossed() {
        return Ok(None);
    }
    let (source, destination) = (packet.addresses.source(), packet.addresses.destination());
    let ports = packet.ports.filter(|_| packet.protocol.has_ports());
    let query = Query {
        source,
        destination,
        protocol: packet.protocol,
        source_port: ports.map_or(0, |ports| ports.source),
        destination_port: ports.map_or(0, |ports| ports.destination),
        caller: cx.caller(packet),
        from_pods: cx.tables.local.is_pod(source),
    };
    let affinity = &cx.connections.affinity;
    match cx.tables.services.balance(&query, affinity, cx.now) {
        Decision::Backend(choice) => Ok(Some(choice)),
        Decision::Drop(reason) => Err(reason.into()),
        Decision::Reject => Err(Exit::Punt(PuntReason::ServiceReject, PuntDetail::Nothing)),
        Decision::NotAService if cx.is_plain(packet) && !cx.tables.local.is_local_pod(destination) => {
            Err(DropReason::NotForUs.into())
        }
        Decision::NotAService => Ok(None),
    }
}

/// The tuple with the backend as its destination.
fn towards<A: Family>(tuple: &Tuple<A>, choice: &Choice) -> Result<Tuple<A>, Exit> {
    let mut leaving = *tuple;
    // INVARIANT: the backends of an address are of its family.
    leaving.destination = A::of(choice.address).ok_or(DropReason::NoRoute)?;
    leaving.ports.destination = choice.port;
    Ok(leaving)
}

/// Keeps a Service from leading to a node's tunnel port, whoever named such an endpoint: the node would take the
/// packet for another node's.
fn refuse_tunnel<A: Family>(cx: &Context<'_>, leaving: &Tuple<A>) -> Result<(), Exit> {
    let local = &cx.tables.local;
    let is_tunnel = leaving.protocol == IpProtocol::UDP && local.is_tunnel_port(leaving.ports.destination);
    if is_tunnel && !cx.entry.is(Role::Host) && local.node_addresses.contains(&leaving.destination.into()) {
        return Err(DropReason::PodTunnel.into());
    }
    Ok(())
}

/// Whether a pod leaves the cluster this way, under this node's address.
pub(crate) fn is_masqueraded(
    cx: &Context<'_>,
    leads: &Leads<'_>,
    source: IpAddr,
    destination: IpAddr,
) -> bool {
    leads.is_to_wire() && cx.entry.is(Role::Pod) && cx.tables.local.masquerades(source, destination)
}

/// Whether a backend's answers to the client itself would never come by here, so that nobody would turn them back. A
/// server in this node's own network answers whoever is outside of the overlay by the uplink, without us, also where the
/// traffic policy would have it see the client; and a server outside of the overlay answers another node's pod likewise. One in
/// another network knows no way to the world, and answers another node's pod through the tunnel to that node.
fn is_answered_past_us<A: Family>(cx: &Context<'_>, leads: &Leads<'_>, leaving: &Tuple<A>) -> bool {
    let is_in_overlay = cx.tables.local.is_pod(leaving.source.into());
    let goes_past_us = match leads {
        Leads::Into(_) => true,
        Leads::Out(_) => (leads.is_to_host() && !is_in_overlay) || (leads.is_to_wire() && is_in_overlay),
    };
    cx.entry.is(Role::Uplink) && goes_past_us
}

/// Claims the connection, with the first source port that is free; answers the tuple that its packets leave with.
fn claim<A: Family>(
    cx: &Context<'_>,
    tuple: &Tuple<A>,
    mut leaving: Tuple<A>,
    source: &Source<A>,
    choice: Option<&Choice>,
    segment: Option<TcpSegment>,
) -> Result<Option<(Claimed, Tuple<A>)>, Exit> {
    let flows = A::flows(&cx.connections.flows);
    leaving.source = source.address;
    let opener = cx.entry.port().filter(|(_, facts)| facts.role == Role::Pod);
    let mut new = New {
        original: *tuple,
        reply: leaving.reversed(),
        opener: opener.map(|(port, _)| port),
        binding: choice.map(|choice| Binding {
            service: choice.service.get(),
            backend: choice.backend.get(),
        }),
        segment,
    };
    for port in source.ports(cx, tuple, flows.hash(tuple)) {
        leaving.ports.source = port;
        new.reply = leaving.reversed();
        match flows.claim(&new, cx.now) {
            Ok(claimed) => return Ok(Some((claimed, leaving))),
            // The tuple itself may be the one that is taken: by its own connection, begun from the other side.
            Err(ClaimError::ReplyTaken | ClaimError::Loop) if new.reply == tuple.reversed() => {
                if flows.lookup(tuple).is_some() {
                    return Ok(None);
                }
            }
            Err(ClaimError::ReplyTaken | ClaimError::Loop) => {}
            Err(ClaimError::Raced) => return Ok(None),
            Err(ClaimError::Full) => return Err(DropReason::FlowTableFull.into()),
            Err(ClaimError::PodCap) => return Err(DropReason::FlowPodCap.into()),
            Err(ClaimError::TcpInvalid) => return Err(DropReason::TcpInvalid.into()),
        }
    }
    Err(Source::exhausted(tuple).into())
}
