//! What changes in a packet on its course: `translate`, `clamp`, `rewrite`, `encap`. Nothing here sends a packet another way.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::Rewrite;
use millrace_dataplane::verdict::Exit;

use crate::clamp::clamp;
use crate::connections::Context;
use crate::encap::{Wrapper, encap};
use crate::family::Family;
use crate::limit::Hop;
use crate::packet::Packet;
use crate::rewrite::rewrite;
use crate::route::Way;
use crate::translate::translate;

/// Writes a packet's changes into it; answers the port it leaves by.
///
/// Inlined by force, into the one place where nearly all packets come by and the one for the rest: a course that is
/// lent to a function goes through memory, which takes longer than what is done here.
#[inline(always)]
pub(crate) fn depart<A: Family>(
    cx: &Context<'_>,
    wrapper: &mut Wrapper,
    frame: &mut Frame,
    packet: &Packet,
    (way, hop, change): (Way<'_>, Hop, Option<Rewrite<A>>),
) -> Result<PortId, Exit> {
    if let Some(change) = &change {
        translate(frame, packet, change)?;
    }
    clamp(cx, frame, packet, &way)?;
    rewrite(frame, packet, &way, hop)?;
    encap(wrapper, frame, (packet, cx.network()), &way)?;
    Ok(way.port())
}
