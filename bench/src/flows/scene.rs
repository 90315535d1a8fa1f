//! A table with so many flows, and what is done to it.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, ensure};
use millrace_dataplane::table::flow::{
    Address, Answer, Candidate, FlowId, FlowOptions, Hash, New, Onward, SweepCursor, TcpSegment, Timeouts,
    Tuple,
};
use millrace_dataplane::table::{Epoch, FlowShard, FlowTable, NetworkId, PeerId, SubjectId, Tick};
use millrace_dataplane::wire::{IpProtocol, Ports, TcpFlags};

use crate::random::Random;

/// Lookups in a batch, as a worker's.
const BATCH: usize = 64;
/// Lookups in a small batch, as others do them.
const SIXTEEN: usize = 16;
/// Connections of each family that there is room for.
const ROOM: u32 = 1 << 20;
/// Records that a sweep looks at in one turn.
const SWEEP: u32 = 16;
/// The moment at which everything happens.
const NOW: Tick = Tick::from_seconds(1000);
/// Clients from this number on are claimed and removed by a lap.
const GUESTS: u32 = 2_000_000;

/// An address family, as the scene needs it.
pub(crate) trait Family: Address {
    /// Its name in the summary.
    const NAME: &'static str;

    /// The address with this number.
    fn number(number: u32) -> Self;

    /// Its flows.
    fn shard(table: &FlowTable) -> &FlowShard<Self>;
}

impl Family for Ipv4Addr {
    const NAME: &'static str = "v4";

    fn number(number: u32) -> Self {
        Self::from_bits(0x0a00_0000 + number)
    }

    fn shard(table: &FlowTable) -> &FlowShard<Self> {
        table.v4()
    }
}

impl Family for Ipv6Addr {
    const NAME: &'static str = "v6";

    fn number(number: u32) -> Self {
        Self::from_bits(0xfd00_0010_0244_0000_u128 << 64 | u128::from(number))
    }

    fn shard(table: &FlowTable) -> &FlowShard<Self> {
        table.v6()
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Lookups in batches.
    Batch,
    /// Lookups in batches of sixteen.
    Sixteen,
    /// Lookups one by one.
    Single,
    /// Segments of established TCP connections, after a lookup in batches.
    Track,
    /// Connections claimed.
    Claim,
    /// Lookups of what is not there.
    Miss,
    /// Records looked at by the expiry.
    Sweep,
}

impl Work {
    pub(crate) const ALL: [Self; 6] = [
        Self::Batch,
        Self::Single,
        Self::Track,
        Self::Claim,
        Self::Miss,
        Self::Sweep,
    ];

    /// The lookups alone.
    pub(crate) const LOOKUPS: [Self; 3] = [Self::Batch, Self::Single, Self::Miss];

    /// Its name in the summary.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Sixteen => "sixteen",
            Self::Single => "single",
            Self::Track => "track",
            Self::Claim => "claim",
            Self::Miss => "miss",
            Self::Sweep => "sweep",
        }
    }
}

/// A table, and the flows that a lap asks for.
pub(crate) struct Scene<A> {
    table: FlowTable,
    flows: u32,
    /// Clients, drawn anew for every lap.
    drawn: Vec<u32>,
    tuples: Vec<Tuple<A>>,
    found: usize,
    cursor: SweepCursor,
    random: Random,
}

/// Client `number` calls a Service, and a backend answers.
fn connection<A: Family>(number: u32) -> New<A> {
    // INVARIANT: 16 bits of a number.
    #[allow(clippy::cast_possible_truncation)]
    let client_port = 1024 + (number % 50_000) as u16;
    let (client, service, backend) = (
        A::number(number),
        A::number(15_000_000),
        A::number(14_000_000 + number % 5),
    );
    let tuple = |source, destination, ports: (u16, u16)| Tuple {
        source,
        destination,
        protocol: IpProtocol::TCP,
        ports: Ports {
            source: ports.0,
            destination: ports.1,
        },
        network: NetworkId::CLUSTER,
    };
    New {
        original: tuple(client, service, (client_port, 80)),
        reply: tuple(backend, client, (8080, client_port)),
        opener: None,
        binding: None,
        segment: Some(segment(1000, 0, TcpFlags::SYN)),
    }
}

/// The key of a flow: an even one is a connection's first direction, the odd one after it the other.
fn tuple_of<A: Family>(flow: u32) -> Tuple<A> {
    let connection = connection::<A>(flow / 2);
    if flow.is_multiple_of(2) {
        connection.original
    } else {
        connection.reply
    }
}

const fn segment(sequence: u32, acknowledgment: u32, flags: TcpFlags) -> TcpSegment {
    TcpSegment {
        sequence,
        acknowledgment,
        window: 60_000,
        flags,
        payload_len: 0,
        window_scale: None,
    }
}

impl<A: Family> Scene<A> {
    /// A table with `flows` flows, both directions of half as many established connections.
    pub(crate) fn new(flows: u32, steps: usize) -> anyhow::Result<Self> {
        Self::with_room(flows, steps, ROOM)
    }

    /// The same in a table with room for so many connections.
    pub(crate) fn with_room(flows: u32, steps: usize, room: u32) -> anyhow::Result<Self> {
        let options = FlowOptions {
            ipv4: room,
            ipv6: room,
            ..FlowOptions::default()
        };
        let table = FlowTable::in_memory(&options)?;
        let shard = A::shard(&table);
        for number in 0..flows / 2 {
            let id = shard.claim(&connection(number), NOW)?;
            let syn_ack = segment(5000, 1001, TcpFlags::SYN.with(TcpFlags::ACK));
            shard.track_tcp(id.reply, &syn_ack);
            shard.track_tcp(id.original, &segment(1001, 5001, TcpFlags::ACK));
            for flow in [id.original, id.reply] {
                ensure!(shard.store_answer(flow, &answer()), "an answer is not stored");
            }
        }
        let cursor = shard.cursor(0, 1);
        Ok(Self {
            table,
            flows,
            drawn: vec![0; steps],
            tuples: Vec::with_capacity(steps),
            found: 0,
            cursor,
            random: Random::new(),
        })
    }

    /// Draws the flows of the next lap.
    pub(crate) fn draw(&mut self) {
        self.tuples.clear();
        for step in 0..self.drawn.len() {
            let flow = self.random.below(self.flows);
            self.drawn[step] = flow;
            self.tuples.push(tuple_of(flow));
        }
    }

    /// Takes every flow once in the next lap, in a random order.
    pub(crate) fn shuffle(&mut self) {
        self.tuples.clear();
        for flow in 0..self.flows {
            self.tuples.push(tuple_of(flow));
        }
        for place in (1..self.flows).rev() {
            let other = self.random.below(place + 1);
            self.tuples.swap(place as usize, other as usize);
        }
    }

    /// Does the work; answers how many steps it had.
    pub(crate) fn run(&mut self, work: Work) -> usize {
        self.found = 0;
        let shard = A::shard(&self.table);
        match work {
            Work::Batch => self.found = batches::<BATCH, _>(shard, &self.tuples, |_| {}),
            Work::Sixteen => self.found = batches::<SIXTEEN, _>(shard, &self.tuples, |_| {}),
            Work::Track => {
                // To either side's segment of an established connection without data.
                self.found = batches::<BATCH, _>(shard, &self.tuples, |id| {
                    let numbers = [(1001, 5001), (5001, 1001)];
                    let (sequence, acknowledgment) = numbers[id.direction() as usize];
                    black_box(shard.track_tcp(id, &segment(sequence, acknowledgment, TcpFlags::ACK)));
                });
            }
            Work::Single => {
                for tuple in &self.tuples {
                    self.found += usize::from(black_box(shard.lookup(tuple)).is_some());
                }
            }
            Work::Claim => {
                for (number, _) in (GUESTS..).zip(&self.drawn) {
                    self.found += usize::from(shard.claim(&connection(number), NOW).is_ok());
                }
            }
            Work::Miss => {
                for tuple in &mut self.tuples {
                    tuple.ports.source ^= 0x8000;
                    tuple.ports.destination ^= 0x8000;
                }
                self.found = self.tuples.len() - batches::<BATCH, _>(shard, &self.tuples, |_| {});
            }
            Work::Sweep => return self.sweep(),
        }
        self.tuples.len()
    }

    fn sweep(&mut self) -> usize {
        let shard = A::shard(&self.table);
        let mut looked = 0;
        let timeouts = Timeouts::default();
        while looked < self.tuples.len() {
            let swept = shard.sweep(&mut self.cursor, SWEEP, NOW, &timeouts);
            self.found += swept.expired as usize;
            // The last turn of a round looks at fewer, one and all.
            looked += SWEEP as usize;
        }
        looked
    }

    /// Undoes what the work did, and checks that it did it.
    pub(crate) fn restore(&mut self, work: Work) -> anyhow::Result<()> {
        let shard = A::shard(&self.table);
        let expected = if work == Work::Sweep { 0 } else { self.tuples.len() };
        ensure!(
            self.found == expected,
            "{}: {} of {expected} steps did what they should",
            work.name(),
            self.found
        );
        if work == Work::Claim {
            for (number, _) in (GUESTS..).zip(&self.drawn) {
                let flow = shard
                    .lookup(&connection(number).original)
                    .context("a claimed connection is not there")?;
                ensure!(shard.remove(flow.id), "a connection cannot be removed");
            }
        }
        Ok(())
    }
}

fn answer() -> Answer {
    Answer {
        onward: Onward::Peer(PeerId::new(1)),
        subjects: [SubjectId::ROUTES, SubjectId::NONE, SubjectId::NONE],
        epoch: Epoch(1),
    }
}

/// Looks all tuples up, a batch at a time; answers how many were found and had an answer.
fn batches<const N: usize, A: Family>(
    shard: &FlowShard<A>,
    tuples: &[Tuple<A>],
    mut with: impl FnMut(FlowId),
) -> usize {
    let mut found = 0;
    let mut hashes: [Option<Hash>; N] = [None; N];
    let mut candidates: [Option<Candidate>; N] = [None; N];
    for batch in tuples.chunks(N) {
        for (tuple, hash) in batch.iter().zip(&mut hashes) {
            let own = shard.hash(tuple);
            shard.prefetch_bucket(own);
            *hash = Some(own);
        }
        for (hash, candidate) in hashes.iter().zip(&mut candidates) {
            *candidate = hash.and_then(|hash| shard.find(hash));
            if let Some(candidate) = candidate {
                shard.prefetch_entry(*candidate);
            }
        }
        for (tuple, candidate) in batch.iter().zip(&candidates) {
            let flow = candidate.and_then(|candidate| shard.read(candidate, tuple));
            if let Some(flow) = black_box(flow)
                && flow.answer.is_some()
            {
                found += 1;
                with(flow.id);
            }
        }
    }
    found
}
