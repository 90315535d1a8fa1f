//! Tables: keys and values that a worker asks, and how the control plane hands them over.
//!
//! Everything here is immutable once built. The control plane builds [`NodeTables`], publishes them in one store
//! ([`Publisher`]), and a worker pins the newest ones once per batch ([`Reader::pin`]). A change is a new build:
//! publishing is coalesced, and unchanged tables are shared between snapshots through their [`Arc`].
//!
//! The tables know neither frames nor sockets, and they read no clock.

use std::sync::Arc;

pub mod affinity;
pub mod bandwidth;
pub mod fdb;
pub mod flow;
pub mod hash;
pub mod listeners;
pub mod local;
pub mod neighbour;
pub mod network;
pub mod outer;
pub mod peer;
pub mod policy;
pub mod port;
pub mod prefix;
pub mod publish;
pub mod route;
pub mod routed;
pub mod service;
pub mod storm;
pub mod subject;
pub mod tick;

pub use affinity::AffinityTable;
pub use bandwidth::{Bucket, Rate};
pub use fdb::{Fdb, FdbWriter, Learnt};
pub use flow::{FlowShard, FlowTable};
pub use hash::HashKey;
pub use listeners::Listeners;
pub use local::{Endpoint, EndpointKind, Local, SourceAddresses};
pub use neighbour::{NeighbourId, NeighbourTable};
pub use network::{
    Guard, Location, Member, NetworkId, Networks, RemoteExit, RemoteId, Segment, SegmentTunnel,
};
pub use outer::{IpipOuter, OuterHeader, OuterLink, TunnelEnds, VxlanOuter, VxlanV6Outer};
pub use peer::{Peer, PeerId, PeerTable, Senders, Tunnel, TunnelKind, Underlay};
pub use policy::PolicyTable;
pub use port::{PortFacts, PortTable, Role};
pub use prefix::{InvalidPrefix, Prefix};
pub use publish::{Pinned, Publisher, Reader};
pub use route::{Hop, Lpm, RouteTable, Spread, SpreadId, Target};
pub use routed::RoutedNetworks;
pub use service::ServiceTable;
pub use storm::{StormLimit, Storms};
pub use subject::{Epoch, SubjectId, SubjectKind, Subjects};
pub use tick::Tick;

/// The flow table as the workers and the control plane hold it.
pub type SharedFlowTable = Arc<FlowTable>;

/// The affinity table as the workers hold it.
pub type SharedAffinityTable = Arc<AffinityTable>;

/// The forwarding database as the workers, the slow path and the control plane hold it.
pub type SharedFdb = Arc<Fdb>;

/// What each location has flooded, as the workers hold it.
pub type SharedStorms = Arc<Storms>;

/// All that a node's pipeline has to know, as one snapshot: a reader never sees half of a change.
///
/// These are the tables of the cluster's own network, or, below `routed`, of another one that is routed. There `ports` and
/// `neighbours` are the same, since all have one underlay; `services`, `networks` and `routed` are empty; and all else is that
/// network's own, by whose numbers alone its subjects, peers and policies go.
#[derive(Debug, Clone, Default)]
pub struct NodeTables {
    /// Whose tables they are.
    pub network: NetworkId,
    /// The ports, by number.
    pub ports: Arc<PortTable>,
    /// Where a destination address leads.
    pub routes: Arc<RouteTable>,
    /// Link addresses of next hops.
    pub neighbours: Arc<NeighbourTable>,
    /// The other nodes and the tunnels to them.
    pub peers: Arc<PeerTable>,
    /// What this node itself is.
    pub local: Arc<Local>,
    /// Virtual addresses and node ports, and the backends behind them.
    pub services: Arc<ServiceTable>,
    /// Who may talk with this node's pods, and they with whom.
    pub policies: Arc<PolicyTable>,
    /// Bridged networks, and which ports are in them; and the tunnels of all that are not the cluster's own.
    pub networks: Arc<Networks>,
    /// Routed networks beside the cluster's own, and which ports are in them.
    pub routed: Arc<RoutedNetworks>,
    /// When each thing that stored answers rest on last changed.
    pub subjects: Subjects,
    /// The snapshot's number, to tell one from another: what is found in these tables is stored with it.
    pub epoch: Epoch,
}

impl NodeTables {
    /// The tables of a routed network: these, which are the cluster's own, or those of another. `None` if there is none.
    #[inline]
    #[must_use]
    pub fn of(&self, network: NetworkId) -> Option<&Self> {
        if network == NetworkId::CLUSTER {
            Some(self)
        } else {
            self.routed.get(network)
        }
    }
}
