//! The forwarding database, beside a map that knows no bounds and no threads.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

const RED: NetworkId = NetworkId::new(1);
const BLUE: NetworkId = NetworkId::new(2);

fn fdb(capacity: u32) -> Fdb {
    Fdb::new(capacity, HashKey::random())
}

fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn at(port: u16) -> Location {
    Location::Port(PortId::new(port).unwrap())
}

fn behind(remote: u16) -> Location {
    Location::Remote(RemoteId::new(remote).unwrap())
}

fn tick(seconds: u32) -> Tick {
    Tick::from_seconds(seconds)
}

#[test]
fn a_station_is_learned_moves_and_is_forgotten() {
    let fdb = fdb(64);
    let learn = |mac, location, second| fdb.write().learn(RED, mac, location, tick(second));
    assert_eq!(learn(mac(1), at(4095), 10), Learnt::New);
    assert_eq!(learn(mac(1), at(4095), 11), Learnt::Same);
    let known = fdb.lookup(RED, mac(1)).unwrap();
    assert_eq!((known.location(), known.is_static()), (at(4095), false));
    assert_eq!(known.age(tick(15)), 4, "the second time counts");
    assert_eq!(known.age(tick(10)), 0, "seen by one whose clock is ahead");
    assert_eq!(fdb.lookup(BLUE, mac(1)), None, "another network's");
    assert_eq!(learn(mac(1), behind(4095), 12), Learnt::Moved { from: at(4095) });
    assert_eq!(fdb.lookup(RED, mac(1)).unwrap().location(), behind(4095));
    for nobody in [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(learn(nobody, at(1), 12), Learnt::Refused(Refusal::NoStation));
    }
    assert_eq!(fdb.write().learned_at(RED, at(4095)), 0);
    assert_eq!(fdb.write().learned_at(RED, behind(4095)), 1);
    assert!(fdb.write().remove(RED, mac(1)).is_some());
    assert_eq!(fdb.lookup(RED, mac(1)), None);
    let writer = fdb.write();
    assert_eq!((writer.entries(), writer.learned(RED)), (0, 0));
}

#[test]
fn what_is_given_neither_moves_nor_ages_nor_counts() {
    let fdb = fdb(64);
    let mut writer = fdb.write();
    writer.set_bounds(
        RED,
        Bounds {
            per_port: 1,
            in_all: 2,
            ageing_s: 5,
        },
    );
    assert_eq!(writer.learn(RED, mac(1), at(1), tick(1)), Learnt::New);
    writer.set_static(RED, mac(1), at(2), tick(1)).unwrap();
    assert_eq!(writer.learned(RED), 0);
    let refused = Learnt::Refused(Refusal::Static);
    assert_eq!(writer.learn(RED, mac(1), at(1), tick(2)), refused);
    assert_eq!(writer.learn(RED, mac(1), at(2), tick(2)), Learnt::Same);
    assert_eq!(writer.learn(RED, mac(2), at(2), tick(2)), Learnt::New);
    let everything = writer.places();
    assert_eq!(writer.age(tick(1000), everything), 1);
    let given = fdb.lookup(RED, mac(1)).unwrap();
    assert_eq!((given.location(), given.is_static()), (at(2), true));
    assert_eq!(writer.forget_port(PortId::new(2).unwrap()), 1);
    assert_eq!(writer.entries(), 0);
    let nobody = writer.set_static(RED, MacAddr::BROADCAST, at(2), tick(1));
    assert_eq!(nobody, Err(Refusal::NoStation));
}

#[test]
fn no_port_network_or_table_holds_more_than_it_may() {
    let fdb = fdb(8);
    let mut writer = fdb.write();
    let bounds = Bounds {
        per_port: 2,
        in_all: 5,
        ..Bounds::default()
    };
    writer.set_bounds(RED, bounds);
    let mut learn = |network, number, location| writer.learn(network, mac(number), location, tick(1));
    let refused = |why| Learnt::Refused(why);
    assert_eq!([1, 2].map(|n| learn(RED, n, at(1))), [Learnt::New; 2]);
    assert_eq!(learn(RED, 3, at(1)), refused(Refusal::PortFull));
    assert_eq!(learn(BLUE, 3, at(1)), Learnt::New, "of a trunk, by network");
    assert_eq!([4, 5, 6].map(|n| learn(RED, n, behind(1))), [Learnt::New; 3]);
    assert_eq!(learn(RED, 7, behind(1)), refused(Refusal::NetworkFull));
    assert_eq!(learn(RED, 4, at(1)), refused(Refusal::PortFull), "nor by moving");
    assert_eq!(learn(RED, 4, at(2)), Learnt::Moved { from: behind(1) });
    assert_eq!([8, 9].map(|n| learn(BLUE, n, at(1))), [Learnt::New; 2]);
    assert_eq!(learn(BLUE, 10, at(1)), refused(Refusal::TableFull));
    assert_eq!(writer.forget_network(RED), 5);
    assert_eq!(writer.learn(BLUE, mac(10), at(1), tick(1)), Learnt::New);
    assert_eq!((writer.learned(RED), writer.learned(BLUE)), (0, 4));
}

#[test]
fn silent_stations_age_a_piece_at_a_time_and_seen_ones_stay() {
    let fdb = fdb(1000);
    let mut writer = fdb.write();
    for number in 0..1000 {
        writer.learn(RED, mac(number), behind(0), tick(100));
    }
    let spoken = fdb.lookup(RED, mac(7)).unwrap();
    fdb.refresh(&spoken, tick(400));
    let places = writer.places();
    assert_eq!(writer.age(tick(100 + AGEING_S), places), 0);
    let mut pieces = 0;
    let mut gone = 0;
    while pieces < places {
        gone += writer.age(tick(101 + AGEING_S), 16);
        pieces += 16;
    }
    assert_eq!((gone, writer.entries()), (999, 1));
    assert!(fdb.lookup(RED, mac(7)).is_some());
}

#[test]
fn a_table_takes_as_many_as_it_is_made_for() {
    for _ in 0..4 {
        let fdb = fdb(65_536);
        let mut writer = fdb.write();
        let taken = (0..65_536)
            .filter(|number| writer.set_static(RED, mac(*number), at(1), tick(1)).is_ok())
            .count();
        assert!(taken > 65_536 - 400, "{taken}");
        drop(writer);
        assert_eq!(fdb.iter().count(), taken);
    }
}

#[test]
fn readers_never_see_a_station_where_another_one_is() {
    // Stations of one network are all behind port 1, those of the other behind port 2, and they take each other's places.
    let fdb = Arc::new(fdb(8));
    let line = |network, number| fdb.station(network, mac(number)).hash & 3;
    let red = 1;
    let blue = (0..)
        .find(|number| line(BLUE, *number) == line(RED, red))
        .unwrap();
    let both = [(RED, red, 1), (BLUE, blue, 2)];
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (fdb, done) = (Arc::clone(&fdb), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut found = 0;
            while !done.load(Ordering::Relaxed) {
                for (network, number, port) in both {
                    if let Some(entry) = fdb.lookup(network, mac(number)) {
                        assert_eq!(entry.location(), at(port), "{network}");
                        fdb.refresh(&entry, tick(found));
                        found += 1;
                    }
                }
            }
        })
    };
    for _ in 0..50_000 {
        for (network, number, port) in both {
            let mut writer = fdb.write();
            assert_eq!(writer.learn(network, mac(number), at(port), tick(1)), Learnt::New);
            assert!(writer.remove(network, mac(number)).is_some());
        }
    }
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

/// What is done to both, the table and the map.
#[derive(Debug, Clone, Copy)]
enum Step {
    Learn(u32, u16),
    Give(u32, u16),
    Remove(u32),
    ForgetPort(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let station = 0_u32..12;
    prop_oneof![
        6 => (station.clone(), 0_u16..4).prop_map(|(station, port)| Step::Learn(station, port)),
        1 => (station.clone(), 0_u16..4).prop_map(|(station, port)| Step::Give(station, port)),
        2 => station.prop_map(Step::Remove),
        1 => (0_u16..4).prop_map(Step::ForgetPort),
    ]
}

proptest! {
    #[test]
    fn it_holds_what_a_map_would(steps in prop::collection::vec(step(), 1..200)) {
        let fdb = fdb(64);
        let mut map: BTreeMap<u32, (u16, bool)> = BTreeMap::new();
        for step in steps {
            let mut writer = fdb.write();
            match step {
                Step::Learn(station, port) => {
                    let learnt = writer.learn(RED, mac(station), at(port), tick(1));
                    let expected = match map.get(&station) {
                        None => Learnt::New,
                        Some((known, _)) if *known == port => Learnt::Same,
                        Some((_, true)) => Learnt::Refused(Refusal::Static),
                        Some((known, false)) => Learnt::Moved { from: at(*known) },
                    };
                    prop_assert_eq!(learnt, expected);
                    if !matches!(learnt, Learnt::Same | Learnt::Refused(_)) {
                        map.insert(station, (port, false));
                    }
                }
                Step::Give(station, port) => {
                    prop_assert!(writer.set_static(RED, mac(station), at(port), tick(1)).is_ok());
                    map.insert(station, (port, true));
                }
                Step::Remove(station) => {
                    prop_assert_eq!(writer.remove(RED, mac(station)).is_some(), map.remove(&station).is_some());
                }
                Step::ForgetPort(port) => {
                    let before = map.len();
                    map.retain(|_, (known, _)| *known != port);
                    prop_assert_eq!(writer.forget_port(PortId::new(port).unwrap()), before - map.len());
                }
            }
            for port in 0..4 {
                let learned = map.values().filter(|known| **known == (port, false)).count();
                prop_assert_eq!(writer.learned_at(RED, at(port)) as usize, learned);
            }
            prop_assert_eq!(writer.entries() as usize, map.len());
        }
        let held: BTreeMap<_, _> = fdb.iter().map(|(_, mac, entry)| (mac, (entry.location(), entry.is_static()))).collect();
        let expected: BTreeMap<_, _> =
            map.into_iter().map(|(station, (port, is_static))| (mac(station), (at(port), is_static))).collect();
        prop_assert_eq!(held, expected);
    }
}
