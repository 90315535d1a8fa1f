//! Byte compatibility: what a Millrace node sends and hands over for a packet, against what the kernel of a stock node
//! in its place sends and hands over for the same packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{IpDscp, IpEcn, IpFragOffset, IpNumber, TcpOptionElement};
use millrace_tools::lab::plan::{UPLINK, VNI, VXLAN_PORT};
use millrace_tools::lab::{Lab, NodeKind, POD_INTERFACE, Topology};

use crate::frames::{
    BURST, ETHERNET, Ear, IPV4, TUNNEL, echo, ethernet, hex, ipv4, mac_of, mac_of_neighbour, send, tcp, udp,
    vxlan,
};
use crate::pulse::transfer;
use crate::rig::{PAIR, address, assert_reaches, finish, lab, node, pod, side_by_side, underlay};

/// Where the inner packet's identification stands that tells the rows apart.
const IDENTIFICATION: usize = 4;
/// Fields of the outer headers that two senders choose each for themselves, or that depend on those.
const MASKED: [std::ops::Range<usize>; 4] = [
    ETHERNET + 4..ETHERNET + 6,   // identification
    ETHERNET + 10..ETHERNET + 12, // header checksum, of the identification among others
    34..36,                       // UDP source port
    40..42,                       // UDP checksum, which a tunnel may leave out
];
/// The last identifications, for what is not compared.
const FLOW_IDS: u16 = 0x7000;

/// Packets of every shape a tunnel carries. `id` marks the row.
fn packets(from: Ipv4Addr, to: Ipv4Addr) -> Vec<(&'static str, Vec<u8>)> {
    let (source, destination) = (SocketAddrV4::new(from, 40_000), SocketAddrV4::new(to, 5_001));
    let datagram = |length: usize| udp(source, destination, &vec![0xa5; length]);
    // Of a connection each: what is no part of one that has begun would not be let through.
    let segment = |source_port: u16, length: usize| {
        let source = SocketAddrV4::new(from, source_port);
        tcp(source, destination, &vec![0x5a; length], |header| {
            header.ack = true
        })
    };
    let syn = tcp(source, destination, &[], |header| {
        header.syn = true;
        let options = [TcpOptionElement::MaximumSegmentSize(1410), TcpOptionElement::Noop];
        header.set_options(&options).unwrap();
    });
    let mut without_checksum = datagram(99);
    without_checksum[6..8].fill(0);
    let rows: Vec<(_, IpNumber, Vec<u8>, fn(&mut etherparse::Ipv4Header))> = vec![
        ("ping", IpNumber::ICMP, echo(7, &[1; 56]), |_| {}),
        ("ping, don't fragment", IpNumber::ICMP, echo(7, &[1; 56]), |ip| {
            ip.dont_fragment = true
        }),
        (
            "ping that fills the MTU",
            IpNumber::ICMP,
            echo(7, &[2; 1422]),
            |ip| ip.dont_fragment = true,
        ),
        ("UDP without payload", IpNumber::UDP, datagram(0), |_| {}),
        ("UDP of an odd length", IpNumber::UDP, datagram(3), |_| {}),
        ("UDP that fills the MTU", IpNumber::UDP, datagram(1422), |_| {}),
        ("UDP without checksum", IpNumber::UDP, without_checksum, |_| {}),
        ("TCP SYN with options", IpNumber::TCP, syn, |ip| {
            ip.dont_fragment = true
        }),
        (
            "TCP segment that fills the MTU",
            IpNumber::TCP,
            segment(40_001, 1410),
            |ip| ip.dont_fragment = true,
        ),
        ("expedited forwarding", IpNumber::UDP, datagram(9), |ip| {
            ip.dscp = IpDscp::try_new(46).unwrap()
        }),
        ("ECT(0)", IpNumber::TCP, segment(40_002, 9), |ip| {
            ip.ecn = IpEcn::TWO
        }),
        ("ECT(1)", IpNumber::TCP, segment(40_003, 9), |ip| {
            ip.ecn = IpEcn::ONE
        }),
        ("first fragment", IpNumber::UDP, datagram(1200), |ip| {
            ip.more_fragments = true
        }),
        ("later fragment", IpNumber::UDP, vec![3; 64], |ip| {
            ip.fragment_offset = IpFragOffset::try_new(151).unwrap()
        }),
        ("last hop but two", IpNumber::UDP, datagram(9), |ip| {
            ip.time_to_live = 3
        }),
        ("largest TTL", IpNumber::UDP, datagram(9), |ip| {
            ip.time_to_live = 255
        }),
        ("IP options", IpNumber::UDP, datagram(9), |ip| {
            ip.options = [1, 1, 1, 0].into()
        }),
        ("another protocol", IpNumber(132), vec![7; 33], |_| {}),
    ];
    let numbered = (1..).zip(rows);
    let packet = |(id, (name, protocol, payload, edit)): (u16, (_, _, Vec<u8>, fn(&mut _)))| {
        let packet = ipv4(protocol, from, to, &payload, |ip| {
            ip.identification = id;
            edit(ip);
        });
        (name, packet)
    };
    numbered.map(packet).collect()
}

/// The identification of an IP packet.
fn id_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[IDENTIFICATION], packet[IDENTIFICATION + 1]])
}

/// The packets as frames from a pod to its gateway.
fn from_pod(lab: &Lab, name: &str, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (namespace, gateway) = (pod(lab, name), lab.node(&home(name)).unwrap().plan().gateway());
    let (to, from) = (
        mac_of_neighbour(namespace, gateway),
        mac_of(namespace, POD_INTERFACE),
    );
    packets
        .iter()
        .map(|packet| ethernet(to, from, IPV4, packet))
        .collect()
}

/// The node of a pod: `pod-a1` is on `node-a`.
fn home(pod: &str) -> String {
    format!("node-{}", &pod[4..5])
}

/// Whether a frame holds a piece of an IPv4 packet: more follow, or it is not the first.
fn is_piece(frame: &[u8]) -> bool {
    let [flags, offset] = [frame[ETHERNET + 6], frame[ETHERNET + 7]];
    flags & 0x3f != 0 || offset != 0
}

/// Sends packets from one pod to the other, twice each; pieces once, since a piece that says what another has said is
/// dropped. Returns, by the inner identification, what its node sent on the
/// underlay and what the other pod got.
fn carry(
    lab: &Lab,
    from: &str,
    to: &str,
    packets: &[Vec<u8>],
) -> (BTreeMap<u16, Vec<Vec<u8>>>, BTreeMap<u16, Vec<u8>>) {
    assert_reaches(pod(lab, from), address(lab, to));
    let tunnelled = format!(
        "udp dst port {VXLAN_PORT} and src host {}",
        underlay(lab, &home(from))
    );
    let mut rack = Ear::incoming(lab.switch().namespace(), &home(from), &tunnelled);
    let arriving = format!("ip src host {}", address(lab, from));
    let mut end = Ear::incoming(pod(lab, to), POD_INTERFACE, &arriving);
    let frames = from_pod(lab, from, packets);
    let mut sent: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    let mut got = BTreeMap::new();
    let again: Vec<Vec<u8>> = frames.iter().filter(|frame| !is_piece(frame)).cloned().collect();
    for few in frames.chunks(BURST).chain(again.chunks(BURST)) {
        send(pod(lab, from), POD_INTERFACE, few);
        for frame in rack.hear(few.len()) {
            sent.entry(id_of(&frame[TUNNEL + ETHERNET..]))
                .or_default()
                .push(frame);
        }
        let heard = end.hear(few.len()).into_iter();
        got.extend(heard.map(|frame| (id_of(&frame[ETHERNET..]), frame)));
    }
    (sent, got)
}

/// An outer frame with what two senders may choose put out of sight.
fn masked(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    MASKED.into_iter().for_each(|range| frame[range].fill(0));
    frame
}

fn source_port(outer: &[u8]) -> u16 {
    u16::from_be_bytes([outer[34], outer[35]])
}

/// Whether the checksum of the IPv4 header at the start of these bytes is right.
fn has_good_header(packet: &[u8]) -> bool {
    let header = etherparse::Ipv4HeaderSlice::from_slice(packet)
        .unwrap()
        .to_header();
    header.header_checksum == header.calc_header_checksum()
}

#[test]
fn millrace_sends_and_delivers_what_the_kernel_does() {
    let _turn = side_by_side();
    let one_pod = |kinds: &[NodeKind]| Topology {
        pods_per_node: 1,
        ..Topology::of(kinds)
    };
    let mixed = lab("wire-mixed", &one_pod(&PAIR));
    let stock = lab("wire-stock", &one_pod(&[NodeKind::Stock, NodeKind::Stock]));
    for (from, to) in [("pod-a1", "pod-b1"), ("pod-b1", "pod-a1")] {
        let (here, there) = (address(&mixed, from), address(&mixed, to));
        let rows = packets(here, there);
        let bare: Vec<Vec<u8>> = rows.iter().map(|(_, packet)| packet.clone()).collect();
        let (sent, got) = carry(&mixed, from, to, &bare);
        let (expected_sent, expected_got) = carry(&stock, from, to, &bare);
        for (name, packet) in &rows {
            let id = id_of(packet);
            let (ours, kernels) = (&sent[&id], &expected_sent[&id]);
            for (ours, kernels) in ours.iter().zip(kernels) {
                let (ours, kernels) = (masked(ours), masked(kernels));
                assert!(
                    ours == kernels,
                    "{from}: {name}\nours\n{}kernel's\n{}",
                    hex(&ours),
                    hex(&kernels)
                );
            }
            assert!(
                ours.iter().all(|frame| has_good_header(&frame[ETHERNET..])),
                "{from}: {name}"
            );
            let ports: BTreeSet<u16> = ours.iter().map(|frame| source_port(frame)).collect();
            assert_eq!(
                ports.len(),
                1,
                "{from}: one flow, several source ports: {name} {ports:?}"
            );
            let (ours, kernels) = (&got[&id], &expected_got[&id]);
            assert_eq!(
                hex(&ours[ETHERNET..]),
                hex(&kernels[ETHERNET..]),
                "{name}, as {to} got it"
            );
            assert_eq!(ours[12..14], IPV4.to_be_bytes());
        }
    }
    // Congestion that a router on the underlay reports reaches the pod, by the kernel's own judgement of all 16 cases.
    assert_eq!(
        congestion(&mixed),
        congestion(&stock),
        "rows: inner ECN, columns: outer ECN, 9: dropped"
    );
    finish(mixed);
    finish(stock);
}

/// The ECN field that pod-a1 gets for every inner and outer one that node-b sends; 9 where it gets nothing.
fn congestion(lab: &Lab) -> [[u8; 4]; 4] {
    let (here, there) = (
        lab.node("node-b").unwrap().plan(),
        lab.node("node-a").unwrap().plan(),
    );
    let (from, to) = (address(lab, "pod-b1"), address(lab, "pod-a1"));
    let mut frames = Vec::new();
    for (inner, outer) in (0..4).flat_map(|inner| (0..4).map(move |outer| (inner, outer))) {
        let payload = udp(
            SocketAddrV4::new(from, 40_000),
            SocketAddrV4::new(to, 9),
            &[inner * 4 + outer],
        );
        let packet = ipv4(IpNumber::UDP, from, to, &payload, |ip| {
            ip.ecn = IpEcn::try_new(inner).unwrap()
        });
        let tunnelled = vxlan(VNI, &ethernet(there.vtep_mac(), here.vtep_mac(), IPV4, &packet));
        let ends = [here, there].map(|plan| SocketAddrV4::new(plan.underlay_address(), VXLAN_PORT));
        let datagram = udp(ends[0], ends[1], &tunnelled);
        let packet = ipv4(IpNumber::UDP, *ends[0].ip(), *ends[1].ip(), &datagram, |ip| {
            ip.ecn = IpEcn::try_new(outer).unwrap();
        });
        frames.push(ethernet(there.uplink_mac(), here.uplink_mac(), IPV4, &packet));
    }
    let mut ear = Ear::incoming(pod(lab, "pod-a1"), POD_INTERFACE, "udp dst port 9");
    send(node(lab, "node-b"), UPLINK, &frames);
    let mut seen = [[9; 4]; 4];
    for frame in ear.rest() {
        let row = usize::from(frame[ETHERNET + 28]);
        seen[row / 4][row % 4] = frame[ETHERNET + 1] & 3;
    }
    seen
}

#[test]
fn source_ports_keep_to_their_flow_and_to_the_kernels_range() {
    let _turn = side_by_side();
    let lab = crate::rig::pair("wire-ports", 1);
    let (from, to) = (address(&lab, "pod-a1"), address(&lab, "pod-b1"));
    let range = node(&lab, "node-b").get("ipv4/ip_local_port_range").unwrap();
    let mut range = range.split_whitespace().map(|word| word.parse::<u16>().unwrap());
    let range = range.next().unwrap()..=range.next().unwrap();
    let flows = 200;
    let packets: Vec<Vec<u8>> = (0..flows)
        .map(|flow| {
            let payload = udp(
                SocketAddrV4::new(from, 10_000 + flow),
                SocketAddrV4::new(to, 9),
                &[0; 9],
            );
            ipv4(IpNumber::UDP, from, to, &payload, |ip| {
                ip.identification = FLOW_IDS + flow
            })
        })
        .collect();
    let (sent, _) = carry(&lab, "pod-a1", "pod-b1", &packets);
    let ports: Vec<BTreeSet<u16>> = sent
        .values()
        .map(|frames| frames.iter().map(|f| source_port(f)).collect())
        .collect();
    assert!(ports.iter().all(|ports| ports.len() == 1), "{ports:?}");
    assert!(
        ports.iter().flatten().all(|port| range.contains(port)),
        "{range:?}: {ports:?}"
    );
    let different: BTreeSet<&u16> = ports.iter().flatten().collect();
    assert!(
        different.len() > 190,
        "{flows} flows share {} source ports",
        different.len()
    );

    // A real connection: all its segments, and never more than the underlay takes.
    let tunnelled = format!(
        "udp dst port {VXLAN_PORT} and src host {}",
        underlay(&lab, "node-a")
    );
    let mut rack = Ear::incoming(lab.switch().namespace(), "node-a", &tunnelled);
    transfer(
        pod(&lab, "pod-a1"),
        pod(&lab, "pod-b1"),
        SocketAddrV4::new(to, 5201),
        1 << 20,
    );
    let mut connections: BTreeMap<[u8; 4], BTreeSet<u16>> = BTreeMap::new();
    for frame in rack
        .rest()
        .iter()
        .filter(|frame| frame[TUNNEL + ETHERNET + 9] == IpNumber::TCP.0)
    {
        assert!(frame.len() <= 1514, "a frame of {} bytes", frame.len());
        let transport = TUNNEL + ETHERNET + 20;
        let ends = frame[transport..transport + 4].try_into().unwrap();
        connections.entry(ends).or_default().insert(source_port(frame));
    }
    assert_eq!(connections.len(), 1, "{connections:?}");
    assert!(
        connections.values().all(|ports| ports.len() == 1),
        "{connections:?}"
    );
    finish(lab);
}

#[test]
fn congestion_in_a_pod_is_told_to_the_underlay() {
    let _turn = side_by_side();
    let lab = crate::rig::pair("wire-ce", 1);
    let (from, to) = (address(&lab, "pod-a1"), address(&lab, "pod-b1"));
    let payload = udp(SocketAddrV4::new(from, 40_000), SocketAddrV4::new(to, 9), &[0; 9]);
    let packet = ipv4(IpNumber::UDP, from, to, &payload, |ip| {
        ip.identification = FLOW_IDS;
        ip.ecn = IpEcn::THREE;
    });
    let (sent, got) = carry(&lab, "pod-a1", "pod-b1", &[packet]);
    // RFC 6040 copies the field; the kernel keeps to RFC 3168 here and sends ECT(0), so it is no judge.
    assert!(sent[&FLOW_IDS].iter().all(|outer| outer[ETHERNET + 1] == 3));
    assert_eq!(got[&FLOW_IDS][ETHERNET + 1], 3);
    finish(lab);
}
