//! Stations that are seen at one place of a bridged network, and then at another.
//!
//! A move takes effect at once: a virtual machine that came to another node says so by its first packet. One that goes to and
//! fro is no station on the move but a loop, or two stations of one address; each move would have all others' packets go
//! somewhere else. After a few in a row it stays where it is for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use millrace_dataplane::table::NetworkId;
use millrace_dataplane::wire::MacAddr;

/// Moves of one station within [`WINDOW`] that take effect.
pub(super) const MOVES_MAX: u32 = 5;
/// How long moves are counted together, from the first.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// How long a station that moved too often stays where it is.
pub(super) const PINNED: Duration = Duration::from_secs(30);
/// Stations whose moves are kept in mind. Where so many move in so short a time, others stay where they are.
pub(super) const STATIONS_MAX: usize = 4096;

/// A station: a network's number and a link address.
pub(super) type Station = (NetworkId, MacAddr);

/// What becomes of a station that is seen somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// It is there from now on.
    Takes,
    /// It has moved too often, as is known from now on: it stays where it is.
    Pins,
    /// It is known to have moved too often, or too many others move: it stays where it is.
    Stays,
}

/// The moves of one station.
#[derive(Debug, Clone, Copy)]
struct Travel {
    /// Until when they are counted together; once it is pinned, until when it is.
    until: Instant,
    count: u32,
}

/// Which stations moved lately, and how often.
#[derive(Debug, Default)]
pub(super) struct Moves {
    stations: HashMap<Station, Travel>,
    /// When room was last looked for.
    looked: Option<Instant>,
}

impl Moves {
    /// Decides about a station that is seen at another place than before.
    pub(super) fn note(&mut self, station: Station, now: Instant) -> Move {
        if self.stations.len() >= STATIONS_MAX && !self.stations.contains_key(&station) {
            if super::is_due(&mut self.looked, now) {
                self.forget_old(now);
            }
            if self.stations.len() >= STATIONS_MAX {
                return Move::Stays;
            }
        }
        let travel = self.stations.entry(station).or_insert(Travel {
            until: now + WINDOW,
            count: 0,
        });
        if now >= travel.until {
            *travel = Travel {
                until: now + WINDOW,
                count: 0,
            };
        }
        if travel.count > MOVES_MAX {
            return Move::Stays;
        }
        travel.count += 1;
        if travel.count <= MOVES_MAX {
            return Move::Takes;
        }
        travel.until = now + PINNED;
        Move::Pins
    }

    /// The last move of a station that may move came to nothing, so it does not count.
    pub(super) fn undo(&mut self, station: Station) {
        if let Some(travel) = self.stations.get_mut(&station) {
            travel.count = travel.count.saturating_sub(1);
        }
    }

    /// Forgets moves that are long past.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.stations.retain(|_, travel| now < travel.until);
    }

    /// How many stations are kept in mind.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.stations.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(number: u32) -> Station {
        let [a, b, c, d] = number.to_be_bytes();
        (NetworkId::new(1), MacAddr([2, 0, a, b, c, d]))
    }

    fn note(moves: &mut Moves, times: u32, now: Instant) -> Vec<Move> {
        (0..times).map(|_| moves.note(station(1), now)).collect()
    }

    #[test]
    fn a_few_moves_take_effect_then_it_is_pinned_for_a_while() {
        let (mut moves, start) = (Moves::default(), Instant::now());
        assert_eq!(note(&mut moves, MOVES_MAX, start), [Move::Takes; 5]);
        assert_eq!(note(&mut moves, 3, start), [Move::Pins, Move::Stays, Move::Stays]);
        assert_eq!(moves.note(station(2), start), Move::Takes, "others are free");
        let almost = start + PINNED - Duration::from_millis(1);
        assert_eq!(note(&mut moves, 1, almost), [Move::Stays], "not prolonged");
        assert_eq!(note(&mut moves, 1, start + PINNED), [Move::Takes]);
    }

    #[test]
    fn one_that_moves_now_and_then_always_may() {
        let (mut moves, mut now) = (Moves::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(note(&mut moves, MOVES_MAX, now), [Move::Takes; 5]);
            now += WINDOW;
        }
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded_and_becomes_free_again() {
        let (mut moves, start) = (Moves::default(), Instant::now());
        for number in 0..20_000 {
            moves.note(station(number), start);
        }
        assert_eq!(moves.len(), STATIONS_MAX);
        assert_eq!(moves.note(station(19_999), start), Move::Stays);
        assert_eq!(moves.note(station(0), start), Move::Takes, "is known");
        assert_eq!(moves.note(station(19_999), start + WINDOW), Move::Takes);
        assert_eq!(moves.len(), 1);
    }
}
