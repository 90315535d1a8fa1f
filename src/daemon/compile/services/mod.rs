//! Services: from the store to the table of virtual addresses, Service by Service.
//!
//! Only what changed is made anew: a store hands over its entries by pointer, and one that is the same as before needs
//! no second look. One changed Service among ten thousand costs a walk over pointers and a copy of the table's keys.

mod changes;
mod claims;
mod endpoints;
mod host_ports;
mod ids;
mod one;
mod outcome;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::service::{
    BackendId, Frontend, FrontendKey, NodeFacts, ServiceCounts, ServiceTable,
};
use millrace_dataplane::table::{HashKey, Prefix};
use millrace_dataplane::wire::IpProtocol;

use crate::config::{BackendChoice, Services};
use crate::dns::service::ResolverService;
use crate::objects::{Claim, NodeName, Protocol, ServiceEntry, ServiceKey};
use endpoints::Place;
use host_ports::HostPorts;
use ids::{Ids, Sets};
use one::{Made, MadeEndpoint, Maker};

pub use changes::ServiceChanges;
pub use claims::HostListens;
pub use host_ports::PodHostPorts;
pub use outcome::{HealthPort, LocalEndpoints, ServiceMemory, ServiceSteering};

/// Everything that Services are made from.
#[derive(Debug)]
pub struct ServiceInputs<'a> {
    /// The Services.
    pub services: &'a Arc<[Arc<ServiceEntry>]>,
    /// This node's name.
    pub node: &'a NodeName,
    /// This node's zone.
    pub zone: Option<&'a str>,
    /// The node's own addresses, loopback's left out.
    pub own_addresses: &'a [IpAddr],
    /// Those of them that are on the uplink.
    pub uplink_addresses: &'a [IpAddr],
    /// The gateways of the node's pods.
    pub gateways: &'a [IpAddr],
    /// Every node's addresses.
    pub node_addresses: &'a HashSet<IpAddr>,
    /// Ports of the node's own services that are never taken.
    pub fail_safe_ports: &'a [u16],
    /// What the node itself listens on.
    pub listens: HostListens<'a>,
    /// The host ports of the node's own pods.
    pub host_ports: &'a [PodHostPorts],
    /// The node's own resolver.
    pub resolver: Option<&'a ResolverService>,
}

/// What Services come to, and the memory that makes the next time cheap.
#[derive(Debug)]
pub struct ServiceCompiler {
    config: Services,
    context: Option<Context>,
    made: HashMap<ServiceKey, Made>,
    /// What it was all made from.
    from: Arc<[Arc<ServiceEntry>]>,
    /// Services that this node refuses something, and those with a port for health checks.
    refused: BTreeSet<ServiceKey>,
    checked: BTreeSet<ServiceKey>,
    services: Ids,
    backends: Ids,
    sets: Sets,
    counts: ServiceCounts,
    table: Arc<ServiceTable>,
    steering: Arc<ServiceSteering>,
    /// Backends that changed, and addresses that began to lead somewhere, since this was last asked for.
    changes: ServiceChanges,
    host_ports: HostPorts,
}

/// What every Service is made with; if it changes, all are made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context {
    place: Place,
    facts: Arc<NodeFacts>,
    own_addresses: Vec<IpAddr>,
    node_addresses: HashSet<IpAddr>,
}

impl ServiceCompiler {
    /// Without any Service yet. `key` is the secret that tables are looked up by.
    #[must_use]
    pub fn new(config: &Services, key: HashKey, workers: usize) -> Self {
        let is_random = config.backend_choice == BackendChoice::Random;
        let choice_key = if is_random {
            HashKey::random()
        } else {
            config.hash_seed.key()
        };
        let table = ServiceTable::new(key, choice_key, is_random);
        Self {
            config: config.clone(),
            context: None,
            made: HashMap::new(),
            from: Arc::from([]),
            refused: BTreeSet::new(),
            checked: BTreeSet::new(),
            services: Ids::default(),
            backends: Ids::default(),
            sets: Sets::new(choice_key, is_random),
            counts: ServiceCounts::new(workers),
            table: Arc::new(table),
            steering: Arc::default(),
            changes: ServiceChanges::default(),
            host_ports: HostPorts::default(),
        }
    }

    /// Brings everything up to date with the inputs.
    pub fn update(&mut self, inputs: &ServiceInputs<'_>) {
        let context = self.context_of(inputs);
        let is_same = self.context.as_ref() == Some(&context);
        let freed = self.freed(inputs.listens);
        let services = self.host_ports.beside(inputs);
        let (changed, gone) = self.differences(&services, is_same, &freed);
        if is_same && changed.is_empty() && gone.is_empty() {
            return;
        }
        let mut table = ServiceTable::clone(&self.table);
        table.set_node(Arc::clone(&context.facts));
        let led_before = self.take_out(&mut table, &changed, &gone);
        for key in &gone {
            if let Some(old) = self.made.remove(key) {
                self.retire(&old, None);
            }
            self.refused.remove(key);
            self.checked.remove(key);
        }
        for entry in &changed {
            self.remake(entry, &context, inputs);
        }
        let mut leads = HashSet::new();
        for entry in changed {
            self.put_in(&mut table, &entry.record.key, &led_before, &mut leads);
        }
        if self.counts.grow(self.services.end(), self.backends.end()) {
            table.set_counts(Arc::new(self.counts.clone()));
        }
        self.table = Arc::new(table);
        self.context = Some(context);
        self.from = Arc::clone(&services);
        if !is_same || leads != led_before {
            self.steering = Arc::new(self.steer(inputs));
        }
    }

    /// The table for the workers.
    #[must_use]
    pub fn table(&self) -> &Arc<ServiceTable> {
        &self.table
    }

    /// What the uplink's steering, and the kernel's routes, have to know.
    #[must_use]
    pub fn steering(&self) -> &Arc<ServiceSteering> {
        &self.steering
    }

    /// What changed since this was last asked.
    pub fn take_changes(&mut self) -> ServiceChanges {
        std::mem::take(&mut self.changes)
    }

    fn context_of(&self, inputs: &ServiceInputs<'_>) -> Context {
        let prefixes = self.config.cidrs.iter();
        let facts = NodeFacts {
            node_port_addresses: inputs
                .own_addresses
                .iter()
                .chain(inputs.gateways)
                .copied()
                .collect(),
            gateways: inputs.gateways.to_vec(),
            caller_addresses: inputs.uplink_addresses.to_vec(),
            service_prefixes: prefixes
                .filter_map(|cidr| Prefix::containing(cidr.addr(), cidr.prefix_len()).ok())
                .collect(),
        };
        Context {
            place: Place {
                node: inputs.node.clone(),
                zone: inputs.zone.map(str::to_owned),
            },
            facts: Arc::new(facts),
            own_addresses: inputs.own_addresses.to_vec(),
            node_addresses: inputs.node_addresses.clone(),
        }
    }

    /// Which Services are not made yet from these very entries, or could have more than they have (`freed`), or all if not
    /// everything else `is_same`; and which are no longer there. Entries are told apart by pointer: those they were made from are kept, so none is another's.
    fn differences<'s>(
        &self,
        services: &'s Arc<[Arc<ServiceEntry>]>,
        is_same: bool,
        freed: &HashSet<ServiceKey>,
    ) -> (Vec<&'s Arc<ServiceEntry>>, Vec<ServiceKey>) {
        if Arc::ptr_eq(services, &self.from) {
            let due = |entry: &&Arc<ServiceEntry>| !is_same || freed.contains(&entry.record.key);
            return (services.iter().filter(due).collect(), Vec::new());
        }
        let pointers = |entries: &[Arc<ServiceEntry>]| -> HashSet<*const ServiceEntry> {
            entries.iter().map(Arc::as_ptr).collect()
        };
        let (before, now) = (pointers(&self.from), pointers(services));
        let changed: Vec<_> = services
            .iter()
            .filter(|entry| {
                !is_same || freed.contains(&entry.record.key) || !before.contains(&Arc::as_ptr(entry))
            })
            .collect();
        let replaced: HashSet<&ServiceKey> = changed.iter().map(|entry| &entry.record.key).collect();
        let left = self
            .from
            .iter()
            .filter(|entry| !now.contains(&Arc::as_ptr(entry)));
        let gone = left
            .map(|entry| &entry.record.key)
            .filter(|key| !replaced.contains(key));
        (changed, gone.cloned().collect())
    }

    /// Takes what is to be made anew, or gone, out of the table; answers what led anywhere before. All of it first, as
    /// an address may change hands.
    fn take_out(
        &self,
        table: &mut ServiceTable,
        changed: &[&Arc<ServiceEntry>],
        gone: &[ServiceKey],
    ) -> HashSet<FrontendKey> {
        let keys = changed.iter().map(|entry| &entry.record.key).chain(gone);
        let mut led = HashSet::new();
        for old in keys.filter_map(|key| self.made.get(key)) {
            for (key, ..) in &old.frontends {
                table.remove(key);
                led.insert(*key);
            }
            for address in &old.cluster_addresses {
                table.release_cluster_address(*address);
            }
        }
        led
    }

    /// Makes a Service anew, and notes what changed about its backends.
    fn remake(&mut self, entry: &Arc<ServiceEntry>, context: &Context, inputs: &ServiceInputs<'_>) {
        let key = &entry.record.key;
        let old = self.made.remove(key);
        // An address that has just become the node's own is judged anew.
        let before = self.context.as_ref();
        let is_own = |claim: &Claim| match claim {
            Claim::Vip { address, .. } => before.is_some_and(|before| before.own_addresses.contains(address)),
            Claim::NodePort { .. } => false,
        };
        let had = old.as_ref();
        let range = self.config.node_port_range;
        let made = Maker {
            place: &context.place,
            check: &|claim| claims::check(claim, inputs, range, had.filter(|_| is_own(claim))),
            services: &mut self.services,
            backends: &mut self.backends,
            sets: &mut self.sets,
            counts: &self.counts,
        }
        .make(entry, old.as_ref());
        if let Some(old) = &old {
            self.retire(old, Some(&made));
        }
        let endpoints = made.ports.iter().flat_map(|port| &port.endpoints);
        // A new backend's number may have been another's.
        let is_new = |id: &BackendId| !old.as_ref().is_some_and(|old| old.has_backend(*id));
        self.changes
            .backends
            .extend(endpoints.map(|endpoint| endpoint.id).filter(is_new));
        for (is_in, set) in [
            (!made.refused.is_empty(), &mut self.refused),
            (
                made.entry.record.health_check_node_port.is_some(),
                &mut self.checked,
            ),
        ] {
            if is_in {
                set.insert(key.clone());
            } else {
                set.remove(key);
            }
        }
        self.made.insert(key.clone(), made);
    }

    /// Notes which backends of a Service changed, and takes back the numbers that are free now.
    fn retire(&mut self, old: &Made, new: Option<&Made>) {
        // An address that no longer leads here makes flows to it stale, whatever their backends do.
        let is_moved = new.is_none_or(|new| new.frontends != old.frontends);
        for port in &old.ports {
            let same = new.and_then(|new| new.ports.iter().find(|made| made.id() == port.id()));
            if same.is_none() {
                self.services.give_back(port.id().get());
            }
            for endpoint in &port.endpoints {
                let now = same.and_then(|same| same.endpoint(endpoint.address, endpoint.port));
                if is_moved || now.map(MadeEndpoint::serving) != Some(endpoint.serving()) {
                    self.changes.backends.insert(endpoint.id);
                }
                if now.is_none() {
                    self.backends.give_back(endpoint.id.get());
                }
            }
        }
    }

    /// Lets a Service's addresses and node ports lead to it, and notes those that led nowhere before.
    fn put_in(
        &mut self,
        table: &mut ServiceTable,
        key: &ServiceKey,
        led_before: &HashSet<FrontendKey>,
        leads: &mut HashSet<FrontendKey>,
    ) {
        let Some(made) = self.made.get(key) else { return };
        for (key, scope, place) in &made.frontends {
            let Some(port) = made.ports.get(*place) else {
                continue;
            };
            let frontend = Frontend {
                scope: *scope,
                service: Arc::clone(&port.service),
            };
            table.insert(*key, frontend);
            leads.insert(*key);
            if !led_before.contains(key) {
                match key {
                    FrontendKey::Address(address, ..) => {
                        self.changes.addresses.insert(*address);
                    }
                    FrontendKey::NodePort { .. } => self.changes.node_ports = true,
                }
            }
        }
        for address in &made.cluster_addresses {
            table.claim_cluster_address(*address);
        }
    }
}

/// The protocol's number in a packet.
pub(super) fn number(protocol: Protocol) -> IpProtocol {
    match protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
        Protocol::Sctp => IpProtocol::SCTP,
    }
}
