//! The keeper of the objects: takes what the followers tell, makes stores of it, and saves copies.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::contact::{Contact, Count};
use super::events::{Report, Reporter};
use super::follow::Change;
use super::pace::Pace;
use super::saved::Copies;
use crate::objects::{Mirror, NetworkChoice, NodeName, Notice, ObjectId, Store, WATCHED, Watched};

/// Whose stores are made.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) own: NodeName,
    pub(super) network: NetworkChoice,
}

/// What the keeper has.
pub(super) struct Keeper {
    whose: Whose,
    pace: Pace,
    contact: Arc<Contact>,
    copies: Copies,
    mirror: Mirror,
    /// Kinds that have not been listed in this run.
    unlisted: BTreeSet<&'static str>,
    /// From when on the saved copy is good enough.
    copy_at: Option<Instant>,
    stores: watch::Sender<Arc<Store>>,
    is_ready: watch::Sender<bool>,
    /// Who tells of what is refused, if anybody does, and when all of it is told again.
    reporter: Option<Reporter>,
    tell_at: Instant,
    /// When the changes since the last store are made one, if there are any, and before when none is made.
    store_at: Option<Instant>,
    not_before: Instant,
    /// When a copy may be saved next, and whether anything is other than in the last one.
    save_at: Instant,
    is_unsaved: bool,
    /// Whether the last attempt to save failed, which is said once.
    save_failed: bool,
}

impl Keeper {
    /// Begins with the copy that an earlier run has left, if it is this node's.
    pub(super) fn new(
        whose: Whose,
        (pace, contact): (Pace, Arc<Contact>),
        copies: Copies,
        (stores, is_ready, reporter): (watch::Sender<Arc<Store>>, watch::Sender<bool>, Option<Reporter>),
    ) -> Self {
        let mut mirror = Mirror::default();
        let loaded = copies.load(&mut mirror);
        if let Err(error) = &loaded {
            warn!("{error}");
        }
        let copy_at = matches!(loaded, Ok(Some(_))).then(|| Instant::now() + pace.copy_after);
        Self {
            whose,
            pace,
            contact,
            copies,
            mirror,
            unlisted: WATCHED.iter().map(|watched| watched.kind).collect(),
            copy_at,
            stores,
            is_ready,
            reporter,
            tell_at: Instant::now() + pace.event_again,
            store_at: None,
            not_before: Instant::now(),
            save_at: Instant::now(),
            is_unsaved: false,
            save_failed: false,
        }
    }

    /// Keeps until it is told to stop, and saves what has changed since the last copy.
    pub(super) async fn run(mut self, mut changes: mpsc::Receiver<Change>, mut stop: watch::Receiver<bool>) {
        loop {
            let save_at = (self.is_unsaved && self.is_listed()).then_some(self.save_at);
            tokio::select! {
                // Stopped, or dropped.
                _ = stop.wait_for(|stop| *stop) => break,
                change = changes.recv() => match change {
                    Some(change) => self.take(change),
                    None => break,
                },
                () = at(self.copy_at) => self.go_on_from_copy(),
                () = at(self.store_at) => self.publish(),
                () = at(save_at) => self.save().await,
                () = tokio::time::sleep_until(self.tell_at) => {
                    self.tell_at = Instant::now() + self.pace.event_again;
                    self.tell(&[]);
                }
            }
        }
        if self.is_unsaved && self.is_listed() {
            self.save().await;
        }
    }

    fn is_listed(&self) -> bool {
        self.unlisted.is_empty()
    }

    fn take(&mut self, change: Change) {
        let (mut changed, mut is_first) = (false, false);
        match change {
            Change::Begin(watched) => self.mirror.begin(watched),
            Change::Listed(sightings) => {
                for sighting in sightings {
                    self.mirror.list(sighting);
                }
            }
            Change::Abandon(watched) => self.mirror.abandon(watched),
            Change::Complete(watched) => {
                changed = self.mirror.complete(watched);
                is_first = self.note_listed(watched);
            }
            Change::Absent(watched) => {
                changed = self.mirror.absent(watched);
                is_first = self.note_listed(watched);
            }
            Change::Seen(sighting) => {
                changed = self.mirror.apply(sighting);
                self.count_stale(changed);
            }
            Change::Gone(sighting) => {
                changed = self.mirror.remove(&sighting);
                self.count_stale(changed);
            }
        }
        self.is_unsaved |= changed;
        if (changed && self.has_published()) || (is_first && self.is_listed()) {
            let soon = (Instant::now() + self.pace.gather).max(self.not_before);
            self.store_at.get_or_insert(soon);
        }
    }

    fn count_stale(&self, changed: bool) {
        if !changed {
            self.contact.count(Count::Stale);
        }
    }

    /// Tells whether a kind was listed for the first time.
    fn note_listed(&mut self, watched: &'static Watched) -> bool {
        let is_first = self.unlisted.remove(watched.kind);
        if is_first && self.is_listed() {
            info!("all kinds of objects are listed: {} objects", self.mirror.len());
            self.copy_at = None;
            self.contact.set_from_copy(false);
            // What there is now is newer than any copy.
            self.is_unsaved = true;
        }
        is_first
    }

    fn has_published(&self) -> bool {
        *self.is_ready.borrow()
    }

    fn go_on_from_copy(&mut self) {
        self.copy_at = None;
        warn!(
            "the API server has not told of everything yet: going on from the copy of the last state, {} objects",
            self.mirror.len()
        );
        self.contact.set_from_copy(true);
        self.publish();
    }

    fn publish(&mut self) {
        let begun = Instant::now();
        self.store_at = None;
        let store = Arc::new(self.mirror.store(&self.whose.own, self.whose.network));
        let before = Arc::clone(&self.stores.borrow());
        let is_new = self.stores.send_if_modified(|present| {
            let is_new = **present != *store;
            if is_new {
                // Before anybody can see it.
                self.contact.count(Count::Stores);
                *present = store;
            }
            is_new
        });
        if is_new {
            self.tell(before.notices());
        }
        self.is_ready.send_replace(true);
        // However fast changes come, no more than half of the time goes into stores.
        self.not_before = Instant::now() + begun.elapsed();
    }

    /// Has everything told that is wrong now and was not before.
    fn tell(&self, before: &[Notice]) {
        let Some(reporter) = &self.reporter else { return };
        let known: HashSet<(&Option<ObjectId>, String)> = before.iter().map(said).collect();
        let store = Arc::clone(&self.stores.borrow());
        for notice in store
            .notices()
            .iter()
            .filter(|notice| !known.contains(&said(notice)))
        {
            if let Some(report) = Report::of_notice(notice, &self.mirror) {
                reporter.report(report);
            }
        }
    }

    async fn save(&mut self) {
        let lines: Vec<_> = self.mirror.lines().cloned().collect();
        let copies = self.copies.clone();
        let saved = tokio::task::spawn_blocking(move || copies.save(&lines)).await;
        self.save_at = Instant::now() + self.pace.save;
        self.is_unsaved = false;
        match saved {
            Ok(Ok(())) => {
                self.contact.count(Count::Saved);
                self.save_failed = false;
            }
            Ok(Err(failure)) => {
                self.contact.count(Count::SaveFailures);
                if !self.save_failed {
                    error!("{failure}; a start while the API server is away would not have this state");
                }
                self.save_failed = true;
                self.is_unsaved = true;
            }
            Err(failure) => error!("saving a copy of the objects: {failure}"),
        }
    }
}

/// What a notice says of what.
fn said(notice: &Notice) -> (&Option<ObjectId>, String) {
    (&notice.object, notice.reason.to_string())
}

/// Waits until a time, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
