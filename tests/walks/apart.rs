//! Which packets' flows are told apart before they walk, for workers to share: those in tunnels to this node.

use millrace_dataplane::frame::Pool;
use millrace_dataplane::table::{HashKey, Publisher};
use millrace_dataplane::worker::Pipeline;
use millrace_pipelines::NodePipeline;

use crate::packets::{Body, Family, Ip};
use crate::rows::sent;
use crate::world::{
    VNI, VXLAN_PORT, WINDOWS_PORT, connections, outer, pod, pod_port, tables, uplink, vtep_mac, world,
};

/// What a worker of node 1 takes these packets' flows for; nothing if it does not ask for any at this port.
fn flows_at(port: millrace_dataplane::port::PortId, packets: &[Vec<u8>]) -> Vec<Option<u32>> {
    let publisher = Publisher::new(tables(1));
    let key = HashKey::from_words([11, 22, 33]);
    let pipeline = NodePipeline::new(publisher.reader(), connections(), key, 0);
    let mut pool = Pool::on_heap(packets.len() as u32);
    let frames: Vec<_> = packets
        .iter()
        .map(|packet| pool.take_with(packet).unwrap())
        .collect();
    let mut flows = Vec::new();
    pipeline.flows(port, &frames, &mut flows);
    frames.into_iter().for_each(|frame| pool.give(frame));
    flows
}

fn flow(packet: Vec<u8>) -> Option<u32> {
    flows_at(uplink(), &[packet])[0]
}

fn ipip(ip: &Ip) -> Vec<u8> {
    outer(3, 1).ipip(&ip.build())
}

fn vxlan(ip: &Ip) -> Vec<u8> {
    let inner = ip.clone().frame(vtep_mac(1), vtep_mac(2));
    outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner)
}

/// Over the underlay of these nodes' own family.
fn vxlan_v6(ip: &Ip) -> Vec<u8> {
    let inner = ip.clone().frame(vtep_mac(1), vtep_mac(6));
    outer(6, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner)
}

fn udp(family: Family, from: u8, port: u16) -> Ip {
    Ip::udp(pod(family, from, 2), pod(family, 1, 2)).body(Body::Udp(port, 53, vec![7; 40]))
}

#[test]
fn flows_in_tunnels_are_told_apart_and_each_is_itself() {
    for (wrap, family, node) in [
        (ipip as fn(&Ip) -> Vec<u8>, Family::V4, 3),
        (vxlan, Family::V4, 2),
        (vxlan, Family::V6, 2),
        (vxlan_v6, Family::V6, 6),
    ] {
        let first = flow(wrap(&udp(family, node, 1))).unwrap();
        let same = udp(family, node, 1).ttl(9).ecn(1).len(900);
        assert_eq!(flow(wrap(&same)), Some(first), "{family:?}: the same flow");
        let packets: Vec<_> = (0..2560).map(|port| wrap(&udp(family, node, port))).collect();
        let mut taken = [0; 256];
        for flow in flows_at(uplink(), &packets) {
            taken[(flow.unwrap() >> 24) as usize] += 1;
        }
        let most = taken.iter().max().unwrap();
        assert!(
            *most < 40 && taken.iter().all(|count| *count > 0),
            "{family:?}: {taken:?}"
        );
        let other = udp(family, node, 1).body(Body::Tcp(1, 53, vec![7; 40]));
        assert_ne!(flow(wrap(&other)), Some(first), "{family:?}: another protocol");
    }
}

/// A worker remembers of a packet in pieces what the others may carry: so all must come to one.
#[test]
fn the_pieces_of_a_packet_are_one_flow_whatever_they_carry() {
    let whole = udp(Family::V4, 3, 1).len(600).build();
    let piece = |more: u16, offset: u16, bytes: &[u8]| {
        let mut packet = [&whole[..20], bytes].concat();
        let len = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&len);
        packet[6..8].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
        outer(3, 1).ipip(&packet)
    };
    let flows = flows_at(
        uplink(),
        &[
            piece(1, 0, &whole[20..220]),
            piece(1, 200, &whole[220..420]),
            piece(0, 400, &whole[420..]),
        ],
    );
    assert!(
        flows[0].is_some() && flows.iter().all(|flow| *flow == flows[0]),
        "{flows:?}"
    );
}

#[test]
fn what_is_in_no_tunnel_of_ours_stays_where_it_came() {
    let ip = udp(Family::V4, 3, 1);
    let mut piece = ipip(&ip);
    piece[20] = 0x20;
    let mut elsewhere = outer(3, 1);
    elsewhere.destination = [192, 0, 2, 9].into();
    let inner = ip.clone().frame(vtep_mac(1), vtep_mac(5));
    for (name, packet) in [
        (
            "plain, to a pod",
            sent(&Ip::udp(world(Family::V4), pod(Family::V4, 1, 2)), uplink()),
        ),
        (
            "plain IPv6",
            sent(&Ip::udp(world(Family::V6), pod(Family::V6, 1, 2)), uplink()),
        ),
        ("a tunnel packet in pieces", piece),
        ("to another's address", elsewhere.ipip(&ip.build())),
        (
            "VXLAN to a port that is none of ours",
            outer(5, 1).vxlan((1, WINDOWS_PORT + 1), VNI, &inner),
        ),
        ("ARP", [&[2; 12][..], &[8, 6], &[0; 28]].concat()),
    ] {
        assert_eq!(flow(packet), None, "{name}");
    }
    let whole = ipip(&ip);
    for len in 0..whole.len() {
        // Never past its end; what is whole inside is all that counts.
        let _ = flow(whole[..len].to_vec());
    }
    assert_eq!(flow(whole[..33].to_vec()), None);
}

#[test]
fn pods_packets_are_nobody_elses() {
    let packet = sent(&udp(Family::V4, 1, 1), pod_port(2));
    assert!(flows_at(pod_port(2), &[packet]).is_empty());
}
