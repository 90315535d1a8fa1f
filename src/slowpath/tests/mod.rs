//! Punts in, tables, packets out, and exactly which counters moved. Every packet, expected ones included, is built
//! by etherparse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod arp;
mod errors;
mod holding;
mod neighbour;
mod networks;
mod own;
mod random;
mod threaded;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};
use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Fdb, HashKey, Listeners, Local, NeighbourId, NeighbourTable, NetworkId, NodeTables, OuterLink, Peer,
    PeerId, PeerTable, PortFacts, PortTable, Prefix, Publisher, Role, RouteTable, Target, Tunnel, Underlay,
};
use millrace_dataplane::verdict::{PuntDetail, PuntReason};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::worker::{Origin, Punt, Way};

use super::*;

const HOST: PortId = PortId::new(0).unwrap();
const UPLINK: PortId = PortId::new(1).unwrap();
const POD_A: PortId = PortId::new(2).unwrap();
const POD_B: PortId = PortId::new(3).unwrap();
const GONE: PortId = PortId::new(99).unwrap();

/// The switch's own link address on a port.
fn switch_mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port.index() as u8])
}

/// The link address of the station behind a port.
fn peer_mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 2, port.index() as u8])
}

const A: &str = "10.244.1.5";
const A_V6: &str = "fd00:1::5";
const B: &str = "10.244.1.6";
const GATEWAY: &str = "10.244.1.1";
const GATEWAY_V6: &str = "fd00:1::1";
/// In the pod prefix, and nobody's.
const NOBODY: &str = "10.244.1.77";
const NODE: &str = "192.0.2.1";
/// On the node's own link, as `PEER` and `ROUTER` are.
const NEIGHBOUR: &str = "192.0.2.7";
const PEER: &str = "192.0.2.2";
const ROUTER: &str = "192.0.2.254";
/// A pod of the other node, reached through the tunnel to `PEER`.
const REMOTE: &str = "10.244.2.9";
/// Reached through `ROUTER`.
const WORLD: &str = "198.51.100.1";
/// There is no route.
const LOST: &str = "203.0.113.1";
const LOST_V6: &str = "2001:db8::1";
/// The largest inner packet of the tunnel to `PEER`, in bytes.
const TUNNEL_MTU: u16 = 1450;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn facts(port: PortId, role: Role, sources: &[&str]) -> (PortId, PortFacts) {
    let facts = PortFacts {
        role,
        mac: switch_mac(port),
        peer_mac: peer_mac(port),
        sources: sources.iter().map(|text| ip(text)).collect(),
        mtu: 1500,
        finish_checksums: false,
    };
    (port, facts)
}

/// A node with two pods, a host port, an uplink and one peer. Of the stations on the uplink only `known` are resolved.
fn tables(known: &[&str]) -> NodeTables {
    let ports = [
        facts(HOST, Role::Host, &[]),
        facts(UPLINK, Role::Uplink, &[]),
        facts(POD_A, Role::Pod, &[A, A_V6]),
        facts(POD_B, Role::Pod, &[B]),
    ];
    let peer = PeerId::new(0);
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let on_link = Target::OnLink { port: UPLINK };
    let routes = [
        (prefix("10.244.1.0/24"), Target::Unreachable),
        (prefix("fd00:1::/64"), Target::Unreachable),
        (prefix("10.244.2.0/24"), Target::Tunnel(peer)),
        (prefix("192.0.2.0/24"), on_link),
        (prefix("2001:db8:2::/64"), on_link),
        (
            prefix("198.51.100.0/24"),
            Target::Via {
                port: UPLINK,
                next_hop: ip(ROUTER),
            },
        ),
        (Prefix::host(ip(NODE)), Target::Port(HOST)),
        (Prefix::host(ip(GATEWAY)), Target::Switch),
        (Prefix::host(ip(GATEWAY_V6)), Target::Switch),
        (Prefix::host(ip(A)), Target::Port(POD_A)),
        (Prefix::host(ip(A_V6)), Target::Port(POD_A)),
        (Prefix::host(ip(B)), Target::Port(POD_B)),
    ];
    let link = |known: bool| {
        known.then_some(OuterLink {
            source: switch_mac(UPLINK),
            destination: peer_mac(UPLINK),
        })
    };
    let underlay = Underlay {
        port: UPLINK,
        next_hop: ip(PEER),
    };
    let ends = (v4(NODE), v4(PEER));
    let tunnel = Peer::new(
        ends,
        Tunnel::Ipip,
        underlay,
        TUNNEL_MTU,
        link(known.contains(&PEER)),
    );
    let local = Local {
        addresses: vec![ip("fe80::1"), ip(NODE), ip("10.244.1.0")],
        node_addresses: [ip(NODE), ip(PEER)].into(),
        gateways: vec![ip(GATEWAY), ip(GATEWAY_V6)],
        pod_prefixes: vec![prefix("10.244.1.0/24"), prefix("fd00:1::/64")],
        uplink: Some(UPLINK),
        host: Some(HOST),
        ..Local::default()
    };
    let ids = (0..).map(NeighbourId::new);
    let neighbours = ids
        .zip(known)
        .map(|(id, text)| (id, UPLINK, ip(text), peer_mac(UPLINK)));
    NodeTables {
        ports: Arc::new(PortTable::build(ports)),
        routes: Arc::new(RouteTable::build(routes)),
        neighbours: Arc::new(NeighbourTable::build(HashKey::random(), neighbours)),
        peers: Arc::new(PeerTable::build(
            [(peer, tunnel)],
            [(prefix("10.244.2.0/24"), peer)],
        )),
        local: Arc::new(local),
        ..NodeTables::default()
    }
}

/// An IP packet of either family, to be written by etherparse.
#[derive(Debug, Clone)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpNumber,
    hops: u8,
    /// TOS or traffic class.
    class: u8,
    id: u16,
    dont_fragment: bool,
    /// Offset in units of eight bytes, and whether more fragments follow; IPv4 only.
    fragment: (u16, bool),
    payload: Vec<u8>,
}

impl Packet {
    fn new(source: &str, destination: &str, protocol: IpNumber, payload: &[u8]) -> Self {
        Self {
            source: ip(source),
            destination: ip(destination),
            protocol,
            hops: 64,
            class: 0,
            id: 0,
            dont_fragment: false,
            fragment: (0, false),
            payload: payload.to_vec(),
        }
    }

    /// A datagram with so many bytes of data; checksum right.
    fn udp(source: &str, destination: &str, data_len: usize) -> Self {
        let data: Vec<u8> = (0..data_len).map(|i| i as u8).collect();
        let header = match (ip(source), ip(destination)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ip = Ipv4Header::new(0, 0, IpNumber::UDP, from.octets(), to.octets()).unwrap();
                etherparse::UdpHeader::with_ipv4_checksum(5000, 33434, &ip, &data)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    source: from.octets(),
                    destination: to.octets(),
                    ..Default::default()
                };
                etherparse::UdpHeader::with_ipv6_checksum(5000, 33434, &ip, &data)
            }
            _ => panic!("one family"),
        };
        Self::new(
            source,
            destination,
            IpNumber::UDP,
            &[&header.unwrap().to_bytes()[..], &data].concat(),
        )
    }

    /// A segment with a right checksum.
    fn tcp(source: &str, destination: &str, mut header: TcpHeader, data: &[u8]) -> Self {
        header.checksum = match (ip(source), ip(destination)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => header
                .calc_checksum_ipv4_raw(from.octets(), to.octets(), data)
                .unwrap(),
            (IpAddr::V6(from), IpAddr::V6(to)) => header
                .calc_checksum_ipv6_raw(from.octets(), to.octets(), data)
                .unwrap(),
            _ => panic!("one family"),
        };
        Self::new(
            source,
            destination,
            IpNumber::TCP,
            &[&header.to_bytes()[..], data].concat(),
        )
    }

    fn icmp_v4(source: &str, destination: &str, kind: etherparse::Icmpv4Type, body: &[u8]) -> Self {
        let header = etherparse::Icmpv4Header::with_checksum(kind, body);
        Self::new(
            source,
            destination,
            IpNumber::ICMP,
            &[&header.to_bytes()[..], body].concat(),
        )
    }

    fn icmp_v6(source: &str, destination: &str, kind: etherparse::Icmpv6Type, body: &[u8]) -> Self {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (ip(source), ip(destination)) else {
            panic!("IPv6")
        };
        let header = etherparse::Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), body).unwrap();
        Self::new(
            source,
            destination,
            IpNumber::IPV6_ICMP,
            &[&header.to_bytes()[..], body].concat(),
        )
    }

    /// Without an Ethernet header.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let len = self.payload.len() as u16;
                let mut header = Ipv4Header::new(
                    len,
                    self.hops,
                    self.protocol,
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                header.dscp = etherparse::IpDscp::try_new(self.class >> 2).unwrap();
                header.ecn = etherparse::IpEcn::try_new(self.class & 3).unwrap();
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment;
                header.fragment_offset = IpFragOffset::try_new(self.fragment.0).unwrap();
                header.more_fragments = self.fragment.1;
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes).unwrap();
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::try_new(0).unwrap(),
                    payload_length: self.payload.len() as u16,
                    next_header: self.protocol,
                    hop_limit: self.hops,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                header.write(&mut bytes).unwrap();
            }
            _ => panic!("one family"),
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// With an Ethernet header between these stations.
    fn frame(&self, destination: MacAddr, source: MacAddr) -> Vec<u8> {
        let ether_type: [u8; 2] = if self.source.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        };
        [&destination.0[..], &source.0, &ether_type, &self.bytes()].concat()
    }

    /// As the slow path sends it for the pipeline to find its way.
    fn walking(&self) -> Vec<u8> {
        self.frame(MacAddr::ZERO, MacAddr::ZERO)
    }

    /// As it comes in at a port and goes to the slow path.
    fn punt(&self, ingress: PortId, reason: PuntReason, detail: PuntDetail) -> Punt {
        punt(
            ingress,
            reason,
            detail,
            &self.frame(switch_mac(ingress), peer_mac(ingress)),
        )
    }
}

/// What came in at this port, and waited.
fn waited(port: PortId) -> Origin {
    let network = NetworkId::CLUSTER;
    Origin::Held { port, network }
}

fn punt(ingress: PortId, reason: PuntReason, detail: PuntDetail, frame: &[u8]) -> Punt {
    Punt {
        worker: 0,
        ingress,
        network: NetworkId::CLUSTER,
        reason,
        detail,
        packet: PacketCopy::new(frame),
    }
}

/// A slow path that may send as much as it likes.
fn slow_path() -> SlowPath {
    slow_path_of(1_000_000)
}

/// One that sends so many ICMP errors a second.
fn slow_path_of(icmp_errors_per_second: usize) -> SlowPath {
    let config = SlowPathConfig {
        icmp_errors_per_second,
    };
    SlowPath::new(config, learned())
}

fn learned() -> Learned {
    Learned {
        fdb: Arc::new(Fdb::new(64, HashKey::random())),
        listeners: Publisher::new(Listeners::default()),
    }
}

/// The counters that are not zero, `punts` left out.
fn moved(slow_path: &SlowPath) -> BTreeMap<&'static str, u64> {
    let mut counters = slow_path.stats().read();
    counters.retain(|name, count| *count > 0 && *name != "punts");
    counters
}

/// Handles one packet with a slow path of its own: what it sends back, and the one counter that moved.
#[track_caller]
fn handle_one(name: &str, punt: &Punt, tables: &NodeTables) -> (Option<(Way, Vec<u8>)>, &'static str) {
    let mut slow_path = slow_path();
    let actions = slow_path.handle(punt, tables, Instant::now());
    assert_eq!(actions.request, None, "{name}");
    let moved = moved(&slow_path);
    assert_eq!(moved.values().sum::<u64>(), 1, "{name}: {moved:?}");
    let sent = actions
        .injection
        .map(|injection| (injection.way, injection.packet.bytes().to_vec()));
    (sent, moved.into_keys().next().unwrap())
}

/// A row: the packet handed in, the packet expected back, the counter expected to move.
struct Row {
    name: &'static str,
    punt: Punt,
    expected: Option<(Way, Vec<u8>)>,
    counter: &'static str,
}

/// A row that is answered by a packet of the switch's own.
fn answered(name: &'static str, punt: Punt, answer: &Packet, counter: &'static str) -> Row {
    Row {
        name,
        punt,
        expected: Some((Way::Walk(Origin::Switch(NetworkId::CLUSTER)), answer.walking())),
        counter,
    }
}

/// A row that is not answered.
fn silent(name: &'static str, punt: Punt, counter: &'static str) -> Row {
    Row {
        name,
        punt,
        expected: None,
        counter,
    }
}

#[track_caller]
fn check(rows: impl IntoIterator<Item = Row>, tables: &NodeTables) {
    for row in rows {
        let (sent, counter) = handle_one(row.name, &row.punt, tables);
        assert_eq!(counter, row.counter, "{}", row.name);
        assert_eq!(sent, row.expected, "{}", row.name);
    }
}
