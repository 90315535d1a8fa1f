//! Networks beside the cluster's own as they are served: what of them the forwarding database is given, and what is told of
//! them.

use std::collections::{BTreeMap, BTreeSet};

use millrace_dataplane::clock;
use millrace_dataplane::port::PortId;
use millrace_dataplane::stats::DeviceStatistics;
use millrace_dataplane::table::fdb::Bounds;
use millrace_dataplane::table::{NetworkId, PeerId, RemoteId};
use tracing::warn;

use super::Daemon;
use super::compile::networks::{GivenStation, SecondNetworks, ServedNetwork};
use super::compile::routed::{peer_id, router_mac};
use super::members::MemberRow;
use crate::admin::protocol::{NetworkRow, PortRow, RemoteRow};
use crate::objects::RouteTo;

/// Networks as they are served.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) networks: Vec<ServedNetwork>,
    /// Stations that the forwarding database was given.
    stations: Vec<GivenStation>,
    /// Ports in networks.
    ports: BTreeSet<PortId>,
    /// Whether this is what was made of tables, and not nothing yet.
    is_begun: bool,
}

impl Served {
    fn ids(&self) -> BTreeSet<NetworkId> {
        self.networks.iter().filter_map(|served| served.id).collect()
    }

    /// What people call the networks.
    pub(super) fn names(&self) -> impl Iterator<Item = (NetworkId, String)> + '_ {
        let all = self.networks.iter();
        all.filter_map(|served| Some((served.id?, served.record.key.to_string())))
    }

    /// What people call the peers of routed networks.
    pub(super) fn peer_names(&self) -> impl Iterator<Item = (PeerId, String)> + '_ {
        let all = self.networks.iter().flat_map(|served| &served.remotes);
        all.map(|remote| (peer_id(remote), remote.name()))
    }

    /// What a person calls a network.
    pub(super) fn name(&self, network: NetworkId) -> String {
        if network == NetworkId::CLUSTER {
            return RouteTo::Cluster.to_string();
        }
        let mut all = self.networks.iter();
        let known = all.find(|served| served.id == Some(network));
        known.map_or_else(
            || format!("network {network}"),
            |served| served.record.key.to_string(),
        )
    }

    fn remotes(&self) -> BTreeSet<RemoteId> {
        let all = self.networks.iter().flat_map(|served| &served.remotes);
        all.map(|remote| remote.id).collect()
    }
}

impl Daemon {
    /// Takes networks as they are served from now on: what is gone is forgotten, stations that are given are known.
    pub(super) fn serve_networks(&mut self, second: SecondNetworks) {
        let next = Served {
            networks: second.networks,
            stations: second.stations,
            ports: self.members.served().map(|(port, _)| port).collect(),
            is_begun: true,
        };
        let mut writer = self.bridging.fdb.write();
        let last = &self.networks;
        let gone: BTreeSet<NetworkId> = last.ids().difference(&next.ids()).copied().collect();
        for network in &gone {
            writer.forget_network(*network);
        }
        for remote in last.remotes().difference(&next.remotes()) {
            writer.forget_remote(*remote);
        }
        for port in last.ports.difference(&next.ports) {
            writer.forget_port(*port);
        }
        for gone in last
            .stations
            .iter()
            .filter(|station| !next.stations.contains(station))
        {
            writer.remove(gone.network, gone.mac);
        }
        for served in &next.networks {
            let (Some(network), Some(bridge)) = (served.id, served.record.bridge()) else {
                continue;
            };
            let bounds = Bounds {
                per_port: bridge.mac_limit,
                ageing_s: bridge.ageing_s,
                ..Bounds::default()
            };
            writer.set_bounds(network, bounds);
        }
        let now = clock::now();
        for new in next
            .stations
            .iter()
            .filter(|station| !last.stations.contains(station))
        {
            if let Err(refusal) = writer.set_static(new.network, new.mac, new.location, now) {
                warn!("station {} is not known from the start: {refusal}", new.mac);
            }
        }
        drop(writer);
        // At first there may be connections of an earlier run.
        let (is_first, served) = (!last.is_begun, next.ids());
        self.networks = next;
        if is_first || !gone.is_empty() {
            self.forget_connections(served);
        }
    }

    /// What a person calls a network.
    pub(super) fn network_name(&self, network: NetworkId) -> String {
        self.networks.name(network)
    }

    /// What stands behind ports in networks.
    pub(super) fn describe_members(&self, rows: &mut [PortRow]) {
        for row in rows {
            let Some(member) = PortId::new(row.id).and_then(|port| self.members.get(port)) else {
                continue;
            };
            row.pod = member.pod().cloned();
            row.networks = member.networks().cloned().collect();
            row.addresses = member.addresses.iter().map(ipnet::IpNet::addr).collect();
            row.peer_mac = member.mac.map(|mac| mac.to_string());
        }
    }

    /// Says, once, of a tap device that frames of its are lost because they are longer than the switch's: whoever has it open
    /// leaves the cutting of segments to others.
    pub(super) fn tell_long_frames(&mut self) {
        let mut told = Vec::new();
        for (id, member) in self.members.served() {
            let Some(port) = self.ports.get(id).filter(|_| member.is_tap()) else {
                continue;
            };
            let device = port.attached.seats.iter().map(|seat| seat.stats.read().device);
            let lost = |device: DeviceStatistics| device.rx_dropped > device.rx_fill_ring_empty;
            if device.into_iter().any(lost) && !self.members.has_long_frames(id) {
                warn!(
                    "{}: frames longer than the switch's are lost; `vnet_hdr=off` of QEMU's tap, or `csum=off,host_tso4=off,host_tso6=off` of its \
                     device, has the machine cut its segments itself",
                    member.interface
                );
                told.push(id);
            }
        }
        self.members.note_long_frames(told);
    }

    /// All of them, with their ports and where their frames go.
    pub(super) fn show_networks(&self) -> Vec<NetworkRow> {
        let mut stations: BTreeMap<NetworkId, usize> = BTreeMap::new();
        for (network, ..) in self.bridging.fdb.iter() {
            *stations.entry(network).or_default() += 1;
        }
        let row = |served: &ServedNetwork| {
            let record = &served.record;
            let name = record.key.to_string();
            let is_routed = record.routing().is_some();
            let members = self.members.served();
            let members = members.filter_map(|(_, row)| words(row, &name));
            NetworkRow {
                kind: record.kind.name().to_owned(),
                vni: record.vni.get(),
                port: record.port,
                subnets: record.subnets.clone(),
                mtu: served.mtu.map(u32::from),
                members: members.collect(),
                stations: served
                    .id
                    .and_then(|id| stations.get(&id).copied())
                    .unwrap_or_default(),
                routes_to: served.routes_to.iter().map(ToString::to_string).collect(),
                gateways: record.gateways.iter().copied().filter(|_| is_routed).collect(),
                remotes: served
                    .remotes
                    .iter()
                    .map(|remote| RemoteRow {
                        address: remote.address,
                        node: remote.node.as_ref().map(ToString::to_string),
                        mac: is_routed.then(|| router_mac(remote.address).to_string()),
                        ready: remote.ready,
                    })
                    .collect(),
                fault: served.fault.clone(),
                network: name,
            }
        };
        self.networks.networks.iter().map(row).collect()
    }
}

/// A port as one of a network's; `None` if it is not in it.
fn words(row: &MemberRow, network: &str) -> Option<String> {
    let interface = &row.interface;
    if row.network.as_deref() == Some(network) {
        return Some(match row.pod() {
            Some(pod) => format!("{interface} ({pod})"),
            None => interface.clone(),
        });
    }
    let tagged = row.trunk.iter().find(|vlan| vlan.network == network)?;
    Some(format!("{interface} (VLAN {})", tagged.vlan))
}
