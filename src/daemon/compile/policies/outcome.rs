//! What policies came to, for people to read.

use std::collections::HashMap;

use millrace_dataplane::table::policy::Side;
use serde::Serialize;

use super::PolicyCompiler;
use super::made::rules_of;
use crate::admin::protocol::{PolicyRow, RuleRow};
use crate::objects::{PolicyPeer, PolicyRecord};

/// What policies take in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyMemory {
    /// The table for the workers.
    pub table: usize,
    /// What the compiler remembers beside it, about.
    pub compiler: usize,
    /// Rule sets in use.
    pub rule_sets: usize,
    /// Pods that policies can tell apart.
    pub identities: usize,
    /// Selectors in use.
    pub selectors: usize,
}

impl PolicyCompiler {
    /// Every policy of the network.
    #[must_use]
    pub fn rows(&self) -> Vec<PolicyRow> {
        let mut pods: HashMap<*const _, usize> = HashMap::new();
        for local in self.locals.values() {
            let keys = local.egress.iter().chain(&local.ingress);
            let policies = keys
                .filter_map(|key| self.sets.get(key))
                .flat_map(|made| made.policies());
            let mut selecting: Vec<_> = policies.map(std::sync::Arc::as_ptr).collect();
            selecting.sort_unstable();
            selecting.dedup();
            for policy in selecting {
                *pods.entry(policy).or_default() += 1;
            }
        }
        let network = self.network.as_ref().map(ToString::to_string);
        let rows = self.policies.all.values().map(|policy| PolicyRow {
            pods: pods
                .get(&std::sync::Arc::as_ptr(policy))
                .copied()
                .unwrap_or_default(),
            ..self.row(policy, network.clone())
        });
        rows.collect()
    }

    /// A policy, without the pods that it selects.
    pub(super) fn row(&self, policy: &PolicyRecord, network: Option<String>) -> PolicyRow {
        PolicyRow {
            policy: policy.key.to_string(),
            network,
            tier: policy.tier.to_string(),
            subject: policy.subject.to_string(),
            pods: 0,
            rules: [Side::Ingress, Side::Egress]
                .into_iter()
                .flat_map(|side| self.rule_rows(policy, side))
                .collect(),
        }
    }

    fn rule_rows(&self, policy: &PolicyRecord, side: Side) -> Vec<RuleRow> {
        let Some(rules) = rules_of(policy, side) else {
            return Vec::new();
        };
        let numbered = self.numbers.get(&policy.key, side);
        let connections = |place: Option<usize>| {
            let id = match place {
                Some(place) => numbered.and_then(|numbered| numbered.rules.get(place)),
                None => numbered.map(|numbered| &numbered.isolation),
            };
            let name = id.and_then(|id| Some((*id, self.numbers.name(*id)?)));
            name.map_or(0, |(id, name)| self.counts.of(id).wrapping_sub(name.counted_from))
        };
        let side = match side {
            Side::Ingress => "ingress",
            Side::Egress => "egress",
        };
        let mut rows: Vec<RuleRow> = rules
            .iter()
            .enumerate()
            .map(|(place, rule)| RuleRow {
                side: side.to_owned(),
                rule: Some(place),
                name: rule.name.clone(),
                action: format!("{:?}", rule.action),
                peers: peers(rule.peers.as_deref()),
                connections: connections(Some(place)),
            })
            .collect();
        if policy.isolates() {
            rows.push(RuleRow {
                side: side.to_owned(),
                rule: None,
                name: None,
                action: "Deny".to_owned(),
                peers: "everyone else".to_owned(),
                connections: connections(None),
            });
        }
        rows
    }

    /// What all of it takes.
    #[must_use]
    pub fn memory(&self) -> PolicyMemory {
        PolicyMemory {
            table: self.table.memory(),
            compiler: self.crowd.memory() + self.pods.capacity() * 160,
            rule_sets: self.sets.len(),
            identities: self.crowd.identities().count(),
            selectors: self.crowd.selectors(),
        }
    }
}

/// Whom a rule matches, for a person.
fn peers(peers: Option<&[PolicyPeer]>) -> String {
    let Some(peers) = peers else {
        return "everyone".to_owned();
    };
    if peers.is_empty() {
        return "no one".to_owned();
    }
    let words = peers.iter().map(|peer| match peer {
        PolicyPeer::Pods(selector) => selector.to_string(),
        PolicyPeer::Block { cidr, except } if except.is_empty() => cidr.to_string(),
        PolicyPeer::Block { cidr, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            format!("{cidr} but {}", except.join(" "))
        }
        PolicyPeer::Nodes(selector) => format!("nodes [{selector}]"),
    });
    words.collect::<Vec<_>>().join(", ")
}
