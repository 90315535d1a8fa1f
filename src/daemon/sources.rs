//! Where this node's objects come from, and that there are enough of them to begin with.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use super::look::Misconfigured;
use crate::cluster::{ClusterOptions, ClusterSource, Contact, LeaseFacts, Pace, Reporter, SourceStatus};
use crate::config::{Config, ObjectSource};
use crate::objects::{Assigned, Assigner, FolderSource, Source, Store};

/// A source of the kind that the node file names.
pub(super) enum Sources {
    Folder(PathBuf, FolderSource),
    Api(Box<ClusterSource>),
}

/// What the daemon has of its source while it runs.
pub(super) struct SourceEnds {
    place: Place,
    /// Who keeps what this node says of itself in flannel's network: objects come from an API server, and nobody else is to
    /// do it.
    pub(super) lease: Option<watch::Sender<Option<LeaseFacts>>>,
}

enum Place {
    Folder(PathBuf),
    Api(Arc<Contact>),
}

impl SourceEnds {
    /// Where objects come from, and how that goes.
    pub(super) fn status(&self) -> SourceStatus {
        match &self.place {
            Place::Folder(path) => SourceStatus::of_folder(path),
            Place::Api(contact) => contact.status(),
        }
    }
}

impl Sources {
    /// Starts it. Where manifests are the source, Services have been `given` these load balancer's addresses before.
    ///
    /// # Errors
    /// [`Misconfigured`], for nothing else can keep it from starting: a server need not be there yet.
    pub(super) fn start(config: &Config, given: Assigned) -> anyhow::Result<Self> {
        let (own, network) = (config.node.name.clone(), config.overlay.network);
        match config.objects() {
            ObjectSource::Folder(path) => {
                let source = FolderSource::start_assigned(network, path, own, given);
                let source = source.map_err(|error| Misconfigured::because(error.into()))?;
                Ok(Self::Folder(path.to_owned(), source))
            }
            ObjectSource::Api(kubernetes) => {
                let options = ClusterOptions {
                    kubernetes: kubernetes.clone(),
                    own,
                    network,
                    state_dir: config.node.state_dir.clone(),
                    pace: Pace::default(),
                };
                let source = ClusterSource::start(options);
                let source = source.map_err(|error| Misconfigured::because(error.into()))?;
                info!("objects come from {}", config.objects());
                Ok(Self::Api(Box::new(source)))
            }
        }
    }

    /// By which Services are given addresses, where nobody can write them into their status.
    pub(super) fn assigner(&self) -> Option<Assigner> {
        match self {
            Self::Folder(_, source) => Some(source.assigner()),
            Self::Api(_) => None,
        }
    }

    /// By which something is said of an object where `kubectl describe` shows it.
    pub(super) fn reporter(&self) -> Option<Reporter> {
        match self {
            Self::Folder(..) => None,
            Self::Api(source) => source.reporter(),
        }
    }

    pub(super) fn ends(&self) -> SourceEnds {
        match self {
            Self::Folder(path, _) => SourceEnds {
                place: Place::Folder(path.clone()),
                lease: None,
            },
            Self::Api(source) => SourceEnds {
                place: Place::Api(source.contact()),
                lease: source.keep_lease(),
            },
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Store>> {
        match self {
            Self::Folder(_, source) => source.subscribe(),
            Self::Api(source) => source.subscribe(),
        }
    }

    /// Waits until there is a store to begin with: in a cluster, a node that has just joined is there before its Node has
    /// pod CIDRs, and before the server can be reached. Tells whether it came to that, or the daemon was told to stop.
    pub(super) async fn ready(&self) -> anyhow::Result<bool> {
        let Self::Api(source) = self else {
            return Ok(true);
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => Ok(false),
            _ = interrupt.recv() => Ok(false),
            () = first_store(source) => Ok(true),
        }
    }
}

async fn first_store(source: &ClusterSource) {
    source.ready().await;
    let mut stores = source.subscribe();
    let mut is_said = false;
    loop {
        let missing = missing(&stores.borrow_and_update());
        let Some(missing) = missing else { return };
        if !is_said {
            info!("waiting: {missing}");
            is_said = true;
        }
        if stores.changed().await.is_err() {
            return;
        }
    }
}

/// What this node cannot begin without, and has not been given yet.
fn missing(store: &Store) -> Option<String> {
    let name = store.own_name();
    match store.own_node() {
        None => Some(format!("there is no good Node {name} yet, as kubelet makes it")),
        // Calico gives a node its first block with its first pod.
        Some(own) if own.blocks.is_none() && own.pod_cidr_v4.is_none() => Some(format!(
            "Node {name} has no IPv4 pod CIDR yet, as the controller manager gives it (--allocate-node-cidrs)"
        )),
        Some(_) => None,
    }
}
