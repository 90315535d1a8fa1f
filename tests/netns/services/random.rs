//! Random sets of Services, and random changes to them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::chance::Chance;
use crate::family::Family;
use crate::places::{GUEST, HOSTS, NODE_A, PODS, SERVED};
use crate::set::{Endpoint, Ingress, Kind, OWN_ZONE, Port, Protocol, Service, Set};

/// How many Services a set has at most.
const MOST_SERVICES: usize = 4;
/// Public addresses that the Services of a set share among them.
const PUBLIC: [u8; 4] = [10, 11, 12, 13];
/// Ports of Services; the host listens on none of them.
const PORTS: [u16; 5] = [53, 80, 443, 5000, 7777];
/// The first of the node ports; `SPAN` of them are drawn from.
const FIRST_NODE_PORT: u16 = 30_000;
const NODE_PORT_SPAN: usize = 2_000;

/// Addresses and ports that a set has given away. An address alone is not taken: two Services may share one.
#[derive(Default)]
struct Taken {
    fronts: BTreeSet<(Ipv4Addr, Protocol, u16)>,
    node_ports: BTreeSet<(Protocol, u16)>,
    cluster_ips: BTreeSet<Ipv4Addr>,
}

/// A set with a few Services.
pub(crate) fn set(chance: &mut Chance) -> Set {
    let mut taken = Taken::default();
    let count = 1 + chance.below(MOST_SERVICES);
    let services = (0..count)
        .map(|number| service(chance, number, &mut taken))
        .collect();
    Set { services }
}

fn service(chance: &mut Chance, number: usize, taken: &mut Taken) -> Service {
    let families = Family::some(chance);
    let kind = *chance.pick(&[
        Kind::ClusterIp,
        Kind::NodePort,
        Kind::LoadBalancer,
        Kind::LoadBalancer,
    ]);
    let ports = ports(chance, kind, taken);
    let ingress = match kind {
        Kind::LoadBalancer => ingress(chance, &ports, taken),
        Kind::ClusterIp | Kind::NodePort => Vec::new(),
    };
    let external_ips = if chance.percent(30) {
        public(chance, &ports, taken).into_iter().collect()
    } else {
        Vec::new()
    };
    let is_external = kind != Kind::ClusterIp || !external_ips.is_empty();
    let source_ranges = if kind == Kind::LoadBalancer && chance.percent(40) {
        source_ranges(chance)
    } else {
        Vec::new()
    };
    Service {
        name: format!("service-{number}"),
        kind,
        families,
        cluster_ip: cluster_ip(chance, taken),
        external_ips,
        ingress,
        source_ranges,
        internal_local: chance.percent(25),
        external_local: is_external && chance.percent(40),
        affinity: chance.percent(30),
        ports,
        endpoints: endpoints(chance),
    }
}

fn cluster_ip(chance: &mut Chance, taken: &mut Taken) -> Ipv4Addr {
    loop {
        let [.., high, low] = chance.draw().to_be_bytes();
        let address = Ipv4Addr::new(10, 96 + high % 16, low, 10 + high / 16);
        if taken.cluster_ips.insert(address) {
            return address;
        }
    }
}

/// One or two ports; sometimes one number for both protocols, as DNS has it.
fn ports(chance: &mut Chance, kind: Kind, taken: &mut Taken) -> Vec<Port> {
    let mut ports = Vec::new();
    let first = *chance.pick(&PORTS);
    let shapes = match chance.below(4) {
        0 => vec![("one", Protocol::Tcp, first)],
        1 => vec![("one", Protocol::Udp, first)],
        2 => vec![("one", Protocol::Tcp, first), ("two", Protocol::Udp, first)],
        _ => {
            let second = PORTS.into_iter().find(|port| *port != first).unwrap();
            vec![("one", Protocol::Udp, first), ("two", Protocol::Tcp, second)]
        }
    };
    let allocate = kind == Kind::NodePort || (kind == Kind::LoadBalancer && chance.percent(80));
    for (name, protocol, number) in shapes {
        let node_port = allocate.then(|| node_port(chance, protocol, taken));
        let target = *chance.pick(&SERVED);
        let other = if chance.percent(30) {
            *chance.pick(&SERVED)
        } else {
            target
        };
        ports.push(Port {
            name,
            protocol,
            number,
            node_port,
            targets: [target, other],
        });
    }
    ports
}

fn node_port(chance: &mut Chance, protocol: Protocol, taken: &mut Taken) -> u16 {
    loop {
        let number = FIRST_NODE_PORT + chance.below(NODE_PORT_SPAN) as u16;
        if taken.node_ports.insert((protocol, number)) {
            return number;
        }
    }
}

/// A public address on which all of the ports are still free. Now and then it is the node's own.
fn public(chance: &mut Chance, ports: &[Port], taken: &mut Taken) -> Option<Ipv4Addr> {
    let address = if chance.percent(20) {
        NODE_A
    } else {
        Ipv4Addr::new(198, 51, 100, *chance.pick(&PUBLIC))
    };
    let fronts: Vec<_> = ports
        .iter()
        .map(|port| (address, port.protocol, port.number))
        .collect();
    let free = fronts.iter().all(|front| !taken.fronts.contains(front));
    free.then(|| taken.fronts.extend(fronts)).map(|()| address)
}

fn ingress(chance: &mut Chance, ports: &[Port], taken: &mut Taken) -> Vec<Ingress> {
    let address = public(chance, ports, taken);
    // An address of the node's own is never somebody else's to handle.
    let proxy = address.is_some_and(|address| address != NODE_A) && chance.percent(15);
    address
        .map(|address| Ingress { address, proxy })
        .into_iter()
        .collect()
}

/// Ranges that let some callers through and others not.
fn source_ranges(chance: &mut Chance) -> Vec<(Ipv4Addr, u8)> {
    let [a, b, c, d] = GUEST.octets();
    let all = [
        (GUEST, 32),
        (Ipv4Addr::new(a, b, c, d + 1), 32),
        (Ipv4Addr::new(a, b, c, d + 2), 31),
        (Ipv4Addr::new(10, 244, 1, 0), 24),
        (Ipv4Addr::new(10, 244, 2, 0), 24),
        (Ipv4Addr::new(a, b, c, 0), 26),
    ];
    let count = 1 + chance.below(3);
    chance.some(count, &all)
}

fn endpoints(chance: &mut Chance) -> Vec<Endpoint> {
    let mut places: Vec<_> = PODS.to_vec();
    if chance.percent(15) {
        places.extend(HOSTS);
    }
    let count = *chance.pick(&[0, 1, 1, 2, 2, 3, 3, 4, 5]);
    let hints = chance.below(10);
    let places = chance.some(count, &places);
    places
        .into_iter()
        .map(|place| {
            let mut endpoint = Endpoint {
                place,
                slice: chance.below(2),
                ready: None,
                serving: None,
                terminating: None,
                zones: Vec::new(),
                nodes: Vec::new(),
            };
            conditions(chance, &mut endpoint);
            give_hints(chance, hints, &mut endpoint);
            endpoint
        })
        .collect()
}

/// How an endpoint is: mostly well.
fn conditions(chance: &mut Chance, endpoint: &mut Endpoint) {
    let all = [
        (None, None, None),
        (None, None, None),
        (None, None, None),
        (Some(true), Some(true), Some(false)),
        (Some(true), Some(true), Some(false)),
        (Some(true), None, None),
        (Some(false), Some(false), Some(false)),
        (Some(false), None, None),
        (Some(false), Some(true), Some(true)),
        (Some(false), Some(false), Some(true)),
    ];
    (endpoint.ready, endpoint.serving, endpoint.terminating) = *chance.pick(&all);
}

/// Hints for zones or nodes: all endpoints have them, or all but some, or none.
fn give_hints(chance: &mut Chance, hints: usize, endpoint: &mut Endpoint) {
    let zone = if endpoint.is_local() { OWN_ZONE } else { "zone-2" };
    let node = endpoint.place.node;
    match hints {
        0 => endpoint.zones = vec![zone],
        1 => endpoint.nodes = vec![node],
        2 if chance.percent(70) => endpoint.zones = vec![zone],
        3 => {
            endpoint.nodes = vec!["node-b"];
            endpoint.zones = vec![zone];
        }
        _ => {}
    }
}

/// The set after something happened to its endpoints.
pub(crate) fn changed(chance: &mut Chance, set: &Set) -> Set {
    let mut set = set.clone();
    for service in &mut set.services {
        match chance.below(5) {
            0 => {}
            1 => service.endpoints = endpoints(chance),
            2 if !service.endpoints.is_empty() => {
                let gone = chance.below(service.endpoints.len());
                service.endpoints.remove(gone);
            }
            _ => {
                let count = service.endpoints.len();
                if count > 0 {
                    let one = chance.below(count);
                    conditions(chance, &mut service.endpoints[one]);
                }
                let more = endpoints(chance).into_iter().find(|new| {
                    service
                        .endpoints
                        .iter()
                        .all(|old| old.place.address != new.place.address)
                });
                service.endpoints.extend(more);
            }
        }
    }
    set
}
