//! Objects from the API server, as a source of stores.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::{mpsc, watch};

use super::client::{ClusterError, connect};
use super::contact::{Contact, SourceStatus};
use super::events::{Reporter, events};
use super::follow::follow_all;
use super::keep::{Keeper, Whose};
use super::lease::{LeaseFacts, LeaseKeeper};
use super::pace::Pace;
use super::request::Api;
use super::saved::Copies;
use super::subnet_env::SubnetEnv;
use crate::config::Kubernetes;
use crate::objects::{NetworkChoice, NodeName, Source, Store};

/// Stack of the thread: what reads objects nests as deep as they do.
const STACK_BYTES: usize = 8 << 20;
/// Changes that may wait to be taken.
const CHANGES: usize = 64;
/// How long a request that is under way may hold up the end.
const PARTING: Duration = Duration::from_secs(1);

/// What a source is made with.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How the API server is reached.
    pub kubernetes: Kubernetes,
    /// The name of the node that this program runs on.
    pub own: NodeName,
    /// The cluster network.
    pub network: NetworkChoice,
    /// Where copies of the last state are kept.
    pub state_dir: PathBuf,
    /// The times that it keeps to.
    pub pace: Pace,
}

/// Lists and watches the objects of a cluster from a thread of its own. Dropping it ends the thread, which saves the last
/// state first.
pub struct ClusterSource {
    stores: watch::Receiver<Arc<Store>>,
    is_ready: watch::Receiver<bool>,
    contact: Arc<Contact>,
    client: kube::Client,
    handle: Handle,
    reporter: Option<Reporter>,
    pace: Pace,
    /// The file that goes with the lease, if this node is to keep one.
    lease: Option<SubnetEnv>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for ClusterSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSource")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// What the thread answers once it has begun.
type Begun = Result<(kube::Client, Handle, Option<Reporter>), ClusterError>;

/// What the thread begins with.
struct Ends {
    contact: Arc<Contact>,
    stores: watch::Sender<Arc<Store>>,
    is_ready: watch::Sender<bool>,
    stop: watch::Receiver<bool>,
}

impl ClusterSource {
    /// Begins to talk to the API server. It need not be there yet: [`Self::ready`] waits for the first store.
    ///
    /// # Errors
    /// [`ClusterError`] if nothing can come of it as things stand in the node file.
    pub fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let none = Store::build(&options.own, Vec::new(), Vec::new());
        let (stores_in, stores) = watch::channel(Arc::new(none));
        let (ready_in, is_ready) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let (begun_in, begun) = sync_channel(1);
        let contact = Arc::new(Contact::new());
        let pace = options.pace;
        let lease = options.kubernetes.flannel_lease.then(|| SubnetEnv {
            path: options.kubernetes.subnet_env.clone(),
            pod_network: options.kubernetes.pod_network.clone(),
        });
        let ends = Ends {
            contact: Arc::clone(&contact),
            stores: stores_in,
            is_ready: ready_in,
            stop: stopped,
        };
        let thread = thread::Builder::new()
            .name("cluster".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(options, ends, &begun_in))
            .map_err(ClusterError::Thread)?;
        let (client, handle, reporter) = await_beginning(&begun)?;
        Ok(Self {
            stores,
            is_ready,
            contact,
            client,
            handle,
            reporter,
            pace,
            lease,
            stop,
            thread: Some(thread),
        })
    }

    /// Waits for the first store: of all kinds, as the server tells of them, or of the copy that an earlier run left.
    pub async fn ready(&self) {
        // The thread ends with this only.
        let _ = self.is_ready.clone().wait_for(|ready| *ready).await;
    }

    /// The client, to say something to the server.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The runtime of the thread, for tasks that talk to the server and are not to hold up the control thread. They end
    /// with the source.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whoever has something to say of an object says it by this; `None` if the node file wants no Events.
    #[must_use]
    pub fn reporter(&self) -> Option<Reporter> {
        self.reporter.clone()
    }

    /// Keeps this node's lease in flannel's network as whoever has the answer says, for as long as the answer is there;
    /// `None` if the node file has somebody else do so.
    #[must_use]
    pub fn keep_lease(&self) -> Option<watch::Sender<Option<LeaseFacts>>> {
        let (wanted, pace) = (self.lease.clone()?, self.pace);
        let (sender, facts) = watch::channel(None);
        let contact = (Arc::clone(&self.contact), pace);
        let keeper = LeaseKeeper::new(self.client.clone(), facts, wanted, contact);
        self.handle.spawn(keeper.run());
        Some(sender)
    }

    /// Whether the server answers, and what was counted.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        self.contact.status()
    }

    /// The same for those who outlive the source.
    #[must_use]
    pub fn contact(&self) -> Arc<Contact> {
        Arc::clone(&self.contact)
    }
}

fn await_beginning(begun: &Receiver<Begun>) -> Begun {
    let ended = || ClusterError::Thread(std::io::Error::other("it ended at once"));
    begun.recv().map_err(|_| ended())?
}

impl Source for ClusterSource {
    /// The store is one without objects until the source is [ready](ClusterSource::ready).
    fn subscribe(&self) -> watch::Receiver<Arc<Store>> {
        self.stores.clone()
    }
}

impl Drop for ClusterSource {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// The thread.
fn run(options: ClusterOptions, ends: Ends, begun: &SyncSender<Begun>) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever started the thread waits for this, so it is there to hear it.
            let _ = begun.send(Err(ClusterError::Thread(error)));
            return;
        }
    };
    runtime.block_on(talk(options, ends, begun));
    runtime.shutdown_timeout(PARTING);
}

async fn talk(options: ClusterOptions, ends: Ends, begun: &SyncSender<Begun>) {
    let (client, server) = match connect(&options.kubernetes).await {
        Ok(connected) => connected,
        Err(error) => {
            let _ = begun.send(Err(error));
            return;
        }
    };
    ends.contact.name(&server);
    let pace = options.pace;
    let said = (Arc::clone(&ends.contact), pace);
    let (reporter, sender) = events(client.clone(), options.own.clone(), said);
    tokio::spawn(sender.run());
    let reporter = Some(reporter).filter(|_| options.kubernetes.events);
    let _ = begun.send(Ok((client.clone(), Handle::current(), reporter.clone())));
    let api = Api {
        client,
        contact: Arc::clone(&ends.contact),
        pace,
    };
    let copies = Copies::new(&options.state_dir, &options.own, &server);
    let whose = Whose {
        own: options.own,
        network: options.network,
    };
    let keeper = Keeper::new(
        whose,
        (pace, ends.contact),
        copies,
        (ends.stores, ends.is_ready, reporter),
    );
    let (changes_in, changes) = mpsc::channel(CHANGES);
    follow_all(&api, &changes_in);
    drop(changes_in);
    keeper.run(changes, ends.stop).await;
}
