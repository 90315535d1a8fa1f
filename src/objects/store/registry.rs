//! Services among themselves: which objects belong together, and which of two that claim one address gets it.
//!
//! There may be tens of thousands of these objects, of which one changes at a time. So what follows from them is kept
//! up to date entry by entry: what an entry touches is found by indices, made anew, and all else stays the very same,
//! by pointer. A registry that is filled from nothing and one that has seen every change come to the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Claim, Entry, Notice, ObjectId, Record, ServiceEntry, ServiceRecord, SliceRecord};
use crate::objects::fault::Fault;
use crate::objects::name::NodeName;
use crate::objects::service::{Protocol, ServiceFault, ServiceKey};

/// The pod CIDRs of nodes, by their first address. They never overlap.
pub(super) type Cidrs = BTreeMap<IpAddr, (IpNet, NodeName)>;

/// The claimed pod CIDR that holds an address.
pub(super) fn covering(cidrs: &Cidrs, address: IpAddr) -> Option<&(IpNet, NodeName)> {
    let (_, claim) = cidrs.range(..=address).next_back()?;
    Some(claim).filter(|(cidr, _)| cidr.contains(&address))
}

/// What two claims collide over: kinds of addresses make no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Address(IpAddr, Protocol, u16),
    NodePort(Protocol, u16),
}

impl From<Claim> for Place {
    fn from(claim: Claim) -> Self {
        match claim {
            Claim::Vip {
                address,
                protocol,
                port,
                ..
            } => Self::Address(address, protocol, port),
            Claim::NodePort { protocol, port } => Self::NodePort(protocol, port),
        }
    }
}

/// Every Service and EndpointSlice, and what follows from them.
#[derive(Debug, Default)]
pub(in crate::objects) struct Registry {
    /// Entries for one object in the order in which they count: the first is in force.
    by_id: HashMap<ObjectId, Vec<Arc<Entry>>>,
    groups: HashMap<ServiceKey, Group>,
    /// Who claims a place, in the order in which they get it.
    claims: HashMap<Place, Vec<Arc<Entry>>>,
    made: BTreeMap<ServiceKey, Arc<ServiceEntry>>,
    /// All of them, as they were last asked for.
    all: Option<Arc<[Arc<ServiceEntry>]>>,
    /// What is said about objects that stand in several places, and about Services; where there is anything to say.
    duplicates: BTreeMap<ObjectId, Vec<Notice>>,
    notices: BTreeMap<ServiceKey, Vec<Notice>>,
    /// Services that have to be made anew.
    stale: BTreeSet<ServiceKey>,
    cidrs: Cidrs,
    /// Load balancers' addresses that are as good as written in the Services' status, where nobody can write there.
    assigned: BTreeMap<ServiceKey, Vec<IpAddr>>,
}

/// What belongs to one Service.
#[derive(Debug, Default)]
struct Group {
    /// The Service itself.
    service: Option<Arc<Entry>>,
    /// Its slices, by name.
    slices: BTreeMap<String, Arc<SliceRecord>>,
    /// What the Service has in the index of claims.
    claimed: Vec<Place>,
}

/// The Service that an entry is, or belongs to.
fn service_of(entry: &Entry) -> Option<&ServiceKey> {
    match &entry.record {
        Record::Service(record) => Some(&record.key),
        Record::EndpointSlice(record) => Some(&record.service),
        Record::Node(_)
        | Record::Pod(_)
        | Record::FinishedPod
        | Record::Namespace(_)
        | Record::Policy(_)
        | Record::Pool(_)
        | Record::Block(_)
        | Record::Affinity(_)
        | Record::Network(_)
        | Record::Absent => None,
    }
}

/// The record of a Service's entry.
fn record_of(entry: &Entry) -> Option<&Arc<ServiceRecord>> {
    match &entry.record {
        Record::Service(record) => Some(record),
        _ => None,
    }
}

impl Registry {
    /// Puts entries in the place of others. Those that are no Service's are left out.
    pub(in crate::objects) fn replace(&mut self, old: &[Arc<Entry>], new: &[Arc<Entry>]) {
        let same =
            |entry: &Arc<Entry>, others: &[Arc<Entry>]| others.iter().any(|other| Arc::ptr_eq(entry, other));
        // Few of many: both lists are those of one file, in the same order but for what changed.
        let unchanged = old
            .iter()
            .zip(new)
            .take_while(|(old, new)| Arc::ptr_eq(old, new))
            .count();
        let (old, new) = (&old[unchanged..], &new[unchanged..]);
        let is_short = old.len() + new.len() < 1024;
        for entry in old.iter().filter(|entry| !is_short || !same(entry, new)) {
            self.remove(entry);
        }
        for entry in new.iter().filter(|entry| !is_short || !same(entry, old)) {
            self.add(entry);
        }
    }

    fn add(&mut self, entry: &Arc<Entry>) {
        if service_of(entry).is_none() {
            return;
        }
        let entries = self.by_id.entry(entry.id.clone()).or_default();
        let before = entries.first().cloned();
        let place = entries.partition_point(|other| other.order() <= entry.order());
        entries.insert(place, Arc::clone(entry));
        self.settle(&entry.id, before.as_ref());
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        let Some(entries) = self.by_id.get_mut(&entry.id) else {
            return;
        };
        let before = entries.first().cloned();
        entries.retain(|other| !Arc::ptr_eq(other, entry));
        self.settle(&entry.id, before.as_ref());
        if self.by_id.get(&entry.id).is_some_and(Vec::is_empty) {
            self.by_id.remove(&entry.id);
        }
    }

    /// Brings the groups up to date with which entry for an object is in force, and reports the others.
    fn settle(&mut self, id: &ObjectId, before: Option<&Arc<Entry>>) {
        let entries = self.by_id.get(id).map_or(&[][..], Vec::as_slice);
        let now = entries.first();
        if let Some(first) = now.filter(|_| entries.len() > 1) {
            // A kept version that a good one has replaced from another file has done its duty.
            let others = entries.iter().skip(1).filter(|other| !other.is_last_good);
            let notices = others.map(|other| {
                let first = first.origin.clone();
                Notice::new(other.origin.clone(), Some(id.clone()), Fault::Duplicate { first })
            });
            self.duplicates.insert(id.clone(), notices.collect());
        } else {
            self.duplicates.remove(id);
        }
        if before.is_some_and(|before| now.is_some_and(|now| Arc::ptr_eq(before, now))) {
            return;
        }
        let now = now.cloned();
        for (entry, is_now) in before
            .map(|entry| (entry, false))
            .into_iter()
            .chain(now.as_ref().map(|entry| (entry, true)))
        {
            let Some(key) = service_of(entry) else { continue };
            let group = self.groups.entry(key.clone()).or_default();
            match &entry.record {
                Record::EndpointSlice(slice) if is_now => {
                    group.slices.insert(slice.name.clone(), Arc::clone(slice));
                }
                Record::EndpointSlice(slice) => {
                    group.slices.remove(&slice.name);
                }
                _ => group.service = is_now.then(|| entry.with_assigned(self.assigned.get(key))),
            }
            self.stale.insert(key.clone());
        }
    }

    /// Takes what load balancers' addresses Services are given beside those of their status, and tells whether that differs.
    pub(in crate::objects) fn assign(&mut self, assigned: BTreeMap<ServiceKey, Vec<IpAddr>>) -> bool {
        let before = std::mem::replace(&mut self.assigned, assigned);
        let differs = |key: &&ServiceKey| before.get(*key) != self.assigned.get(*key);
        let keys: BTreeSet<_> = before
            .keys()
            .chain(self.assigned.keys())
            .filter(differs)
            .collect();
        for key in &keys {
            let id = key.object_id();
            let entry = self.by_id.get(&id).and_then(|entries| entries.first());
            let (Some(entry), Some(group)) = (entry, self.groups.get_mut(*key)) else {
                continue;
            };
            group.service = Some(entry.with_assigned(self.assigned.get(*key)));
            self.stale.insert((*key).clone());
        }
        !keys.is_empty()
    }

    /// Makes anew what has to be, with these pod CIDRs.
    pub(super) fn update(&mut self, cidrs: &Cidrs) {
        if self.cidrs != *cidrs {
            self.cidrs.clone_from(cidrs);
            self.stale.extend(self.groups.keys().cloned());
        }
        let stale = std::mem::take(&mut self.stale);
        if stale.is_empty() {
            return;
        }
        self.all = None;
        // Who shares a place with one that changes may win or lose it.
        let mut touched = BTreeSet::new();
        for key in &stale {
            self.reclaim(key, &mut touched);
        }
        touched.extend(stale);
        for key in touched {
            self.make(key);
        }
    }

    /// Brings the index of claims up to date with a Service; names those that it shares a place with.
    fn reclaim(&mut self, key: &ServiceKey, touched: &mut BTreeSet<ServiceKey>) {
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        // The first has the place: it hears of all others, and all others of it.
        let mut hear = |claimants: &[Arc<Entry>], place: usize| {
            let hearing = if place == 0 {
                claimants
            } else {
                claimants.get(..1).unwrap_or_default()
            };
            touched.extend(hearing.iter().filter_map(|entry| service_of(entry)).cloned());
        };
        for place in group.claimed.drain(..) {
            let Some(claimants) = self.claims.get_mut(&place) else {
                continue;
            };
            let at = claimants.iter().position(|entry| service_of(entry) == Some(key));
            if let Some(at) = at {
                claimants.remove(at);
                hear(claimants, at);
            }
            if claimants.is_empty() {
                self.claims.remove(&place);
            }
        }
        let Some(entry) = &group.service else { return };
        let Some(record) = record_of(entry).filter(|record| record.is_programmed()) else {
            return;
        };
        for claim in record.claims() {
            if is_pods(&self.cidrs, claim).is_some() {
                continue;
            }
            let place = Place::from(claim);
            let claimants = self.claims.entry(place).or_default();
            // A Service may claim a place twice, as two kinds of address.
            if claimants.iter().any(|other| Arc::ptr_eq(other, entry)) {
                continue;
            }
            let at = claimants.partition_point(|other| other.order() < entry.order());
            hear(claimants, at);
            claimants.insert(at, Arc::clone(entry));
            group.claimed.push(place);
        }
    }

    /// Makes a Service anew; what comes out the same stays the same.
    fn make(&mut self, key: ServiceKey) {
        let group = self.groups.get(&key);
        let entry = group.and_then(|group| group.service.as_ref());
        let (Some(group), Some(entry)) = (group, entry) else {
            self.made.remove(&key);
            self.notices.remove(&key);
            if group.is_some_and(|group| group.slices.is_empty()) {
                self.groups.remove(&key);
            }
            return;
        };
        let Some(record) = record_of(entry) else { return };
        let (lost, notices) = self.judge(entry, record);
        let made = ServiceEntry {
            record: Arc::clone(record),
            slices: group.slices.values().cloned().collect(),
            lost,
        };
        if notices.is_empty() {
            self.notices.remove(&key);
        } else {
            self.notices.insert(key.clone(), notices);
        }
        match self.made.get(&key) {
            Some(before) if **before == made => {}
            Some(_) | None => {
                self.made.insert(key, Arc::new(made));
            }
        }
    }

    /// What a Service claims and does not get, and what is to be said about its claims: a claim of two is reported on
    /// both.
    fn judge(&self, entry: &Arc<Entry>, record: &ServiceRecord) -> (Vec<Claim>, Vec<Notice>) {
        let (mut lost, mut reasons) = (Vec::new(), Vec::new());
        if !record.is_programmed() {
            return (lost, Vec::new());
        }
        let name = |entry: &Entry| service_of(entry).map(ToString::to_string).unwrap_or_default();
        for claim in record.claims() {
            if let Some(reason) = is_pods(&self.cidrs, claim) {
                // One address with several ports says it once.
                let is_said = lost
                    .iter()
                    .any(|other: &Claim| other.address() == claim.address());
                lost.push(claim);
                reasons.extend(Some(reason).filter(|_| !is_said));
                continue;
            }
            let claimants = self
                .claims
                .get(&Place::from(claim))
                .map_or(&[][..], Vec::as_slice);
            let Some((owner, younger)) = claimants.split_first() else {
                continue;
            };
            let text = claim.to_string();
            if !Arc::ptr_eq(owner, entry) {
                lost.push(claim);
                reasons.push(ServiceFault::Taken {
                    claim: text,
                    older: name(owner),
                });
                continue;
            }
            reasons.extend(younger.iter().map(|younger| ServiceFault::Contested {
                claim: text.clone(),
                younger: name(younger),
            }));
        }
        let notice = |reason| {
            Notice::new(
                entry.origin.clone(),
                Some(record.key.object_id()),
                Fault::from(reason),
            )
        };
        let notices = reasons.into_iter().map(notice).collect();
        (lost, notices)
    }

    /// All Services, by namespace and name.
    pub(super) fn services(&mut self) -> Arc<[Arc<ServiceEntry>]> {
        let made = &self.made;
        Arc::clone(self.all.get_or_insert_with(|| made.values().cloned().collect()))
    }

    /// What is to be said.
    pub(super) fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.duplicates.values().chain(self.notices.values()).flatten()
    }
}

/// Why an address cannot lead to a Service where a pod may have it.
fn is_pods(cidrs: &Cidrs, claim: Claim) -> Option<ServiceFault> {
    let Claim::Vip { kind, address, .. } = claim else {
        return None;
    };
    let (_, node) = covering(cidrs, address)?;
    Some(ServiceFault::VipInPodCidr {
        field: kind.field(),
        address,
        node: node.to_string(),
    })
}
