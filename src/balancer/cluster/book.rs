//! Which nodes live, by their Leases: what was seen, and when, without a connection or a clock.
//!
//! Every node that takes part renews a Lease of its own, three times in the time after which it counts as dead; every node
//! looks at all of them four times in that time. What counts is when this node *saw* a Lease change, by its own
//! clock, as with client-go's leader election: nobody's clock has to be right.
//!
//! A node that does not get to see the Leases says so ([`LeaseBook::is_cut_off`]) before anybody could count as dead: when
//! the API server is gone, everything stays as it is. When it is back, all who lived then are given their time again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::balancer::aside::Claims;
use crate::objects::NodeName;

/// In how many parts of a Lease's time a node looks at all of them.
pub const LOOKS: u32 = 4;
/// How often a node renews its own in that time.
pub const RENEWALS: u32 = 3;
/// By how many seconds a Lease that is seen for the first time may be behind the newest, clocks being what they are, to
/// count as that of a node that lives.
const OLD_S: i64 = 60;

/// A node's Lease, as it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLease {
    /// The node.
    pub node: NodeName,
    /// What changes with every renewal: `metadata.resourceVersion`.
    pub version: String,
    /// `spec.renewTime`, in seconds of Unix time by that node's clock.
    pub renewed_s: i64,
    /// What the node says of itself.
    pub said: Said,
}

/// What a node says for the others to know, in its Lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// The link address of its uplink.
    pub mac: Option<[u8; 6]>,
    /// What it has heard of hosts outside of the cluster.
    pub claims: Claims,
}

#[derive(Debug, Clone)]
struct Seen {
    version: String,
    said: Said,
    /// When it was last seen to change; `None` for one that is dead.
    at: Option<Instant>,
}

/// What was seen of all Leases.
#[derive(Debug)]
pub struct LeaseBook {
    lease: Duration,
    seen: BTreeMap<NodeName, Seen>,
    looked: Option<Instant>,
}

impl LeaseBook {
    /// Where a node counts as dead after so long.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            seen: BTreeMap::new(),
            looked: None,
        }
    }

    /// Takes all Leases as they are now.
    pub fn look(&mut self, now: Instant, leases: Vec<NodeLease>) {
        let was_blind = self.is_cut_off(now);
        let living = self.looked.map(|looked| self.living(looked));
        let newest_s = leases
            .iter()
            .map(|lease| lease.renewed_s)
            .max()
            .unwrap_or_default();
        let before = std::mem::take(&mut self.seen);
        for lease in leases {
            let known = before.get(&lease.node);
            let is_old = newest_s.saturating_sub(lease.renewed_s) > OLD_S;
            let at = match known {
                Some(seen) if seen.version != lease.version => Some(now),
                // What happened while nothing was seen is not held against anyone.
                Some(_)
                    if was_blind
                        && living
                            .as_ref()
                            .is_some_and(|living| living.contains_key(&lease.node)) =>
                {
                    Some(now)
                }
                Some(seen) => seen.at,
                None => (!is_old).then_some(now),
            };
            let seen = Seen {
                version: lease.version,
                said: lease.said,
                at,
            };
            self.seen.insert(lease.node, seen);
        }
        self.looked = Some(now);
    }

    /// The nodes that live, with the link addresses of their uplinks.
    #[must_use]
    pub fn living(&self, now: Instant) -> BTreeMap<NodeName, Option<[u8; 6]>> {
        let living = self.who_lives(now);
        living.map(|(node, seen)| (node.clone(), seen.said.mac)).collect()
    }

    /// What the nodes that live have heard of hosts outside of the cluster.
    #[must_use]
    pub fn claims(&self, now: Instant) -> Claims {
        let claims = self.who_lives(now).flat_map(|(_, seen)| &seen.said.claims);
        claims.map(|(address, claim)| (*address, *claim)).collect()
    }

    fn who_lives(&self, now: Instant) -> impl Iterator<Item = (&NodeName, &Seen)> {
        self.seen.iter().filter(move |(_, seen)| {
            seen.at
                .is_some_and(|at| now.saturating_duration_since(at) < self.lease)
        })
    }

    /// Whether the Leases have not been seen for half of their time.
    #[must_use]
    pub fn is_cut_off(&self, now: Instant) -> bool {
        self.looked
            .is_none_or(|looked| now.saturating_duration_since(looked) > self.lease / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);

    fn lease(node: &str, version: u32) -> NodeLease {
        NodeLease {
            node: NodeName::new(node).unwrap(),
            version: version.to_string(),
            renewed_s: 1000,
            said: Said {
                mac: Some([2, 0, 0, 0, 0, 1]),
                claims: Claims::new(),
            },
        }
    }

    fn living(book: &LeaseBook, now: Instant) -> Vec<String> {
        book.living(now).keys().map(ToString::to_string).collect()
    }

    fn after(begin: Instant, ms: u64) -> Instant {
        begin + Duration::from_millis(ms)
    }

    #[test]
    fn who_renews_lives_and_who_stops_is_dead_in_time() {
        let (mut book, begin) = (LeaseBook::new(LEASE), Instant::now());
        assert!(book.is_cut_off(begin), "nothing has been seen yet");
        // `b` stops after 3 s.
        let mut dead = None;
        for ms in (0..8000).step_by(500) {
            let now = after(begin, ms);
            let renewals = |until: u64| u32::try_from(ms.min(until) / 667).unwrap();
            book.look(
                now,
                vec![lease("a", renewals(u64::MAX)), lease("b", renewals(3000))],
            );
            assert!(!book.is_cut_off(now));
            assert!(living(&book, now).contains(&"a".to_owned()));
            if dead.is_none() && !living(&book, now).contains(&"b".to_owned()) {
                dead = Some(ms);
            }
        }
        let dead = dead.unwrap();
        assert!(
            (4500..=5500).contains(&dead),
            "within 2.5 s of its last renewal at 2.67 s: {dead}"
        );
    }

    #[test]
    fn whoever_sees_nothing_says_so_and_buries_nobody() {
        let (mut book, begin) = (LeaseBook::new(LEASE), Instant::now());
        book.look(begin, vec![lease("a", 1), lease("b", 1)]);
        assert!(!book.is_cut_off(after(begin, 1000)));
        assert!(
            book.is_cut_off(after(begin, 1001)),
            "long before anybody counts as dead"
        );
        // An hour later the server is back, and nobody has had the time to renew.
        let back = after(begin, 3_600_000);
        book.look(back, vec![lease("a", 1), lease("b", 1)]);
        assert!(!book.is_cut_off(back));
        assert_eq!(living(&book, back), ["a", "b"]);
        for ms in (500..2500).step_by(500) {
            book.look(after(back, ms), vec![lease("a", 2), lease("b", 1)]);
        }
        assert_eq!(living(&book, after(back, 2000)), ["a"], "one did not outlive it");
        // Who was dead before is not brought to life by it.
        let again = after(back, 10_000);
        book.look(again, vec![lease("a", 2), lease("b", 1)]);
        assert_eq!(living(&book, again), ["a"]);
        book.look(again, vec![lease("a", 2), lease("b", 2)]);
        assert_eq!(living(&book, again), ["a", "b"], "but by itself");
    }

    #[test]
    fn leases_of_long_ago_are_nobodys() {
        let (mut book, begin) = (LeaseBook::new(LEASE), Instant::now());
        let old = NodeLease {
            renewed_s: 1000 - OLD_S - 1,
            ..lease("old", 1)
        };
        book.look(begin, vec![lease("a", 1), old]);
        assert_eq!(living(&book, begin), ["a"]);
        book.look(after(begin, 500), vec![lease("a", 1)]);
        assert_eq!(
            living(&book, after(begin, 500)),
            ["a"],
            "one that is deleted is gone at once"
        );
        book.look(after(begin, 600), Vec::new());
        assert_eq!(living(&book, after(begin, 600)), [""; 0]);
    }
}
