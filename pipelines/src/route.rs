//! `route`: where the packet goes, and whose link address stands on it; or that it goes on in another network.

use std::net::IpAddr;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::Onward;
use millrace_dataplane::table::{
    NetworkId, NodeTables, OuterHeader, Peer, PeerId, PortFacts, Role, SpreadId, SubjectId, Target,
};
use millrace_dataplane::verdict::{DropReason, Exit, PuntDetail, PuntReason};
use millrace_dataplane::wire::MacAddr;

use crate::connections::Context;

/// The way out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way<'t> {
    /// Out of a port as it is.
    Link {
        port: PortId,
        exit: &'t PortFacts,
        /// The next hop's link address.
        next_hop: MacAddr,
    },
    /// Through the tunnel to a peer.
    Tunnel {
        port: PortId,
        /// The largest inner IP packet, in bytes.
        mtu: u16,
        outer: &'t OuterHeader,
    },
}

impl Way<'_> {
    /// The port that the packet leaves by.
    #[inline]
    pub(crate) fn port(&self) -> PortId {
        match self {
            Way::Link { port, .. } | Way::Tunnel { port, .. } => *port,
        }
    }

    /// The largest IP packet that goes this way, in bytes.
    #[inline]
    pub(crate) fn mtu(&self) -> u16 {
        match self {
            Way::Link { exit, .. } => exit.mtu,
            Way::Tunnel { mtu, .. } => *mtu,
        }
    }

    /// Whether the packet leaves the node as it is, for somebody else's network.
    #[inline]
    pub(crate) fn is_to_wire(&self) -> bool {
        match self {
            Way::Link { exit, .. } => exit.role == Role::Uplink,
            Way::Tunnel { .. } => false,
        }
    }

    /// Whether the packet goes to this node's own network stack.
    #[inline]
    pub(crate) fn is_to_host(&self) -> bool {
        match self {
            Way::Link { exit, .. } => exit.role == Role::Host,
            Way::Tunnel { .. } => false,
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Leads<'t> {
    /// Out of the switch.
    Out(Way<'t>),
    /// Into another network, whose tables lead on.
    Into(NetworkId),
}

impl Leads<'_> {
    /// [`Way::is_to_wire`].
    #[inline]
    pub(crate) fn is_to_wire(&self) -> bool {
        match self {
            Leads::Out(way) => way.is_to_wire(),
            Leads::Into(_) => false,
        }
    }

    /// [`Way::is_to_host`].
    #[inline]
    pub(crate) fn is_to_host(&self) -> bool {
        match self {
            Leads::Out(way) => way.is_to_host(),
            Leads::Into(_) => false,
        }
    }
}

/// A way that was found, and how a flow remembers it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<'t> {
    pub(crate) leads: Leads<'t>,
    pub(crate) onward: Onward,
    /// What it rests on.
    pub(crate) subject: SubjectId,
}

/// Finds the longest matching route to `destination` and its next hop; of several ways the one that falls to the flow with
/// this hash. A translated packet may leave by the uplink it came from; any other is the link's own business.
#[inline]
pub(crate) fn route<'t>(
    cx: &Context<'t>,
    destination: IpAddr,
    is_translated: bool,
    hash: impl FnOnce() -> u64,
) -> Result<Route<'t>, Exit> {
    let tables = cx.tables;
    let target = match tables.routes.lookup(destination).ok_or_else(unreachable)? {
        Target::Spread(id) => one_of(tables, id, hash)?,
        target => target,
    };
    let (way, onward) = match target {
        Target::Port(port) => to_station(cx, port, destination, is_translated)?,
        Target::Tunnel(peer) => to_peer(tables, peer, destination)?,
        Target::Via { port, next_hop } => to_neighbour(cx, port, next_hop, is_translated)?,
        Target::OnLink { port } => to_neighbour(cx, port, destination, is_translated)?,
        Target::Network(network) => {
            return Ok(Route {
                leads: into_network(cx, network)?,
                onward: Onward::Network(network),
                subject: target.subject(),
            });
        }
        Target::Switch => return Err(Exit::Punt(PuntReason::ToSwitch, PuntDetail::Nothing)),
        Target::Blackhole => return Err(DropReason::Blackhole.into()),
        // One of several ways never leads to several again.
        Target::Unreachable | Target::Spread(_) => return Err(unreachable()),
    };
    Ok(Route {
        leads: Leads::Out(way),
        onward,
        subject: target.subject(),
    })
}

/// On into another network. From there no packet goes on into a third, or back: each boundary that it may cross is one that its
/// sender's network names.
pub(crate) fn into_network<'t>(cx: &Context<'t>, network: NetworkId) -> Result<Leads<'t>, Exit> {
    if cx.entry.is_crossed() || network == cx.network() {
        return Err(DropReason::NetworkTransit.into());
    }
    // It may be gone, as another node may be.
    let there = cx.top.of(network).ok_or_else(unreachable)?;
    Ok(Leads::Into(there.network))
}

/// The way among several that falls to a flow.
#[cold]
fn one_of(tables: &NodeTables, id: SpreadId, hash: impl FnOnce() -> u64) -> Result<Target, Exit> {
    let spread = tables.routes.spread(id).ok_or_else(unreachable)?;
    spread.choose(hash()).ok_or_else(unreachable)
}

/// The way out that a flow remembers, in these tables; `None` if it has to be found again, or leads into another network.
#[inline(always)]
pub(crate) fn recall(tables: &NodeTables, onward: Onward, is_v6: bool) -> Result<Option<Way<'_>>, Exit> {
    match onward {
        Onward::Port(port) => Ok(tables.ports.get(port).map(|exit| Way::Link {
            port,
            exit,
            next_hop: exit.peer_mac,
        })),
        Onward::Neighbour(id) => {
            let known = tables.neighbours.get(id);
            Ok(known.and_then(|(port, next_hop)| {
                let exit = tables.ports.get(port)?;
                Some(Way::Link { port, exit, next_hop })
            }))
        }
        Onward::Peer(id) => Ok(tables.peers.get(id).and_then(|peer| through(peer, is_v6))),
        Onward::Network(_) => Ok(None),
        Onward::Refused(reason) => Err(reason.into()),
    }
}

/// To the one station behind a port. An uplink has no such station, so there it is a neighbour after all. The node's own network
/// stack is in the cluster's network alone.
#[inline]
fn to_station<'t>(
    cx: &Context<'t>,
    port: PortId,
    destination: IpAddr,
    is_translated: bool,
) -> Result<(Way<'t>, Onward), Exit> {
    let exit = exit(cx.tables, port)?;
    match exit.role {
        Role::Host if cx.network() != NetworkId::CLUSTER => Err(unreachable()),
        Role::Pod | Role::Host => {
            let next_hop = exit.peer_mac;
            Ok((Way::Link { port, exit, next_hop }, Onward::Port(port)))
        }
        Role::Uplink => to_neighbour(cx, port, destination, is_translated),
        // What is routed goes to no port of a bridged network.
        Role::Segment => Err(DropReason::NoRoute.into()),
    }
}

/// To a station on a port's link. Nothing of another network than the cluster's leaves by the uplink as it is: outside of its
/// tunnels its addresses mean nothing.
#[inline]
fn to_neighbour<'t>(
    cx: &Context<'t>,
    port: PortId,
    next_hop: IpAddr,
    is_translated: bool,
) -> Result<(Way<'t>, Onward), Exit> {
    let exit = exit(cx.tables, port)?;
    if exit.role == Role::Uplink && cx.entry.is(Role::Uplink) && !is_translated {
        return Err(DropReason::UplinkHairpin.into());
    }
    let is_foreign = cx.network() != NetworkId::CLUSTER || cx.entry.is_crossed() && !is_translated;
    if exit.role == Role::Uplink && is_foreign {
        return Err(unreachable());
    }
    match cx.tables.neighbours.lookup(port, next_hop) {
        Some((id, next_hop)) => Ok((Way::Link { port, exit, next_hop }, Onward::Neighbour(id))),
        None => Err(unresolved(port, next_hop)),
    }
}

/// To a peer, whose outer header knows the underlay's next hop already.
#[inline]
fn to_peer(tables: &NodeTables, id: PeerId, destination: IpAddr) -> Result<(Way<'_>, Onward), Exit> {
    let peer = tables.peers.get(id).ok_or(DropReason::NoRoute)?;
    match through(peer, destination.is_ipv6()) {
        Some(way) => Ok((way, Onward::Peer(id))),
        None if peer.outer.is_some() => Err(unreachable()),
        None => Err(unresolved(peer.underlay.port, peer.underlay.next_hop)),
    }
}

/// The tunnel to a peer, if packets can be sent through it now. Protocol 4 carries IPv4 and nothing else (RFC 2003).
#[inline]
fn through(peer: &Peer, is_v6: bool) -> Option<Way<'_>> {
    match &peer.outer {
        Some(OuterHeader::Ipip(_)) if is_v6 => None,
        Some(outer) => Some(Way::Tunnel {
            port: peer.underlay.port,
            mtu: peer.mtu,
            outer,
        }),
        None => None,
    }
}

#[inline]
fn exit(tables: &NodeTables, port: PortId) -> Result<&PortFacts, Exit> {
    tables.ports.get(port).ok_or(DropReason::PortGone.into())
}

#[cold]
fn unreachable() -> Exit {
    Exit::Punt(PuntReason::Unreachable, PuntDetail::Nothing)
}

#[cold]
fn unresolved(port: PortId, next_hop: IpAddr) -> Exit {
    Exit::Punt(
        PuntReason::NeighbourUnresolved,
        PuntDetail::NextHop(port, next_hop),
    )
}
