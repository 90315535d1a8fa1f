//! Whether the API server answers, since when not, and what was counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::request::Trouble;

/// How long the server may be away without a word about it: a connection that is made anew is no news.
const OUTAGE_AFTER: Duration = Duration::from_secs(2);

/// What is counted of the talk with the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Whole lists that were read.
    Lists,
    /// Watches that were begun.
    Watches,
    /// Changes of objects that were told of.
    Changes,
    /// Changes that were known already, or overtaken by later ones.
    Stale,
    /// Times that the server had forgotten where a watch or a list was, so that all was listed anew.
    Expired,
    /// Requests that were not answered, or not to any use.
    Failures,
    /// Requests that were put off at the server's wish.
    Throttled,
    /// Stores that were made.
    Stores,
    /// Copies that were saved.
    Saved,
    /// Copies that could not be.
    SaveFailures,
    /// Events that were sent.
    Events,
    /// Events that were left out: the queue was full, or the server had the same one.
    EventsLeftOut,
    /// Events that the server did not take.
    EventFailures,
    /// Times that flannel's annotations and condition of the own Node were written.
    Leases,
    /// Times that subnet.env was written.
    SubnetFiles,
}

impl Count {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 15] = [
        (Self::Lists, "lists"),
        (Self::Watches, "watches"),
        (Self::Changes, "changes"),
        (Self::Stale, "changes_stale"),
        (Self::Expired, "expired"),
        (Self::Failures, "failures"),
        (Self::Throttled, "throttled"),
        (Self::Stores, "stores"),
        (Self::Saved, "copies_saved"),
        (Self::SaveFailures, "copies_failed"),
        (Self::Events, "events"),
        (Self::EventsLeftOut, "events_left_out"),
        (Self::EventFailures, "events_failed"),
        (Self::Leases, "leases_written"),
        (Self::SubnetFiles, "subnet_files_written"),
    ];
}

/// Where objects come from, and how that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `manifests` or `kubernetes`.
    pub kind: String,
    /// The folder, or the server's address.
    pub place: String,
    /// For an API server: whether it answered when it was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// For an API server: seconds since it was last heard of; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_contact_seconds: Option<u64>,
    /// For an API server: whether what is in force is a saved copy of an earlier run, not told of anew since.
    #[serde(default)]
    pub from_copy: bool,
    /// For an API server: what was counted, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
}

impl SourceStatus {
    /// A folder of manifests.
    #[must_use]
    pub fn of_folder(path: &Path) -> Self {
        Self {
            kind: "manifests".to_owned(),
            place: path.display().to_string(),
            reachable: None,
            last_contact_seconds: None,
            from_copy: false,
            counts: BTreeMap::new(),
        }
    }
}

/// The state of the talk with the API server; written by those who talk, read by whoever wants to know.
#[derive(Debug)]
pub struct Contact {
    server: Mutex<String>,
    begun: Instant,
    /// Milliseconds from `begun` to the last time that the server was heard of, and one more; 0 for never.
    heard: AtomicU64,
    from_copy: AtomicU64,
    counts: [AtomicU64; Count::ALL.len()],
    said: Mutex<Said>,
}

/// What is the matter, and has been said.
#[derive(Debug, Default)]
struct Said {
    outage: Option<Outage>,
    /// What is wrong with single requests, by what they are about.
    troubles: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    is_said: bool,
}

impl Contact {
    pub(super) fn new() -> Self {
        Self {
            server: Mutex::default(),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
            from_copy: AtomicU64::new(0),
            counts: Default::default(),
            said: Mutex::default(),
        }
    }

    pub(super) fn name(&self, server: &str) {
        server.clone_into(&mut self.server.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn server(&self) -> String {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One more.
    pub(super) fn count(&self, what: Count) {
        if let Some(count) = self.counts.get(what as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn set_from_copy(&self, from_copy: bool) {
        self.from_copy.store(u64::from(from_copy), Ordering::Relaxed);
    }

    /// The server was heard of.
    pub(super) fn heard(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now.saturating_add(1), Ordering::Relaxed);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outage) = said.outage.take().filter(|outage| outage.is_said) {
            let away_s = outage.since.elapsed().as_secs();
            info!("the API server {} answers again, after {away_s} s", self.server());
        }
    }

    /// A request about `what` went well.
    pub(super) fn went_well(&self, what: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.troubles.remove(what).is_some() {
            info!("API server: {what}: settled");
        }
    }

    /// A request about `what` failed. Each trouble is said once; that the server is away, once for all that is asked.
    pub(super) fn failed(&self, what: &str, trouble: &Trouble) {
        self.count(Count::Failures);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_outage() {
            let outage = said.outage.get_or_insert_with(|| Outage {
                since: Instant::now(),
                is_said: false,
            });
            if !outage.is_said && outage.since.elapsed() >= OUTAGE_AFTER {
                outage.is_said = true;
                error!(
                    "the API server {} cannot be reached ({trouble}); what was last heard of stays in force, and it is tried again",
                    self.server()
                );
            }
            return;
        }
        let words = trouble.to_string();
        if said.troubles.get(what) != Some(&words) {
            warn!("API server: {what}: {words}");
            said.troubles.insert(what.to_owned(), words);
        }
    }

    /// Where objects come from, and how that goes.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let heard = self.heard.load(Ordering::Relaxed);
        let last = (heard > 0).then(|| {
            let age = self
                .begun
                .elapsed()
                .saturating_sub(Duration::from_millis(heard - 1));
            age.as_secs()
        });
        let outage = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = Count::ALL.iter().zip(&self.counts);
        SourceStatus {
            kind: "kubernetes".to_owned(),
            place: self.server(),
            reachable: Some(last.is_some() && outage.outage.is_none()),
            last_contact_seconds: last,
            from_copy: self.from_copy.load(Ordering::Relaxed) > 0,
            counts: counts
                .map(|((_, name), count)| ((*name).to_owned(), count.load(Ordering::Relaxed)))
                .collect(),
        }
    }
}
