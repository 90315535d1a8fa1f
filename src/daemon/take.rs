//! New objects: what of them is said, and what this node goes on with.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::Daemon;
use crate::objects::{NodeRecord, Severity, Store};

impl Daemon {
    /// Takes new objects, and says what is new among the refusals.
    pub(super) fn take_store(&mut self, store: Arc<Store>) {
        for notice in store
            .notices()
            .iter()
            .filter(|notice| !self.store.notices().contains(notice))
        {
            match notice.severity {
                Severity::Skipped => info!("{notice}"),
                _ => warn!("{notice}"),
            }
        }
        match store.own_node() {
            Some(own) => {
                if is_fixed(own) != is_fixed(&self.own) {
                    error!(
                        "this node's pod CIDR, tunnel address or cluster network has changed; the old one stays in force until a restart"
                    );
                } else {
                    self.own = own.clone();
                }
            }
            None => error!(
                "this node's own object {} is gone or refused; its last good version stays in force",
                self.own.name
            ),
        }
        self.store = store;
    }
}

/// What a node's host port is made from at the start: flannel's pod CIDRs, and its own addresses in the overlay. Calico's blocks
/// come and go.
fn is_fixed(own: &NodeRecord) -> (bool, Vec<IpNet>, Vec<IpAddr>) {
    let is_flannels = own.blocks.is_none();
    let cidrs = own.pod_cidrs().filter(|_| is_flannels).collect();
    (is_flannels, cidrs, own.tunnel_addresses().collect())
}
