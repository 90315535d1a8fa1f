//! `millrace explain`: why a connection would be allowed or not.

mod denied;
mod destination;
mod frame;
mod manifests;
mod packet;
mod reasons;
mod routed;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::{Judgement, Query, Ruling};
use millrace_dataplane::table::service::{Caller, Decision, Query as ServiceQuery, ServiceTable};
use millrace_dataplane::table::{AffinityTable, HashKey, Target, Tick};
use millrace_dataplane::wire::IpProtocol;
use tokio::sync::{oneshot, watch};

use super::Daemon;
use super::answers::to_value;
use super::compile::policies::{LocalPort, PolicyCompiler, PolicyCompilers, PolicyInputs};
use crate::admin::protocol::{Explain, ExplainedStage, Explanation, Failure, Response};
use crate::admin::server::Answer;
use crate::dns::service::ResolverService;
use crate::objects::{NodeName, PodKey, PodRecord, Store};
use destination::{Towards, address_for, destination};
pub use manifests::explain_alone;
pub(super) use reasons::Reasons;

/// Policies, and who is told about them.
pub(super) struct Policing {
    /// What makes them.
    pub(super) compilers: PolicyCompilers,
    /// When someone last asked what is denied.
    denied_asked: Option<Instant>,
    /// For captures: what there is to be said, kept up to date while one runs.
    pub(super) reasons: watch::Sender<Option<Arc<Reasons>>>,
}

impl Policing {
    /// Without any policy yet.
    pub(super) fn new(key: HashKey, workers: usize) -> Self {
        Self {
            compilers: PolicyCompilers::new(key, workers),
            denied_asked: None,
            reasons: watch::Sender::new(None),
        }
    }
}

impl Daemon {
    /// Explains a connection, on a thread of its own: there may be many objects to look at.
    pub(super) fn explain(&self, ask: Explain, answer: oneshot::Sender<Answer>) {
        let (store, reasons, own) = (Arc::clone(&self.store), self.reasons(), self.own.name.clone());
        let config = self.config.services.clone();
        let resolver = ResolverService::of(&self.config.dns, &self.own);
        let look = move || {
            let explained = match &ask.manifests {
                None => explain(
                    &ask,
                    &Asked {
                        basis: None,
                        store: &store,
                        own: &own,
                        services: &reasons.tables.services,
                        live: Some(&reasons),
                    },
                ),
                Some(path) => manifests::read(path).and_then(|folder| {
                    let store = store.with(&folder);
                    let services = manifests::services(&store, &own, &config, resolver.as_ref());
                    let basis = format!("the objects of {}, laid over those in force", path.display());
                    let asked = Asked {
                        basis: Some(basis),
                        store: &store,
                        own: &own,
                        services: &services,
                        live: None,
                    };
                    explain(&ask, &asked)
                }),
            };
            let _ = answer.send(Answer::Once(match explained.and_then(to_value) {
                Ok(value) => Response::Ok(value),
                Err(failure) => Response::Error(failure),
            }));
        };
        // Without a thread the sender is dropped, and the client told that there is no answer.
        let _ = std::thread::Builder::new().name("explain".to_owned()).spawn(look);
    }

    /// Keeps up to date what running captures say of packets.
    pub(super) fn renew_reasons(&self) {
        if !self.policing.reasons.is_closed() {
            self.policing.reasons.send_replace(Some(Arc::new(self.reasons())));
        }
    }

    /// What there is to be said of packets, now and after every publication.
    pub(super) fn follow_reasons(&self) -> watch::Receiver<Option<Arc<Reasons>>> {
        let follower = self.policing.reasons.subscribe();
        self.renew_reasons();
        follower
    }
}

/// What an explanation rests on.
struct Asked<'a> {
    /// Whose objects these are, if they are not those in force.
    basis: Option<String>,
    store: &'a Store,
    own: &'a NodeName,
    services: &'a ServiceTable,
    /// The tables of this node, where they are what is asked about.
    live: Option<&'a Reasons>,
}

/// Explains a connection. This node's own pods are judged by its tables. Others are judged here too, as their nodes will
/// judge them: from the objects.
fn explain(ask: &Explain, asked: &Asked<'_>) -> Result<Explanation, Failure> {
    let protocol = protocol(&ask.protocol)?;
    let from = pod(asked.store, &ask.from)?;
    let (destination, name) = destination(asked.store, &ask.to, from)?;
    let source = address_for(from, destination.address)?;
    let mut judge = Judge {
        asked,
        policies: PolicyCompiler::new(HashKey::random(), 1),
        stages: Vec::new(),
    };
    if let Some(basis) = &asked.basis {
        judge.say("objects", basis.clone());
        for refusal in asked.store.refusals() {
            judge.say("refused", refusal.to_string());
        }
    }
    judge.say(
        "connection",
        format!("{} ({source}) to {name}, {}", from.key, ask.protocol),
    );
    let targets = judge.balance(source, &destination, protocol, is_local(from, asked.own));
    let Some(targets) = targets else {
        return Ok(judge.finish(false));
    };
    let mut pods: Vec<&PodRecord> = targets
        .iter()
        .filter_map(|target| asked.store.pod_by_ip(target.address))
        .collect();
    pods.push(from);
    judge.compile(&pods, from);
    let mut allowed = !targets.is_empty();
    for target in &targets {
        allowed &= judge.police(source, from, target, protocol);
        allowed &= judge.route(target, from);
    }
    Ok(judge.finish(allowed))
}

/// Everything that answers.
struct Judge<'a> {
    asked: &'a Asked<'a>,
    policies: PolicyCompiler,
    stages: Vec<ExplainedStage>,
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
        let services = self.asked.services;
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
            Decision::Backend(_) => {
                let backends = services.eligible(&query).iter();
                let targets: Vec<Towards> = backends
                    .map(|backend| Towards {
                        address: backend.address,
                        port: backend.port,
                    })
                    .collect();
                let service = service_at(self.asked.store, to)
                    .map_or_else(|| "a Service".to_owned(), |service| format!("Service {service}"));
                let number = match targets.len() {
                    1 => "1 backend".to_owned(),
                    number => format!("{number} backends"),
                };
                self.say("balance", format!("{service} with {number}"));
                Some(targets)
            }
        }
    }

    /// Compiles the policies of these pods, wherever they are.
    fn compile(&mut self, pods: &[&PodRecord], from: &PodRecord) {
        let mut ports: BTreeMap<&PodKey, LocalPort> = BTreeMap::new();
        for (pod, id) in pods.iter().zip((1..PortId::LIMIT).filter_map(PortId::new)) {
            ports.entry(&pod.key).or_insert_with(|| LocalPort {
                id,
                pod: pod.key.clone(),
                addresses: pod.ips.clone(),
            });
        }
        let ports: Vec<LocalPort> = ports.into_values().collect();
        // What is not a pod and is called can be the caller's own node, which its policies do not keep it from.
        let node = from
            .node_name
            .as_ref()
            .and_then(|name| self.asked.store.node(name));
        let node_addresses = node.map(manifests::addresses_of).unwrap_or_default();
        self.policies.update(&PolicyInputs {
            store: self.asked.store,
            ports: &ports,
            node_addresses: &node_addresses,
        });
    }

    /// Whether the policies of both ends allow it.
    fn police(&mut self, source: IpAddr, from: &PodRecord, target: &Towards, protocol: IpProtocol) -> bool {
        let query = Query {
            source,
            destination: target.address,
            protocol,
            port: target.port,
        };
        let compiled = self.policies.table().judge(&query);
        let live = self.asked.live.map(|live| live.judge(&query));
        // Of what is another node's, this one's tables say nothing.
        let choose = |side: fn(&Judgement) -> Ruling| match live.as_ref().map(side) {
            Some(ruling) if ruling != Ruling::Elsewhere => (ruling, true),
            _ => (side(&compiled), false),
        };
        let (egress, ingress) = (choose(|both| both.egress), choose(|both| both.ingress));
        let to = self.asked.store.pod_by_ip(target.address);
        let name = to.map_or_else(|| target.address.to_string(), |pod| pod.key.to_string());
        let port = if protocol.has_ports() {
            format!(" port {}", target.port)
        } else {
            String::new()
        };
        let (egress_words, ingress_words) = (self.words(egress), self.words(ingress));
        self.say("egress", format!("{}: {egress_words}", from.key));
        self.say("ingress", format!("{name}{port}: {ingress_words}"));
        let judgement = Judgement {
            egress: egress.0,
            ingress: ingress.0,
        };
        judgement.denied().is_none()
    }

    fn words(&self, (ruling, is_live): (Ruling, bool)) -> String {
        let rule = |rule| match self.asked.live {
            Some(live) if is_live => live.rule(rule),
            _ => self.policies.names().words(rule),
        };
        match ruling {
            Ruling::Elsewhere => "it is no pod, no policy protects it".to_owned(),
            Ruling::Node => "always allowed between a pod and its node".to_owned(),
            Ruling::Itself => "always allowed, it is the pod itself".to_owned(),
            Ruling::NotIsolated => "allowed, no policy isolates it".to_owned(),
            Ruling::Accept(id) => format!("allowed by {}", rule(id)),
            Ruling::Deny(id) => format!("denied by {}", rule(id)),
        }
    }

    /// The way there, as far as this node knows it, and whether there is one.
    fn route(&mut self, target: &Towards, from: &PodRecord) -> bool {
        if !is_local(from, self.asked.own) {
            return true;
        }
        let Some(live) = self.asked.live else {
            let to = self.asked.store.pod_by_ip(target.address);
            if let Some(node) = to.and_then(|pod| pod.node_name.as_ref()) {
                self.say("route", format!("{}: on {node}", target.address));
            }
            return true;
        };
        let route = live.tables.routes.lookup(target.address);
        let way = match route {
            Some(Target::Port(port)) => format!("to {} of this node", live.port(port)),
            Some(Target::Tunnel(_)) => "through the tunnel to its node".to_owned(),
            Some(Target::Via { next_hop, .. }) => format!("to the router {next_hop}"),
            Some(Target::OnLink { .. }) => "to a neighbour on the uplink".to_owned(),
            Some(Target::Spread(_)) => "by one of several ways, as its flow falls".to_owned(),
            Some(Target::Switch) => "to the switch itself".to_owned(),
            Some(Target::Network(network)) => format!("into {}", live.network(network)),
            Some(Target::Blackhole) => "nowhere, silently".to_owned(),
            Some(Target::Unreachable) | None => "nowhere, the sender is told".to_owned(),
        };
        self.say("route", format!("{}: {way}", target.address));
        !matches!(route, Some(Target::Blackhole | Target::Unreachable) | None)
    }
}

/// The Service that has an address and port, or a node port.
fn service_at<'s>(store: &'s Store, to: &Towards) -> Option<&'s crate::objects::ServiceKey> {
    let has = |addresses: &[IpAddr]| addresses.contains(&to.address);
    let records = || store.services().iter().map(|entry| &entry.record);
    let by_address = records().find(|record| {
        has(&record.cluster_ips) || has(&record.external_ips) || has(&record.load_balancer_ips)
    });
    let by_node_port = || {
        let is_it = |port: &crate::objects::ServicePort| port.node_port == Some(to.port);
        records().find(|record| record.ports.iter().any(is_it))
    };
    by_address.or_else(by_node_port).map(|record| &record.key)
}

fn is_local(pod: &PodRecord, own: &NodeName) -> bool {
    pod.node_name.as_ref() == Some(own)
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
