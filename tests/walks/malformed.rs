//! Rows of lies in the headers of packets that pods send.

use millrace_dataplane::verdict::DropReason;

use crate::packets::{Body, Family, Ip, patch, raw_piece};
use crate::rows::{Row, sent};
use crate::world::{pod, pod_port};

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
    rows.extend(fragments());
    rows
}

/// Fragments that no packet can have, or that keep a transport's header from being seen whole.
fn fragments() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in Family::BOTH {
        let whole = sent(
            &Ip::udp(pod(family, 1, 2), pod(family, 1, 3)).body(Body::Raw(17, vec![0; 8])),
            pod_port(2),
        );
        let mut row = |name: &str, protocol, (bytes, start, more): (&[u8], usize, bool), reason| {
            let piece = raw_piece(family, &whole, protocol, bytes, (start, more));
            rows.push(Row::drop(
                format!("{family:?}: {name}"),
                pod_port(2),
                piece,
                reason,
            ));
        };
        let (tiny, malformed) = (DropReason::FragmentTiny, DropReason::FragmentMalformed);
        let options = [&[0; 12][..], &[0x60, 0x02], &[0; 10]].concat();
        let shorter = [&[0; 12][..], &[0x40, 0x02], &[0; 10]].concat();
        let icmp = if family == Family::V4 { 1 } else { 58 };
        row("first of TCP with its ports only", 6, (&[0; 8], 0, true), tiny);
        row(
            "first of TCP without its last bytes",
            6,
            (&[0; 16], 0, true),
            tiny,
        );
        row(
            "first of TCP, options in the next",
            6,
            (&options[..20], 0, true),
            tiny,
        );
        row(
            "first of TCP, a header too short",
            6,
            (&shorter, 0, true),
            DropReason::TransportMalformed,
        );
        row(
            "first of SCTP without its checksum",
            132,
            (&[0; 8], 0, true),
            tiny,
        );
        row("first of UDP with half a port", 17, (&[0; 2], 0, true), tiny);
        row(
            "first of ICMP without its id",
            icmp,
            (&[8, 0, 0, 0], 0, true),
            tiny,
        );
        row("later of TCP, over its flags", 6, (&[0; 64], 8, false), tiny);
        row("later of TCP, over its checksum", 6, (&[0; 64], 16, true), tiny);
        row("later of SCTP, over its checksum", 132, (&[0; 64], 8, true), tiny);
        row(
            "no multiple of eight, and not the last",
            17,
            (&[0; 20], 0, true),
            malformed,
        );
        row(
            "later, no multiple of eight, and not the last",
            17,
            (&[0; 9], 64, true),
            malformed,
        );
        row("last of no bytes", 17, (&[], 64, false), malformed);
        row(
            "beyond the largest packet",
            17,
            (&[0; 64], 0xffc8, false),
            malformed,
        );
    }
    rows
}
