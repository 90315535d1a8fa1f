//! The node's own connections to Services at its own addresses: turned to the gateway, and back.
//!
//! The switch's part is played by a namespace of its own that holds the gateway's address behind the host port.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use millrace::kernel::{HostPortSpec, Kernel, OUTPUT_TABLE, OwnServices};

use super::namespaces::Namespace;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The node's address on another interface, without node ports.
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 1);
const NODE_PORT: u16 = 30_080;
const TCP: u8 = 6;
const UDP: u8 = 17;
const PATIENCE: Duration = Duration::from_secs(3);

fn wanted() -> OwnServices {
    OwnServices {
        interface: "millrace0".to_owned(),
        mtu: 1450,
        addresses: vec![NODE.into(), "2001:db8::1".parse().unwrap()],
        node_ports: vec![(TCP, NODE_PORT), (UDP, NODE_PORT)],
        ports: vec![
            (OTHER.into(), (TCP, 80)),
            ("2001:db8::2".parse().unwrap(), (TCP, 80)),
        ],
        gateways: vec![GATEWAY.into(), "fd00:244:1::1".parse().unwrap()],
    }
}

fn ruleset(node: &Namespace) -> String {
    node.sh("nft list ruleset")
}

/// Tables of other programs, one of them with a chain where ours has its own.
fn add_foreign_tables(node: &Namespace) {
    for line in [
        "add table inet other",
        "add chain inet other output { type nat hook output priority -100 ; }",
        "add rule inet other output ip daddr 203.0.113.9 dnat ip to 203.0.113.10",
        "add table ip millrace",
        "add set ip millrace things { type ipv4_addr ; }",
    ] {
        node.sh(&format!("nft {line}"));
    }
}

#[test]
fn they_are_put_in_replaced_and_taken_out() {
    let node = Namespace::new();
    add_foreign_tables(&node);
    let foreign = ruleset(&node);
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        assert!(!kernel.has_own_services().unwrap());
        assert!(!kernel.remove_own_services().unwrap());
        kernel.set_own_services(&OwnServices::default()).unwrap();
        assert_eq!(ruleset(&node), foreign, "nothing to serve, no table");

        kernel.set_own_services(&wanted()).unwrap();
        assert!(kernel.has_own_services().unwrap());
        let ours = node.sh(&format!("nft list table inet {OUTPUT_TABLE}"));
        for words in [
            "type nat hook output priority -110; policy accept;",
            "elements = { 192.0.2.1 }",
            "elements = { 2001:db8::1 }",
            "elements = { tcp . 30080",
            "udp . 30080",
            "elements = { 198.51.100.1 . tcp . 80 }",
            "elements = { 2001:db8::2 . tcp . 80 }",
            "type filter hook postrouting priority mangle; policy accept;",
            "type filter hook input priority mangle; policy accept;",
            "ip daddr . meta l4proto . th dport @services4 dnat ip to 10.244.1.1",
            "ip daddr @addresses4 meta l4proto . th dport @node_ports dnat ip to 10.244.1.1",
            "ip6 daddr . meta l4proto . th dport @services6 dnat ip6 to fd00:244:1::1",
            "ip6 daddr @addresses6 meta l4proto . th dport @node_ports dnat ip6 to fd00:244:1::1",
        ] {
            assert!(ours.contains(words), "no {words:?} in\n{ours}");
        }
        assert_eq!(
            ruleset(&node).replace(&ours, ""),
            foreign,
            "the others are as they were"
        );

        let fewer = OwnServices {
            node_ports: vec![(TCP, 31_000)],
            ports: Vec::new(),
            ..wanted()
        };
        kernel.set_own_services(&fewer).unwrap();
        let ours = node.sh(&format!("nft list table inet {OUTPUT_TABLE}"));
        assert!(
            ours.contains("tcp . 31000") && !ours.contains("30080") && !ours.contains(". 80"),
            "{ours}"
        );
        kernel.set_own_services(&fewer).unwrap();
        assert_eq!(
            node.sh(&format!("nft list table inet {OUTPUT_TABLE}")),
            ours,
            "again"
        );

        node.sh("nft flush ruleset");
        assert!(!kernel.has_own_services().unwrap(), "somebody cleared all tables");
        add_foreign_tables(&node);
        kernel.set_own_services(&fewer).unwrap();
        assert!(kernel.remove_own_services().unwrap());
        assert!(!kernel.remove_own_services().unwrap());
        assert_eq!(ruleset(&node), foreign);
    });
}

#[test]
fn ten_thousand_are_put_in_at_once() {
    let node = Namespace::new();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let many = OwnServices {
            node_ports: (0..2768)
                .flat_map(|n| [(TCP, 30_000 + n), (UDP, 30_000 + n)])
                .collect(),
            ports: (0..10_000)
                .map(|n| (IpAddr::from(OTHER), (TCP, 10_000 + n)))
                .collect(),
            ..wanted()
        };
        let begin = std::time::Instant::now();
        kernel.set_own_services(&many).unwrap();
        println!(
            "{} ports in {:?}",
            many.ports.len() + many.node_ports.len(),
            begin.elapsed()
        );
        let set = node.sh(&format!("nft list set inet {OUTPUT_TABLE} services4"));
        assert_eq!(set.matches("tcp").count(), 10_000);
        let set = node.sh(&format!("nft list set inet {OUTPUT_TABLE} node_ports"));
        assert_eq!(
            set.matches(" . ").count() - 1,
            2 * 2768,
            "elements, and one in the type"
        );
        // A change that cannot be made leaves everything as it was.
        let before = ruleset(&node);
        let bad = OwnServices {
            gateways: vec![GATEWAY.into()],
            addresses: vec![NODE.into()],
            node_ports: vec![(TCP, NODE_PORT)],
            ports: Vec::new(),
            ..wanted()
        };
        without_privilege(|| {
            let error = kernel.set_own_services(&bad).unwrap_err().to_string();
            assert!(
                error.contains("nftables") && error.contains("CAP_NET_ADMIN"),
                "{error}"
            );
        });
        assert_eq!(ruleset(&node), before);
    });
}

/// Runs `work` on a thread without any privilege.
fn without_privilege(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            rustix::thread::set_no_new_privs(true).unwrap();
            let none = rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none).unwrap();
            work();
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A node with its host port, whose other end is in a namespace that answers as the gateway.
fn node_and_switch() -> (Namespace, Namespace) {
    let (node, switch) = (Namespace::new(), Namespace::new());
    node.ip("link add up0 type bridge");
    node.ip(&format!("addr add {NODE}/24 dev up0"));
    node.ip(&format!("addr add {OTHER}/32 dev up0"));
    node.ip(&format!("addr add {NODE6}/64 dev up0 nodad"));
    node.ip("link set up0 up");
    node.run(|| async {
        let spec = HostPortSpec {
            name: "millrace0".to_owned(),
            switch_name: "millrace0p".to_owned(),
            queues: 1,
            mtu: 1450,
            mac: Some([2, 0, 0, 0, 1, 1]),
            switch_mac: None,
            addresses: vec!["10.244.1.0".parse().unwrap(), "fd00:244:1::".parse().unwrap()],
            neighbours: vec![GATEWAY6.into()],
        };
        Kernel::open().unwrap().ensure_host_port(&spec).await.unwrap();
    });
    // The strictest that a distribution sets for all interfaces.
    node.sh("sysctl -q net.ipv4.conf.all.rp_filter=1");
    node.ip(&format!("link set millrace0p netns {}", switch.name()));
    node.ip(&format!(
        "route add 10.244.1.0/24 via {GATEWAY} dev millrace0 onlink src 10.244.1.0"
    ));
    node.ip(&format!(
        "route add fd00:244:1::/64 via {GATEWAY6} dev millrace0 onlink src fd00:244:1::"
    ));
    switch.ip(&format!("addr add {GATEWAY}/32 dev millrace0p"));
    switch.sh("sysctl -q net.ipv6.conf.millrace0p.disable_ipv6=0");
    switch.ip(&format!("addr add {GATEWAY6}/128 dev millrace0p nodad"));
    switch.ip("link set millrace0p up");
    switch.ip("route add 2001:db8::/64 dev millrace0p");
    // The switch sends to the host port without asking who has an address of the node.
    switch.ip(&format!(
        "neigh add {NODE6} lladdr 02:00:00:00:01:01 nud permanent dev millrace0p"
    ));
    for network in ["10.244.1.0/32", "192.0.2.0/24", "198.51.100.0/24"] {
        switch.ip(&format!("route add {network} dev millrace0p"));
    }
    (node, switch)
}

/// A backend whose packets may be longer than the host port's: the connection's segments fit all the same, both ways.
#[test]
fn segments_fit_the_host_port() {
    let (node, switch) = node_and_switch();
    switch.ip("link set millrace0p mtu 1500");
    node.run(|| async { Kernel::open().unwrap().set_own_services(&wanted()).unwrap() });
    let server = echo_once(&switch, (GATEWAY, NODE_PORT).into());
    node.run(|| async { call((NODE, NODE_PORT).into()) });
    server.join().unwrap();
}

/// Answers one connection with what it is sent, and says who called.
fn echo_once(namespace: &Namespace, at: SocketAddr) -> std::thread::JoinHandle<SocketAddr> {
    let listener = namespace.run(|| async { TcpListener::bind(at).unwrap() });
    std::thread::spawn(move || {
        let (mut stream, caller) = listener.accept().unwrap();
        let mut bytes = vec![0; 1 << 20];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        caller
    })
}

/// A megabyte there and back; answers the connection's own address.
fn call(at: SocketAddr) -> SocketAddr {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), at, "the program sees whom it called");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..1_u32 << 20).map(|n| n.to_le_bytes()[0]).collect();
    stream.write_all(&sent).unwrap();
    let mut received = vec![0; sent.len()];
    stream.read_exact(&mut received).unwrap();
    assert!(received == sent, "TCP changed the bytes");
    stream.local_addr().unwrap()
}

#[test]
fn the_nodes_own_connections_reach_the_switch() {
    let (node, switch) = node_and_switch();
    node.run(|| async { Kernel::open().unwrap().set_own_services(&wanted()).unwrap() });
    for (to, at) in [((NODE, NODE_PORT), NODE_PORT), ((OTHER, 80), 80)] {
        let server = echo_once(&switch, (GATEWAY, at).into());
        let caller = node.run(|| async { call(to.into()) });
        assert_eq!(
            server.join().unwrap(),
            caller,
            "the switch sees the node's own address"
        );
        assert_eq!(caller.ip(), IpAddr::from(to.0));
    }

    let server = echo_once(&switch, (GATEWAY6, NODE_PORT).into());
    let caller = node.run(|| async { call((NODE6, NODE_PORT).into()) });
    assert_eq!(server.join().unwrap(), caller, "IPv6 likewise");

    // What nobody serves is the node's own affair: refused at once, as ever.
    for refused in [
        (NODE, NODE_PORT + 1),
        (NODE, 80),
        (OTHER, NODE_PORT),
        (Ipv4Addr::LOCALHOST, NODE_PORT),
        (Ipv4Addr::new(127, 1, 2, 3), NODE_PORT),
    ] {
        let server = switch.run(|| async { TcpListener::bind((GATEWAY, refused.1)).unwrap() });
        let error = node.run(|| async { TcpStream::connect_timeout(&refused.into(), PATIENCE).unwrap_err() });
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{refused:?}");
        drop(server);
    }
    // The node's own programs are reached as before, also at the port's number elsewhere.
    for own in [(NODE, 5000), (Ipv4Addr::LOCALHOST, NODE_PORT)] {
        let server = echo_once(&node, own.into());
        node.run(|| async { call(own.into()) });
        server.join().unwrap();
    }
}

#[test]
fn datagrams_there_and_back() {
    let (node, switch) = node_and_switch();
    node.run(|| async { Kernel::open().unwrap().set_own_services(&wanted()).unwrap() });
    let server = switch.run(|| async { UdpSocket::bind((GATEWAY, NODE_PORT)).unwrap() });
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = node.run(|| async { UdpSocket::bind("0.0.0.0:0").unwrap() });
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for text in ["first", "second"] {
        client.send_to(text.as_bytes(), (NODE, NODE_PORT)).unwrap();
        let mut buffer = [0; 64];
        let (length, caller) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], caller).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from),
            (text.as_bytes(), (NODE, NODE_PORT).into())
        );
    }
}

/// Connections survive a change of the table and its removal: connection tracking has them.
#[test]
fn what_is_established_survives_a_change() {
    let (node, switch) = node_and_switch();
    node.run(|| async { Kernel::open().unwrap().set_own_services(&wanted()).unwrap() });
    let listener = switch.run(|| async { TcpListener::bind((GATEWAY, NODE_PORT)).unwrap() });
    let mut client =
        node.run(|| async { TcpStream::connect_timeout(&(NODE, NODE_PORT).into(), PATIENCE).unwrap() });
    let (mut server, _) = listener.accept().unwrap();
    let mut exchange = |word: &[u8; 4]| {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = [0; 4];
        client.write_all(word).unwrap();
        server.read_exact(&mut got).unwrap();
        server.write_all(&got).unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, word);
    };
    exchange(b"made");
    let other = OwnServices {
        node_ports: vec![(TCP, NODE_PORT + 1)],
        ..wanted()
    };
    node.run(|| async { Kernel::open().unwrap().set_own_services(&other).unwrap() });
    exchange(b"kept");
    let refused = node.run(|| async { TcpStream::connect_timeout(&(NODE, NODE_PORT).into(), PATIENCE) });
    assert!(refused.is_err(), "a new one is not turned any more");
    node.run(|| async { Kernel::open().unwrap().set_own_services(&wanted()).unwrap() });
    exchange(b"back");
}
