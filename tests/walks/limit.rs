//! Rows of `limit`: TTL and MTU, at the edge and on both sides of it.

use millrace_dataplane::verdict::{PuntDetail, PuntReason};
use millrace_dataplane::wire::MacAddr;

use crate::packets::{Family, Ip, patch_ipv4};
use crate::rows::{Expect, Row, delivered, punt, sent};
use crate::world::{
    LINK_MTU, NARROW_MTU, VNI, VXLAN_PORT, host, narrow, node_address, outer, pod, pod_port, switch_mac,
    uplink, vtep_mac, vxlan_mtu, world,
};

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        let (own, other, small) = (pod(family, 1, 2), pod(family, 1, 3), pod(family, 1, 9));
        let mut row = |name: &str, from, ip: &Ip, expect: &dyn Fn(&[u8]) -> Expect| {
            let packet = sent(ip, from);
            let expect = expect(&packet);
            rows.push(Row::new(format!("{family:?}: {name}"), from, packet, expect));
        };
        let expired = |p: &[u8]| punt(PuntReason::TimeExceeded, PuntDetail::Nothing, p);
        let too_big = |mtu| move |p: &[u8]| punt(PuntReason::PacketTooBig, PuntDetail::Mtu(mtu), p);
        let ip = Ip::udp(own, other);
        row("TTL 2", pod_port(2), &ip.clone().ttl(2), &|_| {
            delivered(&ip.clone().ttl(1), pod_port(3))
        });
        row("TTL 1", pod_port(2), &ip.clone().ttl(1), &expired);
        row("TTL 0", pod_port(2), &ip.clone().ttl(0), &expired);
        let to_host = Ip::udp(own, node_address(family, 1)).ttl(1);
        row("TTL 1 to the own node", pod_port(2), &to_host, &|_| {
            delivered(&to_host, host())
        });
        let fits = ip.clone().len(usize::from(LINK_MTU));
        row("exactly the MTU", pod_port(2), &fits, &|_| {
            delivered(&fits.clone().ttl(63), pod_port(3))
        });
        let narrow_mtu = usize::from(NARROW_MTU);
        let fits = Ip::udp(own, small).len(narrow_mtu);
        row("exactly a small MTU", pod_port(2), &fits, &|_| {
            delivered(&fits.clone().ttl(63), narrow())
        });
        let long = Ip::udp(own, small).len(narrow_mtu + 1);
        row(
            "one byte beyond a small MTU",
            pod_port(2),
            &long,
            &too_big(NARROW_MTU),
        );
        for (peer, name) in [
            (2, "one byte beyond the tunnel's MTU"),
            (6, "one byte beyond the MTU of a tunnel over IPv6"),
        ] {
            let tunnel_mtu = vxlan_mtu(1, peer);
            let long = Ip::udp(own, pod(family, peer, 2)).len(usize::from(tunnel_mtu) + 1);
            row(name, pod_port(2), &long, &too_big(tunnel_mtu));
        }
        // The node itself, another node by the direct route, the world by the router: each as the link it leaves by.
        for (name, to) in [
            ("the own node", node_address(family, 1)),
            ("another node", node_address(family, 2)),
            ("the world", world(family)),
        ] {
            let long = Ip::udp(own, to).len(usize::from(LINK_MTU) + 1);
            let name = format!("one byte beyond the MTU of the way to {name}");
            row(&name, pod_port(2), &long, &too_big(LINK_MTU));
        }
        let long = Ip::udp(own, pod(family, 2, 2)).len(usize::from(LINK_MTU) - 49);
        row("beyond the MTU and expired", pod_port(2), &long.ttl(1), &expired);
        let may = Ip::udp(own, small).len(narrow_mtu + 1);
        if family == Family::V4 {
            // Fragments allowed: the switch makes none, and says what would fit.
            let packet = patch_ipv4(sent(&may, pod_port(2)), 20, &[0, 0]);
            let expect = too_big(NARROW_MTU)(&packet);
            rows.push(Row::new("too long without DF", pod_port(2), packet, expect));
        }
    }
    let long = Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 3, 2)).len(usize::from(LINK_MTU) - 19);
    let packet = sent(&long, pod_port(2));
    let expect = punt(PuntReason::PacketTooBig, PuntDetail::Mtu(LINK_MTU - 20), &packet);
    rows.push(Row::new(
        "one byte beyond the MTU of IPIP",
        pod_port(2),
        packet,
        expect,
    ));
    // Out of its tunnel, and still to be quoted: the packet as it was inside.
    let inner = Ip::udp(pod(Family::V4, 3, 2), pod(Family::V4, 1, 2)).ttl(1);
    let bare = inner.frame(switch_mac(1, uplink()), MacAddr::ZERO);
    let expect = punt(PuntReason::TimeExceeded, PuntDetail::Nothing, &bare);
    rows.push(Row::new(
        "expired out of IPIP",
        uplink(),
        outer(3, 1).ipip(&inner.build()),
        expect,
    ));
    let inner = Ip::udp(pod(Family::V6, 2, 2), pod(Family::V6, 1, 2))
        .ttl(1)
        .frame(vtep_mac(1), vtep_mac(2));
    let expect = punt(PuntReason::TimeExceeded, PuntDetail::Nothing, &inner);
    let packet = outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner);
    rows.push(Row::new("expired out of VXLAN", uplink(), packet, expect));
    rows
}
