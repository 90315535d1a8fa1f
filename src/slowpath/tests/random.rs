//! Whatever bytes arrive: no panic, every packet counted once, and everything sent is sound.

use etherparse::{Icmpv4Type, Icmpv6Type, LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;

/// Counters that say something besides what became of a packet.
const BESIDES: [&str; 4] = [
    "punts",
    "neighbour_requests",
    "neighbour_requests_lost",
    "inject_failed",
];

fn reasons() -> impl Strategy<Value = (PuntReason, PuntDetail)> {
    let detail = prop_oneof![
        Just(PuntDetail::Nothing),
        any::<u16>().prop_map(PuntDetail::Mtu),
        Just(PuntDetail::NextHop(UPLINK, ip(ROUTER))),
    ];
    (prop::sample::select(PuntReason::ALL), detail)
}

/// Sound packets of every kind that the slow path looks into.
fn samples() -> Vec<Vec<u8>> {
    let echo = etherparse::IcmpEchoHeader { id: 1, seq: 2 };
    let mut options = Packet::udp(A_V6, GATEWAY_V6, 3);
    options.protocol = IpNumber::IPV6_HEADER_HOP_BY_HOP;
    options.payload.splice(
        0..0,
        [
            51, 0, 1, 4, 0, 0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 9,
        ],
    );
    let packets = [
        Packet::udp(A, WORLD, 700),
        Packet::udp(A, GATEWAY, 3),
        Packet::udp(A_V6, LOST_V6, 1400),
        Packet::icmp_v4(A, GATEWAY, Icmpv4Type::EchoRequest(echo), &[9; 30]),
        Packet::icmp_v4(A, LOST, Icmpv4Type::EchoReply(echo), &[]),
        Packet::icmp_v6(A_V6, GATEWAY_V6, Icmpv6Type::EchoRequest(echo), &[9; 31]),
        Packet::tcp(A, GATEWAY, TcpHeader::new(1, 2, 3, 4), b"data"),
        Packet::new(A_V6, GATEWAY_V6, IpNumber::GRE, &[1, 2, 3]),
        options,
    ];
    let mut samples: Vec<_> = packets
        .iter()
        .map(|packet| packet.frame(switch_mac(POD_A), peer_mac(POD_A)))
        .collect();
    let arp = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]
        .into_iter()
        .chain(peer_mac(POD_A).0)
        .chain(v4(A).octets());
    let link = MacAddr::BROADCAST.0.into_iter().chain(peer_mac(POD_A).0);
    samples.push(
        link.chain(arp)
            .chain([0; 6])
            .chain(v4(GATEWAY).octets())
            .collect(),
    );
    samples
}

/// Checks what a stranger's parser thinks of a packet that the slow path sends.
fn assert_sound(injection: &Injection, punted: &Punt) {
    let bytes = injection.packet.bytes();
    if injection.way != Way::Walk(Origin::Switch(NetworkId::CLUSTER)) || punted.packet.bytes() == bytes {
        return;
    }
    let packet = SlicedPacket::from_ethernet(bytes).expect("a sound packet");
    let (source, destination) = match packet.net.expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(
                header.total_len <= 576 || packet_kind(bytes) == Some(0),
                "an error of {}",
                header.total_len
            );
            (IpAddr::from(header.source), IpAddr::from(header.destination))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (IpAddr::from(header.source), IpAddr::from(header.destination))
        }
        NetSlice::Arp(_) => panic!("ARP does not walk"),
    };
    match (packet.transport.expect("a transport"), source, destination) {
        (TransportSlice::Icmpv4(icmp), ..) => {
            assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
        }
        (TransportSlice::Icmpv6(icmp), IpAddr::V6(source), IpAddr::V6(destination)) => {
            assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
        }
        (TransportSlice::Tcp(tcp), IpAddr::V4(source), IpAddr::V4(destination)) => {
            assert_eq!(
                tcp.calc_checksum_ipv4(source.octets(), destination.octets()),
                Ok(tcp.checksum())
            );
        }
        (TransportSlice::Tcp(tcp), IpAddr::V6(source), IpAddr::V6(destination)) => {
            assert_eq!(
                tcp.calc_checksum_ipv6(source.octets(), destination.octets()),
                Ok(tcp.checksum())
            );
        }
        (other, ..) => panic!("the slow path never sends {other:?}"),
    }
}

/// The ICMP type of a packet over IPv4.
fn packet_kind(bytes: &[u8]) -> Option<u8> {
    match LaxSlicedPacket::from_ethernet(bytes).ok()?.transport? {
        TransportSlice::Icmpv4(icmp) => Some(icmp.type_u8()),
        _ => None,
    }
}

/// Hands a packet in and checks what must hold for any.
fn feed(slow_path: &mut SlowPath, tables: &NodeTables, punt: &Punt) {
    let actions = slow_path.handle(punt, tables, Instant::now());
    if let Some(injection) = &actions.injection {
        assert_sound(injection, punt);
    }
}

fn assert_counted(slow_path: &SlowPath) {
    let counters = slow_path.stats().read();
    let ends = counters
        .iter()
        .filter(|(name, _)| !BESIDES.contains(name))
        .map(|(_, count)| count);
    assert_eq!(ends.sum::<u64>(), counters["punts"], "{counters:?}");
}

#[test]
fn every_truncation_of_every_packet_for_every_reason() {
    let tables = tables(&[]);
    let mut slow_path = slow_path();
    for sample in samples() {
        for len in 0..=sample.len() {
            for reason in PuntReason::ALL {
                let next_hop = PuntDetail::NextHop(UPLINK, ip(ROUTER));
                for detail in [PuntDetail::Nothing, PuntDetail::Mtu(1400), next_hop] {
                    feed(
                        &mut slow_path,
                        &tables,
                        &punt(POD_A, *reason, detail, &sample[..len]),
                    );
                }
            }
        }
    }
    assert_counted(&slow_path);
    let moved = moved(&slow_path);
    for counter in [
        "arp_replies",
        "echo_replies",
        "resets_sent",
        "too_big_sent",
        "held",
        "malformed",
    ] {
        assert!(
            moved.contains_key(counter),
            "the samples are sound: {counter} in {moved:?}"
        );
    }
}

proptest! {
    #[test]
    fn random_bytes((reason, detail) in reasons(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut slow_path = slow_path();
        feed(&mut slow_path, &tables(&[]), &punt(POD_A, reason, detail, &bytes));
        assert_counted(&slow_path);
    }

    #[test]
    fn mutated_packets(
        (reason, detail) in reasons(),
        sample in prop::sample::select(samples()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
        ingress in prop::sample::select(vec![HOST, UPLINK, POD_A, GONE]),
    ) {
        let mut frame = sample;
        for (at, value) in changes {
            // Mostly headers, where the lies are.
            let at = at.index(frame.len().min(80));
            frame[at] = value;
        }
        frame.truncate(frame.len() - len.index(frame.len()) / 4);
        // Repaired, or most lies would end at the header checksum.
        if frame.len() >= 34 && frame[12..14] == [8, 0] {
            let header_len = usize::from(frame[14] & 0xf) * 4;
            if (20..=frame.len() - 14).contains(&header_len) {
                frame[24..26].fill(0);
                let sum = millrace_dataplane::wire::checksum::checksum(&frame[14..14 + header_len]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
        }
        let mut slow_path = slow_path();
        let tables = tables(&[]);
        feed(&mut slow_path, &tables, &punt(ingress, reason, detail, &frame));
        assert_counted(&slow_path);
        for (_, injection) in slow_path.tick(&tables, Instant::now() + hold::HOLD_TIME) {
            assert_sound(&injection, &punt(ingress, reason, detail, &frame));
        }
        prop_assert!(!slow_path.is_keeping());
    }
}
