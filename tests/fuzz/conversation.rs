//! Conversations: packets of clients to Services, pods and the world, whole and in pieces, answers to what was forwarded,
//! ICMP errors about it, endpoints that go and come, and time that passes, as the fuzzer likes.
//!
//! What must hold of each: checksums that were right stay right; an answer arrives where the question came from, and
//! says that it comes from whom the question was for; no part of a packet is forwarded twice.

use std::collections::HashMap;
use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::NodeTables;
use millrace_dataplane::verdict::{PuntDetail, PuntReason, Verdict};

use crate::packets::{Body, Family, Ip, Segment, cut, patch, patch_ipv4, payload_at};
use crate::served::{NODE_PORT, PORT, VIPS, every_backend, node};
use crate::sketch::{external, vip};
use crate::world::{
    Node, VNI, VXLAN_PORT, after_steering, host, node_address, outer, pod, pod_port, router_mac, station_mac,
    switch_mac, uplink, vtep_mac, world,
};

/// Bytes of one step, and how many steps a conversation has at most.
const STEP: usize = 8;
const STEPS: usize = 48;
/// Bytes of payload: enough for pieces.
const PAYLOAD: usize = 200;

/// Who sends, or receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Pod(u8),
    Host,
    /// Behind the tunnel from this node.
    Peer(u8),
    World,
}

/// Addresses, protocol and ports; an echo's id counts as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    protocol: u8,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// A question that was forwarded.
#[derive(Debug, Clone, Copy)]
struct Asked {
    came: (Place, Ends),
    left: (Place, Ends),
}

/// A conversation under way.
struct Talk<'t> {
    node: Node,
    tables: &'t [NodeTables; 2],
    asked: Vec<Asked>,
    /// What has been forwarded of packets in pieces, and where they end.
    passed: HashMap<(IpAddr, IpAddr, u8, u8), (Vec<(usize, usize)>, Option<usize>)>,
    /// Whether TCP may have been told that it is over.
    is_torn: bool,
}

/// Runs a conversation on a node of its own.
pub fn run(tables: &[NodeTables; 2], steps: &[u8], check_exit: impl Fn(PortId, &[u8])) {
    let mut talk = Talk {
        node: node(&tables[0]),
        tables,
        asked: Vec::new(),
        passed: HashMap::new(),
        is_torn: false,
    };
    for step in steps.chunks_exact(STEP).take(STEPS) {
        let step: [u8; STEP] = step.try_into().expect("a whole step");
        match step[0] % 16 {
            0..8 => talk.ask(step, &check_exit),
            8..13 => talk.answer(step, &check_exit),
            13 => talk.complain(step, &check_exit),
            14 => talk.change(step[1]),
            _ => talk.wait(step[1]),
        }
    }
}

impl Ends {
    fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }

    fn family(&self) -> Family {
        if self.source.0.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// A packet between them; `form` says which flags a TCP segment has.
    fn packet(&self, form: u8, is_reply: bool) -> Ip {
        let data = vec![form; PAYLOAD];
        let (from, to) = (self.source.1, self.destination.1);
        let body = match self.protocol {
            17 => Body::Udp(from, to, data),
            6 => Body::Segment(Segment {
                ports: (from, to),
                sequence: 1000 + u32::from(form >> 5),
                acknowledgment: (form & 1 != 0).then_some(1000),
                window: 8000,
                syn: form & 2 != 0,
                fin: form & 4 != 0,
                rst: form & 24 == 24,
                options: Vec::new(),
                data,
            }),
            132 => Body::Sctp(from, to, data),
            _ if is_reply => Body::EchoReply(from, data),
            _ => Body::Echo(from, data),
        };
        Ip::udp(self.source.0, self.destination.0).body(body)
    }

    /// Those of a frame, out of its tunnel, as a stranger reads it; `None` of what has no ports.
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Arp(_) => return None,
        };
        let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
        let word = |at: usize| {
            let at = payload_at(family) + at;
            Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
        };
        let protocol = frame[if family == Family::V4 { 23 } else { 20 }];
        let (from, to) = match protocol {
            6 | 17 | 132 => (word(0)?, word(2)?),
            1 | 58 => (word(4)?, word(4)?),
            _ => return None,
        };
        Some(Self {
            protocol,
            source: (source, from),
            destination: (destination, to),
        })
    }
}

impl Place {
    fn of(choice: u8) -> Self {
        match choice % 6 {
            0 | 1 => Self::Pod(2),
            2 => Self::Pod(3),
            3 => Self::Host,
            4 => Self::Peer(2),
            _ => Self::World,
        }
    }

    fn port(self) -> PortId {
        match self {
            Self::Pod(number) => pod_port(number),
            Self::Host => host(),
            Self::Peer(_) | Self::World => uplink(),
        }
    }

    fn address(self, family: Family) -> IpAddr {
        match self {
            Self::Pod(number) => pod(family, 1, number),
            Self::Host => node_address(family, 1),
            Self::Peer(node) => pod(family, node, 5),
            Self::World => world(family),
        }
    }

    /// The link addresses of a frame from there, out of its tunnel.
    fn frame(self, ip: &Ip) -> Vec<u8> {
        match self {
            Self::Pod(_) | Self::Host => ip.frame(switch_mac(1, self.port()), station_mac(1, self.port())),
            Self::Peer(node) => ip.frame(vtep_mac(1), vtep_mac(node)),
            Self::World => ip.frame(switch_mac(1, uplink()), router_mac()),
        }
    }

    /// What comes in at the port.
    fn wrap(self, frame: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Peer(3) => (frame[12..14] == [8, 0]).then(|| outer(3, 1).ipip(&frame[14..])),
            Self::Peer(node) => Some(outer(node, 1).vxlan((40_000, VXLAN_PORT), VNI, &frame)),
            Self::Pod(_) | Self::Host | Self::World => Some(frame),
        }
    }

    /// Where a frame leaves to, and what it is out of its tunnel.
    fn unwrap(exit: PortId, frame: &[u8]) -> Option<(Self, Vec<u8>)> {
        if exit == host() {
            return Some((Self::Host, frame.to_vec()));
        }
        if let Some(number) = [2, 3].into_iter().find(|number| exit == pod_port(*number)) {
            return Some((Self::Pod(number), frame.to_vec()));
        }
        if exit != uplink() {
            return None;
        }
        let peer = (2..=3).find(|node| {
            frame[12..14] == [8, 0]
                && IpAddr::from([frame[30], frame[31], frame[32], frame[33]])
                    == node_address(Family::V4, *node)
        });
        match (peer, frame[23]) {
            (Some(node), 17) if frame[36..38] == VXLAN_PORT.to_be_bytes() => {
                Some((Self::Peer(node), frame[50..].to_vec()))
            }
            (Some(node), 4) => Some((Self::Peer(node), [&frame[..14], &frame[34..]].concat())),
            _ => Some((Self::World, frame.to_vec())),
        }
    }
}

impl Talk<'_> {
    /// A packet of a client's.
    fn ask(
        &mut self,
        [_, who, whom, protocol, port, form, piece, id]: [u8; STEP],
        check: &impl Fn(PortId, &[u8]),
    ) {
        let from = Place::of(who);
        let family = Family::BOTH[usize::from(who & 0x80 != 0)];
        let (address, service_port) = match whom % 20 {
            number @ 0..7 => (vip(family, 1 + number % VIPS), PORT),
            number @ 7..10 => (external(family, 2 + number), PORT),
            10 | 11 => (node_address(family, 1), NODE_PORT),
            12 => (world(family), 53),
            13 => (pod(family, 1, 3), 8080),
            14 => (pod(family, 2, 5), 5353),
            15 => (vip(family, 200), PORT),
            16 => (vip(family, 1), 81),
            17 => (pod(family, 1, 1), NODE_PORT),
            18 => (pod(family, 1, 2), 8080),
            _ => (node_address(family, 1), 61_000 + u16::from(port)),
        };
        let echo = if family == Family::V4 { 1 } else { 58 };
        let protocol = [17, 6, 132, echo][usize::from(protocol % 4)];
        let client_port = [1000, 61_000][usize::from(port & 1)] + u16::from(port >> 1) % 8;
        let ends = Ends {
            protocol,
            source: (from.address(family), client_port),
            destination: (
                address,
                if protocol == echo {
                    client_port
                } else {
                    service_port
                },
            ),
        };
        self.send(from, ends, (form, false, piece, id), check);
    }

    /// One of the packets that were forwarded; `None` if none was.
    fn one_of(&self, which: u8) -> Option<Asked> {
        self.asked
            .get(usize::from(which) % self.asked.len().max(1))
            .copied()
    }

    /// An answer to something that was forwarded, from where it went to.
    fn answer(&mut self, [_, which, _, _, _, form, piece, id]: [u8; STEP], check: &impl Fn(PortId, &[u8])) {
        let Some(asked) = self.one_of(which) else { return };
        let (from, ends) = (asked.left.0, asked.left.1.reversed());
        let Some((to, arrived)) = self.send(from, ends, (form, true, piece, id), check) else {
            return;
        };
        let (caller, question) = asked.came;
        let is_whole = piece & 0x80 == 0;
        if is_whole && !(self.is_torn && ends.protocol == 6) {
            assert_eq!(
                (to, arrived),
                (caller, question.reversed()),
                "the answer to {asked:?}"
            );
        }
    }

    /// Sends a packet, or a piece of one; answers where it left to, and as what.
    fn send(
        &mut self,
        from: Place,
        ends: Ends,
        (form, is_reply, piece, id): (u8, bool, u8, u8),
        check: &impl Fn(PortId, &[u8]),
    ) -> Option<(Place, Ends)> {
        self.is_torn |= ends.protocol == 6 && form & (4 | 2) != 0 || form & 24 == 24;
        let whole = from.frame(&ends.packet(form, is_reply));
        let is_piece = piece & 0x80 != 0;
        let frame = if is_piece {
            self.piece(ends, &whole, piece, id)?
        } else {
            whole
        };
        let mut packet = from.wrap(frame.clone())?;
        if !is_piece {
            // What the link fills short frames up with.
            packet.resize(packet.len() + usize::from(piece % 32), 0xa5);
        }
        let (mut verdict, mut left) = self.node.receive(from.port(), &packet);
        if let Verdict::Punt(PuntReason::EchoId, PuntDetail::Answers(..)) = verdict {
            (verdict, left) = self.node.originate(after_steering(from.port()), &frame);
        }
        let Verdict::Forward(exit) = verdict else {
            return None;
        };
        check(exit, &left);
        let (to, inner) = Place::unwrap(exit, &left)?;
        if is_piece {
            self.note_piece(ends, piece, id);
            return None;
        }
        check_sums(&inner);
        let left = Ends::of(&inner).expect("what had ports has them still");
        assert_eq!(left.protocol, ends.protocol);
        if !is_reply {
            self.asked.push(Asked {
                came: (from, ends),
                left: (to, left),
            });
        }
        Some((to, left))
    }

    /// Which part of its packet a piece is, in bytes, and whether more follow.
    fn part(piece: u8) -> (usize, usize, bool) {
        let (start, len) = (usize::from(piece >> 3 & 0xf) * 8, 8 << (piece & 3));
        (start, start + len, piece & 4 == 0)
    }

    fn piece(&self, ends: Ends, whole: &[u8], piece: u8, id: u8) -> Option<Vec<u8>> {
        let (start, end, more) = Self::part(piece);
        let family = ends.family();
        let frame = cut(family, whole, start..end, more);
        Some(match family {
            Family::V4 => patch_ipv4(frame, 18, &[0, id % 4]),
            Family::V6 => patch(frame, 61, &[id % 4]),
        })
    }

    /// No part of a packet goes on twice, until all of it has.
    fn note_piece(&mut self, ends: Ends, piece: u8, id: u8) {
        let (start, end, more) = Self::part(piece);
        if start == 0 && !more {
            // All of a packet in a piece's clothes is judged by itself (RFC 6946).
            return;
        }
        // In IPv6 the protocol does not tell packets apart.
        let protocol = if ends.family() == Family::V4 {
            ends.protocol
        } else {
            0
        };
        let key = (ends.source.0, ends.destination.0, protocol, id % 4);
        let (passed, last) = self.passed.entry(key).or_default();
        let is_new = passed.iter().all(|(from, to)| end <= *from || *to <= start);
        assert!(is_new, "{start}..{end} of {key:?} goes on beside {passed:?}");
        passed.push((start, end));
        passed.sort_unstable();
        *last = if more { *last } else { Some(end) };
        let is_gapless = passed[0].0 == 0 && passed.windows(2).all(|pair| pair[0].1 == pair[1].0);
        if is_gapless && passed.last().map(|(_, end)| *end) == *last {
            // The packet is whole: its identifier may be used again.
            self.passed.remove(&key);
        }
    }

    /// An ICMP error about something that was forwarded, from whom it went to, or a router on the way.
    fn complain(&mut self, [_, which, kind, ..]: [u8; STEP], check: &impl Fn(PortId, &[u8])) {
        let Some(asked) = self.one_of(which) else { return };
        let (from, ends) = asked.left;
        let family = ends.family();
        let quoted = ends.packet(0, false).build();
        let code = if family == Family::V4 {
            [3, kind % 16, 0, 0, 0, 0, 2, 0]
        } else {
            [1 + kind % 4, 0, 0, 0, 0, 0, 5, 0]
        };
        let about = [&code[..], &quoted[..quoted.len().min(68 + usize::from(kind))]].concat();
        let protocol = if family == Family::V4 { 1 } else { 58 };
        let mut ip = Ip::udp(ends.destination.0, ends.source.0).body(Body::Raw(protocol, about));
        ip.body = Body::Raw(protocol, with_icmp_sum(&ip));
        let Some(packet) = from.wrap(from.frame(&ip)) else {
            return;
        };
        if let (Verdict::Forward(exit), left) = self.node.receive(from.port(), &packet) {
            check(exit, &left);
            if let Some((_, inner)) = Place::unwrap(exit, &left) {
                check_sums(&inner);
            }
        }
    }

    /// An endpoint of each Service goes, or they are all there again.
    fn change(&mut self, choice: u8) {
        let tables = self.tables[usize::from(choice & 1)].clone();
        self.node.publish_next(tables, &every_backend());
        // What was bound to an endpoint may be bound anew.
        self.asked.clear();
    }

    fn wait(&mut self, seconds: u8) {
        self.node.wait(u32::from(seconds));
        self.asked.clear();
        self.passed.clear();
    }
}

/// The ICMP message of a packet with its checksum.
fn with_icmp_sum(ip: &Ip) -> Vec<u8> {
    let frame = [&[0; 14], &ip.build()[..]].concat();
    let sum = transport_sum(ip.family(), &frame);
    let message = frame[payload_at(ip.family())..].to_vec();
    patch(message, 2, &(!sum).to_be_bytes())
}

/// The sum over a transport, with the addresses where it covers them (RFC 1071, RFC 8200 section 8.1).
fn transport_sum(family: Family, frame: &[u8]) -> u16 {
    let l4 = &frame[payload_at(family)..];
    let (addresses, protocol) = match family {
        Family::V4 => (&frame[26..34], frame[23]),
        Family::V6 => (&frame[22..54], frame[20]),
    };
    let len = u16::try_from(l4.len()).expect("a short packet").to_be_bytes();
    let pseudo = [addresses, &len, &[0, protocol]].concat();
    ones_complement(&if protocol == 1 {
        l4.to_vec()
    } else {
        [&pseudo, l4].concat()
    })
}

fn ones_complement(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// Every checksum of a whole packet is right. SCTP's is another kind, and has tests of its own.
fn check_sums(frame: &[u8]) {
    let family = if frame[12..14] == [8, 0] {
        Family::V4
    } else {
        Family::V6
    };
    if family == Family::V4 {
        assert_eq!(ones_complement(&frame[14..34]), 0xffff, "the header's checksum");
    }
    let protocol = frame[if family == Family::V4 { 23 } else { 20 }];
    if protocol != 132 {
        assert_eq!(
            transport_sum(family, frame),
            0xffff,
            "the checksum of protocol {protocol}"
        );
    }
}
