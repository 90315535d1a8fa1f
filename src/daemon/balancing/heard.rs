//! What the announcer has heard: said, written down, told to the other nodes, and remembered when addresses are given out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use millrace_dataplane::wire::MacAddr;
use tracing::{error, info, warn};

use super::give::Word;
use super::{Balancing, rows};
use crate::balancer::announce::{Announced, Standing, Status};
use crate::balancer::aside::{Claim, Claims};
use crate::cluster::Pace;
use crate::objects::Store;

/// What this node has heard of hosts outside of the cluster.
pub(super) fn own_claims(announced: &Announced) -> Claims {
    let claims = announced.addresses.iter().filter_map(|(address, status)| {
        let claim = Claim {
            by: status.claimed_by?,
            is_announced: status.standing == Standing::Announced,
        };
        Some((*address, claim))
    });
    claims.collect()
}

impl Balancing {
    /// What all nodes that live have heard, this one included.
    pub(super) fn claims(&self) -> Claims {
        let mut claims = self.members.borrow().claims.clone();
        claims.extend(own_claims(&self.announced));
        claims
    }

    /// Sets aside what hosts outside of the cluster answer for.
    pub(super) fn set_aside(&mut self) {
        let announced = self.announced.addresses.iter();
        for (address, _) in announced.filter(|(_, status)| status.standing == Standing::Announced) {
            self.aside.announced(*address);
        }
        self.aside.hear(&self.claims(), Instant::now());
    }

    /// Has all that is wrong told again from time to time, as long as it is so: Events are forgotten after an hour.
    pub(in crate::daemon) fn tell_again(&mut self, store: &Store) {
        let now = Instant::now();
        if now < self.tell_at {
            return;
        }
        self.tell_at = now + Pace::default().event_again;
        for refusal in &self.allocation.refusals {
            let word = Word::Wrong(refusal.reason.word());
            self.tell(store, &refusal.service, word, &refusal.reason.to_string());
        }
        for (address, status) in &self.announced.addresses {
            self.tell_conflict(store, *address, status);
        }
    }

    /// Tells the Services that have an address who else does, if anybody.
    fn tell_conflict(&self, store: &Store, address: IpAddr, status: &Status) {
        let (Some(other), Some(duty)) = (status.claimed_by, self.duties.get(&address)) else {
            return;
        };
        let said = conflict(address, &rows::names(&duty.services), other, status.standing);
        for service in &duty.services {
            self.tell(store, service, Word::Wrong("AddressConflict"), &said);
        }
    }

    /// Says what is new of the announcer's, and writes down what this node announces.
    pub(super) fn follow_announcer(&mut self, store: &Store) {
        let Some(announcer) = &self.announcer else { return };
        let now = announcer.announced().borrow().clone();
        for (address, status) in &now.addresses {
            let before = self.announced.addresses.get(address);
            let services = self
                .duties
                .get(address)
                .map(|duty| rows::names(&duty.services))
                .unwrap_or_default();
            if let Some(other) = status.claimed_by
                && before.and_then(|before| before.claimed_by) != Some(other)
            {
                warn!("{}", conflict(*address, &services, other, status.standing));
                self.tell_conflict(store, *address, status);
            }
            if before.map(|before| before.standing) != Some(status.standing)
                && status.standing == Standing::Announced
            {
                info!("{address} of Service {services} is announced");
            }
        }
        self.announced = now;
        let addresses = self.announced.addresses.iter();
        let announced: BTreeSet<IpAddr> = addresses
            .filter(|(_, status)| status.standing == Standing::Announced)
            .map(|(address, _)| *address)
            .collect();
        // Before anything was ordered, what the last run announced is still to be gone on with.
        if self.ordered.is_some() && announced != self.saved.announced {
            self.saved.announced = announced;
            if let Err(failure) = self.saved.store(&self.folder) {
                error!("{failure}");
            }
        }
    }
}

/// What is said where somebody else has an address.
fn conflict(address: IpAddr, services: &str, other: MacAddr, standing: Standing) -> String {
    let outcome = match standing {
        Standing::Refused => "it is not announced here, and tried again from time to time",
        Standing::Announced | Standing::Probing | Standing::Yielded => {
            "it stays announced here: take it from one of the two"
        }
    };
    format!("{address} of Service {services} is also at {other}: {outcome}")
}
