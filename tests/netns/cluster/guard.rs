//! What must never pass: each crafted frame is dropped, counted under its own reason where it came in, and reaches nobody.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{IpFragOffset, IpNumber};
use millrace_tools::lab::plan::{Mac, NodePlan, UPLINK, VNI, VXLAN_PORT};
use millrace_tools::lab::{Lab, Namespace, POD_INTERFACE};

use crate::control::node_object;
use crate::counters::{Counters, Counts, growth};
use crate::frames::{
    ARP, Ear, IPV4, IPV6, arp, ethernet, ipv4, mac_of, mac_of_neighbour, parse_mac, send, udp, udp_packet,
    vxlan,
};
use crate::rig::{
    SILENCE, address, assert_reaches, await_that, daemon, finish, guest, node, pair, pod, port_of, row,
    side_by_side, underlay,
};

/// How often each frame is sent.
const TIMES: u64 = 3;
/// The payload of every crafted packet, by which it would be known anywhere.
const MARK: &[u8] = b"crafted by the guard test";
/// A peer that is only in the manifests: the address of its node, and its pods.
const PHANTOM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const PHANTOM_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 2);

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const BROADCAST: Mac = Mac([0xff; 6]);
const SOMEONE: Mac = Mac([2, 0, 0, 0, 7, 7]);

/// A frame, and the reason it is dropped for.
type Row = (&'static str, &'static str, Vec<u8>);

/// A datagram with [`MARK`] in it.
fn marked(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    udp_packet(SocketAddrV4::new(from, 5000), SocketAddrV4::new(to, port), MARK)
}

/// Sends every row [`TIMES`] times and checks that just its reason grew, by as many, at the port called `port`.
fn check_rows(lab: &Lab, (from, interface): (&Namespace, &str), port: &str, rows: &[Row]) {
    let daemon = daemon(lab, "node-a");
    for (name, reason, frame) in rows {
        let before = Counters::settled(daemon);
        send(from, interface, &vec![frame.clone(); TIMES as usize]);
        let expected = Counts::from([((*reason).to_owned(), TIMES)]);
        let deadline = std::time::Instant::now() + SILENCE * 10;
        let after = loop {
            let now = Counters::settled(daemon);
            if growth(&before.dropped(), &now.dropped()) == expected || std::time::Instant::now() > deadline {
                break now;
            }
        };
        let (all, here) = (
            growth(&before.dropped(), &after.dropped()),
            growth(&before.dropped_at(port), &after.dropped_at(port)),
        );
        assert_eq!(
            (&all, &here),
            (&expected, &expected),
            "{name}; punted {:?}",
            growth(&before.punted(), &after.punted())
        );
    }
}

/// Everything that would be heard of a crafted packet, wherever one could go.
struct Watch(Vec<(String, Ear)>);

impl Watch {
    fn set(lab: &Lab, others: &[(&str, &Namespace, &str)]) -> Self {
        let mut ears = Vec::new();
        for (name, namespace, interface) in others {
            ears.push(((*name).to_owned(), Ear::incoming(namespace, interface, "")));
        }
        let host = Ear::incoming(node(lab, "node-a"), "millrace0", "");
        ears.push(("the host port".to_owned(), host));
        Self(ears)
    }

    fn assert_unseen(self) {
        for (name, mut ear) in self.0 {
            let seen = ear
                .rest()
                .into_iter()
                .find(|frame| frame.windows(MARK.len()).any(|bytes| bytes == MARK));
            assert!(seen.is_none(), "{name} got {:02x?}", seen.unwrap());
        }
    }
}

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
            "icmpv6_not_taken",
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

/// Outer headers of a tunnel packet.
#[derive(Clone, Copy)]
struct Outer {
    from: Ipv4Addr,
    to: NodePlan,
    mac: Mac,
}

impl Outer {
    fn ip(self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let packet = ipv4(protocol, self.from, self.to.underlay_address(), payload, |_| {});
        ethernet(self.to.uplink_mac(), self.mac, IPV4, &packet)
    }

    fn udp(self, payload: &[u8]) -> Vec<u8> {
        let to = SocketAddrV4::new(self.to.underlay_address(), VXLAN_PORT);
        self.ip(
            IpNumber::UDP,
            &udp(SocketAddrV4::new(self.from, 40_000), to, payload),
        )
    }

    fn vxlan(self, vni: u32, to: Mac, packet: &[u8]) -> Vec<u8> {
        self.udp(&vxlan(vni, &ethernet(to, SOMEONE, IPV4, packet)))
    }
}

#[test]
fn only_known_nodes_send_and_only_for_their_own() {
    let _turn = side_by_side();
    let lab = pair("guard-wire", 2);
    let (outsider, outsider_address) = guest(&lab, "outsider", 100);
    let daemon = daemon(&lab, "node-a");
    daemon
        .write_manifest(
            "phantom.yaml",
            &node_object("node-p", PHANTOM, "10.244.9.0/24", "02:00:00:00:01:09"),
        )
        .unwrap();
    await_that("the phantom among the peers", || {
        row(daemon, "peers", "node", "node-p").is_some()
    });
    let (victim, far) = (address(&lab, "pod-a1"), address(&lab, "pod-b1"));
    assert_reaches(pod(&lab, "pod-b1"), victim);
    let (here, there) = (
        lab.node("node-b").unwrap().plan(),
        lab.node("node-a").unwrap().plan(),
    );
    let outer = Outer {
        from: here.underlay_address(),
        to: there,
        mac: here.uplink_mac(),
    };
    let good = marked(far, victim, 9);
    let to_us = |packet: &[u8]| outer.vxlan(VNI, there.vtep_mac(), packet);
    let inner = ethernet(there.vtep_mac(), SOMEONE, IPV4, &good);
    let mut flagless = vxlan(VNI, &inner);
    flagless[0] = 0;
    let plain = |from: Ipv4Addr, to: Ipv4Addr| {
        ethernet(there.uplink_mac(), here.uplink_mac(), IPV4, &marked(from, to, 9))
    };
    let datagram = udp(
        SocketAddrV4::new(outer.from, 40_000),
        SocketAddrV4::new(there.underlay_address(), VXLAN_PORT),
        &vxlan(VNI, &inner),
    );
    let fragment = ipv4(
        IpNumber::UDP,
        outer.from,
        there.underlay_address(),
        &datagram[..64],
        |ip| {
            ip.more_fragments = true;
            ip.identification = 77;
        },
    );
    let later = ipv4(
        IpNumber::UDP,
        outer.from,
        there.underlay_address(),
        &datagram[64..],
        |ip| {
            ip.fragment_offset = IpFragOffset::try_new(8).unwrap();
            ip.identification = 77;
        },
    );
    let framed = |packet: &[u8]| ethernet(there.uplink_mac(), here.uplink_mac(), IPV4, packet);
    let mut bad_sum = good.clone();
    bad_sum[10] ^= 0xff;
    let rows: Vec<Row> = vec![
        (
            "another peer's pod inside",
            "tunnel_spoofed_address",
            to_us(&marked(PHANTOM_POD, victim, 9)),
        ),
        (
            "another peer's node inside",
            "tunnel_spoofed_address",
            to_us(&marked(PHANTOM, victim, 9)),
        ),
        (
            "our own pod inside",
            "tunnel_spoofed_address",
            to_us(&marked(address(&lab, "pod-a2"), victim, 9)),
        ),
        (
            "our own node inside",
            "tunnel_spoofed_address",
            to_us(&marked(there.underlay_address(), victim, 9)),
        ),
        (
            "a stranger inside",
            "tunnel_spoofed_address",
            to_us(&marked(Ipv4Addr::new(198, 51, 100, 7), victim, 9)),
        ),
        (
            "from loopback inside",
            "tunnel_spoofed_address",
            to_us(&marked(LOOPBACK, victim, 9)),
        ),
        (
            "to loopback inside",
            "martian_destination",
            to_us(&marked(far, LOOPBACK, 9)),
        ),
        (
            "to a group inside",
            "martian_destination",
            to_us(&marked(far, Ipv4Addr::new(224, 0, 0, 1), 9)),
        ),
        (
            "a peer that claims another's outer address",
            "tunnel_spoofed_address",
            Outer {
                from: PHANTOM,
                ..outer
            }
            .vxlan(VNI, there.vtep_mac(), &good),
        ),
        (
            "another network",
            "tunnel_wrong_vni",
            outer.vxlan(VNI + 1, there.vtep_mac(), &good),
        ),
        (
            "another MAC inside",
            "tunnel_wrong_mac",
            outer.vxlan(VNI, here.vtep_mac(), &good),
        ),
        (
            "every MAC inside",
            "tunnel_wrong_mac",
            outer.vxlan(VNI, BROADCAST, &good),
        ),
        ("no VNI flag", "tunnel_malformed", outer.udp(&flagless)),
        (
            "half a VXLAN header",
            "tunnel_malformed",
            outer.udp(&[8, 0, 0, 0]),
        ),
        (
            "half an inner Ethernet header",
            "tunnel_malformed",
            outer.udp(&vxlan(VNI, &inner[..10])),
        ),
        (
            "ARP inside",
            "tunnel_inner_unknown",
            outer.udp(&vxlan(VNI, &ethernet(there.vtep_mac(), SOMEONE, ARP, MARK))),
        ),
        ("half an IP header inside", "ipv4_truncated", to_us(&good[..12])),
        ("a wrong checksum inside", "ipv4_checksum", to_us(&bad_sum)),
        ("an outer fragment", "tunnel_fragment", framed(&fragment)),
        ("a later outer fragment", "tunnel_fragment", framed(&later)),
        (
            "a pod's address without a tunnel",
            "plain_from_overlay",
            plain(far, victim),
        ),
        (
            "our own pod's address without a tunnel",
            "plain_from_overlay",
            plain(address(&lab, "pod-a2"), victim),
        ),
        (
            "our own node's address without a tunnel",
            "plain_from_overlay",
            plain(there.underlay_address(), victim),
        ),
        (
            "from loopback without a tunnel",
            "martian_source",
            plain(LOOPBACK, victim),
        ),
        (
            "a packet that comes back out of the tunnel",
            "uplink_hairpin",
            to_us(&marked(far, outsider_address, 9)),
        ),
    ];
    let watch = Watch::set(
        &lab,
        &[
            ("pod-a1", pod(&lab, "pod-a1"), POD_INTERFACE),
            ("pod-a2", pod(&lab, "pod-a2"), POD_INTERFACE),
            ("the outsider", &outsider, UPLINK),
        ],
    );
    check_rows(&lab, (node(&lab, "node-b"), UPLINK), UPLINK, &rows);

    let stranger = Outer {
        from: outsider_address,
        to: there,
        mac: mac_of(&outsider, UPLINK),
    };
    let rows: Vec<Row> = vec![
        (
            "an unknown node, as itself",
            "tunnel_unknown_peer",
            stranger.vxlan(VNI, there.vtep_mac(), &marked(outsider_address, victim, 9)),
        ),
        (
            "an unknown node, for a peer's pod",
            "tunnel_unknown_peer",
            stranger.vxlan(VNI, there.vtep_mac(), &good),
        ),
    ];
    check_rows(&lab, (&outsider, UPLINK), UPLINK, &rows);
    watch.assert_unseen();

    // IP in IP is the kernel's here, for no tunnel of that kind ends at this node.
    let before = Counters::settled(daemon);
    let mut kernel = Ear::incoming(node(&lab, "node-a"), UPLINK, "ip proto 4");
    send(node(&lab, "node-b"), UPLINK, &[outer.ip(IpNumber::IPV4, &good)]);
    kernel.hear(1);
    assert_eq!(
        growth(&before.dropped(), &Counters::settled(daemon).dropped()),
        Counts::new()
    );

    let mut heard = Ear::incoming(pod(&lab, "pod-a1"), POD_INTERFACE, "udp port 9");
    send(node(&lab, "node-b"), UPLINK, &[to_us(&good)]);
    heard.hear(1);
    drop(outsider);
    finish(lab);
}
