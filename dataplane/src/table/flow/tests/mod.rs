use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::table::{PeerId, SubjectId, Tick};
use crate::wire::{IpProtocol, Ports, TcpFlags};

mod claiming;
mod expiry;
mod files;
mod lookups;
mod random;
mod threads;

/// A moment.
fn at(second: u32) -> Tick {
    Tick::from_seconds(second)
}

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

/// A table with room for so many connections of each family.
fn table(connections: u32) -> FlowTable {
    table_with(connections, |_| {})
}

fn table_with(connections: u32, change: impl FnOnce(&mut FlowOptions)) -> FlowTable {
    let mut options = options(connections);
    change(&mut options);
    FlowTable::in_memory(&options).unwrap()
}

fn options(connections: u32) -> FlowOptions {
    FlowOptions {
        ipv4: connections,
        ipv6: connections,
        ..FlowOptions::default()
    }
}

/// An address of either family, by a number.
trait Numbered: Address {
    fn number(number: u32) -> Self;
    fn shard(table: &FlowTable) -> &FlowShard<Self>;
}

impl Numbered for Ipv4Addr {
    fn number(number: u32) -> Self {
        Self::from_bits(0x0a00_0000 | number)
    }

    fn shard(table: &FlowTable) -> &FlowShard<Self> {
        table.v4()
    }
}

impl Numbered for Ipv6Addr {
    fn number(number: u32) -> Self {
        Self::from_bits(0xfd00_0000_0000_0001_0000_0002_0000_0000 | u128::from(number))
    }

    fn shard(table: &FlowTable) -> &FlowShard<Self> {
        table.v6()
    }
}

fn tuple<A: Numbered>(protocol: IpProtocol, source: (u32, u16), destination: (u32, u16)) -> Tuple<A> {
    Tuple {
        source: A::number(source.0),
        destination: A::number(destination.0),
        protocol,
        ports: Ports {
            source: source.1,
            destination: destination.1,
        },
        network: NetworkId::CLUSTER,
    }
}

fn udp<A: Numbered>(source: (u32, u16), destination: (u32, u16)) -> Tuple<A> {
    tuple(IpProtocol::UDP, source, destination)
}

/// A connection whose packets pass as they are.
fn plain<A: Numbered>(original: Tuple<A>) -> New<A> {
    New {
        original,
        reply: original.reversed(),
        opener: None,
        binding: None,
        segment: (original.protocol == IpProtocol::TCP).then_some(SYN),
    }
}

/// The UDP connection of client `number` to a Service, by a backend.
fn balanced<A: Numbered>(number: u32) -> New<A> {
    New {
        reply: udp((9_000_000, 8080), (number, 40_000)),
        binding: Some(Binding {
            service: 7,
            backend: 70,
        }),
        ..plain(udp((number, 40_000), (1, 80)))
    }
}

const SYN: TcpSegment = TcpSegment {
    sequence: 1000,
    acknowledgment: 0,
    window: 64_000,
    flags: TcpFlags::SYN,
    payload_len: 0,
    window_scale: Some(7),
};

fn answer(epoch: u32) -> Answer {
    Answer {
        onward: Onward::Peer(PeerId::new(3)),
        subjects: [SubjectId::ROUTES, SubjectId::backend(70), SubjectId::NONE],
        epoch: Epoch(epoch),
    }
}
