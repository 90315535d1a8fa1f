//! An uplink whose underlay is in a VLAN: what bears its tag is judged behind the tag, and all else is the kernel's.

use std::net::Ipv4Addr;

use etherparse::EtherType;
use millrace_dataplane::wire::vlan::VlanId;
use millrace_dataplane::xdp::{SteeringCounter, SteeringProgram};

use crate::frames::*;
use crate::packets::check_rows_of;

/// The VLAN of the underlay, one whose lower byte is the same, and one beside it.
const VLAN: u16 = 0x10a;
const OTHERS: [u16; 3] = [0x20a, 0x10b, 0];
/// Priority 5 and the drop-eligible mark, which say nothing of the VLAN.
const PRIORITY: u16 = 0xb000;

/// The frame with a tag before its EtherType.
fn tagged(tag: EtherType, control: u16, frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tag = [tag.0.to_be_bytes(), control.to_be_bytes()].concat();
    [addresses, &tag, rest].concat()
}

fn in_vlan(frame: &[u8]) -> Vec<u8> {
    tagged(EtherType::VLAN_TAGGED_FRAME, VLAN, frame)
}

/// The uplink's program with every table filled, in a VLAN.
fn uplink_in_vlan() -> SteeringProgram {
    let mut program = loaded_uplink();
    let mut tables = crate::services::tables();
    tables.vlan = VlanId::new(VLAN);
    program.set_tables(&tables).unwrap();
    program
}

/// Frames of every kind that are the switch's, and some that are not.
fn frames() -> Vec<(&'static str, Vec<u8>, SteeringCounter)> {
    use SteeringCounter::{
        FailsafePassed, MalformedPassed, Passed, ToSwitchFragment, ToSwitchNodePort, ToSwitchPod,
        ToSwitchService, ToSwitchSnatReply, ToSwitchTunnel,
    };
    let cluster_ip = Ipv4Addr::new(10, 96, 0, 10);
    let vxlan = v4(NODE, 17, &udp(TUNNEL_PORT), |_| {});
    let mut lying = vxlan.clone();
    lying[16] = 1;
    let hop_by_hop = options(17, 1, &udp(TUNNEL_PORT));
    #[rustfmt::skip]
    let rows = vec![
        ("VXLAN", vxlan, ToSwitchTunnel),
        ("IPIP", v4(NODE, 4, &[0x45; 40], |_| {}), ToSwitchTunnel),
        ("a pod", v4(POD, 6, &tcp(80), |_| {}), ToSwitchPod),
        ("a ClusterIP", v4(cluster_ip, 6, &tcp(80), |_| {}), ToSwitchService),
        ("a node port", v4(NODE, 6, &tcp(30_080), |_| {}), ToSwitchNodePort),
        ("an answer to source NAT", v4(NODE, 6, &tcp(61_000), |_| {}), ToSwitchSnatReply),
        ("a first fragment", v4_fragment(NODE, 17, 9, 0, true, &udp(TUNNEL_PORT)), ToSwitchTunnel),
        ("and the next", v4_fragment(NODE, 17, 9, 3, false, &[0xa5; 24]), ToSwitchFragment),
        ("IPv6 behind hop-by-hop options", v6(NODE6, HOP_BY_HOP, &hop_by_hop), ToSwitchTunnel),
        ("a pod's IPv6", v6(POD6, 6, &tcp(80)), ToSwitchPod),
        ("SSH", v4(NODE, 6, &tcp(FAILSAFE_PORT), |_| {}), FailsafePassed),
        ("the node's own", v4(NODE, 17, &udp(PLAIN_PORT), |_| {}), Passed),
        ("ARP", ethernet(EtherType::ARP, &[0; 28]), Passed),
        ("a length that lies", lying, MalformedPassed),
        ("7 bytes of UDP", v4(NODE, 17, &udp(TUNNEL_PORT)[..7], |_| {}), MalformedPassed),
    ];
    rows
}

#[test]
fn what_bears_the_vlans_tag_is_judged_behind_it() {
    let mut rows = Vec::new();
    for (name, frame, counter) in frames() {
        rows.push((name, in_vlan(&frame), counter));
        let marked = tagged(EtherType::VLAN_TAGGED_FRAME, PRIORITY | VLAN, &frame);
        rows.push((name, marked, counter));
    }
    check_rows_of(uplink_in_vlan(), &rows);
}

#[test]
fn all_else_is_the_kernels() {
    use SteeringCounter::{OtherVlanPassed, Passed};
    let mut rows = Vec::new();
    for (name, frame, _) in frames() {
        rows.push((name, frame.clone(), OtherVlanPassed));
        for other in OTHERS {
            let other = tagged(EtherType::VLAN_TAGGED_FRAME, other, &frame);
            rows.push((name, other, OtherVlanPassed));
        }
        // A service tag, alone and before the customer's.
        for inner in [frame.clone(), in_vlan(&frame)] {
            let service = tagged(EtherType::PROVIDER_BRIDGING, VLAN, &inner);
            rows.push((name, service, OtherVlanPassed));
        }
        // A second tag of the same kind is what the tag is before, and no IP.
        rows.push((name, in_vlan(&in_vlan(&frame)), Passed));
    }
    check_rows_of(uplink_in_vlan(), &rows);
}

#[test]
fn a_frame_cut_short_in_or_behind_the_tag_is_the_kernels_to_judge() {
    use SteeringCounter::MalformedPassed;
    let mut rows = Vec::new();
    for frame in [
        v4(NODE, 17, &udp(TUNNEL_PORT), |_| {}),
        v6(NODE6, 17, &udp(TUNNEL_PORT)),
    ] {
        let whole = in_vlan(&frame);
        rows.extend((14..whole.len()).map(|length| ("cut", whole[..length].to_vec(), MalformedPassed)));
    }
    check_rows_of(uplink_in_vlan(), &rows);
}

#[test]
fn without_a_vlan_the_same_frames_are_as_before() {
    use SteeringCounter::Passed;
    let mut program = uplink_in_vlan();
    program.set_vlan(None).unwrap();
    let mut rows = frames();
    rows.extend(
        frames()
            .into_iter()
            .map(|(name, frame, _)| (name, in_vlan(&frame), Passed)),
    );
    check_rows_of(program, &rows);
}
