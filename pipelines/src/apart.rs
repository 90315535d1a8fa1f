//! Telling the flows in tunnel packets apart before they walk, so that workers can share what all comes in by one queue.
//!
//! Nothing is judged here: whoever gets the packet judges it as if it had come in there. Two packets of one flow have one hash;
//! the pieces of one packet too, which are without ports then, all of them. So what a worker remembers of pieces is there for
//! each.

use std::net::IpAddr;

use millrace_dataplane::table::{HashKey, NodeTables, SegmentTunnel};
use millrace_dataplane::wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv6, Ports, Udp, Vxlan, ipip};

use crate::packet::{halves, transport_word};

/// The hash of the flow in a tunnel packet to one of our ends; `None` for any other, and for a tunnel packet in pieces.
#[inline]
pub(crate) fn inner_flow(key: &HashKey, tables: &NodeTables, packet: &[u8]) -> Option<u32> {
    let ethernet = Ethernet::parse(packet).ok()?;
    match ethernet.ether_type() {
        EtherType::IPV4 => {
            let outer = Ipv4::parse(ethernet.payload()).ok()?;
            match outer.protocol() {
                _ if outer.is_fragment() => None,
                IpProtocol::IPIP if tables.local.is_ipip_endpoint(outer.destination()) => {
                    flow_v4(key, ipip::parse_inner(outer.payload()).ok()?)
                }
                IpProtocol::UDP => in_vxlan(key, tables, outer.destination().into(), outer.payload()),
                _ => None,
            }
        }
        EtherType::IPV6 => {
            let outer = Ipv6::parse(ethernet.payload()).ok()?;
            let is_udp = outer.next_header() == IpProtocol::UDP;
            is_udp
                .then(|| in_vxlan(key, tables, outer.destination().into(), outer.payload()))
                .flatten()
        }
        _ => None,
    }
}

/// The hash of the flow in a UDP datagram to `end`, if that is VXLAN's.
#[inline]
fn in_vxlan(key: &HashKey, tables: &NodeTables, end: IpAddr, datagram: &[u8]) -> Option<u32> {
    let datagram = Udp::parse(datagram).ok()?;
    let (port, tunnel) = (datagram.destination_port(), Vxlan::parse(datagram.payload()));
    let is_clusters = tables.local.vxlan_endpoint(end, port).is_some();
    let tunnel = tunnel.ok().filter(|tunnel| {
        let vni = tunnel.vni();
        let network = || tables.networks.by_tunnel(SegmentTunnel { vni, port });
        let second = || tables.routed.get(network()?);
        is_clusters || second().is_some_and(|second| second.local.vxlan_endpoint(end, port).is_some())
    })?;
    let inner = Ethernet::parse(tunnel.payload()).ok()?;
    match inner.ether_type() {
        EtherType::IPV4 => flow_v4(key, Ipv4::parse(inner.payload()).ok()?),
        EtherType::IPV6 => flow_v6(key, Ipv6::parse(inner.payload()).ok()?),
        _ => None,
    }
}

#[inline]
fn flow_v4(key: &HashKey, ip: Ipv4<'_>) -> Option<u32> {
    let addresses = u64::from(ip.source().to_bits()) << 32 | u64::from(ip.destination().to_bits());
    let ports = ports(ip.protocol(), ip.is_fragment(), ip.payload());
    Some(upper(key.hash([addresses, transport_word(ip.protocol(), ports)])))
}

/// What stands behind extension headers has no ports here: pieces among them.
#[inline]
fn flow_v6(key: &HashKey, ip: Ipv6<'_>) -> Option<u32> {
    let ([a, b], [c, d]) = (halves(ip.source()), halves(ip.destination()));
    let protocol = ip.next_header();
    let ports = ports(protocol, false, ip.payload());
    let protocol = if ports.is_some() { protocol } else { IpProtocol(0) };
    Some(upper(key.hash([a, b, c, d, transport_word(protocol, ports)])))
}

#[inline]
fn ports(protocol: IpProtocol, is_fragment: bool, l4: &[u8]) -> Option<Ports> {
    if is_fragment || !protocol.has_ports() {
        return None;
    }
    Ports::parse(l4).ok()
}

/// The half of a hash that the tables use less.
#[inline]
fn upper(hash: u64) -> u32 {
    // INVARIANT: 32 bits are left.
    #[allow(clippy::cast_possible_truncation)]
    {
        (hash >> 32) as u32
    }
}
