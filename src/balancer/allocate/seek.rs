//! The search for an address that a Service has not asked for.

use std::net::IpAddr;

use super::{Claimant, FamilyName, RefusalReason, Work, family_of};
use crate::config::AddressRange;
use crate::objects::Family;

impl Work<'_> {
    /// The pools that a Service without a wish for an address gets one from.
    pub(super) fn candidates(&self, claimant: &Claimant) -> Result<Vec<usize>, RefusalReason> {
        let all = self.pools.pools;
        if let Some(name) = &claimant.pool {
            let place = all.iter().position(|pool| pool.name == *name);
            let place = place.ok_or_else(|| RefusalReason::NoSuchPool(name.clone()))?;
            if !claimant.admitted.contains(&place) {
                return Err(RefusalReason::PoolNotAdmitted(name.clone()));
            }
            if self.pools.refused.contains(&place) {
                return Err(RefusalReason::PoolRefused(name.clone()));
            }
            return Ok(vec![place]);
        }
        let is_open = |place: &usize| {
            all.get(*place).is_some_and(|pool| pool.auto_assign) && !self.pools.refused.contains(place)
        };
        Ok(claimant.admitted.iter().copied().filter(is_open).collect())
    }

    /// An address that Services of the same sharing key have.
    pub(super) fn find_shared(
        &self,
        claimant: &Claimant,
        family: Family,
        candidates: &[usize],
    ) -> Option<(IpAddr, usize)> {
        let shared = self.by_key.get(claimant.sharing.as_ref()?.key.as_str())?;
        let of_family = shared.iter().filter(|address| family_of(**address) == family);
        of_family
            .filter_map(|address| {
                let place = self.admit(claimant, *address, false).ok()?;
                let is_free = candidates.contains(&place) && self.check_free(claimant, *address).is_ok();
                is_free.then_some((*address, place))
            })
            .next()
    }

    /// What a Service gives back, which is better than nothing.
    pub(super) fn given_back(&self, claimant: &Claimant, family: Family) -> Option<(IpAddr, usize)> {
        let declined = claimant
            .held
            .iter()
            .filter(|held| claimant.declined.contains(held));
        let mut of_family = declined.filter(|address| family_of(**address) == family);
        let address = *of_family.next()?;
        let place = self.admit(claimant, address, true).ok()?;
        self.check_free(claimant, address).ok()?;
        Some((address, place))
    }

    pub(super) fn say_declined(
        &mut self,
        claimant: &Claimant,
        given_back: Option<(IpAddr, usize)>,
        instead: IpAddr,
    ) {
        if let Some((address, _)) = given_back.filter(|(address, _)| *address != instead)
            && let Some(by) = self.pools.aside.get(&address)
        {
            let by = by.to_string();
            let reason = RefusalReason::Declined { address, by, instead };
            self.refuse(claimant, reason);
        }
    }

    /// The lowest address that nobody has, of the first pool with one.
    pub(super) fn find_free(&mut self, family: Family, candidates: &[usize]) -> Option<(IpAddr, usize)> {
        for place in candidates {
            let Some(pool) = self.pools.pools.get(*place) else {
                continue;
            };
            let ranges = pool.addresses.iter().enumerate();
            for (index, range) in ranges.filter(|(_, range)| family_of(range.first()) == family) {
                let next = self.next.entry((*place, index));
                let next = next.or_insert_with(|| AddressRange::number(range.first()));
                // As many steps as there are addresses that somebody has, and two in 256 that are left out.
                while let Some(address) = range.address(*next) {
                    let is_had = self.holders.contains_key(&address)
                        || self.pools.taken.contains_key(&address)
                        || self.pools.aside.contains_key(&address);
                    if !is_had && !pool.skips(address) {
                        return Some((address, *place));
                    }
                    *next = next.saturating_add(1);
                }
            }
        }
        None
    }

    pub(super) fn why_none(&self, family: Family, candidates: &[usize]) -> RefusalReason {
        let pools = candidates.iter().filter_map(|place| self.pools.pools.get(*place));
        let of_family = pools.filter(|pool| {
            let mut ranges = pool.addresses.iter();
            ranges.any(|range| family_of(range.first()) == family)
        });
        let names: Vec<String> = of_family.map(|pool| format!("pool `{}`", pool.name)).collect();
        let family = FamilyName(family);
        if names.is_empty() {
            RefusalReason::NoPool(family)
        } else {
            let pools = names.join(", ");
            let aside = self.pools.aside.keys();
            let mut aside = aside.filter(|address| FamilyName(family_of(**address)) == family);
            let is_any = aside.any(|address| {
                let pools = candidates.iter().filter_map(|place| self.pools.pools.get(*place));
                pools.into_iter().any(|pool| pool.contains(*address))
            });
            RefusalReason::Exhausted {
                family,
                pools,
                or_aside: if is_any { ", or another host's" } else { "" },
            }
        }
    }
}
