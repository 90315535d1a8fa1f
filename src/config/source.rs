//! Where a node's objects come from: a folder of manifests or an API server.

use std::fmt;
use std::path::Path;

use super::{Config, ConfigError, Kubernetes, line_of_key};

/// Where a node's objects come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectSource<'a> {
    /// A folder of manifests.
    Folder(&'a Path),
    /// An API server.
    Api(&'a Kubernetes),
}

impl fmt::Display for ObjectSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Api(kubernetes) => match (&kubernetes.server, &kubernetes.kubeconfig) {
                (Some(server), _) => write!(f, "the API server {server}"),
                (None, Some(path)) => write!(f, "the API server of {}", path.display()),
                (None, None) => f.write_str("the API server of this pod's cluster"),
            },
        }
    }
}

impl Config {
    /// Where this node's objects come from: one of the two, as [`Config::parse`] sees to.
    #[must_use]
    pub fn objects(&self) -> ObjectSource<'_> {
        match (&self.kubernetes, &self.node.manifests) {
            (Some(kubernetes), _) => ObjectSource::Api(kubernetes),
            (None, manifests) => ObjectSource::Folder(manifests.as_deref().unwrap_or(Path::new(""))),
        }
    }

    /// Has relative paths begin at `folder`.
    pub(super) fn begin_at(&mut self, folder: &Path) {
        if let Some(manifests) = &mut self.node.manifests {
            *manifests = folder.join(&*manifests);
        }
        if let Some(kubernetes) = &mut self.kubernetes {
            kubernetes.begin_at(folder);
        }
        self.node.state_dir = folder.join(&self.node.state_dir);
        self.load_balancer.begin_at(folder);
        self.dns.resolv_conf = folder.join(&self.dns.resolv_conf);
    }

    /// Objects come from one place.
    pub(super) fn check_source(&self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let (table, key, reason) = match (&self.node.manifests, &self.kubernetes) {
            (Some(_), None) => return Ok(()),
            (None, Some(kubernetes)) => match kubernetes.contradiction() {
                None => return Ok(()),
                Some((key, reason)) => ("kubernetes", key, reason),
            },
            (Some(_), Some(_)) => (
                "node",
                "manifests",
                "there is a [kubernetes] too; leave out the one that objects are not to come from".to_owned(),
            ),
            (None, None) => (
                "node",
                "manifests",
                "it is missing; name a folder of manifests, or add [kubernetes] for objects from an API server"
                    .to_owned(),
            ),
        };
        Err(ConfigError::Content {
            path: path.to_owned(),
            line: line_of_key(text, table, key),
            key: Some(format!("{table}.{key}")),
            reason,
        })
    }
}
