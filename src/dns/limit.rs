//! How many queries of one client are answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Clients that are told apart; more than a node has pods.
const CLIENTS: usize = 4096;
/// How much a client may ask for at once after a quiet time: what it may in one second.
const BURST: Duration = Duration::from_secs(1);

/// Limits each client by a token bucket, kept as the one instant at which it is full again (the generic cell rate algorithm,
/// ITU-T I.371).
#[derive(Debug)]
pub(super) struct Limits {
    /// The time in which one more query is allowed; `None` without a bound.
    interval: Option<Duration>,
    full_at: HashMap<IpAddr, Instant>,
    /// All clients share this one who are not among those told apart.
    others: Option<Instant>,
}

impl Limits {
    /// At most so many queries a second in the long run; 0 for no bound.
    pub(super) fn new(per_second: usize) -> Self {
        let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        let interval = 1_000_000_000_u64.checked_div(per_second);
        Self {
            interval: interval.map(Duration::from_nanos),
            full_at: HashMap::new(),
            others: None,
        }
    }

    /// Whether a client's query is answered; if so, it counts.
    pub(super) fn take(&mut self, client: IpAddr, now: Instant) -> bool {
        let Some(interval) = self.interval else {
            return true;
        };
        if self.full_at.len() >= CLIENTS && !self.full_at.contains_key(&client) {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let room = self.full_at.len() < CLIENTS;
        let known = self.full_at.get(&client).copied();
        let full_at = if room || known.is_some() {
            known
        } else {
            self.others
        };
        let full_at = full_at.map_or(now, |at| at.max(now));
        if full_at.duration_since(now) + interval > BURST {
            return false;
        }
        let next = full_at + interval;
        if room || known.is_some() {
            self.full_at.insert(client, next);
        } else {
            self.others = Some(next);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 | number).into()
    }

    #[test]
    fn one_client_has_its_rate_and_takes_nothing_from_another() {
        let (mut limits, start) = (Limits::new(10), Instant::now());
        let taken = (0..100).filter(|_| limits.take(client(1), start)).count();
        assert_eq!(taken, 10);
        assert!(limits.take(client(2), start));
        let later = start + Duration::from_millis(500);
        let taken = (0..100).filter(|_| limits.take(client(1), later)).count();
        assert_eq!(taken, 5);
    }

    #[test]
    fn without_a_bound_everything_is_answered() {
        let (mut limits, now) = (Limits::new(0), Instant::now());
        assert!((0..100_000).all(|_| limits.take(client(1), now)));
    }

    #[test]
    fn memory_is_bounded_and_the_many_share_what_is_left() {
        let (mut limits, now) = (Limits::new(2), Instant::now());
        let taken = (0..10_000)
            .filter(|number| limits.take(client(*number), now))
            .count();
        assert_eq!((taken, limits.full_at.len()), (CLIENTS + 2, CLIENTS));
        // Those who have been quiet make room.
        let later = now + Duration::from_secs(2);
        assert!(limits.take(client(20_000), later));
        assert_eq!(limits.full_at.len(), 1);
    }
}
