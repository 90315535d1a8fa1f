//! Rows of lies in the headers of packets that pods send.

use millrace_dataplane::verdict::DropReason;

use crate::packets::{Body, Family, Ip, patch, patch_ipv4};
use crate::rows::{Expect, Row, sent};
use crate::world::{pod, pod_port, station_mac, switch_mac};

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let v4 = sent(
        &Ip::udp(pod(Family::V4, 1, 2), pod(Family::V4, 1, 3)),
        pod_port(2),
    );
    let v6 = sent(
        &Ip::udp(pod(Family::V6, 1, 2), pod(Family::V6, 1, 3)),
        pod_port(2),
    );
    let raw = |family, protocol, bytes: &[u8]| {
        let ip = Ip::udp(pod(family, 1, 2), pod(family, 1, 3)).body(Body::Raw(protocol, bytes.to_vec()));
        sent(&ip, pod_port(2))
    };
    let chain: Vec<u8> = (0..9).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
    let mut row = |name: &str, packet, reason| rows.push(Row::drop(name, pod_port(2), packet, reason));
    row(
        "IPv4 header cut short",
        v4[..33].to_vec(),
        DropReason::Ipv4Truncated,
    );
    row(
        "IPv4 version 5",
        patch(v4.clone(), 14, &[0x55]),
        DropReason::Ipv4Malformed,
    );
    row(
        "IPv4 header length 4",
        patch(v4.clone(), 14, &[0x44]),
        DropReason::Ipv4Malformed,
    );
    row(
        "IPv4 header length beyond",
        patch(v4.clone(), 14, &[0x4f]),
        DropReason::Ipv4Malformed,
    );
    row(
        "IPv4 total length beyond",
        patch(v4.clone(), 16, &[0x05, 0xdc]),
        DropReason::Ipv4Malformed,
    );
    row(
        "IPv4 total length below",
        patch(v4.clone(), 16, &[0, 19]),
        DropReason::Ipv4Malformed,
    );
    row(
        "IPv4 checksum",
        patch(v4.clone(), 24, &[1, 1]),
        DropReason::Ipv4Checksum,
    );
    row(
        "IPv6 header cut short",
        v6[..53].to_vec(),
        DropReason::Ipv6Malformed,
    );
    row(
        "IPv6 version 4",
        patch(v6.clone(), 14, &[0x40]),
        DropReason::Ipv6Malformed,
    );
    row(
        "IPv6 payload length beyond",
        patch(v6.clone(), 18, &[5, 0]),
        DropReason::Ipv6Malformed,
    );
    row(
        "IPv6 options cut short",
        raw(Family::V6, 60, &[17, 9, 0, 0, 0, 0, 0, 0]),
        DropReason::Ipv6ExtensionChain,
    );
    row(
        "IPv6 chain too long",
        raw(Family::V6, 60, &chain),
        DropReason::Ipv6ExtensionChain,
    );
    for family in Family::BOTH {
        for (name, protocol, len) in [("TCP", 6, 19), ("UDP", 17, 7), ("SCTP", 132, 3)] {
            row(
                &format!("{name} cut short"),
                raw(family, protocol, &vec![0; len]),
                DropReason::TransportMalformed,
            );
        }
        let icmp = if family == Family::V4 { 1 } else { 58 };
        row(
            "ICMP cut short",
            raw(family, icmp, &[8, 0, 0]),
            DropReason::TransportMalformed,
        );
        let offset = [vec![0; 12], vec![0xf0; 8]].concat();
        row(
            "TCP data offset beyond",
            raw(family, 6, &offset),
            DropReason::TransportMalformed,
        );
        row(
            "UDP length beyond",
            raw(family, 17, &[0, 1, 0, 2, 0, 99, 0, 0]),
            DropReason::TransportMalformed,
        );
    }
    let tiny = patch_ipv4(raw(Family::V4, 17, &[0, 1]), 20, &[0x20, 0]);
    row(
        "first fragment without ports",
        tiny,
        DropReason::TransportMalformed,
    );
    // A later fragment has no header to be wrong.
    let later = patch_ipv4(raw(Family::V4, 17, &[0, 1]), 20, &[0, 1]);
    let mut expect = patch(later.clone(), 0, &station_mac(1, pod_port(3)).0);
    expect = patch(expect, 6, &switch_mac(1, pod_port(3)).0);
    expect = patch_ipv4(expect, 22, &[63]);
    rows.push(Row::new(
        "later fragment",
        pod_port(2),
        later,
        Expect::Forward(pod_port(3), expect),
    ));
    rows
}
