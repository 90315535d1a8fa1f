//! Why packets and connections pass or not, for whoever looks at them: the rules that decide, and the pods at both ends.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{Address, Connection, Tuple};
use millrace_dataplane::table::policy::{Judgement, Query, RuleId, Ruling};
use millrace_dataplane::table::service::{Caller, Decision, Query as ServiceQuery};
use millrace_dataplane::table::{
    AffinityTable, FlowShard, NetworkId, NodeTables, Role, SharedFlowTable, Tick,
};
use millrace_dataplane::verdict::{DropReason, Verdict};

use super::packet::{Seen, seen};
use crate::daemon::Daemon;
use crate::daemon::compile::policies::RuleNames;
use crate::objects::{PodKey, Store};

/// Clients whose backends are remembered for the sake of an explanation.
const AFFINITIES: usize = 64;

/// The tables of one moment, and what their numbers stand for.
pub(in crate::daemon) struct Reasons {
    pub(super) tables: NodeTables,
    flows: SharedFlowTable,
    rules: RuleNames,
    store: Arc<Store>,
    /// This node's pods, by the addresses that they were given.
    pods: HashMap<IpAddr, PodKey>,
    ports: HashMap<PortId, (Role, String)>,
    /// Networks beside the cluster's own.
    networks: BTreeMap<NetworkId, Other>,
    affinity: AffinityTable,
}

/// A network beside the cluster's own.
struct Other {
    name: String,
    /// Its rules' names; `None` where no policy is in force.
    rules: Option<RuleNames>,
    pods: HashMap<IpAddr, PodKey>,
}

impl Daemon {
    fn other_networks(&self) -> BTreeMap<NetworkId, Other> {
        let served = self.networks.networks.iter();
        let all = served.filter_map(|served| {
            let compiler = self.policing.compilers.networks.of(&served.record.key);
            let other = Other {
                name: served.record.key.to_string(),
                rules: compiler.map(|compiler| compiler.names()),
                pods: compiler.map_or_else(HashMap::new, |compiler| {
                    let pods = compiler.pods_by_address().into_iter();
                    pods.map(|(address, pod)| (address, pod.clone())).collect()
                }),
            };
            Some((served.id?, other))
        });
        all.collect()
    }

    /// What there is to be said now.
    pub(in crate::daemon) fn reasons(&self) -> Reasons {
        let own = self
            .ports
            .iter()
            .filter_map(|(_, port)| Some((port, port.pod.as_ref()?)));
        let pods = own.flat_map(|(port, pod)| {
            let addresses = port.facts.sources.iter();
            addresses.map(move |address| (*address, pod.clone()))
        });
        Reasons {
            tables: self.tables.clone(),
            flows: SharedFlowTable::clone(&self.connections.flows),
            rules: self.policing.compilers.cluster.names(),
            store: Arc::clone(&self.store),
            pods: pods.collect(),
            ports: self
                .ports
                .iter()
                .map(|(id, port)| (id, (port.facts.role, port.name())))
                .collect(),
            networks: self.other_networks(),
            affinity: AffinityTable::new(AFFINITIES),
        }
    }
}

impl Reasons {
    /// The pod that has an address: one of this node's ports, or one that an object tells of.
    pub(in crate::daemon) fn pod(&self, address: IpAddr) -> Option<String> {
        let known = || self.store.pod_by_ip(address).map(|pod| &pod.key);
        let pod = self.pods.get(&address).or_else(known);
        pod.map(ToString::to_string)
    }

    /// What the live tables say of a new connection.
    pub(super) fn judge(&self, query: &Query) -> Judgement {
        self.tables.policies.judge(query)
    }

    /// What a person calls a port.
    pub(super) fn port(&self, port: PortId) -> String {
        let known = self.ports.get(&port);
        known.map_or_else(|| format!("port {port}"), |(_, name)| name.clone())
    }

    /// What a person calls a network beside the cluster's own.
    pub(super) fn network(&self, network: NetworkId) -> String {
        let known = self.networks.get(&network);
        known.map_or_else(
            || format!("network {network}"),
            |other| format!("network {}", other.name),
        )
    }

    /// What the tables of a network say of a new connection there; `None` if it has none.
    fn judge_in(&self, network: NetworkId, query: &Query) -> Option<Judgement> {
        Some(self.tables.of(network)?.policies.judge(query))
    }

    /// The pod that has an address in a network.
    fn pod_in(&self, network: NetworkId, address: IpAddr) -> Option<String> {
        if network == NetworkId::CLUSTER {
            return self.pod(address);
        }
        let pod = self.networks.get(&network)?.pods.get(&address);
        pod.map(ToString::to_string)
    }

    /// A rule for a person.
    pub(in crate::daemon) fn rule(&self, rule: RuleId) -> String {
        self.rules.words(rule)
    }

    /// The rules that decide about a connection; `None` if none has anything to say.
    pub(in crate::daemon) fn of_connection<A: Address>(&self, connection: &Connection<A>) -> Option<String> {
        let network = connection.original.network;
        self.rulings(network, &self.judge_in(network, &opened(connection))?)
    }

    /// A rule of a network's policies for a person.
    pub(super) fn rule_in(&self, network: NetworkId, rule: RuleId) -> String {
        match self.networks.get(&network).and_then(|other| other.rules.as_ref()) {
            Some(rules) => rules.words(rule),
            None => self.rule(rule),
        }
    }

    fn rulings(&self, network: NetworkId, judgement: &Judgement) -> Option<String> {
        let words = |ruling: Ruling| match ruling {
            Ruling::Accept(rule) => Some(format!("allowed by {}", self.rule_in(network, rule))),
            Ruling::Deny(rule) => Some(format!("denied by {}", self.rule_in(network, rule))),
            Ruling::Elsewhere | Ruling::Node | Ruling::Itself | Ruling::NotIsolated => None,
        };
        let rulings: Vec<String> = [judgement.egress, judgement.ingress]
            .into_iter()
            .filter_map(words)
            .collect();
        (!rulings.is_empty()).then(|| rulings.join("; "))
    }

    /// What is to be said of a packet that was copied at `port`: both ends of its connection, and the rules that decide
    /// about it. `None` if it belongs to none, or if policies have changed since its verdict.
    pub(in crate::daemon) fn of_packet(
        &self,
        port: PortId,
        packet: &[u8],
        verdict: Option<&Verdict>,
    ) -> Option<String> {
        let role = self.ports.get(&port)?.0;
        let seen = seen(packet, &self.tables, port, role)?;
        let query = match (seen.source, seen.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.query(self.flows.v4(), source, destination, &seen, role)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.query(self.flows.v6(), source, destination, &seen, role)
            }
            _ => return None,
        };
        let judgement = self.judge_in(seen.network, &query)?;
        let is_denied = match verdict {
            Some(Verdict::Drop(DropReason::PolicyEgress | DropReason::PolicyIngress)) => true,
            Some(Verdict::Forward(_)) | None => false,
            Some(_) => return None,
        };
        if judgement.denied().is_some() != is_denied {
            return None;
        }
        let end = |address: IpAddr| match self.pod_in(seen.network, address) {
            Some(pod) => format!("{pod} ({address})"),
            None => address.to_string(),
        };
        let port = if query.protocol.has_ports() {
            format!(" port {}", query.port)
        } else {
            String::new()
        };
        let ends = format!("{} -> {}{port}", end(query.source), end(query.destination));
        Some(match self.rulings(seen.network, &judgement) {
            Some(rulings) => format!("{ends}, {rulings}"),
            None => ends,
        })
    }

    /// The connection that a packet belongs to, or would begin, as policies are asked about it.
    fn query<A: Address>(
        &self,
        flows: &FlowShard<A>,
        source: A,
        destination: A,
        seen: &Seen,
        role: Role,
    ) -> Query {
        let forth = Tuple {
            source,
            destination,
            protocol: seen.protocol,
            ports: seen.ports,
            network: seen.network,
        };
        let back = forth.reversed();
        // A packet that is sent goes the other way of the replies that are awaited.
        let known = flows.lookup(&forth).or_else(|| flows.lookup(&back));
        if let Some(connection) = known.and_then(|flow| flows.connection(flow.id)) {
            return opened(&connection);
        }
        let mut query = Query {
            source: seen.source,
            destination: seen.destination,
            protocol: seen.protocol,
            port: seen.ports.destination,
        };
        if seen.network != NetworkId::CLUSTER {
            return query;
        }
        let decision = self.tables.services.balance(
            &ServiceQuery {
                source: seen.source,
                destination: seen.destination,
                protocol: seen.protocol,
                source_port: seen.ports.source,
                destination_port: seen.ports.destination,
                caller: match role {
                    Role::Pod | Role::Segment => Caller::LocalPod,
                    Role::Host => Caller::Host,
                    Role::Uplink if seen.was_tunnelled => Caller::Peer,
                    Role::Uplink => Caller::External,
                },
                from_pods: role == Role::Pod || seen.was_tunnelled,
            },
            &self.affinity,
            Tick::from_seconds(1),
        );
        if let Decision::Backend(choice) = decision {
            (query.destination, query.port) = (choice.address, choice.port);
        }
        query
    }
}

/// A connection as policies are asked about it: before source NAT, after destination NAT.
fn opened<A: Address>(connection: &Connection<A>) -> Query {
    let protocol = connection.original.protocol;
    Query {
        source: connection.original.source.into(),
        destination: connection.reply.source.into(),
        protocol,
        port: if protocol.has_ports() {
            connection.reply.ports.source
        } else {
            0
        },
    }
}
