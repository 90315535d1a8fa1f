//! What may not come from the wire.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{IpFragOffset, IpNumber};
use millrace_tools::lab::POD_INTERFACE;
use millrace_tools::lab::plan::{Mac, NodePlan, UPLINK, VNI, VXLAN_PORT};

use super::{BROADCAST, LOOPBACK, MARK, PHANTOM, PHANTOM_POD, Row, SOMEONE, Watch, check_rows, marked};
use crate::control::node_object;
use crate::counters::{Counters, Counts, growth};
use crate::frames::{ARP, Ear, IPV4, ethernet, ipv4, mac_of, send, udp, vxlan};
use crate::rig::{
    address, assert_reaches, await_that, daemon, finish, guest, node, pair, pod, row, side_by_side,
};
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
        ("a later outer fragment", "fragment_unknown", framed(&later)),
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
