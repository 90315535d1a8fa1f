//! One rule set: from the policies that select a pod to what the workers read.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::policy::{
    Action, AddressRange, Identity, PeerChange, PolicyCounts, PortRange, RuleBits, RuleSet, RuleSpec, Side,
    Tier, TooManyRules,
};
use millrace_dataplane::wire::IpProtocol;

use super::super::services::number;
use super::blocks;
use super::crowd::{Crowd, SelectorId};
use super::numbers::RuleNumbers;
use crate::objects::{
    Labels, NamedPort, PolicyPeer, PolicyPort, PolicyRecord, PolicyRule, PolicyTier, Protocol, RuleAction,
    Selector, Store,
};

/// Up to this many changed identities are changed one by one; with more, all are made anew.
const ONE_BY_ONE_MAX: usize = 16;

/// The rules of a policy for one direction, if it says anything about that.
pub(super) fn rules_of(policy: &PolicyRecord, side: Side) -> Option<&Vec<PolicyRule>> {
    match side {
        Side::Egress => policy.egress.as_ref(),
        Side::Ingress => policy.ingress.as_ref(),
    }
}

/// Whether any of its rules selects nodes.
pub(super) fn selects_nodes(policy: &PolicyRecord) -> bool {
    let rules = policy.ingress.iter().chain(&policy.egress).flatten();
    let mut peers = rules.flat_map(|rule| rule.peers.iter().flatten());
    peers.any(|peer| matches!(peer, PolicyPeer::Nodes(_)))
}

/// The nodes, as far as policies select them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFacts(Vec<(Labels, Vec<IpAddr>)>);

impl NodeFacts {
    pub(super) fn of(store: &Store) -> Self {
        let nodes = store.nodes();
        Self(
            nodes
                .map(|node| {
                    let addresses = node.internal_ips.iter().copied().chain(node.public_ips());
                    (node.labels.clone(), addresses.collect())
                })
                .collect(),
        )
    }

    fn selected<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = IpAddr> + 'a {
        let nodes = self.0.iter().filter(|(labels, _)| selector.matches(labels));
        nodes.flat_map(|(_, addresses)| addresses.iter().copied())
    }
}

/// What makes a rule set: pods with the same share one.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SetKey {
    side: Side,
    /// Where the policies' records lie: who holds the key holds them too.
    policies: Vec<usize>,
    /// The pod's own ports that the rules name.
    named_ports: Vec<NamedPort>,
}

impl SetKey {
    /// The key of a pod's rules in one direction; `None` without any policy.
    pub(super) fn new(side: Side, policies: &[Arc<PolicyRecord>], named_ports: &[NamedPort]) -> Option<Self> {
        if policies.is_empty() {
            return None;
        }
        // What the pod sends goes to the ports of others.
        let is_named = |port: &&NamedPort| {
            let rules = policies
                .iter()
                .filter_map(|policy| rules_of(policy, side))
                .flatten();
            let mut ports = rules.flat_map(|rule| rule.ports.iter().flatten());
            side == Side::Ingress && ports.any(|other| means(other, port))
        };
        Some(Self {
            side,
            policies: policies.iter().map(|policy| Arc::as_ptr(policy).addr()).collect(),
            named_ports: named_ports.iter().filter(is_named).cloned().collect(),
        })
    }
}

/// Whether a policy's port means a pod's port by its name.
fn means(port: &PolicyPort, named: &NamedPort) -> bool {
    match port {
        PolicyPort::Name { protocol, name } => {
            *name == named.name && protocol.is_none_or(|protocol| protocol == named.protocol)
        }
        PolicyPort::Range { .. } => false,
    }
}

/// A rule set, made.
#[derive(Debug)]
pub(super) struct Made {
    /// Held so that no other record comes to lie where one of these does.
    policies: Vec<Arc<PolicyRecord>>,
    /// What matches identities, rule by rule.
    matchers: Vec<Matcher>,
    rules: Result<Arc<RuleSet>, TooManyRules>,
}

/// How a rule matches identities.
#[derive(Debug, Default)]
struct Matcher {
    selectors: Vec<SelectorId>,
    /// Ports by name, of whoever the connection goes to.
    names: Vec<PolicyPort>,
}

/// What rule sets are made with.
pub(super) struct Maker<'a> {
    pub(super) crowd: &'a mut Crowd,
    pub(super) numbers: &'a mut RuleNumbers,
    pub(super) counts: &'a PolicyCounts,
    pub(super) nodes: &'a NodeFacts,
}

impl Maker<'_> {
    /// Makes the rule set of these policies, which are in the order in which they count.
    pub(super) fn make(&mut self, key: &SetKey, policies: Vec<Arc<PolicyRecord>>) -> Made {
        let (mut specs, mut matchers) = (Vec::new(), Vec::new());
        let mut isolation = None;
        for policy in &policies {
            let rules = rules_of(policy, key.side).map(Vec::as_slice).unwrap_or_default();
            let ids = self.numbers.of(policy, key.side, rules, self.counts);
            for (rule, id) in rules.iter().zip(&ids.rules) {
                let (addresses, selectors) = self.peers(rule);
                let (ports, names) = ports(rule, key);
                specs.push(RuleSpec {
                    id: *id,
                    tier: tier(policy.tier),
                    action: action(rule.action),
                    addresses,
                    ports,
                });
                matchers.push(Matcher { selectors, names });
            }
            if policy.isolates() {
                isolation.get_or_insert(ids.isolation);
            }
        }
        if let Some(id) = isolation {
            // After it, nothing comes: what is isolated has no baseline.
            specs.push(RuleSpec {
                id,
                tier: Tier::Middle,
                action: Action::Deny,
                addresses: None,
                ports: None,
            });
            matchers.push(Matcher::default());
        }
        let mut made = Made {
            policies,
            matchers,
            rules: RuleSet::build(&specs).map(Arc::new),
        };
        made.match_everyone(self.crowd);
        made
    }

    /// Whom a rule matches by address, and the selectors by which it matches others.
    fn peers(&mut self, rule: &PolicyRule) -> (Option<Vec<AddressRange>>, Vec<SelectorId>) {
        let Some(peers) = &rule.peers else {
            return (None, Vec::new());
        };
        let (mut addresses, mut selectors) = (Vec::new(), Vec::new());
        for peer in peers {
            match peer {
                PolicyPeer::Pods(selector) => selectors.push(self.crowd.hold(selector)),
                PolicyPeer::Block { cidr, except } => addresses.extend(blocks::ranges(*cidr, except)),
                PolicyPeer::Nodes(selector) => {
                    addresses.extend(self.nodes.selected(selector).map(blocks::one))
                }
            }
        }
        (Some(addresses), selectors)
    }
}

impl Made {
    /// The rules, or why there are none: the pod is cut off then.
    pub(super) fn rules(&self) -> &Result<Arc<RuleSet>, TooManyRules> {
        &self.rules
    }

    /// The policies that they were made of.
    pub(super) fn policies(&self) -> &[Arc<PolicyRecord>] {
        &self.policies
    }

    /// Whether nodes' addresses are among them.
    pub(super) fn has_nodes(&self) -> bool {
        self.policies.iter().any(|policy| selects_nodes(policy))
    }

    /// Gives the selectors back. The set is of no use afterwards.
    pub(super) fn release(&self, crowd: &mut Crowd) {
        for selector in self.matchers.iter().flat_map(|matcher| &matcher.selectors) {
            crowd.release(*selector);
        }
    }

    /// Matches identities anew that selectors may select otherwise than before.
    pub(super) fn renew(&mut self, crowd: &Crowd, touched: &BTreeSet<Identity>) {
        let Ok(rules) = &self.rules else { return };
        let changes = touched.iter().map(|identity| self.matching(crowd, *identity));
        let changes: Vec<PeerChange> = changes.filter(|change| !rules.says(change)).collect();
        if changes.len() > ONE_BY_ONE_MAX {
            self.match_everyone(crowd);
        } else if let Some((first, rest)) = changes.split_first() {
            let new = rest
                .iter()
                .fold(rules.with_peer(first), |rules, change| rules.with_peer(change));
            self.rules = Ok(Arc::new(new));
        }
    }

    /// Matches everyone.
    fn match_everyone(&mut self, crowd: &Crowd) {
        let Ok(rules) = &self.rules else { return };
        let all = crowd.identities().map(|identity| self.matching(crowd, identity));
        self.rules = Ok(Arc::new(rules.with_all_peers(all)));
    }

    /// Which rules match an identity.
    fn matching(&self, crowd: &Crowd, identity: Identity) -> PeerChange {
        let mut rules = RuleBits::none(self.matchers.len());
        let mut ports: Vec<(IpProtocol, u16, RuleBits)> = Vec::new();
        let named = crowd
            .traits(identity)
            .map(|traits| traits.ports.as_slice())
            .unwrap_or_default();
        for (place, matcher) in self.matchers.iter().enumerate() {
            if matcher
                .selectors
                .iter()
                .any(|selector| crowd.selects(*selector, identity))
            {
                rules.insert(place);
            }
            for port in named
                .iter()
                .filter(|port| matcher.names.iter().any(|name| means(name, port)))
            {
                let (protocol, port) = (number(port.protocol), port.port);
                match ports.iter_mut().find(|(p, n, _)| (*p, *n) == (protocol, port)) {
                    Some((.., bits)) => bits.insert(place),
                    None => {
                        let mut bits = RuleBits::none(self.matchers.len());
                        bits.insert(place);
                        ports.push((protocol, port, bits));
                    }
                }
            }
        }
        PeerChange {
            identity,
            rules,
            ports,
        }
    }
}

/// The ports that a rule matches by number, with those of the pod itself that it names; and those that it names of others.
fn ports(rule: &PolicyRule, key: &SetKey) -> (Option<Vec<PortRange>>, Vec<PolicyPort>) {
    let Some(ports) = &rule.ports else {
        return (None, Vec::new());
    };
    let (mut ranges, mut names) = (Vec::new(), Vec::new());
    for port in ports {
        match port {
            PolicyPort::Range {
                protocol,
                first,
                last,
            } => ranges.push(range(*protocol, *first, *last)),
            PolicyPort::Name { .. } if key.side == Side::Egress => names.push(port.clone()),
            PolicyPort::Name { .. } => {
                let own = key.named_ports.iter().filter(|own| means(port, own));
                ranges.extend(own.map(|own| range(own.protocol, own.port, own.port)));
            }
        }
    }
    (Some(ranges), names)
}

fn range(protocol: Protocol, first: u16, last: u16) -> PortRange {
    PortRange {
        protocol: number(protocol),
        first,
        last,
    }
}

fn tier(tier: PolicyTier) -> Tier {
    match tier {
        PolicyTier::Admin(_) => Tier::First,
        PolicyTier::NetworkPolicy => Tier::Middle,
        PolicyTier::Baseline(_) => Tier::Last,
    }
}

fn action(action: RuleAction) -> Action {
    match action {
        RuleAction::Accept => Action::Accept,
        RuleAction::Deny => Action::Deny,
        RuleAction::Pass => Action::Pass,
    }
}
