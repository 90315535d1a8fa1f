//! What a pod may not send.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::IpNumber;
use millrace_tools::lab::POD_INTERFACE;
use millrace_tools::lab::plan::{Mac, VNI, VXLAN_PORT};

use super::{BROADCAST, LOOPBACK, MARK, PHANTOM_POD, Row, SOMEONE, Watch, check_rows, marked};
use crate::frames::{
    ARP, Ear, IPV4, IPV6, arp, ethernet, ipv4, mac_of, mac_of_neighbour, parse_mac, send, udp, vxlan,
};
use crate::rig::{address, assert_reaches, daemon, finish, pair, pod, port_of, side_by_side, underlay};
#[test]
fn a_pod_sends_as_itself_only() {
    let _turn = side_by_side();
    let lab = pair("guard-pod", 2);
    let (from, victim) = (pod(&lab, "pod-a1"), address(&lab, "pod-a2"));
    let own = address(&lab, "pod-a1");
    let plan = lab.node("node-a").unwrap().plan();
    let gateway = mac_of_neighbour(from, plan.gateway());
    let me = mac_of(from, POD_INTERFACE);
    assert_reaches(from, victim);
    let port = port_of(daemon(&lab, "node-a"), "lab/pod-a1").unwrap();
    assert_eq!(parse_mac(port["mac"].as_str().unwrap()), gateway);
    assert_eq!(parse_mac(port["peer_mac"].as_str().unwrap()), me);

    let ip = |packet: &[u8]| ethernet(gateway, me, IPV4, packet);
    let tunnel = |to: Ipv4Addr, port: u16| {
        let inner = ethernet(plan.vtep_mac(), SOMEONE, IPV4, &marked(PHANTOM_POD, victim, 9));
        let datagram = udp(
            SocketAddrV4::new(own, 5000),
            SocketAddrV4::new(to, port),
            &vxlan(VNI, &inner),
        );
        ip(&ipv4(IpNumber::UDP, own, to, &datagram, |_| {}))
    };
    let ipip = |to: Ipv4Addr| {
        ip(&ipv4(
            IpNumber::IPV4,
            own,
            to,
            &marked(PHANTOM_POD, victim, 9),
            |_| {},
        ))
    };
    let tagged = [&victim_vlan()[..], &marked(own, victim, 9)].concat();
    let mut bad_sum = marked(own, victim, 9);
    bad_sum[10] ^= 0xff;
    let mut long = marked(own, victim, 9);
    long[2..4].copy_from_slice(&1400_u16.to_be_bytes());
    let mut ihl = marked(own, victim, 9);
    ihl[0] = 0x44;
    let mut udp_lie = udp(SocketAddrV4::new(own, 5000), SocketAddrV4::new(victim, 9), MARK);
    udp_lie[4..6].copy_from_slice(&3_u16.to_be_bytes());
    let rows: Vec<Row> = vec![
        (
            "another pod's address",
            "spoofed_address",
            ip(&marked(victim, victim, 9)),
        ),
        (
            "a peer pod's address",
            "spoofed_address",
            ip(&marked(address(&lab, "pod-b1"), victim, 9)),
        ),
        (
            "the node's address",
            "spoofed_address",
            ip(&marked(plan.underlay_address(), victim, 9)),
        ),
        (
            "the gateway's address",
            "spoofed_address",
            ip(&marked(plan.gateway(), victim, 9)),
        ),
        (
            "from loopback",
            "spoofed_address",
            ip(&marked(LOOPBACK, victim, 9)),
        ),
        (
            "from nobody",
            "spoofed_address",
            ip(&marked(Ipv4Addr::UNSPECIFIED, victim, 9)),
        ),
        (
            "another MAC",
            "spoofed_mac",
            ethernet(gateway, SOMEONE, IPV4, &marked(own, victim, 9)),
        ),
        (
            "to another MAC",
            "not_for_us",
            ethernet(SOMEONE, me, IPV4, &marked(own, victim, 9)),
        ),
        (
            "to every MAC",
            "not_for_us",
            ethernet(BROADCAST, me, IPV4, &marked(own, victim, 9)),
        ),
        (
            "to loopback",
            "martian_destination",
            ip(&marked(own, LOOPBACK, 9)),
        ),
        (
            "to a group",
            "martian_destination",
            ip(&marked(own, Ipv4Addr::new(224, 0, 0, 1), 9)),
        ),
        (
            "to everyone",
            "martian_destination",
            ip(&marked(own, Ipv4Addr::BROADCAST, 9)),
        ),
        (
            "VXLAN to its node",
            "pod_tunnel",
            tunnel(plan.underlay_address(), VXLAN_PORT),
        ),
        (
            "VXLAN to a peer",
            "pod_tunnel",
            tunnel(underlay(&lab, "node-b"), VXLAN_PORT),
        ),
        (
            "VXLAN to its node's overlay address",
            "pod_tunnel",
            tunnel(plan.tunnel_address(), VXLAN_PORT),
        ),
        (
            "IP in IP to its node",
            "pod_tunnel",
            ipip(plan.underlay_address()),
        ),
        ("IP in IP to a peer", "pod_tunnel", ipip(underlay(&lab, "node-b"))),
        (
            "a VLAN tag",
            "vlan_tagged",
            ethernet(gateway, me, 0x8100, &tagged),
        ),
        (
            "an unknown EtherType",
            "ether_type_unknown",
            ethernet(gateway, me, 0x88cc, MARK),
        ),
        ("a wrong header checksum", "ipv4_checksum", ip(&bad_sum)),
        ("a length beyond the frame", "ipv4_malformed", ip(&long)),
        ("a header too short", "ipv4_malformed", ip(&ihl)),
        (
            "half a header",
            "ipv4_truncated",
            ethernet(gateway, me, IPV4, &marked(own, victim, 9)[..12]),
        ),
        (
            "a UDP length that lies",
            "transport_malformed",
            ip(&ipv4(IpNumber::UDP, own, victim, &udp_lie, |_| {})),
        ),
        (
            "ARP for another's address",
            "arp_spoofed",
            ethernet(BROADCAST, me, ARP, &arp(1, (me, victim), (Mac([0; 6]), victim))),
        ),
        (
            "an ARP reply for the gateway",
            "arp_spoofed",
            ethernet(gateway, me, ARP, &arp(2, (me, plan.gateway()), (gateway, own))),
        ),
        (
            "ARP with another's MAC",
            "arp_spoofed",
            ethernet(BROADCAST, me, ARP, &arp(1, (SOMEONE, own), (Mac([0; 6]), victim))),
        ),
        (
            "half an ARP packet",
            "arp_malformed",
            ethernet(BROADCAST, me, ARP, &[0, 1, 8, 0]),
        ),
        (
            "a router advertisement",
            "router_advertisement",
            ethernet(Mac([0x33, 0x33, 0, 0, 0, 1]), me, IPV6, &router_advertisement()),
        ),
    ];
    let watch = Watch::set(
        &lab,
        &[
            ("pod-a2", pod(&lab, "pod-a2"), POD_INTERFACE),
            ("pod-b1", pod(&lab, "pod-b1"), POD_INTERFACE),
            ("the rack", lab.switch().namespace(), "node-a"),
        ],
    );
    check_rows(&lab, (from, POD_INTERFACE), "lab/pod-a1", &rows);
    watch.assert_unseen();

    // Its own honest packets pass, those beside the refused ones included: the tunnel's port on a pod, for one.
    let mut heard = Ear::incoming(pod(&lab, "pod-a2"), POD_INTERFACE, "udp");
    send(
        from,
        POD_INTERFACE,
        &[ip(&marked(own, victim, 9)), ip(&marked(own, victim, VXLAN_PORT))],
    );
    heard.hear(2);
    finish(lab);
}

/// A VLAN tag with the EtherType behind it.
fn victim_vlan() -> [u8; 4] {
    [0, 1, 8, 0]
}

/// An ICMPv6 router advertisement from a link-local address to all nodes (RFC 4861 section 4.2).
fn router_advertisement() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 58, 255];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet
}
