//! The rules of one pod in one direction, compiled.

use std::net::IpAddr;
use std::sync::Arc;

use super::matching::{Matching, find, port_key};
use super::ranges::{RangeMap, Span};
use super::rows::{RowId, RowMaker, Rows, RuleBits};
use super::{Action, Identity, RuleId, Ruling};
use crate::wire::IpProtocol;

/// A group of rules; those of an earlier one count before those of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// What nobody in the cluster can override.
    First,
    /// What the owners of pods say.
    Middle,
    /// What counts where they say nothing.
    Last,
}

/// A range of addresses of one family, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The first address.
    pub first: IpAddr,
    /// The last one.
    pub last: IpAddr,
}

/// A range of ports, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// TCP, UDP or SCTP.
    pub protocol: IpProtocol,
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

/// A rule to be compiled, but for the stations that it matches by their identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// Its number.
    pub id: RuleId,
    /// Its tier.
    pub tier: Tier,
    /// What it does.
    pub action: Action,
    /// Addresses that it matches, whoever has them; `None` for all there are.
    pub addresses: Option<Vec<AddressRange>>,
    /// Ports that it matches; `None` for all there are, and for protocols without ports.
    pub ports: Option<Vec<PortRange>>,
}

/// A compiled rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub id: RuleId,
    /// Its tier.
    pub tier: Tier,
    /// What it does.
    pub action: Action,
}

/// More rules for one pod than are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{rules} rules for one pod in one direction; at most {max} are possible",
    max = RuleSet::RULES_MAX
)]
pub struct TooManyRules {
    /// How many there are.
    pub rules: usize,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// What policies know it as, if it is a pod.
    pub identity: Option<Identity>,
    /// Its address.
    pub address: IpAddr,
}

/// What rules say of the stations of one identity, in the place of what they said before.
#[derive(Debug, Clone)]
pub struct PeerChange {
    /// Which stations.
    pub identity: Identity,
    /// The rules that match them by their identity.
    pub rules: RuleBits,
    /// Rules that match these ports of theirs, beside those that match the ports of everyone.
    pub ports: Vec<(IpProtocol, u16, RuleBits)>,
}

/// What depends on the rules alone.
#[derive(Debug)]
struct Fixed {
    rules: Box<[Rule]>,
    /// Rules that match every address.
    everyone: RowId,
    v4: RangeMap<u32>,
    v6: RangeMap<u128>,
    ports: RangeMap<u32>,
    rows: Rows,
}

/// The key of a port that one identity has.
type IdentityPort = (u32, u32);

/// The rules of one pod in one direction. Made once; a change of identities makes another that shares the rest.
#[derive(Debug, Clone)]
pub struct RuleSet {
    fixed: Arc<Fixed>,
    /// The row of each identity that any rule matches, ascending.
    peers: Vec<(u32, RowId)>,
    /// The row of each port of an identity that rules match beside the ports of everyone, ascending.
    peer_ports: Vec<(IdentityPort, RowId)>,
    rows: Rows,
}

/// Row counts below this are never worth a cleaning.
const CLEAN_ROWS_MIN: usize = 64;

impl RuleSet {
    /// Most rules of one set: rows are as long as there are rules, and as many as there are ranges.
    pub const RULES_MAX: usize = 1 << 13;

    /// Compiles rules, the first counting before the second, none of them matching any identity yet.
    ///
    /// # Errors
    /// [`TooManyRules`].
    pub fn build(specs: &[RuleSpec]) -> Result<Self, TooManyRules> {
        let rules = specs.len();
        if rules > Self::RULES_MAX {
            return Err(TooManyRules { rules });
        }
        let mut maker = RowMaker::new(rules);
        let mut everyone = RuleBits::none(rules);
        let (mut v4, mut v6, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for (rule, spec) in specs.iter().enumerate() {
            match &spec.addresses {
                None => everyone.insert(rule),
                Some(ranges) => {
                    for range in ranges {
                        match (range.first, range.last) {
                            (IpAddr::V4(first), IpAddr::V4(last)) => v4.push(Span {
                                first: first.to_bits(),
                                last: last.to_bits(),
                                rule,
                            }),
                            (IpAddr::V6(first), IpAddr::V6(last)) => v6.push(Span {
                                first: first.to_bits(),
                                last: last.to_bits(),
                                rule,
                            }),
                            // Of two families there is nothing in between.
                            _ => {}
                        }
                    }
                }
            }
            match &spec.ports {
                None => ports.push(Span {
                    first: 0,
                    last: u32::MAX,
                    rule,
                }),
                Some(ranges) => ports.extend(ranges.iter().map(|range| Span {
                    first: port_key(range.protocol, range.first),
                    last: port_key(range.protocol, range.last),
                    rule,
                })),
            }
        }
        let fixed = Fixed {
            rules: specs
                .iter()
                .map(|spec| Rule {
                    id: spec.id,
                    tier: spec.tier,
                    action: spec.action,
                })
                .collect(),
            everyone: maker.place(&everyone),
            v4: RangeMap::build(&v4, rules, &mut maker),
            v6: RangeMap::build(&v6, rules, &mut maker),
            ports: RangeMap::build(&ports, rules, &mut maker),
            rows: maker.finish(),
        };
        Ok(Self {
            fixed: Arc::new(fixed),
            peers: Vec::new(),
            peer_ports: Vec::new(),
            rows: Rows::new(rules),
        })
    }

    /// The same rules, which match exactly these identities. Each may be given once.
    #[must_use]
    pub fn with_all_peers(&self, peers: impl IntoIterator<Item = PeerChange>) -> Self {
        let mut maker = RowMaker::new(self.fixed.rules.len());
        let (mut by_identity, mut by_port) = (Vec::new(), Vec::new());
        for peer in peers {
            let number = peer.identity.get();
            if !peer.rules.is_empty() {
                by_identity.push((number, maker.place(&peer.rules)));
            }
            for (protocol, port, rules) in &peer.ports {
                by_port.push(((number, port_key(*protocol, *port)), maker.place(rules)));
            }
        }
        by_identity.sort_unstable_by_key(|(identity, _)| *identity);
        by_port.sort_unstable_by_key(|(key, _)| *key);
        by_identity.shrink_to_fit();
        by_port.shrink_to_fit();
        Self {
            fixed: Arc::clone(&self.fixed),
            peers: by_identity,
            peer_ports: by_port,
            rows: maker.finish(),
        }
    }

    /// The same rules with one identity changed.
    #[must_use]
    pub fn with_peer(&self, change: &PeerChange) -> Self {
        let mut new = self.clone();
        let number = change.identity.get();
        let place = new.peers.binary_search_by_key(&number, |(identity, _)| *identity);
        match (place, change.rules.is_empty()) {
            (Ok(at), false) => new.peers[at].1 = new.rows.place(&change.rules),
            (Err(at), false) => new.peers.insert(at, (number, new.rows.place(&change.rules))),
            (Ok(at), true) => {
                new.peers.remove(at);
            }
            (Err(_), true) => {}
        }
        new.peer_ports.retain(|((identity, _), _)| *identity != number);
        for (protocol, port, rules) in &change.ports {
            let key = (number, port_key(*protocol, *port));
            let at = new.peer_ports.partition_point(|(known, _)| *known < key);
            new.peer_ports.insert(at, (key, new.rows.place(rules)));
        }
        new.clean();
        new
    }

    /// Leaves rows behind that nobody has any more, once most are such.
    fn clean(&mut self) {
        let used = || {
            self.peers
                .iter()
                .map(|(_, row)| row)
                .chain(self.peer_ports.iter().map(|(_, row)| row))
        };
        if self.rows.len() < CLEAN_ROWS_MIN || self.rows.len() < 2 * (used().count() + 1) {
            return;
        }
        let mut kept = Rows::new(self.fixed.rules.len());
        let mut moved = vec![None; self.rows.len()];
        for row in self
            .peers
            .iter_mut()
            .map(|(_, row)| row)
            .chain(self.peer_ports.iter_mut().map(|(_, row)| row))
        {
            let Some(to) = moved.get_mut(*row as usize) else {
                continue;
            };
            *row = *to.get_or_insert_with(|| kept.copy(self.rows.get(*row)));
        }
        self.rows = kept;
    }

    /// Which rule decides about a connection with `peer`, to this port of whoever it goes to.
    #[inline]
    #[must_use]
    pub fn decide(&self, peer: Peer, protocol: IpProtocol, port: u16) -> Ruling {
        let fixed = &*self.fixed;
        let key = port_key(protocol, port);
        let by_address = match peer.address {
            IpAddr::V4(address) => fixed.v4.row(address.to_bits()),
            IpAddr::V6(address) => fixed.v6.row(address.to_bits()),
        };
        let (by_identity, by_identity_port) = peer.identity.map_or((Rows::EMPTY, Rows::EMPTY), |identity| {
            let number = identity.get();
            (find(&self.peers, &number), find(&self.peer_ports, &(number, key)))
        });
        let matching = Matching {
            everyone: fixed.rows.get(fixed.everyone),
            address: fixed.rows.get(by_address),
            identity: self.rows.get(by_identity),
            port: fixed.rows.get(fixed.ports.row(key)),
            identity_port: self.rows.get(by_identity_port),
        };
        let mut from = 0;
        while let Some(place) = matching.first(from) {
            let Some(rule) = fixed.rules.get(place) else { break };
            match rule.action {
                Action::Accept => return Ruling::Accept(rule.id),
                Action::Deny => return Ruling::Deny(rule.id),
                Action::Pass => from = fixed.rules.partition_point(|other| other.tier <= rule.tier),
            }
        }
        Ruling::NotIsolated
    }

    /// Whether any rule matches stations of this identity by who they are.
    #[must_use]
    pub fn knows(&self, identity: Identity) -> bool {
        let number = identity.get();
        let ports = self.peer_ports.partition_point(|((known, _), _)| *known < number);
        find(&self.peers, &number) != Rows::EMPTY
            || self
                .peer_ports
                .get(ports)
                .is_some_and(|((known, _), _)| *known == number)
    }

    /// The rules, in the order in which they count.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.fixed.rules
    }

    /// Whether it says just this of an identity already.
    #[must_use]
    pub fn says(&self, change: &PeerChange) -> bool {
        let number = change.identity.get();
        if self.rows.get(find(&self.peers, &number)) != change.rules.words() {
            return false;
        }
        let first = self.peer_ports.partition_point(|((known, _), _)| *known < number);
        let known = self
            .peer_ports
            .iter()
            .skip(first)
            .take_while(|((known, _), _)| *known == number);
        let is_known = |(protocol, port, rules): &(IpProtocol, u16, RuleBits)| {
            let row = find(&self.peer_ports, &(number, port_key(*protocol, *port)));
            row != Rows::EMPTY && self.rows.get(row) == rules.words()
        };
        known.count() == change.ports.len() && change.ports.iter().all(is_known)
    }

    /// How many identities any rule matches.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// What the set takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let fixed = &*self.fixed;
        let ranges = fixed.v4.memory() + fixed.v6.memory() + fixed.ports.memory();
        let peers = self.peers.capacity() * size_of::<(u32, RowId)>()
            + self.peer_ports.capacity() * size_of::<(IdentityPort, RowId)>();
        size_of_val(&*fixed.rules) + ranges + peers + fixed.rows.memory() + self.rows.memory()
    }
}
