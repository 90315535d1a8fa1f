//! What all workers share of bridged networks.

use millrace_dataplane::table::{SharedFdb, SharedStorms};

/// The bridged networks of a node: one for all its workers.
#[derive(Debug, Clone)]
pub struct Bridging {
    /// Where each station is.
    pub fdb: SharedFdb,
    /// What each location has flooded.
    pub storms: SharedStorms,
}
