//! Machines on the underlay that are no nodes of the cluster.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Api, Namespace};

/// A machine on the underlay that is no node of the cluster.
#[derive(Debug)]
pub struct Guest {
    pub(super) namespace: Namespace,
    pub(super) address: Ipv4Addr,
    pub(super) address_v6: Option<Ipv6Addr>,
}

impl Guest {
    /// The machine's namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The machine's underlay address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 underlay address, in a lab that has that.
    #[must_use]
    pub fn address_v6(&self) -> Option<Ipv6Addr> {
        self.address_v6
    }
}

/// The place of the control plane's machine among those that are no nodes, behind all guests.
pub(super) const CONTROL_PLANE: usize = 100;

/// The API server, and the machine that it seems to be.
#[derive(Debug)]
pub(super) struct ControlPlane {
    pub(super) api: Arc<Api>,
    _machine: Guest,
}

impl ControlPlane {
    pub(super) fn new(api: Arc<Api>, machine: Guest) -> Self {
        Self {
            api,
            _machine: machine,
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.api.leave();
    }
}
