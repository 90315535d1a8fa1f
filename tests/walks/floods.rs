//! Floods and blind attacks on what the switch remembers of connections: SYNs that are never completed, a pod that opens
//! without end, tuples made to collide, and segments of someone who only guesses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{
    FlowOptions, FlowShard, FlowTable, New, ProtocolState, TcpState, Tuple, TupleV4,
};
use millrace_dataplane::table::{NetworkId, Tick};
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_dataplane::wire::{IpProtocol, Ports};

use crate::packets::{Body, Family, IPV4, IPV6, Ip, ethernet};
use crate::world::{Node, host, pod, pod_port, router_mac, station_mac, switch_mac, tables, uplink, world};

/// Connections that the small tables of these tests have room for.
const ROOM: u32 = 1024;
/// Many times as many as there is room for.
const FLOOD: u32 = 20 * ROOM;
/// What a client sends first, and a server.
const CLIENT_FIRST: u32 = 1_000;
const SERVER_FIRST: u32 = 900_000;
/// What both say that they take, in bytes; nobody scales.
const WINDOW: u16 = 8_192;
const SERVER_PORT: u16 = 80;

/// Control bits of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flags {
    Syn,
    SynAck,
    Ack,
    Rst,
    RstAck,
    FinAck,
}

/// Who sends: the client out in the world, or the server in pod 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

/// A TCP connection from the world to pod 2.
#[derive(Debug, Clone, Copy)]
struct Talk {
    family: Family,
    client: IpAddr,
    port: u16,
}

impl Talk {
    /// The connection of a number, below 2^24.
    fn of(family: Family, number: u32) -> Self {
        let [_, high, middle, low] = number.to_be_bytes();
        let last = 1 + low % 200;
        let client = match family {
            Family::V4 => IpAddr::from([203, high, middle, last]),
            Family::V6 => {
                let number = u16::from_be_bytes([high, middle]);
                IpAddr::from([0x2001, 0xdb8, 0xcb, number, 0, 0, 0, last.into()])
            }
        };
        let port = 1024 + u16::from(low);
        Self { family, client, port }
    }

    fn tuple<A>(self, source: A, destination: A) -> Tuple<A> {
        Tuple {
            source,
            destination,
            protocol: IpProtocol::TCP,
            ports: Ports {
                source: self.port,
                destination: SERVER_PORT,
            },
            network: NetworkId::CLUSTER,
        }
    }

    /// A segment, with so many bytes of data, in a frame, and the port that it comes in at.
    fn segment(
        self,
        from: End,
        flags: Flags,
        sequence: u32,
        acknowledged: u32,
        len: usize,
    ) -> (PortId, Vec<u8>) {
        let (client, server) = ((self.client, self.port), (server(self.family), SERVER_PORT));
        let (source, destination) = match from {
            End::Client => (client, server),
            End::Server => (server, client),
        };
        let (ip, ether_type) = match (source.0, destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => (
                PacketBuilder::ipv4(source.octets(), destination.octets(), 64),
                IPV4,
            ),
            (IpAddr::V6(source), IpAddr::V6(destination)) => (
                PacketBuilder::ipv6(source.octets(), destination.octets(), 64),
                IPV6,
            ),
            mixed => panic!("{mixed:?}"),
        };
        let plain = ip.tcp(source.1, destination.1, sequence, WINDOW);
        let step = match flags {
            Flags::Syn => plain.syn(),
            Flags::SynAck => plain.syn().ack(acknowledged),
            Flags::Ack => plain.ack(acknowledged),
            Flags::Rst => plain.rst(),
            Flags::RstAck => plain.rst().ack(acknowledged),
            Flags::FinAck => plain.fin().ack(acknowledged),
        };
        let mut packet = Vec::new();
        step.write(&mut packet, &vec![b'.'; len]).unwrap();
        let (port, from) = match from {
            End::Client => (uplink(), router_mac()),
            End::Server => (pod_port(2), station_mac(1, pod_port(2))),
        };
        (port, ethernet(switch_mac(1, port), from, ether_type, &packet))
    }

    fn syn(self) -> (PortId, Vec<u8>) {
        self.segment(End::Client, Flags::Syn, CLIENT_FIRST, 0, 0)
    }

    /// The whole handshake; every segment must pass.
    fn establish(self, node: &mut Node) {
        let (client, server) = (CLIENT_FIRST, SERVER_FIRST);
        let handshake = [
            self.syn(),
            self.segment(End::Server, Flags::SynAck, server, client + 1, 0),
            self.segment(End::Client, Flags::Ack, client + 1, server + 1, 0),
        ];
        for (step, (port, frame)) in handshake.into_iter().enumerate() {
            let verdict = node.receive(port, &frame).0;
            assert!(is_forward(verdict), "step {step} of {self:?}: {verdict:?}");
        }
    }

    /// One segment of data each way; both must pass, and the connection still be established.
    fn lives(self, node: &mut Node) -> Result<(), String> {
        let (client, server) = (CLIENT_FIRST + 1, SERVER_FIRST + 1);
        for (from, sequence, acknowledged) in [(End::Client, client, server), (End::Server, server, client)] {
            let (port, frame) = self.segment(from, Flags::Ack, sequence, acknowledged, 100);
            let verdict = node.receive(port, &frame).0;
            if !is_forward(verdict) {
                return Err(format!("data of the {from:?}: {verdict:?}"));
            }
        }
        match self.state(node) {
            Some(ProtocolState::Tcp(TcpState::Established)) => Ok(()),
            state => Err(format!("its state: {state:?}")),
        }
    }

    fn state(self, node: &Node) -> Option<ProtocolState> {
        let flows = &node.connections.flows;
        match (self.client, server(self.family)) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                let flow = flows.v4().lookup(&self.tuple(client, server))?;
                flows.v4().connection(flow.id).map(|connection| connection.state)
            }
            (IpAddr::V6(client), IpAddr::V6(server)) => {
                let flow = flows.v6().lookup(&self.tuple(client, server))?;
                flows.v6().connection(flow.id).map(|connection| connection.state)
            }
            mixed => panic!("{mixed:?}"),
        }
    }
}

fn server(family: Family) -> IpAddr {
    pod(family, 1, 2)
}

fn is_forward(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Forward(_))
}

fn node(per_pod: u32) -> Node {
    let options = FlowOptions {
        ipv4: ROOM,
        ipv6: ROOM,
        per_pod,
        ..FlowOptions::default()
    };
    Node::with_flows(tables(1), &options)
}

/// Counts verdicts; a packet that was forwarded counts as `None`.
fn tally(verdicts: impl IntoIterator<Item = Verdict>) -> BTreeMap<Option<&'static str>, u32> {
    let mut counts = BTreeMap::new();
    for verdict in verdicts {
        let reason = match verdict {
            Verdict::Forward(_) => None,
            Verdict::Drop(reason) => Some(reason.name()),
            Verdict::Punt(..) | Verdict::Replicate(_) => panic!("{verdict:?}"),
        };
        *counts.entry(reason).or_default() += 1;
    }
    counts
}

/// Sends the SYNs of these connections and nothing else, and counts what became of them.
fn flood(
    node: &mut Node,
    family: Family,
    numbers: impl Iterator<Item = u32>,
) -> BTreeMap<Option<&'static str>, u32> {
    tally(numbers.map(|number| {
        let (port, frame) = Talk::of(family, number).syn();
        node.receive(port, &frame).0
    }))
}

#[test]
fn a_syn_flood_takes_the_place_of_half_open_connections_only() {
    for family in Family::BOTH {
        let mut node = node(0);
        let established: Vec<Talk> = (0..ROOM / 4).map(|number| Talk::of(family, number)).collect();
        established.iter().for_each(|talk| talk.establish(&mut node));

        let counts = flood(&mut node, family, ROOM..ROOM + FLOOD);
        let flows = &node.connections.flows;
        let count = if family == Family::V4 {
            flows.v4().len()
        } else {
            flows.v6().len()
        };
        assert!(count <= ROOM && count > ROOM * 9 / 10, "{family:?}: {count}");
        let known = [None, Some(DropReason::FlowTableFull.name())];
        assert!(counts.keys().all(|reason| known.contains(reason)), "{counts:?}");
        for talk in &established {
            talk.lives(&mut node)
                .unwrap_or_else(|why| panic!("{talk:?}: {why}"));
        }
        // Whoever means it still gets through: the oldest SYNs of the flood make room.
        let honest = (2 * FLOOD..2 * FLOOD + 100).map(|number| Talk::of(family, number));
        for talk in honest {
            talk.establish(&mut node);
            talk.lives(&mut node)
                .unwrap_or_else(|why| panic!("{talk:?}: {why}"));
        }
        for talk in &established {
            talk.lives(&mut node)
                .unwrap_or_else(|why| panic!("{talk:?}: {why}"));
        }
    }
}

#[test]
fn a_table_full_of_established_connections_stays_as_it_is() {
    for family in Family::BOTH {
        let mut node = node(0);
        let mut established = Vec::new();
        // The last few may find no place near their buckets; from then on the table counts as full.
        for talk in (0..2 * ROOM).map(|number| Talk::of(family, number)) {
            let (port, frame) = talk.syn();
            match node.receive(port, &frame).0 {
                Verdict::Forward(_) => {
                    talk.establish(&mut node);
                    established.push(talk);
                }
                Verdict::Drop(DropReason::FlowTableFull) => break,
                end @ (Verdict::Drop(_) | Verdict::Punt(..) | Verdict::Replicate(_)) => panic!("{end:?}"),
            }
        }
        assert!(
            established.len() > ROOM as usize * 9 / 10,
            "{}",
            established.len()
        );
        let counts = flood(&mut node, family, 4 * ROOM..4 * ROOM + FLOOD);
        let full = counts
            .get(&Some(DropReason::FlowTableFull.name()))
            .copied()
            .unwrap_or(0);
        assert!(full > FLOOD * 9 / 10, "{counts:?}");
        for talk in &established {
            talk.lives(&mut node)
                .unwrap_or_else(|why| panic!("{talk:?}: {why}"));
        }
    }
}

/// A datagram from a pod of node 1 to the world.
fn datagram(family: Family, pod_number: u8, port: u16) -> (PortId, Vec<u8>) {
    let ip = Ip::udp(pod(family, 1, pod_number), world(family));
    let ip = ip.body(Body::Udp(port, 53, b"?".to_vec()));
    let ingress = pod_port(pod_number);
    (ingress, ip.frame(switch_mac(1, ingress), station_mac(1, ingress)))
}

#[test]
fn a_pod_that_opens_without_end_is_held_to_its_share() {
    for family in Family::BOTH {
        const SHARE: u32 = 32;
        let mut node = node(SHARE);
        let opened = |node: &mut Node, pod_number: u8, ports: std::ops::Range<u16>| {
            tally(ports.map(|port| {
                let (ingress, frame) = datagram(family, pod_number, port);
                node.receive(ingress, &frame).0
            }))
        };
        let counts = opened(&mut node, 2, 1000..1500);
        let cap = Some(DropReason::FlowPodCap.name());
        assert_eq!(counts, BTreeMap::from([(None, SHARE), (cap, 500 - SHARE)]));
        // What it has goes on, others have their own share, and whoever calls the pod is not charged to it.
        assert_eq!(opened(&mut node, 2, 1000..1032), BTreeMap::from([(None, SHARE)]));
        assert_eq!(opened(&mut node, 3, 1000..1010), BTreeMap::from([(None, 10)]));
        Talk::of(family, 1).establish(&mut node);
        let (port, frame) = (host(), {
            let ip = Ip::udp(pod(family, 1, 0), pod(family, 1, 2));
            ip.frame(switch_mac(1, host()), station_mac(1, host()))
        });
        assert!(is_forward(node.receive(port, &frame).0));
        // Once they are forgotten there is room for as many again.
        node.wait(node.connections.timeouts.udp_s + 1);
        let again = opened(&mut node, 2, 2000..2500);
        assert_eq!(again, BTreeMap::from([(None, SHARE), (cap, 500 - SHARE)]));
    }
}

/// A guess, and whether it may reach the other side, which then decides by itself.
struct Guess {
    name: &'static str,
    from: End,
    flags: Flags,
    sequence: u32,
    acknowledged: u32,
    passes: Option<bool>,
}

fn guess(name: &'static str, from: End, flags: Flags, (sequence, acknowledged): (u32, u32)) -> Guess {
    Guess {
        name,
        from,
        flags,
        sequence,
        acknowledged,
        passes: None,
    }
}

impl Guess {
    fn never_passes(self) -> Self {
        Self {
            passes: Some(false),
            ..self
        }
    }
}

/// What someone sends who knows the addresses and ports of a connection, and not where it is.
fn guesses() -> Vec<Guess> {
    let (client, server) = (CLIENT_FIRST + 1, SERVER_FIRST + 1);
    let far = 1 << 30;
    let (beyond, before) = (u32::from(WINDOW) + 100, 70_000);
    use End::{Client, Server};
    use Flags::{Ack, FinAck, Rst, RstAck, Syn, SynAck};
    vec![
        guess("a reset beyond the window", Client, Rst, (client + beyond, 0)).never_passes(),
        guess(
            "a reset far beyond it",
            Client,
            Rst,
            (client.wrapping_add(far), 0),
        )
        .never_passes(),
        guess("a reset before it", Client, Rst, (client.wrapping_sub(before), 0)).never_passes(),
        guess("a reset of the server's", Server, Rst, (server + beyond, 0)).never_passes(),
        guess(
            "a reset that acknowledges",
            Server,
            RstAck,
            (server.wrapping_add(far), client),
        )
        .never_passes(),
        guess("a reset numbered zero", Client, Rst, (0, 0)).never_passes(),
        guess("a SYN in the middle", Client, Syn, (client + 50, 0)),
        guess("a SYN from anywhere", Client, Syn, (client.wrapping_add(far), 0)),
        guess("a SYN from the server", Server, Syn, (server + 50, 0)),
        guess("the old SYN again", Client, Syn, (CLIENT_FIRST, 0)),
        guess("the old SYN-ACK again", Server, SynAck, (SERVER_FIRST, client)),
        guess(
            "another SYN-ACK",
            Server,
            SynAck,
            (server.wrapping_add(far), client),
        ),
        guess("a SYN-ACK of the client's", Client, SynAck, (client, server)),
        guess(
            "a FIN far beyond the window",
            Client,
            FinAck,
            (client.wrapping_add(far), server),
        )
        .never_passes(),
        guess(
            "data far beyond the window",
            Client,
            Ack,
            (client.wrapping_add(far), server),
        )
        .never_passes(),
        guess(
            "an acknowledgment of what was never sent",
            Client,
            Ack,
            (client, server.wrapping_add(far)),
        )
        .never_passes(),
    ]
}

#[test]
fn who_only_guesses_tears_nothing_down() {
    for family in Family::BOTH {
        for Guess {
            name,
            from,
            flags,
            sequence,
            acknowledged,
            passes,
        } in guesses()
        {
            let mut node = node(0);
            let talk = Talk::of(family, 7);
            talk.establish(&mut node);
            talk.lives(&mut node)
                .unwrap_or_else(|why| panic!("before {name}: {why}"));
            for _ in 0..3 {
                let (port, frame) = talk.segment(from, flags, sequence, acknowledged, 0);
                let verdict = node.receive(port, &frame).0;
                let dropped = matches!(
                    verdict,
                    Verdict::Drop(DropReason::TcpWindow | DropReason::TcpInvalid)
                );
                assert!(dropped || is_forward(verdict), "{name}: {verdict:?}");
                if let Some(passes) = passes {
                    assert_eq!(is_forward(verdict), passes, "{name}: {verdict:?}");
                }
            }
            talk.lives(&mut node)
                .unwrap_or_else(|why| panic!("after {name}: {why}"));
            // Nor is it remembered for a shorter time than an established connection.
            node.wait(
                node.connections
                    .timeouts
                    .tcp_half_open_s
                    .max(node.connections.timeouts.tcp_half_closed_s)
                    + 1,
            );
            talk.lives(&mut node)
                .unwrap_or_else(|why| panic!("long after {name}: {why}"));
        }
    }
}

#[test]
fn a_reset_that_is_right_does_end_it() {
    for family in Family::BOTH {
        let mut node = node(0);
        let talk = Talk::of(family, 7);
        talk.establish(&mut node);
        let (port, frame) = talk.segment(End::Client, Flags::Rst, CLIENT_FIRST + 1, 0, 0);
        assert!(is_forward(node.receive(port, &frame).0));
        let state = talk.state(&node);
        assert_eq!(state, Some(ProtocolState::Tcp(TcpState::Reset)));
        node.wait(node.connections.timeouts.tcp_reset_s + 1);
        assert_eq!(talk.state(&node), None);
    }
}

/// How many tuples an attacker sends: a quarter of the table's room.
const COLLIDING: usize = 1 << 12;
/// How many bits of a hash are alike in the tuples that an attacker computed for a table of his own.
const ALIKE_BITS: u32 = 8;

fn shard_of(table: &FlowTable) -> &FlowShard<Ipv4Addr> {
    table.v4()
}

fn large_table() -> FlowTable {
    let options = FlowOptions {
        ipv4: 4 * COLLIDING as u32,
        ipv6: 1,
        ..FlowOptions::default()
    };
    FlowTable::in_memory(&options).unwrap()
}

fn tuple(source: u32, port: u16) -> TupleV4 {
    Tuple {
        source: Ipv4Addr::from_bits(source),
        destination: Ipv4Addr::new(10, 244, 1, 2),
        protocol: IpProtocol::UDP,
        ports: Ports {
            source: port,
            destination: 53,
        },
        network: NetworkId::CLUSTER,
    }
}

/// Tuples as anyone has them: a permutation of 32 bits.
fn harmless() -> Vec<TupleV4> {
    (0..COLLIDING as u32)
        .map(|number| {
            tuple(
                number.wrapping_mul(0x9e37_79b1),
                1024 + (number.wrapping_mul(0x85eb) % 60_000) as u16,
            )
        })
        .collect()
}

/// Tuples that collide without a secret, in one way or another.
fn attacks() -> [(&'static str, Vec<TupleV4>); 4] {
    let count = COLLIDING as u32;
    let own = large_table();
    let alike = |bits: fn(u64) -> u64| -> Vec<TupleV4> {
        (0_u32..)
            .map(|number| tuple(number, 4000))
            .filter(|tuple| bits(shard_of(&own).hash(tuple).bits()) == 0)
            .take(COLLIDING)
            .collect()
    };
    [
        (
            "one after the other",
            (0..count)
                .map(|number| tuple(0x0a00_0000 + number, 4000))
                .collect(),
        ),
        (
            "with the same sum and exclusive or of all halves",
            (0..count)
                .map(|number| tuple(0x0a00_0000 | (number & 0xffff) << 8, (number & 0xffff) as u16))
                .collect(),
        ),
        (
            "alike at the end under another secret",
            alike(|hash| hash & ((1 << ALIKE_BITS) - 1)),
        ),
        (
            "alike at the start under another secret",
            alike(|hash| hash >> (64 - ALIKE_BITS)),
        ),
    ]
}

/// How long it takes to claim these connections in an empty table, and to look each of them up.
fn cost(tuples: &[TupleV4]) -> Duration {
    let table = large_table();
    let (shard, now) = (shard_of(&table), Tick::from_seconds(1));
    let started = Instant::now();
    for original in tuples {
        let new = New {
            original: *original,
            reply: original.reversed(),
            opener: None,
            binding: None,
            segment: None,
        };
        shard
            .claim(&new, now)
            .unwrap_or_else(|error| panic!("{original}: {error}"));
    }
    for tuple in tuples {
        assert!(shard.lookup(tuple).is_some(), "{tuple}");
    }
    started.elapsed()
}

#[test]
fn tuples_made_to_collide_without_the_secret_cost_at_most_twice_as_much() {
    // On a machine that others use as well the best round of each side is all that says something.
    const ROUNDS: std::ops::Range<usize> = 9..200;
    let harmless = harmless();
    for (name, attack) in attacks() {
        let (mut usual, mut attacked) = (Duration::MAX, Duration::MAX);
        let mut rounds = 0;
        while rounds < ROUNDS.start || (attacked > 2 * usual && rounds < ROUNDS.end) {
            usual = usual.min(cost(&harmless));
            attacked = attacked.min(cost(&attack));
            rounds += 1;
        }
        assert!(
            attacked <= 2 * usual,
            "{name}: {attacked:?}, and usually {usual:?}"
        );
    }
}
