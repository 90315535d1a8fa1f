//! The course of a packet that comes in pieces: each goes the way of the first, unless it contradicts another.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{Fragment, Ipv6, eth, ipv6};

use crate::connections::Context;
use crate::family::Family;
use crate::packet::{Addresses, Packet};
use crate::pass::pass;
use crate::pieces::{First, Pieces, Span};
use crate::route::Leads;
use crate::scout::tuple;
use crate::track::{Course, segment, track, track_piece};

/// Finds the course of a piece. It counts as seen only if it is forwarded: one that waits in the slow path comes again.
#[cold]
pub(crate) fn piece<'t, A: Family>(
    cx: &Context<'t>,
    pieces: &mut Pieces,
    frame: &Frame,
    (packet, fragment): (&Packet, Fragment),
    addresses: (A, A),
) -> Result<Course<'t, A>, Exit> {
    let span = span(frame, packet, fragment)?;
    let known = pieces.judge((cx.network(), packet, fragment), span, cx.now)?;
    let (course, first) = if fragment.is_first() {
        let first = first_of(frame, packet, span);
        (
            follow_first(cx, frame, packet, addresses, (&first, known.end))?,
            Some(first),
        )
    } else {
        (
            follow_later(cx, packet, addresses, known.first.as_ref(), span)?,
            None,
        )
    };
    // What leads into another network may have to wait there: see `crossed`.
    if let Leads::Out(_) = course.leads {
        pieces.note((cx.network(), packet, fragment), span, first, cx.now);
    }
    Ok(course)
}

/// A piece has found its way in another network: now it counts as seen in the one that it came from, too.
#[cold]
pub(crate) fn crossed(
    cx: &Context<'_>,
    pieces: &mut Pieces,
    frame: &Frame,
    (packet, fragment): (&Packet, Fragment),
) -> Result<(), Exit> {
    let span = span(frame, packet, fragment)?;
    let first = fragment.is_first().then(|| first_of(frame, packet, span));
    pieces.note((cx.network(), packet, fragment), span, first, cx.now);
    Ok(())
}

/// What the first piece says of its packet.
fn first_of(frame: &Frame, packet: &Packet, span: Span) -> First {
    First {
        protocol: packet.protocol,
        ports: packet.ports,
        segment: segment(frame, packet).map(|segment| (segment, u32::from(span.end))),
    }
}

/// What part of its packet a piece holds.
fn span(frame: &Frame, packet: &Packet, fragment: Fragment) -> Result<Span, Exit> {
    let begins_at = match packet.addresses {
        Addresses::V4 { .. } => usize::from(packet.transport_at),
        Addresses::V6 { .. } => {
            let ip = Ipv6::parse(frame.bytes().get(eth::HEADER_LEN..).unwrap_or(&[]))?;
            ipv6::HEADER_LEN + ip.upper()?.fragmented_at
        }
    };
    // INVARIANT: `classify` has seen the headers in front of it.
    let len = usize::from(packet.len).saturating_sub(begins_at);
    let end = usize::from(fragment.offset) + len;
    let is_in_eights = !fragment.more || len.is_multiple_of(8);
    // The whole packet, with its header, has to be one that there can be.
    if len == 0 || !is_in_eights || begins_at + end > usize::from(u16::MAX) {
        return Err(DropReason::FragmentMalformed.into());
    }
    // INVARIANT: below what a packet's length can say.
    let end = u16::try_from(end).map_err(|_| DropReason::FragmentMalformed)?;
    Ok(Span {
        start: fragment.offset,
        end,
    })
}

/// The first piece: it may begin a connection. If later ones came before it, its segment reaches up to `known_end`.
fn follow_first<'t, A: Family>(
    cx: &Context<'t>,
    frame: &Frame,
    packet: &Packet,
    addresses: (A, A),
    (first, known_end): (&First, u16),
) -> Result<Course<'t, A>, Exit> {
    let Some(tuple) = tuple(cx, packet, addresses) else {
        return pass(cx, packet, false);
    };
    // Whom nothing lets in from there is answered all the same: only what belongs to no connection may begin one.
    let segment = segment(frame, packet);
    let course = match track_piece(cx, packet, &tuple, segment.as_ref())? {
        Some(course) => course,
        None => track(cx, frame, packet, &tuple, None)?,
    };
    if let Some(longer) = first.reaching(known_end) {
        track_piece(cx, packet, &tuple, Some(&longer))?;
    }
    Ok(course)
}

/// A later piece: as the first, if that is known.
fn follow_later<'t, A: Family>(
    cx: &Context<'t>,
    packet: &Packet,
    addresses: (A, A),
    first: Option<&First>,
    span: Span,
) -> Result<Course<'t, A>, Exit> {
    let of_whole = first.and_then(|first| {
        let whole = Packet {
            protocol: first.protocol,
            ports: first.ports,
            ..*packet
        };
        Some((whole, tuple(cx, &whole, addresses)?, first.reaching(span.end)))
    });
    let followed = match &of_whole {
        Some((whole, tuple, segment)) => track_piece(cx, whole, tuple, segment.as_ref())?,
        None => None,
    };
    match followed {
        Some(course) => Ok(course),
        None => pass(cx, packet, false),
    }
}
