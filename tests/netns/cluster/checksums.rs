//! Checksums that a veth left for hardware to finish never go on wrong, wherever they come from and in either XDP mode.

use std::net::SocketAddrV4;
use std::time::Duration;

use etherparse::{IpNumber, Ipv4HeaderSlice, TcpSlice, UdpSlice};
use millrace_tools::lab::plan::{UPLINK, VXLAN_PORT};
use millrace_tools::lab::traffic::{Ping, UdpEcho, UdpExchange, ping, udp_exchange};
use millrace_tools::lab::{Lab, MillraceOptions, Namespace, Offloads, POD_INTERFACE, Topology, Wire};

use crate::frames::{ETHERNET, Ear, TUNNEL};
use crate::pulse::{Pulse, transfer};
use crate::rig::{PAIR, address, assert_reaches, daemon, finish, lab, node, pod, port_of, side_by_side};

const HOST_PORT: &str = "millrace0";
/// Bytes of each transfer each way: enough to fill windows and segments.
const BYTES: usize = 2 << 20;

/// Whether the TCP or UDP checksum of an IPv4 packet is right; other packets have none to be wrong.
fn is_right(packet: &[u8]) -> bool {
    let ip = Ipv4HeaderSlice::from_slice(packet).unwrap().to_header();
    let payload = &packet[ip.header_len()..usize::from(ip.total_len)];
    match ip.protocol {
        IpNumber::TCP => {
            let segment = TcpSlice::from_slice(payload).unwrap();
            segment.checksum() == segment.calc_checksum_ipv4(ip.source, ip.destination).unwrap()
        }
        IpNumber::UDP => {
            let datagram = UdpSlice::from_slice(payload).unwrap().to_header();
            let expected = datagram
                .calc_checksum_ipv4_raw(ip.source, ip.destination, &payload[8..])
                .unwrap();
            datagram.checksum == 0 || datagram.checksum == expected
        }
        _ => true,
    }
}

/// How many of the packets have a right checksum, and how many a wrong one.
fn judge<'a>(packets: impl Iterator<Item = &'a [u8]>) -> (usize, usize) {
    let judged: Vec<bool> = packets.map(is_right).collect();
    let right = judged.iter().filter(|right| **right).count();
    (right, judged.len() - right)
}

/// The two ends of a conversation, and what the switch sends for it.
struct Ends<'a> {
    name: String,
    from: &'a Namespace,
    to: &'a Namespace,
    address: std::net::Ipv4Addr,
}

/// Every way through the switch.
fn ends(lab: &Lab) -> Vec<Ends<'_>> {
    let end = |name: &str| (pod(lab, name), address(lab, name));
    let plan = |name: &str| lab.node(name).unwrap().plan();
    let rows = [
        ("pod to a stock node's pod", pod(lab, "pod-a1"), end("pod-b1")),
        ("a stock node's pod to pod", pod(lab, "pod-b1"), end("pod-a1")),
        ("pod to pod beside it", pod(lab, "pod-a1"), end("pod-a2")),
        ("node to its pod", node(lab, "node-a"), end("pod-a1")),
        ("node to a stock node's pod", node(lab, "node-a"), end("pod-b1")),
        (
            "pod to its node",
            pod(lab, "pod-a1"),
            (node(lab, "node-a"), plan("node-a").tunnel_address()),
        ),
        ("stock node to pod", node(lab, "node-b"), end("pod-a1")),
        (
            "a stock node's pod to the node",
            pod(lab, "pod-b1"),
            (node(lab, "node-a"), plan("node-a").tunnel_address()),
        ),
    ];
    rows.into_iter()
        .map(|(name, from, (to, address))| Ends {
            name: name.to_owned(),
            from,
            to,
            address,
        })
        .collect()
}

/// TCP both ways from the first segment at full size, UDP of all sizes, pings of the full size.
fn talk(mode: &str, lab: &Lab) {
    for Ends {
        name,
        from,
        to,
        address,
    } in ends(lab)
    {
        let full = ping(from, address.into(), &Ping::full_size(1450)).unwrap();
        assert!(
            full.received == full.sent && full.complaints.is_empty(),
            "{mode}, {name}: {full:?}"
        );
        transfer(from, to, SocketAddrV4::new(address, 5201), BYTES);
        let echo = UdpEcho::start(to, address.into()).unwrap();
        let exchange = udp_exchange(from, echo.address(), &UdpExchange::up_to(1450)).unwrap();
        assert!(exchange.is_whole(), "{mode}, {name}: {exchange:?}");
        // In fragments: those but the first have no ports, and all go the same way.
        let large = UdpExchange {
            count: 20,
            window: 1,
            ..UdpExchange::up_to(8000)
        };
        let exchange = udp_exchange(from, echo.address(), &large).unwrap();
        assert!(exchange.is_whole(), "{mode}, {name}, in fragments: {exchange:?}");
    }
}

/// The first segments of a connection are not lost and asked for again: its first full window comes whole.
fn first_segments(mode: &str, lab: &Lab) {
    for (from, to) in [("pod-a1", "pod-b1"), ("pod-b1", "pod-a1")] {
        let at = SocketAddrV4::new(address(lab, to), 7000);
        let machine = Pulse::of_machine(pod(lab, from));
        let pulse = Pulse::tcp(pod(lab, from), pod(lab, to), at);
        pulse.await_answers("the first requests", 20);
        let (beats, machine) = (pulse.end(), machine.end());
        // A lost segment would stand still for TCP's least retransmission time, 200 ms.
        let bound = Duration::from_millis(190) + machine.longest_silence;
        assert!(
            beats.longest_silence < bound,
            "{mode}, {from} -> {to}: {beats:?}, {machine:?}"
        );
    }
}

fn offloads(namespace: &Namespace, interface: &str, settings: &[&str]) {
    let line = [&["-K", interface], settings].concat();
    namespace.run("ethtool", &line).unwrap();
}

#[test]
fn half_computed_checksums_are_finished_in_either_mode() {
    let _turn = side_by_side();
    for mode in ["native", "generic"] {
        let lab = lab(
            "checksums",
            &Topology {
                pods_per_node: 2,
                wire: Wire {
                    offloads: Offloads::On,
                    ..Wire::default()
                },
                millrace: MillraceOptions {
                    xdp_mode: mode.to_owned(),
                    ..MillraceOptions::default()
                },
                ..Topology::of(&PAIR)
            },
        );
        if mode == "generic" {
            // No NIC hands over segments merged beyond the MTU once receive merging is off; only a veth's other end does,
            // in this mode. Whole segments with half checksums are left.
            for (namespace, interface) in wires(&lab) {
                offloads(namespace, interface, &["tso", "off", "gso", "off"]);
            }
        }
        // Attaching turned transmit offloads off in the pod and on the host port. One may turn them on again.
        let features = pod(&lab, "pod-a1")
            .run("ethtool", &["-k", POD_INTERFACE])
            .unwrap();
        assert!(features.contains("tx-checksumming: off"), "{features}");
        offloads(pod(&lab, "pod-a2"), POD_INTERFACE, &["tx", "on"]);
        assert_reaches(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
        first_segments(mode, &lab);
        talk(mode, &lab);
        wrong_sums_come_and_right_ones_go(mode, &lab);
        finish(lab);
    }
}

/// Both ends of node-a's and node-b's wires.
fn wires(lab: &Lab) -> [(&Namespace, &str); 4] {
    let rack = lab.switch().namespace();
    [
        (rack, "node-a"),
        (rack, "node-b"),
        (node(lab, "node-a"), UPLINK),
        (node(lab, "node-b"), UPLINK),
    ]
}

/// Looks at the packets themselves: at what is handed to the switch, and at what it hands on.
fn wrong_sums_come_and_right_ones_go(mode: &str, lab: &Lab) {
    let rack = lab.switch().namespace();
    let tunnelled = |from: &str| format!("udp port {VXLAN_PORT} and src host 192.0.2.{from}");
    let inner = |frames: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        frames
            .into_iter()
            .map(|f| f[TUNNEL + ETHERNET..].to_vec())
            .collect()
    };
    let bare = |frames: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        frames.into_iter().map(|f| f[ETHERNET..].to_vec()).collect()
    };
    let sums = |packets: &[Vec<u8>]| judge(packets.iter().map(Vec::as_slice));
    let exchange = |from: &Namespace, to: &Namespace, address: std::net::Ipv4Addr| {
        let echo = UdpEcho::start(to, address.into()).unwrap();
        let what = UdpExchange {
            count: 50,
            ..UdpExchange::up_to(1450)
        };
        assert!(
            udp_exchange(from, echo.address(), &what).unwrap().is_whole(),
            "{mode}"
        );
        transfer(from, to, SocketAddrV4::new(address, 5201), BYTES);
    };

    // Inside a stock node's tunnel: half computed as it leaves the rack's switch for node-a, whole in the pod.
    let mut handed = Ear::both_ways(rack, "node-a", &tunnelled("2"));
    let mut sent = Ear::incoming(rack, "node-a", &tunnelled("1"));
    let mut got = Ear::incoming(pod(lab, "pod-a1"), POD_INTERFACE, "ip");
    exchange(pod(lab, "pod-b1"), pod(lab, "pod-a1"), address(lab, "pod-a1"));
    let (handed, sent, got) = (inner(handed.rest()), inner(sent.rest()), bare(got.rest()));
    assert!(
        sums(&handed).1 > 100,
        "{mode}: nothing half computed came through the tunnel: {:?}",
        sums(&handed)
    );
    for (who, packets) in [("the pod", &got), ("the stock node", &sent)] {
        let (right, wrong) = sums(packets);
        assert!(
            right > 100 && wrong == 0,
            "{mode}: {who} got {right} right and {wrong} wrong checksums"
        );
    }

    // From a pod that has turned the offload on again.
    let interface = port_of(daemon(lab, "node-a"), "lab/pod-a2").unwrap()["interface"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(interface.starts_with("mr"));
    let mut handed = Ear::both_ways(
        pod(lab, "pod-a2"),
        POD_INTERFACE,
        &format!("ip src host {}", address(lab, "pod-a2")),
    );
    let mut sent = Ear::incoming(rack, "node-a", &tunnelled("1"));
    let mut got = Ear::incoming(pod(lab, "pod-a1"), POD_INTERFACE, "ip");
    exchange(pod(lab, "pod-a2"), pod(lab, "pod-b1"), address(lab, "pod-b1"));
    exchange(pod(lab, "pod-a2"), pod(lab, "pod-a1"), address(lab, "pod-a1"));
    let (handed, sent, got) = (bare(handed.rest()), inner(sent.rest()), bare(got.rest()));
    assert!(
        sums(&handed).1 > 100,
        "{mode}: the pod finished its checksums itself: {:?}",
        sums(&handed)
    );
    for (who, packets) in [("the pod beside", &got), ("the stock node", &sent)] {
        let (right, wrong) = sums(packets);
        assert!(
            right > 100 && wrong == 0,
            "{mode}: {who} got {right} right and {wrong} wrong checksums"
        );
    }

    // From the host, which has turned it on again as well.
    offloads(node(lab, "node-a"), HOST_PORT, &["tx", "on"]);
    let own = lab.node("node-a").unwrap().plan().tunnel_address();
    let mut handed = Ear::both_ways(node(lab, "node-a"), HOST_PORT, &format!("ip src host {own}"));
    let mut sent = Ear::incoming(rack, "node-a", &tunnelled("1"));
    exchange(node(lab, "node-a"), pod(lab, "pod-b1"), address(lab, "pod-b1"));
    let (handed, sent) = (bare(handed.rest()), inner(sent.rest()));
    assert!(
        sums(&handed).1 > 50,
        "{mode}: the host finished its checksums itself: {:?}",
        sums(&handed)
    );
    let (right, wrong) = sums(&sent);
    assert!(
        right > 50 && wrong == 0,
        "{mode}: the stock node got {right} right and {wrong} wrong checksums"
    );
}
