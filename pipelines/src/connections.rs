//! What all workers share of connections, and what a stage gets to see of it.

use millrace_dataplane::table::flow::Timeouts;
use millrace_dataplane::table::service::Caller;
use millrace_dataplane::table::{NetworkId, NodeTables, Role, SharedAffinityTable, SharedFlowTable, Tick};

use crate::entry::Entry;
use crate::packet::Packet;

/// The connections of a node: one for all its workers.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Every connection, both directions of it.
    pub flows: SharedFlowTable,
    /// Which backend a client was given last, for Services with session affinity.
    pub affinity: SharedAffinityTable,
    /// How long connections are remembered.
    pub timeouts: Timeouts,
    /// How many workers share the work of forgetting them.
    pub workers: usize,
}

/// What a stage knows beside the packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'t> {
    /// The tables of the network that the packets are in.
    pub(crate) tables: &'t NodeTables,
    /// The cluster's own network's, in which all others are.
    pub(crate) top: &'t NodeTables,
    pub(crate) connections: &'t Connections,
    /// Where the packets come from.
    pub(crate) entry: Entry<'t>,
    /// Which worker this is.
    pub(crate) worker: usize,
    pub(crate) now: Tick,
}

impl Context<'_> {
    /// The network that the packets are in.
    #[inline]
    pub(crate) fn network(&self) -> NetworkId {
        self.tables.network
    }

    /// Whether a packet came from the wire as it is.
    #[inline]
    pub(crate) fn is_plain(&self, packet: &Packet) -> bool {
        self.entry.is(Role::Uplink) && !packet.is_tunnelled
    }

    /// Who sends a packet, as far as Services tell callers apart.
    #[inline]
    pub(crate) fn caller(&self, packet: &Packet) -> Caller {
        match self.entry.port().map(|(_, facts)| facts.role) {
            Some(Role::Pod) => Caller::LocalPod,
            Some(Role::Uplink) if packet.is_tunnelled => Caller::Peer,
            Some(Role::Uplink) => Caller::External,
            // What comes from another network is not asked either: there are no Services for it.
            Some(Role::Host) | None => Caller::Host,
            // Never asked: what comes from there is bridged.
            Some(Role::Segment) => Caller::LocalPod,
        }
    }
}
