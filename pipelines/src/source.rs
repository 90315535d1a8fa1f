//! Source NAT: from which address a connection goes on, and from which of its ports.

use millrace_dataplane::table::Role;
use millrace_dataplane::table::flow::{Hash, Tuple};
use millrace_dataplane::verdict::{DropReason, Exit};

use crate::connections::Context;
use crate::family::Family;
use crate::route::{Leads, Way};

/// How many ports are tried beside the client's own: a full range costs a bounded time, and is a drop of its own.
const TRIES: u16 = 64;
/// The first port that is given where replies come back by a way that is ours alone. Those below are the system's (RFC
/// 6335 section 6).
const FIRST_PORT: u16 = 1024;
/// The last one.
const LAST_PORT: u16 = u16::MAX;
/// The only one that a protocol without ports has: its connections are told apart by their addresses.
const NO_PORT: (u16, u16) = (0, 0);

/// Where a connection goes on from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<A> {
    pub(crate) address: A,
    /// The client's own port, where it may be kept.
    own: Option<u16>,
    /// The ports that may be given, or ICMP ids; the first and the last.
    range: (u16, u16),
}

/// Chooses the address by the way out: what a bridge to the pods would have, this node's address in the overlay, or
/// its address on the uplink. Without `masquerade` it stays the client's own.
#[inline]
pub(crate) fn source<A: Family>(
    cx: &Context<'_>,
    leads: &Leads<'_>,
    leaving: &Tuple<A>,
    masquerade: bool,
) -> Result<Source<A>, Exit> {
    let local = &cx.tables.local;
    let client = leaving.ports.source;
    let is_portless = is_portless(leaving);
    if !masquerade {
        // Were its port taken, another is found: two connections of one client may have got the same backend.
        let is_hosts = leads.is_to_wire() && local.owns(leaving.source.into());
        return Ok(Source {
            address: leaving.source,
            own: Some(client),
            range: if is_portless {
                NO_PORT
            } else if is_hosts {
                local.uplink_ports
            } else {
                (FIRST_PORT, LAST_PORT)
            },
        });
    }
    let sources = A::sources(local);
    let (address, range) = match leads {
        Leads::Out(Way::Tunnel { .. }) => (sources.overlay, (FIRST_PORT, LAST_PORT)),
        Leads::Out(Way::Link { exit, .. }) => match exit.role {
            Role::Uplink => (sources.uplink, local.uplink_ports),
            Role::Host | Role::Pod | Role::Segment => (sources.gateway, (FIRST_PORT, LAST_PORT)),
        },
        // In a prefix of this node's pods, so that answers come back here to be turned back.
        Leads::Into(_) => (sources.gateway, (FIRST_PORT, LAST_PORT)),
    };
    let range = if is_portless { NO_PORT } else { range };
    Ok(Source {
        address: address.ok_or(DropReason::SnatExhausted)?,
        own: (range.0..=range.1).contains(&client).then_some(client),
        range,
    })
}

/// Whether a connection's protocol has neither ports nor an echo's id.
fn is_portless<A: Family>(tuple: &Tuple<A>) -> bool {
    !tuple.protocol.has_ports() && tuple.protocol != A::ICMP_PROTOCOL
}

impl<A: Family> Source<A> {
    /// Why a connection has none of the ports that were tried.
    #[cold]
    pub(crate) fn exhausted(tuple: &Tuple<A>) -> DropReason {
        if is_portless(tuple) {
            DropReason::MasqueradeTaken
        } else {
            DropReason::SnatExhausted
        }
    }

    /// The ports to try, in order: the client's own, then some from a place in the range that nobody can foresee. Never
    /// one on which tunnel packets come.
    #[inline]
    pub(crate) fn ports<'t>(
        &self,
        cx: &Context<'t>,
        tuple: &Tuple<A>,
        hash: Hash,
    ) -> impl Iterator<Item = u16> + use<'t, A> {
        let (first, last) = self.range;
        let span = u64::from(last.saturating_sub(first)) + 1;
        // The upper half of a product by the span is below it.
        let start = ((hash.bits() >> 32) * span) >> 32;
        let local = &cx.tables.local;
        let (original, kept) = (tuple.source, self.address);
        let search = (0..u64::from(TRIES).min(span)).filter_map(move |step| {
            let place = (start + step) % span;
            u16::try_from(u64::from(first) + place).ok()
        });
        let allowed = move |port: &u16| !local.is_tunnel_port(*port);
        // A client that keeps its address keeps its port as well, if it can, whatever that is.
        let own = self.own.filter(|port| kept == original || allowed(port));
        own.into_iter().chain(search.filter(allowed))
    }
}
