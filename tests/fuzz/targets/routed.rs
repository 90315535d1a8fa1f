//! Routed networks beside the cluster's own, two of them with the very addresses that the cluster has: whatever comes in at a
//! port of one, or in its tunnel, leaves in it, or in one into which its routes lead, as what it was. An input that begins
//! with a byte from 128 on is a series of packets that make sense.
#![no_main]

use std::cell::RefCell;
use std::net::IpAddr;

use etherparse::{EtherType, Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice};
use libfuzzer_sys::fuzz_target;
use millrace_dataplane::frame::MAX_PACKET_LEN;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::NetworkId;
use millrace_dataplane::table::flow::FlowOptions;
use millrace_dataplane::verdict::Verdict;
use millrace_dataplane::worker::Origin;
use packets::{Body, Family, Ip, Segment};
use routed::{ALL, GREEN, Net, RED, YELLOW, tables};
use world::{Node, VNI, VXLAN_PORT, host, outer, pod, pod_port, station_mac, switch_mac, uplink, vtep_mac};

#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/packets.rs"]
mod packets;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/routed/scene.rs"]
mod routed;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/world.rs"]
mod world;

const CLUSTER: NetworkId = NetworkId::CLUSTER;
/// Bytes that say one packet of a series.
const STEP: usize = 6;

thread_local! {
    static NODE: RefCell<Node> = RefCell::new(node());
}

fn node() -> Node {
    let few = FlowOptions {
        ipv4: 256,
        ipv6: 256,
        ..FlowOptions::default()
    };
    Node::with_flows(tables(1), &few)
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    if choice >= 128 {
        let mut node = node();
        rest.as_chunks::<STEP>()
            .0
            .iter()
            .take(64)
            .for_each(|step| say(&mut node, *step));
        check_flows(&node);
        return;
    }
    if rest.len() > MAX_PACKET_LEN {
        return;
    }
    let (ingress, network) = match choice % 12 {
        0..4 => (uplink(), whose_tunnel(rest)),
        4 => (host(), CLUSTER),
        5 => (pod_port(2), CLUSTER),
        6 => (pod_port(3), CLUSTER),
        number => {
            let net = ALL[usize::from(number - 7) % ALL.len()];
            (net.port(if choice & 64 == 0 { 2 } else { 3 }), net.id)
        }
    };
    NODE.with_borrow_mut(|node| {
        let end = node.end_of(ingress, rest);
        match end.verdict {
            Verdict::Forward(exit) => check_exit(network, exit, &end.left),
            Verdict::Punt(..) => assert_eq!(end.network, network, "punted as another network's"),
            Verdict::Drop(_) | Verdict::Replicate(_) => {}
        }
        for origin in [
            Origin::Held {
                port: ingress,
                network,
            },
            Origin::Switch(network),
        ] {
            if let (Verdict::Forward(exit), left) = node.originate(origin, rest) {
                check_exit(network, exit, &left);
            }
        }
    });
});

/// Where what is in one network may leave: there, and in those into which its routes lead.
fn may_leave(from: NetworkId, to: NetworkId) -> bool {
    let pair = |one, other| (from, to) == (one, other) || (from, to) == (other, one);
    from == to || pair(CLUSTER, GREEN.id) || pair(GREEN.id, YELLOW.id)
}

/// The network of a packet from the wire, or that leaves there, by a stranger's eyes.
fn whose_tunnel(frame: &[u8]) -> NetworkId {
    let udp_at = match frame.get(12..14) {
        Some([0x08, 0x00]) if frame.get(23) == Some(&17) => {
            let fragment = frame
                .get(20..22)
                .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
            if fragment & 0x3fff != 0 {
                return CLUSTER;
            }
            14 + usize::from(frame[14] & 0x0f) * 4
        }
        Some([0x86, 0xdd]) if frame.get(20) == Some(&17) => 54,
        _ => return CLUSTER,
    };
    let Some([_, _, a, b, _, _, _, _, 8, _, _, _, x, y, z, ..]) = frame.get(udp_at..) else {
        return CLUSTER;
    };
    let (port, vni) = (u16::from_be_bytes([*a, *b]), u32::from_be_bytes([0, *x, *y, *z]));
    let net = ALL.iter().find(|net| (net.udp_port, net.vni) == (port, vni));
    net.map_or(CLUSTER, |net| net.id)
}

/// The network of what leaves by a port.
fn whose(exit: PortId, left: &[u8]) -> NetworkId {
    if exit == uplink() {
        return whose_tunnel(left);
    }
    let of_port = ALL
        .iter()
        .find(|net| [2, 3, 9].map(|pod| net.port(pod)).contains(&exit));
    of_port.map_or(CLUSTER, |net| net.id)
}

/// Source and destination of the IP packet in a frame, and what is behind its header.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let packet = frame.get(14..)?;
    match ethernet.ether_type() {
        EtherType::IPV4 => {
            let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
            (usize::from(ip.total_len()) <= packet.len())
                .then(|| (ip.source_addr().into(), ip.destination_addr().into()))
        }
        EtherType::IPV6 => {
            let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
            (40 + usize::from(ip.payload_length()) <= packet.len())
                .then(|| (ip.source_addr().into(), ip.destination_addr().into()))
        }
        _ => None,
    }
}

/// What leaves is a whole packet, in a network that it may leave in; behind a pod's port it is that pod's.
fn check_exit(network: NetworkId, exit: PortId, left: &[u8]) {
    let (_, destination) = addresses(left).expect("what is forwarded is an IP packet");
    let to = whose(exit, left);
    assert!(may_leave(network, to), "from {network} by {exit} in {to}");
    if exit == uplink() {
        assert!(
            network == CLUSTER || to != CLUSTER,
            "out of {network}, plain or in the cluster's tunnel"
        );
        return;
    }
    assert_eq!(left[..6], station_mac(1, exit).octets());
    assert_eq!(left[6..12], switch_mac(1, exit).octets());
    for net in ALL {
        for number in [2, 3, 9] {
            let own = Family::BOTH.map(|family| net.pod(family, 1, number));
            assert!(
                exit != net.port(number) || own.contains(&destination),
                "{destination} at {exit}"
            );
        }
    }
}

/// Both directions of a connection are in one network.
fn check_flows(node: &Node) {
    for connection in node.connections.flows.v4().connections() {
        assert_eq!(connection.original.network, connection.reply.network);
    }
    for connection in node.connections.flows.v6().connections() {
        assert_eq!(connection.original.network, connection.reply.network);
    }
}

/// An address of a network, or of the cluster's own.
fn address(net: Option<Net>, family: Family, node: u8, number: u8) -> IpAddr {
    net.map_or_else(|| pod(family, node, number), |net| net.pod(family, node, number))
}

/// Has a pod of this node or another send a packet, and looks where it leaves and as what.
fn say(node: &mut Node, [who, whom, body, port, extra, _]: [u8; STEP]) {
    let nets = [None, Some(RED), Some(ALL[1]), Some(GREEN), Some(YELLOW)];
    let (from_net, to_net) = (nets[usize::from(who & 7) % 5], nets[usize::from(whom & 7) % 5]);
    let family = Family::BOTH[usize::from(who >> 7)];
    let is_far = who & 64 != 0;
    let number = 2 + (who >> 5 & 1);
    let source = address(from_net, family, if is_far { 2 } else { 1 }, number);
    let to_node = if whom & 64 == 0 { 1 } else { 2 };
    let destination = address(to_net, family, to_node, 2 + (whom >> 5 & 1));
    let ports = (1 + u16::from(port & 3), 1 + u16::from(port >> 2 & 3));
    let segment = |flags: u8| {
        Body::Segment(Segment {
            ports,
            sequence: 1000 + u32::from(extra >> 4),
            acknowledgment: (flags & 1 != 0).then_some(1001),
            window: 500,
            syn: flags & 2 != 0,
            rst: flags & 4 != 0,
            fin: flags & 8 != 0,
            ..Segment::default()
        })
    };
    let body = match body % 4 {
        0 => Body::Udp(ports.0, ports.1, vec![extra; usize::from(extra)]),
        1 => segment(body >> 2),
        2 => Body::Echo(ports.0, vec![extra; 8]),
        _ => Body::Raw(47, vec![extra; 24]),
    };
    let ip = Ip::udp(source, destination)
        .body(body)
        .ttl(if port & 0x80 == 0 { 64 } else { 1 });
    let network = from_net.map_or(CLUSTER, |net| net.id);
    let (ingress, frame) = match (from_net, is_far) {
        (None, false) => (
            pod_port(number),
            ip.frame(switch_mac(1, pod_port(number)), station_mac(1, pod_port(number))),
        ),
        (Some(net), false) => {
            let at = net.port(number);
            (at, ip.frame(switch_mac(1, at), station_mac(1, at)))
        }
        (None, true) => {
            let inner = ip.frame(vtep_mac(1), vtep_mac(2));
            (uplink(), outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner))
        }
        (Some(net), true) => (uplink(), net.tunnelled(2, &ip)),
    };
    let end = node.end_of(ingress, &frame);
    match end.verdict {
        Verdict::Forward(exit) => {
            check_exit(network, exit, &end.left);
            if exit != uplink() {
                // Nobody is translated here, but that a port which calls itself is given another one.
                assert_eq!(addresses(&end.left), Some((source, destination)));
                let hops = if family == Family::V4 { 22 } else { 21 };
                assert_eq!(end.left[hops], 63, "not one hop older");
            }
        }
        Verdict::Punt(..) => assert_eq!(end.network, network),
        Verdict::Drop(_) | Verdict::Replicate(_) => {}
    }
}
