//! What all workers share of bridged networks.

use millrace_dataplane::table::{Listeners, Reader, SharedFdb, SharedStorms};

/// The bridged networks of a node: one for all its workers.
#[derive(Debug, Clone)]
pub struct Bridging {
    /// Where each station is.
    pub fdb: SharedFdb,
    /// What each location has flooded.
    pub storms: SharedStorms,
    /// Who listens to which group, where that is overheard.
    pub listeners: Reader<Listeners>,
}
