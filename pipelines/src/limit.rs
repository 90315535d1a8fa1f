//! `limit`: may this packet go that way? All that can still send it to the slow path, before the first byte changes.

use millrace_dataplane::table::Role;
use millrace_dataplane::verdict::{Exit, PuntDetail, PuntReason};

use crate::entry::Entry;
use crate::route::{Leads, Way};

/// Whether the way counts as a router on the packet's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// The TTL or hop limit goes down by one.
    Counted,
    /// It stays.
    Free,
}

/// Whether packets come from this node: the host's stack and the switch are one router together, so a packet between them
/// has not been forwarded yet. Neither has one that the switch sends itself; and one that comes from another network of ours was
/// counted there.
#[inline]
pub(crate) fn is_from_us(entry: Entry<'_>) -> bool {
    matches!(entry, Entry::Switch | Entry::Crossed { .. }) || entry.is(Role::Host)
}

/// Checks the TTL, or hop limit, and the length of an IP packet, in bytes.
#[inline(always)]
pub(crate) fn limit(is_from_us: bool, (hops, len): (u8, u16), way: &Way<'_>) -> Result<Hop, Exit> {
    let hop = count(is_from_us || way.is_to_host(), hops)?;
    // Whether the sender allows fragments or not: the switch makes none, and tells what would fit.
    if len > way.mtu() {
        return Err(Exit::Punt(PuntReason::PacketTooBig, PuntDetail::Mtu(way.mtu())));
    }
    Ok(hop)
}

/// [`limit`] where a packet may go on into another network: that one judges its length.
#[inline]
pub(crate) fn limit_leads(is_from_us: bool, (hops, len): (u8, u16), leads: &Leads<'_>) -> Result<Hop, Exit> {
    match leads {
        Leads::Out(way) => limit(is_from_us, (hops, len), way),
        Leads::Into(_) => count(is_from_us, hops),
    }
}

/// Counts the hop, unless it is free.
#[inline(always)]
fn count(is_free: bool, hops: u8) -> Result<Hop, Exit> {
    if is_free {
        Ok(Hop::Free)
    } else if hops <= 1 {
        Err(Exit::Punt(PuntReason::TimeExceeded, PuntDetail::Nothing))
    } else {
        Ok(Hop::Counted)
    }
}
