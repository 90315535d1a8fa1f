//! What an API server has told of, and what of its past stays in force.
//!
//! The same rule as for a folder of manifests: a refused version of an object never takes the place of a good one, which
//! stays in force until the object makes sense again or is deleted. Nothing of that outlives the process.
//!
//! A kind is listed as a whole and then followed change by change; when it is listed again, nothing is taken away before
//! the new list is complete. Changes that come twice, late, or in another order than they were made are harmless: an
//! object's version decides, and what was deleted is remembered for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::Deserialize;

use super::name::{NodeName, ObjectId};
use super::network::NetworkChoice;
use super::notice::{Notice, Origin, Severity};
use super::object::Object;
use super::store::{Entry, Record, Registry, Store};
use super::watched::{Sighting, Version, WATCHED, Watched};

/// How many deletions are remembered.
const GRAVES_MAX: usize = 4096;

/// What is known of one object.
#[derive(Debug, Clone)]
struct Known {
    version: Version,
    /// What is kept of it, as JSON.
    text: Arc<str>,
    /// What is in force of it.
    entry: Option<Arc<Entry>>,
    /// What is to be said about it.
    notices: Vec<Notice>,
}

/// Objects of one kind.
type Objects = HashMap<ObjectId, Known>;

/// What an API server has told of.
#[derive(Debug, Default)]
pub struct Mirror {
    objects: BTreeMap<&'static str, Objects>,
    /// Lists that are not complete yet.
    listings: BTreeMap<&'static str, Objects>,
    /// Which version a deleted object had, and the order of their deletion.
    graves: HashMap<ObjectId, Version>,
    buried: VecDeque<ObjectId>,
    /// The Services and EndpointSlices of all.
    services: Registry,
    /// What is said about single objects, where there is anything to say.
    notices: BTreeMap<ObjectId, Vec<Notice>>,
}

impl Mirror {
    /// A new list of a kind begins.
    pub fn begin(&mut self, watched: &'static Watched) {
        self.listings.insert(watched.kind, Objects::new());
    }

    /// An object stands in the list that has begun.
    pub fn list(&mut self, sighting: Sighting) {
        let kind = sighting.watched.kind;
        let id = sighting.id.clone();
        let known = self.read(sighting);
        if let Some(listing) = self.listings.get_mut(kind) {
            listing.insert(id, known);
        }
    }

    /// The list has come to its end: what is not in it is gone. Tells whether anything is other than before.
    pub fn complete(&mut self, watched: &'static Watched) -> bool {
        let Some(listing) = self.listings.remove(watched.kind) else {
            return false;
        };
        // The server may have gone back to an earlier state, from a backup say, so the list alone counts.
        self.graves.retain(|id, _| id.kind != watched.kind);
        self.buried.retain(|id| id.kind != watched.kind);
        let mut before = self.objects.remove(watched.kind).unwrap_or_default();
        let mut changed = false;
        for (id, known) in &listing {
            let old = before.remove(id);
            changed |= old.as_ref().is_none_or(|old| old.text != known.text);
            self.replace(id, old.as_ref(), Some(known));
        }
        for (id, old) in before {
            changed = true;
            self.replace(&id, Some(&old), None);
        }
        self.objects.insert(watched.kind, listing);
        changed
    }

    /// The list was broken off.
    pub fn abandon(&mut self, watched: &'static Watched) {
        self.listings.remove(watched.kind);
    }

    /// The server does not have the kind, or no longer.
    pub fn absent(&mut self, watched: &'static Watched) -> bool {
        self.begin(watched);
        self.complete(watched)
    }

    /// An object was made or changed. Tells whether anything is other than before.
    pub fn apply(&mut self, sighting: Sighting) -> bool {
        let kind = sighting.watched.kind;
        let id = sighting.id.clone();
        let before = self.known(&sighting).cloned();
        let is_late = |version: Version| sighting.version.is_past(version);
        if before.as_ref().is_some_and(|known| is_late(known.version))
            || self.graves.get(&id).is_some_and(|version| is_late(*version))
        {
            return false;
        }
        let known = self.read(sighting);
        let changed = before.as_ref().is_none_or(|before| before.text != known.text);
        self.replace(&id, before.as_ref(), Some(&known));
        self.objects.entry(kind).or_default().insert(id, known);
        changed
    }

    /// An object was deleted. Tells whether it was there.
    pub fn remove(&mut self, sighting: &Sighting) -> bool {
        let known = self.known(sighting);
        // Deleted and made again meanwhile; a deletion has the version of its own moment.
        if known
            .is_some_and(|known| sighting.version.is_past(known.version) && sighting.version != known.version)
        {
            return false;
        }
        self.bury(sighting);
        let objects = self.objects.entry(sighting.watched.kind).or_default();
        let Some(known) = objects.remove(&sighting.id) else {
            return false;
        };
        self.replace(&sighting.id, Some(&known), None);
        true
    }

    fn bury(&mut self, sighting: &Sighting) {
        let id = sighting.id.clone();
        if self.graves.insert(id.clone(), sighting.version).is_none() {
            self.buried.push_back(id);
        }
        if self.buried.len() > GRAVES_MAX
            && let Some(oldest) = self.buried.pop_front()
        {
            self.graves.remove(&oldest);
        }
    }

    fn known(&self, sighting: &Sighting) -> Option<&Known> {
        self.objects.get(sighting.watched.kind)?.get(&sighting.id)
    }

    /// Makes an entry of an object, unless it is as it was.
    fn read(&self, sighting: Sighting) -> Known {
        let text = sighting.tree.to_string();
        let before = self.known(&sighting);
        if let Some(before) = before.filter(|before| *before.text == *text) {
            return Known {
                version: sighting.version,
                ..before.clone()
            };
        }
        let before = before.and_then(|before| before.entry.clone());
        let id = sighting.id;
        let read = Object::from_tree(sighting.tree).map_err(|fault| fault.reason);
        let (entry, faults) = match read.and_then(|object| Entry::read(Origin::Api, &object)) {
            Ok((entry, warnings)) => (Some(reuse(entry, before)), warnings),
            Err(fault) if fault.severity() == Severity::Refused => (before.map(last_good), vec![fault]),
            Err(fault) => (None, vec![fault]),
        };
        let is_kept = entry.as_ref().is_some_and(|entry| entry.is_last_good);
        let notice = |fault| Notice {
            last_good_kept: is_kept,
            ..Notice::new(Origin::Api, Some(id.clone()), fault)
        };
        Known {
            version: sighting.version,
            text: text.into(),
            entry,
            notices: faults.into_iter().map(notice).collect(),
        }
    }

    /// Brings what follows from an object up to date with one state of it in the place of another.
    fn replace(&mut self, id: &ObjectId, old: Option<&Known>, new: Option<&Known>) {
        match new
            .map(|known| &known.notices)
            .filter(|notices| !notices.is_empty())
        {
            Some(notices) => self.notices.insert(id.clone(), notices.clone()),
            None => self.notices.remove(id),
        };
        let entry = |known: Option<&Known>| known.and_then(|known| known.entry.clone());
        let (old, new) = (entry(old), entry(new));
        let is_same = |old: &Arc<Entry>| new.as_ref().is_some_and(|new| Arc::ptr_eq(old, new));
        if !old.as_ref().is_some_and(is_same) {
            self.services.replace(old.as_slice(), new.as_slice());
        }
    }

    /// The store of what is in force.
    #[must_use]
    pub fn store(&mut self, own: &NodeName, network: NetworkChoice) -> Store {
        let known = self.objects.values().flat_map(HashMap::values);
        let entries = known.filter_map(|known| known.entry.as_ref());
        let others: Vec<&Arc<Entry>> = entries
            .filter(|entry| !matches!(entry.record, Record::Service(_) | Record::EndpointSlice(_)))
            .collect();
        let notices = self.notices.values().flatten().cloned().collect();
        Store::assemble((own, network), &others, &mut self.services, notices)
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.values().map(HashMap::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every object as a line of a copy: JSON, without what is not used of it. Those of a kind stand together.
    pub fn lines(&self) -> impl Iterator<Item = &Arc<str>> {
        self.objects
            .values()
            .flat_map(HashMap::values)
            .map(|known| &known.text)
    }

    /// Takes what [`Self::lines`] gave in the place of everything.
    ///
    /// # Errors
    /// The number of the first line that is no object, from 0.
    pub fn restore<'l>(&mut self, lines: impl IntoIterator<Item = &'l str>) -> Result<(), usize> {
        let mut restored = Self::default();
        WATCHED.iter().for_each(|watched| restored.begin(watched));
        for (number, line) in lines.into_iter().enumerate() {
            restored.list(Sighting::of_line(line).ok_or(number)?);
        }
        for watched in &WATCHED {
            restored.complete(watched);
        }
        *self = restored;
        Ok(())
    }

    /// An object's `apiVersion` and `metadata.uid`, by which an Event refers to it.
    #[must_use]
    pub fn reference(&self, id: &ObjectId) -> Option<Reference> {
        let known = self.objects.get(id.kind.as_str())?.get(id)?;
        serde_json::from_str(&known.text).ok()
    }

    /// What is kept of an object, as JSON.
    #[must_use]
    pub fn text(&self, id: &ObjectId) -> Option<&Arc<str>> {
        Some(&self.objects.get(id.kind.as_str())?.get(id)?.text)
    }
}

/// How an Event refers to an object, beside its [`ObjectId`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reference {
    /// `apiVersion`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    metadata: Uid,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Uid {
    #[serde(default)]
    uid: String,
}

impl Reference {
    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.metadata.uid
    }
}

/// An entry that is as before is the same one: what follows then sees by the pointer that nothing has changed.
fn reuse(mut entry: Entry, before: Option<Arc<Entry>>) -> Arc<Entry> {
    match before {
        Some(before) if *before == entry => before,
        Some(before) if before.record == entry.record => {
            entry.record = before.record.clone();
            Arc::new(entry)
        }
        Some(_) | None => Arc::new(entry),
    }
}

fn last_good(mut entry: Arc<Entry>) -> Arc<Entry> {
    Arc::make_mut(&mut entry).is_last_good = true;
    entry
}

#[cfg(test)]
mod tests;
