//! Random connections to a set: what a set is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::chance::Chance;
use crate::family::Family;
use crate::places::{CALLERS, Caller, GATEWAY_A, NODE_A, PODS, SERVED, TUNNEL_A, is_pod};
use crate::set::{Port, Protocol, Service, Set};

/// The first client port: below the node ports and the kernel's ephemeral ports, so that nothing else has it.
const FIRST_SOURCE_PORT: u16 = 2_000;
/// How often a client of a Service with affinity calls in a row.
const AFFINITY_CALLS: usize = 3;
/// How many calls are drawn for each that is made: not everyone can call everything.
const TRIES: usize = 20;
/// A node port that no Service has.
const UNKNOWN_NODE_PORT: u16 = 32_500;
/// A port that no Service has, and nobody listens on.
const UNKNOWN_PORT: u16 = 4_444;

/// One connection, or exchange of datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) protocol: Protocol,
    /// The client's port. No two calls of a stage share one, so it names the call too.
    pub(crate) source_port: u16,
    pub(crate) family: Family,
    /// As it is in IPv4.
    pub(crate) to: SocketAddrV4,
    /// Whether the connection is held open and used again after the set has changed.
    pub(crate) held: bool,
    /// Calls of one round go out together; a later round sees what the earlier ones left behind (affinity).
    pub(crate) round: usize,
}

/// Gives out client ports, and asks.
#[derive(Debug)]
pub(crate) struct Asker {
    next: u16,
    /// The one front that a client of a port with affinity calls.
    fronts: BTreeMap<(usize, &'static str, Caller), (SocketAddrV4, Family)>,
}

impl Asker {
    pub(crate) fn new() -> Self {
        Self {
            next: FIRST_SOURCE_PORT,
            fronts: BTreeMap::new(),
        }
    }

    /// Another set is asked from here on.
    pub(crate) fn turn_page(&mut self) {
        self.fronts.clear();
    }

    /// A call like another, under a port of its own.
    pub(crate) fn again(&mut self, call: &Call) -> Call {
        Call {
            source_port: self.source_port(),
            held: false,
            ..call.clone()
        }
    }

    fn source_port(&mut self) -> u16 {
        self.next += 1;
        assert!(self.next < 30_000, "one stage has seen too many calls");
        self.next - 1
    }

    /// So many calls, and for Services with affinity some in a row; fewer if there are not so many clients with affinity.
    pub(crate) fn calls(&mut self, chance: &mut Chance, set: &Set, count: usize) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        let mut asked = BTreeSet::new();
        for _ in 0..count * TRIES {
            if calls.len() >= count {
                break;
            }
            let number = chance.below(set.services.len());
            let service = &set.services[number];
            let mut family = Family::drawn(chance);
            let caller = *chance.pick(&CALLERS);
            let port = *chance.pick(&service.ports);
            let (protocol, mut to) = if service.affinity || chance.percent(75) {
                (port.protocol, front(chance, service, &port))
            } else {
                elsewhere(chance, service, &port)
            };
            if !can_call((caller, family), protocol, to) {
                continue;
            }
            if !service.affinity {
                calls.push(self.call(chance, (caller, family), (protocol, to), 0));
                continue;
            }
            // Inside and outside may go by different lists of endpoints, between which an affinity does not carry over in
            // the same way on both sides; so a client of such a port sticks to one front, and never calls twice at once.
            let client = (number, port.name, as_seen(caller));
            (to, family) = *self.fronts.entry(client).or_insert((to, family));
            if !can_call((caller, family), protocol, to) || !asked.insert(client) {
                continue;
            }
            for round in 0..AFFINITY_CALLS {
                calls.push(self.call(chance, (caller, family), (protocol, to), round));
            }
        }
        calls
    }

    fn call(
        &mut self,
        chance: &mut Chance,
        (caller, family): (Caller, Family),
        (protocol, to): (Protocol, SocketAddrV4),
        round: usize,
    ) -> Call {
        Call {
            caller,
            family,
            protocol,
            source_port: self.source_port(),
            to,
            held: protocol == Protocol::Tcp && chance.percent(30),
            round,
        }
    }
}

/// One of the addresses of a Service's port.
fn front(chance: &mut Chance, service: &Service, port: &Port) -> SocketAddrV4 {
    let mut fronts = vec![(service.cluster_ip, port.number)];
    let public = service.external_ips.iter().copied();
    let public = public.chain(service.ingress.iter().map(|ingress| ingress.address));
    for address in public {
        fronts.extend([(address, port.number); 2]);
    }
    if let Some(number) = port.node_port {
        fronts.extend([
            (NODE_A, number),
            (NODE_A, number),
            (GATEWAY_A, number),
            (TUNNEL_A, number),
        ]);
    }
    let (address, number) = *chance.pick(&fronts);
    SocketAddrV4::new(address, number)
}

/// What is no port of the Service, or no Service at all.
fn elsewhere(chance: &mut Chance, service: &Service, port: &Port) -> (Protocol, SocketAddrV4) {
    let other = match port.protocol {
        Protocol::Tcp => Protocol::Udp,
        Protocol::Udp => Protocol::Tcp,
    };
    let [a, b, c, _] = service.cluster_ip.octets();
    let (protocol, address, number) = match chance.below(5) {
        0 => (port.protocol, service.cluster_ip, UNKNOWN_PORT),
        1 => (other, service.cluster_ip, port.number),
        2 => (port.protocol, Ipv4Addr::new(a, b, c, 200), port.number),
        3 => (port.protocol, NODE_A, UNKNOWN_NODE_PORT),
        _ => (port.protocol, chance.pick(&PODS).address, *chance.pick(&SERVED)),
    };
    (protocol, SocketAddrV4::new(address, number))
}

/// What can be compared. The guest is outside of the overlay. What node-b sends through the tunnel is answered by its own
/// pods past node-a, so that only a datagram shows where it went. And a node port at an address in the overlay is left to
/// the pods of node-a: kube-proxy takes everything with a source among the pods' for one of them, a pod of another
/// node and the node itself too, and Millrace, which sees where it comes from, does not.
///
/// The first address of a prefix of IPv6 is that of any router on the link (RFC 4291 section 2.6.1): the stock node's kernel
/// takes it for no address of its own, and serves nothing there.
fn can_call((caller, family): (Caller, Family), protocol: Protocol, to: SocketAddrV4) -> bool {
    if family == Family::V6 && *to.ip() == TUNNEL_A {
        return false;
    }
    let [first, second, ..] = to.ip().octets();
    let (overlay, pod) = ((first, second) == (10, 244), is_pod(*to.ip()));
    match caller {
        Caller::Guest(_) => !overlay,
        Caller::OwnNode => !overlay || pod,
        _ if caller.is_on("node-b") => first != 10 || pod || (!overlay && protocol == Protocol::Udp),
        _ => true,
    }
}

/// Callers that a Service may not be able to tell apart count as one: node-b's masquerade gives its pods its own address.
fn as_seen(caller: Caller) -> Caller {
    if caller.is_on("node-b") {
        Caller::OtherNode
    } else {
        caller
    }
}
