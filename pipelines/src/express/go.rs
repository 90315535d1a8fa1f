//! Taking the course of a plain packet's connection.

use std::net::Ipv4Addr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{FlowId, FlowMemory, Freshness, Glance, KeyV4, Rewrite, TcpSegment};
use millrace_dataplane::verdict::{DropReason, Exit, Verdict};
use millrace_dataplane::wire::{EtherType, IpProtocol, Tcp, TcpFlags, eth, ipv4, tcp, udp};

use super::gate::Gate;
use super::read::Plain;
use crate::connections::Context;
use crate::encap::{Inner, Wrapper, wrap};
use crate::limit::{Hop, limit};
use crate::route::{Way, recall};
use crate::track::{Judged, freshness, judge, touch};

/// Where a plain packet's transport header begins, once its tunnel's headers are off.
const TRANSPORT: usize = eth::HEADER_LEN + ipv4::HEADER_LEN;

/// Takes the course of a connection whose stored answer stands; answers the port that the packet leaves by. `None` if
/// there is more to find out or to say: the packet is as it came, and the stages take it from the beginning.
///
/// Nothing in here is returned or lent to a function that is not inlined. Whatever is, the compiler keeps in memory:
/// written in small parts, and read at once in large ones before those have arrived.
#[inline(always)]
pub(crate) fn go(
    cx: &Context<'_>,
    gate: &Gate,
    wrapper: &mut Wrapper,
    frame: &mut Frame,
    plain: &Plain,
) -> Option<Result<PortId, Exit>> {
    let flows = cx.connections.flows.v4();
    let flow = flows.glance(plain.spot, &plain.key)?;
    // Once in a second of each flow, and after a change of anything, it is not.
    let is_due = if flow.is_settled(cx.tables.epoch, cx.now) {
        false
    } else {
        is_due(cx, flow.memory())?
    };
    let way = recall(cx.tables, flow.onward()?, false).ok()??;
    let hop = limit(gate.is_from_us, (plain.hops, plain.len), &way).ok()?;
    if plain.key.protocol() == IpProtocol::TCP {
        match follow(cx, frame, plain, flow.id)? {
            Ok(()) => {}
            Err(reason) => return Some(Err(reason.into())),
        }
    }
    if is_due {
        note(cx, flow, plain.key);
    }
    Some(change(wrapper, frame, plain, &way, hop, flow.rewrite(&plain.key)))
}

/// Takes packets that follow another of their connection in a row on its course, as far as there is nothing to find out or
/// to say of one; answers how many, whose verdicts come out in order.
///
/// By itself, so that a packet that is not in a row costs no more for it.
#[inline(never)]
pub(crate) fn go_on(
    cx: &Context<'_>,
    gate: &Gate,
    wrapper: &mut Wrapper,
    (frames, plains): (&mut [Frame], &[Option<Plain>]),
    verdicts: &mut Vec<Verdict>,
) -> usize {
    let first = plains.first().and_then(Option::as_ref);
    let found = first.and_then(|first| {
        let flow = cx.connections.flows.v4().glance(first.spot, &first.key)?;
        // The one before has noted down what there was to.
        let is_settled = flow.is_settled(cx.tables.epoch, cx.now);
        let way = recall(cx.tables, flow.onward()?, false).ok()??;
        is_settled.then_some((flow, way, flow.rewrite(&first.key)))
    });
    let Some((flow, way, rewrite)) = found else {
        return 0;
    };
    let mut taken = 0;
    for (plain, frame) in plains.iter().map_while(Option::as_ref).zip(frames) {
        let Ok(hop) = limit(gate.is_from_us, (plain.hops, plain.len), &way) else {
            break;
        };
        let followed = if plain.key.protocol() == IpProtocol::TCP {
            follow(cx, frame, plain, flow.id)
        } else {
            Some(Ok(()))
        };
        let left = match followed {
            Some(Ok(())) => change(wrapper, frame, plain, &way, hop, rewrite),
            Some(Err(reason)) => Err(reason.into()),
            None => break,
        };
        verdicts.push(left.map_or_else(Verdict::from, Verdict::Forward));
        taken += 1;
        if !plain.leads {
            break;
        }
    }
    taken
}

/// Follows a TCP connection: whether the segment may pass. `None` if it is a SYN, or the connection is over.
///
/// By itself, so that what it needs does not crowd out what all others need.
#[inline(never)]
fn follow(cx: &Context<'_>, frame: &Frame, plain: &Plain, id: FlowId) -> Option<Result<(), DropReason>> {
    // As far as its packet goes: what the link filled up behind it is no data.
    let ip = eth::HEADER_LEN + usize::from(plain.pull);
    let segment = frame
        .bytes()
        .get(ip + ipv4::HEADER_LEN..ip + usize::from(plain.len))?;
    let segment = TcpSegment::new(&Tcp::parse(segment).ok()?);
    // It may be about a connection that was, and what it tells may have to be lowered: the stages' business.
    if segment.flags.contains(TcpFlags::SYN) {
        return None;
    }
    match judge(cx.connections.flows.v4().track_tcp(id, &segment)) {
        Ok(Judged::Accepted) => Some(Ok(())),
        Ok(Judged::Reopen | Judged::Gone) => None,
        Err(reason) => Some(Err(reason)),
    }
}

/// Whether a packet of a flow is to be noted; `None` if the flow's stored answer, which may be an older snapshot's, does not
/// stand. Whether there is one [`go`] sees by itself. What the flow remembers comes in words: see [`go`].
#[inline(always)]
fn is_due(cx: &Context<'_>, memory: FlowMemory) -> Option<bool> {
    let freshness = memory.freshness(cx.tables.epoch, &cx.tables.subjects);
    (freshness != Freshness::Stale).then(|| memory.is_due(cx.now))
}

/// Notes that the flow is in use, and what its answer holds in.
#[inline(never)]
fn note(cx: &Context<'_>, flow: Glance, key: KeyV4) {
    let flow = flow.flow(&key);
    touch(cx, &flow, freshness(cx, &flow));
}

/// Writes what changes in the packet: addresses, ports, TTL, and what goes before them.
#[inline(always)]
fn change(
    wrapper: &mut Wrapper,
    frame: &mut Frame,
    plain: &Plain,
    way: &Way<'_>,
    hop: Hop,
    rewrite: Option<Rewrite<Ipv4Addr>>,
) -> Result<PortId, Exit> {
    // INVARIANT: `read` has seen all these headers in this frame.
    if plain.pull > 0 {
        frame
            .pull(plain.pull.into())
            .map_err(|_| DropReason::TunnelMalformed)?;
    }
    frame.truncate(eth::HEADER_LEN + usize::from(plain.len));
    let head: &mut [u8; TRANSPORT + udp::HEADER_LEN] = frame
        .bytes_mut()
        .first_chunk_mut()
        .ok_or(DropReason::TransportMalformed)?;
    let (link, rest) = head
        .split_first_chunk_mut()
        .ok_or(DropReason::EthernetTruncated)?;
    let (ip, transport) = rest
        .split_first_chunk_mut()
        .ok_or(DropReason::TransportMalformed)?;
    let addresses = rewrite.map(|rewrite| (rewrite.address_pair(), rewrite.ip()));
    ipv4::relay(ip, u8::from(hop == Hop::Counted), addresses);
    if let Way::Link { exit, next_hop, .. } = way {
        eth::emit(link, *next_hop, exit.mac, EtherType::IPV4);
    }
    if let Some(rewrite) = rewrite {
        let (pair, rest) = transport.split_at_mut(4);
        pair.copy_from_slice(&rewrite.port_pair().to_be_bytes());
        if plain.key.protocol() == IpProtocol::UDP {
            adjust(&mut rest[udp::CHECKSUM_OFFSET - 4..], |old| {
                rewrite.transport().apply_udp(old)
            });
        } else if let Some(rest) = frame.bytes_mut().get_mut(TRANSPORT + tcp::CHECKSUM_OFFSET..) {
            adjust(rest, |old| rewrite.transport().apply(old));
        }
    }
    if let Way::Tunnel { outer, .. } = way {
        let inner = Inner {
            len: plain.len,
            ecn: plain.ecn,
            ether_type: EtherType::IPV4,
            flow: wrapper.key().hash(plain.key.words()),
        };
        wrap(wrapper, frame, outer, &inner)?;
    }
    Ok(way.port())
}

/// Changes the checksum that `bytes` begin with.
#[inline(always)]
fn adjust(bytes: &mut [u8], change: impl FnOnce(u16) -> u16) {
    if let Some(field) = bytes.first_chunk_mut() {
        *field = change(u16::from_be_bytes(*field)).to_be_bytes();
    }
}
