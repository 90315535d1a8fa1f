//! Which node gives out addresses: the holder of one Lease, taken and renewed as client-go's leader election does it.

use std::time::{Duration, Instant};

/// For how long the Lease is good; giving out addresses can wait.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long the holder may go on without having renewed it: less, so that no two ever hold it.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked at, and renewed.
pub const RETRY: Duration = Duration::from_secs(2);

/// The Lease as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// `spec.holderIdentity`; empty if it was given up.
    pub holder: String,
    /// `metadata.resourceVersion`.
    pub version: String,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make it, with this node as its holder.
    Create,
    /// Write this node into it, unless somebody else was faster.
    Take,
    /// Write a new time into it.
    Renew,
    /// Leave it alone.
    Wait,
}

/// One that may come to hold it.
#[derive(Debug)]
pub struct Candidate {
    own: String,
    /// The version that was last seen, and since when.
    seen: Option<(Held, Instant)>,
    renewed: Option<Instant>,
}

impl Candidate {
    /// By the name that stands in the Lease.
    #[must_use]
    pub fn new(own: &str) -> Self {
        Self {
            own: own.to_owned(),
            seen: None,
            renewed: None,
        }
    }

    /// What to do about the Lease as it is now; `None` if there is none.
    pub fn look(&mut self, held: Option<Held>, now: Instant) -> Step {
        let Some(held) = held else {
            self.seen = None;
            return Step::Create;
        };
        let since = match &self.seen {
            Some((before, since)) if *before == held => *since,
            _ => now,
        };
        let is_over = held.holder.is_empty() || now.saturating_duration_since(since) >= LEASE;
        let is_own = held.holder == self.own;
        self.seen = Some((held, since));
        match (is_own, is_over) {
            (true, _) => Step::Renew,
            (false, true) => Step::Take,
            (false, false) => Step::Wait,
        }
    }

    /// It was written with this node as its holder; the request was made then.
    pub fn written(&mut self, asked: Instant) {
        self.renewed = Some(asked);
    }

    /// Whether this node holds it.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.renewed
            .is_some_and(|renewed| now.saturating_duration_since(renewed) < RENEW_DEADLINE)
    }

    /// It is seen to be another's.
    pub fn lost(&mut self) {
        self.renewed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one Lease, where the newest version counts.
    #[derive(Default)]
    struct Server {
        held: Option<Held>,
        writes: u32,
    }

    impl Server {
        /// Does what a candidate wants, if it knows the newest version.
        fn serve(&mut self, candidate: &mut Candidate, seen: Option<Held>, now: Instant) {
            let step = candidate.look(seen.clone(), now);
            if step == Step::Wait {
                candidate.lost();
                return;
            }
            if seen == self.held {
                self.writes += 1;
                self.held = Some(Held {
                    holder: candidate.own.clone(),
                    version: self.writes.to_string(),
                });
                candidate.written(now);
            }
        }
    }

    #[test]
    fn one_leads_and_another_follows_when_it_dies() {
        let (mut server, begin) = (Server::default(), Instant::now());
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        let mut led = Vec::new();
        for s in (0..60).step_by(2) {
            let now = begin + Duration::from_secs(s);
            let seen = server.held.clone();
            // Both have read the same, and both may write. After 20 s the first one is dead.
            if s < 20 {
                server.serve(&mut a, seen.clone(), now);
            }
            server.serve(&mut b, seen, now);
            assert!(!(a.leads(now) && b.leads(now)), "two at once after {s} s");
            led.push((a.leads(now), b.leads(now)));
        }
        assert_eq!(led[0], (true, false));
        assert_eq!(led[9], (true, false));
        assert_eq!(led[13], (true, false), "it would not know that it is dead");
        assert_eq!(led[15], (false, false), "nobody, for a while");
        assert_eq!(led[18], (false, true));
        assert_eq!(led.last(), Some(&(false, true)));
    }

    #[test]
    fn one_that_is_given_up_is_taken_at_once() {
        let now = Instant::now();
        let mut candidate = Candidate::new("a");
        let held = |holder: &str| {
            Some(Held {
                holder: holder.to_owned(),
                version: "1".to_owned(),
            })
        };
        assert_eq!(candidate.look(None, now), Step::Create);
        assert_eq!(candidate.look(held("b"), now), Step::Wait);
        assert_eq!(candidate.look(held(""), now), Step::Take);
        assert_eq!(candidate.look(held("a"), now), Step::Renew, "as after a restart");
        assert!(!candidate.leads(now), "nothing has been written yet");
    }
}
