//! Taking the course of a plain packet's connection.

use std::net::Ipv4Addr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{Rewrite, TcpSegment};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{EtherType, IpProtocol, Ipv4Mut, PortsMut, Tcp, checksum, eth, ipv4};

use super::read::Plain;
use crate::connections::Context;
use crate::encap::{Inner, Wrapper, wrap};
use crate::limit::{Hop, limit};
use crate::packet::flow_hash_v4;
use crate::route::Way;
use crate::track::{Judged, freshness, judge, standing, touch};

/// Takes the course of a connection whose stored answer stands; answers the port that the packet leaves by. `None` if
/// there is more to find out or to say: the packet is as it came, and the stages take it from the beginning.
///
/// Nothing in here is returned or lent to a function that is not inlined. Whatever is, the compiler keeps in memory:
/// written in small parts, and read at once in large ones before those have arrived.
#[inline(always)]
pub(crate) fn go(
    cx: &Context<'_>,
    wrapper: &mut Wrapper,
    frame: &mut Frame,
    plain: &Plain,
) -> Option<Result<PortId, Exit>> {
    let flows = cx.connections.flows.v4();
    let flow = flows.read_here(plain.candidate?, &plain.tuple)?;
    let freshness = freshness(cx, &flow);
    let way = standing(cx, &flow, freshness).ok()??;
    let hop = limit(cx.entry, (plain.hops, plain.len), &way).ok()?;
    if plain.tuple.protocol == IpProtocol::TCP {
        // As far as its packet goes: what the link filled up behind it is no data.
        let ip = eth::HEADER_LEN + plain.pull;
        let segment = frame
            .bytes()
            .get(ip + ipv4::HEADER_LEN..ip + usize::from(plain.len))?;
        let segment = TcpSegment::new(&Tcp::parse(segment).ok()?);
        match judge(flows.track_tcp(flow.id, &segment)) {
            Ok(Judged::Accepted) => {}
            Ok(Judged::Reopen | Judged::Gone) => return None,
            Err(reason) => return Some(Err(reason.into())),
        }
    }
    touch(cx, &flow, freshness);
    Some(change(wrapper, frame, plain, &way, hop, flow.rewrite))
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
    frame.pull(plain.pull).map_err(|_| DropReason::TunnelMalformed)?;
    frame.truncate(eth::HEADER_LEN + usize::from(plain.len));
    let (link, packet) = frame
        .bytes_mut()
        .split_first_chunk_mut()
        .ok_or(DropReason::EthernetTruncated)?;
    let (ip, transport) = packet
        .split_first_chunk_mut::<{ ipv4::HEADER_LEN }>()
        .ok_or(DropReason::TransportMalformed)?;
    let mut ip = Ipv4Mut::header_of(ip)?;
    if let Some(rewrite) = rewrite {
        let (source, destination) = rewrite.addresses();
        match hop {
            Hop::Counted => {
                ip.decrement_ttl_and_replace_addresses(source, destination, rewrite.ip());
            }
            Hop::Free => ip.replace_addresses(source, destination, rewrite.ip()),
        }
        PortsMut::parse(transport)?.replace(rewrite.ports());
        checksum::adjust_transport(plain.tuple.protocol, transport, rewrite.transport());
    } else if hop == Hop::Counted {
        ip.decrement_ttl();
    }
    match way {
        Way::Link { exit, next_hop, .. } => eth::emit(link, *next_hop, exit.mac, EtherType::IPV4),
        Way::Tunnel { outer, .. } => {
            let inner = Inner {
                len: plain.len,
                ecn: plain.ecn,
                ether_type: EtherType::IPV4,
                flow: flow_hash_v4(
                    wrapper.key(),
                    (plain.tuple.source, plain.tuple.destination),
                    plain.tuple.protocol,
                    Some(plain.tuple.ports),
                ),
            };
            wrap(wrapper, frame, outer, &inner)?;
        }
    }
    Ok(way.port())
}
