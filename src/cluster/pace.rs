//! How often and how long: every time that has to do with the API server, in one place.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

/// The times that the talk with the API server keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The least time before a request that failed is made again; it doubles with every failure in a row.
    pub retry_min: Duration,
    /// The most of that.
    pub retry_max: Duration,
    /// How long an answer that is no watch may take.
    pub answer_max: Duration,
    /// How long a watch may be silent before it is begun anew. A server marks where it is about once a minute.
    pub silence_max: Duration,
    /// How long the server is asked to keep up a watch.
    pub watch_max: Duration,
    /// How often a kind that the server does not have is looked for.
    pub absent: Duration,
    /// How long a kind that was there must be away before its objects are taken to be.
    pub absent_after: Duration,
    /// For how long changes are gathered before a store is made of them.
    pub gather: Duration,
    /// How long a start waits for the server before it goes on from the saved copy.
    pub copy_after: Duration,
    /// The least time between two saved copies.
    pub save: Duration,
    /// How often the annotations of the own Node are looked at.
    pub lease: Duration,
    /// How often subnet.env is looked at.
    pub subnet_file: Duration,
    /// How many Events may be sent at once, and after how long another.
    pub events_at_once: u32,
    /// See [`Self::events_at_once`].
    pub event_every: Duration,
    /// After how long the same is said again, as long as it is so.
    pub event_again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(30),
            answer_max: Duration::from_secs(60),
            silence_max: Duration::from_secs(150),
            watch_max: Duration::from_secs(290),
            absent: Duration::from_secs(300),
            absent_after: Duration::from_secs(60),
            gather: Duration::from_millis(20),
            copy_after: Duration::from_secs(3),
            save: Duration::from_secs(30),
            lease: Duration::from_secs(60),
            subnet_file: Duration::from_secs(5),
            events_at_once: 32,
            event_every: Duration::from_secs(2),
            event_again: Duration::from_secs(2400),
        }
    }
}

/// A time between half of `whole` and all of it, by chance: many nodes that lost one server do not come back as one.
pub(super) fn jittered(whole: Duration) -> Duration {
    // The keys of a hasher are random, and differ from one to the next.
    let chance = RandomState::new().hash_one(()) % 1024;
    let chance = u32::try_from(chance).unwrap_or_default();
    whole / 2 + whole / 2048 * chance
}

/// The wait before a request is made again.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    pace: Pace,
}

impl Backoff {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            next: pace.retry_min,
            pace,
        }
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.next = self.pace.retry_min;
    }

    /// How long to wait now, and at least as long as the server asked for.
    pub(super) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let now = jittered(self.next);
        self.next = (self.next * 2).min(self.pace.retry_max);
        // What a server asks for is no reason to stay away for good.
        now.max(asked.unwrap_or_default().min(self.pace.retry_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_differ_and_begin_anew() {
        let pace = Pace::default();
        let mut backoff = Backoff::new(pace);
        let waits: Vec<_> = (0..12).map(|_| backoff.wait(None)).collect();
        let mut whole = pace.retry_min;
        for wait in &waits {
            assert!(*wait >= whole / 2 && *wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(pace.retry_max);
        }
        assert_eq!(whole, pace.retry_max);
        backoff.reset();
        assert!(backoff.wait(None) <= pace.retry_min);
        // As long as the server asks for, within reason.
        assert_eq!(backoff.wait(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.wait(Some(Duration::from_secs(86_400))), pace.retry_max);
        let different: std::collections::BTreeSet<_> = (0..16).map(|_| jittered(pace.retry_max)).collect();
        assert!(different.len() > 1);
    }
}
