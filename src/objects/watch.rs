//! Sources of stores, and the one that watches a folder of manifests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::fault::Fault;
use super::folder::Folder;
use super::name::NodeName;
use super::network::NetworkChoice;
use super::notice::{Notice, Origin, Severity};
use super::service::ServiceKey;
use super::store::Store;

/// Longest time between two looks at the folder, so that a change whose event was lost is seen all the same.
const RESCAN_EVERY: Duration = Duration::from_secs(3);
/// How long the folder must be quiet before it is read: whoever writes several files, or one in pieces, is
/// given the time.
const QUIET: Duration = Duration::from_millis(100);
/// Longest wait for quiet, so that a folder that is written without end is read at all.
const QUIET_AT_MOST: Duration = Duration::from_secs(1);

/// Stack of the thread that reads manifests: several times what the deepest accepted document takes.
const STACK_BYTES: usize = 8 << 20;

/// Where Kubernetes objects come from. Whoever takes stores from a source cannot tell which it is.
pub trait Source {
    /// The newest store, and every newer one to come. A receiver that is slow misses stores in between, never
    /// the last.
    fn subscribe(&self) -> watch::Receiver<Arc<Store>>;
}

/// A folder of manifests that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be listed.
    #[error("cannot read the folder of manifests {}: {error}; create it, or name another in [node] manifests", path.display())]
    Folder {
        /// Path of the folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The thread that watches it cannot be started.
    #[error("cannot start the thread that watches the folder of manifests: {0}")]
    Thread(io::Error),
    /// The thread ended before it had read the folder once.
    #[error("the thread that watches the folder of manifests ended at its first reading")]
    Ended,
}

/// Watches a folder of manifests from a thread of its own, and makes a new store whenever something in it
/// changes. Dropping it ends the thread.
#[derive(Debug)]
pub struct FolderSource {
    stores: watch::Receiver<Arc<Store>>,
    assigner: Assigner,
    wake: SyncSender<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FolderSource {
    /// Reads the folder once, so that there is a store from the first moment, and begins to watch it. `own`
    /// is the name of the node that this program runs on.
    ///
    /// # Errors
    /// [`SourceError`] if the folder cannot be listed now; once started, the source goes on with what it has
    /// if the folder goes away.
    pub fn start(path: impl Into<PathBuf>, own: NodeName) -> Result<Self, SourceError> {
        Self::start_in(NetworkChoice::Auto, path, own)
    }

    /// As [`Self::start`], in a cluster network of one's choice.
    ///
    /// # Errors
    /// As there.
    pub fn start_in(
        network: NetworkChoice,
        path: impl Into<PathBuf>,
        own: NodeName,
    ) -> Result<Self, SourceError> {
        Self::start_assigned(network, path, own, BTreeMap::new())
    }

    /// As [`Self::start_in`], with load balancers' addresses that Services have from the first moment.
    ///
    /// # Errors
    /// As there.
    pub fn start_assigned(
        network: NetworkChoice,
        path: impl Into<PathBuf>,
        own: NodeName,
        assigned: Assigned,
    ) -> Result<Self, SourceError> {
        let path = path.into();
        if let Err(error) = fs::read_dir(&path) {
            return Err(SourceError::Folder { path, error });
        }
        let (wake, woken) = sync_channel(1);
        let (ready, is_ready) = sync_channel(1);
        let (sender, stores) = watch::channel(Arc::new(Store::build(&own, Vec::new(), Vec::new())));
        let stop = Arc::new(AtomicBool::new(false));
        let assigner = Assigner {
            given: Arc::new(Mutex::new(Some(assigned))),
            wake: wake.clone(),
        };
        let mut follower = Follower {
            given: Arc::clone(&assigner.given),
            own,
            watcher: FolderWatcher::new(path.clone(), wake.clone()),
            folder: Folder::new(path).in_network(network),
            woken,
            stop: Arc::clone(&stop),
            stores: sender,
        };
        // The first reading is the thread's too, since only it has the stack that is known to be enough.
        let thread = thread::Builder::new()
            .name("manifests".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                follower.look();
                // Whoever started the thread waits for this, so it is there to hear it.
                let _ = ready.send(());
                follower.run();
            })
            .map_err(SourceError::Thread)?;
        let source = Self {
            stores,
            assigner,
            wake,
            stop,
            thread: Some(thread),
        };
        is_ready.recv().map_err(|_| SourceError::Ended)?;
        Ok(source)
    }

    /// By which Services are given addresses that nobody can write into their files.
    #[must_use]
    pub fn assigner(&self) -> Assigner {
        self.assigner.clone()
    }

    /// Has the folder looked at now rather than at the next change or turn.
    pub fn rescan(&self) {
        wake(&self.wake);
    }
}

impl Source for FolderSource {
    fn subscribe(&self) -> watch::Receiver<Arc<Store>> {
        self.stores.clone()
    }
}

impl Drop for FolderSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        wake(&self.wake);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// Wakes the thread. If the queue is full it is about to wake anyway.
fn wake(sender: &SyncSender<()>) {
    let _ = sender.try_send(());
}

/// Load balancers' addresses that Services are given beside those of their status.
pub type Assigned = BTreeMap<ServiceKey, Vec<IpAddr>>;

/// Gives Services addresses that are as good as written in their status.
#[derive(Debug, Clone)]
pub struct Assigner {
    given: Arc<Mutex<Option<Assigned>>>,
    wake: SyncSender<()>,
}

impl Assigner {
    /// The next store has these, and no others of the kind.
    pub fn assign(&self, assigned: Assigned) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(assigned);
        wake(&self.wake);
    }
}

/// The thread's own state.
struct Follower {
    given: Arc<Mutex<Option<Assigned>>>,
    own: NodeName,
    folder: Folder,
    watcher: FolderWatcher,
    woken: Receiver<()>,
    stop: Arc<AtomicBool>,
    stores: watch::Sender<Arc<Store>>,
}

impl Follower {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            match self.woken.recv_timeout(RESCAN_EVERY) {
                Ok(()) => self.wait_for_quiet(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.stop.load(Ordering::Acquire) {
                self.look();
            }
        }
    }

    fn wait_for_quiet(&self) {
        let begin = Instant::now();
        while begin.elapsed() < QUIET_AT_MOST && !self.stop.load(Ordering::Acquire) {
            if self.woken.recv_timeout(QUIET).is_err() {
                return;
            }
        }
    }

    fn look(&mut self) {
        // The watch first: what changes between the two is then both read now and told of.
        let mut changed = self.watcher.refresh();
        changed |= self.folder.scan();
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(given) = given {
            changed |= self.folder.assign(given);
        }
        if !changed {
            return;
        }
        let store = self.folder.store(&self.own, self.watcher.notice.as_slice());
        self.stores.send_if_modified(|present| {
            if **present == store {
                return false;
            }
            log_changes(present.notices(), store.notices());
            *present = Arc::new(store);
            true
        });
    }
}

/// Logs what is reported now and was not before, and how much of the old is settled.
fn log_changes(before: &[Notice], now: &[Notice]) {
    let new = now.iter().filter(|notice| !before.contains(notice));
    for notice in new {
        match notice.severity {
            Severity::Refused => tracing::error!("{notice}"),
            Severity::Warning => tracing::warn!("{notice}"),
            Severity::Skipped => tracing::info!("{notice}"),
        }
    }
    for notice in before
        .iter()
        .filter(|notice| notice.severity == Severity::Refused && !now.contains(notice))
    {
        tracing::info!("settled or changed: {notice}");
    }
}

/// Keeps the system's watch on the folder that has the path *now*: a folder that is replaced, or reached over
/// a link that is turned elsewhere, is another one to the kernel.
struct FolderWatcher {
    path: PathBuf,
    wake: SyncSender<()>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the folder that is watched.
    watched: Option<(u64, u64)>,
    /// Why there is no watch.
    notice: Option<Notice>,
}

impl FolderWatcher {
    fn new(path: PathBuf, wake: SyncSender<()>) -> Self {
        Self {
            path,
            wake,
            watcher: None,
            watched: None,
            notice: None,
        }
    }

    /// Watches the folder if the one that has the path is not yet watched, and tells whether the notice is
    /// another.
    fn refresh(&mut self) -> bool {
        let present = fs::metadata(&self.path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        if present.is_none() {
            // The folder is away, which its own scan reports.
            (self.watcher, self.watched) = (None, None);
            return false;
        }
        if present == self.watched {
            return false;
        }
        let notice = match self.begin() {
            Ok(watcher) => {
                (self.watcher, self.watched) = (Some(watcher), present);
                None
            }
            Err(error) => {
                (self.watcher, self.watched) = (None, None);
                let reason = Fault::FolderUnwatched {
                    reason: error.to_string(),
                    every_s: RESCAN_EVERY.as_secs(),
                };
                Some(Notice::new(
                    Origin::Folder {
                        path: self.path.clone(),
                    },
                    None,
                    reason,
                ))
            }
        };
        let changed = notice != self.notice;
        self.notice = notice;
        changed
    }

    fn begin(&self) -> Result<RecommendedWatcher, notify::Error> {
        let sender = self.wake.clone();
        let mut watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
            if event.is_ok_and(|event| !may_change(event.kind)) {
                return;
            }
            wake(&sender);
        })?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// Whether an event may mean that a file has other contents. Our own reading does not.
fn may_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests;
