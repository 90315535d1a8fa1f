//! The folder of manifests as it stands now, and what of its past stays in force.
//!
//! The files are those directly in the folder, by name; folders in it are not searched. A refused version
//! never takes the place of a good one:
//! - A document that names its object but makes no sense leaves that object's last good version *from the
//!   same file* in force.
//! - A document that does not even name its object could be any, so every object of the file's last good
//!   version that no good document of the file names stays in force.
//! - A file that cannot be read leaves all its objects in force, a folder that cannot be read all files.
//!
//! Each lasts until the file is put right or removed. Nothing of this outlives the process: after a restart
//! only what is good counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::fault::Fault;
use super::manifests::{self, FILE_MAX_BYTES, Found, Syntax};
use super::name::{NodeName, ObjectId};
use super::network::NetworkChoice;
use super::notice::{Notice, Origin};
use super::object::ObjectFault;
use super::service::ServiceKey;
use super::store::{Entry, Record, Registry, Store};

/// Most manifests that are read from the folder.
pub const FOLDER_MAX_FILES: usize = 16_384;
/// How old a file's last change must be before its stamp tells versions apart: within less, the clock of the
/// file system may stand still between two changes.
const STAMP_TRUSTED_AFTER: Duration = Duration::from_secs(2);

/// What tells two versions of a file apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a later change would show in the stamp.
    fn is_trusted(&self, now: SystemTime) -> bool {
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let changed_s = u64::try_from(self.changed.0).unwrap_or(u64::MAX);
        changed_s.saturating_add(STAMP_TRUSTED_AFTER.as_secs()) < now_s
    }
}

/// What is known of one file.
#[derive(Debug, Default)]
struct FileState {
    /// Of the version that was read, unless a later change might not show in it.
    stamp: Option<Stamp>,
    entries: Vec<Arc<Entry>>,
    /// Those of them that are neither Services nor EndpointSlices.
    others: Vec<Arc<Entry>>,
    notices: Vec<Notice>,
}

/// The folder with what was read from it. It does no watching of its own: [`Folder::scan`] looks once.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<OsString, FileState>,
    /// The Services and EndpointSlices of all files.
    services: Registry,
    notices: Vec<Notice>,
    network: NetworkChoice,
}

impl Folder {
    /// Names a folder; nothing is read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: BTreeMap::new(),
            services: Registry::default(),
            notices: Vec::new(),
            network: NetworkChoice::Auto,
        }
    }

    /// The same folder for a cluster network of one's choice.
    #[must_use]
    pub fn in_network(self, network: NetworkChoice) -> Self {
        Self { network, ..self }
    }

    /// Path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many manifest files are known.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Reads what is new or changed since the last scan, and tells whether anything is.
    pub fn scan(&mut self) -> bool {
        self.scan_at(SystemTime::now())
    }

    fn scan_at(&mut self, now: SystemTime) -> bool {
        let mut notices = Vec::new();
        let mut changed = false;
        match self.list() {
            Ok(mut names) => {
                if names.len() > FOLDER_MAX_FILES {
                    names = names.into_iter().take(FOLDER_MAX_FILES).collect();
                    notices.push(self.folder_notice(Fault::TooManyFiles {
                        limit: FOLDER_MAX_FILES,
                    }));
                }
                let gone = self.files.extract_if(.., |name, _| !names.contains(name));
                for (_, state) in gone {
                    self.services.replace(&state.entries, &[]);
                    changed = true;
                }
                for name in names {
                    changed |= self.scan_file(name, now);
                }
            }
            Err(error) => notices.push(self.folder_notice(Fault::FolderUnreadable(error.to_string()))),
        }
        changed |= notices != self.notices;
        self.notices = notices;
        changed
    }

    /// The store of what is in force; `more` are notices of whoever does the watching.
    #[must_use]
    pub fn store(&mut self, own: &NodeName, more: &[Notice]) -> Store {
        let states = || self.files.values();
        let entries: Vec<&Arc<Entry>> = states().flat_map(|state| &state.others).collect();
        let notices = more
            .iter()
            .chain(&self.notices)
            .chain(states().flat_map(|state| &state.notices))
            .cloned();
        Store::assemble(
            (own, self.network),
            &entries,
            &mut self.services,
            notices.collect(),
        )
    }

    /// Gives Services load balancers' addresses beside those of their status; tells whether they had others before.
    pub fn assign(&mut self, assigned: BTreeMap<ServiceKey, Vec<IpAddr>>) -> bool {
        self.services.assign(assigned)
    }

    /// Everything that is in force.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let entries = self.files.values().flat_map(|state| &state.entries);
        entries.map(|entry| Entry::clone(entry)).collect()
    }

    /// What the folder itself reports.
    pub(super) fn own_notices(&self) -> Vec<Notice> {
        let of_files = self.files.values().flat_map(|state| &state.notices);
        self.notices.iter().chain(of_files).cloned().collect()
    }

    fn folder_notice(&self, reason: Fault) -> Notice {
        Notice::new(
            Origin::Folder {
                path: self.path.clone(),
            },
            None,
            reason,
        )
    }

    /// Names of the manifests in the folder.
    fn list(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if Syntax::of(Path::new(&name)).is_some() {
                names.insert(name);
                // One more than is read is kept, to tell that there are more.
                if names.len() > FOLDER_MAX_FILES + 1 {
                    names.pop_last();
                }
            }
        }
        Ok(names)
    }

    /// Reads a file if it is new or changed, and tells whether anything came of it.
    fn scan_file(&mut self, name: OsString, now: SystemTime) -> bool {
        let path = self.path.join(&name);
        let Some(syntax) = Syntax::of(&path) else {
            return false;
        };
        let before = self.files.get(&name);
        let mut state = match stamp_of(&path) {
            Ok(stamp) if before.is_some_and(|state| state.stamp == Some(stamp)) => return false,
            Ok(stamp) => match read_bounded(&path) {
                Ok(bytes) => {
                    let found = manifests::read(&path, syntax, &bytes);
                    let mut state = merge(found, before.map_or(&[], |state| &state.entries));
                    state.stamp = stamp.is_trusted(now).then_some(stamp);
                    state
                }
                Err(reason) => keep_all(&path, before, reason),
            },
            // Removed since the folder was listed; a link that leads nowhere is still there and is reported.
            Err(Fault::Unreadable(_))
                if fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) =>
            {
                let gone = self.files.remove(&name);
                if let Some(state) = &gone {
                    self.services.replace(&state.entries, &[]);
                }
                return gone.is_some();
            }
            Err(reason) => keep_all(&path, before, reason),
        };
        let changed = before.is_none_or(|old| old.entries != state.entries || old.notices != state.notices);
        let old = before.map_or(&[][..], |state| &state.entries);
        self.services.replace(old, &state.entries);
        let is_other =
            |entry: &&Arc<Entry>| !matches!(entry.record, Record::Service(_) | Record::EndpointSlice(_));
        state.others = state.entries.iter().filter(is_other).cloned().collect();
        self.files.insert(name, state);
        changed
    }
}

fn unreadable(error: &io::Error) -> Fault {
    Fault::Unreadable(error.to_string())
}

fn stamp_of(path: &Path) -> Result<Stamp, Fault> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(&error))?;
    // Before it is opened: opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(Fault::NotAFile);
    }
    Ok(Stamp::of(&metadata))
}

/// Reads a file of at most [`FILE_MAX_BYTES`], also if it grows meanwhile.
fn read_bounded(path: &Path) -> Result<Vec<u8>, Fault> {
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut bytes = Vec::new();
    let len = file
        .take(FILE_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    if u64::try_from(len).is_ok_and(|len| len > FILE_MAX_BYTES) {
        return Err(Fault::TooLarge {
            limit: FILE_MAX_BYTES,
        });
    }
    Ok(bytes)
}

/// The state of a file that cannot be read: all that it held stays.
fn keep_all(path: &Path, before: Option<&FileState>, reason: Fault) -> FileState {
    let mut entries = before.map(|state| state.entries.clone()).unwrap_or_default();
    entries
        .iter_mut()
        .for_each(|entry| Arc::make_mut(entry).is_last_good = true);
    let mut notice = Notice::new(
        Origin::File {
            file: path.to_owned(),
        },
        None,
        reason,
    );
    notice.last_good_kept = !entries.is_empty();
    FileState {
        entries,
        notices: vec![notice],
        ..FileState::default()
    }
}

/// Puts what was found in a file beside what it held before, by the rules at the head of this module.
fn merge(found: Vec<Found>, before: &[Arc<Entry>]) -> FileState {
    let mut state = FileState::default();
    let known: HashMap<&ObjectId, &Arc<Entry>> = before.iter().map(|entry| (&entry.id, entry)).collect();
    for Found { origin, object } in found {
        let read = object.and_then(|object| {
            Entry::read(origin.clone(), &object).map_err(|reason| {
                Box::new(ObjectFault {
                    object: object.id(),
                    reason,
                })
            })
        });
        match read {
            Ok((entry, warnings)) => {
                let notice = |reason| Notice::new(origin.clone(), Some(entry.id.clone()), reason);
                state.notices.extend(warnings.into_iter().map(notice));
                state.entries.push(reuse(entry, &known));
            }
            Err(fault) => state
                .notices
                .push(Notice::new(origin, fault.object, fault.reason)),
        }
    }
    keep_last_good(&mut state, before);
    state
}

/// An entry that is as before is the same one, and so is its record if no more than its place is another: what follows
/// then sees by the pointer that nothing has changed.
fn reuse(mut entry: Entry, known: &HashMap<&ObjectId, &Arc<Entry>>) -> Arc<Entry> {
    match known.get(&entry.id) {
        Some(before) if ***before == entry => Arc::clone(before),
        Some(before) if before.record == entry.record => {
            entry.record = before.record.clone();
            Arc::new(entry)
        }
        Some(_) | None => Arc::new(entry),
    }
}

/// Adds the last good versions of what was refused, and says so in the notices.
fn keep_last_good(state: &mut FileState, before: &[Arc<Entry>]) {
    let refused = || {
        state
            .notices
            .iter()
            .filter(|notice| notice.severity == super::notice::Severity::Refused)
    };
    let any_unnamed = refused().any(|notice| notice.object.is_none());
    let named: BTreeSet<&ObjectId> = refused().filter_map(|notice| notice.object.as_ref()).collect();
    let good: BTreeSet<&ObjectId> = state.entries.iter().map(|entry| &entry.id).collect();
    let kept: Vec<Arc<Entry>> = before
        .iter()
        .filter(|entry| !good.contains(&entry.id) && (any_unnamed || named.contains(&entry.id)))
        .map(|entry| {
            Arc::new(Entry {
                is_last_good: true,
                ..Entry::clone(entry)
            })
        })
        .collect();
    for notice in &mut state.notices {
        if notice.severity == super::notice::Severity::Refused {
            notice.last_good_kept = match &notice.object {
                Some(id) => kept.iter().any(|entry| entry.id == *id),
                None => !kept.is_empty(),
            };
        }
    }
    state.entries.extend(kept);
}

#[cfg(test)]
mod tests;
