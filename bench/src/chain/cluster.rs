//! A made-up cluster: so many Services and policies, for every arm the same.
//!
//! The pod that calls is in Namespace `lab`, the pods behind the Services are in `shop`, all on the other node. A few
//! Services have one endpoint, so that there is no doubt which it is; the others have three.

use std::net::Ipv4Addr;

use millrace_tools::pktgen::AddressRange;

/// The Namespace of the backends.
pub(crate) const SHOP: &str = "shop";
/// Where the pods of the cluster are, and where those of this node.
pub(crate) const POD_NETWORKS: &str = "10.244.0.0/16";
/// Where Services' addresses come from, kubeadm's default.
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/12";
/// The address before the first Service's.
const SERVICES_FROM: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
/// The address of the one Service that is called by TCP: away from the others, which are called in a row.
const TCP_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 111, 0, 1);
/// Its only endpoint.
const TCP_ENDPOINT: (u32, u16) = (17, OPEN_PORTS.0);
/// The port of every Service.
pub(crate) const SERVICE_PORT: u16 = 80;
/// Pods behind Services.
pub(crate) const BACKENDS: u32 = 250;
/// The first of them; the pod of the lab's second node has the address before.
const BACKENDS_FROM: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 3);
/// The first and the last port of theirs that policies let through.
pub(crate) const OPEN_PORTS: (u16, u16) = (8000, 8999);
/// Groups that the backends are in, by a label.
pub(crate) const GROUPS: u32 = 50;
/// Endpoints of a Service, but for one in so many, which has one.
const ENDPOINTS: u32 = 3;
const SINGLE_EVERY: u32 = 10;
/// One policy in so many selects the pod that calls, and two at least.
const OWN_POLICY_EVERY: u32 = 100;
const OWN_POLICIES_MIN: u32 = 2;
/// A prime that is no divisor of any round number of Services: their names have nothing to do with their addresses.
const NAME_STEP: u32 = 7919;

/// Its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Services, of one port each. The last is called by TCP, all others by UDP.
    pub(crate) services: u32,
    /// Policies.
    pub(crate) policies: u32,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// `metadata.name`, and what its chains are called after.
    pub(crate) name: String,
    /// The ClusterIP.
    pub(crate) address: Ipv4Addr,
    /// `TCP` or `UDP`.
    pub(crate) protocol: &'static str,
    /// Its pods, by their numbers, and their ports.
    pub(crate) endpoints: Vec<(u32, u16)>,
}

/// Who a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The pods of `lab`, of both nodes, may call the backends.
    Backends,
    /// The pods of `lab` may call a group, and be called by it, by a port of its own each.
    Own {
        /// Its number among those of `lab`.
        number: u32,
        /// Which group.
        group: u32,
    },
    /// A group may be called by the pods of `lab`, and by another group.
    Shop {
        /// Its number among those of `shop`.
        number: u32,
        /// Which group.
        group: u32,
        /// Who else may call it.
        from: u32,
    },
}

impl Cluster {
    /// The Services.
    pub(crate) fn services(self) -> impl Iterator<Item = Service> {
        (0..self.services).map(move |number| self.service(number))
    }

    fn service(self, number: u32) -> Service {
        let is_tcp = number + 1 == self.services;
        let count = if number.is_multiple_of(SINGLE_EVERY) {
            1
        } else {
            ENDPOINTS
        };
        let endpoints = (0..count).map(|place| {
            let target = number * ENDPOINTS + place;
            (target % BACKENDS, open_port(target / BACKENDS))
        });
        Service {
            name: format!(
                "service-{:05}",
                u64::from(number) * u64::from(NAME_STEP) % u64::from(self.services)
            ),
            address: if is_tcp { TCP_SERVICE } else { address(number) },
            protocol: if is_tcp { "TCP" } else { "UDP" },
            endpoints: if is_tcp {
                vec![TCP_ENDPOINT]
            } else {
                endpoints.collect()
            },
        }
    }

    /// The policies.
    pub(crate) fn policies(self) -> impl Iterator<Item = Policy> {
        let own = (self.policies / OWN_POLICY_EVERY)
            .max(OWN_POLICIES_MIN)
            .min(self.policies);
        (0..self.policies).map(move |number| {
            let group = number % GROUPS;
            match number {
                0 => Policy::Backends,
                number if number < own => Policy::Own { number, group },
                number => Policy::Shop {
                    number: number - own,
                    group,
                    from: (group + 1) % GROUPS,
                },
            }
        })
    }

    /// The addresses of all Services that are called by UDP.
    pub(crate) fn called(self) -> AddressRange {
        AddressRange::starting_at(address(0), self.services - 1)
    }
}

/// The ClusterIP of a Service that is called by UDP. The first has one endpoint.
pub(crate) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(SERVICES_FROM.to_bits() + 1 + number)
}

/// The ClusterIP of the Service that is called by TCP, which has one endpoint.
pub(crate) fn tcp_service() -> Ipv4Addr {
    TCP_SERVICE
}

/// The address of a backend.
pub(crate) fn backend(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(BACKENDS_FROM.to_bits() + number % BACKENDS)
}

/// Which backends are in a group.
pub(crate) fn group(group: u32) -> impl Iterator<Item = u32> {
    (0..BACKENDS).filter(move |pod| pod % GROUPS == group)
}

/// One of the ports that policies let through.
fn open_port(number: u32) -> u16 {
    let (first, last) = OPEN_PORTS;
    // INVARIANT: below the number of ports.
    first + u16::try_from(number % u32::from(last - first + 1)).unwrap_or(0)
}

/// The port by which a policy lets a group in, and that by which it lets pods call.
pub(crate) fn own_ports(number: u32) -> (u16, u16) {
    // INVARIANT: below 1,000.
    let place = u16::try_from(number % 1000).unwrap_or(0);
    (7000 + place, 9000 + place)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn services_have_names_and_addresses_of_their_own_and_endpoints_behind_open_ports() {
        for services in [2, 10, 10_000] {
            let cluster = Cluster {
                services,
                policies: 10,
            };
            let all: Vec<Service> = cluster.services().collect();
            let names: HashSet<&str> = all.iter().map(|service| service.name.as_str()).collect();
            let addresses: HashSet<Ipv4Addr> = all.iter().map(|service| service.address).collect();
            assert_eq!((names.len(), addresses.len()), (all.len(), all.len()));
            assert_eq!(all[0].endpoints.len(), 1, "the one that the proof calls");
            assert_eq!(
                (all.last().unwrap().protocol, all.last().unwrap().endpoints.len()),
                ("TCP", 1)
            );
            for (pod, port) in all.iter().flat_map(|service| &service.endpoints) {
                assert!(*pod < BACKENDS && (OPEN_PORTS.0..=OPEN_PORTS.1).contains(port));
            }
        }
    }

    #[test]
    fn there_are_as_many_policies_as_asked_for_and_some_are_the_callers() {
        for (policies, own) in [(10, 2), (10_000, 100)] {
            let all: Vec<Policy> = Cluster {
                services: 10,
                policies,
            }
            .policies()
            .collect();
            let callers = all.iter().filter(|policy| !matches!(policy, Policy::Shop { .. }));
            assert_eq!((all.len(), callers.count()), (policies as usize, own));
        }
    }
}
