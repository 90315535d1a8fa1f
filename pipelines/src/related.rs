//! `related`: ICMP errors. One about a packet of a connection goes to whoever sent that packet, and quotes it as it was
//! sent: so path-MTU discovery works through a Service (RFC 792, RFC 1191, RFC 4443, RFC 5508 section 4).

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::flow::{Onward, Rewrite, Tuple};
use millrace_dataplane::table::{Role, Spread, Target};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::checksum::{self, Delta, Sum};
use millrace_dataplane::wire::{Icmp, IcmpFamily, IcmpMut, IpProtocol, Ports, PortsMut, eth, icmp};

use crate::classify::{NO_PORTS, echo_ports};
use crate::connections::Context;
use crate::entry::Entry;
use crate::family::Family;
use crate::limit::{is_from_us, limit_leads};
use crate::packet::Packet;
use crate::route::route;
use crate::track::Course;
use crate::translate::{echo_id, write_echo_id};

/// The change that an error needs, if it is about a packet of a connection.
pub(crate) enum Related<A: Family> {
    /// About no connection that is known.
    Unknown,
    /// About one whose packets pass as they are.
    Unchanged,
    /// About one whose packets are changed: the tuple of an answer to the quoted packet, and its change.
    Changed(Tuple<A>, Rewrite<A>),
}

/// Finds the connection of the packet that an error quotes.
pub(crate) fn related<A: Family>(
    cx: &Context<'_>,
    frame: &Frame,
    packet: &Packet,
    (source, destination): (A, A),
) -> Result<Related<A>, Exit> {
    let at = eth::HEADER_LEN + usize::from(packet.transport_at) + icmp::HEADER_LEN;
    let body = frame.bytes().get(at..).unwrap_or(&[]);
    let Some(answer) = quoted_tuple::<A>(cx, body).map(Tuple::reversed) else {
        return Ok(Related::Unknown);
    };
    // An error is for the sender of what it quotes.
    if answer.destination != destination {
        return Ok(Related::Unknown);
    }
    let Some(flow) = A::flows(&cx.connections.flows).lookup(&answer) else {
        return Ok(Related::Unknown);
    };
    // What is about a connection that is cut is cut as well.
    if let Some(Onward::Refused(reason)) = flow.answer.map(|answer| answer.onward) {
        return Err(reason.into());
    }
    // A pod is no router: it has nothing to say but about what was sent to it.
    if cx.entry.is(Role::Pod) && answer.source != source {
        return Err(DropReason::IcmpUnrelated.into());
    }
    // Nor has another network anything to say but about what was sent into it.
    if let Entry::Crossed { from, .. } = cx.entry
        && cx.tables.routes.lookup(answer.source.into()) != Some(Target::Network(from))
    {
        return Err(DropReason::IcmpUnrelated.into());
    }
    Ok(match flow.rewrite {
        Some(rewrite) => Related::Changed(answer, rewrite),
        None => Related::Unchanged,
    })
}

/// The tuple of a quoted packet.
fn quoted_tuple<A: Family>(cx: &Context<'_>, bytes: &[u8]) -> Option<Tuple<A>> {
    let quoted = A::quoted(bytes)?;
    let ports = if quoted.protocol == A::ICMP_PROTOCOL {
        let icmp = Icmp::parse(A::ICMP, quoted.transport).ok()?;
        echo_ports(icmp.echo()?.id, icmp.is_echo_request())
    } else if quoted.protocol.has_ports() {
        Ports::parse(quoted.transport).ok()?
    } else if cx.tables.local.follows(quoted.protocol) {
        NO_PORTS
    } else {
        return None;
    };
    Some(Tuple {
        source: quoted.source,
        destination: quoted.destination,
        protocol: quoted.protocol,
        ports,
        network: cx.network(),
    })
}

/// The way of an error about a packet of a connection that is changed, and the change written into it. It takes the
/// address of the connection's other end for its own where that is what the other side knows.
pub(crate) fn relate<'t, A: Family>(
    cx: &Context<'t>,
    frame: &mut Frame,
    packet: &Packet,
    (answer, rewrite): (Tuple<A>, Rewrite<A>),
    source: A,
) -> Result<Course<'t, A>, Exit> {
    let to = rewrite.tuple(answer.protocol, answer.network);
    let found = route(cx, to.destination.into(), true, || {
        packet.flow_hash(&Spread::KEY, cx.network())
    })?;
    let hop = limit_leads(is_from_us(cx.entry), (packet.hops, packet.len), &found.leads)?;
    let new_source = if to.source == answer.source {
        source
    } else {
        to.source
    };
    write::<A>(frame, packet, (new_source, to.destination), (answer, rewrite))?;
    Ok(Course {
        leads: found.leads,
        hop,
        rewrite: None,
    })
}

/// Writes an error's new addresses, and into its quote the packet as it was sent.
fn write<A: Family>(
    frame: &mut Frame,
    packet: &Packet,
    (source, destination): (A, A),
    (answer, rewrite): (Tuple<A>, Rewrite<A>),
) -> Result<(), Exit> {
    let ip = frame
        .bytes_mut()
        .get_mut(eth::HEADER_LEN..)
        .ok_or(DropReason::EthernetTruncated)?;
    let message = ip
        .get_mut(usize::from(packet.transport_at)..usize::from(packet.len))
        .ok_or(DropReason::TransportMalformed)?;
    let body = message
        .get_mut(icmp::HEADER_LEN..)
        .ok_or(DropReason::TransportMalformed)?;
    // Errors are few: the sums of the whole quote before and after say what became of it.
    let before = Sum::ZERO.add_bytes(body).fold();
    let as_sent = rewrite.tuple(answer.protocol, answer.network).reversed();
    let transport = A::readdress_quoted(body, &as_sent)?;
    write_quoted::<A>(transport, &as_sent, rewrite.transport())?;
    let mut change = Delta::u16(before, Sum::ZERO.add_bytes(body).fold());
    let addresses = A::readdress(ip, source, destination)?;
    if A::ICMP == IcmpFamily::V6 {
        change = change.and(addresses);
    }
    let message = ip
        .get_mut(usize::from(packet.transport_at)..usize::from(packet.len))
        .ok_or(DropReason::TransportMalformed)?;
    IcmpMut::parse(A::ICMP, message)?.adjust_checksum(change);
    Ok(())
}

/// Writes the ports, or the id, into a quoted transport, and carries the change into its checksum if that is there: the
/// sum of what is taken away and what is put in is the same as for an answer.
fn write_quoted<A: Family>(l4: &mut [u8], as_sent: &Tuple<A>, change: Delta) -> Result<(), Exit> {
    if as_sent.protocol == A::ICMP_PROTOCOL {
        let is_request = Icmp::parse(A::ICMP, l4)?.is_echo_request();
        write_echo_id(l4, echo_id(as_sent.ports, is_request))?;
        IcmpMut::parse(A::ICMP, l4)?.adjust_checksum(change);
        return Ok(());
    }
    if !as_sent.protocol.has_ports() {
        return Ok(());
    }
    PortsMut::parse(l4)?.replace(as_sent.ports);
    if as_sent.protocol != IpProtocol::SCTP {
        checksum::adjust_transport(as_sent.protocol, l4, change);
    }
    Ok(())
}
