//! Rows of packets from the wire that are in no tunnel.

use millrace_dataplane::verdict::DropReason;
use millrace_dataplane::wire::MacAddr;

use crate::packets::{Family, IPV4, Ip, ethernet};
use crate::rows::{Expect, Row, delivered};
use crate::world::{link_gateway, node_address, pod, pod_port, router_mac, switch_mac, uplink, world};

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        let plain = |source, destination| Ip::udp(source, destination);
        let wire = |ip: &Ip| ip.frame(switch_mac(1, uplink()), router_mac());
        let ours = pod(family, 1, 2);
        let mut row = |name: &str, ip: Ip, expect| {
            rows.push(Row::new(
                format!("{family:?}: plain {name}"),
                uplink(),
                wire(&ip),
                expect,
            ));
        };
        let routed = plain(world(family), ours);
        row(
            "from the world to a pod",
            routed.clone(),
            delivered(&routed.ttl(63), pod_port(2)),
        );
        let node = plain(node_address(family, 2), ours);
        row(
            "from a peer's node to a pod",
            node.clone(),
            delivered(&node.ttl(63), pod_port(2)),
        );
        let claimed = Expect::Drop(DropReason::PlainFromOverlay);
        row(
            "from a peer's pod",
            plain(pod(family, 2, 2), ours),
            claimed.clone(),
        );
        row(
            "from our own pod",
            plain(pod(family, 1, 3), ours),
            claimed.clone(),
        );
        row(
            "from our gateway",
            plain(pod(family, 1, 1), ours),
            claimed.clone(),
        );
        row(
            "from a gateway outside of all prefixes",
            plain(link_gateway(family), ours),
            claimed.clone(),
        );
        row("from our own node", plain(node_address(family, 1), ours), claimed);
        let not_ours = Expect::Drop(DropReason::NotForUs);
        row(
            "to the node",
            plain(world(family), node_address(family, 1)),
            not_ours.clone(),
        );
        row(
            "to another node's pod",
            plain(world(family), pod(family, 2, 2)),
            not_ours.clone(),
        );
        row("through us", plain(world(family), world(family)), not_ours);
        let loopback = plain(family.pick("127.0.0.1", "::1"), ours);
        row("from loopback", loopback, Expect::Drop(DropReason::MartianSource));
    }
    let broken = ethernet(switch_mac(1, uplink()), MacAddr::ZERO, IPV4, &[0x45; 8]);
    rows.push(Row::drop(
        "plain header cut short",
        uplink(),
        broken,
        DropReason::Ipv4Truncated,
    ));
    rows
}
