//! The connections, as the control thread has to do with them: the table's file, what of it is shown, and answers that
//! the uplink's steering has to know of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Context as _;
use millrace_dataplane::clock;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{Address, Connection, Onward, ProtocolState, Tuple};
use millrace_dataplane::table::{
    AffinityTable, FlowShard, FlowTable, NetworkId, NodeTables, PeerId, Role, ServiceTable, SharedFlowTable,
    Tick,
};
use millrace_dataplane::verdict::Awaited;
use millrace_dataplane::wire::{IpProtocol, Ports};
use millrace_dataplane::xdp::SteeringProgram;
use millrace_pipelines::Connections;
use tracing::{debug, info, warn};

use super::Daemon;
use super::compile::services::ServiceChanges;
use super::compile::{NetworkNumbers, PeerWay};
use super::explain::Reasons;
use super::routed::forget_networks;
use crate::admin::protocol::{FlowRow, FlowTuple, Flows, ShowFilter};
use crate::config::Config;
use crate::objects::RouteTo;
use crate::slowpath::SteerRequest;

/// The flow table's file in the state folder.
pub(super) const FILE: &str = "flows";
/// Tells one start of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Clients that session affinity is remembered for.
const AFFINITIES: usize = 1 << 16;
/// Rows that can be shown at once.
const ROWS_MAX: usize = 20_000;

/// The connections, with those of the last run, as far as the numbers of their networks are known.
pub(super) fn open(config: &Config, networks: &NetworkNumbers) -> anyhow::Result<Connections> {
    let path = config.node.state_dir.join(FILE);
    let (flows, adopted) = FlowTable::open(&path, boot()?, &config.flows.options(), clock::now())?;
    if let Some(refusal) = adopted.refused {
        warn!(
            "the connections of the last run are lost: {} was left behind, {refusal}",
            path.display()
        );
    }
    let known: BTreeSet<NetworkId> = networks.ids().chain([NetworkId::CLUSTER]).collect();
    let forgotten = forget_networks(&flows, |network| !known.contains(&network));
    let (kept, lost) = (adopted.kept.saturating_sub(forgotten), adopted.lost + forgotten);
    if kept > 0 || lost > 0 {
        info!(kept, lost, "connections taken over");
    }
    Ok(Connections {
        flows: Arc::new(flows),
        affinity: Arc::new(AffinityTable::new(AFFINITIES)),
        timeouts: config.flows.timeouts(),
        workers: config.workers.cores.as_slice().len(),
    })
}

/// The first half of the kernel's random id of this start of the machine.
fn boot() -> anyhow::Result<u64> {
    let text = fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).with_context(|| format!("{BOOT_ID} is no id"))
}

/// What numbers in the table stand for.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) ports: BTreeMap<PortId, String>,
    /// Pods' addresses, by network and pod.
    pub(super) pods: BTreeMap<(NetworkId, String), Vec<IpAddr>>,
    pub(super) peers: BTreeMap<PeerId, String>,
    /// Networks beside the cluster's own.
    pub(super) networks: BTreeMap<NetworkId, String>,
    /// Peers in them, which have numbers of their own.
    pub(super) remotes: BTreeMap<PeerId, String>,
}

impl Daemon {
    pub(super) fn names(&self) -> Names {
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

    /// How many connections there are, and room for.
    pub(super) fn count_connections(&self) -> BTreeMap<String, u64> {
        let flows = &self.connections.flows;
        [
            ("ipv4", flows.v4().len()),
            ("ipv4_capacity", flows.v4().capacity()),
            ("ipv6", flows.v6().len()),
            ("ipv6_capacity", flows.v6().capacity()),
        ]
        .map(|(name, count)| (name.to_owned(), u64::from(count)))
        .into()
    }

    /// Charges every connection of an earlier run to the pod that opened it.
    pub(super) fn assign_openers(&self) {
        let owners: BTreeMap<(NetworkId, IpAddr), PortId> = self
            .ports
            .iter()
            .filter(|(id, port)| port.pod.is_some() || self.tables.routed.of_port(*id).is_some())
            .flat_map(|(id, port)| {
                let network = self.network_of_port(id);
                port.facts
                    .sources
                    .iter()
                    .map(move |address| ((network, *address), id))
            })
            .collect();
        self.connections
            .flows
            .assign_openers(|network, address| owners.get(&(network, address)).copied());
    }

    /// The network that a port's packets are routed in.
    fn network_of_port(&self, id: PortId) -> NetworkId {
        self.tables.routed.of_port(id).unwrap_or(NetworkId::CLUSTER)
    }
}

/// The answers that the uplink's steering has been told of, and who gives them.
#[derive(Debug, Default)]
pub(super) struct AwaitedAnswers(BTreeSet<(IpAddr, Awaited)>);

impl AwaitedAnswers {
    /// Those that there are.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, Awaited)> + '_ {
        self.0.iter().copied()
    }
}

impl Daemon {
    /// Sends a packet on, once answers to it find their way here. Without that it is not sent: they would go to the
    /// node's own network stack, and the next packet asks again.
    pub(super) fn steer_answers(&mut self, request: SteerRequest) {
        let key = (request.remote, request.awaited);
        if !self.awaited.0.contains(&key) {
            let steered = self
                .uplink_program()
                .map(|program| program.steer_answers(key.0, key.1));
            match steered {
                Some(Ok(())) => self.awaited.0.insert(key),
                Some(Err(error)) => return debug!("{error}"),
                None => return,
            };
        }
        if let Some(worker) = self.fabric.workers().get(request.worker) {
            // A worker without room drops it; it counts what it drops.
            let _ = worker.inject(request.injection);
        }
    }

    /// Leaves answers within connections that are over to the node's own network stack again.
    pub(super) fn release_answers(&mut self) {
        let (flows, local) = (&self.connections.flows, &self.tables.local);
        let lives = |remote: IpAddr, awaited: Awaited| match remote {
            IpAddr::V4(remote) => {
                let own = local.sources_v4.uplink;
                let answer = own.map(|own| answer(remote, own, IpProtocol::ICMP, awaited));
                answer.is_some_and(|answer| flows.v4().lookup(&answer).is_some())
            }
            IpAddr::V6(remote) => {
                let own = local.sources_v6.uplink;
                let answer = own.map(|own| answer(remote, own, IpProtocol::ICMPV6, awaited));
                answer.is_some_and(|answer| flows.v6().lookup(&answer).is_some())
            }
        };
        let over: Vec<_> = self
            .awaited
            .iter()
            .filter(|(remote, awaited)| !lives(*remote, *awaited))
            .collect();
        for (remote, awaited) in over {
            let released = self
                .uplink_program()
                .map(|program| program.release_answers(remote, awaited));
            if let Some(Err(error)) = released {
                debug!("{error}");
            } else {
                self.awaited.0.remove(&(remote, awaited));
            }
        }
    }

    /// Forgets what went to an address, or port of the node, before it led to a Service: UDP would go on to where it
    /// went for as long as its client does. TCP ends by itself. Looks at the whole table, on a thread of its own, and
    /// after the workers have the new tables.
    pub(super) fn forget_plain(&self, changes: &ServiceChanges) {
        if changes.addresses.is_empty() && !changes.node_ports {
            return;
        }
        let (flows, services) = (
            Arc::clone(&self.connections.flows),
            Arc::clone(&self.tables.services),
        );
        let look = move || {
            let forgotten =
                forget::<Ipv4Addr>(flows.v4(), &services) + forget::<Ipv6Addr>(flows.v6(), &services);
            debug!(forgotten, "flows that now lead to a Service");
        };
        if let Err(error) = std::thread::Builder::new()
            .name("forget-flows".into())
            .spawn(look)
        {
            warn!("flows that now lead to a Service are not forgotten: {error}");
        }
    }

    fn uplink_program(&mut self) -> Option<&mut SteeringProgram> {
        let (id, _) = self.ports.of_role(Role::Uplink)?;
        Some(&mut self.ports.get_mut(id)?.attached.program)
    }
}

/// Forgets all that is bound to no backend, and would be if it began now.
fn forget<A: Address>(flows: &FlowShard<A>, services: &ServiceTable) -> u32 {
    flows.remove_where(|connection| {
        let to = &connection.original;
        connection.binding.is_none()
            && to.network == NetworkId::CLUSTER
            && to.protocol != IpProtocol::TCP
            && services
                .frontend(
                    to.source.into(),
                    to.protocol,
                    (to.destination.into(), to.ports.destination),
                )
                .is_some()
    })
}

/// The tuple of an answer from the uplink; echoes are `icmp`'s.
fn answer<A>(remote: A, own: A, icmp: IpProtocol, awaited: Awaited) -> Tuple<A> {
    let (protocol, id) = match awaited {
        Awaited::Echo(id) => (icmp, id),
        Awaited::Protocol(protocol) => (protocol, 0),
    };
    Tuple {
        source: remote,
        destination: own,
        protocol,
        ports: Ports {
            source: 0,
            destination: id,
        },
        network: NetworkId::CLUSTER,
    }
}

/// Every connection that the filter lets through, counted, and the first of them as rows. Looks at the whole table.
pub(super) fn show(
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
