//! Policies of networks beside the cluster's own, and pods' addresses there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::build::Builder;
use super::entry::pod_id;
use crate::objects::attachment::NetworkRecord;
use crate::objects::name::{NodeName, PodKey};
use crate::objects::network_status::NetworkAddresses;
use crate::objects::notice::{Notice, Origin};
use crate::objects::pod::PodRecord;
use crate::objects::policy::{PolicyFault, PolicyRecord};

impl NetworkRecord {
    /// Whether policies are in force in the network: in a routed one.
    #[must_use]
    pub fn is_policed(&self) -> bool {
        self.routing().is_some()
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

    /// The pod with those of its addresses in other networks that it can have there: in a subnet, in a routed network in a
    /// block of its node, and no older pod's. Of networks that there are not, nothing is known.
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
                if let Err(fault) = claim(record, taken, &pod, *address) {
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
    pod: &PodRecord,
    address: IpAddr,
) -> Result<(), PolicyFault> {
    if !network.subnets.is_empty() && network.subnet_of(address).is_none() {
        return Err(PolicyFault::NetworkAddressOutside {
            address,
            network: network.key.clone(),
        });
    }
    // What leads there is the routes to the nodes' blocks.
    let node = pod.node_name.as_ref().filter(|_| network.is_policed());
    let is_behind = |node: &&NodeName| {
        network
            .blocks_of(node)
            .iter()
            .any(|block| block.contains(&address))
    };
    if let Some(node) = node.filter(|node| !is_behind(node)) {
        return Err(PolicyFault::NetworkAddressElsewhere {
            address,
            network: network.key.clone(),
            node: node.clone(),
        });
    }
    if let Some(other) = taken.get(&address) {
        return Err(PolicyFault::NetworkAddressShared {
            address,
            network: network.key.clone(),
            pod: other.clone(),
        });
    }
    taken.insert(address, pod.key.clone());
    Ok(())
}
