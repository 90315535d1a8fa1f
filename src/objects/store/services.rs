//! Services among themselves: which of two that claim one address gets it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::HashKey;

use super::build::Builder;
use super::{Claim, Notice, Origin, ServiceEntry, ServiceRecord, SliceRecord};
use crate::objects::fault::Fault;
use crate::objects::service::{Protocol, ServiceFault, ServiceKey};

/// What two claims collide over: kinds of addresses make no difference.
#[derive(PartialEq, Eq, Hash)]
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

impl Builder<'_> {
    /// Adds Services in the order of their age, each with its slices.
    pub(super) fn add_services(
        &mut self,
        services: &[(&Origin, &Arc<ServiceRecord>)],
        slices: &[&Arc<SliceRecord>],
    ) {
        let key = HashKey::random();
        let mut by_service: HashMap<&ServiceKey, Vec<Arc<SliceRecord>>, HashKey> = HashMap::with_hasher(key);
        for slice in slices {
            by_service
                .entry(&slice.service)
                .or_default()
                .push(Arc::clone(slice));
        }
        let mut taken: HashMap<Place, usize, HashKey> = HashMap::with_hasher(key);
        let mut entries = Vec::with_capacity(services.len());
        for (index, (origin, record)) in services.iter().enumerate() {
            let mut slices = by_service.remove(&record.key).unwrap_or_default();
            slices.sort_by(|a, b| a.name.cmp(&b.name));
            let mut lost = Vec::new();
            if record.is_programmed() {
                for claim in record.claims() {
                    if let Err(older) = self.take(index, (origin, record), claim, &mut taken) {
                        lost.push(claim);
                        if let Some((older_origin, older)) = older.and_then(|older| services.get(older)) {
                            self.contested((origin, record), (older_origin, older), claim);
                        }
                    }
                }
            }
            entries.push(ServiceEntry {
                record: Arc::clone(record),
                slices,
                lost,
            });
        }
        self.store.services = Arc::from(entries);
    }

    /// Gives a claim to a Service, or answers which older Service has it; nobody, if it can be no Service's.
    fn take(
        &mut self,
        index: usize,
        (origin, record): (&Origin, &ServiceRecord),
        claim: Claim,
        taken: &mut HashMap<Place, usize, HashKey>,
    ) -> Result<(), Option<usize>> {
        if let Claim::Vip { kind, address, .. } = claim
            && let Some((_, node)) = self.covering(address)
        {
            let reason = ServiceFault::VipInPodCidr {
                field: kind.field(),
                address,
                node: node.to_string(),
            };
            self.note(origin, record, reason);
            return Err(None);
        }
        match *taken.entry(Place::from(claim)).or_insert(index) {
            owner if owner == index => Ok(()),
            owner => Err(Some(owner)),
        }
    }

    /// Reports a claim of two on both.
    fn contested(
        &mut self,
        (origin, younger): (&Origin, &ServiceRecord),
        (older_origin, older): (&Origin, &ServiceRecord),
        claim: Claim,
    ) {
        let claim = claim.to_string();
        let taken = ServiceFault::Taken {
            claim: claim.clone(),
            older: older.key.to_string(),
        };
        self.note(origin, younger, taken);
        let contested = ServiceFault::Contested {
            claim,
            younger: younger.key.to_string(),
        };
        self.note(older_origin, older, contested);
    }

    fn note(&mut self, origin: &Origin, record: &ServiceRecord, reason: ServiceFault) {
        let notice = Notice::new(origin.clone(), Some(record.key.object_id()), Fault::from(reason));
        // One address with several ports says it once.
        if !self
            .store
            .notices
            .iter()
            .rev()
            .take(4)
            .any(|last| *last == notice)
        {
            self.store.notices.push(notice);
        }
    }
}
