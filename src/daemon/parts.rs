//! The control thread's state at its beginning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::Sender;
use millrace_dataplane::table::{HashKey, NodeTables, Publisher};
use millrace_dataplane::xdp::SteeringTables;
use millrace_pipelines::{Bridging, Connections};

use super::compile::Numbers;
use super::compile::services::ServiceCompiler;
use super::explain::Policing;
use super::fabric::Fabric;
use super::health::Health;
use super::host_path::HostPath;
use super::members::Members;
use super::networks::Served;
use super::ports::{Ports, Saved};
use super::stalls::Stalls;
use super::{Daemon, balancing, flows, look, sources};
use crate::config::Config;
use crate::kernel::{Kernel, KernelState};
use crate::objects::{NodeRecord, Store};
use crate::slowpath::{SharedSlowPathStats, SlowPathEvent};

/// What a start has found and made; all else of the state follows from it, or is empty.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) own: NodeRecord,
    pub(super) source: sources::SourceEnds,
    pub(super) kernel: Kernel,
    pub(super) state: KernelState,
    pub(super) store: Arc<Store>,
    pub(super) fabric: Fabric,
    /// What the last run left.
    pub(super) saved: Saved,
    /// Tables without anything in them.
    pub(super) tables: NodeTables,
    pub(super) publisher: Publisher<NodeTables>,
    pub(super) key: HashKey,
    pub(super) connections: Connections,
    pub(super) bridging: Bridging,
    pub(super) balancing: balancing::Balancing,
    pub(super) slow_path: (Sender<SlowPathEvent>, SharedSlowPathStats),
    /// The device under the uplink.
    pub(super) device: look::ClaimedDevice,
}

impl Daemon {
    /// Serves nothing yet.
    pub(super) fn new(parts: Parts) -> Self {
        let workers = parts.config.workers.cores.as_slice().len();
        let (slow_path, slow_path_stats) = parts.slow_path;
        Self {
            services: ServiceCompiler::new(&parts.config.services, parts.key, workers),
            config: parts.config,
            own: parts.own,
            started: Instant::now(),
            source: parts.source,
            kernel: parts.kernel,
            state: parts.state,
            store: parts.store,
            fabric: parts.fabric,
            ports: Ports::default(),
            unserved: parts.saved.ports.clone(),
            members: Members::found(parts.saved.members.clone()),
            nic_changes: None,
            nic_found: parts.saved.nic.clone(),
            saved: parts.saved,
            tables: parts.tables,
            connections: parts.connections,
            bridging: parts.bridging,
            awaited: flows::AwaitedAnswers::default(),
            publisher: parts.publisher,
            numbers: Numbers::default(),
            resolver: None,
            policing: Policing::new(parts.key, workers),
            health: Health::new(),
            balancing: parts.balancing,
            peers: Vec::new(),
            networks: Served::default(),
            next_hops: Vec::new(),
            steering: SteeringTables::default(),
            host_path: HostPath::default(),
            kernel_routes: (Vec::new(), usize::MAX),
            route_failures: Vec::new(),
            key: parts.key,
            warnings: Vec::new(),
            slow_path,
            slow_path_stats,
            stand_in_stats: Arc::default(),
            asked: BTreeMap::new(),
            capture: None,
            uplink_is_up: true,
            device: parts.device,
            stalls: Stalls::default(),
            leaving: false,
        }
    }
}
