//! Where this node's objects come from, and that there are enough of them to begin with.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use super::look::Misconfigured;
use crate::cluster::{ClusterOptions, ClusterSource, Contact, Pace, SourceStatus};
use crate::config::{Config, ObjectSource};
use crate::objects::{Assigned, Assigner, FolderSource, Source, Store};

/// A source of the kind that the node file names.
pub(super) enum Sources {
    Folder(PathBuf, FolderSource),
    Api(Box<ClusterSource>),
}

/// Who can tell how the source does, also while the daemon is taken apart.
#[derive(Debug, Clone)]
pub(super) enum SourcePlace {
    Folder(PathBuf),
    Api(Arc<Contact>),
}

impl SourcePlace {
    pub(super) fn status(&self) -> SourceStatus {
        match self {
            Self::Folder(path) => SourceStatus::of_folder(path),
            Self::Api(contact) => contact.status(),
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

    pub(super) fn place(&self) -> SourcePlace {
        match self {
            Self::Folder(path, _) => SourcePlace::Folder(path.clone()),
            Self::Api(source) => SourcePlace::Api(source.contact()),
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
