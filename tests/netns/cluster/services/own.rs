//! The node's own calls to Services at its own addresses: by node port, and by an external address that is its own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use millrace_tools::lab::Lab;
use millrace_tools::lab::traffic::tcp_connect;

use super::{Declared, Server, ask_tcp, ask_udp, await_endpoints, declare, ipv4, millraces};
use crate::rig::{PATIENCE, address, await_that, daemon, daemon_mut, finish, node, side_by_side, underlay};

/// Another address of node-a's, as a load balancer on the node itself would put it there.
const OWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 90);
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

fn declare_own(lab: &Lab, endpoints: &[(Ipv4Addr, &str)]) {
    let a = underlay(lab, "node-a");
    let declared = Declared {
        name: "own",
        cluster_ip: "10.96.0.33",
        more: &format!("  type: NodePort\n  externalIPs: [{a}, {OWN}]\n"),
        endpoints,
    };
    declare(lab, "own", &declared.text());
    await_endpoints(lab, "own", endpoints.len());
}

fn has_table(lab: &Lab) -> bool {
    node(lab, "node-a")
        .run("nft", &["list", "table", "inet", "millrace"])
        .is_ok()
}

/// Every door that the node has to the Service; what the pod sees is the node's address as pods know it.
fn assert_served(lab: &Lab) {
    let (here, a) = (node(lab, "node-a"), underlay(lab, "node-a"));
    for (to, tcp, udp) in [(a, 30080, 30081), (OWN, 30080, 30081), (a, 80, 80), (OWN, 80, 80)] {
        let (who, caller) = ask_tcp(here, SocketAddrV4::new(to, tcp));
        assert_eq!(
            (who.as_str(), ipv4(caller)),
            ("pod-b1", Ipv4Addr::new(10, 244, 1, 0)),
            "{to}:{tcp}"
        );
        let (who, _) = ask_udp(here, SocketAddrV4::new(to, udp));
        assert_eq!(who, "pod-b1", "{to}:{udp}");
    }
}

#[test]
fn the_node_reaches_services_at_its_own_addresses() {
    let _machine = side_by_side();
    let mut lab = millraces("own");
    node(&lab, "node-a")
        .ip(&["address", "add", &format!("{OWN}/32"), "dev", "lo"])
        .unwrap();
    assert!(!has_table(&lab), "nothing to serve, no connection tracking");
    let _server = Server::in_pod(&lab, "pod-b1");
    declare_own(&lab, &[(address(&lab, "pod-b1"), "node-b")]);
    await_that("the table", || has_table(&lab));
    assert_served(&lab);
    // 127.0.0.1 is not served, nor are the node's own programs kept from anything.
    let connect = |to: SocketAddrV4| {
        let connected = node(&lab, "node-a").within(|| TcpStream::connect_timeout(&to.into(), PATIENCE));
        connected.unwrap().map_err(|error| error.kind())
    };
    let refused = connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 30080));
    assert_eq!(refused.unwrap_err(), ErrorKind::ConnectionRefused);
    let own = SocketAddrV4::new(underlay(&lab, "node-a"), 7000);
    let listener = node(&lab, "node-a")
        .within(|| TcpListener::bind(own))
        .unwrap()
        .unwrap();
    connect(own).unwrap();
    drop(listener);

    // A firewall that loads its rules anew clears ours, too; they come back by themselves.
    node(&lab, "node-a").run("nft", &["flush", "ruleset"]).unwrap();
    await_that_for_longer("the table", || has_table(&lab));
    assert_served(&lab);
    // A restart finds it in place.
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    assert!(has_table(&lab));
    daemon_mut(&mut lab, "node-a").start().unwrap();
    await_endpoints(&lab, "own", 1);
    assert_served(&lab);

    // Uninstalling takes the table and lets the ports go.
    let reserved = |lab: &Lab| {
        let read = || std::fs::read_to_string(RESERVED).unwrap();
        node(lab, "node-a").within(read).unwrap().trim().to_owned()
    };
    assert_eq!(reserved(&lab), "61000-65535");
    assert!(daemon_mut(&mut lab, "node-a").stop().unwrap().success());
    let switch = daemon(&lab, "node-a");
    let config = switch.config();
    let done = switch
        .ask(&["uninstall", "--config", config.to_str().unwrap()])
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    for what in ["nftables", "61000-65535"] {
        assert!(done.stdout.contains(what), "{what} is not in {}", done.stdout);
    }
    assert!(!has_table(&lab));
    assert_eq!(reserved(&lab), "");
    drop(lab);
}

/// Longer than the daemon takes to look at everything again.
fn await_that_for_longer(what: &str, come_about: impl Fn() -> bool) {
    millrace_tools::lab::wait_until(what, 2 * PATIENCE, || Ok(come_about())).unwrap();
}

/// The backend is a program of the other node itself, whose packets are longer than the host port's: a connection that
/// seemed to stay on the node has segments that fit all the same.
#[test]
fn large_segments_fit() {
    const LEN: usize = 300_000;
    let _machine = side_by_side();
    let lab = millraces("segments");
    let b = underlay(&lab, "node-b");
    declare_own(&lab, &[(b, "node-b")]);
    await_that("the table", || has_table(&lab));
    let at = SocketAddrV4::new(b, 8080);
    let listener = node(&lab, "node-b")
        .within(|| TcpListener::bind(at))
        .unwrap()
        .unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, caller) = listener.accept().unwrap();
        let mut bytes = vec![0; LEN];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        caller
    });
    let to = SocketAddrV4::new(underlay(&lab, "node-a"), 30080);
    let mut stream = tcp_connect(node(&lab, "node-a"), to.into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![7; LEN]).unwrap();
    let mut bytes = vec![0; LEN];
    stream.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    assert_eq!(ipv4(echo.join().unwrap()), underlay(&lab, "node-a"));
    finish(lab);
}
