//! Connections and Services on node 1: tables in, packets in, packets out.
//!
//! Each test is a conversation: rows in order on one node, where a later row may rest on what an earlier one began.

mod balance;
mod endpoints;
pub mod errors;
mod limits;
mod masquerade;
mod outside;
mod overlap;
mod pieces;
mod portless;
mod sketch;
mod stored;
mod tcp;

use std::net::IpAddr;

use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::{DropReason, PuntReason};

use crate::packets::{Body, Family, Ip};
use crate::rows::{Expect, Row};
use crate::world::{
    Node, VNI, VXLAN_PORT, host, outer, pod, pod_port, router_mac, station_mac, switch_mac, uplink, vtep_mac,
    world,
};

pub use sketch::{At, SCTP, Sketch, TCP, UDP, UDP_LITE, backend, external, services, tables, vip};

/// Reasons that only a conversation shows, each in one of the files here.
pub const DROPS: [DropReason; 15] = [
    DropReason::ServiceUnknownAddress,
    DropReason::ServiceSourceRange,
    DropReason::ServiceNoLocalEndpoint,
    DropReason::SnatExhausted,
    DropReason::MasqueradeProtocol,
    DropReason::MasqueradeTaken,
    DropReason::FlowTableFull,
    DropReason::FlowPodCap,
    DropReason::TcpWindow,
    DropReason::TcpInvalid,
    DropReason::IcmpUnrelated,
    DropReason::FragmentUnknown,
    DropReason::FragmentOverlap,
    DropReason::FragmentScattered,
    DropReason::FragmentChecksum,
];
/// As [`DROPS`].
pub const PUNTS: [PuntReason; 4] = [
    PuntReason::ServiceReject,
    PuntReason::EchoId,
    PuntReason::Portless,
    PuntReason::EndpointGone,
];

/// A node with these Services.
pub fn node(sketches: &[Sketch]) -> Node {
    Node::with(tables(sketches))
}

/// A packet of a protocol with ports. UDP-Lite's checksum covers its header alone.
pub fn packet(protocol: u8, (source, from): (IpAddr, u16), (destination, to): (IpAddr, u16)) -> Ip {
    let data = b"what a packet carries".to_vec();
    let body = match protocol {
        UDP => Body::Udp(from, to, data),
        TCP => Body::Tcp(from, to, data),
        UDP_LITE => Body::UdpLite((from, to), 8, data),
        _ => Body::Sctp(from, to, data),
    };
    Ip::udp(source, destination).body(body)
}

/// How a packet comes in.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Pod(u8),
    Host,
    /// Out of the tunnel from node 2.
    Peer,
    /// Plain, by the router.
    World,
}

impl From {
    pub fn port(self) -> PortId {
        match self {
            From::Pod(number) => pod_port(number),
            From::Host => host(),
            From::Peer | From::World => uplink(),
        }
    }

    pub fn frame(self, ip: &Ip) -> Vec<u8> {
        match self {
            From::Pod(_) | From::Host => crate::rows::sent(ip, self.port()),
            From::Peer => {
                let inner = ip.frame(vtep_mac(1), vtep_mac(2));
                outer(2, 1).vxlan((40_000, VXLAN_PORT), VNI, &inner)
            }
            From::World => ip.frame(switch_mac(1, uplink()), router_mac()),
        }
    }
}

/// How a packet goes out.
#[derive(Debug, Clone, Copy)]
pub enum To {
    Pod(u8),
    Host,
    /// Through the tunnel to node 2.
    Peer,
    /// Plain, to the router.
    World,
}

impl To {
    pub fn expect(self, ip: &Ip) -> Expect {
        let station = |port| Expect::Forward(port, ip.frame(station_mac(1, port), switch_mac(1, port)));
        match self {
            To::Pod(number) => station(pod_port(number)),
            To::Host => station(host()),
            To::Peer => {
                let inner = ip.frame(vtep_mac(2), vtep_mac(1));
                Expect::Tunnel(uplink(), outer(1, 2).vxlan((0, VXLAN_PORT), VNI, &inner))
            }
            To::World => Expect::Forward(uplink(), ip.frame(router_mac(), switch_mac(1, uplink()))),
        }
    }
}

/// Runs one row.
pub fn say(node: &mut Node, name: &str, from: From, ip: &Ip, expect: Expect) {
    let row = Row::new(name, from.port(), from.frame(ip), expect);
    let (verdict, left) = node.receive(row.ingress, &row.packet);
    row.check(verdict, &left);
}

/// One hop further, where the way counts as one.
pub fn hop(ip: &Ip) -> Ip {
    ip.clone().ttl(ip.ttl - 1)
}

/// A packet goes one way and its answer the other. Each of the four is given as it comes or as it leaves; the packets
/// that come have a TTL to spend, unless they only pass between the host and the switch.
pub struct Exchange {
    pub name: String,
    pub protocol: u8,
    pub from: From,
    pub to: To,
    /// Source and destination of the packet as it comes, and as it leaves.
    pub comes: ((IpAddr, u16), (IpAddr, u16)),
    pub leaves: ((IpAddr, u16), (IpAddr, u16)),
}

impl Exchange {
    /// Whether a packet between these ends is forwarded, or still on its own node.
    fn counts(from: From, to: To) -> bool {
        !matches!(from, From::Host) && !matches!(to, To::Host)
    }

    pub fn run(&self, node: &mut Node) {
        let (client, service) = self.comes;
        let (source, backend) = self.leaves;
        let request = packet(self.protocol, client, service);
        let forwarded = packet(self.protocol, source, backend);
        let is_hop = Self::counts(self.from, self.to);
        let age = |ip: &Ip| if is_hop { hop(ip) } else { ip.clone() };
        say(
            node,
            &format!("{}, first", self.name),
            self.from,
            &request,
            self.to.expect(&age(&forwarded)),
        );
        let (back_from, back_to) = (self.back_from(), self.back_to());
        let answer = packet(self.protocol, backend, source);
        let returned = packet(self.protocol, service, client);
        let is_hop = Self::counts(back_from, back_to);
        let age = |ip: &Ip| if is_hop { hop(ip) } else { ip.clone() };
        for which in ["answer", "second answer"] {
            say(
                node,
                &format!("{}, {which}", self.name),
                back_from,
                &answer,
                back_to.expect(&age(&returned)),
            );
        }
        let is_hop = Self::counts(self.from, self.to);
        let age = |ip: &Ip| if is_hop { hop(ip) } else { ip.clone() };
        say(
            node,
            &format!("{}, third", self.name),
            self.from,
            &request,
            self.to.expect(&age(&forwarded)),
        );
    }

    fn back_from(&self) -> From {
        match self.to {
            To::Pod(number) => From::Pod(number),
            To::Host => From::Host,
            To::Peer => From::Peer,
            To::World => From::World,
        }
    }

    fn back_to(&self) -> To {
        match self.from {
            From::Pod(number) => To::Pod(number),
            From::Host => To::Host,
            From::Peer => To::Peer,
            From::World => To::World,
        }
    }
}

/// The pod of node 2 that serves, and its port.
pub fn remote(family: Family) -> (IpAddr, u16) {
    (pod(family, 2, 5), 5353)
}

/// The pod of this node that serves, and its port.
pub fn local(family: Family) -> (IpAddr, u16) {
    (pod(family, 1, 3), 8080)
}

/// A client in the world, and its port.
pub fn client(family: Family) -> (IpAddr, u16) {
    (world(family), 40_000)
}
