//! Endpoints that go while somebody talks to them.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Call, Declared, Server, await_endpoints, declare, millraces, try_udp, udp_socket};
use crate::rig::{address, await_that, finish, pod, side_by_side};

/// A UDP flow is given another endpoint at once; a TCP connection stays with its own while that terminates.
#[test]
fn udp_moves_and_tcp_drains() {
    let _machine = side_by_side();
    let lab = millraces("draining");
    let (old, new) = (address(&lab, "pod-b1"), address(&lab, "pod-b2"));
    let _servers = [Server::in_pod(&lab, "pod-b1"), Server::in_pod(&lab, "pod-b2")];
    let text = |endpoints: &[(Ipv4Addr, &str)]| {
        let declared = Declared {
            name: "moving",
            cluster_ip: "10.96.0.30",
            more: "",
            endpoints,
        };
        declared.text()
    };
    declare(&lab, "moving", &text(&[(old, "node-b")]));
    await_endpoints(&lab, "moving", 1);
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 30), 80);
    let client = pod(&lab, "pod-a1");
    let socket = udp_socket(client, to);
    await_that("an answer", || try_udp(&socket).is_some());
    let mut call = Call::open(client, to);
    assert_eq!(call.ask().unwrap().0, "pod-b1");
    // The old one terminates, and another serves.
    let terminating = text(&[(old, "node-b"), (new, "node-b")]).replacen(
        "conditions: {ready: true}",
        "conditions: {ready: false, serving: true, terminating: true}",
        1,
    );
    declare(&lab, "moving", &terminating);
    await_that("the other one over UDP, from the same port", || {
        try_udp(&socket).is_some_and(|(who, _)| who == "pod-b2")
    });
    assert_eq!(
        call.ask().unwrap().0,
        "pod-b1",
        "TCP stays while its endpoint lives"
    );
    assert_eq!(
        Call::open(client, to).ask().unwrap().0,
        "pod-b2",
        "a new one does not"
    );
    // None is left: refused at once; then one comes again, and the very same socket hears it.
    declare(&lab, "moving", &text(&[]));
    await_that("a refusal", || {
        socket
            .send(b"who?")
            .and_then(|_| socket.recv(&mut [0; 64]))
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    declare(&lab, "moving", &text(&[(new, "node-b")]));
    await_that("an answer again", || {
        try_udp(&socket).is_some_and(|(who, _)| who == "pod-b2")
    });
    assert_eq!(call.ask().unwrap().0, "pod-b1", "and TCP still has what it had");
    finish(lab);
}
