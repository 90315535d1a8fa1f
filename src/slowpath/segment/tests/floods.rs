//! Floods, and what they leave: everything that is kept in mind ends at its bound, and who was known stays known.

use super::super::bindings::{BINDINGS_MAX, PER_STATION_MAX};
use super::super::moves::STATIONS_MAX;
use super::*;
use millrace_dataplane::table::fdb::Bounds;

/// Bounds of the network.
const PER_PORT: u32 = 1024;
const IN_ALL: u32 = 2500;
/// Strangers of a flood.
const STRANGERS: u32 = 20_000;

/// A station of a flood's that comes from this port.
fn stranger(port: u8, number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([0x06, port, a, b, c, d])
}

/// With room for more than the network may have, and two that are known.
fn bench() -> Bench {
    let mut bench = Bench::with_room(65_536);
    let bounds = Bounds {
        per_port: PER_PORT,
        in_all: IN_ALL,
        ..Bounds::default()
    };
    bench.fdb.write().set_bounds(RED, bounds);
    bench.learn(RED, A, port(1));
    bench.learn(RED, B, port(2));
    bench
}

fn learned(bench: &Bench, location: Location) -> u32 {
    bench.fdb.write().learned_at(RED, location)
}

#[test]
fn a_flood_of_stations_fills_its_ports_share_and_the_networks_and_no_more() {
    let mut bench = bench();
    for number in 0..STRANGERS {
        for (side, location) in [(1, port(1)), (2, port(2)), (3, remote(0))] {
            bench.learn(RED, stranger(side, number), location);
        }
    }
    let (one, two, far) = (
        learned(&bench, port(1)),
        learned(&bench, port(2)),
        learned(&bench, remote(0)),
    );
    assert!(one <= PER_PORT && two <= PER_PORT, "{one}, {two}");
    assert_eq!(one + two + far, IN_ALL);
    // The pod's is given.
    assert_eq!(bench.fdb.write().entries(), IN_ALL + 1);
    assert_eq!(bench.fdb.iter().count(), 1 + usize::try_from(IN_ALL).unwrap());
    let expected = [
        ("stations_learned", u64::from(IN_ALL)),
        ("stations_no_room", u64::from(3 * STRANGERS + 2 - IN_ALL)),
    ];
    assert_eq!(bench.counted(), BTreeMap::from(expected));
    let known = [(A, port(1)), (B, port(2)), (POD, port(3))];
    for (mac, location) in known {
        assert_eq!(bench.at(RED, mac), Some(location), "{mac}");
    }
    // Nothing of it is left once it is over and long ago.
    bench.later(Duration::from_secs(1000));
    for _ in 0..AGEING_TURNS {
        bench.segments.tick(&bench.stats, bench.now);
    }
    assert_eq!(bench.fdb.write().entries(), 1);
}

#[test]
fn a_port_that_is_flooded_alone_leaves_room_for_others() {
    let mut bench = bench();
    for number in 0..STRANGERS {
        bench.learn(RED, stranger(1, number), port(1));
    }
    assert_eq!(learned(&bench, port(1)), PER_PORT);
    bench.learn(RED, stranger(2, 0), port(2));
    assert_eq!(bench.at(RED, stranger(2, 0)), Some(port(2)));
}

#[test]
fn a_storm_of_moves_is_kept_in_mind_of_so_many_and_the_others_stay() {
    let mut bench = bench();
    let bounds = Bounds {
        per_port: 2 * STRANGERS,
        in_all: 2 * STRANGERS,
        ..Bounds::default()
    };
    bench.fdb.write().set_bounds(RED, bounds);
    for number in 0..STRANGERS {
        bench.learn(RED, stranger(1, number), port(1));
    }
    let moved = u32::try_from(STATIONS_MAX).unwrap();
    for location in [port(2), port(1), port(2)] {
        for number in 0..STRANGERS {
            bench.learn(RED, stranger(1, number), location);
        }
        assert_eq!(bench.segments.moves.len(), STATIONS_MAX);
    }
    assert_eq!(learned(&bench, port(2)), moved + 1);
    assert_eq!(learned(&bench, port(1)), STRANGERS - moved + 1);
    let counted = bench.counted();
    assert_eq!(counted["stations_moved"], u64::from(3 * moved));
    // Where those stay whose moves are not kept in mind, they are not seen to move back either.
    assert_eq!(counted["moves_refused"], u64::from(2 * (STRANGERS - moved)));
    assert_eq!(
        [(A, port(1)), (B, port(2))].map(|(mac, _)| bench.at(RED, mac)),
        [Some(port(1)), Some(port(2))]
    );
}

#[test]
fn a_few_that_move_all_the_time_are_left_where_they_are() {
    let mut bench = bench();
    for turn in 0..10_000_u32 {
        for number in 0..4 {
            let location = port(if turn.is_multiple_of(2) { 1 } else { 2 });
            bench.learn(RED, stranger(9, number), location);
        }
    }
    assert_eq!(bench.segments.moves.len(), 4);
    let counted = bench.counted();
    assert_eq!(counted["stations_moved"], 4 * 5);
    // Every second one is seen where it is.
    assert_eq!(counted["moves_refused"], 4 * (5000 - 3));
}

#[test]
fn a_flood_of_claims_to_addresses_fills_no_more_than_its_bound() {
    let mut bench = bench();
    let claims = u32::from(PER_STATION_MAX) + 4;
    let stations = u32::try_from(BINDINGS_MAX).unwrap() / u32::from(PER_STATION_MAX) + 100;
    for number in 0..stations {
        for claim in 0..claims {
            let [.., a, b, c] = (number * claims + claim).to_be_bytes();
            let claimed = arp(1, (stranger(1, number), [10, a, b, c]), B_IP);
            bench.passes(&claimed, port(1));
        }
    }
    assert_eq!(bench.segments.heard.len(), BINDINGS_MAX);
    assert_eq!(learned(&bench, port(1)), PER_PORT);
    bench.later(Duration::from_secs(1000));
    bench.segments.tick(&bench.stats, bench.now);
    assert_eq!(bench.segments.heard.len(), 0);
}
