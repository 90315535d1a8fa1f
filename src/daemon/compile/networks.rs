//! Networks beside the cluster's own: what of each is on this node, and the way to the other nodes.

mod stations;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use millrace_dataplane::clock::Clock;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Guard, Member, NetworkId, Networks, OuterLink, RemoteExit, RemoteId, Segment, SegmentTunnel, StormLimit,
    TunnelEnds,
};
use millrace_dataplane::wire::vlan::VlanId;
use millrace_dataplane::wire::{MacAddr, Vni, vxlan};

pub use stations::GivenStation;

use super::ends::OwnEnds;
use super::peers::link;
use super::routed::Routed;
use super::{FAIL_SAFE_PORTS, Inputs, Numbers, PortInput, overhead};
use crate::daemon::members::MemberRow;
use crate::objects::{Bridge, NetworkKind, NetworkRecord, NodeName, NodeRecord, RouteTo};

/// What of a second's frames may be flooded at once is one of so many parts.
const STORM_BURSTS_PER_SECOND: u32 = 10;

/// A network as it is served here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedNetwork {
    /// Its number in the tables; none where it is not served.
    pub id: Option<NetworkId>,
    /// What its definition says.
    pub record: Arc<NetworkRecord>,
    /// The largest packet in its frames, in bytes; `None` while the uplink is gone.
    pub mtu: Option<u16>,
    /// Where its frames go beside this node.
    pub remotes: Vec<NamedRemote>,
    /// The networks that it is routed to.
    pub routes_to: Vec<RouteTo>,
    /// Why it is not served, one line.
    pub fault: Option<String>,
}

/// Another end of a network's tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRemote {
    /// Its number in the tables.
    pub id: RemoteId,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// Its node, if it is one.
    pub node: Option<NodeName>,
    /// Where the underlay's packets to it go first: itself, or a router.
    pub next_hop: IpAddr,
    /// Whether frames can be sent to it now.
    pub ready: bool,
}

impl NamedRemote {
    /// What a person calls it.
    #[must_use]
    pub fn name(&self) -> String {
        self.node
            .as_ref()
            .map_or_else(|| self.address.to_string(), ToString::to_string)
    }
}

/// What comes of networks beside the cluster's own.
#[derive(Debug, Default)]
pub struct SecondNetworks {
    /// For the workers.
    pub tables: Networks,
    /// All of them, those that are not served too, by name.
    pub networks: Vec<ServedNetwork>,
    /// Stations that are known without being heard.
    pub stations: Vec<GivenStation>,
    /// UDP ports of their tunnels.
    pub ports: BTreeSet<u16>,
    /// What there is of routed ones.
    pub(super) routed: Routed,
    /// Ports in routed ones.
    pub routed_ports: BTreeMap<PortId, NetworkId>,
    /// Next hops of their tunnels, to be kept resolved.
    pub(super) next_hops: Vec<(u32, IpAddr)>,
}

/// The largest packet in a network's frames: its own word, at most what `uplink`, the MTU there, leaves in a tunnel.
#[must_use]
pub fn mtu_of(network: &NetworkRecord, own: &NodeRecord, uplink: u16) -> u16 {
    let is_v6 = |address: IpAddr| address.is_ipv6();
    let to_v6 = network.peers.addresses.iter().copied().any(is_v6);
    let over_v6 = to_v6 || (network.peers.nodes && own.public_ips().any(is_v6));
    let added = if over_v6 {
        vxlan::MTU_OVERHEAD_IPV6
    } else {
        vxlan::MTU_OVERHEAD_IPV4
    };
    let fits = uplink.saturating_sub(overhead(added));
    network.mtu.map_or(fits, |mtu| mtu.min(fits))
}

/// Makes the tables of all networks beside the cluster's own.
pub(super) fn second_networks(
    inputs: &Inputs<'_>,
    numbers: &mut Numbers,
    uplink: Option<&PortInput>,
    ends: OwnEnds,
    warnings: &mut Vec<String>,
) -> SecondNetworks {
    let mut made = SecondNetworks::default();
    let mut segments = Vec::new();
    let mut remotes = BTreeMap::new();
    numbers.keep_networks(|key| inputs.store.second_network(key).is_some());
    let wanted = inputs
        .store
        .networks()
        .flat_map(|network| addresses_of(inputs, network, ends));
    let wanted: BTreeSet<IpAddr> = wanted.map(|(address, _)| address).collect();
    numbers.keep_remotes(&wanted);
    let mut ways = BTreeMap::new();
    for record in inputs.store.networks() {
        let mut served = ServedNetwork {
            id: None,
            record: Arc::clone(record),
            mtu: uplink.map(|uplink| mtu_of(record, inputs.own, uplink.facts.mtu)),
            remotes: Vec::new(),
            routes_to: Vec::new(),
            fault: fault(inputs, record),
        };
        let id = numbers.of_network(&record.key);
        match (&served.fault, id) {
            (None, Some(id)) => {
                let found = made.ways(inputs, numbers, (uplink, ends), record);
                served.remotes = found.iter().map(|way| way.remote.clone()).collect();
                remotes.extend(served.remotes.iter().map(|remote| (remote.address, remote.id)));
                match &record.kind {
                    NetworkKind::Bridged(bridge) => segments.push((id, segment(&served, bridge, &found))),
                    NetworkKind::Routed(_) => {
                        ways.insert(id, found);
                    }
                }
                made.ports.insert(record.port);
                served.id = Some(id);
            }
            (None, None) => served.fault = Some("there are more networks than can be numbered".to_owned()),
            (Some(_), _) => {}
        }
        if let Some(fault) = &served.fault {
            warnings.push(format!("network {}: {fault}", record.key));
        }
        made.networks.push(served);
    }
    let bridged = made.ids(|record| record.bridge().is_some());
    let members = inputs.members.iter();
    let members: Vec<(PortId, Member)> = members
        .filter_map(|(port, row)| Some((*port, member(row, &bridged)?)))
        .collect();
    made.give_stations(inputs, &bridged);
    made.routed = Routed::collect(inputs, (uplink, ends), &mut made.networks, &ways, warnings);
    made.tables = Networks::build(members, segments, remotes, made.tunnels());
    made
}

/// The way to another end of a network's tunnels.
pub(super) struct WayTo {
    pub(super) remote: NamedRemote,
    pub(super) uplink: PortId,
    pub(super) ends: TunnelEnds,
    pub(super) link: Option<OuterLink>,
}

/// How a network's packets are told from others'.
pub(super) fn tunnel_of(record: &NetworkRecord) -> Option<SegmentTunnel> {
    // INVARIANT: a record's number is within the range of both types.
    let vni = Vni::try_from(record.vni.get()).ok()?;
    Some(SegmentTunnel {
        vni,
        port: record.port,
    })
}

/// What of a bridged network is on this node.
fn segment(served: &ServedNetwork, bridge: &Bridge, ways: &[WayTo]) -> Segment {
    let tunnel = tunnel_of(&served.record);
    let exit = |way: &WayTo| {
        Some(RemoteExit::new(
            way.remote.id,
            way.uplink,
            way.ends,
            tunnel?,
            way.link,
        ))
    };
    Segment {
        tunnel,
        remotes: ways.iter().filter_map(exit).collect(),
        learns_from_ports: true,
        learns_from_remotes: bridge.learning,
        suppresses: bridge.suppression,
        snoops: bridge.snooping,
        storm: bridge.storm_limit.map(storm_limit),
        mtu: served.mtu.unwrap_or_default(),
    }
}

impl SecondNetworks {
    /// The addresses of all other ends of tunnels.
    pub(super) fn remotes(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.networks.iter().flat_map(|served| &served.remotes);
        all.map(|remote| remote.address)
    }

    /// The numbers of those that are served and of a kind.
    fn ids(&self, is_of_kind: impl Fn(&NetworkRecord) -> bool) -> BTreeMap<String, NetworkId> {
        let served = self.networks.iter().filter(|served| is_of_kind(&served.record));
        served
            .filter_map(|served| Some((served.record.key.to_string(), served.id?)))
            .collect()
    }

    /// The tunnels of routed ones.
    fn tunnels(&self) -> Vec<(NetworkId, SegmentTunnel)> {
        let routed = self
            .networks
            .iter()
            .filter(|served| served.record.routing().is_some());
        routed
            .filter_map(|served| Some((served.id?, tunnel_of(&served.record)?)))
            .collect()
    }

    /// The ways to the other ends of a network's tunnels, whose next hops are kept resolved.
    fn ways(
        &mut self,
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
        (uplink, ends): (Option<&PortInput>, OwnEnds),
        record: &NetworkRecord,
    ) -> Vec<WayTo> {
        let mut ways = Vec::new();
        for (address, node) in addresses_of(inputs, record, ends) {
            let (Some(uplink), Some(ends)) = (uplink, ends.to(address)) else {
                continue;
            };
            let Some(id) = numbers.of_remote(address) else {
                continue;
            };
            let hop = inputs.kernel.resolve_route_on(address, uplink.ifindex);
            let next_hop = hop.and_then(|hop| hop.gateway).unwrap_or(address);
            self.next_hops.push((uplink.ifindex, next_hop));
            let link = link(inputs, uplink, next_hop);
            let remote = NamedRemote {
                id,
                address,
                node,
                next_hop,
                ready: link.is_some(),
            };
            ways.push(WayTo {
                remote,
                uplink: uplink.id,
                ends,
                link,
            });
        }
        ways
    }
}

/// Why a network cannot be served here.
fn fault(inputs: &Inputs<'_>, record: &NetworkRecord) -> Option<String> {
    let (overlay, network) = (&inputs.config.overlay, inputs.store.network());
    let own = (overlay.vni_in(network).get(), overlay.port_in(network).get());
    if own == (record.vni.get(), record.port) {
        return Some(format!(
            "VNI {} at UDP port {} is the cluster network's own; choose another",
            own.0, own.1
        ));
    }
    if FAIL_SAFE_PORTS.contains(&record.port) {
        return Some(format!(
            "UDP port {} always stays with the node; choose another",
            record.port
        ));
    }
    None
}

/// The other ends of a network's tunnels, each with its node if it is one; none is this node's own.
fn addresses_of(
    inputs: &Inputs<'_>,
    record: &NetworkRecord,
    ends: OwnEnds,
) -> Vec<(IpAddr, Option<NodeName>)> {
    let mut all: Vec<(IpAddr, Option<NodeName>)> = Vec::new();
    let others = inputs.store.nodes().filter(|node| node.name != inputs.own.name);
    for node in others.filter(|_| record.peers.nodes) {
        let known = || node.public_ips().chain(node.internal_ips.iter().copied());
        // Both nodes come to the same family: IPv4 if both have it.
        let reachable = |is_ipv4: bool| {
            known().find(|address| address.is_ipv4() == is_ipv4 && ends.to(*address).is_some())
        };
        all.extend(
            reachable(true)
                .or_else(|| reachable(false))
                .map(|address| (address, Some(node.name.clone()))),
        );
    }
    let given = record.peers.addresses.iter().map(|address| (*address, None));
    for (address, node) in given {
        if !all.iter().any(|(known, _)| *known == address) {
            all.push((address, node));
        }
    }
    all.retain(|(address, _)| !ends.contains(*address));
    all
}

/// How a port is in networks; `None` if none of them is served.
fn member(row: &MemberRow, ids: &BTreeMap<String, NetworkId>) -> Option<Member> {
    let native = row.network.as_ref().and_then(|name| ids.get(name)).copied();
    if row.trunk.is_empty() {
        let guard = Guard {
            mac: row.mac.map(|mac| MacAddr(mac.octets())),
            sources: sources(row),
        };
        return native.map(|network| Member::Access { network, guard });
    }
    let vlans = row.trunk.iter().filter_map(|vlan| {
        let network = ids.get(&vlan.network)?;
        Some((VlanId::new(vlan.vlan)?, *network))
    });
    Some(Member::trunk(vlans, native))
}

/// The addresses that a member may send from: given ones, and the link-local one that belongs to its MAC address (RFC 4291,
/// appendix A), without which IPv6 does not work.
fn sources(row: &MemberRow) -> Vec<IpAddr> {
    let mut sources: Vec<IpAddr> = row.addresses.iter().map(ipnet::IpNet::addr).collect();
    if let Some(mac) = row.mac.filter(|_| sources.iter().any(IpAddr::is_ipv6)) {
        let [a, b, c, d, e, f] = mac.octets().map(u16::from);
        let groups = [
            0xfe80,
            0,
            0,
            0,
            (a ^ 2) << 8 | b,
            c << 8 | 0xff,
            0xfe00 | d,
            e << 8 | f,
        ];
        sources.push(IpAddr::V6(Ipv6Addr::from(groups)));
    }
    sources
}

/// As many at once as in a tenth of a second.
fn storm_limit(frames_per_second: NonZeroU32) -> StormLimit {
    let burst = frames_per_second.get().div_ceil(STORM_BURSTS_PER_SECOND);
    StormLimit::new(frames_per_second, burst, Clock::calibrated().cycles_per_second())
}
