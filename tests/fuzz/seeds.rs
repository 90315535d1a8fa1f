//! Writes the seeds that are packets, each a file in `corpus/TARGET/`: small ones of every kind, built by etherparse as
//! the walks' tests build theirs. Run it after a change here: `cargo run --bin seeds` in this folder.

use std::net::IpAddr;
use std::path::Path;
use std::{fs, io};

use millrace_dataplane::wire::MacAddr;
use packets::{ArpPacket, Body, Family, Ip, cut, ethernet, patch_ipv4};
use routed::{ALL, BLUE, GREEN, Net, RED, YELLOW};
use world::{
    VNI, VXLAN_PORT, host, node_address, node_v4, outer, pod, pod_port, station_mac, switch_mac, uplink,
    vtep_mac, world as outside,
};

#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../walks/packets.rs"]
mod packets;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../walks/routed/scene.rs"]
mod routed;
#[allow(dead_code, reason = "the walks' tests use the rest")]
#[path = "../walks/world.rs"]
mod world;

/// Lengths of headers, in bytes.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// First bytes of a seed of `walk`, which say at which port the packet comes in.
const AT_UPLINK: u8 = 0;
const AT_HOST: u8 = 3;
const AT_POD: u8 = 4;

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let seeds = [
        walks(),
        bridges(),
        networks(),
        headers(),
        transports(),
        tunnels(),
        partial_checksums(),
    ];
    for (target, name, bytes) in seeds.concat() {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// Target, name and bytes of a seed.
type Seed = (&'static str, &'static str, Vec<u8>);

fn v4(node: u8, number: u8) -> IpAddr {
    pod(Family::V4, node, number)
}

fn v6(node: u8, number: u8) -> IpAddr {
    pod(Family::V6, node, number)
}

/// A datagram from pod 2 of node 1.
fn from_pod(to: IpAddr) -> Ip {
    Ip::udp(if to.is_ipv4() { v4(1, 2) } else { v6(1, 2) }, to)
}

/// As it leaves pod 2.
fn at_pod(ip: &Ip) -> Vec<u8> {
    ip.frame(switch_mac(1, pod_port(2)), station_mac(1, pod_port(2)))
}

/// In VXLAN from node 2 to node 1.
fn in_vxlan(ip: &Ip) -> Vec<u8> {
    outer(2, 1).vxlan((50_000, VXLAN_PORT), VNI, &ip.frame(vtep_mac(1), vtep_mac(2)))
}

/// In VXLAN over IPv6 from node 6 to node 1.
fn in_vxlan_over_v6(ip: &Ip) -> Vec<u8> {
    outer(6, 1).vxlan((50_000, VXLAN_PORT), VNI, &ip.frame(vtep_mac(1), vtep_mac(6)))
}

/// A neighbour solicitation of pod 2 for its gateway.
fn solicitation() -> Vec<u8> {
    let here = station_mac(1, pod_port(2));
    let target = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target, &[1, 1], &here.0].concat();
    Ip::udp(v6(1, 2), "ff02::1:ff00:1".parse().expect("an address"))
        .ttl(255)
        .body(Body::Raw(58, message))
        .frame(MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), here)
}

fn request_for_gateway() -> Vec<u8> {
    let (here, nobody) = (station_mac(1, pod_port(2)), mac_of(0));
    let request = ArpPacket {
        operation: 1,
        sender: (here, [10, 244, 1, 2].into()),
        target: (nobody, [10, 244, 1, 1].into()),
    };
    request.frame(mac_of(0xff), here)
}

/// A link address of six times the same byte.
fn mac_of(byte: u8) -> MacAddr {
    MacAddr([byte; 6])
}

/// First bytes of a seed of `bridge`: an access port, the trunk, and the port whose station was given its addresses.
const AT_ACCESS: u8 = 1;
const AT_TRUNK: u8 = 4;
const AT_GUARDED: u8 = 5;
/// The bridged network, and a VLAN of the trunk's.
const BRIDGED_VNI: u32 = 100;
const BRIDGED_PORT: u16 = 8472;
const BRIDGED_VLAN: u16 = 10;

/// A station of a bridged network, as the walks' tests number them.
fn station(number: u8) -> MacAddr {
    MacAddr([0x02, 0x5e, 0, 0, 0, number])
}

fn bridges() -> Vec<Seed> {
    let datagram = |family: Family, from, to| {
        let host = |number: u8| family.pick(&format!("10.9.0.{number}"), &format!("fd09::{number}"));
        Ip::udp(host(1), host(2)).frame(to, from)
    };
    let known = datagram(Family::V4, station(1), station(2));
    let everybody = datagram(Family::V4, station(1), mac_of(0xff));
    let tag = [[0x81, 0], BRIDGED_VLAN.to_be_bytes()].concat();
    let tagged = [&known[..12], &tag, &known[12..]].concat();
    let request = ArpPacket {
        operation: 1,
        sender: (station(1), [10, 9, 0, 1].into()),
        target: (mac_of(0), [10, 9, 0, 2].into()),
    };
    let from_node = |node, inner: &[u8]| outer(node, 1).vxlan((40_000, BRIDGED_PORT), BRIDGED_VNI, inner);
    // An IGMP report of version 2; whoever reads it looks at its checksum.
    let message = [0x16, 0, 0xf8, 0xfa, 239, 1, 2, 3];
    let report = [
        &[0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 9, 0, 1, 239, 1, 2, 3][..],
        &message,
    ]
    .concat();
    let group = MacAddr([1, 0, 0x5e, 1, 2, 3]);
    let far = datagram(Family::V4, station(4), station(1));
    let rows = [
        ("to-known", AT_ACCESS, known),
        (
            "to-known-v6",
            AT_ACCESS,
            datagram(Family::V6, station(1), station(2)),
        ),
        ("to-node", AT_ACCESS, datagram(Family::V4, station(1), station(4))),
        (
            "to-node-v6",
            AT_ACCESS,
            datagram(Family::V6, station(1), station(5)),
        ),
        (
            "to-stranger",
            AT_ACCESS,
            datagram(Family::V4, station(1), station(99)),
        ),
        ("to-everybody", AT_ACCESS, everybody.clone()),
        ("to-group", AT_ACCESS, datagram(Family::V4, station(1), group)),
        ("arp", AT_ACCESS, request.frame(mac_of(0xff), station(1))),
        ("igmp", AT_ACCESS, ethernet(group, station(1), 0x0800, &report)),
        ("trunk", AT_TRUNK, tagged),
        (
            "guarded",
            AT_GUARDED,
            datagram(Family::V4, station(14), station(2)),
        ),
        ("from-node", AT_UPLINK, from_node(2, &far)),
        ("from-node-over-v6", AT_UPLINK, from_node(6, &far)),
        ("from-node-to-everybody", AT_UPLINK, from_node(2, &everybody)),
    ];
    let seed = |(name, at, frame): (&'static str, u8, Vec<u8>)| ("bridge", name, [vec![at], frame].concat());
    rows.into_iter().map(seed).collect()
}

/// First byte of a seed of `routed`: a pod's port of a network, in the order that they have there.
fn at_network(net: Net) -> u8 {
    let place = ALL.iter().position(|known| *known == net).expect("one of them");
    7 + u8::try_from(place).expect("a few")
}

/// Of which a series of packets is told from.
const SERIES: u8 = 128;

fn networks() -> Vec<Seed> {
    const AT_CLUSTERS_POD: u8 = 5;
    let sent = |ip: &Ip, at| ip.frame(switch_mac(1, at), station_mac(1, at));
    let from = |net: Net, to: IpAddr| {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        sent(&Ip::udp(net.pod(family, 1, 2), to), net.port(2))
    };
    let wire = |net: Net, node: u8, to: IpAddr| {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        net.tunnelled(node, &Ip::udp(net.pod(family, node, 7), to))
    };
    let piece = cut(Family::V4, &from(RED, RED.pod(Family::V4, 1, 3)), 0..16, true);
    let rows = [
        ("red-here", at_network(RED), from(RED, RED.pod(Family::V4, 1, 3))),
        (
            "red-here-v6",
            at_network(RED),
            from(RED, RED.pod(Family::V6, 1, 3)),
        ),
        ("red-piece", at_network(RED), piece),
        (
            "blue-away",
            at_network(BLUE),
            from(BLUE, BLUE.pod(Family::V4, 2, 9)),
        ),
        (
            "blue-away-over-v6",
            at_network(BLUE),
            from(BLUE, BLUE.pod(Family::V6, 6, 9)),
        ),
        (
            "green-gateway",
            at_network(GREEN),
            from(GREEN, GREEN.gateway(Family::V4)),
        ),
        (
            "green-to-yellow",
            at_network(GREEN),
            from(GREEN, YELLOW.pod(Family::V4, 1, 2)),
        ),
        ("green-to-cluster", at_network(GREEN), from(GREEN, v4(1, 2))),
        (
            "yellow-to-green",
            at_network(YELLOW),
            from(YELLOW, GREEN.pod(Family::V6, 1, 2)),
        ),
        (
            "cluster-to-green",
            AT_CLUSTERS_POD,
            at_pod(&from_pod(GREEN.pod(Family::V4, 1, 2))),
        ),
        (
            "cluster-to-green-away",
            AT_CLUSTERS_POD,
            at_pod(&from_pod(GREEN.pod(Family::V6, 2, 2))),
        ),
        (
            "red-from-node",
            AT_UPLINK,
            wire(RED, 2, RED.pod(Family::V4, 1, 2)),
        ),
        (
            "blue-from-node",
            AT_UPLINK,
            wire(BLUE, 6, BLUE.pod(Family::V6, 1, 2)),
        ),
        ("green-from-node-to-cluster", AT_UPLINK, wire(GREEN, 2, v4(1, 2))),
    ];
    let packets = rows
        .into_iter()
        .map(|(name, at, frame)| ("routed", name, [vec![at], frame].concat()));
    // A call from the cluster into green and its answer, then from green; TCP; and the same addresses in red and blue.
    let series = [
        (
            "series-cross",
            vec![[0, 3, 0, 1, 9, 0], [3, 0, 0, 4, 9, 0], [3, 4, 0, 1, 9, 0]],
        ),
        (
            "series-tcp",
            vec![[0, 67, 9, 1, 0, 0], [67, 0, 13, 4, 0, 0], [0, 67, 5, 1, 16, 0]],
        ),
        (
            "series-same",
            vec![[0, 32, 0, 1, 9, 0], [1, 33, 0, 1, 9, 0], [2, 34, 0, 1, 9, 0]],
        ),
    ];
    let series = series
        .into_iter()
        .map(|(name, steps)| ("routed", name, [vec![SERIES], steps.concat()].concat()));
    packets.chain(series).collect()
}

fn walks() -> Vec<Seed> {
    let echo = |to| from_pod(to).body(Body::Echo(7, b"ping".to_vec()));
    let tcp = |to| from_pod(to).body(Body::Tcp(40_000, 80, b"GET".to_vec()));
    let back = |from, to| Ip::udp(from, to);
    let at_host = Ip::udp(v4(1, 0), v4(1, 2)).frame(switch_mac(1, host()), station_mac(1, host()));
    let plain = Ip::udp(outside(Family::V4), node_address(Family::V4, 1));
    let rows = [
        ("to-neighbour", AT_POD, at_pod(&from_pod(v4(1, 3)))),
        ("to-neighbour-v6", AT_POD, at_pod(&from_pod(v6(1, 3)))),
        ("to-vxlan", AT_POD, at_pod(&tcp(v4(2, 2)))),
        ("to-vxlan-v6", AT_POD, at_pod(&from_pod(v6(2, 2)))),
        ("to-vxlan-over-v6", AT_POD, at_pod(&tcp(v4(6, 2)))),
        ("to-vxlan-v6-over-v6", AT_POD, at_pod(&tcp(v6(6, 2)))),
        ("to-ipip", AT_POD, at_pod(&from_pod(v4(3, 2)))),
        ("to-unresolved", AT_POD, at_pod(&from_pod(v4(4, 2)))),
        ("to-gateway", AT_POD, at_pod(&echo(v4(1, 1)))),
        ("to-narrow", AT_POD, at_pod(&from_pod(v4(1, 9)).len(1300))),
        ("to-host", AT_POD, at_pod(&from_pod(node_address(Family::V4, 1)))),
        ("to-world", AT_POD, at_pod(&from_pod(outside(Family::V4)))),
        ("last-hop", AT_POD, at_pod(&from_pod(v4(1, 3)).ttl(1))),
        ("arp", AT_POD, request_for_gateway()),
        ("neighbour-solicitation", AT_POD, solicitation()),
        ("from-host", AT_HOST, at_host),
        ("from-vxlan", AT_UPLINK, in_vxlan(&back(v4(2, 2), v4(1, 2)))),
        ("from-vxlan-v6", AT_UPLINK, in_vxlan(&back(v6(2, 2), v6(1, 2)))),
        (
            "from-vxlan-over-v6",
            AT_UPLINK,
            in_vxlan_over_v6(&back(v4(6, 2), v4(1, 2))),
        ),
        (
            "from-vxlan-v6-over-v6",
            AT_UPLINK,
            in_vxlan_over_v6(&back(v6(6, 2), v6(1, 2))),
        ),
        (
            "from-vxlan-ce",
            AT_UPLINK,
            in_vxlan(&back(v4(2, 2), v4(1, 2)).ecn(3)),
        ),
        (
            "from-ipip",
            AT_UPLINK,
            outer(3, 1).ipip(&back(v4(3, 2), v4(1, 2)).build()),
        ),
        (
            "from-world",
            AT_UPLINK,
            plain.frame(switch_mac(1, uplink()), mac_of(2)),
        ),
    ];
    rows.into_iter()
        .map(|(name, port, frame)| ("walk", name, [vec![port], frame].concat()))
        .collect()
}

fn headers() -> Vec<Seed> {
    let frame = at_pod(&from_pod(v4(1, 3)));
    let ip = from_pod(v4(2, 2)).build();
    let fragment = patch_ipv4(at_pod(&from_pod(v4(2, 2))), ETHERNET + 6, &[0x20, 0x01])[ETHERNET..].to_vec();
    // One word of options: three that do nothing, and the end.
    let options = [&[0x46], &ip[1..IPV4], &[1, 1, 1, 0], &ip[IPV4..]].concat();
    let six = from_pod(v6(2, 2)).build();
    let with = |next: u8, header: &[u8]| {
        let payload = [header, &six[IPV6..]].concat();
        let len = u16::try_from(payload.len())
            .expect("a short packet")
            .to_be_bytes();
        [&six[..4], &len, &[next], &six[7..IPV6], &payload].concat()
    };
    let tag = |payload: &[u8]| [&frame[..12], &[0x81, 0, 0x20, 0x05], payload].concat();
    vec![
        ("link", "ipv4", frame.clone()),
        ("link", "arp", request_for_gateway()),
        ("link", "vlan", tag(&frame[12..])),
        ("link", "vlan-twice", tag(&tag(&frame[12..])[12..])),
        ("link", "unknown", ethernet(mac_of(2), mac_of(4), 0x88cc, b"?")),
        ("ipv4", "udp", ip.clone()),
        (
            "ipv4",
            "tcp",
            from_pod(v4(2, 2)).body(Body::Tcp(1, 2, vec![])).build(),
        ),
        ("ipv4", "padded", [&ip[..], &[0; 18]].concat()),
        ("ipv4", "options", options),
        ("ipv4", "fragment", fragment),
        ("ipv6", "udp", six.clone()),
        ("ipv6", "hop-by-hop", with(0, &[17, 0, 1, 4, 0, 0, 0, 0])),
        ("ipv6", "fragment", with(44, &[17, 0, 0, 1, 0, 0, 0, 9])),
        (
            "ipv6",
            "routing-fragment",
            with(43, &[44, 0, 0, 1, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 9]),
        ),
        (
            "ipv6",
            "authentication",
            with(
                51,
                &[
                    60, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0,
                ],
            ),
        ),
    ]
}

fn transports() -> Vec<Seed> {
    let udp = from_pod(v4(2, 2)).build()[IPV4..].to_vec();
    let tcp = from_pod(v4(2, 2))
        .body(Body::Tcp(40_000, 80, b"GET /".to_vec()))
        .build()[IPV4..]
        .to_vec();
    // A data offset of six words, and the maximum segment size.
    let options = [&tcp[..12], &[0x60], &tcp[13..20], &[2, 4, 5, 0xb4], &tcp[20..]].concat();
    let addresses = [v6(1, 2), v6(2, 2)].map(|address| match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
    });
    let addressed = |l4: &[u8]| [&addresses.concat(), l4].concat();
    let echo = |to: IpAddr| from_pod(to).body(Body::Echo(7, b"ping".to_vec())).build();
    let quoted = from_pod(v4(2, 2)).build();
    let error = |kind: u8, code: u8, quoted: &[u8]| [&[kind, code, 0, 0, 0, 0, 5, 0xaa], quoted].concat();
    vec![
        ("transport", "udp", udp.clone()),
        ("transport", "udp-addressed", addressed(&udp)),
        ("transport", "tcp", tcp.clone()),
        ("transport", "tcp-addressed", addressed(&tcp)),
        ("transport", "tcp-options", addressed(&options)),
        ("icmp", "echo", echo(v4(2, 2))[IPV4..].to_vec()),
        ("icmp", "echo-v6", echo(v6(2, 2))[IPV6..].to_vec()),
        // Nothing but zeros once it is made a reply, whose checksum is then all ones.
        ("icmp", "echo-of-zeros", vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        (
            "icmp",
            "neighbour-solicitation",
            solicitation()[ETHERNET + IPV6..].to_vec(),
        ),
        ("icmp", "fragmentation-needed", error(3, 4, &quoted[..28])),
        ("icmp", "packet-too-big", error(2, 0, &from_pod(v6(2, 2)).build())),
    ]
}

fn tunnels() -> Vec<Seed> {
    let inner = Ip::udp(v4(2, 2), v4(1, 2));
    let vxlan = in_vxlan(&inner)[ETHERNET + IPV4 + UDP..].to_vec();
    vec![
        ("tunnel", "vxlan", vxlan.clone()),
        ("tunnel", "vxlan-reserved", [&[0xff], &vxlan[1..]].concat()),
        ("tunnel", "vxlan-without-vni", [&[0], &vxlan[1..]].concat()),
        ("tunnel", "ipip", inner.build()),
        ("tunnel", "inside-v6", Ip::udp(v6(2, 2), v6(1, 2)).build()),
        ("tunnel", "ipip-and-more", [inner.build(), vec![0; 4]].concat()),
    ]
}

fn partial_checksums() -> Vec<Seed> {
    let half = |protocol: u8, ip: &[u8], field: usize| {
        let l4 = &ip[IPV4..];
        let words = ip[12..IPV4]
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let len = u32::try_from(l4.len()).expect("a short packet");
        let sum = words.sum::<u32>() + u32::from(protocol) + len;
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("a sum of few words");
        let mut ip = ip.to_vec();
        ip[IPV4 + field..IPV4 + field + 2].copy_from_slice(&folded.to_be_bytes());
        ip
    };
    let udp = from_pod(v4(2, 2)).build();
    let tcp = from_pod(v4(2, 2))
        .body(Body::Tcp(40_000, 80, b"GET /".to_vec()))
        .build();
    let from_there = |ip: &[u8]| [&node_v4(2).octets()[..], &ip[IPV4..]].concat();
    vec![
        ("partial_checksum", "udp", half(17, &udp, 6)),
        ("partial_checksum", "tcp", half(6, &tcp, 16)),
        ("partial_checksum", "tcp-whole", tcp.clone()),
        ("partial_checksum", "udp-v6", from_pod(v6(2, 2)).build()),
        ("partial_checksum", "udp-alone", from_there(&udp)),
        ("partial_checksum", "tcp-alone", from_there(&tcp)),
    ]
}
