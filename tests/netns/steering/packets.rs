//! What the programs decide, packet by packet: each row is a frame and the one counter that moved. The
//! programs run in the kernel, but on no interface.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use etherparse::{EtherType, IpFragOffset, Ipv4Options};
use millrace_dataplane::xdp::{ProgramKind, SteeringAction, SteeringCounter, SteeringProgram};

use crate::frames::*;

/// The action that goes with a counter where the queue has a socket.
pub(crate) fn action_of(counter: SteeringCounter) -> SteeringAction {
    match counter {
        SteeringCounter::Passed
        | SteeringCounter::FailsafePassed
        | SteeringCounter::MalformedPassed
        | SteeringCounter::OtherVlanPassed => SteeringAction::ToKernel,
        SteeringCounter::ToSwitchTunnel
        | SteeringCounter::ToSwitchPod
        | SteeringCounter::ToSwitchFragment
        | SteeringCounter::ToSwitchService
        | SteeringCounter::ToSwitchNodePort
        | SteeringCounter::ToSwitchSnatReply
        | SteeringCounter::ToSwitchEchoReply
        | SteeringCounter::ToSwitchIcmpError
        | SteeringCounter::PortToSwitch => SteeringAction::ToSwitch,
        SteeringCounter::DroppedNoSocket | SteeringCounter::PortDroppedNoSocket => SteeringAction::Drop,
    }
}

/// Each row once with a socket and once without: what is not ours must not notice the difference.
fn check_rows(rows: &[(&str, Vec<u8>, SteeringCounter)]) {
    check_rows_of(loaded_uplink(), rows);
}

/// As [`check_rows`], with a program of its own.
pub(crate) fn check_rows_of(mut program: SteeringProgram, rows: &[(&str, Vec<u8>, SteeringCounter)]) {
    let socket = any_xdp_socket();
    program.register_socket(0, socket.as_fd()).unwrap();
    for (name, frame, counter) in rows {
        expect(&program, name, frame, action_of(*counter), *counter);
    }
    program.unregister_socket(0).unwrap();
    for (name, frame, counter) in rows {
        let without = match action_of(*counter) {
            SteeringAction::ToSwitch => SteeringCounter::DroppedNoSocket,
            _ => *counter,
        };
        expect(
            &program,
            &format!("{name}, no socket"),
            frame,
            action_of(without),
            without,
        );
    }
    assert_eq!(program.counters().unwrap().seen(), 2 * rows.len() as u64);
}

#[test]
fn ipv4_packets() {
    use SteeringCounter::{FailsafePassed, Passed, ToSwitchPod, ToSwitchTunnel};
    let other = Ipv4Addr::new(192, 0, 2, 9);
    let plain = |to: Ipv4Addr, protocol: u8, payload: Vec<u8>| v4(to, protocol, &payload, |_| {});
    let with_options = v4(NODE, 17, &udp(TUNNEL_PORT), |header| {
        header.options = Ipv4Options::try_from(&[1; 40][..]).unwrap();
        header.total_len = (header.header_len() + udp(TUNNEL_PORT).len()) as u16;
    });
    #[rustfmt::skip]
    let rows = [
        ("VXLAN", plain(NODE, 17, udp(TUNNEL_PORT)), ToSwitchTunnel),
        ("VXLAN on the other port", plain(NODE, 17, udp(OTHER_TUNNEL_PORT)), ToSwitchTunnel),
        ("VXLAN with 40 bytes of options", with_options, ToSwitchTunnel),
        ("VXLAN to the overlay address", plain(OVERLAY, 17, udp(TUNNEL_PORT)), ToSwitchTunnel),
        ("VXLAN to someone else", plain(other, 17, udp(TUNNEL_PORT)), Passed),
        ("VXLAN to a pod is a pod's packet", plain(POD, 17, udp(TUNNEL_PORT)), ToSwitchPod),
        ("UDP to another port", plain(NODE, 17, udp(PLAIN_PORT)), Passed),
        ("UDP to the port with its bytes swapped", plain(NODE, 17, udp(TUNNEL_PORT.swap_bytes())), Passed),
        ("TCP to the tunnel's port", plain(NODE, 6, tcp(TUNNEL_PORT)), Passed),
        ("SSH", plain(NODE, 6, tcp(FAILSAFE_PORT)), FailsafePassed),
        ("UDP to a fail-safe port", plain(NODE, 17, udp(FAILSAFE_PORT)), FailsafePassed),
        ("a fail-safe port of a pod", plain(POD, 6, tcp(FAILSAFE_PORT)), ToSwitchPod),
        ("a fail-safe port of someone else", plain(other, 6, tcp(FAILSAFE_PORT)), Passed),
        ("IPIP", plain(NODE, 4, vec![0x45; 40]), ToSwitchTunnel),
        ("IPIP with nothing inside", plain(NODE, 4, vec![]), ToSwitchTunnel),
        ("IPIP to someone else", plain(other, 4, vec![0x45; 40]), Passed),
        ("6in4", plain(NODE, 41, vec![0x60; 60]), Passed),
        ("GRE", plain(NODE, 47, vec![0; 40]), Passed),
        ("echo request", plain(NODE, 1, vec![8, 0, 0, 0, 0, 1, 0, 1]), Passed),
        ("ICMP cut short is for the kernel to judge", plain(NODE, 1, vec![8]), Passed),
        ("pod", plain(POD, 6, tcp(80)), ToSwitchPod),
        ("pod, nothing above IP", plain(POD, 59, vec![]), ToSwitchPod),
        ("last address of the pods' prefix", plain(Ipv4Addr::new(10, 244, 1, 255), 6, tcp(80)), ToSwitchPod),
        ("just below the prefix", plain(Ipv4Addr::new(10, 244, 0, 255), 6, tcp(80)), Passed),
        ("just above the prefix", plain(Ipv4Addr::new(10, 244, 2, 0), 6, tcp(80)), Passed),
        ("node's address inside the prefix", plain(OVERLAY, 6, tcp(80)), Passed),
        ("multicast", plain(Ipv4Addr::new(224, 0, 0, 5), 89, vec![2; 44]), Passed),
        ("broadcast", plain(Ipv4Addr::BROADCAST, 17, udp(68)), Passed),
    ];
    check_rows(&rows);
}

#[test]
fn ipv6_packets() {
    use SteeringCounter::{FailsafePassed, Passed, ToSwitchPod, ToSwitchTunnel};
    let vxlan = udp(TUNNEL_PORT);
    let chain = |headers: usize, last: &[u8]| {
        (1..headers).fold(options(17, 1, last), |rest, _| {
            options(DESTINATION_OPTIONS, 0, &rest)
        })
    };
    #[rustfmt::skip]
    let rows = [
        ("VXLAN", v6(NODE6, 17, &vxlan), ToSwitchTunnel),
        ("VXLAN to someone else", v6(PEER6, 17, &vxlan), Passed),
        ("VXLAN behind hop-by-hop options", v6(NODE6, HOP_BY_HOP, &options(17, 3, &vxlan)), ToSwitchTunnel),
        ("VXLAN behind 4 headers", v6(NODE6, DESTINATION_OPTIONS, &chain(4, &vxlan)), ToSwitchTunnel),
        ("VXLAN behind 5", v6(NODE6, DESTINATION_OPTIONS, &chain(5, &vxlan)), Passed),
        ("in an atomic fragment", v6(NODE6, FRAGMENT, &fragment(17, 0, false, 9, &vxlan)), ToSwitchTunnel),
        ("behind a routing header", v6(NODE6, ROUTING, &options(17, 2, &vxlan)), Passed),
        ("UDP to another port", v6(NODE6, 17, &udp(PLAIN_PORT)), Passed),
        ("SSH", v6(NODE6, 6, &tcp(FAILSAFE_PORT)), FailsafePassed),
        ("4in6 is the node's own", v6(NODE6, 4, &[0x45; 40]), Passed),
        ("neighbour solicitation", v6(NODE6, 58, &[135, 0, 0, 0, 0, 0, 0, 0]), Passed),
        ("pod", v6(POD6, 6, &tcp(80)), ToSwitchPod),
        ("pod behind a routing header", v6(POD6, ROUTING, &options(6, 2, &tcp(80))), ToSwitchPod),
        ("outside the pods' prefix", v6(Ipv6Addr::new(0xfd00, 1, 0, 1, 0, 0, 0, 7), 6, &tcp(80)), Passed),
        ("multicast", v6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 58, &[134; 16]), Passed),
    ];
    check_rows(&rows);
}

#[test]
fn other_ether_types_are_the_kernels() {
    use SteeringCounter::Passed;
    let vxlan = &v4(NODE, 17, &udp(TUNNEL_PORT), |_| {})[14..].to_vec();
    let tagged = |tag: EtherType| {
        let mut payload = vec![0, 100, 0x08, 0x00];
        payload.extend_from_slice(vxlan);
        ethernet(tag, &payload)
    };
    #[rustfmt::skip]
    let rows = [
        ("ARP", ethernet(EtherType::ARP, &[0; 28]), Passed),
        ("VLAN", tagged(EtherType::VLAN_TAGGED_FRAME), Passed),
        ("QinQ", tagged(EtherType::PROVIDER_BRIDGING), Passed),
        ("LLDP", ethernet(EtherType(0x88cc), &[0; 46]), Passed),
        ("nothing after the header", ethernet(EtherType(0x88b5), &[]), Passed),
        ("802.3 length in place of a type", ethernet(EtherType(46), vxlan), Passed),
    ];
    check_rows(&rows);
}

#[test]
fn truncated_and_lying_headers_are_the_kernels_to_judge() {
    use SteeringCounter::{MalformedPassed, Passed, ToSwitchPod, ToSwitchTunnel};
    let vxlan = v4(NODE, 17, &udp(TUNNEL_PORT), |_| {});
    let edited = |frame: &[u8], offset: usize, value: u8| {
        let mut frame = frame.to_vec();
        frame[offset] = value;
        frame
    };
    let vxlan6 = v6(NODE6, 17, &udp(TUNNEL_PORT));
    let padded = |payload_len: usize| {
        let mut frame = v4(NODE, 17, &udp(TUNNEL_PORT)[..payload_len], |_| {});
        frame.resize(60, 0);
        frame
    };
    let mut options_past_the_end = v6(NODE6, HOP_BY_HOP, &options(17, 1, &udp(TUNNEL_PORT)));
    options_past_the_end[18..20].copy_from_slice(&8_u16.to_be_bytes());
    #[rustfmt::skip]
    let mut rows = vec![
        ("extension header past the payload, in the padding", options_past_the_end, MalformedPassed),
        ("version 6 in IPv4", edited(&vxlan, 14, 0x65), MalformedPassed),
        ("version 4 in IPv6", edited(&vxlan6, 14, 0x40), MalformedPassed),
        ("header of 16 bytes", edited(&vxlan, 14, 0x44), MalformedPassed),
        ("total length below the header's", edited(&edited(&vxlan, 16, 0), 17, 19), MalformedPassed),
        ("total length beyond the frame", edited(&vxlan, 16, 1), MalformedPassed),
        ("options beyond the frame", edited(&v4(NODE, 17, &[0; 8], |_| {}), 14, 0x4f), MalformedPassed),
        ("7 bytes of UDP", v4(NODE, 17, &udp(TUNNEL_PORT)[..7], |_| {}), MalformedPassed),
        ("7 bytes of UDP, padded", padded(7), MalformedPassed),
        ("8 bytes of UDP, padded", padded(8), ToSwitchTunnel),
        ("7 bytes of TCP", v4(NODE, 6, &tcp(80)[..7], |_| {}), MalformedPassed),
        ("7 bytes of UDP to someone else", v4(PEER, 17, &udp(TUNNEL_PORT)[..7], |_| {}), Passed),
        ("7 bytes of UDP to a pod: the switch judges", v4(POD, 17, &udp(80)[..7], |_| {}), ToSwitchPod),
        ("payload length beyond the frame", edited(&vxlan6, 18, 1), MalformedPassed),
        ("to a mapped address", v6(NODE.to_ipv6_mapped(), 17, &udp(TUNNEL_PORT)), MalformedPassed),
        ("7 bytes of UDP in IPv6", v6(NODE6, 17, &udp(TUNNEL_PORT)[..7]), MalformedPassed),
        ("extension header cut", v6(NODE6, HOP_BY_HOP, &[17, 0, 0, 0, 0, 0, 0]), MalformedPassed),
        ("extension cut to 8", v6(NODE6, HOP_BY_HOP, &[17, 1, 0, 0, 0, 0, 0, 0]), MalformedPassed),
        ("extension of 2 KiB", v6(NODE6, HOP_BY_HOP, &options(17, 255, &[])[..64]), MalformedPassed),
    ];
    for (name, frame, first) in [("IPv4 header cut", &vxlan, 14), ("IPv6 header cut", &vxlan6, 14)] {
        let header_len = if name.starts_with("IPv4") { 20 } else { 40 };
        rows.extend(
            (first..first + header_len).map(|length| (name, frame[..length].to_vec(), MalformedPassed)),
        );
    }
    check_rows(&rows);
}

#[test]
fn later_fragments_follow_the_first() {
    use SteeringCounter::{FailsafePassed, Passed, ToSwitchFragment, ToSwitchPod, ToSwitchTunnel};
    let first = |id: u16, port: u16| v4_fragment(NODE, 17, id, 0, true, &udp(port));
    let later = |id: u16, more: bool| v4_fragment(NODE, 17, id, 3, more, &[0xa5; 24]);
    let other_source = v4(NODE, 17, &[0xa5; 24], |header| {
        header.identification = 1;
        header.fragment_offset = IpFragOffset::try_new(3).unwrap();
        header.source = [192, 0, 2, 3];
    });
    let first6 = |id: u32, port: u16| v6(NODE6, FRAGMENT, &fragment(17, 0, true, id, &udp(port)));
    let later6 = |id: u32| v6(NODE6, FRAGMENT, &fragment(17, 3, false, id, &[0xa5; 24]));
    #[rustfmt::skip]
    let rows = [
        ("later fragment before any first", later(1, false), Passed),
        ("first fragment, ours", first(1, TUNNEL_PORT), ToSwitchTunnel),
        ("second", later(1, true), ToSwitchFragment),
        ("last", later(1, false), ToSwitchFragment),
        ("of another packet", later(2, false), Passed),
        ("of another protocol", v4_fragment(NODE, 6, 1, 3, false, &[0xa5; 24]), Passed),
        ("of another sender", other_source, Passed),
        ("to someone else", v4_fragment(PEER, 17, 1, 3, false, &[0xa5; 24]), Passed),
        ("a whole packet with that identifier", first(1, PLAIN_PORT), Passed),
        ("the identifier is the node's again", later(1, false), Passed),
        ("ours again", first(1, TUNNEL_PORT), ToSwitchTunnel),
        ("a fail-safe first fragment", first(1, FAILSAFE_PORT), FailsafePassed),
        ("and what follows it", later(1, false), Passed),
        ("first fragment, not ours", first(3, PLAIN_PORT), Passed),
        ("and its second", later(3, false), Passed),
        ("IPIP, first", v4_fragment(NODE, 4, 5, 0, true, &[0x45; 24]), ToSwitchTunnel),
        ("IPIP, last alone", v4_fragment(NODE, 4, 6, 3, false, &[0x45; 24]), ToSwitchTunnel),
        ("pod, first", v4_fragment(POD, 17, 7, 0, true, &udp(80)), ToSwitchPod),
        ("pod, last alone", v4_fragment(POD, 17, 8, 3, false, &[0xa5; 24]), ToSwitchPod),
        ("IPv6, later before first", later6(0x10001), Passed),
        ("IPv6, first", first6(0x10001, TUNNEL_PORT), ToSwitchTunnel),
        ("IPv6, second", later6(0x10001), ToSwitchFragment),
        ("IPv6, identifier with the same lower half", later6(1), Passed),
        ("IPv6, first, not ours", first6(0x10001, PLAIN_PORT), Passed),
        ("IPv6, and what follows it", later6(0x10001), Passed),
    ];
    let mut program = loaded_uplink();
    let socket = any_xdp_socket();
    program.register_socket(0, socket.as_fd()).unwrap();
    for (name, frame, counter) in &rows {
        expect(&program, name, frame, action_of(*counter), *counter);
    }
}

#[test]
fn fragments_that_are_ours_are_dropped_without_a_socket() {
    let program = loaded_uplink();
    let first = v4_fragment(NODE, 17, 1, 0, true, &udp(TUNNEL_PORT));
    let later = v4_fragment(NODE, 17, 1, 3, false, &[0xa5; 24]);
    expect(
        &program,
        "first",
        &first,
        SteeringAction::Drop,
        SteeringCounter::DroppedNoSocket,
    );
    expect(
        &program,
        "later",
        &later,
        SteeringAction::Drop,
        SteeringCounter::DroppedNoSocket,
    );
}

#[test]
fn fragments_are_forgotten_in_time() {
    let program = loaded_uplink();
    let later = v4_fragment(NODE, 17, 1, 3, false, &[0xa5; 24]);
    program
        .dry_run(&v4_fragment(NODE, 17, 1, 0, true, &udp(TUNNEL_PORT)))
        .unwrap();
    expect(
        &program,
        "at once",
        &later,
        SteeringAction::Drop,
        SteeringCounter::DroppedNoSocket,
    );
    std::thread::sleep(Duration::from_millis(5200));
    expect(
        &program,
        "after its life",
        &later,
        SteeringAction::ToKernel,
        SteeringCounter::Passed,
    );
}

#[test]
fn remembered_fragments_are_bounded() {
    let program = loaded_uplink();
    let first = |id: u32| v6(NODE6, FRAGMENT, &fragment(17, 0, true, id, &udp(TUNNEL_PORT)));
    let later = |id: u32| v6(NODE6, FRAGMENT, &fragment(17, 3, false, id, &[0xa5; 24]));
    let packets = 20_000;
    for id in 0..packets {
        program.dry_run(&first(id)).unwrap();
    }
    assert_eq!(
        program.dry_run(&later(packets - 1)).unwrap(),
        SteeringAction::Drop,
        "the latest is remembered"
    );
    assert_eq!(
        program.dry_run(&later(0)).unwrap(),
        SteeringAction::ToKernel,
        "the oldest had to make room"
    );
}

#[test]
fn ports_hand_over_everything_or_drop_it() {
    let frames = [
        ethernet(EtherType::ARP, &[0; 28]),
        v4(NODE, 6, &tcp(FAILSAFE_PORT), |_| {}),
        v6(NODE6, 58, &[135; 24]),
        ethernet(EtherType(0x88cc), &[]),
    ];
    let mut program = SteeringProgram::load(ProgramKind::Port, 4).unwrap();
    for frame in &frames {
        let counter = SteeringCounter::PortDroppedNoSocket;
        expect(&program, "no socket", frame, SteeringAction::Drop, counter);
    }
    let socket = any_xdp_socket();
    program.register_socket(0, socket.as_fd()).unwrap();
    for frame in &frames {
        expect(
            &program,
            "socket",
            frame,
            SteeringAction::ToSwitch,
            SteeringCounter::PortToSwitch,
        );
    }
    drop(socket);
    // The kernel tears a socket down after a grace period of its own.
    let deadline = Instant::now() + Duration::from_secs(5);
    while program.dry_run(&frames[0]).unwrap() != SteeringAction::Drop && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let counter = SteeringCounter::PortDroppedNoSocket;
    expect(
        &program,
        "a closed socket leaves by itself",
        &frames[0],
        SteeringAction::Drop,
        counter,
    );
}
