//! Routed networks beside the cluster's own: every rule of a walk there, of what keeps them apart, and of the way from one into
//! another.

mod alone;
mod apart;
mod cross;
mod guard;
mod scene;

use millrace_dataplane::verdict::DropReason;

/// Why a packet that leads into another network is dropped, and nothing else is; each has a row here.
pub const DROPS: [DropReason; 1] = [DropReason::NetworkTransit];
