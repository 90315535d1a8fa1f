//! Rows of checksums that the kernel left half computed: finished on the ports that hand such packets over.

use std::net::IpAddr;

use crate::packets::{Body, Family, Ip, patch};
use crate::rows::{Expect, Row, delivered, sent};
use crate::world::{VXLAN_PORT, outer, pod, pod_port, station_mac, switch_mac, uplink, vtep_mac};

pub fn rows() -> Vec<Row> {
    Family::BOTH.into_iter().flat_map(family_rows).collect()
}

fn family_rows(family: Family) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, body, field) in [
        ("UDP", Body::Udp(4000, 53, vec![0xc3; 33]), 6),
        ("TCP", Body::Tcp(4000, 80, vec![0xc3; 1000]), 16),
    ] {
        let l4 = if family == Family::V4 { 34 } else { 54 };
        let ip = Ip::udp(pod(family, 1, 2), pod(family, 1, 3)).body(body.clone());
        let half = |frame: Vec<u8>, at: usize, ip: &Ip| patch(frame, at, &pseudo_sum(ip).to_be_bytes());
        let packet = half(sent(&ip, pod_port(2)), l4 + field, &ip);
        let expect = delivered(&ip.clone().ttl(63), pod_port(3));
        rows.push(Row::new(
            format!("{family:?}: half-computed {name}"),
            pod_port(2),
            packet,
            expect,
        ));

        let wrong = patch(sent(&ip, pod_port(2)), l4 + field, &[0xbe, 0xef]);
        let kept = ip
            .clone()
            .ttl(63)
            .frame(station_mac(1, pod_port(3)), switch_mac(1, pod_port(3)));
        let expect = Expect::Forward(pod_port(3), patch(kept, l4 + field, &[0xbe, 0xef]));
        rows.push(Row::new(
            format!("{family:?}: wrong {name} stays wrong"),
            pod_port(2),
            wrong,
            expect,
        ));

        let back = Ip::udp(pod(family, 1, 3), pod(family, 1, 2)).body(body.clone());
        let sum = pseudo_sum(&back).to_be_bytes();
        let kept = back
            .clone()
            .ttl(63)
            .frame(station_mac(1, pod_port(2)), switch_mac(1, pod_port(2)));
        let expect = Expect::Forward(pod_port(2), patch(kept, l4 + field, &sum));
        let name_off = format!("{family:?}: {name} of a port that finishes its own");
        rows.push(Row::new(
            name_off,
            pod_port(3),
            half(sent(&back, pod_port(3)), l4 + field, &back),
            expect,
        ));

        let inner = Ip::udp(pod(family, 2, 2), pod(family, 1, 2)).body(body);
        let frame = half(inner.frame(vtep_mac(1), vtep_mac(2)), l4 + field, &inner);
        let packet = outer(2, 1).vxlan((40_000, VXLAN_PORT), 1, &frame);
        let expect = delivered(&inner.ttl(63), pod_port(2));
        rows.push(Row::new(
            format!("{family:?}: half-computed {name} in a tunnel"),
            uplink(),
            packet,
            expect,
        ));
    }
    rows
}

/// The folded sum of a packet's pseudo-header, as the kernel leaves it in the checksum field.
pub fn pseudo_sum(ip: &Ip) -> u16 {
    let addresses = match (ip.source, ip.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => [a.octets(), b.octets()].concat(),
        (IpAddr::V6(a), IpAddr::V6(b)) => [a.octets(), b.octets()].concat(),
        _ => unreachable!(),
    };
    let header_len = if ip.family() == Family::V4 { 20 } else { 40 };
    let protocol = if matches!(ip.body, Body::Udp(..)) { 17 } else { 6 };
    let words = addresses
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let mut sum = words.sum::<u32>() + protocol + (ip.build().len() - header_len) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
