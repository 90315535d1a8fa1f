//! Networks beside the cluster's own.

use std::sync::Arc;

use super::build::Builder;
use super::{Entry, Store};
use crate::objects::attachment::{AttachmentFault, NetworkKey, NetworkRecord};
use crate::objects::notice::Notice;

impl Store {
    /// All good networks beside the cluster's own, by namespace and name.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<NetworkRecord>> {
        self.networks.values()
    }

    /// A network beside the cluster's own.
    #[must_use]
    pub fn second_network(&self, key: &NetworkKey) -> Option<&Arc<NetworkRecord>> {
        self.networks.get(key)
    }
}

impl Builder<'_> {
    /// Takes a network, unless an older one has its number.
    pub(super) fn add_network(&mut self, entry: &Entry, network: &Arc<NetworkRecord>) {
        let number = |network: &NetworkRecord| (network.vni, network.port);
        let mut others = self.store.networks.values();
        if let Some(other) = others.find(|other| number(other) == number(network)) {
            let fault = AttachmentFault::VniShared {
                vni: network.vni.get(),
                port: network.port,
                other: other.key.to_string(),
            };
            let notice = Notice::new(entry.origin.clone(), Some(entry.id.clone()), fault.into());
            return self.store.notices.push(notice);
        }
        self.store
            .networks
            .insert(network.key.clone(), Arc::clone(network));
    }
}
