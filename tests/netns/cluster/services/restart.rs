//! A switch that is killed and started again goes on with every translated connection.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Call, Declared, Server, await_endpoints, declare, millraces};
use crate::rig::{address, alone, daemon_mut, finish, guest, pod, underlay};

#[test]
fn translated_connections_outlive_a_kill() {
    let _machine = alone();
    let mut lab = millraces("outlive");
    let (outside, at) = guest(&lab, "outside", 77);
    let servers = [
        Server::in_pod(&lab, "pod-b1"),
        Server::start(&outside, "outside", SocketAddrV4::new(at, 8080)),
    ];
    let declared = Declared {
        name: "far",
        cluster_ip: "10.96.0.22",
        more: "  type: NodePort\n",
        endpoints: &[(address(&lab, "pod-b1"), "node-b")],
    };
    declare(&lab, "far", &declared.text());
    await_endpoints(&lab, "far", 1);
    let node_port = SocketAddrV4::new(underlay(&lab, "node-a"), 30080);
    let mut calls = [
        Call::open(
            pod(&lab, "pod-a1"),
            SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 22), 80),
        ),
        Call::open(&outside, node_port),
        Call::open(pod(&lab, "pod-a1"), SocketAddrV4::new(at, 8080)),
    ];
    let before: Vec<_> = calls.iter_mut().map(|call| call.ask().unwrap()).collect();
    for _ in 0..2 {
        daemon_mut(&mut lab, "node-a").kill().unwrap();
        daemon_mut(&mut lab, "node-a").start().unwrap();
        let after: Vec<_> = calls.iter_mut().map(|call| call.ask().unwrap()).collect();
        assert_eq!(
            after, before,
            "the same connections, seen from the same addresses"
        );
    }
    drop(calls);
    drop(servers);
    drop(outside);
    finish(lab);
}
