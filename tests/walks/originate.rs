//! Packets that did not come in at a port: the switch's own answers, and what waited for a neighbour.

use std::sync::Arc;

use millrace_dataplane::table::{HashKey, NeighbourId, NeighbourTable};
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason, Verdict};
use millrace_dataplane::wire::MacAddr;

use crate::packets::{Family, Ip};
use crate::rows::{Expect, Row, sent};
use crate::world::{
    FROM_SWITCH, Node, VNI, VXLAN_PORT, node_address, outer, pod, pod_port, station_mac, switch_mac, tables,
    uplink, vtep_mac, waited,
};

/// A frame whose link addresses mean nothing.
fn unaddressed(ip: &Ip) -> Vec<u8> {
    ip.frame(MacAddr::ZERO, MacAddr::BROADCAST)
}

#[test]
fn the_switch_sends_with_the_ttl_it_chose() {
    let mut node = Node::new(1);
    for family in Family::BOTH {
        for ttl in [1, 64] {
            let ip = Ip::udp(pod(family, 1, 1), pod(family, 1, 2)).ttl(ttl);
            let expect = ip.frame(station_mac(1, pod_port(2)), switch_mac(1, pod_port(2)));
            let (verdict, left) = node.originate(FROM_SWITCH, &unaddressed(&ip));
            Row::new("to a pod", uplink(), vec![], Expect::Forward(pod_port(2), expect))
                .check(verdict, &left);

            let ip = Ip::udp(pod(family, 1, 1), pod(family, 2, 2)).ttl(ttl);
            let inner = ip.frame(vtep_mac(2), vtep_mac(1));
            let expect = Expect::Tunnel(uplink(), outer(1, 2).vxlan((0, VXLAN_PORT), VNI, &inner));
            let (verdict, left) = node.originate(FROM_SWITCH, &unaddressed(&ip));
            Row::new("to a peer", uplink(), vec![], expect).check(verdict, &left);
        }
    }
}

#[test]
fn a_held_packet_walks_on_once_its_neighbour_is_known() {
    for family in Family::BOTH {
        let mut node = Node::new(1);
        let next_hop = node_address(family, 9);
        let ip = Ip::udp(pod(family, 1, 2), next_hop);
        let unresolved = Verdict::Punt(
            PuntReason::NeighbourUnresolved,
            PuntDetail::NextHop(uplink(), next_hop),
        );
        let (verdict, held) = node.receive(pod_port(2), &sent(&ip, pod_port(2)));
        assert_eq!(verdict, unresolved);
        let (verdict, held) = node.originate(waited(pod_port(2)), &held);
        assert_eq!(verdict, unresolved, "still not known");

        let mac = MacAddr([2, 9, 9, 9, 9, 9]);
        let neighbours = Arc::new(NeighbourTable::build(
            HashKey::random(),
            [(NeighbourId::new(9), uplink(), next_hop, mac)],
        ));
        node.publish(millrace_dataplane::table::NodeTables {
            neighbours,
            ..tables(1)
        });
        let (verdict, left) = node.originate(waited(pod_port(2)), &held);
        let expect = ip.ttl(63).frame(mac, switch_mac(1, uplink()));
        Row::new("held", uplink(), vec![], Expect::Forward(uplink(), expect)).check(verdict, &left);
    }
}

#[test]
fn a_held_packet_still_pays_its_hop() {
    for family in Family::BOTH {
        let mut node = Node::new(1);
        let ip = Ip::udp(pod(family, 1, 2), pod(family, 1, 3)).ttl(1);
        let (verdict, left) = node.originate(waited(pod_port(2)), &unaddressed(&ip));
        assert_eq!(
            verdict,
            Verdict::Punt(PuntReason::TimeExceeded, PuntDetail::Nothing)
        );
        assert_eq!(left, unaddressed(&ip), "unchanged");
    }
}

#[test]
fn what_the_switch_sends_is_checked_as_well() {
    for family in Family::BOTH {
        let mut node = Node::new(1);
        let to_nobody = Ip::udp(pod(family, 1, 1), family.pick("127.0.0.1", "::1"));
        let (verdict, _) = node.originate(FROM_SWITCH, &unaddressed(&to_nobody));
        assert_eq!(verdict, Verdict::Drop(DropReason::MartianDestination));
        let (verdict, _) = node.originate(waited(pod_port(2)), &[0; 10]);
        assert_eq!(verdict, Verdict::Drop(DropReason::EthernetTruncated));
        let to_itself = Ip::udp(pod(family, 1, 2), pod(family, 1, 1));
        let (verdict, _) = node.originate(FROM_SWITCH, &unaddressed(&to_itself));
        assert_eq!(verdict, Verdict::Punt(PuntReason::ToSwitch, PuntDetail::Nothing));
    }
}
