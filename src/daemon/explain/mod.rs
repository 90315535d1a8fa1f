//! `millrace explain`: why a connection would be allowed or not.

mod denied;
mod destination;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::{Query, RuleId, Ruling};
use millrace_dataplane::table::service::{
    Caller, Decision, FrontendKey, Query as ServiceQuery, ServiceTable,
};
use millrace_dataplane::table::{AffinityTable, HashKey, NodeTables, Target, Tick};
use millrace_dataplane::wire::IpProtocol;
use tokio::sync::oneshot;

use super::Daemon;
use super::answers::to_value;
use super::compile::policies::{LocalPort, PolicyCompiler, PolicyInputs};
use crate::admin::protocol::{Explain, ExplainedStage, Explanation, Failure, Response};
use crate::admin::server::Answer;
use crate::objects::{Folder, NodeName, PodKey, PodRecord, Store};
use destination::{Towards, address_for, destination};

impl Daemon {
    /// Explains a connection, on a thread of its own: there may be many objects to look at.
    pub(super) fn explain(&self, ask: Explain, answer: oneshot::Sender<Answer>) {
        let (store, tables, own) = (
            Arc::clone(&self.store),
            self.tables.clone(),
            self.own.name.clone(),
        );
        let addresses = self.node_addresses();
        let look = move || {
            let explained = explain(&ask, store, &tables, &own, &addresses).and_then(to_value);
            let _ = answer.send(Answer::Once(match explained {
                Ok(value) => Response::Ok(value),
                Err(failure) => Response::Error(failure),
            }));
        };
        // Without a thread the sender is dropped, and the client told that there is no answer.
        let _ = std::thread::Builder::new().name("explain".to_owned()).spawn(look);
    }

    /// What pods know this node by.
    fn node_addresses(&self) -> Vec<IpAddr> {
        let stations = self.tables.policies.stations();
        let of_node = |station: &_| matches!(station, millrace_dataplane::table::policy::Station::Node);
        let nodes = stations.iter().filter(|(_, station)| of_node(station));
        nodes.map(|(address, _)| *address).collect()
    }
}

/// A rule for a person.
fn rule_name(policies: &PolicyCompiler, rule: RuleId) -> String {
    if rule == RuleId::UNKNOWN_POD {
        return "there is no object of the pod yet, or its rules cannot be compiled".to_owned();
    }
    policies
        .name(rule)
        .map_or_else(|| "a policy that is gone".to_owned(), ToString::to_string)
}

/// Everything that answers.
struct Judge<'a> {
    store: &'a Store,
    tables: &'a NodeTables,
    policies: PolicyCompiler,
    stages: Vec<ExplainedStage>,
}

/// Explains a connection. Policies are compiled for both its ends here, also where an end is another node's: what that
/// node will say is said too.
fn explain(
    ask: &Explain,
    live: Arc<Store>,
    tables: &NodeTables,
    own: &NodeName,
    node_addresses: &[IpAddr],
) -> Result<Explanation, Failure> {
    let store = match &ask.manifests {
        Some(folder) => Arc::new(read_folder(folder, own)?),
        None => live,
    };
    let protocol = protocol(&ask.protocol)?;
    let from = pod(&store, &ask.from)?;
    let (destination, name) = destination(&store, &ask.to, from)?;
    let source = address_for(from, destination.address)?;
    let to = store.pod_by_ip(destination.address);
    let mut judge = Judge {
        store: &store,
        tables,
        policies: PolicyCompiler::new(HashKey::random(), 1),
        stages: Vec::new(),
    };
    judge.say(
        "connection",
        format!("{} ({source}) to {name}, {}", from.key, ask.protocol),
    );
    let targets = judge.balance(source, &destination, protocol, is_local(from, own));
    let Some(targets) = targets else {
        return Ok(judge.finish(false));
    };
    let mut pods: Vec<&PodRecord> = targets
        .iter()
        .filter_map(|target| store.pod_by_ip(target.address))
        .collect();
    pods.extend(to);
    pods.push(from);
    judge.compile(&pods, own, node_addresses);
    let mut allowed = !targets.is_empty();
    for target in &targets {
        allowed &= judge.police(source, from, target, protocol);
        judge.route(target, from, own);
    }
    Ok(judge.finish(allowed))
}

impl Judge<'_> {
    fn say(&mut self, stage: &str, answer: String) {
        self.stages.push(ExplainedStage {
            stage: stage.to_owned(),
            answer,
        });
    }

    fn finish(self, allowed: bool) -> Explanation {
        Explanation {
            allowed,
            stages: self.stages,
        }
    }

    /// Where it would go; `None` if it ends here.
    fn balance(
        &mut self,
        source: IpAddr,
        to: &Towards,
        protocol: IpProtocol,
        is_local: bool,
    ) -> Option<Vec<Towards>> {
        let services: &ServiceTable = &self.tables.services;
        let query = ServiceQuery {
            source,
            destination: to.address,
            protocol,
            source_port: 0,
            destination_port: to.port,
            caller: if is_local { Caller::LocalPod } else { Caller::Peer },
            from_pods: true,
        };
        let unchanged = Towards {
            address: to.address,
            port: to.port,
        };
        match services.balance(&query, &AffinityTable::new(16), Tick::from_seconds(1)) {
            Decision::NotAService => {
                self.say("balance", "no Service has this address".to_owned());
                Some(vec![unchanged])
            }
            Decision::Drop(reason) => {
                self.say("balance", format!("dropped: {}", reason.meaning()));
                None
            }
            Decision::Reject => {
                self.say(
                    "balance",
                    "refused: the Service has no endpoint, or no such port".to_owned(),
                );
                None
            }
            Decision::Backend(choice) => {
                let frontend = services.get(&FrontendKey::Address(to.address, protocol, to.port));
                let set = frontend.map(|frontend| &frontend.service.cluster);
                let mut targets: Vec<Towards> = set
                    .into_iter()
                    .flat_map(|set| set.backends())
                    .map(|backend| Towards {
                        address: backend.address,
                        port: backend.port,
                    })
                    .collect();
                if targets.is_empty() {
                    targets.push(Towards {
                        address: choice.address,
                        port: choice.port,
                    });
                }
                self.say("balance", format!("a Service with {} backends", targets.len()));
                Some(targets)
            }
        }
    }

    /// Compiles the policies of these pods, wherever they are.
    fn compile(&mut self, pods: &[&PodRecord], own: &NodeName, node_addresses: &[IpAddr]) {
        let mut ports: BTreeMap<&PodKey, LocalPort> = BTreeMap::new();
        for (pod, id) in pods.iter().zip((1..PortId::LIMIT).filter_map(PortId::new)) {
            ports.entry(&pod.key).or_insert_with(|| LocalPort {
                id,
                pod: pod.key.clone(),
                addresses: pod.ips.clone(),
            });
        }
        let ports: Vec<LocalPort> = ports.into_values().collect();
        // Another node's pods know that node, not this one.
        let is_here = pods.iter().any(|pod| is_local(pod, own));
        self.policies.update(&PolicyInputs {
            store: self.store,
            ports: &ports,
            node_addresses: if is_here { node_addresses } else { &[] },
        });
    }

    /// Whether the policies of both ends allow it.
    fn police(&mut self, source: IpAddr, from: &PodRecord, target: &Towards, protocol: IpProtocol) -> bool {
        let judgement = self.policies.table().judge(&Query {
            source,
            destination: target.address,
            protocol,
            port: target.port,
        });
        let to = self.store.pod_by_ip(target.address);
        let name = to.map_or_else(|| target.address.to_string(), |pod| pod.key.to_string());
        let egress = self.words(judgement.egress);
        self.say("egress", format!("{}: {egress}", from.key));
        let ingress = self.words(judgement.ingress);
        self.say("ingress", format!("{name} port {}: {ingress}", target.port));
        judgement.denied().is_none()
    }

    fn words(&self, ruling: Ruling) -> String {
        match ruling {
            Ruling::Elsewhere => "it is no pod, no policy protects it".to_owned(),
            Ruling::Node => "always allowed between a pod and its node".to_owned(),
            Ruling::Itself => "always allowed, it is the pod itself".to_owned(),
            Ruling::NotIsolated => "allowed, no policy isolates it".to_owned(),
            Ruling::Accept(rule) => format!("allowed by {}", rule_name(&self.policies, rule)),
            Ruling::Deny(rule) => format!("denied by {}", rule_name(&self.policies, rule)),
        }
    }

    /// The way there, as far as this node knows it.
    fn route(&mut self, target: &Towards, from: &PodRecord, own: &NodeName) {
        if !is_local(from, own) {
            return;
        }
        let way = match self.tables.routes.lookup(target.address) {
            Some(Target::Port(port)) => format!("to port {port} of this node"),
            Some(Target::Tunnel(_)) => "through the tunnel to its node".to_owned(),
            Some(Target::Via { next_hop, .. }) => format!("to the router {next_hop}"),
            Some(Target::OnLink { .. }) => "to a neighbour on the uplink".to_owned(),
            Some(Target::Switch) => "to the switch itself".to_owned(),
            Some(Target::Blackhole) => "nowhere, silently".to_owned(),
            Some(Target::Unreachable) | None => "nowhere, the sender is told".to_owned(),
        };
        self.say("route", format!("{}: {way}", target.address));
    }
}

fn is_local(pod: &PodRecord, own: &NodeName) -> bool {
    pod.node_name.as_ref() == Some(own)
}

fn read_folder(path: &Path, own: &NodeName) -> Result<Store, Failure> {
    if !path.is_dir() {
        return Err(Failure::wrong(format!(
            "{} is no folder of manifests",
            path.display()
        )));
    }
    let mut folder = Folder::new(path);
    folder.scan();
    Ok(folder.store(own, &[]))
}

fn protocol(name: &str) -> Result<IpProtocol, Failure> {
    match name {
        "tcp" => Ok(IpProtocol::TCP),
        "udp" => Ok(IpProtocol::UDP),
        "sctp" => Ok(IpProtocol::SCTP),
        "icmp" => Ok(IpProtocol::ICMP),
        _ => Err(Failure::wrong(format!("{name} is none of tcp, udp, sctp, icmp"))),
    }
}

fn pod<'s>(store: &'s Store, name: &str) -> Result<&'s PodRecord, Failure> {
    let key: PodKey = name.parse().map_err(|error| Failure::wrong(format!("{error}")))?;
    let pod = store
        .pod(&key)
        .filter(|pod| !pod.host_network && !pod.ips.is_empty());
    pod.ok_or_else(|| {
        Failure::wrong(format!(
            "there is no Pod {name} with an address of its own among the objects"
        ))
    })
}
