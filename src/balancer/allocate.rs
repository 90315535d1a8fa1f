//! Who gets which address: a function of the Services, the pools, and what Services have already.
//!
//! Older Services come first, those of one age in the order of their names; so the answer does not depend on the order
//! in which they were seen. What a Service has it keeps, as long as it may have it. Then those that ask for an address
//! get it, if nobody has it. The others get the lowest free address of the first pool that they may use.
//!
//! An address that a host outside of the cluster answers for is given to whoever asks for it, has it, or shares it, and to
//! nobody else. Whoever was just given it, and never got to use it, gets another one if there is one.
//!
//! Two Services share an address if both say the same sharing key, have no port in common, and nothing that comes for one
//! could end at the other's pods by their policies: both have `externalTrafficPolicy: Cluster`, or both `Local` and
//! the same pods.

mod claimant;
mod refusal;
mod seek;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use millrace_dataplane::wire::MacAddr;

use crate::config::Pool;
use crate::objects::{Family, ServiceKey};

pub use claimant::{Claimant, Given, Sharing, Taken};
pub use refusal::{FamilyName, Refusal, RefusalReason, Unshared};

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allocation {
    /// What each Service has from now on; those without any are left out.
    pub given: BTreeMap<ServiceKey, Vec<Given>>,
    /// What was refused, by Service.
    pub refusals: Vec<Refusal>,
}

/// The pools with what is known of them besides the node file.
#[derive(Debug, Clone, Copy)]
pub struct Pools<'a> {
    /// The pools.
    pub pools: &'a [Pool],
    /// Which of them collide with something and give out nothing new.
    pub refused: &'a BTreeSet<usize>,
    /// Addresses that are somebody's by other means.
    pub taken: &'a BTreeMap<IpAddr, Vec<Taken>>,
    /// Addresses that hosts outside of the cluster answer for, by what link address.
    pub aside: &'a BTreeMap<IpAddr, MacAddr>,
}

/// So many Services that cannot have both families are left out one after the other: what one of them got in vain may be what
/// the next one needs.
const ONE_BY_ONE: usize = 16;

/// Gives out addresses.
#[must_use]
pub fn allocate(claimants: &[Claimant], pools: Pools<'_>) -> Allocation {
    let mut order: Vec<&Claimant> = claimants.iter().collect();
    order.sort_by_key(|claimant| {
        (
            claimant.created_s.is_none(),
            claimant.created_s,
            &claimant.service,
        )
    });
    let mut barred = BTreeMap::new();
    loop {
        let mut work = Work {
            pools,
            holders: BTreeMap::new(),
            by_key: BTreeMap::new(),
            next: BTreeMap::new(),
            given: BTreeMap::new(),
            refusals: BTreeSet::new(),
        };
        for claimant in &order {
            work.keep(claimant);
        }
        let mut open = order.clone();
        open.retain(|claimant| !barred.contains_key(&claimant.service));
        for claimant in open.iter().filter(|claimant| !claimant.wanted.is_empty()) {
            work.give_wanted(claimant);
        }
        for claimant in &open {
            work.give_any(claimant);
        }
        let halves = order.iter().filter(|claimant| work.is_half(claimant));
        let (new, kept): (Vec<&Claimant>, Vec<&Claimant>) = halves.partition(|half| work.is_new(half));
        if new.is_empty() {
            kept.into_iter()
                .for_each(|half| work.refuse(half, RefusalReason::NotBoth));
            return work.finish(barred.into_values().flatten());
        }
        // What was taken for one in vain is somebody else's: all are asked again without it, the oldest first as in all else, and
        // where there are many of that kind, without all of them.
        let count = if barred.len() < ONE_BY_ONE { 1 } else { new.len() };
        for half in new.into_iter().take(count) {
            barred.insert(half.service.clone(), work.why_half(half));
        }
    }
}

/// An allocation in the making.
struct Work<'a> {
    pools: Pools<'a>,
    holders: BTreeMap<IpAddr, Vec<&'a Claimant>>,
    /// Addresses that are shared, by their key.
    by_key: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    /// Where the search for a free address goes on, by pool and range: below it none is free.
    next: BTreeMap<(usize, usize), u128>,
    given: BTreeMap<ServiceKey, Vec<Given>>,
    refusals: BTreeSet<(ServiceKey, RefusalReason)>,
}

pub(super) fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Whether a Service asks for another address of this one's family.
fn asks_for_another(claimant: &Claimant, address: IpAddr) -> bool {
    let mut of_family = claimant
        .wanted
        .iter()
        .filter(|wanted| family_of(**wanted) == family_of(address));
    of_family.any(|wanted| *wanted != address)
}

/// Why two Services cannot share an address.
fn unshared(one: &Claimant, other: &Claimant) -> Option<Unshared> {
    let (Some(sharing), Some(others)) = (&one.sharing, &other.sharing) else {
        return Some(Unshared::Key);
    };
    if sharing.key != others.key {
        return Some(Unshared::Key);
    }
    if let Some((protocol, port)) = one.ports.intersection(&other.ports).next() {
        return Some(Unshared::Port(*protocol, *port));
    }
    // Without a selector nobody knows whose pods they are.
    let is_safe = match (&sharing.local_pods, &others.local_pods) {
        (None, None) => true,
        (Some(pods), Some(other)) => pods == other && !pods.is_empty(),
        _ => false,
    };
    (!is_safe).then_some(Unshared::Policy)
}

impl<'a> Work<'a> {
    /// Leaves a Service what it has and may have.
    fn keep(&mut self, claimant: &'a Claimant) {
        let is_declined =
            |address: &&IpAddr| claimant.declined.contains(address) && !claimant.wanted.contains(address);
        for address in claimant.held.iter().filter(|address| !is_declined(address)) {
            if self.lacks(claimant, family_of(*address)) && !asks_for_another(claimant, *address) {
                // What an older Service has is lost, and said on both.
                if let Err(reason) = self.try_give(claimant, *address, true)
                    && matches!(reason, RefusalReason::Held { .. } | RefusalReason::Taken { .. })
                {
                    self.refuse(claimant, reason);
                }
            }
        }
    }

    /// Whether a Service is to have an address of a family and has none yet.
    fn lacks(&self, claimant: &Claimant, family: Family) -> bool {
        let given = self.given.get(&claimant.service).into_iter().flatten();
        claimant.families.contains(&family)
            && !given.into_iter().any(|given| family_of(given.address) == family)
    }

    fn give_wanted(&mut self, claimant: &'a Claimant) {
        for address in &claimant.wanted {
            let family = family_of(*address);
            if !claimant.families.contains(&family) {
                self.refuse(claimant, RefusalReason::OtherFamily(*address));
            } else if self.lacks(claimant, family)
                && let Err(reason) = self.try_give(claimant, *address, false)
            {
                self.refuse(claimant, reason);
            }
        }
    }

    /// Gives a Service one address, or says why not; what it had may come from a pool that gives out nothing new.
    fn try_give(&mut self, claimant: &'a Claimant, address: IpAddr, had: bool) -> Result<(), RefusalReason> {
        let place = self.admit(claimant, address, had)?;
        self.check_free(claimant, address)?;
        self.take(claimant, address, place);
        Ok(())
    }

    /// The pool that an address comes from, if the Service may have it from there.
    fn admit(&self, claimant: &Claimant, address: IpAddr, had: bool) -> Result<usize, RefusalReason> {
        let mut pools = self.pools.pools.iter().enumerate();
        let (place, pool) = pools
            .find(|(_, pool)| pool.contains(address))
            .ok_or(RefusalReason::InNoPool(address))?;
        let name = pool.name.clone();
        if let Some(wanted) = claimant.pool.as_ref().filter(|wanted| **wanted != name) {
            return Err(RefusalReason::OtherPool {
                address,
                pool: name,
                wanted: wanted.clone(),
            });
        }
        if !claimant.admitted.contains(&place) {
            return Err(RefusalReason::NotAdmitted { address, pool: name });
        }
        if self.pools.refused.contains(&place) && !had {
            return Err(RefusalReason::PoolRefused(name));
        }
        Ok(place)
    }

    fn check_free(&self, claimant: &Claimant, address: IpAddr) -> Result<(), RefusalReason> {
        let mut taken = self.pools.taken.get(&address).into_iter().flatten();
        let is_own = |taken: &&Taken| **taken != Taken::Service(claimant.service.clone());
        if let Some(taken) = taken.find(is_own) {
            let holder = taken.to_string();
            return Err(RefusalReason::Taken { address, holder });
        }
        let holders = self.holders.get(&address).into_iter().flatten();
        let conflict = holders.map(|holder| (holder, unshared(claimant, holder)));
        match conflict.filter_map(|(holder, why)| Some((holder, why?))).next() {
            None => Ok(()),
            Some((holder, why)) => Err(RefusalReason::Held {
                address,
                holder: holder.service.clone(),
                why,
            }),
        }
    }

    fn take(&mut self, claimant: &'a Claimant, address: IpAddr, place: usize) {
        let Some(pool) = self.pools.pools.get(place) else {
            return;
        };
        self.holders.entry(address).or_default().push(claimant);
        if let Some(sharing) = &claimant.sharing {
            self.by_key.entry(&sharing.key).or_default().insert(address);
        }
        let given = Given {
            address,
            pool: pool.name.clone(),
        };
        self.given
            .entry(claimant.service.clone())
            .or_default()
            .push(given);
    }

    /// Notes a refusal; a conflict of two Services is said on both.
    fn refuse(&mut self, claimant: &Claimant, reason: RefusalReason) {
        if let RefusalReason::Held { address, holder, why } = &reason {
            let other = RefusalReason::Contested {
                address: *address,
                other: claimant.service.clone(),
                why: why.clone(),
            };
            self.refusals.insert((holder.clone(), other));
        }
        self.refusals.insert((claimant.service.clone(), reason));
    }

    /// Gives a Service an address in each family in which it has none and asks for none.
    fn give_any(&mut self, claimant: &'a Claimant) {
        let asks = |family: Family| {
            claimant
                .wanted
                .iter()
                .any(|address| family_of(*address) == family)
        };
        let families = claimant.families.iter().copied();
        let lacking: Vec<Family> = families
            .filter(|family| self.lacks(claimant, *family) && !asks(*family))
            .collect();
        if lacking.is_empty() {
            return;
        }
        if claimant.is_unreadable {
            return self.refuse(claimant, RefusalReason::Unreadable);
        }
        let candidates = match self.candidates(claimant) {
            Ok(candidates) => candidates,
            Err(reason) => return self.refuse(claimant, reason),
        };
        let mut found = Vec::new();
        let mut is_short = false;
        for family in lacking {
            let one = self
                .find_shared(claimant, family, &candidates)
                .or_else(|| self.find_free(family, &candidates));
            let given_back = self.given_back(claimant, family);
            match one.or(given_back) {
                Some(one) => found.push((one, given_back)),
                None => {
                    is_short = true;
                    let reason = self.why_none(family, &candidates);
                    self.refuse(claimant, reason);
                }
            }
        }
        for (one, given_back) in found {
            let chosen = if is_short && claimant.needs_all {
                given_back
            } else {
                Some(one)
            };
            if let Some((address, place)) = chosen {
                self.say_declined(claimant, given_back, address);
                self.take(claimant, address, place);
            }
        }
    }

    /// What a Service has got so far.
    fn given_to(&self, claimant: &Claimant) -> &[Given] {
        self.given.get(&claimant.service).map_or(&[], Vec::as_slice)
    }

    /// Whether a Service that takes both families or none has one of them.
    fn is_half(&self, claimant: &Claimant) -> bool {
        let given = self.given_to(claimant).len();
        claimant.needs_all && given > 0 && given < claimant.families.len()
    }

    /// Whether any of what it has it had not before.
    fn is_new(&self, claimant: &Claimant) -> bool {
        let mut given = self.given_to(claimant).iter();
        given.any(|given| !claimant.held.contains(&given.address))
    }

    /// Why it got the other one not, and so nothing new.
    fn why_half(&mut self, claimant: &Claimant) -> Vec<(ServiceKey, RefusalReason)> {
        self.refuse(claimant, RefusalReason::NotBoth);
        let is_its = |(service, _): &&(ServiceKey, RefusalReason)| *service == claimant.service;
        self.refusals.iter().filter(is_its).cloned().collect()
    }

    /// What comes out, with what was refused to those who were left out in the end.
    fn finish(mut self, left_out: impl Iterator<Item = (ServiceKey, RefusalReason)>) -> Allocation {
        self.refusals.extend(left_out);
        let given = self.given.into_iter().filter(|(_, given)| !given.is_empty());
        let refusals = self.refusals.into_iter();
        Allocation {
            given: given.collect(),
            refusals: refusals
                .map(|(service, reason)| Refusal { service, reason })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
