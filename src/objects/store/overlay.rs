//! A store with other objects laid over it: what would be, were they applied.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::entry::{network_id, node_id, pod_id};
use super::{Entry, Record, Store};
use crate::objects::folder::Folder;
use crate::objects::name::ObjectId;
use crate::objects::notice::Origin;

impl Store {
    /// The store as it would be with the objects of `newer` in the place of those of their names, and beside all others.
    /// What there is already is older.
    #[must_use]
    pub fn with(&self, newer: &Folder) -> Self {
        let entries = newer.entries();
        let named: HashSet<&ObjectId> = entries.iter().map(|entry| &entry.id).collect();
        let mut all: Vec<Entry> = self.entries();
        all.retain(|entry| !named.contains(&entry.id));
        all.extend(entries.iter().cloned());
        Self::build_in(self.choice, &self.own, all, newer.own_notices())
    }

    /// All objects.
    fn entries(&self) -> Vec<Entry> {
        let entry = |id: ObjectId, record: Record| Entry {
            id,
            origin: Origin::Folder {
                path: PathBuf::from("in force"),
            },
            created_s: Some(i64::MIN),
            is_last_good: false,
            record,
        };
        let cluster_wide = |kind: &str, name: &str| ObjectId {
            kind: kind.to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
        };
        let mut entries = Vec::new();
        for node in self.nodes.values() {
            entries.push(entry(node_id(&node.name), Record::Node(Box::new(node.clone()))));
        }
        for pod in self.pods.values() {
            entries.push(entry(pod_id(&pod.key), Record::Pod(Arc::clone(pod))));
        }
        for (name, namespace) in &self.namespaces {
            let record = Record::Namespace(Arc::clone(namespace));
            entries.push(entry(cluster_wide("Namespace", name), record));
        }
        for (key, policy) in &self.policies {
            entries.push(entry(key.object_id(), Record::Policy(Arc::clone(policy))));
        }
        for (key, network) in &self.networks {
            entries.push(entry(network_id(key), Record::Network(Arc::clone(network))));
        }
        let calico = self.calico.iter();
        entries.extend(calico.map(|(id, record)| entry(id.clone(), record.clone())));
        for service in self.services.iter() {
            let key = &service.record.key;
            entries.push(entry(
                key.object_id(),
                Record::Service(Arc::clone(&service.record)),
            ));
            for slice in &service.slices {
                let id = ObjectId {
                    kind: "EndpointSlice".to_owned(),
                    namespace: key.namespace().to_owned(),
                    name: slice.name.clone(),
                };
                entries.push(entry(id, Record::EndpointSlice(Arc::clone(slice))));
            }
        }
        entries
    }
}
