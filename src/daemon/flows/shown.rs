//! The connections as they are shown.

use std::collections::BTreeMap;
use std::net::IpAddr;

use millrace_dataplane::clock;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{Address, Connection, Onward, ProtocolState, Tuple};
use millrace_dataplane::table::{NetworkId, NodeTables, PeerId, SharedFlowTable, Tick};
use millrace_dataplane::wire::IpProtocol;

use crate::admin::protocol::{FlowRow, FlowTuple, Flows, ShowFilter};
use crate::daemon::Daemon;
use crate::daemon::compile::PeerWay;
use crate::daemon::explain::Reasons;
use crate::objects::RouteTo;

/// Rows that can be shown at once.
const ROWS_MAX: usize = 20_000;

/// What numbers in the table stand for.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Names {
    pub(in crate::daemon) ports: BTreeMap<PortId, String>,
    /// Pods' addresses, by network and pod.
    pub(in crate::daemon) pods: BTreeMap<(NetworkId, String), Vec<IpAddr>>,
    pub(in crate::daemon) peers: BTreeMap<PeerId, String>,
    /// Networks beside the cluster's own.
    pub(in crate::daemon) networks: BTreeMap<NetworkId, String>,
    /// Peers in them, which have numbers of their own.
    pub(in crate::daemon) remotes: BTreeMap<PeerId, String>,
}

impl Daemon {
    pub(in crate::daemon) fn names(&self) -> Names {
        let member_pod = |id: PortId| self.members.get(id).and_then(|member| member.pod());
        let ports = self.ports.iter().map(|(id, port)| {
            let pod = member_pod(id).cloned();
            (id, pod.unwrap_or_else(|| port.name()))
        });
        let pods = self.ports.iter().filter_map(|(id, port)| {
            let network = self.network_of_port(id);
            let pod = port.pod.as_ref().map(ToString::to_string);
            Some((
                (network, pod.or_else(|| member_pod(id).cloned())?),
                port.facts.sources.clone(),
            ))
        });
        let peers = self.peers.iter();
        Names {
            ports: ports.collect(),
            pods: pods.collect(),
            networks: self.networks.names().collect(),
            remotes: self.networks.peer_names().collect(),
            peers: peers
                .filter_map(|peer| match peer.way {
                    PeerWay::Tunnel(id) => Some((id, peer.node.to_string())),
                    PeerWay::Plain(_) => None,
                })
                .collect(),
        }
    }
}

/// Every connection that the filter lets through, counted, and the first of them as rows. Looks at the whole table.
pub(in crate::daemon) fn show(
    flows: &SharedFlowTable,
    tables: &NodeTables,
    (names, reasons): (&Names, &Reasons),
    filter: &ShowFilter,
) -> Flows {
    let mut shown = Flows {
        connections: u64::from(flows.v4().len()) + u64::from(flows.v6().len()),
        capacity: u64::from(flows.v4().capacity()) + u64::from(flows.v6().capacity()),
        matching: 0,
        flows: Vec::new(),
    };
    let view = View {
        tables,
        names,
        reasons,
        filter,
        now: clock::now(),
    };
    view.collect(flows.v4().connections(), &mut shown);
    view.collect(flows.v6().connections(), &mut shown);
    shown
}

/// How connections are looked at.
struct View<'a> {
    tables: &'a NodeTables,
    names: &'a Names,
    reasons: &'a Reasons,
    filter: &'a ShowFilter,
    now: Tick,
}

impl View<'_> {
    fn collect<A: Address>(&self, connections: impl Iterator<Item = Connection<A>>, shown: &mut Flows) {
        let limit = self.filter.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX);
        for connection in connections {
            let row = self.row(&connection);
            if !self.matches(connection.original.network, &row) {
                continue;
            }
            shown.matching += 1;
            if shown.flows.len() < limit {
                // Asked only for those that are shown.
                let policies = self.reasons.of_connection(&connection);
                shown.flows.push(FlowRow { policies, ..row });
            }
        }
    }

    fn matches(&self, network: NetworkId, row: &FlowRow) -> bool {
        let filter = self.filter;
        let tuples = [&row.original, &row.reply];
        let has_address = |address: &IpAddr| {
            tuples
                .iter()
                .any(|tuple| [tuple.source, tuple.destination].contains(address))
        };
        let has_port = |port: &u16| {
            tuples
                .iter()
                .any(|tuple| [tuple.source_port, tuple.destination_port].contains(port))
        };
        let is_pods = |pod: &String| {
            row.opener.as_ref() == Some(pod)
                || self
                    .names
                    .pods
                    .get(&(network, pod.clone()))
                    .is_some_and(|addresses| addresses.iter().any(has_address))
        };
        filter.pod.as_ref().is_none_or(is_pods)
            && filter.address.as_ref().is_none_or(has_address)
            && filter.port.as_ref().is_none_or(has_port)
            && filter.state.as_ref().is_none_or(|state| *state == row.state)
            && (filter.network.is_none() || filter.network == row.network)
    }

    fn row<A: Address>(&self, connection: &Connection<A>) -> FlowRow {
        let last = connection.original_seen.latest(connection.reply_seen);
        let [answer, _] = &connection.answers;
        let network = connection.original.network;
        FlowRow {
            network: (network != NetworkId::CLUSTER).then(|| self.network(network)),
            protocol: protocol_name(connection.original.protocol),
            state: state_name(connection.state),
            original: tuple(&connection.original),
            reply: tuple(&connection.reply),
            opener: connection.opener.map(|port| self.port(port)),
            binding: connection
                .binding
                .map(|binding| (binding.service, binding.backend)),
            onward: answer.map(|answer| self.onward(network, answer.onward)),
            policies: None,
            age_seconds: self.now.since(connection.created),
            idle_seconds: self.now.since(last),
        }
    }

    fn port(&self, port: PortId) -> String {
        let name = self.names.ports.get(&port).cloned();
        name.unwrap_or_else(|| format!("port {port}"))
    }

    fn network(&self, network: NetworkId) -> String {
        if network == NetworkId::CLUSTER {
            return RouteTo::Cluster.to_string();
        }
        let name = self.names.networks.get(&network).cloned();
        name.unwrap_or_else(|| format!("network {network}"))
    }

    fn onward(&self, within: NetworkId, onward: Onward) -> String {
        match onward {
            Onward::Port(port) => self.port(port),
            Onward::Neighbour(id) => match self.tables.neighbours.get(id) {
                Some((port, mac)) => format!("{} ({mac})", self.port(port)),
                None => "a neighbour that is not known any more".into(),
            },
            Onward::Peer(peer) => {
                let names = if within == NetworkId::CLUSTER {
                    &self.names.peers
                } else {
                    &self.names.remotes
                };
                let name = names.get(&peer).cloned();
                format!("tunnel to {}", name.unwrap_or_else(|| format!("peer {peer}")))
            }
            Onward::Refused(reason) => format!("drop {reason}"),
            Onward::Network(network) => format!("into {}", self.network(network)),
        }
    }
}

fn tuple<A: Address>(tuple: &Tuple<A>) -> FlowTuple {
    FlowTuple {
        source: tuple.source.into(),
        source_port: tuple.ports.source,
        destination: tuple.destination.into(),
        destination_port: tuple.ports.destination,
    }
}

fn protocol_name(protocol: IpProtocol) -> String {
    match protocol {
        IpProtocol::TCP => "tcp".into(),
        IpProtocol::UDP => "udp".into(),
        IpProtocol::SCTP => "sctp".into(),
        IpProtocol::ICMP => "icmp".into(),
        IpProtocol::ICMPV6 => "icmpv6".into(),
        other => other.0.to_string(),
    }
}

/// A state as it is written in JSON, without the protocol around it.
fn state_name(state: ProtocolState) -> String {
    let name = match state {
        ProtocolState::Tcp(tcp) => serde_json::to_value(tcp),
        ProtocolState::Unreplied | ProtocolState::Replied => serde_json::to_value(state),
    };
    let name = name.ok().and_then(|name| Some(name.as_str()?.to_owned()));
    name.unwrap_or_default()
}
