//! Routed networks beside the cluster's own, as they come into force and go.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use millrace_dataplane::table::flow::Address;
use millrace_dataplane::table::{FlowShard, FlowTable, NetworkId, RoutedNetworks, SubjectId, Subjects};
use tracing::{debug, warn};

use super::Daemon;
use super::compile::{Compiled, changed_subjects};

impl Daemon {
    /// Notes down in each routed network's tables what changed in them. Of one that had none all did.
    pub(super) fn date_routed(&mut self, compiled: &mut Compiled) {
        let policies = &mut self.policing.compilers.networks;
        let served = compiled.second.networks.iter();
        let policed: BTreeMap<NetworkId, HashSet<SubjectId>> = served
            .filter_map(|served| Some((served.id?, policies.take_changes(&served.record.key))))
            .collect();
        if compiled.tables.routed.is_empty() {
            return;
        }
        let epoch = compiled.tables.epoch;
        let dated = compiled.tables.routed.iter().cloned().map(|mut tables| {
            tables.subjects = match self.tables.routed.get(tables.network) {
                Some(last) => {
                    let mut changed = changed_subjects(&last.routes, &tables.routes);
                    changed.extend(policed.get(&tables.network).into_iter().flatten());
                    last.subjects.with_changes(&changed, epoch)
                }
                None => Subjects::since(epoch),
            };
            tables
        });
        let ports = compiled
            .second
            .routed_ports
            .iter()
            .map(|(port, network)| (*port, *network));
        compiled.tables.routed = Arc::new(RoutedNetworks::build(dated, ports));
    }

    /// Forgets the connections within networks that are not served, on a thread of its own and after the workers have the new
    /// tables: whoever gets their numbers next has none of them.
    pub(super) fn forget_connections(&self, served: BTreeSet<NetworkId>) {
        let flows = Arc::clone(&self.connections.flows);
        let look = move || {
            let is_gone = |network| network != NetworkId::CLUSTER && !served.contains(&network);
            let forgotten = forget_networks(&flows, is_gone);
            debug!(forgotten, "connections of networks that are gone");
        };
        if let Err(error) = std::thread::Builder::new()
            .name("forget-networks".into())
            .spawn(look)
        {
            warn!("connections of networks that are gone are not forgotten: {error}");
        }
    }
}

/// Forgets the connections within some networks; answers how many. Looks at the whole table.
pub(super) fn forget_networks(flows: &FlowTable, is_gone: impl Fn(NetworkId) -> bool) -> u32 {
    forget::<Ipv4Addr>(flows.v4(), &is_gone) + forget::<Ipv6Addr>(flows.v6(), &is_gone)
}

fn forget<A: Address>(flows: &FlowShard<A>, is_gone: &impl Fn(NetworkId) -> bool) -> u32 {
    flows.remove_where(|connection| is_gone(connection.original.network))
}
