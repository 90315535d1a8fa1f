//! ICMP errors about packets of connections: they reach whoever sent the packet, and quote it as it was sent.

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, icmpv4, icmpv6};
use std::net::IpAddr;

use millrace_dataplane::verdict::DropReason;

use super::{At, From, Sketch, TCP, To, UDP, client, external, hop, local, node, packet, remote, say, vip};
use crate::packets::{Body, Family, Ip, Segment};
use crate::rows::Expect;
use crate::world::{Node, after_steering, node_address, pod, router_mac, world};

/// The smallest link on somebody's way.
const MTU: u16 = 1300;

/// "Too big", about `quoted`, cut to `len` bytes.
pub fn too_big(source: IpAddr, destination: IpAddr, quoted: &Ip, len: usize) -> Ip {
    let bytes = quoted.build();
    let quote = &bytes[..bytes.len().min(len)];
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let kind =
                Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: MTU,
                });
            let header = Icmpv4Header::with_checksum(kind, quote);
            Ip::udp(source, destination).body(Body::Raw(1, [&header.to_bytes()[..], quote].concat()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::PacketTooBig { mtu: MTU.into() };
            let header = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), quote).unwrap();
            Ip::udp(source, destination).body(Body::Raw(58, [&header.to_bytes()[..], quote].concat()))
        }
        _ => panic!("addresses of two families"),
    }
}

/// "Nobody listens there", about `quoted`.
pub fn port_unreachable(source: IpAddr, destination: IpAddr, quoted: &Ip) -> Ip {
    let quote = quoted.build();
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            let header = Icmpv4Header::with_checksum(kind, &quote);
            Ip::udp(source, destination).body(Body::Raw(1, [&header.to_bytes()[..], &quote].concat()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            let header = Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), &quote).unwrap();
            Ip::udp(source, destination).body(Body::Raw(58, [&header.to_bytes()[..], &quote].concat()))
        }
        _ => panic!("addresses of two families"),
    }
}

/// How much of a packet errors quote here: all, or the least that RFC 792 asks for.
fn lengths(family: Family) -> [usize; 2] {
    match family {
        Family::V4 => [2000, 28],
        Family::V6 => [1200, 48],
    }
}

fn sketches(family: Family) -> Vec<Sketch> {
    let (remote_address, remote_port) = remote(family);
    let (local_address, local_port) = local(family);
    vec![
        Sketch::new(
            10,
            At::Cluster(vip(family, 10)),
            53,
            &[(remote_address, remote_port, false)],
        ),
        Sketch::new(
            11,
            At::Cluster(vip(family, 11)),
            80,
            &[(local_address, local_port, true)],
        ),
        Sketch::new(
            4,
            At::LoadBalancer(external(family, 84)),
            80,
            &[(remote_address, remote_port, false)],
        ),
    ]
}

/// A node on which `ip` has passed.
fn node_with(family: Family, from: From, ip: &Ip) -> Node {
    let mut node = node(&sketches(family));
    let (verdict, _) = node.receive(from.port(), &from.frame(ip));
    assert!(
        matches!(verdict, millrace_dataplane::verdict::Verdict::Forward(_)),
        "{verdict:?}"
    );
    node
}

/// Path-MTU discovery works through a Service: the pod hears of the packet that it sent, from whom it sent it to.
#[test]
fn a_pod_hears_that_what_it_sent_to_a_service_was_too_big() {
    for family in Family::BOTH {
        for protocol in [UDP, TCP] {
            let (own, service) = ((pod(family, 1, 2), 4000), (vip(family, 10), 53));
            let sent = packet(protocol, own, service);
            let mut node = node_with(family, From::Pod(2), &sent);
            let (backend, port) = remote(family);
            let forwarded = hop(&packet(protocol, own, (backend, port)));
            for len in lengths(family) {
                // From the backend itself, and from a router before it: both come out of the tunnel from its node.
                for from in [backend, pod(family, 2, 1)] {
                    let error = too_big(from, own.0, &forwarded, len);
                    let heard = too_big(service.0, own.0, &hop(&sent), len);
                    say(
                        &mut node,
                        &format!("{family:?} {protocol}: {len} bytes from {from}"),
                        From::Peer,
                        &error,
                        To::Pod(2).expect(&hop(&heard)),
                    );
                }
            }
        }
    }
}

/// The world knows the node; the pod hears what the node was told.
#[test]
fn a_pod_hears_what_the_world_says_of_packets_under_the_node_s_address() {
    for family in Family::BOTH {
        for protocol in [UDP, TCP] {
            let own = (pod(family, 1, 2), 61_500);
            let sent = packet(protocol, own, (world(family), 53));
            let mut node = node_with(family, From::Pod(2), &sent);
            let forwarded = hop(&packet(
                protocol,
                (node_address(family, 1), 61_500),
                (world(family), 53),
            ));
            let router = family.pick("198.51.100.77", "2001:db8:77::1");
            for len in lengths(family) {
                let error = too_big(router, node_address(family, 1), &forwarded, len);
                let heard = too_big(router, own.0, &hop(&sent), len);
                let expect = To::Pod(2).expect(&hop(&heard));
                say(
                    &mut node,
                    &format!("{family:?}: {len} bytes"),
                    From::World,
                    &error,
                    expect,
                );
            }
            // One about a packet that nobody sent is nobody's.
            let other = packet(protocol, (node_address(family, 1), 61_501), (world(family), 53));
            let error = too_big(router, node_address(family, 1), &other, 2000);
            let dropped = Expect::Drop(DropReason::IcmpUnrelated);
            say(&mut node, "about nothing", From::World, &error, dropped);
        }
    }
}

/// The other way round: a client outside hears of a Service's answer, and the pod behind it of what the client said.
#[test]
fn both_ends_of_a_masqueraded_call_hear_of_each_other() {
    for family in Family::BOTH {
        let (caller, service) = (client(family), (external(family, 84), 80));
        let call = packet(TCP, caller, service);
        let mut node = node_with(family, From::World, &call);
        let inside = (pod(family, 1, 0), caller.1);
        // The backend's own node says that the call was too big on the way there.
        let forwarded = hop(&packet(TCP, inside, remote(family)));
        let error = too_big(pod(family, 2, 1), inside.0, &forwarded, 2000);
        let heard = too_big(service.0, caller.0, &hop(&call), 2000);
        say(
            &mut node,
            "to the client",
            From::Peer,
            &error,
            To::World.expect(&hop(&heard)),
        );
        // A router on the way to the client says so of the answer.
        let answer = packet(TCP, remote(family), inside);
        let returned = hop(&packet(TCP, service, caller));
        let router = family.pick("198.51.100.77", "2001:db8:77::1");
        let error = too_big(router, service.0, &returned, 2000);
        let heard = too_big(pod(family, 1, 0), remote(family).0, &hop(&answer), 2000);
        say(
            &mut node,
            "to the backend",
            From::World,
            &error,
            To::Peer.expect(&hop(&heard)),
        );
    }
}

/// A pod on which nothing listens says so to whoever called the Service.
#[test]
fn a_closed_port_behind_a_service_is_told_as_the_service_s() {
    for family in Family::BOTH {
        let (own, service) = ((pod(family, 1, 2), 4000), (vip(family, 11), 80));
        let call = packet(UDP, own, service);
        let mut node = node_with(family, From::Pod(2), &call);
        let delivered = hop(&packet(UDP, own, local(family)));
        let error = port_unreachable(local(family).0, own.0, &delivered);
        let heard = port_unreachable(service.0, own.0, &hop(&call));
        say(
            &mut node,
            "closed",
            From::Pod(3),
            &error,
            To::Pod(2).expect(&hop(&heard)),
        );
        // It says nothing about what others were sent.
        let forged = port_unreachable(pod(family, 1, 9), own.0, &delivered);
        let dropped = Expect::Drop(DropReason::SpoofedAddress);
        say(
            &mut node,
            "from another's address",
            From::Pod(3),
            &forged,
            dropped,
        );
    }
}

/// A pod has nothing to say about a connection of others.
#[test]
fn a_pod_cannot_speak_for_others() {
    for family in Family::BOTH {
        let (own, service) = ((pod(family, 1, 2), 4000), (vip(family, 10), 53));
        let mut node = node_with(family, From::Pod(2), &packet(UDP, own, service));
        let forwarded = hop(&packet(UDP, own, remote(family)));
        let error = too_big(pod(family, 1, 3), own.0, &forwarded, 2000);
        let dropped = Expect::Drop(DropReason::IcmpUnrelated);
        say(&mut node, "a third pod", From::Pod(3), &error, dropped);
        let to_service = too_big(own.0, vip(family, 11), &forwarded, 2000);
        let dropped = Expect::Drop(DropReason::IcmpUnrelated);
        say(&mut node, "to a Service", From::Pod(2), &to_service, dropped);
    }
}

/// An echo that was given another id is quoted with its own.
#[test]
fn a_ping_s_error_quotes_the_id_that_the_pod_chose() {
    use millrace_dataplane::verdict::{Awaited, PuntDetail, Verdict};
    for family in Family::BOTH {
        let mut node = node(&[]);
        let request = |source, id| Ip::udp(source, world(family)).body(Body::Echo(id, vec![3; 40]));
        let sent = request(pod(family, 1, 2), 7);
        let frame = From::Pod(2).frame(&sent);
        let (Verdict::Punt(_, PuntDetail::Answers(Awaited::Echo(id), _)), _) =
            node.receive(From::Pod(2).port(), &frame)
        else {
            panic!("no id")
        };
        node.originate(after_steering(From::Pod(2).port()), &frame);
        let router = family.pick("198.51.100.77", "2001:db8:77::1");
        let forwarded = hop(&request(node_address(family, 1), id));
        let error = too_big(router, node_address(family, 1), &forwarded, 2000);
        let heard = too_big(router, pod(family, 1, 2), &hop(&sent), 2000);
        say(
            &mut node,
            "ping",
            From::World,
            &error,
            To::Pod(2).expect(&hop(&heard)),
        );
    }
    let _ = (router_mac(), Segment::default());
}
