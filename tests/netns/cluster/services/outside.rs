//! Calls from a machine that is no node: by node port, by external and load balancer's address, under both policies;
//! and path MTU through a Service.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use super::{Declared, Server, ask_tcp, ask_udp, await_endpoints, declare, ipv4, millraces};
use crate::rig::{PATIENCE, address, finish, guest, node, pod, side_by_side, underlay};
use millrace_tools::lab::traffic::tcp_connect;
use millrace_tools::lab::{MillraceOptions, NodeKind, POD_INTERFACE, Topology};

const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 81);

#[test]
fn a_client_outside_reaches_services_by_every_door() {
    let _machine = side_by_side();
    let lab = millraces("doors");
    let (outside, at) = guest(&lab, "outside", 77);
    let a = underlay(&lab, "node-a");
    for address in [BALANCER, EXTERNAL] {
        outside
            .ip(&["route", "add", &format!("{address}/32"), "via", &a.to_string()])
            .unwrap();
    }
    let _server = Server::in_pod(&lab, "pod-b1");
    let declared = Declared {
        name: "far",
        cluster_ip: "10.96.0.22",
        more: "  type: LoadBalancer\n  externalIPs: [198.51.100.81]\n",
        endpoints: &[(address(&lab, "pod-b1"), "node-b")],
    };
    let text = declared.text().replacen(
        "---\n",
        "status: {loadBalancer: {ingress: [{ip: 198.51.100.80}]}}\n---\n",
        1,
    );
    declare(&lab, "far", &text);
    await_endpoints(&lab, "far", 1);
    let overlay = Ipv4Addr::new(10, 244, 1, 0);
    for (to, port, udp_port) in [(a, 30080, 30081), (BALANCER, 80, 80), (EXTERNAL, 80, 80)] {
        for (over, (who, caller)) in [
            ("TCP", ask_tcp(&outside, SocketAddrV4::new(to, port))),
            ("UDP", ask_udp(&outside, SocketAddrV4::new(to, udp_port))),
        ] {
            assert_eq!(
                (who.as_str(), ipv4(caller)),
                ("pod-b1", overlay),
                "{over} to {to}"
            );
        }
    }
    // By the node that has the pod it is the gateway's address that the pod sees.
    let b = underlay(&lab, "node-b");
    let (_, caller) = ask_tcp(&outside, SocketAddrV4::new(b, 30080));
    assert_eq!(ipv4(caller), Ipv4Addr::new(10, 244, 2, 1));
    // With the local policy the pod sees the client itself.
    let local = text.replace(
        "  type: LoadBalancer\n",
        "  type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 30099\n",
    );
    declare(&lab, "far", &local);
    let to = SocketAddrV4::new(b, 30080);
    crate::rig::await_that("the client's own address", || ipv4(ask_tcp(&outside, to).1) == at);
    drop(outside);
    finish(lab);
}

/// A link with a small MTU behind the Service: the sender hears of it, and everything arrives.
#[test]
fn path_mtu_is_found_through_a_service() {
    let _machine = side_by_side();
    let route = route_after_a_transfer("path-mtu", false);
    assert!(route.contains("mtu 1250"), "{route}; dev {POD_INTERFACE}");
}

/// The same where both ends are told at the beginning what fits: there is nothing to hear of.
#[test]
fn a_connection_that_was_told_what_fits_need_not_find_out() {
    let _machine = side_by_side();
    let route = route_after_a_transfer("told-mtu", true);
    assert!(!route.contains("mtu"), "{route}; dev {POD_INTERFACE}");
}

/// Sends much from a pod through a Service to a pod behind a narrow tunnel; answers what the sender's kernel knows of the way.
fn route_after_a_transfer(name: &str, clamps: bool) -> String {
    const LEN: usize = 300_000;
    let nodes = [NodeKind::Millrace, NodeKind::Millrace];
    let millrace = MillraceOptions {
        extra: format!("clamp-mss = {clamps}\n"),
        ..MillraceOptions::default()
    };
    let topology = Topology {
        millrace,
        ..Topology::of(&nodes)
    };
    let lab = crate::rig::lab(name, &topology);
    // The server's answers must fit its link; the client's segments find out when its node sends them there.
    let mtu = "1300";
    for name in ["node-a", "node-b"] {
        // A tunnel between the nodes that takes less than both ends believe.
        node(&lab, name)
            .ip(&["link", "set", "dev", "eth1", "mtu", mtu])
            .unwrap();
    }
    let at = SocketAddrV4::new(address(&lab, "pod-b1"), 8080);
    let listener = pod(&lab, "pod-b1")
        .within(|| TcpListener::bind(at))
        .unwrap()
        .unwrap();
    let declared = Declared {
        name: "far",
        cluster_ip: "10.96.0.22",
        more: "",
        endpoints: &[(address(&lab, "pod-b1"), "node-b")],
    };
    declare(&lab, "far", &declared.text());
    await_endpoints(&lab, "far", 1);
    let receiving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received.len()
    });
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 22), 80);
    let mut stream = tcp_connect(pod(&lab, "pod-a1"), to.into(), PATIENCE).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![7; LEN]).unwrap();
    drop(stream);
    assert_eq!(receiving.join().unwrap(), LEN);
    let route = pod(&lab, "pod-a1").ip(&["route", "get", "10.96.0.22"]).unwrap();
    finish(lab);
    route
}
