//! The numbers of rules, and what they stand for.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use millrace_dataplane::table::policy::{PolicyCounts, RuleId, Side};
use serde::Serialize;

use crate::objects::{PolicyKey, PolicyRecord, PolicyRule};

/// What a rule's number stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleName {
    /// The policy.
    pub policy: PolicyKey,
    /// Which of its lists.
    pub side: Side,
    /// The place of the rule in that list, from 0; `None` for the isolation of pods, which forbids what no rule allows.
    pub rule: Option<usize>,
    /// The rule's own name, where it has one.
    pub name: Option<String>,
    /// What its counter stood at when the number came into use.
    #[serde(skip)]
    pub(super) counted_from: u64,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Egress => "egress",
            Side::Ingress => "ingress",
        };
        write!(f, "{}", self.policy)?;
        match (self.rule, &self.name) {
            (Some(rule), Some(name)) => write!(f, ", {side} rule {rule} ({name})"),
            (Some(rule), None) => write!(f, ", {side} rule {rule}"),
            (None, _) => write!(f, ", which isolates the pod for {side}"),
        }
    }
}

/// What all numbers stand for at one moment, to be kept beside the tables of that moment.
#[derive(Debug, Clone, Default)]
pub struct RuleNames(Arc<Names>);

/// By number.
type Names = Vec<Option<Arc<RuleName>>>;

impl RuleNames {
    /// A rule for a person.
    #[must_use]
    pub fn words(&self, rule: RuleId) -> String {
        if rule == RuleId::UNKNOWN_POD {
            return "there is no object of the pod yet, or its rules cannot be compiled".to_owned();
        }
        let name = self.0.get(rule.get() as usize).and_then(Option::as_ref);
        name.map_or_else(|| "a policy that is gone".to_owned(), ToString::to_string)
    }
}

/// The numbers of one policy's rules for one direction.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub(super) rules: Vec<RuleId>,
    pub(super) isolation: RuleId,
}

/// All rules that have a number. A policy keeps its numbers as long as there is a policy of that name.
#[derive(Debug, Default)]
pub(super) struct RuleNumbers {
    /// Copied only while someone keeps those of an earlier moment.
    names: Arc<Names>,
    free: BTreeSet<u32>,
    policies: HashMap<(PolicyKey, Side), Numbered>,
}

impl RuleNumbers {
    /// The numbers of a policy's rules for one direction: the ones they had, or new ones.
    pub(super) fn of(
        &mut self,
        policy: &PolicyRecord,
        side: Side,
        rules: &[PolicyRule],
        counts: &PolicyCounts,
    ) -> Numbered {
        let name = |rule| RuleName {
            policy: policy.key.clone(),
            side,
            rule,
            name: None,
            counted_from: 0,
        };
        let key = (policy.key.clone(), side);
        let mut numbered = match self.policies.remove(&key) {
            Some(numbered) => numbered,
            None => Numbered {
                rules: Vec::new(),
                isolation: self.take(name(None), counts),
            },
        };
        for (place, rule) in rules.iter().enumerate() {
            if numbered.rules.len() == place {
                numbered.rules.push(self.take(name(Some(place)), counts));
            }
            if let Some(id) = numbered.rules.get(place) {
                self.rename(*id, rule.name.as_ref());
            }
        }
        self.policies.insert(key, numbered.clone());
        numbered
    }

    /// Takes back the numbers of a policy that is gone.
    pub(super) fn forget(&mut self, policy: &PolicyKey) {
        for side in [Side::Egress, Side::Ingress] {
            let Some(numbered) = self.policies.remove(&(policy.clone(), side)) else {
                continue;
            };
            for id in numbered.rules.iter().chain([&numbered.isolation]) {
                if let Some(name) = Arc::make_mut(&mut self.names).get_mut(id.get() as usize) {
                    *name = None;
                }
                self.free.insert(id.get());
            }
        }
    }

    /// What a number stands for.
    pub(super) fn name(&self, rule: RuleId) -> Option<&RuleName> {
        self.names.get(rule.get() as usize)?.as_deref()
    }

    /// What all numbers stand for now.
    pub(super) fn names(&self) -> RuleNames {
        RuleNames(Arc::clone(&self.names))
    }

    /// Gives a rule the name that it has by now.
    fn rename(&mut self, id: RuleId, name: Option<&String>) {
        if self.name(id).is_none_or(|known| known.name.as_ref() == name) {
            return;
        }
        let slot = Arc::make_mut(&mut self.names).get_mut(id.get() as usize);
        if let Some(Some(known)) = slot {
            Arc::make_mut(known).name = name.cloned();
        }
    }

    /// The numbers of a policy's rules for one direction, if they have any.
    pub(super) fn get(&self, policy: &PolicyKey, side: Side) -> Option<&Numbered> {
        self.policies.get(&(policy.clone(), side))
    }

    /// The first number that nobody has had yet.
    pub(super) fn end(&self) -> usize {
        self.names.len().max(1)
    }

    fn take(&mut self, mut name: RuleName, counts: &PolicyCounts) -> RuleId {
        let names = Arc::make_mut(&mut self.names);
        if names.is_empty() {
            // Number 0 is RuleId::UNKNOWN_POD.
            names.push(None);
        }
        let number = self.free.pop_first().unwrap_or_else(|| {
            names.push(None);
            // INVARIANT: rules are bounded by the manifests, far below 2^32.
            #[allow(clippy::cast_possible_truncation)]
            let last = (names.len() - 1) as u32;
            last
        });
        let id = RuleId::new(number);
        name.counted_from = counts.of(id);
        if let Some(slot) = names.get_mut(number as usize) {
            *slot = Some(Arc::new(name));
        }
        id
    }
}
