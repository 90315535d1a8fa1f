//! The course of a packet: by its connection, by that of the packet it is about or a piece of, or on its own.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::flow::Candidate;
use millrace_dataplane::verdict::Exit;

use crate::connections::Context;
use crate::family::Family;
use crate::packet::{Carries, Packet};
use crate::pass::pass;
use crate::piece::piece;
use crate::pieces::Pieces;
use crate::related::{Related, relate, related};
use crate::scout::tuple;
use crate::track::{Course, track};

/// Finds the course of a packet. All that can still drop or punt it comes before its first byte changes.
pub(crate) fn converse<'t, A: Family>(
    cx: &Context<'t>,
    pieces: &mut Pieces,
    frame: &mut Frame,
    packet: &Packet,
    addresses: (A, A),
    candidate: Option<Candidate>,
) -> Result<Course<'t, A>, Exit> {
    if cx.entry.is_own() {
        return pass(cx, packet, false);
    }
    if let Some(fragment) = packet.fragment {
        return piece(cx, pieces, frame, (packet, fragment), addresses);
    }
    match packet.carries {
        Carries::Connection => match tuple(cx, packet, addresses) {
            Some(tuple) => track(cx, frame, packet, &tuple, candidate),
            None => pass(cx, packet, false),
        },
        Carries::Error => error(cx, frame, packet, addresses),
        Carries::LaterPiece | Carries::Other => pass(cx, packet, false),
    }
}

#[cold]
fn error<'t, A: Family>(
    cx: &Context<'t>,
    frame: &mut Frame,
    packet: &Packet,
    addresses: (A, A),
) -> Result<Course<'t, A>, Exit> {
    match related(cx, frame, packet, addresses)? {
        Related::Changed(answer, change) => relate(cx, frame, packet, (answer, change), addresses.0),
        Related::Unchanged => pass(cx, packet, true),
        Related::Unknown => pass(cx, packet, false),
    }
}
