//! The lookup table, and decisions that need no more than a table.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::*;
use crate::table::{AffinityTable, HashKey, Tick};

const KEY: HashKey = HashKey::from_words([
    0xe220_a839_7b1d_cdaf,
    0x6e78_9e6a_a1b9_65f4,
    0x6c45_d188_0094_54f3,
]);

fn endpoints(count: u32) -> Vec<(IpAddr, u16)> {
    let address = |i: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0af4_0000 + i));
    (0..count).map(|i| (address(i), 80)).collect()
}

/// Backends by their share of the slots, in units of an even share.
fn shares(table: &Maglev) -> Vec<f64> {
    let mut counts = vec![0_u32; table.backends()];
    let hashes = (0..table.size()).map(|slot| ((slot as u128 * 2 + 1) << 63) / table.size() as u128);
    for hash in hashes {
        counts[table.backend(u64::try_from(hash).unwrap())] += 1;
    }
    let even = table.size() as f64 / table.backends() as f64;
    counts.iter().map(|count| f64::from(*count) / even).collect()
}

#[test]
fn the_ladder_is_of_primes_with_enough_slots_for_each_backend() {
    for size in MAGLEV_LADDER {
        let is_prime = (2..).take_while(|i| i * i <= size).all(|i| size % i != 0);
        assert!(is_prime, "{size}");
    }
    for backends in 1..=Maglev::BACKENDS_MAX {
        let size = ladder_size(backends);
        assert!(size >= backends * SLOTS_PER_BACKEND, "{backends} in {size}");
        assert!(MAGLEV_LADDER.contains(&size));
    }
    let borders = [20, 81, 327, 1310, 5242, 20_971];
    for (border, sizes) in borders.into_iter().zip(MAGLEV_LADDER.windows(2)) {
        assert_eq!([ladder_size(border), ladder_size(border + 1)], sizes, "{border}");
    }
}

#[test]
fn shares_are_even_to_a_few_per_cent() {
    for count in [2, 3, 5, 20, 100, 1000] {
        let table = Maglev::build(&KEY, &endpoints(count), 0);
        let shares = shares(&table);
        let (least, most) = shares.iter().fold((f64::MAX, 0.0_f64), |(least, most), share| {
            (least.min(*share), most.max(*share))
        });
        assert!(least > 0.95 && most < 1.05, "{count}: {least:.3}..{most:.3}");
    }
}

/// The shares of all hashes that change backends when one of `count` backends goes: its own, and the others'.
fn moved_by_one(count: u32) -> (f64, f64) {
    const HASHES: u32 = 100_000;
    let all = endpoints(count);
    let gone = usize::try_from(count / 2).unwrap();
    let mut rest = all.clone();
    rest.remove(gone);
    let [before, after] = [&all, &rest].map(|set| Maglev::build(&KEY, set, set.len()));
    let (mut moved, mut own) = (0, 0);
    for i in 0..HASHES {
        let hash = KEY.hash([u64::from(i)]);
        let was = before.backend(hash);
        if was == gone {
            own += 1;
        } else if all[was] != rest[after.backend(hash)] {
            moved += 1;
        }
    }
    let share = |count: i32| f64::from(count) / f64::from(HASHES);
    (share(own), share(moved))
}

#[test]
fn a_backend_that_goes_moves_little_but_its_own() {
    for count in (2..=20).chain([50, 81, 100, 327]) {
        let (own, moved) = moved_by_one(count);
        assert!((own * f64::from(count) - 1.0).abs() < 0.15, "{count}: {own}");
        assert!(moved < 0.05, "{count}: {moved} of others' connections moved");
    }
}

/// What it costs that the size depends on the number of endpoints alone, where that crosses a border: an even lot among
/// all of them anew.
#[test]
fn a_border_of_the_ladder_moves_nearly_all() {
    for count in [21, 82, 328] {
        let (own, moved) = moved_by_one(count);
        let stays = 1.0 - own - moved;
        assert!(stays < 0.1, "{count}: {stays} stay");
    }
}

#[test]
fn every_slot_is_a_backends_and_the_table_depends_on_key_and_set_alone() {
    let set = endpoints(7);
    let table = Maglev::build(&KEY, &set, 7);
    assert_eq!(table, Maglev::build(&KEY, &set, 7));
    assert_eq!(
        [0, 20, 21].map(|listed| Maglev::build(&KEY, &set, listed).size()),
        [2039, 2039, 8191]
    );
    assert_ne!(table, Maglev::build(&HashKey::random(), &set, 7));
    let used: HashSet<usize> = (0..50_000_u64).map(|i| table.backend(KEY.hash([i]))).collect();
    assert_eq!(used, (0..7).collect());
    assert_eq!(
        table.backend(0).max(table.backend(u64::MAX)).min(6),
        table.backend(0).max(table.backend(u64::MAX))
    );
    let none = Maglev::build(&KEY, &[], 0);
    assert_eq!((none.backends(), BackendSet::default().choose(7)), (0, None));
}

fn backends(count: u32) -> Vec<Backend> {
    let backend = |(i, (address, port)): (usize, (IpAddr, u16))| Backend {
        address,
        port,
        id: BackendId::new(u32::try_from(i).unwrap()).unwrap(),
        is_local: i % 2 == 0,
    };
    endpoints(count).into_iter().enumerate().map(backend).collect()
}

fn table(service: Service) -> ServiceTable {
    let mut table = ServiceTable::new(HashKey::random(), KEY, false);
    let key = FrontendKey::Address("10.96.0.1".parse().unwrap(), IpProtocol::TCP, 80);
    let frontend = Frontend {
        scope: Scope::Cluster,
        service: Arc::new(service),
    };
    table.insert(key, frontend);
    table.claim_cluster_address("10.96.0.1".parse().unwrap());
    table
}

fn service(count: u32) -> Service {
    let slots = Maglev::build(&KEY, &endpoints(count), 0);
    Service {
        id: ServiceId::new(3).unwrap(),
        cluster: BackendSet::new(backends(count), Some(slots)),
        local: BackendSet::default(),
        others: Box::default(),
        has_endpoints: true,
        internal_local: false,
        external_local: false,
        affinity_s: None,
        source_ranges: Box::default(),
    }
}

fn query(client: u32, source_port: u16) -> Query {
    Query {
        source: std::net::Ipv4Addr::from_bits(client).into(),
        destination: "10.96.0.1".parse().unwrap(),
        protocol: IpProtocol::TCP,
        source_port,
        destination_port: 80,
        caller: Caller::LocalPod,
        from_pods: true,
    }
}

#[test]
fn connections_are_spread_evenly_and_each_is_always_decided_alike() {
    let table = table(service(5));
    let affinity = AffinityTable::new(16);
    let mut counts = BTreeMap::<IpAddr, u32>::new();
    for client in 0..2000_u32 {
        for port in 0..10_u16 {
            let query = query(0x0a00_0000 + client, 32_768 + port);
            let decision = table.balance(&query, &affinity, Tick::from_seconds(client));
            assert_eq!(decision, table.balance(&query, &affinity, Tick::NEVER));
            let Decision::Backend(choice) = decision else {
                panic!("{decision:?}")
            };
            *counts.entry(choice.address).or_default() += 1;
        }
    }
    assert_eq!(counts.len(), 5);
    assert!(
        counts.values().all(|count| (3800..4200).contains(count)),
        "{counts:?}"
    );
}

/// Nodes of different versions must choose alike while they are updated one by one: the values are part of the contract.
#[test]
fn choices_are_the_same_in_every_version() {
    let affinity = AffinityTable::new(16);
    for (count, expected) in [
        (2, [1, 0, 0, 0, 1, 0, 1, 0]),
        (5, [1, 0, 0, 0, 1, 0, 4, 0]),
        (30, [16, 6, 9, 23, 22, 16, 10, 24]),
    ] {
        let table = table(service(count));
        let chosen = [0, 1, 2, 3, 4, 5, 6, 7].map(|number| {
            let query = query(0x0a00_0000 + number, 40_000);
            match table.balance(&query, &affinity, Tick::NEVER) {
                Decision::Backend(Choice {
                    address: IpAddr::V4(v4),
                    ..
                }) => v4.octets()[3],
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(chosen, expected, "of {count}");
    }
}

#[test]
fn claims_of_a_cluster_address_are_counted() {
    let address: IpAddr = "10.96.0.1".parse().unwrap();
    let mut table = table(service(1));
    table.claim_cluster_address(address);
    table.release_cluster_address(address);
    assert!(table.is_cluster_address(address));
    table.release_cluster_address(address);
    assert!(!table.is_cluster_address(address));
    table.release_cluster_address(address);
    assert!(!table.is_cluster_address(address));
}

#[test]
fn a_copy_that_is_changed_leaves_the_original_as_it_was() {
    let first = table(service(2));
    let mut second = first.clone();
    second.remove(&FrontendKey::Address(
        "10.96.0.1".parse().unwrap(),
        IpProtocol::TCP,
        80,
    ));
    assert_eq!((first.len(), second.len()), (1, 0));
}

#[test]
fn slots_made_for_another_number_of_backends_are_not_used() {
    let slots = Maglev::build(&KEY, &endpoints(5), 5);
    let set = BackendSet::new(backends(4), Some(slots.clone()));
    assert!(set.slots().is_none());
    assert!((0..1000).all(|i| set.choose(KEY.hash([i])).is_some()));
    assert!(BackendSet::new(backends(5), Some(slots)).slots().is_some());
}

#[test]
fn counters_are_a_workers_own_and_are_summed() {
    let mut counts = ServiceCounts::new(2);
    let choice = |service, backend| Choice {
        address: "10.0.0.1".parse().unwrap(),
        port: 1,
        backend: BackendId::new(backend).unwrap(),
        service: ServiceId::new(service).unwrap(),
        masquerade: false,
    };
    assert!(counts.grow(2, 5000));
    assert!(!counts.grow(1, 4000), "there is room");
    let older = counts.clone();
    counts.connection(0, &choice(1, 4999));
    counts.connection(1, &choice(1, 7));
    assert!(counts.grow(3000, 5000));
    // A worker that has not seen the newest table counts in the same place.
    older.connection(1, &choice(1, 7));
    counts.connection(7, &choice(1, 7));
    counts.connection(0, &choice(200_000, 200_000));
    let read = |id| counts.of_backend(BackendId::new(id).unwrap()).connections;
    assert_eq!((read(4999), read(7), read(8), read(200_000)), (1, 2, 0, 0));
    assert_eq!(counts.of_service(ServiceId::new(1).unwrap()).connections, 3);
}
