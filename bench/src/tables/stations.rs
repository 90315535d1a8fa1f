//! Who is where: routes, neighbours, Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Context;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::service::{Caller, Decision, Query};
use millrace_dataplane::table::{
    AffinityTable, HashKey, NeighbourId, NeighbourTable, PeerId, Prefix, RouteTable, Target, Tick,
};
use millrace_dataplane::wire::{IpProtocol, MacAddr};

use super::case::{Asked, Case};
use crate::random::Random;
use crate::services;

/// Numbers of routes: a small cluster's, a large one's, and more than any has.
const ROUTES: [u32; 4] = [10, 1_000, 10_000, 100_000];
/// One route in so many is a single address, as a local pod's is; the others are nodes' prefixes.
const HOST_ROUTE_EVERY: u32 = 4;
/// Lengths of a node's prefix, in bits.
const NODE_PREFIX_V4: u8 = 24;
const NODE_PREFIX_V6: u8 = 64;
/// Numbers of neighbours on a link.
const NEIGHBOURS: [u16; 2] = [64, 4_096];
/// Numbers of Services.
const SERVICES: [u32; 3] = [10, 1_000, 10_000];
/// Where no Service is.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 0);
/// The port of each Service.
const SERVICE_PORT: u16 = 80;

/// The address with a number.
type AddressOf = Box<dyn Fn(u32) -> Ipv4Addr>;

/// Longest-prefix match, for both families.
pub(super) fn routes(random: &mut Random) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for count in ROUTES {
        let mut prefixes = Vec::new();
        for number in 0..count {
            let is_host = number % HOST_ROUTE_EVERY == HOST_ROUTE_EVERY - 1;
            // Somewhere in 10.0.0.0/8.
            let address = Ipv4Addr::from_bits(0x0a00_0000 | random.below(1 << 24));
            let len = if is_host { 32 } else { NODE_PREFIX_V4 };
            prefixes.push((Prefix::containing(IpAddr::V4(address), len)?, target(number)));
        }
        cases.push(route_case("v4", prefixes));
        let mut prefixes = Vec::new();
        for number in 0..count {
            let is_host = number % HOST_ROUTE_EVERY == HOST_ROUTE_EVERY - 1;
            let len = if is_host { 128 } else { NODE_PREFIX_V6 };
            prefixes.push((Prefix::containing(somewhere_v6(random), len)?, target(number)));
        }
        cases.push(route_case("v6", prefixes));
    }
    Ok(cases)
}

/// An address in one of 2^24 networks of a /40.
fn somewhere_v6(random: &mut Random) -> IpAddr {
    let network = 0xfd00_0010_0200_0000_u128 | u128::from(random.below(1 << 24));
    IpAddr::V6(Ipv6Addr::from_bits(
        network << 64 | u128::from(random.below(1 << 16)),
    ))
}

/// Whereto a route leads, in turn.
fn target(number: u32) -> Target {
    Target::Tunnel(PeerId::new(u16::try_from(number % 1024).unwrap_or_default()))
}

/// Addresses in the routes, each route as often as the others.
fn route_case(family: &str, routes: Vec<(Prefix, Target)>) -> Case {
    let table = RouteTable::build(routes.iter().copied());
    let key = format!("tables/route/{family}/{}", routes.len());
    let count = u32::try_from(routes.len()).unwrap_or(u32::MAX);
    let draw = move |random: &mut Random| {
        let (prefix, _) = routes[random.below(count) as usize];
        match prefix.address() {
            IpAddr::V4(address) => {
                let free = u32::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(
                    address.to_bits() | (random.below(u32::MAX) & free),
                ))
            }
            IpAddr::V6(address) => {
                let free = u128::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(
                    address.to_bits() | (u128::from(random.below(u32::MAX)) & free),
                ))
            }
        }
    };
    Case::new(key, Asked::Present, draw, move |address: &IpAddr| {
        table.lookup(*address)
    })
}

/// Link addresses of next hops.
pub(super) fn neighbours(random: &mut Random) -> anyhow::Result<Vec<Case>> {
    let port = PortId::new(0).context("there is no such port number")?;
    let mut cases = Vec::new();
    for count in NEIGHBOURS {
        for family in ["v4", "v6"] {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for number in 0..u32::from(count) {
                addresses.push(match family {
                    "v4" => IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + number)),
                    _ => somewhere_v6(random),
                });
            }
            let entries = (0..).zip(&addresses).map(|(number, address)| {
                let mac = MacAddr([2, 0, 0, 0, 0, 1]);
                (NeighbourId::new(number), port, *address, mac)
            });
            let table = Arc::new(NeighbourTable::build(HashKey::random(), entries));
            let other = PortId::new(1).context("there is no such port number")?;
            for (name, asked, port) in [("hit", Asked::Present, port), ("miss", Asked::Absent, other)] {
                let key = format!("tables/neighbour/{family}/{name}/{count}");
                let (addresses, table) = (addresses.clone(), Arc::clone(&table));
                let draw = move |random: &mut Random| addresses[random.below(count.into()) as usize];
                cases.push(Case::new(key, asked, draw, move |address: &IpAddr| {
                    table.lookup(port, *address)
                }));
            }
        }
    }
    Ok(cases)
}

/// Backends of new connections to Services, and the word that an address is none's.
pub(super) fn services() -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for count in SERVICES {
        let (table, address) = services::compiled(count)?;
        let affinity = Arc::new(AffinityTable::new(16));
        let nobody = move |number: u32| Ipv4Addr::from_bits(NOBODY.to_bits() + number);
        let addresses: [(&str, Asked, AddressOf); 2] = [
            ("hit", Asked::Present, Box::new(address)),
            ("miss", Asked::Absent, Box::new(nobody)),
        ];
        for (name, asked, address) in addresses {
            let key = format!("tables/service/{name}/{count}");
            let (table, affinity) = (Arc::clone(&table), Arc::clone(&affinity));
            let draw = move |random: &mut Random| {
                let destination = address(random.below(count));
                call(random, destination)
            };
            cases.push(Case::new(key, asked, draw, move |query: &Query| {
                match table.balance(query, &affinity, Tick::from_seconds(1)) {
                    Decision::Backend(choice) => Some(choice),
                    _ => None,
                }
            }));
        }
    }
    Ok(cases)
}

/// Some pod's new connection to an address.
fn call(random: &mut Random, destination: Ipv4Addr) -> Query {
    let ephemeral = 32_768;
    Query {
        source: IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 | random.below(1 << 16))),
        destination: IpAddr::V4(destination),
        protocol: IpProtocol::TCP,
        source_port: u16::try_from(ephemeral + random.below(ephemeral)).unwrap_or(u16::MAX),
        destination_port: SERVICE_PORT,
        caller: Caller::LocalPod,
        from_pods: true,
    }
}
