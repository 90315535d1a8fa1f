//! Calls of cluster addresses from pods of both nodes and from the node itself, and pods that leave the cluster.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::{Declared, Server, ask_tcp, ask_udp, await_endpoints, declare, ipv4, millraces};
use crate::rig::{
    PATIENCE, address, assert_reaches, daemon, finish, guest, node, pod, side_by_side, underlay,
};
use millrace_tools::lab::traffic::tcp_connect;

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 21);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 22);

#[test]
fn cluster_addresses_are_served_to_pods_of_both_nodes_and_to_the_node() {
    let _machine = side_by_side();
    let lab = millraces("services");
    let (near, far) = (address(&lab, "pod-a1"), address(&lab, "pod-b1"));
    let _servers = [Server::in_pod(&lab, "pod-a1"), Server::in_pod(&lab, "pod-b1")];
    for (name, cluster_ip, endpoint) in [
        ("near", "10.96.0.21", (near, "node-a")),
        ("far", "10.96.0.22", (far, "node-b")),
    ] {
        let declared = Declared {
            name,
            cluster_ip,
            more: "",
            endpoints: &[endpoint],
        };
        declare(&lab, name, &declared.text());
        await_endpoints(&lab, name, 1);
    }
    let gateway = |n| Ipv4Addr::new(10, 244, n, 1);
    let overlay = |n| Ipv4Addr::new(10, 244, n, 0);
    // Who calls, which Service, who answers, and whom that sees.
    let rows = [
        (pod(&lab, "pod-a2"), NEAR, "pod-a1", address(&lab, "pod-a2")),
        (pod(&lab, "pod-a2"), FAR, "pod-b1", address(&lab, "pod-a2")),
        (pod(&lab, "pod-b2"), NEAR, "pod-a1", address(&lab, "pod-b2")),
        (pod(&lab, "pod-b2"), FAR, "pod-b1", address(&lab, "pod-b2")),
        // Hairpin: a pod that calls itself sees the gateway.
        (pod(&lab, "pod-a1"), NEAR, "pod-a1", gateway(1)),
        // The node itself.
        (node(&lab, "node-a"), NEAR, "pod-a1", gateway(1)),
        (node(&lab, "node-a"), FAR, "pod-b1", overlay(1)),
        (node(&lab, "node-b"), NEAR, "pod-a1", overlay(2)),
    ];
    for (from, service, who, seen) in rows {
        let to = SocketAddrV4::new(service, 80);
        for (over, (answered, caller)) in [("UDP", ask_udp(from, to)), ("TCP", ask_tcp(from, to))] {
            let name = format!("{over}: {} -> {service}", from.name());
            assert_eq!((answered.as_str(), ipv4(caller)), (who, seen), "{name}");
        }
    }
    // A port that is not defined is refused at once.
    let refused = tcp_connect(pod(&lab, "pod-a2"), SocketAddrV4::new(NEAR, 81).into(), PATIENCE);
    assert!(refused.unwrap_err().to_string().contains("refused"));
    let name = lab.pod("pod-a2").unwrap().reference();
    let flows = daemon(&lab, "node-a")
        .json(&["show", "flows", "--pod", &name])
        .unwrap();
    assert!(flows["matching"].as_u64().unwrap() >= 4, "{flows}");
    let row = &flows["flows"][0];
    assert_eq!(row["opener"], name.as_str(), "{row}");
    finish(lab);
}

/// A pod that leaves the cluster is the node to whom it calls: TCP, UDP and ping.
#[test]
fn pods_leave_the_cluster_under_the_node_s_address() {
    let _machine = side_by_side();
    let lab = millraces("masquerade");
    let (outside, at) = guest(&lab, "outside", 77);
    let server = Server::start(&outside, "outside", SocketAddrV4::new(at, 8080));
    let to = SocketAddrV4::new(at, 8080);
    for (name, home) in [("pod-a1", "node-a"), ("pod-a2", "node-a"), ("pod-b1", "node-b")] {
        for (over, (_, caller)) in [
            ("UDP", ask_udp(pod(&lab, name), to)),
            ("TCP", ask_tcp(pod(&lab, name), to)),
        ] {
            assert_eq!(ipv4(caller), underlay(&lab, home), "{over} from {name}");
            assert!(caller.port() >= 61_000, "{over} from {name}: {caller}");
        }
        assert_reaches(pod(&lab, name), at);
    }
    // The node's own pings and connections are its own still.
    assert_reaches(node(&lab, "node-a"), at);
    let (_, caller) = ask_tcp(node(&lab, "node-a"), to);
    assert!(caller.port() < 61_000, "{caller}");
    drop(server);
    // A port that is closed is told, through the translation: the pod's socket hears of it.
    let socket = pod(&lab, "pod-a1")
        .within(|| UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect(to).map(|()| socket)))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(outside);
    finish(lab);
}
