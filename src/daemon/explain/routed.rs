//! `millrace explain --network`: whether a packet of a routed network would arrive.

use std::net::IpAddr;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::{Query, RuleId, Ruling, Side};
use millrace_dataplane::table::{NetworkId, NodeTables, PeerId, Target};
use millrace_dataplane::verdict::DropReason;

use super::protocol;
use crate::admin::protocol::{ExplainPacket, ExplainedStage, Explanation, Failure};
use crate::daemon::Daemon;
use crate::daemon::flows::Names;

impl Daemon {
    /// Explains a packet, by the tables in force.
    pub(in crate::daemon) fn explain_packet(&self, ask: &ExplainPacket) -> Result<Explanation, Failure> {
        let mut all = self.networks.networks.iter();
        let served = all.find(|served| served.record.key.to_string() == ask.network);
        let served = served.ok_or_else(|| {
            Failure::wrong(format!(
                "there is no network {}; `millrace show networks` has all of them",
                ask.network
            ))
        })?;
        if served.record.routing().is_none() {
            return Err(Failure::wrong(format!(
                "{} is a bridged network, where frames go by MAC addresses: --from MAC --to MAC",
                ask.network
            )));
        }
        if let Some(fault) = &served.fault {
            return Err(Failure::failed(format!("{} is not served: {fault}", ask.network)));
        }
        let query = Query {
            source: ask.from,
            destination: ask.to,
            protocol: protocol(&ask.protocol)?,
            port: ask.port.unwrap_or_default(),
        };
        if query.source.is_ipv4() != query.destination.is_ipv4() {
            return Err(Failure::wrong(format!(
                "{} and {} are of two families",
                ask.from, ask.to
            )));
        }
        let tables = served.id.and_then(|id| self.tables.of(id));
        let tables = tables.ok_or_else(|| Failure::failed(format!("{} is not served yet", ask.network)))?;
        let reasons = self.reasons();
        let view = View {
            top: &self.tables,
            names: &self.names(),
            rule: &|network, rule| reasons.rule_in(network, rule),
        };
        Ok(view.explain(tables, &query))
    }
}

/// What an explanation rests on.
struct View<'a> {
    top: &'a NodeTables,
    names: &'a Names,
    /// A rule of a network's policies for a person.
    rule: &'a dyn Fn(NetworkId, RuleId) -> String,
}

impl View<'_> {
    fn explain(&self, tables: &NodeTables, query: &Query) -> Explanation {
        let mut stages = vec![said("from", self.from(tables, query.source))];
        let allowed = self.walk(tables, query, None, &mut stages);
        Explanation { allowed, stages }
    }

    /// Policy and route in one network, and in the next one if the route leads there; whether the packet goes on.
    fn walk(
        &self,
        tables: &NodeTables,
        query: &Query,
        came_from: Option<NetworkId>,
        stages: &mut Vec<ExplainedStage>,
    ) -> bool {
        let network = self.network(tables.network);
        let judgement = tables.policies.judge(query);
        for (stage, ruling) in [("egress", judgement.egress), ("ingress", judgement.ingress)] {
            // Of what is another node's, or another network's, this network's tables say nothing.
            if ruling != Ruling::Elsewhere {
                let words = self.words(tables.network, ruling);
                stages.push(said(stage, format!("{network}: {words}")));
            }
        }
        if let Some((side, _)) = judgement.denied() {
            let reason = match side {
                Side::Egress => DropReason::PolicyEgress,
                Side::Ingress => DropReason::PolicyIngress,
            };
            return drop(reason, stages);
        }
        let target = tables.routes.lookup(query.destination);
        let (way, end) = match target {
            Some(Target::Port(port)) => (format!("to {}", self.port(port)), true),
            Some(Target::Tunnel(peer)) => self.tunnel(tables, peer),
            Some(Target::Switch) => ("to the switch itself".to_owned(), true),
            Some(Target::Via { next_hop, .. }) => (format!("to the router {next_hop}"), true),
            Some(Target::OnLink { .. }) => ("to a neighbour on the uplink".to_owned(), true),
            Some(Target::Spread(_)) => ("by one of several ways, as its flow falls".to_owned(), true),
            Some(Target::Blackhole) => ("nowhere, silently".to_owned(), false),
            Some(Target::Unreachable) | None => ("nowhere, the sender is told".to_owned(), false),
            Some(Target::Network(next)) => {
                let way = format!("{network}: {} into {}", query.destination, self.network(next));
                stages.push(said("route", way));
                return match self.top.of(next) {
                    Some(_) if came_from.is_some() => drop(DropReason::NetworkTransit, stages),
                    Some(next) => self.walk(next, query, Some(tables.network), stages),
                    None => drop(DropReason::NoRoute, stages),
                };
            }
        };
        stages.push(said("route", format!("{network}: {} {way}", query.destination)));
        end
    }

    fn tunnel(&self, tables: &NodeTables, peer: PeerId) -> (String, bool) {
        let names = if tables.network == NetworkId::CLUSTER {
            &self.names.peers
        } else {
            &self.names.remotes
        };
        let name = names
            .get(&peer)
            .cloned()
            .unwrap_or_else(|| format!("peer {peer}"));
        let is_ready = tables.peers.get(peer).is_some_and(|peer| peer.outer.is_some());
        let rest = if is_ready {
            "whose tables say what becomes of it"
        } else {
            "which does not answer on the underlay"
        };
        (format!("through the tunnel to {name}, {rest}"), is_ready)
    }

    /// Who would send it.
    fn from(&self, tables: &NodeTables, source: IpAddr) -> String {
        match tables.routes.lookup(source) {
            Some(Target::Port(port)) => format!("{source}: {}", self.port(port)),
            Some(Target::Tunnel(peer)) => {
                let name = self.names.remotes.get(&peer).cloned();
                let name = name.unwrap_or_else(|| format!("peer {peer}"));
                format!("{source}: behind {name}, whose tables have judged it before")
            }
            Some(Target::Switch) => format!("{source}: the switch itself"),
            _ => format!("{source}: behind no port and no node of this network"),
        }
    }

    fn words(&self, network: NetworkId, ruling: Ruling) -> String {
        match ruling {
            Ruling::Elsewhere => "it is no pod, no policy protects it".to_owned(),
            Ruling::Node => "always allowed between a pod and its node".to_owned(),
            Ruling::Itself => "always allowed, it is the pod itself".to_owned(),
            Ruling::NotIsolated => "allowed, no policy isolates it".to_owned(),
            Ruling::Accept(rule) => format!("allowed by {}", (self.rule)(network, rule)),
            Ruling::Deny(rule) => format!("denied by {}", (self.rule)(network, rule)),
        }
    }

    fn port(&self, port: PortId) -> String {
        let name = self.names.ports.get(&port).cloned();
        name.unwrap_or_else(|| format!("port {port}"))
    }

    fn network(&self, network: NetworkId) -> String {
        if network == NetworkId::CLUSTER {
            return "the cluster's own network".to_owned();
        }
        let name = self.names.networks.get(&network).cloned();
        name.unwrap_or_else(|| format!("network {network}"))
    }
}

/// Says why it ends here.
fn drop(reason: DropReason, stages: &mut Vec<ExplainedStage>) -> bool {
    stages.push(said("dropped", format!("{reason}: {}", reason.meaning())));
    false
}

fn said(stage: &str, answer: String) -> ExplainedStage {
    ExplainedStage {
        stage: stage.to_owned(),
        answer,
    }
}

#[cfg(test)]
#[path = "routed_tests.rs"]
mod tests;
