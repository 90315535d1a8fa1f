//! `police`: whether policies allow a connection. Asked for its first packet, and again when what the answer rests on has
//! changed; always about the connection as it was opened, before source NAT and after destination NAT, whichever way the
//! packet at hand goes. So replies pass with their connection, and fall with it.

use std::net::IpAddr;

use millrace_dataplane::table::flow::{Answer, Flow, Onward, SUBJECTS_MAX, Tuple};
use millrace_dataplane::table::policy::{Denied, Judgement, Query, Ruling, Side, Station};
use millrace_dataplane::table::{Role, SubjectId};
use millrace_dataplane::verdict::{DropReason, Exit};

use crate::connections::Context;
use crate::family::Family;
use crate::packet::{Carries, Packet};

/// Judges a new connection of `tuple` that leaves for `leaving`'s destination.
#[inline]
pub(crate) fn police<A: Family>(
    cx: &Context<'_>,
    tuple: &Tuple<A>,
    leaving: &Tuple<A>,
) -> Result<Option<Judgement>, Exit> {
    let policies = &cx.tables.policies;
    if policies.is_open() {
        return Ok(None);
    }
    let query = Query {
        source: tuple.source.into(),
        destination: leaving.destination.into(),
        protocol: tuple.protocol,
        port: leaving.ports.destination,
    };
    let judgement = policies.judge(&query);
    refuse(cx, &judgement, query, tuple.destination.into())?;
    Ok(Some(judgement))
}

/// Judges a known connection again; `None` if it is over. One that is no longer allowed is remembered as such: forgotten, it
/// could be taken for one that its other end has opened.
#[cold]
pub(crate) fn police_again<A: Family>(cx: &Context<'_>, flow: &Flow<A>) -> Result<Option<()>, Exit> {
    let policies = &cx.tables.policies;
    if policies.is_open() {
        return Ok(Some(()));
    }
    let flows = A::flows(&cx.connections.flows);
    let Some(connection) = flows.connection(flow.id) else {
        return Ok(None);
    };
    let query = Query {
        source: connection.original.source.into(),
        destination: connection.reply.source.into(),
        protocol: connection.original.protocol,
        port: connection.reply.ports.source,
    };
    let judgement = policies.judge(&query);
    let sent_to = connection.original.destination.into();
    let Err(exit) = refuse(cx, &judgement, query, sent_to) else {
        return Ok(Some(()));
    };
    if let Exit::Drop(reason) = exit {
        let answer = Answer {
            onward: Onward::Refused(reason),
            subjects: resting_on(cx, &query),
            epoch: cx.tables.epoch,
        };
        flows.store_answer(flow.id, &answer);
    }
    Err(exit)
}

/// What the pod that a packet came from is subject to; what it goes to changes along with the way there.
#[inline]
pub(crate) fn subject(cx: &Context<'_>) -> SubjectId {
    match cx.entry.port() {
        Some((port, facts)) if facts.role == Role::Pod => SubjectId::policy(port),
        _ => SubjectId::NONE,
    }
}

/// Judges a packet that belongs to no connection.
pub(crate) fn police_loose(cx: &Context<'_>, packet: &Packet) -> Result<(), Exit> {
    let policies = &cx.tables.policies;
    if policies.is_open() {
        return Ok(());
    }
    let query = Query {
        source: packet.addresses.source(),
        destination: packet.addresses.destination(),
        protocol: packet.protocol,
        port: 0,
    };
    let mut judgement = policies.judge(&query);
    match packet.carries {
        Carries::Other | Carries::Connection => {}
        // Of an error or a piece nobody can tell what it belongs to: an isolated pod gets none.
        Carries::Error | Carries::LaterPiece => {
            for ruling in [&mut judgement.egress, &mut judgement.ingress] {
                if let Ruling::Accept(rule) = *ruling {
                    *ruling = Ruling::Deny(rule);
                }
            }
        }
    }
    refuse(cx, &judgement, query, query.destination)?;
    policies.counts().judged(cx.worker, &judgement);
    Ok(())
}

/// The policies of both ends, as far as they are pods of this node.
fn resting_on(cx: &Context<'_>, query: &Query) -> [SubjectId; SUBJECTS_MAX] {
    let of = |address| match cx.tables.policies.station(address) {
        Some(Station::Pod { port: Some(port), .. }) => SubjectId::policy(port),
        _ => SubjectId::NONE,
    };
    [of(query.source), of(query.destination), SubjectId::NONE]
}

/// Ends the walk of what is denied, and counts it.
#[inline]
fn refuse(cx: &Context<'_>, judgement: &Judgement, query: Query, sent_to: IpAddr) -> Result<(), Exit> {
    let Some((side, rule)) = judgement.denied() else {
        return Ok(());
    };
    let policies = &cx.tables.policies;
    policies.counts().judged(cx.worker, judgement);
    let denied = Denied {
        query,
        sent_to,
        side,
        rule,
    };
    policies.denied().note(cx.worker, &denied);
    Err(match side {
        Side::Egress => DropReason::PolicyEgress,
        Side::Ingress => DropReason::PolicyIngress,
    }
    .into())
}
