//! Policies: which of this node's pods may talk with whom, and which rule says so.
//!
//! The table is made for the pods of one node. Each has at most one [`RuleSet`] per direction, with the rules of every
//! policy that selects it and no others, in the order in which they count. An address is first looked up among all
//! stations: a pod's gives its [`Identity`], which all pods share that no policy tells apart. In a rule set, identity,
//! address and port each lead to a row of bits, one bit a rule; the first bit that is set in all of them is the rule that
//! decides. So a judgement costs three searches in sorted lists and a walk over words, whoever sends what: nothing is
//! tried one by one, nothing is remembered, and no sender can make it slower.
//!
//! What the numbers of rules stand for, only the control plane knows.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::{HashKey, SubjectId, SubjectKind};
use crate::port::PortId;
use crate::wire::IpProtocol;

mod counts;
mod denied;
mod matching;
mod ranges;
mod rows;
mod set;
#[cfg(test)]
mod tests;

pub use counts::PolicyCounts;
pub use denied::{Denied, DeniedLog};
pub use rows::RuleBits;
pub use set::{AddressRange, Peer, PeerChange, PortRange, Rule, RuleSet, RuleSpec, Tier, TooManyRules};

/// The number of a rule, or of a policy's isolation of a pod: what nothing allows ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RuleId(u32);

impl RuleId {
    /// What keeps a pod cut off of which nothing is known but that policies may select it.
    pub const UNKNOWN_POD: Self = Self(0);

    /// Rule `number`, from 1.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Stations that no policy tells apart have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(u32);

impl Identity {
    /// Identity `number`.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Allows it.
    Accept,
    /// Drops it.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// Which way, as seen from the pod whose policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// From the pod.
    Egress,
    /// To the pod.
    Ingress,
}

/// What one pod's policies of one direction say of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// That end is no pod of this node; its own node judges it.
    Elsewhere,
    /// The other end is this node itself, whose traffic with its pods is always allowed.
    Node,
    /// Both ends are one pod, which cannot block itself.
    Itself,
    /// No rule says anything.
    NotIsolated,
    /// A rule allows it.
    Accept(RuleId),
    /// A rule, or the isolation of the pod, forbids it.
    Deny(RuleId),
}

impl Ruling {
    /// The rule that decided, if one did.
    #[inline]
    #[must_use]
    pub const fn rule(self) -> Option<RuleId> {
        match self {
            Self::Accept(rule) | Self::Deny(rule) => Some(rule),
            Self::Elsewhere | Self::Node | Self::Itself | Self::NotIsolated => None,
        }
    }
}

/// What is asked: the first packet of a connection, before source NAT and after destination NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Who opens the connection.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The protocol.
    pub protocol: IpProtocol,
    /// The port to which it goes; means nothing for protocols without ports.
    pub port: u16,
}

/// What the policies of both ends say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Judgement {
    /// Those of the one who opens the connection.
    pub egress: Ruling,
    /// Those of the one to whom it goes.
    pub ingress: Ruling,
}

impl Judgement {
    /// Which side forbids it, and by which rule; `None` if it is allowed.
    #[inline]
    #[must_use]
    pub const fn denied(&self) -> Option<(Side, RuleId)> {
        match (self.egress, self.ingress) {
            (Ruling::Deny(rule), _) => Some((Side::Egress, rule)),
            (_, Ruling::Deny(rule)) => Some((Side::Ingress, rule)),
            _ => None,
        }
    }
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Station {
    /// This node itself.
    Node,
    /// A pod of any node.
    Pod {
        /// What policies know it as; `None` for one of which nothing is known.
        identity: Option<Identity>,
        /// Its port, if it is a pod of this node.
        port: Option<PortId>,
    },
}

/// The policies of one of this node's pods.
#[derive(Debug, Clone, Default)]
pub struct PodPolicies {
    /// Rules for what it sends; `None` if no policy isolates it or says anything.
    pub egress: Option<Arc<RuleSet>>,
    /// Rules for what it is sent.
    pub ingress: Option<Arc<RuleSet>>,
    /// Nothing is known of the pod, and policies may select it: nothing passes.
    pub is_closed: bool,
}

impl PodPolicies {
    /// Whether nothing is said about the pod.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.egress.is_none() && self.ingress.is_none() && !self.is_closed
    }

    /// Whether both are the very same rule sets.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<RuleSet>>, b: &Option<Arc<RuleSet>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same(&self.egress, &other.egress)
            && same(&self.ingress, &other.ingress)
            && self.is_closed == other.is_closed
    }
}

/// Everyone's address.
pub type Stations = HashMap<IpAddr, Station, HashKey>;

/// The policies of a node's pods.
#[derive(Clone)]
pub struct PolicyTable {
    stations: Arc<Stations>,
    /// By [`PortId::index`].
    pods: Vec<Option<PodPolicies>>,
    is_open: bool,
    counts: Arc<PolicyCounts>,
    denied: Arc<DeniedLog>,
}

impl PolicyTable {
    /// Builds the table.
    #[must_use]
    pub fn build(
        stations: Arc<Stations>,
        pods: impl IntoIterator<Item = (PortId, PodPolicies)>,
        counts: Arc<PolicyCounts>,
        denied: Arc<DeniedLog>,
    ) -> Self {
        let mut by_port = Vec::new();
        for (port, policies) in pods {
            if by_port.len() <= port.index() {
                by_port.resize(port.index() + 1, None);
            }
            by_port[port.index()] = Some(policies);
        }
        Self {
            stations,
            is_open: by_port.iter().flatten().all(PodPolicies::is_open),
            pods: by_port,
            counts,
            denied,
        }
    }

    /// What the policies of both ends say of a new connection.
    #[inline]
    #[must_use]
    pub fn judge(&self, query: &Query) -> Judgement {
        let source = self.stations.get(&query.source);
        let destination = self.stations.get(&query.destination);
        if query.source == query.destination {
            return Judgement {
                egress: Ruling::Itself,
                ingress: Ruling::Itself,
            };
        }
        Judgement {
            egress: self.rule_on(source, destination, query, Side::Egress),
            ingress: self.rule_on(destination, source, query, Side::Ingress),
        }
    }

    /// What the policies of `own` say of a connection with `peer`.
    #[inline]
    fn rule_on(&self, own: Option<&Station>, peer: Option<&Station>, query: &Query, side: Side) -> Ruling {
        let Some(Station::Pod { port: Some(port), .. }) = own else {
            return Ruling::Elsewhere;
        };
        let Some(policies) = self.policies(*port) else {
            return Ruling::Elsewhere;
        };
        let identity = match peer {
            Some(Station::Node) => return Ruling::Node,
            Some(Station::Pod { identity, .. }) => *identity,
            None => None,
        };
        if policies.is_closed {
            return Ruling::Deny(RuleId::UNKNOWN_POD);
        }
        let (rules, address) = match side {
            Side::Egress => (&policies.egress, query.destination),
            Side::Ingress => (&policies.ingress, query.source),
        };
        let Some(rules) = rules else {
            return Ruling::NotIsolated;
        };
        rules.decide(Peer { identity, address }, query.protocol, query.port)
    }

    /// The policies of a pod of this node, by its port.
    #[inline]
    #[must_use]
    pub fn policies(&self, port: PortId) -> Option<&PodPolicies> {
        self.pods.get(port.index())?.as_ref()
    }

    /// Whether nothing can be denied: no pod here has a policy.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Who has an address.
    #[must_use]
    pub fn station(&self, address: IpAddr) -> Option<Station> {
        self.stations.get(&address).copied()
    }

    /// Everyone's address, to be shared with the next table.
    #[must_use]
    pub fn stations(&self) -> &Arc<Stations> {
        &self.stations
    }

    /// Where judgements are counted.
    #[inline]
    #[must_use]
    pub fn counts(&self) -> &PolicyCounts {
        &self.counts
    }

    /// What was denied lately.
    #[inline]
    #[must_use]
    pub fn denied(&self) -> &Arc<DeniedLog> {
        &self.denied
    }

    /// What the table takes in memory, in bytes, each rule set once.
    #[must_use]
    pub fn memory(&self) -> usize {
        // Of hashbrown: one byte of control for each place.
        let stations = self.stations.capacity() * (size_of::<(IpAddr, Station)>() + 1);
        let pods = self.pods.capacity() * size_of::<Option<PodPolicies>>();
        let sets = self.pods.iter().flatten();
        let sets: HashMap<*const RuleSet, usize> = sets
            .flat_map(|pod| pod.egress.iter().chain(&pod.ingress))
            .map(|set| (Arc::as_ptr(set), set.memory()))
            .collect();
        stations + pods + sets.values().sum::<usize>()
    }
}

impl Default for PolicyTable {
    fn default() -> Self {
        Self {
            stations: Arc::new(Stations::with_hasher(HashKey::random())),
            pods: Vec::new(),
            is_open: true,
            counts: Arc::default(),
            denied: Arc::default(),
        }
    }
}

impl fmt::Debug for PolicyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyTable")
            .field("stations", &self.stations.len())
            .field("pods", &self.pods.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

impl SubjectId {
    /// The policies of the pod behind a port: what comes from that pod rests on them. What goes to it rests on
    /// [`Self::port`], which changes along with them.
    #[inline]
    #[must_use]
    pub fn policy(port: PortId) -> Self {
        // INVARIANT: a port's number is below PortId::LIMIT.
        #[allow(clippy::cast_possible_truncation)]
        Self::of(SubjectKind::Policy, port.index() as u32)
    }
}
