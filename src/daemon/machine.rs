//! Workers and the slow path, as they are before there is anything for them to do.

use std::sync::Arc;

use crossbeam::channel::{Sender, bounded};
use millrace_dataplane::table::{Epoch, Fdb, HashKey, Listeners, NodeTables, Publisher, Reader, Subjects};
use millrace_pipelines::{Bridging, Connections};
use tokio::sync::mpsc;

use super::compile::NetworkNumbers;
use super::fabric::{Fabric, FromWorkers};
use super::links::packets_of;
use super::look::ClaimedDevice;
use super::start::misconfigured;
use super::{flows, nic};
use crate::config::Config;
use crate::kernel::Link;
use crate::slowpath::{
    self, Feeds, Learned, NeighbourRequest, SharedSlowPathStats, SlowPathConfig, SlowPathEvent, SteerRequest,
};

/// Neighbour requests of the slow path that may wait.
const NEIGHBOUR_REQUESTS: usize = 256;
/// Packets that may wait for their answers to be steered.
const STEER_REQUESTS: usize = 256;
/// Stations of all bridged networks that can be known at once.
const FDB_ENTRIES: u32 = 65_536;
/// Events that may wait for the slow path.
const EVENTS: usize = 16;

/// What runs beside the control thread, and how it is reached.
pub(super) struct Machine {
    pub(super) fabric: Fabric,
    pub(super) connections: Connections,
    pub(super) bridging: Bridging,
    /// What workers are shown, and what they have so far.
    pub(super) publisher: Publisher<NodeTables>,
    pub(super) tables: NodeTables,
    pub(super) key: HashKey,
    pub(super) slow_path: SlowPathEnds,
}

/// Starts the workers and the slow path; they have no port yet, and know of nothing.
pub(super) fn start_machine(
    config: &Config,
    (uplink, device): (&Link, &ClaimedDevice),
    networks: &NetworkNumbers,
) -> anyhow::Result<Machine> {
    let connections = flows::open(config, networks)?;
    let tables = before(connections.flows.first_epoch());
    let (publisher, key) = (Publisher::new(tables.clone()), HashKey::random());
    let learned = Learned {
        fdb: Arc::new(Fdb::new(FDB_ENTRIES, key)),
        listeners: Publisher::new(Listeners::default()),
    };
    let bridging = Bridging {
        fdb: Arc::clone(&learned.fdb),
        listeners: learned.listeners.reader(),
        storms: Arc::default(),
    };
    let (fabric, from_workers) = start_fabric(
        config,
        (uplink, device),
        &publisher,
        (&connections, &bridging),
        key,
    )?;
    let slow_path = start_slow_path(config, &fabric, from_workers, (publisher.reader(), learned))?;
    Ok(Machine {
        fabric,
        connections,
        bridging,
        publisher,
        tables,
        key,
        slow_path,
    })
}

/// Takes packet memory, near the NIC and for packets as long as the uplink's, and starts the workers.
fn start_fabric(
    config: &Config,
    (uplink, device): (&Link, &ClaimedDevice),
    tables: &Publisher<NodeTables>,
    shared: (&Connections, &Bridging),
    key: HashKey,
) -> anyhow::Result<(Fabric, FromWorkers)> {
    let memory = (nic::numa_node(config, &device.link), packets_of(config, uplink));
    Fabric::start(config, &tables.reader(), shared, key, memory).map_err(misconfigured)
}

/// Tables without anything in them, whose successor has the epoch `first`: whatever was stored before is stale.
fn before(first: Epoch) -> NodeTables {
    NodeTables {
        subjects: Subjects::since(first),
        epoch: Epoch(first.0.wrapping_sub(1)),
        ..NodeTables::default()
    }
}

/// The way to tell the slow path something, its counters, and what it asks for.
type SlowPathEnds = (
    Sender<SlowPathEvent>,
    SharedSlowPathStats,
    (mpsc::Receiver<NeighbourRequest>, mpsc::Receiver<SteerRequest>),
);

fn start_slow_path(
    config: &Config,
    fabric: &Fabric,
    FromWorkers { punts, lessons }: FromWorkers,
    tables: (Reader<NodeTables>, Learned),
) -> anyhow::Result<SlowPathEnds> {
    let (events_in, events) = bounded(EVENTS);
    let (neighbours_in, neighbours) = mpsc::channel(NEIGHBOUR_REQUESTS);
    let (steering_in, steering) = mpsc::channel(STEER_REQUESTS);
    let limits = SlowPathConfig {
        icmp_errors_per_second: config.slow_path.icmp_errors_per_second.get(),
    };
    let stats = slowpath::spawn(
        limits,
        Feeds {
            punts,
            lessons,
            events,
        },
        fabric.workers().to_vec(),
        tables,
        (neighbours_in, steering_in),
    )?;
    Ok((events_in, stats, (neighbours, steering)))
}
