//! Load balancers' addresses as they are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::Balancing;
use crate::admin::protocol::LoadBalancerRow;
use crate::balancer::announce::{Standing, Status};
use crate::balancer::aside::Claims;
use crate::balancer::claim::pool_of;
use crate::balancer::elect::Duty;
use crate::config::{Announce, LoadBalancer};
use crate::objects::{NodeName, ServiceKey};

/// Services, one after the other.
pub(super) fn names(services: &BTreeSet<ServiceKey>) -> String {
    let names: Vec<String> = services.iter().map(ToString::to_string).collect();
    names.join(", ")
}

impl Balancing {
    /// Every address, then what was refused.
    pub(in crate::daemon) fn rows(&self, config: &LoadBalancer, own: &NodeName) -> Vec<LoadBalancerRow> {
        let (now, claims) = (Instant::now(), self.claims());
        let addresses = self.duties.iter();
        let addresses =
            addresses.map(|(address, duty)| self.row((config, own, &claims), (*address, duty), now));
        let given = self.allocation.given.iter();
        let pending = given.flat_map(|(key, given)| given.iter().map(move |given| (key, given)));
        let pending = pending.filter(|(_, given)| !self.duties.contains_key(&given.address));
        let pending = pending.map(|(key, given)| LoadBalancerRow {
            address: Some(given.address),
            pool: Some(given.pool.clone()),
            services: vec![key.to_string()],
            ..row("given")
        });
        let refused = self.allocation.refusals.iter().map(|refusal| LoadBalancerRow {
            services: vec![refusal.service.to_string()],
            reason: Some(refusal.reason.to_string()),
            ..row("refused")
        });
        let faults = self.faults.iter().map(|fault| LoadBalancerRow {
            reason: Some(fault.clone()),
            ..row("refused")
        });
        let aside = self.aside.addresses().into_iter();
        let aside = aside.filter(|(address, _)| !self.duties.contains_key(address));
        let aside = aside.filter_map(|(address, by)| {
            Some(LoadBalancerRow {
                address: Some(address),
                pool: Some(pool_of(config, address)?.name.clone()),
                claimed_by: Some(by.to_string()),
                reason: Some(format!(
                    "{by} answers for it, so nobody gets it who does not ask for it"
                )),
                ..row("set-aside")
            })
        });
        let addresses = addresses.chain(pending).chain(aside);
        addresses.chain(refused).chain(faults).collect()
    }

    fn row(
        &self,
        (config, own, claims): (&LoadBalancer, &NodeName, &Claims),
        (address, duty): (IpAddr, &Duty),
        now: Instant,
    ) -> LoadBalancerRow {
        let elected = self.elected.get(&address).and_then(Option::as_ref);
        let status = self.announced.addresses.get(&address);
        let claim = claims.get(&address);
        let by = |node: Option<&NodeName>| node.map(ToString::to_string);
        let (state, announced_by) = match (config.announce, elected, status) {
            (Announce::None, ..) => ("given", None),
            (Announce::Route, ..) if duty.nodes.as_ref().is_none_or(|nodes| nodes.contains(own)) => {
                ("routed", by(Some(own)))
            }
            (Announce::Route, ..) | (Announce::Local, None, _) => ("no-node", None),
            (Announce::Local, Some(node), _) if node != own => {
                let has_it = claim.is_none_or(|claim| claim.is_announced);
                let state = if has_it { "elsewhere" } else { "conflict" };
                (state, by(Some(node).filter(|_| has_it)))
            }
            (Announce::Local, Some(_), Some(status)) => {
                (word(status), by(elected.filter(|_| is_said(status))))
            }
            (Announce::Local, Some(_), None) => ("probing", None),
        };
        let trouble = self.announced.trouble.clone().filter(|_| state == "probing");
        LoadBalancerRow {
            address: Some(address),
            pool: Some(duty.pool.clone()),
            services: duty.services.iter().map(ToString::to_string).collect(),
            announced_by,
            since_seconds: status.map(|status| now.saturating_duration_since(status.since).as_secs()),
            claimed_by: claim.map(|claim| claim.by.to_string()),
            reason: trouble,
            ..row(state)
        }
    }

    /// Counters by name.
    pub(in crate::daemon) fn counts(&self) -> BTreeMap<String, u64> {
        let Some(announcer) = &self.announcer else {
            return BTreeMap::new();
        };
        let announced = announcer.announced();
        let (announced, counts) = {
            let seen = announced.borrow();
            let said = seen.addresses.values().filter(|status| is_said(status)).count();
            (said, seen.counts)
        };
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        BTreeMap::from(
            [
                ("addresses", number(self.duties.len())),
                ("announced_here", number(announced)),
                ("set_aside", number(self.aside.addresses().len())),
                ("refused_services", number(self.allocation.refusals.len())),
                ("answered", counts.answered),
                ("rate_limited", counts.rate_limited),
                ("probes_sent", counts.probes_sent),
                ("announcements_sent", counts.announcements_sent),
                ("conflicts", counts.conflicts),
                ("ignored", counts.ignored),
            ]
            .map(|(name, count)| (name.to_owned(), count)),
        )
    }
}

fn is_said(status: &Status) -> bool {
    status.standing == Standing::Announced
}

fn word(status: &Status) -> &'static str {
    match status.standing {
        Standing::Probing => "probing",
        Standing::Announced => "announced",
        Standing::Refused => "conflict",
        Standing::Yielded => "elsewhere",
    }
}

fn row(state: &str) -> LoadBalancerRow {
    LoadBalancerRow {
        address: None,
        pool: None,
        services: Vec::new(),
        state: state.to_owned(),
        announced_by: None,
        since_seconds: None,
        claimed_by: None,
        reason: None,
    }
}
