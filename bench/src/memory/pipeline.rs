//! The pipeline of a case's worker.

use std::sync::Arc;

use millrace_dataplane::table::{
    AffinityTable, FlowTable, HashKey, Listeners, NodeTables, Publisher, Reader,
};
use millrace_pipelines::{Bridging, Connections, SwitchPipeline};

use super::bridge;
use super::scene::for_ever;
use super::walk::Walk;

/// Clients that session affinity can be remembered for.
const AFFINITIES: usize = 1024;

/// The pipeline of worker `index` of `workers`, with what the walk's flows need to be known.
pub(super) fn pipeline(
    walk: Walk,
    flows: u32,
    tables: Reader<NodeTables>,
    table: Arc<FlowTable>,
    (index, workers): (usize, usize),
) -> anyhow::Result<SwitchPipeline> {
    let connections = Connections {
        flows: table,
        affinity: Arc::new(AffinityTable::new(AFFINITIES)),
        timeouts: for_ever(),
        workers,
    };
    let bridging = Bridging {
        fdb: bridge::fdb(if walk.is_bridged() { flows } else { 1 })?,
        storms: Arc::default(),
        listeners: Publisher::new(Listeners::default()).reader(),
    };
    let key = HashKey::random();
    Ok(SwitchPipeline::new(tables, connections, bridging, key, index))
}
