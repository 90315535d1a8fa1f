//! What Services and source NAT take of the uplink, packet by packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use millrace_dataplane::verdict::Awaited;
use millrace_dataplane::wire::IpProtocol;
use millrace_dataplane::xdp::{
    NodePort, ServicePort, SteeringAction, SteeringCounter, SteeringProgram, SteeringTables,
};

use crate::frames::*;
use crate::packets::{action_of, check_rows_of};

const TCP: IpProtocol = IpProtocol::TCP;
const UDP: IpProtocol = IpProtocol::UDP;
const UDP_LITE: u8 = IpProtocol::UDP_LITE.0;
/// A ClusterIP in 10.96.0.0/12, and a load balancer's address.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x80);
const NODE_PORT: u16 = 30_080;
const SNAT_FIRST: u16 = 61_000;

pub(crate) fn tables() -> SteeringTables {
    let service = |address: IpAddr, protocol, port| ServicePort {
        address,
        protocol,
        port,
    };
    SteeringTables {
        local_addresses: vec![NODE.into(), OVERLAY.into(), NODE6.into()],
        tunnel_ports: vec![TUNNEL_PORT, OTHER_TUNNEL_PORT],
        failsafe_ports: vec![FAILSAFE_PORT, 6443],
        ipip: true,
        pod_prefixes: vec![(OVERLAY.into(), 24), (POD6.into(), 64)],
        service_prefixes: vec![
            (Ipv4Addr::new(10, 96, 0, 0).into(), 12),
            (VIP.into(), 32),
            (VIP6.into(), 128),
            // A prefix that holds the node's own addresses takes nothing from them.
            (NODE.into(), 30),
            (NODE6.into(), 126),
        ],
        service_ports: vec![
            service(NODE.into(), TCP, 443),
            service(NODE6.into(), UDP, 53),
            // Somebody has asked for what is never given.
            service(NODE.into(), TCP, FAILSAFE_PORT),
        ],
        node_ports: [
            (TCP, NODE_PORT),
            (UDP, NODE_PORT + 1),
            (IpProtocol::SCTP, NODE_PORT + 2),
            (TCP, 6443),
        ]
        .map(|(protocol, port)| NodePort { protocol, port })
        .to_vec(),
        vlan: None,
        snat_ports: Some(SNAT_FIRST..=u16::MAX),
    }
}

pub(crate) fn program(tables: &SteeringTables) -> SteeringProgram {
    let mut program = SteeringProgram::load(millrace_dataplane::xdp::ProgramKind::Uplink, 2).unwrap();
    program.set_tables(tables).unwrap();
    program
}

fn plain(to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    v4(to, protocol, payload, |_| {})
}

#[test]
fn services_and_source_nat() {
    use SteeringCounter::{
        FailsafePassed, MalformedPassed, Passed, ToSwitchNodePort, ToSwitchPod, ToSwitchService,
        ToSwitchSnatReply, ToSwitchTunnel,
    };
    #[rustfmt::skip]
    let rows = [
        ("ClusterIP", plain(CLUSTER_IP, 6, &tcp(443)), ToSwitchService),
        ("ClusterIP, port of no Service", plain(CLUSTER_IP, 6, &tcp(9)), ToSwitchService),
        ("ClusterIP, a fail-safe port is the node's only", plain(CLUSTER_IP, 6, &tcp(FAILSAFE_PORT)), ToSwitchService),
        ("ClusterIP, echo request", plain(CLUSTER_IP, 1, &icmp(8, 7, &[])), ToSwitchService),
        ("ClusterIP, last of the CIDR", plain(Ipv4Addr::new(10, 111, 255, 255), 17, &udp(53)), ToSwitchService),
        ("after the CIDR", plain(Ipv4Addr::new(10, 112, 0, 0), 17, &udp(53)), Passed),
        ("load balancer's address", plain(VIP, SCTP, &sctp(7)), ToSwitchService),
        ("load balancer's address, later fragment alone", v4_fragment(VIP, 17, 9, 3, false, &[0xa5; 24]), ToSwitchService),
        ("its neighbour", plain(Ipv4Addr::new(203, 0, 113, 81), 6, &tcp(80)), Passed),
        ("load balancer's IPv6 address", v6(VIP6, 6, &tcp(80)), ToSwitchService),
        ("its neighbour solicitation", v6(VIP6, 58, &icmp(135, 0, &[])), Passed),
        ("its neighbour advertisement", v6(VIP6, 58, &icmp(136, 0, &[])), Passed),
        ("its router solicitation", v6(VIP6, 58, &icmp(133, 0, &[])), ToSwitchService),
        ("its echo request", v6(VIP6, 58, &icmp(128, 7, &[])), ToSwitchService),
        ("type 135 in IPv4", plain(VIP, 1, &icmp(135, 0, &[])), ToSwitchService),
        ("its port at the node", plain(NODE, 6, &tcp(443)), ToSwitchService),
        ("same port, other protocol", plain(NODE, 17, &udp(443)), Passed),
        ("same port, the node's other address", plain(OVERLAY, 6, &tcp(443)), Passed),
        ("same port, IPv6", v6(NODE6, 6, &tcp(443)), Passed),
        ("port with its bytes swapped", plain(NODE, 6, &tcp(443_u16.swap_bytes())), Passed),
        ("IPv6", v6(NODE6, 17, &udp(53)), ToSwitchService),
        ("IPv6 behind options", v6(NODE6, HOP_BY_HOP, &options(17, 1, &udp(53))), ToSwitchService),
        ("fail-safe port given to a Service", plain(NODE, 6, &tcp(FAILSAFE_PORT)), FailsafePassed),
        ("fail-safe port given as a node port", plain(NODE, 6, &tcp(6443)), FailsafePassed),
        ("fail-safe port in SCTP", plain(NODE, SCTP, &sctp(FAILSAFE_PORT)), FailsafePassed),
        ("node port", plain(NODE, 6, &tcp(NODE_PORT)), ToSwitchNodePort),
        ("node port, the node's other address", plain(OVERLAY, 6, &tcp(NODE_PORT)), ToSwitchNodePort),
        ("node port, IPv6", v6(NODE6, 6, &tcp(NODE_PORT)), ToSwitchNodePort),
        ("node port of another protocol", plain(NODE, 17, &udp(NODE_PORT)), Passed),
        ("node port, UDP", plain(NODE, 17, &udp(NODE_PORT + 1)), ToSwitchNodePort),
        ("node port, SCTP", plain(NODE, SCTP, &sctp(NODE_PORT + 2)), ToSwitchNodePort),
        ("node port that nobody has", plain(NODE, 6, &tcp(NODE_PORT + 3)), Passed),
        ("node port of another host", plain(Ipv4Addr::new(192, 0, 2, 77), 6, &tcp(NODE_PORT)), Passed),
        ("node port of a pod", plain(POD, 6, &tcp(NODE_PORT)), ToSwitchPod),
        ("source NAT, first port", plain(NODE, 6, &tcp(SNAT_FIRST)), ToSwitchSnatReply),
        ("source NAT, last port", plain(NODE, 17, &udp(65_535)), ToSwitchSnatReply),
        ("source NAT, SCTP", plain(NODE, SCTP, &sctp(62_000)), ToSwitchSnatReply),
        ("source NAT, IPv6", v6(NODE6, 17, &udp(62_000)), ToSwitchSnatReply),
        ("the kernel's last ephemeral port", plain(NODE, 6, &tcp(SNAT_FIRST - 1)), Passed),
        ("the kernel's first", plain(NODE, 17, &udp(32_768)), Passed),
        ("source NAT, UDP-Lite", plain(NODE, UDP_LITE, &udp(62_000)), ToSwitchSnatReply),
        ("UDP-Lite to the node", plain(NODE, UDP_LITE, &udp(PLAIN_PORT)), Passed),
        ("UDP-Lite to a fail-safe port", plain(NODE, UDP_LITE, &udp(FAILSAFE_PORT)), FailsafePassed),
        ("UDP-Lite to the tunnel's port", plain(NODE, UDP_LITE, &udp(TUNNEL_PORT)), Passed),
        ("UDP-Lite to a node port", plain(NODE, UDP_LITE, &udp(NODE_PORT + 1)), Passed),
        ("UDP-Lite cut short", plain(NODE, UDP_LITE, &udp(62_000)[..7]), MalformedPassed),
        ("source NAT's port in another protocol", plain(NODE, 33, &udp(62_000)), Passed),
        ("tunnel", plain(NODE, 17, &udp(TUNNEL_PORT)), ToSwitchTunnel),
        ("SCTP cut short", plain(NODE, SCTP, &sctp(NODE_PORT + 2)[..7]), MalformedPassed),
        ("echo request to the node", plain(NODE, 1, &icmp(8, 7, &[0; 8])), Passed),
    ];
    check_rows_of(program(&tables()), &rows);
}

#[test]
fn echo_replies_are_taken_by_remote_and_identifier() {
    use SteeringCounter::{Passed, ToSwitchEchoReply, ToSwitchFragment};
    let reply = |id| plain(NODE, 1, &icmp(0, id, &[0; 8]));
    let reply6 = |id| v6(NODE6, 58, &icmp(129, id, &[0; 8]));
    let from_other = v4(NODE, 1, &icmp(0, 700, &[]), |header| {
        header.source = [192, 0, 2, 3]
    });
    let mut program = program(&tables());
    let socket = any_xdp_socket();
    program.register_socket(0, socket.as_fd()).unwrap();
    let check = |program: &SteeringProgram, name: &str, frame: &[u8], counter| {
        expect(program, name, frame, action_of(counter), counter);
    };
    check(&program, "none was sent", &reply(700), Passed);
    program.steer_answers(PEER.into(), Awaited::Echo(700)).unwrap();
    program.steer_answers(PEER.into(), Awaited::Echo(700)).unwrap();
    #[rustfmt::skip]
    let rows = [
        ("reply", reply(700), ToSwitchEchoReply),
        ("reply with nothing in it", plain(NODE, 1, &icmp(0, 700, &[])), ToSwitchEchoReply),
        ("of the node's own ping", reply(701), Passed),
        ("identifier with its bytes swapped", reply(700_u16.swap_bytes()), Passed),
        ("by someone else", from_other, Passed),
        ("the peer's request with the same identifier", plain(NODE, 1, &icmp(8, 700, &[])), Passed),
        ("IPv6's type in IPv4", plain(NODE, 1, &icmp(129, 700, &[])), Passed),
        ("ICMPv6 in IPv4", plain(NODE, 58, &icmp(129, 700, &[])), Passed),
        ("over IPv6", reply6(700), Passed),
        ("cut short", plain(NODE, 1, &icmp(0, 700, &[])[..7]), Passed),
        ("first fragment", v4_fragment(NODE, 1, 5, 0, true, &icmp(0, 700, &[0; 16])), ToSwitchEchoReply),
        ("later fragment", v4_fragment(NODE, 1, 5, 3, false, &[0xa5; 24]), ToSwitchFragment),
        ("first fragment, the node's own", v4_fragment(NODE, 1, 6, 0, true, &icmp(0, 701, &[0; 16])), Passed),
        ("and what follows it", v4_fragment(NODE, 1, 6, 3, false, &[0xa5; 24]), Passed),
    ];
    for (name, frame, counter) in rows {
        check(&program, name, &frame, counter);
    }
    program.steer_answers(PEER6.into(), Awaited::Echo(700)).unwrap();
    check(&program, "IPv6", &reply6(700), ToSwitchEchoReply);
    program.release_answers(PEER.into(), Awaited::Echo(700)).unwrap();
    program.release_answers(PEER.into(), Awaited::Echo(700)).unwrap();
    check(&program, "released", &reply(700), Passed);
    check(&program, "IPv6 still", &reply6(700), ToSwitchEchoReply);
    program.set_awaited([(PEER.into(), Awaited::Echo(9))]).unwrap();
    check(&program, "replaced", &reply6(700), Passed);
    check(&program, "the new one", &reply(9), ToSwitchEchoReply);
}

/// The node's own conversations stay its own: all but what a remote says in a protocol in which a pod talks to it.
#[test]
fn protocols_without_ports_are_taken_by_remote_and_protocol() {
    use SteeringCounter::{Passed, ToSwitchFragment, ToSwitchPod, ToSwitchSnatReply, ToSwitchTunnel};
    const GRE: u8 = 47;
    const ESP: u8 = 50;
    let gre = plain(NODE, GRE, &[0; 24]);
    let gre6 = v6(NODE6, GRE, &[0; 24]);
    let by_other = v4(NODE, GRE, &[0; 24], |header| header.source = [192, 0, 2, 3]);
    let to = |to, protocol: u8| plain(to, protocol, &[0; 24]);
    let mut program = program(&tables());
    let socket = any_xdp_socket();
    program.register_socket(0, socket.as_fd()).unwrap();
    let check = |program: &SteeringProgram, name: &str, frame: &[u8], counter| {
        expect(program, name, frame, action_of(counter), counter);
    };
    for protocol in [GRE, ESP, 51, 89, 112, 253] {
        check(&program, "nobody awaits it", &to(NODE, protocol), Passed);
    }
    let awaited = Awaited::Protocol(IpProtocol::GRE);
    program.steer_answers(PEER.into(), awaited).unwrap();
    // An echo's identifier is no protocol.
    program
        .steer_answers(PEER.into(), Awaited::Echo(ESP.into()))
        .unwrap();
    #[rustfmt::skip]
    let rows = [
        ("answer", gre.clone(), ToSwitchSnatReply),
        ("with nothing in it", plain(NODE, GRE, &[]), ToSwitchSnatReply),
        ("to the node's other address", to(OVERLAY, GRE), ToSwitchSnatReply),
        ("by someone else", by_other, Passed),
        ("in another protocol", to(NODE, ESP), Passed),
        ("OSPF of the same neighbour", to(NODE, 89), Passed),
        ("VRRP to its group", to(Ipv4Addr::new(224, 0, 0, 18), 112), Passed),
        ("to someone else", to(Ipv4Addr::new(192, 0, 2, 77), GRE), Passed),
        ("to a pod", to(POD, GRE), ToSwitchPod),
        ("IP in IP is a tunnel's", to(NODE, 4), ToSwitchTunnel),
        ("over IPv6", gre6.clone(), Passed),
        ("a port that looks like source NAT's", plain(NODE, ESP, &udp(62_000)), Passed),
        ("first fragment", v4_fragment(NODE, GRE, 5, 0, true, &[0; 24]), ToSwitchSnatReply),
        ("later fragment", v4_fragment(NODE, GRE, 5, 3, false, &[0xa5; 24]), ToSwitchFragment),
        ("first fragment, the node's own", v4_fragment(NODE, ESP, 6, 0, true, &[0; 24]), Passed),
        ("and what follows it", v4_fragment(NODE, ESP, 6, 3, false, &[0xa5; 24]), Passed),
    ];
    for (name, frame, counter) in rows {
        check(&program, name, &frame, counter);
    }
    program.steer_answers(PEER6.into(), awaited).unwrap();
    check(&program, "IPv6", &gre6, ToSwitchSnatReply);
    program.release_answers(PEER.into(), awaited).unwrap();
    check(&program, "released", &gre, Passed);
    check(&program, "IPv6 still", &gre6, ToSwitchSnatReply);
}

#[test]
fn fragments_follow_the_first_to_services_too() {
    use SteeringCounter::{Passed, ToSwitchFragment, ToSwitchNodePort, ToSwitchService, ToSwitchSnatReply};
    let first = |id: u16, protocol: u8, payload: &[u8]| v4_fragment(NODE, protocol, id, 0, true, payload);
    let later = |id: u16, protocol: u8| v4_fragment(NODE, protocol, id, 3, false, &[0xa5; 24]);
    #[rustfmt::skip]
    let rows = [
        ("node port", first(1, 6, &tcp(NODE_PORT)), ToSwitchNodePort),
        ("and what follows it", later(1, 6), ToSwitchFragment),
        ("Service's port", first(2, 6, &tcp(443)), ToSwitchService),
        ("and what follows it", later(2, 6), ToSwitchFragment),
        ("source NAT", first(3, SCTP, &sctp(62_000)), ToSwitchSnatReply),
        ("and what follows it", later(3, SCTP), ToSwitchFragment),
        ("the node's own", first(3, SCTP, &sctp(7)), Passed),
        ("and what follows it", later(3, SCTP), Passed),
    ];
    let mut program = program(&tables());
    let socket = any_xdp_socket();
    program.register_socket(0, socket.as_fd()).unwrap();
    for (name, frame, counter) in rows {
        expect(&program, name, &frame, action_of(counter), counter);
    }
}

#[test]
fn tables_that_are_taken_back_take_nothing() {
    let mut program = program(&tables());
    let bare = SteeringTables {
        local_addresses: vec![NODE.into(), NODE6.into()],
        ..SteeringTables::default()
    };
    program.set_tables(&bare).unwrap();
    for frame in [
        plain(CLUSTER_IP, 6, &tcp(443)),
        plain(VIP, 6, &tcp(443)),
        plain(NODE, 6, &tcp(443)),
        plain(NODE, 6, &tcp(NODE_PORT)),
        plain(NODE, 6, &tcp(SNAT_FIRST)),
        plain(NODE, 6, &tcp(FAILSAFE_PORT)),
        plain(NODE, 17, &udp(TUNNEL_PORT)),
        plain(NODE, 4, &[0x45; 40]),
        plain(POD, 6, &tcp(80)),
        plain(NODE, 6, &tcp(0)),
    ] {
        expect(
            &program,
            "taken back",
            &frame,
            SteeringAction::ToKernel,
            SteeringCounter::Passed,
        );
    }
}

/// A load balancer's address moves onto the node and off again while packets to it come all the time: none of
/// them is left to the kernel, which would reset the connection.
#[test]
fn an_address_changes_sides_without_a_gap() {
    let elsewhere = SteeringTables {
        service_prefixes: vec![(VIP.into(), 32)],
        local_addresses: vec![NODE.into()],
        ..SteeringTables::default()
    };
    let here = SteeringTables {
        local_addresses: vec![NODE.into(), VIP.into()],
        service_ports: vec![ServicePort {
            address: VIP.into(),
            protocol: TCP,
            port: 443,
        }],
        ..SteeringTables::default()
    };
    let lab = crate::lab::Lab::new();
    let mut program = program(&elsewhere);
    crate::lab::attach(&lab, &program, millrace_dataplane::xdp::XdpMode::Native);
    crate::lab::ip(&format!("-n {} route add {VIP}/32 via {NODE}", lab.peer));
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    lab.on_peer(|| {
        let protocol = rustix::net::ipproto::TCP;
        let family = rustix::net::AddressFamily::INET;
        let socket = rustix::net::socket(family, rustix::net::SocketType::RAW, Some(protocol)).unwrap();
        let to = std::net::SocketAddr::from((VIP, 0));
        let segment = tcp(443);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    rustix::net::sendto(&socket, &segment, rustix::net::SendFlags::empty(), &to).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            for tables in [&here, &elsewhere].into_iter().cycle().take(100) {
                let before = sent.load(Ordering::Relaxed);
                program.set_tables(tables).unwrap();
                while sent.load(Ordering::Relaxed) == before {
                    std::thread::yield_now();
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    });
    let counters = program.counters().unwrap();
    assert_eq!(counters.dropped_no_socket, sent.into_inner(), "{counters:?}");
}
