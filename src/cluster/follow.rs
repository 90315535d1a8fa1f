//! One kind of objects, listed and then watched, for as long as anybody wants to know.

use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tracing::info;

use super::contact::Count;
use super::pace::{Backoff, jittered};
use super::request::{Api, Trouble, refusal};
use crate::objects::{Served, Sighting, Watched};

/// The server has forgotten the version that it is asked about.
const GONE: u16 = 410;
/// The server does not have the kind.
const NOT_FOUND: u16 = 404;
/// The server wants to be left alone for a while.
const TOO_MANY_REQUESTS: u16 = 429;

/// After how many failures in a row all is listed anew: a server that was set back to an earlier state has not come to the
/// version yet from which a watch would go on.
const MISSES_MAX: u32 = 4;

/// What is told of a kind of objects.
#[derive(Debug)]
pub(super) enum Change {
    /// A list begins.
    Begin(&'static Watched),
    /// Objects of the list that has begun.
    Listed(Vec<Sighting>),
    /// The list has come to its end.
    Complete(&'static Watched),
    /// The list was broken off; another will begin.
    Abandon(&'static Watched),
    /// The server does not have the kind.
    Absent(&'static Watched),
    /// An object was made or changed.
    Seen(Sighting),
    /// An object was deleted.
    Gone(Sighting),
}

/// A page of a list, as far as its items can be told apart.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: ListMeta,
    // A server may have no items as `null`.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// A line of a watch.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// Nobody wants to know any more.
struct Unwanted;

/// Why a list or a watch ends.
enum End {
    Unwanted,
    Trouble(Trouble),
}

impl From<Unwanted> for End {
    fn from(_: Unwanted) -> Self {
        Self::Unwanted
    }
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Follows one kind.
pub(super) struct Follower {
    watched: &'static Watched,
    /// Which of the places where it may be served is asked.
    place: usize,
    api: Api,
    changes: mpsc::Sender<Change>,
    backoff: Backoff,
    /// Requests in a row that failed.
    misses: u32,
    /// Since when a kind that was there is not.
    absent_since: Option<Instant>,
    was_there: bool,
}

impl Follower {
    pub(super) fn new(watched: &'static Watched, api: Api, changes: mpsc::Sender<Change>) -> Self {
        let backoff = Backoff::new(api.pace);
        Self {
            watched,
            place: 0,
            api,
            changes,
            backoff,
            misses: 0,
            absent_since: None,
            was_there: false,
        }
    }

    /// Lists and watches until nobody wants to know any more.
    pub(super) async fn run(mut self) {
        // A watch that ends goes on from where it was; only what the server has forgotten is listed anew.
        let mut version = None;
        loop {
            let end = match &version {
                None => self.list().await.map(|listed| version = Some(listed)),
                Some(from) => match self.watch(from.clone()).await {
                    Ok(to) => {
                        version = to;
                        Ok(())
                    }
                    Err(end) => Err(end),
                },
            };
            match end {
                Ok(()) => {}
                Err(End::Unwanted) => return,
                Err(End::Trouble(trouble)) => {
                    self.misses += 1;
                    if !trouble.keeps_place() || self.misses >= MISSES_MAX {
                        version = None;
                    }
                    if self.settle(&trouble).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn served(&self) -> &'static Served {
        // INVARIANT: every kind is served somewhere, and `place` is taken modulo their number.
        &self.watched.served[self.place % self.watched.served.len()]
    }

    async fn tell(&self, change: Change) -> Result<(), Unwanted> {
        self.changes.send(change).await.map_err(|_| Unwanted)
    }

    /// What requests are about, for a person.
    fn subject(&self, verb: &str) -> String {
        format!("{verb} {}", self.watched.kind)
    }

    /// Lists all objects, page by page, and answers from which version to watch.
    async fn list(&mut self) -> Result<String, End> {
        self.tell(Change::Begin(self.watched)).await?;
        let mut continue_token: Option<String> = None;
        loop {
            let page = self.api.page(self.served().path, continue_token.as_deref()).await;
            let (sightings, metadata) = match page.and_then(|page| self.read_page(&page)) {
                Ok(read) => read,
                Err(trouble) => {
                    self.tell(Change::Abandon(self.watched)).await?;
                    return Err(trouble.into());
                }
            };
            self.tell(Change::Listed(sightings)).await?;
            let next = metadata.continue_.filter(|token| !token.is_empty());
            if next.is_some() && next != continue_token {
                continue_token = next;
                continue;
            }
            let version = metadata.resource_version.filter(|version| !version.is_empty());
            let (true, Some(version)) = (next.is_none(), version) else {
                self.tell(Change::Abandon(self.watched)).await?;
                let words = "a list without resourceVersion, or without end";
                return Err(Trouble::Garbled(words.to_owned()).into());
            };
            self.tell(Change::Complete(self.watched)).await?;
            self.api.contact.count(Count::Lists);
            self.went_well("listing");
            (self.was_there, self.absent_since) = (true, None);
            return Ok(version);
        }
    }

    fn went_well(&mut self, verb: &str) {
        self.api.contact.went_well(&self.subject(verb));
        self.backoff.reset();
        self.misses = 0;
    }

    fn read_page(&self, page: &[u8]) -> Result<(Vec<Sighting>, ListMeta), Trouble> {
        let garbled = |error: serde_json::Error| Trouble::Garbled(error.to_string());
        let page: Page<'_> = serde_json::from_slice(page).map_err(garbled)?;
        let items = page.items.unwrap_or_default();
        let mut sightings = Vec::with_capacity(items.len());
        for item in items {
            let tree = serde_json::from_str(item.get()).map_err(garbled)?;
            // What has no name is no object, and there is nobody to tell.
            sightings.extend(Sighting::new(self.watched, self.served(), tree));
        }
        Ok((sightings, page.metadata))
    }

    /// Watches from a version on until the watch ends; answers from which to go on, `None` if all is to be listed anew.
    async fn watch(&mut self, mut version: String) -> Result<Option<String>, End> {
        let begun = Instant::now();
        let mut lines = self.api.watch(self.served().path, &version).await?;
        self.api.contact.count(Count::Watches);
        let mut is_of_use = false;
        while let Some(line) = lines.next().await? {
            match self.take_line(&line, &mut version).await {
                Ok(()) => {}
                Err(End::Trouble(trouble)) if trouble.code() == Some(GONE) => {
                    self.api.contact.count(Count::Expired);
                    // One that is gone at once, again and again, is asked for no faster than one that fails.
                    if !is_of_use {
                        return Err(trouble.into());
                    }
                    return Ok(None);
                }
                Err(end) => return Err(end),
            }
            if !is_of_use {
                is_of_use = true;
                self.went_well("watching");
            }
        }
        if !is_of_use && begun.elapsed() < self.api.pace.retry_min {
            tokio::time::sleep(self.backoff.wait(None)).await;
        } else {
            self.went_well("watching");
        }
        Ok(Some(version))
    }

    async fn take_line(&self, line: &[u8], version: &mut String) -> Result<(), End> {
        let Line { kind, object } =
            serde_json::from_slice(line).map_err(|error| Trouble::Garbled(error.to_string()))?;
        if kind == "ERROR" {
            let status = object.to_string();
            return Err(refusal(500, status.as_bytes(), None).into());
        }
        let told = object
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str);
        if let Some(told) = told.filter(|told| !told.is_empty()) {
            let is_past = number(told) < number(version);
            // A mark before where the watch is: the server was set back to an earlier state, from a backup say.
            if is_past && kind == "BOOKMARK" {
                return Err(refusal(GONE, b"the server was set back to an earlier state", None).into());
            }
            if !is_past {
                told.clone_into(version);
            }
        }
        let change = match kind.as_str() {
            "BOOKMARK" => return Ok(()),
            "ADDED" | "MODIFIED" => Change::Seen,
            "DELETED" => Change::Gone,
            other => return Err(Trouble::Garbled(format!("a change of the type {other:?}")).into()),
        };
        self.api.contact.count(Count::Changes);
        if let Some(sighting) = Sighting::new(self.watched, self.served(), object) {
            self.tell(change(sighting)).await?;
        }
        Ok(())
    }

    /// Waits as long as is right after a trouble.
    async fn settle(&mut self, trouble: &Trouble) -> Result<(), Unwanted> {
        if trouble.code() == Some(NOT_FOUND) && self.watched.is_optional {
            return self.look_elsewhere().await;
        }
        if trouble.code() == Some(TOO_MANY_REQUESTS) {
            self.api.contact.count(Count::Throttled);
        } else if trouble.code() == Some(GONE) {
            self.api.contact.count(Count::Expired);
        } else {
            self.api.contact.failed(&self.subject("listing"), trouble);
        }
        let wait = self.backoff.wait(trouble.retry_after());
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.changes.closed() => Err(Unwanted),
        }
    }

    /// A kind that a cluster may well not have is looked for at its next place, and after the last one later. One that
    /// was there must be away for a while: a server that has just started does not know all of its kinds yet.
    async fn look_elsewhere(&mut self) -> Result<(), Unwanted> {
        self.place += 1;
        if !self.place.is_multiple_of(self.watched.served.len()) {
            return Ok(());
        }
        let since = *self.absent_since.get_or_insert_with(Instant::now);
        let wait = if self.was_there && since.elapsed() < self.api.pace.absent_after {
            self.backoff.wait(None)
        } else {
            if self.was_there {
                info!("the API server has no {} any more", self.watched.kind);
            }
            self.was_there = false;
            self.tell(Change::Absent(self.watched)).await?;
            jittered(self.api.pace.absent)
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.changes.closed() => Err(Unwanted),
        }
    }
}

/// A version as a number; nothing for one that is none.
fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}

/// Begins to follow every kind; each ends when nobody takes the changes any more.
pub(super) fn follow_all(api: &Api, changes: &mpsc::Sender<Change>) {
    for watched in &crate::objects::WATCHED {
        let follower = Follower::new(watched, api.clone(), changes.clone());
        tokio::spawn(follower.run());
    }
}
