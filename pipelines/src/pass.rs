//! Packets that belong to no connection: what the switch sends itself, protocols without ports that are not
//! followed, ICMP errors and pieces whose connection is not known.

use millrace_dataplane::table::Spread;
use millrace_dataplane::verdict::{DropReason, Exit};

use crate::connections::Context;
use crate::family::Family;
use crate::limit::{is_from_us, limit_leads};
use crate::open::{balance, is_masqueraded};
use crate::packet::{Carries, Packet};
use crate::police::police_loose;
use crate::route::route;
use crate::track::Course;

/// The way of a packet that goes as it is. `is_related` says that it is about a connection whose packets do so too.
pub(crate) fn pass<'t, A: Family>(
    cx: &Context<'t>,
    packet: &Packet,
    is_related: bool,
) -> Result<Course<'t, A>, Exit> {
    let destination = packet.addresses.destination();
    let is_loose = !cx.entry.is_own() && !is_related;
    if is_loose {
        admit_loose(cx, packet)?;
        police_loose(cx, packet)?;
    }
    let found = route(cx, destination, false, || {
        packet.flow_hash(&Spread::KEY, cx.network())
    })?;
    if is_loose && is_masqueraded(cx, &found.leads, packet.addresses.source(), destination) {
        // Under whose address it would leave, only its connection could tell; and nobody leaves under its own.
        let reason = match packet.carries {
            Carries::LaterPiece => DropReason::FragmentUnknown,
            Carries::Error => DropReason::IcmpUnrelated,
            Carries::Other | Carries::Connection => DropReason::MasqueradeProtocol,
        };
        return Err(reason.into());
    }
    let hop = limit_leads(is_from_us(cx.entry), (packet.hops, packet.len), &found.leads)?;
    Ok(Course {
        leads: found.leads,
        hop,
        rewrite: None,
    })
}

/// Whether it may pass without a connection.
fn admit_loose(cx: &Context<'_>, packet: &Packet) -> Result<(), Exit> {
    let reason = match packet.carries {
        // No Service has such packets: it refuses or drops them.
        Carries::Other | Carries::Connection => return balance(cx, packet).map(|_| ()),
        Carries::LaterPiece => DropReason::FragmentUnknown,
        Carries::Error => DropReason::IcmpUnrelated,
    };
    let destination = packet.addresses.destination();
    let services = &cx.tables.services;
    let is_virtual = services.is_cluster_address(destination)
        || services
            .node()
            .service_prefixes
            .iter()
            .any(|prefix| prefix.contains(destination));
    let is_for_nobody = cx.is_plain(packet) && !cx.tables.local.is_local_pod(destination);
    if is_virtual || is_for_nobody {
        return Err(reason.into());
    }
    Ok(())
}
