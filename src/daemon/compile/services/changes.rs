//! What a new table of Services makes stale.

use std::collections::HashSet;
use std::net::IpAddr;

use millrace_dataplane::table::SubjectId;
use millrace_dataplane::table::service::BackendId;

/// What stored answers have to be found again for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ServiceChanges {
    /// Backends that began or ceased to take connections, came or went.
    pub backends: HashSet<BackendId>,
    /// Addresses that began to lead to a Service: what went there before went elsewhere.
    pub addresses: HashSet<IpAddr>,
    /// Whether node ports began to lead to a Service.
    pub node_ports: bool,
}

impl ServiceChanges {
    /// The subjects that changed.
    pub fn subjects(&self) -> impl Iterator<Item = SubjectId> + '_ {
        self.backends.iter().map(|backend| backend.subject())
    }
}
