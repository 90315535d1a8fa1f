//! What was given out, in a file: where manifests are the source, nothing can be written back to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::objects::{Assigned, ServiceKey};

/// What a restart goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SavedAddresses {
    /// What each Service was given, `NAMESPACE/NAME`.
    services: BTreeMap<String, Vec<IpAddr>>,
    /// What this node announced: after a restart it goes on with that at once, since nobody else can have it.
    pub announced: BTreeSet<IpAddr>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read or written.
    #[error("cannot {verb} {path}: {source}")]
    System {
        /// What was being done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not say what it should.
    #[error(
        "{path} does not read as the list of load balancers' addresses ({source}); remove it to give them out anew"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl SavedAddresses {
    /// The file's name in its folder.
    pub const FILE: &str = "load-balancers.json";

    /// With what Services are given and what is announced.
    #[must_use]
    pub fn new(assigned: &Assigned, announced: BTreeSet<IpAddr>) -> Self {
        let services = assigned
            .iter()
            .map(|(key, addresses)| (key.to_string(), addresses.clone()));
        Self {
            services: services.collect(),
            announced,
        }
    }

    /// What Services were given.
    #[must_use]
    pub fn assigned(&self) -> Assigned {
        let read = |text: &str| {
            let (namespace, name) = text.split_once('/')?;
            ServiceKey::new(namespace, name).ok()
        };
        let services = self.services.iter();
        services
            .filter_map(|(text, addresses)| Some((read(text)?, addresses.clone())))
            .collect()
    }

    /// Reads what the last run left; nothing if there was none.
    ///
    /// # Errors
    /// [`SavedError`] names the file.
    pub fn load(folder: &Path) -> Result<Self, SavedError> {
        let path = folder.join(Self::FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| SavedError::Format { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(SavedError::System {
                verb: "read",
                path,
                source,
            }),
        }
    }

    /// Writes it durably, so that a crash or a loss of power leaves either the old or the new list, whole.
    ///
    /// # Errors
    /// [`SavedError`] names the file.
    pub fn store(&self, folder: &Path) -> Result<(), SavedError> {
        let path = folder.join(Self::FILE);
        let new = folder.join(format!("{}.new", Self::FILE));
        let write = || {
            fs::create_dir_all(folder)?;
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            // The rename is the folder's change.
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| SavedError::System {
            verb: "write",
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_out_is_kept_and_a_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made");
        assert_eq!(SavedAddresses::load(&folder).unwrap(), SavedAddresses::default());
        let addresses: Vec<IpAddr> = vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let assigned = Assigned::from([(ServiceKey::new("a", "b").unwrap(), addresses.clone())]);
        let saved = SavedAddresses::new(&assigned, addresses.into_iter().collect());
        saved.store(&folder).unwrap();
        let read = SavedAddresses::load(&folder).unwrap();
        assert_eq!((&read, read.assigned()), (&saved, assigned));
        // Cut off at any byte it is refused, and never half of it taken.
        let whole = fs::read(folder.join(SavedAddresses::FILE)).unwrap();
        for len in 0..whole.len() {
            fs::write(folder.join(SavedAddresses::FILE), &whole[..len]).unwrap();
            let error = SavedAddresses::load(&folder).unwrap_err().to_string();
            assert!(
                error.contains(SavedAddresses::FILE) && error.contains("remove it"),
                "{error}"
            );
        }
    }
}
