//! The whole walk of packets through the pipeline of a node that has Services: any bytes at any port take exactly one
//! exit, the frame comes back, and what is forwarded passed every guard. An input that begins with a byte from 128 on is a
//! conversation, of packets that make sense.
#![no_main]

use std::cell::RefCell;
use std::net::IpAddr;

use etherparse::{EtherType, Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice};
use libfuzzer_sys::fuzz_target;
use millrace_dataplane::frame::MAX_PACKET_LEN;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::NodeTables;
use millrace_dataplane::verdict::Verdict;
use packets::Family;
use world::{
    FROM_SWITCH, NODES, Node, gone, host, narrow, node_address, pod, pod_port, station_mac, switch_mac,
    underlay, uplink, waited,
};

#[path = "../conversation.rs"]
mod conversation;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/packets.rs"]
mod packets;
#[path = "../served.rs"]
mod served;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/services/sketch.rs"]
mod sketch;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../../walks/world.rs"]
mod world;

thread_local! {
    static TABLES: [NodeTables; 2] = [false, true].map(served::served);
    static NODE: RefCell<Node> = RefCell::new(TABLES.with(|tables| served::node(&tables[0])));
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, packet)) = data.split_first() else {
        return;
    };
    if choice >= 128 {
        TABLES.with(|tables| conversation::run(tables, packet, check_exit));
        return;
    }
    if packet.len() > MAX_PACKET_LEN {
        return;
    }
    let ingress = match choice % 8 {
        0..3 => uplink(),
        3 => host(),
        4 => pod_port(2),
        5 => pod_port(3),
        6 => narrow(),
        _ => gone(),
    };
    NODE.with_borrow_mut(|node| {
        let (verdict, left) = node.receive(ingress, packet);
        if let Verdict::Forward(exit) = verdict {
            assert_ne!(ingress, gone());
            check_exit(exit, &left);
            check_source(ingress, packet, exit, &left);
        }
        // Held packets have been let in before; the switch's own need no letting in.
        for origin in [waited(ingress), FROM_SWITCH] {
            if let (Verdict::Forward(exit), left) = node.originate(origin, packet) {
                check_exit(exit, &left);
            }
        }
    });
});

/// Source and destination of the IP packet in a frame, by a stranger's parser; `None` if its length is a lie.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let packet = &frame[ethernet.slice().len()..];
    match ethernet.ether_type() {
        EtherType::IPV4 => {
            let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
            let whole = (ip.slice().len()..=packet.len()).contains(&usize::from(ip.total_len()));
            whole.then(|| (ip.source_addr().into(), ip.destination_addr().into()))
        }
        EtherType::IPV6 => {
            let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
            let whole = ip.slice().len() + usize::from(ip.payload_length()) <= packet.len();
            whole.then(|| (ip.source_addr().into(), ip.destination_addr().into()))
        }
        _ => None,
    }
}

/// Addresses of a pod of the node that walks.
fn own(number: u8) -> [IpAddr; 2] {
    Family::BOTH.map(|family| pod(family, 1, number))
}

/// What leaves is a whole packet, on its link, for somebody who is there.
fn check_exit(exit: PortId, left: &[u8]) {
    let (source, destination) = addresses(left).expect("what is forwarded is an IP packet");
    assert!(!source.is_multicast() && !source.is_loopback());
    assert!(!destination.is_multicast() && !destination.is_loopback());
    assert_eq!(
        left[6..12],
        switch_mac(1, exit).octets(),
        "the switch sends as itself"
    );
    if exit == uplink() {
        let ours = Family::BOTH.map(|family| node_address(family, 1));
        assert!(!ours.contains(&destination), "sent to ourselves");
        return;
    }
    assert_eq!(
        left[..6],
        station_mac(1, exit).octets(),
        "for the one station behind the port"
    );
    for (port, number) in [(pod_port(2), 2), (pod_port(3), 3), (narrow(), 9)] {
        assert!(
            exit != port || own(number).contains(&destination),
            "{destination} is not behind {port:?}"
        );
    }
}

/// Nobody sends as somebody else: a pod as itself, a node as its own pods and itself. What is translated has a source
/// that the switch gave it.
fn check_source(ingress: PortId, packet: &[u8], exit: PortId, left: &[u8]) {
    let (outer_source, outer_destination) = addresses(packet).expect("what is forwarded was an IP packet");
    for (port, number) in [(pod_port(2), 2), (pod_port(3), 3), (narrow(), 9)] {
        assert!(
            ingress != port || own(number).contains(&outer_source),
            "{outer_source} at {port:?}"
        );
    }
    // What goes on in another tunnel has this node's outer header, and was judged by the same code.
    if ingress != uplink() || exit == uplink() {
        return;
    }
    let (source, _) = addresses(left).expect("checked");
    if served::is_translated(source) {
        return;
    }
    let to_us = [Family::V4, Family::V6]
        .iter()
        .any(|f| outer_destination == node_address(*f, 1));
    if to_us && source != outer_source {
        let address = |node| node_address(underlay(1, node), node);
        let sender = NODES.skip(1).find(|node| outer_source == address(*node));
        let node = sender.expect("only nodes may send tunnel packets");
        let is_its_own = match source {
            IpAddr::V4(v4) if v4.octets()[..3] == [10, 244, node] => true,
            IpAddr::V6(v6) if v6.segments()[..4] == [0xfd00, u16::from(node), 0, 0] => true,
            other => other == address(node),
        };
        assert!(is_its_own, "node {node} sent as {source}");
    }
}
