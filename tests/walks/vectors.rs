//! Whole packets, byte by byte, laid out from the RFCs with no packet library between.

use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::Verdict;

use crate::world::{Node, pod_port, uplink};

/// Reads bytes in hexadecimal; `..` is a byte of the switch's own choice, and what follows `#` on a line is for
/// people.
fn bytes(text: &str) -> Vec<Option<u8>> {
    let words = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace());
    words
        .map(|word| (word != "..").then(|| u8::from_str_radix(word, 16).unwrap()))
        .collect()
}

fn walk(ingress: PortId, packet: &str, exit: PortId, expected: &str) -> Vec<u8> {
    let packet: Vec<u8> = bytes(packet).into_iter().map(Option::unwrap).collect();
    let (verdict, left) = Node::new(1).receive(ingress, &packet);
    assert_eq!(verdict, Verdict::Forward(exit));
    let expected = bytes(expected);
    assert_eq!(left.len(), expected.len());
    for (at, (seen, wanted)) in left.iter().zip(expected).enumerate() {
        assert!(
            wanted.is_none_or(|wanted| wanted == *seen),
            "byte {at} is {seen:02x}, not {wanted:02x?}"
        );
    }
    left
}

/// The sum of an outer IPv4 header's words, checksum included: all ones if it is right (RFC 791 section 3.1).
fn outer_sum(frame: &[u8]) -> u32 {
    let sum: u32 = frame[14..34]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn a_vxlan_push() {
    let sent = walk(
        pod_port(2),
        "02 aa 00 00 01 02  02 bb 00 00 01 02  08 00  # pod 2 to its gateway
         45 00 00 20 00 01 40 00 40 11 21 e1          # IPv4, 32 bytes, DF, TTL 64, UDP
         0a f4 01 02 0a f4 02 02
         12 34 56 78 00 0c b9 77 61 62 63 64",
        uplink(),
        "02 aa 00 00 02 00  02 aa 00 00 01 00  08 00  # node 1 to node 2
         45 00 00 52 .. .. 00 00 40 11 .. ..          # IPv4, 82 bytes, no DF, TTL 64, UDP
         c0 00 02 01 c0 00 02 02
         .. .. 21 18 00 3e 00 00                      # to port 8472, 62 bytes, no checksum
         08 00 00 00 00 00 01 00                      # VXLAN: I flag, VNI 1
         02 cc 00 00 02 00  02 cc 00 00 01 00  08 00  # tunnel device to tunnel device
         45 00 00 20 00 01 40 00 3f 11 22 e1          # one hop less
         0a f4 01 02 0a f4 02 02
         12 34 56 78 00 0c b9 77 61 62 63 64",
    );
    assert_eq!(outer_sum(&sent), 0xffff);
}

#[test]
fn a_vxlan_pull() {
    walk(
        uplink(),
        "02 aa 00 00 01 00  02 aa 00 00 02 00  08 00  # node 2 to node 1
         45 00 00 52 be ef 00 00 40 11 37 a8
         c0 00 02 02 c0 00 02 01
         9c 40 21 18 00 3e 00 00
         08 00 00 00 00 00 01 00
         02 cc 00 00 01 00  02 cc 00 00 02 00  08 00
         45 00 00 20 00 01 40 00 40 11 21 e1
         0a f4 02 02 0a f4 01 02
         56 78 12 34 00 0c 8d 4b 77 78 79 7a",
        pod_port(2),
        "02 bb 00 00 01 02  02 aa 00 00 01 02  08 00  # gateway to pod 2
         45 00 00 20 00 01 40 00 3f 11 22 e1
         0a f4 02 02 0a f4 01 02
         56 78 12 34 00 0c 8d 4b 77 78 79 7a",
    );
}

#[test]
fn an_ipip_push() {
    let sent = walk(
        pod_port(2),
        "02 aa 00 00 01 02  02 bb 00 00 01 02  08 00
         45 00 00 20 00 01 40 00 40 11 20 e1
         0a f4 01 02 0a f4 03 02
         12 34 56 78 00 0c b8 77 61 62 63 64",
        uplink(),
        "02 aa 00 00 03 00  02 aa 00 00 01 00  08 00  # node 1 to node 3
         45 00 00 34 .. .. 40 00 3f 04 .. ..          # IPv4, 52 bytes, DF and TTL 63 of the packet inside, protocol 4
         c0 00 02 01 c0 00 02 03
         45 00 00 20 00 01 40 00 3f 11 21 e1
         0a f4 01 02 0a f4 03 02
         12 34 56 78 00 0c b8 77 61 62 63 64",
    );
    assert_eq!(outer_sum(&sent), 0xffff);
}

/// With bytes behind the packet, as a link pads short frames.
#[test]
fn an_ipip_pull() {
    walk(
        uplink(),
        "02 aa 00 00 01 00  02 aa 00 00 03 00  08 00
         45 00 00 34 be ef 00 00 40 04 37 d2
         c0 00 02 03 c0 00 02 01
         45 00 00 20 00 01 40 00 40 11 20 e1
         0a f4 03 02 0a f4 01 02
         56 78 12 34 00 0c 8c 4b 77 78 79 7a
         00 00 00 00 00 00",
        pod_port(2),
        "02 bb 00 00 01 02  02 aa 00 00 01 02  08 00
         45 00 00 20 00 01 40 00 3f 11 21 e1
         0a f4 03 02 0a f4 01 02
         56 78 12 34 00 0c 8c 4b 77 78 79 7a",
    );
}
