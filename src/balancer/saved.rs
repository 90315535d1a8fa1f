//! What was given out, in a file: where manifests are the source, nothing can be written back to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable::{StateError, StateFile};
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

impl SavedAddresses {
    /// The file.
    pub const FILE: StateFile = StateFile {
        name: "load-balancers.json",
        holds: "the list of load balancers' addresses",
        remedy: "remove it to give them out anew",
    };

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
    /// [`StateError`] names the file.
    pub fn load(folder: &Path) -> Result<Self, StateError> {
        Self::FILE.load(folder)
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// [`StateError`] names the file.
    pub fn store(&self, folder: &Path) -> Result<(), StateError> {
        Self::FILE.store(folder, self)
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
        std::fs::write(folder.join(SavedAddresses::FILE.name), "{\"services\": 7}").unwrap();
        let error = SavedAddresses::load(&folder).unwrap_err().to_string();
        assert!(
            error.contains("load-balancers.json does not read as the list of load balancers' addresses (")
                && error.ends_with("); remove it to give them out anew"),
            "{error}"
        );
    }
}
