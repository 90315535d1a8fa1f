//! The node whose walks are measured: its ports, its pods, its peers, and the tables that follow.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Context;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::Timeouts;
use millrace_dataplane::table::policy::PolicyTable;
use millrace_dataplane::table::{
    Endpoint, EndpointKind, FlowTable, HashKey, Local, Lpm, NeighbourId, NeighbourTable, Networks,
    NodeTables, OuterLink, Peer, PeerId, PeerTable, PortFacts, PortTable, Prefix, Role, RouteTable,
    SourceAddresses, SubjectId, SubjectKind, Target, Tunnel, Underlay,
};
use millrace_dataplane::wire::{MacAddr, Vni, ipip, vxlan};

use super::bridge::networks;
use super::family::Family;
use super::policies::policy_table;
use super::second;
use super::services::service_table;
use super::walk::Walk;

/// How many other nodes there are.
pub(super) const PEERS: u8 = 64;
/// The largest IP packet on the underlay, in bytes: the longest frame measured fits it in a tunnel.
const UNDERLAY_MTU: u16 = 1600;
/// Length of the underlay's prefix, in bits.
const UNDERLAY_PREFIX_LEN: u8 = 24;

/// The ports, by number; their places in the worker are the same.
pub(super) const UPLINK: u16 = 0;
const HOST: u16 = 1;
pub(super) const POD_A: u16 = 2;
pub(super) const POD_B: u16 = 3;
/// How many ports there are.
pub(super) const PORTS: u16 = 4;

/// How large a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Services that it knows.
    pub(crate) services: u32,
    /// Services that are called, so that the flows are the same with few and with many.
    pub(crate) called: u32,
    /// Policies, of one rule each. Those of the pods that the walks know let through what these send.
    pub(crate) policies: u32,
    /// Ports; those beyond the four that the walks know are idle.
    pub(crate) ports: u16,
    /// Workers.
    pub(crate) workers: usize,
}

/// The least and the most connections that a case has room for; the most is the default of a node.
const ROOM_MIN: u32 = 1 << 17;
const ROOM_MAX: u32 = 1 << 20;

/// The overlay's network.
pub(super) const VNI: u32 = 1;

/// Which tunnel the node and its peers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlay {
    /// VXLAN.
    Vxlan,
    /// IP in IP.
    Ipip,
}

/// The switch's own link address on a port.
pub(super) fn switch_mac(port: u16) -> MacAddr {
    let [high, low] = port.to_be_bytes();
    MacAddr([2, 0, 0, high, 1, low])
}

/// The link address of the station behind a pod's port or the host's.
pub(super) fn station_mac(port: u16) -> MacAddr {
    let [high, low] = port.to_be_bytes();
    MacAddr([2, 0, 0, high, 2, low])
}

/// The link address of a node on the underlay; number 0 is this one.
pub(super) fn underlay_mac(node: u8) -> MacAddr {
    if node == 0 {
        switch_mac(UPLINK)
    } else {
        MacAddr([2, 0, 0, 0, 3, node])
    }
}

/// The MAC address of a node's end of the tunnel.
pub(super) fn tunnel_mac(node: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 4, node])
}

/// The address of a node on the underlay.
pub(super) fn underlay_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node + 1)
}

fn port(number: u16) -> anyhow::Result<PortId> {
    PortId::new(number).context("there is no such port number")
}

fn pod_prefix(family: Family, node: u8) -> anyhow::Result<Prefix> {
    Ok(Prefix::new(family.pod_address(node, 0), family.pod_prefix_len())?)
}

/// All tables of the node that a walk is through. Its pods have addresses of the walk's family.
pub(super) fn tables(walk: Walk, size: &Size) -> anyhow::Result<NodeTables> {
    let (family, overlay) = (walk.family(), walk.overlay());
    let (uplink, host) = (port(UPLINK)?, port(HOST)?);
    let vni = if walk.is_second() { second::VNI } else { VNI };
    let (mut peers, mut inner_sources, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    for (id, node) in (0..).map(PeerId::new).zip(1..=PEERS) {
        peers.push((id, peer(overlay, (uplink, vni), node)?));
        inner_sources.push((pod_prefix(family, node)?, id));
        inner_sources.push((Prefix::host(IpAddr::V4(underlay_address(node))), id));
        routes.push((pod_prefix(family, node)?, Target::Tunnel(id)));
    }
    for pod in [POD_A, POD_B] {
        routes.push((Prefix::host(family.local_pod(pod)), Target::Port(port(pod)?)));
    }
    routes.push((Prefix::host(family.pod_address(0, 0)), Target::Port(host)));
    let underlay = Prefix::containing(IpAddr::V4(underlay_address(0)), UNDERLAY_PREFIX_LEN)?;
    routes.push((underlay, Target::OnLink { port: uplink }));
    let gateway = Target::Via {
        port: uplink,
        next_hop: IpAddr::V4(underlay_address(1)),
    };
    routes.push((Prefix::ALL_V4, gateway));
    let neighbours = (1..=PEERS).map(|node| {
        let address = IpAddr::V4(underlay_address(node));
        (NeighbourId::new(node.into()), uplink, address, underlay_mac(node))
    });
    let ports = (0..size.ports).map(|number| {
        let facts = facts(family, number);
        let is_member = walk.is_bridged() && facts.role == Role::Pod;
        let role = if is_member { Role::Segment } else { facts.role };
        Ok((port(number)?, PortFacts { role, ..facts }))
    });
    let networks = if walk.is_bridged() {
        networks()?
    } else {
        Networks::default()
    };
    let policies = if walk.is_policed() {
        policy_table(family, size)?
    } else {
        PolicyTable::default()
    };
    let tables = NodeTables {
        policies: Arc::new(policies),
        networks: Arc::new(networks),
        ports: Arc::new(PortTable::build(ports.collect::<anyhow::Result<Vec<_>>>()?)),
        routes: Arc::new(RouteTable::build(routes)),
        neighbours: Arc::new(NeighbourTable::build(HashKey::random(), neighbours)),
        peers: Arc::new(PeerTable::build(peers, inner_sources)),
        local: Arc::new(local(family, overlay, uplink, host)?),
        services: Arc::new(service_table(family, size)?),
        ..NodeTables::default()
    };
    if walk.is_second() {
        second::within(tables)
    } else {
        Ok(tables)
    }
}

fn peer(overlay: Overlay, (uplink, vni): (PortId, u32), node: u8) -> anyhow::Result<Peer> {
    let (tunnel, overhead) = match overlay {
        Overlay::Ipip => (Tunnel::Ipip, ipip::MTU_OVERHEAD),
        Overlay::Vxlan => {
            let (local_mac, remote_mac) = (tunnel_mac(0), tunnel_mac(node));
            let tunnel = Tunnel::Vxlan {
                vni: Vni::try_from(vni)?,
                port: vxlan::LINUX_PORT,
                local_mac,
                remote_mac,
            };
            (tunnel, vxlan::MTU_OVERHEAD_IPV4)
        }
    };
    let underlay = Underlay {
        port: uplink,
        next_hop: IpAddr::V4(underlay_address(node)),
    };
    let link = OuterLink {
        source: underlay_mac(0),
        destination: underlay_mac(node),
    };
    let mtu = UNDERLAY_MTU.saturating_sub(u16::try_from(overhead)?);
    let ends = (underlay_address(0), underlay_address(node));
    Ok(Peer::new(ends, tunnel, underlay, mtu, Some(link)))
}

/// As the daemon sets its ports up; the uplink stands for a NIC, which hands over finished checksums.
fn facts(family: Family, number: u16) -> PortFacts {
    let role = match number {
        UPLINK => Role::Uplink,
        HOST => Role::Host,
        _ => Role::Pod,
    };
    let sources = if role == Role::Pod {
        vec![family.local_pod(number)]
    } else {
        Vec::new()
    };
    PortFacts {
        role,
        mac: switch_mac(number),
        peer_mac: station_mac(number),
        sources,
        mtu: UNDERLAY_MTU,
        finish_checksums: role != Role::Uplink,
    }
}

fn local(family: Family, overlay: Overlay, uplink: PortId, host: PortId) -> anyhow::Result<Local> {
    let own = IpAddr::V4(underlay_address(0));
    let (own_pod, gateway) = (family.pod_address(0, 0), family.pod_address(0, 1));
    let kind = match overlay {
        Overlay::Ipip => EndpointKind::Ipip,
        Overlay::Vxlan => EndpointKind::Vxlan {
            vni: Vni::try_from(VNI)?,
            port: vxlan::LINUX_PORT,
            mac: tunnel_mac(0),
        },
    };
    Ok(Local {
        addresses: vec![own, own_pod],
        node_addresses: (0..=PEERS)
            .map(|node| IpAddr::V4(underlay_address(node)))
            .collect(),
        endpoints: vec![Endpoint { local: own, kind }],
        gateways: vec![gateway],
        pod_prefixes: vec![pod_prefix(family, 0)?],
        uplink: Some(uplink),
        host: Some(host),
        pod_networks: Lpm::build(
            (0..=PEERS)
                .map(|node| Ok((pod_prefix(family, node)?, ())))
                .collect::<anyhow::Result<Vec<_>>>()?,
        ),
        sources_v4: SourceAddresses {
            gateway: v4(gateway),
            overlay: v4(own_pod),
            uplink: Some(underlay_address(0)),
        },
        sources_v6: SourceAddresses {
            gateway: v6(gateway),
            overlay: v6(own_pod),
            uplink: None,
        },
        masquerade: true,
        unmasqueraded: Vec::new(),
        uplink_ports: (61_000, u16::MAX),
        ..Local::default()
    })
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

/// A table with room for so many flows of a family, as a node has it: no less, and for a million at most unless there are more.
pub(crate) fn flow_table(family: Family, flows: u32) -> anyhow::Result<FlowTable> {
    let most = ROOM_MAX.max(flows.next_power_of_two());
    let room = flows.saturating_mul(2).next_power_of_two();
    let options = family.flow_options(room.clamp(ROOM_MIN, most));
    Ok(FlowTable::in_memory(&options)?)
}

/// The tables after something changed that no packet has to do with; in turn an endpoint of another Service, and what a
/// label's change makes of the policy of another pod.
pub(super) fn changed_elsewhere(tables: &NodeTables, change: u64) -> NodeTables {
    let changed = if change.is_multiple_of(2) {
        SubjectId::backend(SubjectId::NUMBER_MAX >> 8)
    } else {
        SubjectId::of(SubjectKind::Policy, u32::from(PortId::LIMIT) - 1)
    };
    let mut tables = tables.clone();
    let epoch = tables.epoch.next();
    tables.subjects = tables.subjects.with_changes(&HashSet::from([changed]), epoch);
    tables.epoch = epoch;
    tables
}

/// No flow ends while its case is measured.
pub(super) fn for_ever() -> Timeouts {
    const LONG_S: u32 = 1_000_000;
    Timeouts {
        udp_s: LONG_S,
        udp_replied_s: LONG_S,
        ..Timeouts::default()
    }
}
