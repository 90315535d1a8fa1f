//! Giving out addresses, and seeing that what was given out is known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use tracing::{error, info, warn};

use super::{Balancing, Sink};
use crate::balancer::cluster::Order;
use crate::balancer::{Allocation, Refusal, SavedAddresses, allocate, claim};
use crate::cluster::Report;
use crate::config::LoadBalancer;
use crate::objects::{Assigned, ServiceKey, Store};

/// The reason of an Event, one word.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    /// That all is well.
    Well(&'static str),
    /// That something is wrong.
    Wrong(&'static str),
}

impl Balancing {
    /// Gives out addresses, where that is for this node to do.
    pub(super) fn give_out(&mut self, config: &LoadBalancer, store: &Store, own_addresses: &[IpAddr]) {
        if !self.members.borrow().leads {
            self.leave_it();
            return;
        }
        let is_status_ours = match self.sink {
            Sink::Folder(_) => false,
            Sink::Cluster(_) => true,
        };
        if is_status_ours {
            self.settle(store);
        }
        let claims = claim::Claims::of(claim::Inputs {
            config,
            store,
            assigned: &self.assigned,
            is_status_ours,
            own_addresses,
            aside: &self.aside,
        });
        let allocation = allocate(&claims.claimants, claims.pools(config));
        for fault in claims.faults.iter().filter(|fault| !self.faults.contains(fault)) {
            error!("{fault}");
        }
        let is_new = |refusal: &&Refusal| !self.allocation.refusals.contains(refusal);
        for refusal in allocation.refusals.iter().filter(is_new) {
            warn!("Service {}: {}", refusal.service, refusal.reason);
            let word = Word::Wrong(refusal.reason.word());
            self.tell(store, &refusal.service, word, &refusal.reason.to_string());
        }
        self.faults.clone_from(&claims.faults);
        self.allocation = allocation;
        self.note_given(&claims);
        let given = self.allocation.given.iter();
        let given: Assigned = given
            .map(|(key, given)| (key.clone(), given.iter().map(|given| given.address).collect()))
            .collect();
        match &self.sink {
            Sink::Folder(_) => self.write_down(given),
            Sink::Cluster(_) => self.write_status(store, &claims, &given),
        }
    }

    /// Remembers who was just given what without having asked for it: it may turn out to be another host's.
    fn note_given(&mut self, claims: &claim::Claims) {
        let now = Instant::now();
        for claimant in &claims.claimants {
            let given = self.allocation.given.get(&claimant.service).into_iter().flatten();
            let addresses = given.map(|given| given.address);
            for address in addresses
                .filter(|address| !claimant.held.contains(address) && !claimant.wanted.contains(address))
            {
                self.aside.give(&claimant.service, address, now);
            }
        }
    }

    /// Another node gives out addresses from now on.
    fn leave_it(&mut self) {
        if let Sink::Cluster(orders) = &self.sink
            && (!self.assigned.is_empty() || self.allocation != Allocation::default())
        {
            // A queue that is full of what is not to be written either.
            let _ = orders.try_send(Order::Forget);
            self.assigned = Assigned::new();
            self.allocation = Allocation::default();
            self.faults = Vec::new();
        }
    }

    /// What the objects show is written.
    fn settle(&mut self, store: &Store) {
        if self.assigned.is_empty() {
            return;
        }
        let shown: BTreeMap<_, _> = store
            .services()
            .iter()
            .map(|entry| (&entry.record.key, &entry.record.load_balancer_ips))
            .collect();
        let is_due = |key: &ServiceKey, addresses: &Vec<IpAddr>| {
            shown.get(key).is_some_and(|shown| *shown != addresses)
        };
        self.assigned.retain(|key, addresses| is_due(key, addresses));
    }

    /// Has the Services' status say what they were given, where it does not.
    fn write_status(&mut self, store: &Store, claims: &claim::Claims, given: &Assigned) {
        let Sink::Cluster(orders) = &self.sink else { return };
        let none = Vec::new();
        let differing = claims.claimants.iter().filter_map(|claimant| {
            let wanted = given.get(&claimant.service).unwrap_or(&none);
            (claimant.held != *wanted).then(|| (claimant.service.clone(), wanted.clone()))
        });
        let ingress: Assigned = differing.collect();
        // What finds no room is found to differ again.
        if !ingress.is_empty() && orders.try_send(Order::Ingress(ingress.clone())).is_ok() {
            for (service, addresses) in &ingress {
                let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                if !words.is_empty() {
                    self.tell(store, service, Word::Well("AddressesGiven"), &words.join(", "));
                }
            }
            self.assigned.extend(ingress);
        }
    }

    /// An Event on a Service, where there is somebody to make it.
    pub(super) fn tell(&self, store: &Store, service: &ServiceKey, word: Word, note: &str) {
        let Some(reporter) = &self.reporter else { return };
        let mut entries = store.services().iter();
        let Some(entry) = entries.find(|entry| entry.record.key == *service) else {
            return;
        };
        let (is_warning, reason) = match word {
            Word::Well(reason) => (false, reason),
            Word::Wrong(reason) => (true, reason),
        };
        if let Some(report) = Report::of_addresses(&entry.record, is_warning, reason, note.to_owned()) {
            reporter.report(report);
        }
    }

    /// Makes what is given out known to the folder's reader, once it is written down.
    fn write_down(&mut self, assigned: Assigned) {
        if assigned == self.assigned {
            return;
        }
        for (key, addresses) in &assigned {
            if self.assigned.get(key) != Some(addresses) {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                info!(
                    "Service {key} has load balancer's addresses {}",
                    addresses.join(", ")
                );
            }
        }
        let saved = SavedAddresses::new(&assigned, self.saved.announced.clone());
        // What is not written down is not given out: after a crash another Service could get it.
        if let Err(failure) = saved.store(&self.folder) {
            error!("load balancers' addresses stay as they are: {failure}");
            return;
        }
        self.saved = saved;
        self.assigned = assigned;
        if let Sink::Folder(assigner) = &self.sink {
            assigner.assign(self.assigned.clone());
        }
    }
}
