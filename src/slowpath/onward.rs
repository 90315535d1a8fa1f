//! Where a packet would go next, asked again outside the workers: for one that a worker could not send on.

use std::net::IpAddr;

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::port::PortId;
use millrace_dataplane::stats::Counter;
use millrace_dataplane::table::{NetworkId, NodeTables, Role, Target};
use millrace_dataplane::worker::{Injection, Origin, Way};

/// A station on a port's link, whose link address packets wait for.
pub(super) type NextHop = (PortId, IpAddr);

/// The way of packets to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onward {
    /// It is clear.
    Clear,
    /// It is clear but for the next hop's link address.
    Waits {
        /// Whose link address is missing.
        next_hop: NextHop,
        /// The largest IP packet, in bytes, that fits the way.
        mtu: u16,
    },
    /// There is none (any more).
    Nowhere,
}

/// The tables of one network, and the cluster's own network's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of<'t> {
    pub(super) top: &'t NodeTables,
    pub(super) tables: &'t NodeTables,
}

impl<'t> Of<'t> {
    /// A network's; `None` if it is gone.
    pub(super) fn network(top: &'t NodeTables, network: NetworkId) -> Option<Self> {
        let tables = top.of(network)?;
        Some(Self { top, tables })
    }

    /// Those by which packets of this network go to `destination`: another's, if its own lead there. From that they go on no
    /// further.
    pub(super) fn leading_to(self, destination: IpAddr) -> Option<&'t NodeTables> {
        match self.tables.routes.lookup(destination) {
            Some(Target::Network(network)) => self.top.of(network),
            Some(_) | None => Some(self.tables),
        }
    }
}

/// Finds the way as the pipeline's `route` does, save for what the packet itself decides.
pub(super) fn onward(of: Of<'_>, destination: IpAddr) -> Onward {
    let Some(tables) = of.leading_to(destination) else {
        return Onward::Nowhere;
    };
    let Some(target) = tables.routes.lookup(destination) else {
        return Onward::Nowhere;
    };
    // Of several ways only the packet's flow decides which it is: one that is not clear stands for all.
    let ways = || {
        tables
            .routes
            .ends(target)
            .map(|end| to_end(tables, end, destination))
    };
    let waits = ways().find(|way| matches!(way, Onward::Waits { .. }));
    waits
        .or_else(|| ways().find(|way| *way == Onward::Clear))
        .unwrap_or(Onward::Nowhere)
}

fn to_end(tables: &NodeTables, target: Target, destination: IpAddr) -> Onward {
    match target {
        Target::Tunnel(peer) => match tables.peers.get(peer) {
            Some(peer) if peer.outer.is_some() => Onward::Clear,
            Some(peer) => Onward::Waits {
                next_hop: (peer.underlay.port, peer.underlay.next_hop),
                mtu: peer.mtu,
            },
            None => Onward::Nowhere,
        },
        Target::Via { port, next_hop } => to_neighbour(tables, port, next_hop),
        Target::OnLink { port } => to_neighbour(tables, port, destination),
        Target::Port(port) => match tables.ports.get(port).map(|facts| facts.role) {
            Some(Role::Uplink) => to_neighbour(tables, port, destination),
            Some(Role::Pod | Role::Host) => Onward::Clear,
            // What is routed goes to no port of a bridged network.
            Some(Role::Segment) => Onward::Nowhere,
            None => Onward::Nowhere,
        },
        // The worker knows what to do with these.
        Target::Switch | Target::Blackhole => Onward::Clear,
        // Neither a spread nor another network leads on to such.
        Target::Unreachable | Target::Spread(_) | Target::Network(_) => Onward::Nowhere,
    }
}

/// Where a packet goes, and by which way, that a worker could not send to `next_hop`. It is held as it came: if a
/// connection gives it another destination, that is not known here, and the next hop itself stands for it: an address of the
/// underlay, where the cluster's own network leads, whichever network the packet came in.
pub(super) fn whereabouts(
    of: Of<'_>,
    destination: IpAddr,
    next_hop: NextHop,
) -> ((NetworkId, IpAddr), Onward) {
    let (tables, way) = (of.tables, onward(of, destination));
    let by_destination = match way {
        Onward::Waits { next_hop: found, .. } => found == next_hop,
        Onward::Clear => false,
        // Its route has gone meanwhile, unless it never went by one of its own.
        Onward::Nowhere => !tables.services.is_cluster_address(destination),
    };
    if by_destination || tables.neighbours.lookup(next_hop.0, next_hop.1).is_some() {
        ((tables.network, destination), way)
    } else {
        let underlay = Of { tables: of.top, ..of };
        ((NetworkId::CLUSTER, next_hop.1), onward(underlay, next_hop.1))
    }
}

fn to_neighbour(tables: &NodeTables, port: PortId, address: IpAddr) -> Onward {
    let Some(facts) = tables.ports.get(port) else {
        return Onward::Nowhere;
    };
    match tables.neighbours.lookup(port, address) {
        Some(_) => Onward::Clear,
        None => Onward::Waits {
            next_hop: (port, address),
            mtu: facts.mtu,
        },
    }
}

/// An answer to the station behind a port, which leaves there as it is.
pub(super) fn send_back(port: PortId, packet: PacketCopy, sent: &Counter) -> Injection {
    sent.add(1);
    Injection {
        way: Way::Exit(port),
        packet,
    }
}

/// A packet that waited, on its way again.
pub(super) fn send_on((ingress, network): (PortId, NetworkId), packet: &[u8]) -> Injection {
    Injection {
        way: Way::Walk(Origin::Held {
            port: ingress,
            network,
        }),
        packet: PacketCopy::new(packet),
    }
}
