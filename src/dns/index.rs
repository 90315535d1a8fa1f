//! What names are found by beside the store's own order: Services by address, and endpoints by their hostnames.
//!
//! Kept up to date Service by Service: one that is the same as before, by pointer, costs a comparison.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::objects::{Claim, Endpoint, Protocol, ServiceEntry, ServiceKey, ServiceKind, VipKind};

type Entries = Arc<[Arc<ServiceEntry>]>;

/// The Services, and the indices of them.
#[derive(Debug)]
pub(super) struct Index {
    /// By namespace and name.
    services: Entries,
    /// By their cluster IPs, and headless ones by their endpoints' addresses.
    by_address: HashMap<IpAddr, Vec<Arc<ServiceEntry>>>,
    /// The endpoints of headless ones.
    hosts: HashMap<ServiceKey, Hosts>,
}

/// The endpoints of a headless Service that DNS gives out, by hostname and by address.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    by_name: HashMap<String, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, String>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            services: Arc::from([]),
            by_address: HashMap::new(),
            hosts: HashMap::new(),
        }
    }
}

impl Index {
    /// Brings everything up to date with these Services.
    pub(super) fn update(&mut self, services: &Entries) {
        if Arc::ptr_eq(services, &self.services) {
            return;
        }
        let old = std::mem::replace(&mut self.services, Arc::clone(services));
        let (mut before, mut now) = (old.iter().peekable(), services.iter().peekable());
        // Both are in the order of their keys.
        loop {
            let (gone, new) = match (before.peek(), now.peek()) {
                (None, None) => return,
                (Some(_), None) => (before.next(), None),
                (None, Some(_)) => (None, now.next()),
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {
                    before.next();
                    now.next();
                    continue;
                }
                (Some(old), Some(new)) => match old.record.key.cmp(&new.record.key) {
                    std::cmp::Ordering::Less => (before.next(), None),
                    std::cmp::Ordering::Equal => (before.next(), now.next()),
                    std::cmp::Ordering::Greater => (None, now.next()),
                },
            };
            if let Some(entry) = gone {
                self.remove(entry);
            }
            if let Some(entry) = new {
                self.add(entry);
            }
        }
    }

    /// A Service by namespace and name.
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceEntry>> {
        let key = |entry: &Arc<ServiceEntry>| {
            let key = &entry.record.key;
            (key.namespace(), key.name()).cmp(&(namespace, name))
        };
        let place = self.services.binary_search_by(key).ok()?;
        self.services.get(place)
    }

    /// The endpoints of a headless Service.
    pub(super) fn hosts(&self, key: &ServiceKey) -> Option<&Hosts> {
        self.hosts.get(key)
    }

    /// The Services that an address is one of, or of an endpoint of, with the endpoint's hostname there.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = (&ServiceKey, Option<&str>)> {
        let entries = self.by_address.get(&address).into_iter().flatten();
        entries.map(move |entry| {
            let key = &entry.record.key;
            let hosts = self.hosts.get(key);
            (key, hosts.and_then(|hosts| hosts.name(address)))
        })
    }

    /// How many Services there are.
    pub(super) fn len(&self) -> usize {
        self.services.len()
    }

    fn add(&mut self, entry: &Arc<ServiceEntry>) {
        let record = &entry.record;
        let addresses: Vec<IpAddr> = if record.kind == ServiceKind::Headless {
            let hosts = Hosts::of(entry);
            let addresses = hosts.by_address.keys().copied().collect();
            self.hosts.insert(record.key.clone(), hosts);
            addresses
        } else {
            cluster_ips(entry).collect()
        };
        for address in addresses {
            self.by_address
                .entry(address)
                .or_default()
                .push(Arc::clone(entry));
        }
    }

    fn remove(&mut self, entry: &Arc<ServiceEntry>) {
        let hosts = self.hosts.remove(&entry.record.key);
        let of_hosts = hosts.into_iter().flat_map(|hosts| hosts.by_address.into_keys());
        for address in of_hosts.chain(cluster_ips(entry)) {
            if let Some(entries) = self.by_address.get_mut(&address) {
                entries.retain(|other| !Arc::ptr_eq(other, entry));
                if entries.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }
}

impl Hosts {
    fn of(entry: &ServiceEntry) -> Self {
        let mut hosts = Self::default();
        let slices = entry.slices.iter();
        for endpoint in slices.flat_map(|slice| &slice.endpoints) {
            // One that stands in several slices is one.
            if !is_given_out(entry, endpoint) || hosts.by_address.contains_key(&endpoint.address) {
                continue;
            }
            let name = hostname(endpoint);
            let addresses = hosts.by_name.entry(name.clone()).or_default();
            addresses.push(endpoint.address);
            hosts.by_address.insert(endpoint.address, name);
        }
        hosts
            .by_name
            .values_mut()
            .for_each(|addresses| addresses.sort_unstable());
        hosts
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// All addresses, in no order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.by_address.keys().copied()
    }

    /// The addresses of a hostname; empty if there is no such endpoint.
    pub(super) fn called(&self, name: &str) -> &[IpAddr] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The hostname of an address.
    fn name(&self, address: IpAddr) -> Option<&str> {
        self.by_address.get(&address).map(String::as_str)
    }

    /// The endpoints that have a port of this name and protocol: hostname and number, each once, in order.
    pub(super) fn with_port(&self, entry: &ServiceEntry, port: &str, protocol: Protocol) -> Vec<(&str, u16)> {
        let mut found: Vec<(&str, u16)> = Vec::new();
        for slice in &entry.slices {
            let ports = slice.ports.iter();
            let ports = ports.filter(|of_slice| of_slice.name == port && of_slice.protocol == protocol);
            for number in ports.map(|of_slice| of_slice.port) {
                let endpoints = slice.endpoints.iter();
                let given_out = endpoints.filter(|endpoint| is_given_out(entry, endpoint));
                found.extend(given_out.filter_map(|endpoint| Some((self.name(endpoint.address)?, number))));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Whether DNS gives an endpoint of a headless Service out: it is ready, or the Service publishes all.
fn is_given_out(entry: &ServiceEntry, endpoint: &Endpoint) -> bool {
    endpoint.ready || entry.record.publish_not_ready
}

/// The endpoint's own hostname, or else one that is made from its address, as CoreDNS does.
fn hostname(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(name) => name.clone(),
        None => endpoint.address.to_string().replace(['.', ':'], "-"),
    }
}

/// The cluster IPs that a Service has: one that an older Service has is not given out.
pub(super) fn cluster_ips(entry: &ServiceEntry) -> impl Iterator<Item = IpAddr> + '_ {
    let record = &entry.record;
    let is_lost = |address: IpAddr| {
        !entry.lost.is_empty()
            && record.ports.iter().all(|port| {
                entry.lost.contains(&Claim::Vip {
                    kind: VipKind::Cluster,
                    address,
                    protocol: port.protocol,
                    port: port.port,
                })
            })
    };
    record
        .cluster_ips
        .iter()
        .copied()
        .filter(move |address| !is_lost(*address))
}
