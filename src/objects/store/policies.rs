//! Policies of networks beside the cluster's own, and pods' addresses there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::build::Builder;
use super::entry::pod_id;
use crate::objects::attachment::NetworkRecord;
use crate::objects::name::PodKey;
use crate::objects::network_status::NetworkAddresses;
use crate::objects::notice::{Notice, Origin};
use crate::objects::pod::PodRecord;
use crate::objects::policy::{PolicyFault, PolicyRecord};

impl NetworkRecord {
    /// Whether policies are in force in the network: not in a bridged one, and others this version does not have.
    #[must_use]
    pub fn is_policed(&self) -> bool {
        false
    }
}

impl Builder<'_> {
    /// Reports the networks that a MultiNetworkPolicy names and in which it cannot be in force.
    pub(super) fn check_networks_of(&mut self, origin: &Origin, policy: &PolicyRecord) {
        for network in &policy.networks {
            let fault = match self.store.networks.get(network) {
                None => PolicyFault::NetworkUnknown(network.clone()),
                Some(record) if !record.is_policed() => PolicyFault::NetworkBridged(network.clone()),
                Some(_) => continue,
            };
            let id = policy.key.object_id();
            self.store
                .notices
                .push(Notice::new(origin.clone(), Some(id), fault.into()));
        }
    }

    /// The pod with those of its addresses in other networks that it can have there: in a subnet, and no older pod's. Of
    /// networks that there are not, nothing is known.
    pub(super) fn with_addresses_of_its_own(
        &mut self,
        origin: &Origin,
        pod: Arc<PodRecord>,
    ) -> Arc<PodRecord> {
        let mut faults = Vec::new();
        for NetworkAddresses { network, ips } in &pod.networks {
            let Some(record) = self.store.networks.get(network) else {
                continue;
            };
            let taken = self.network_ips.entry(network.clone()).or_default();
            for address in ips {
                if let Err(fault) = claim(record, taken, &pod.key, *address) {
                    faults.push((network.clone(), *address, fault));
                }
            }
        }
        if faults.is_empty() {
            return pod;
        }
        let mut record = PodRecord::clone(&pod);
        for (network, address, fault) in faults {
            let known = record.networks.iter_mut();
            for known in known.filter(|known| known.network == network) {
                known.ips.retain(|ip| *ip != address);
            }
            let id = Some(pod_id(&pod.key));
            self.store
                .notices
                .push(Notice::new(origin.clone(), id, fault.into()));
        }
        Arc::new(record)
    }
}

/// Takes an address in a network for a pod.
fn claim(
    network: &NetworkRecord,
    taken: &mut BTreeMap<IpAddr, PodKey>,
    pod: &PodKey,
    address: IpAddr,
) -> Result<(), PolicyFault> {
    if !network.subnets.is_empty() && network.subnet_of(address).is_none() {
        return Err(PolicyFault::NetworkAddressOutside {
            address,
            network: network.key.clone(),
        });
    }
    if let Some(other) = taken.get(&address) {
        return Err(PolicyFault::NetworkAddressShared {
            address,
            network: network.key.clone(),
            pod: other.clone(),
        });
    }
    taken.insert(address, pod.clone());
    Ok(())
}
