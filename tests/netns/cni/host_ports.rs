//! Host ports: `portMappings` of a runtime, as kubelet has them from `hostPort`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use millrace_tools::lab::traffic::{UdpExchange, tcp_connect, udp_exchange};
use millrace_tools::lab::{Lab, Namespace, wait_until};
use serde_json::json;

use crate::runtime::{PATIENCE, Runtime, Sandbox, addresses, daemon, daemon_mut, finish, lab};

/// What a TCP server in a pod says to whoever calls: the caller's address.
fn serve(pod: &Sandbox, address: IpAddr, port: u16) {
    let listener = pod
        .namespace
        .within(|| TcpListener::bind((address, port)))
        .unwrap()
        .unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let caller = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(caller.to_string().as_bytes());
        }
    });
}

/// Calls, and returns by which address the server saw it; `None` if nobody answers.
fn call(from: &Namespace, to: SocketAddr) -> Option<String> {
    let mut stream = tcp_connect(from, to, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// From outside and from the node itself, over both families.
fn assert_served(lab: &Lab, guest: (&Namespace, IpAddr), udp: bool) {
    let plan = lab.node("node-a").unwrap().plan();
    let node = lab.node("node-a").unwrap().namespace();
    let v4: IpAddr = plan.underlay_address().into();
    wait_until("the host port to answer", PATIENCE, || {
        Ok(call(guest.0, SocketAddr::new(v4, 8080)).as_deref() == Some(&guest.1.to_string()))
    })
    .unwrap();
    assert!(
        call(node, SocketAddr::new(v4, 8080)).is_some(),
        "from the node itself"
    );
    assert!(
        call(
            node,
            SocketAddr::new(plan.v6().unwrap().underlay_address().into(), 8080)
        )
        .is_some(),
        "over IPv6"
    );
    assert_eq!(
        call(guest.0, SocketAddr::new(v4, 8081)),
        None,
        "a port of nobody's"
    );
    if udp {
        let report = udp_exchange(guest.0, SocketAddr::new(v4, 5353), &UdpExchange::up_to(1200)).unwrap();
        assert!(report.is_whole(), "{report:?}");
    }
}

#[test]
fn a_host_port_leads_to_its_pod_also_after_a_restart_and_ends_with_it() {
    let mut lab = lab("cni-host-ports", 1);
    lab.add_guest("client").unwrap();
    let runtime = Runtime::new(&lab, "node-a");
    let (pod, other) = (Sandbox::new(&lab, "web"), Sandbox::new(&lab, "other"));
    let mappings = |port: u16| {
        json!({"runtimeConfig": {"portMappings": [
            {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "0.0.0.0"},
        ]}})
    };
    let refused = runtime.add_with(&pod, &mappings(22)).unwrap_err();
    assert!(
        refused.code == 100 && refused.msg.contains("always stays with the node"),
        "{refused:?}"
    );
    assert_eq!(runtime.stored(), 0);
    let added = runtime.add_with(&pod, &mappings(8080)).unwrap();
    let (v4, v6) = addresses(&added);
    serve(&pod, v4.into(), 80);
    serve(&pod, v6.into(), 80);
    let _echo = {
        let bound = pod
            .namespace
            .within(|| std::net::UdpSocket::bind((v4, 53)))
            .unwrap()
            .unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = bound.recv_from(&mut buffer) {
                let _ = bound.send_to(&buffer[..length], from);
            }
        })
    };
    let guest = |lab: &Lab| IpAddr::from(lab.guests()[0].address());
    assert_served(&lab, (lab.guests()[0].namespace(), guest(&lab)), true);
    let shown = daemon(&lab, "node-a")
        .client_output(&["show", "services"])
        .unwrap();
    assert!(shown.contains("lab/web.hostPorts"), "{shown}");
    // One port is one pod's.
    let refused = runtime.add_with(&other, &mappings(8080)).unwrap_err();
    assert!(
        refused.code == 100 && refused.msg.contains("is lab/web's already"),
        "{refused:?}"
    );
    assert_eq!(runtime.stored(), 1);
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    assert_served(&lab, (lab.guests()[0].namespace(), guest(&lab)), true);
    runtime.del(&pod).unwrap();
    let gone = SocketAddr::new(lab.node("node-a").unwrap().plan().underlay_address().into(), 8080);
    assert_eq!(call(lab.guests()[0].namespace(), gone), None);
    finish(lab, &[&runtime], vec![pod, other]);
}
