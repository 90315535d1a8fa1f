//! `route`: where the packet goes, and whose link address stands on it.

use std::net::IpAddr;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{NodeTables, OuterHeader, PeerId, PortFacts, Role, Target};
use millrace_dataplane::verdict::{DropReason, Exit, PuntDetail, PuntReason};
use millrace_dataplane::wire::MacAddr;

use crate::entry::Entry;
use crate::packet::{Addresses, Packet};

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

    /// Whether the packet goes to this node's own network stack.
    #[inline]
    pub(crate) fn is_to_host(&self) -> bool {
        match self {
            Way::Link { exit, .. } => exit.role == Role::Host,
            Way::Tunnel { .. } => false,
        }
    }
}

/// Finds the longest matching route and its next hop.
#[inline]
pub(crate) fn route<'t>(tables: &'t NodeTables, entry: Entry<'_>, packet: &Packet) -> Result<Way<'t>, Exit> {
    let destination = packet.addresses.destination();
    match tables.routes.lookup(destination) {
        Some(Target::Port(port)) => to_station(tables, entry, port, destination),
        Some(Target::Tunnel(peer)) => to_peer(tables, peer, packet),
        Some(Target::Via { port, next_hop }) => to_neighbour(tables, entry, port, next_hop),
        Some(Target::OnLink { port }) => to_neighbour(tables, entry, port, destination),
        Some(Target::Switch) => Err(Exit::Punt(PuntReason::ToSwitch, PuntDetail::Nothing)),
        Some(Target::Blackhole) => Err(DropReason::Blackhole.into()),
        Some(Target::Unreachable) | None => Err(unreachable()),
    }
}

/// To the one station behind a port. An uplink has no such station, so there it is a neighbour after all.
#[inline]
fn to_station<'t>(
    tables: &'t NodeTables,
    entry: Entry<'_>,
    port: PortId,
    destination: IpAddr,
) -> Result<Way<'t>, Exit> {
    let exit = exit(tables, port)?;
    match exit.role {
        Role::Pod | Role::Host => Ok(Way::Link {
            port,
            exit,
            next_hop: exit.peer_mac,
        }),
        Role::Uplink => to_neighbour(tables, entry, port, destination),
    }
}

/// To a station on a port's link.
#[inline]
fn to_neighbour<'t>(
    tables: &'t NodeTables,
    entry: Entry<'_>,
    port: PortId,
    next_hop: IpAddr,
) -> Result<Way<'t>, Exit> {
    let exit = exit(tables, port)?;
    if exit.role == Role::Uplink && entry.is(Role::Uplink) {
        return Err(DropReason::UplinkHairpin.into());
    }
    match tables.neighbours.lookup(port, next_hop) {
        Some((_, mac)) => Ok(Way::Link {
            port,
            exit,
            next_hop: mac,
        }),
        None => Err(unresolved(port, next_hop)),
    }
}

/// To a peer, whose outer header knows the underlay's next hop already.
#[inline]
fn to_peer<'t>(tables: &'t NodeTables, id: PeerId, packet: &Packet) -> Result<Way<'t>, Exit> {
    let peer = tables.peers.get(id).ok_or(DropReason::NoRoute)?;
    let (port, next_hop) = (peer.underlay.port, peer.underlay.next_hop);
    match &peer.outer {
        // Protocol 4 carries IPv4 and nothing else (RFC 2003).
        Some(OuterHeader::Ipip(_)) if matches!(packet.addresses, Addresses::V6 { .. }) => Err(unreachable()),
        Some(outer) => Ok(Way::Tunnel {
            port,
            mtu: peer.mtu,
            outer,
        }),
        None => Err(unresolved(port, next_hop)),
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
