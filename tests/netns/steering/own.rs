//! The node's own traffic stays its own, with every table of Services and source NAT filled: real kernels on both
//! sides, and no socket, so whatever is taken is lost.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use millrace_dataplane::wire::IpProtocol;
use millrace_dataplane::xdp::{
    NodePort, ProgramKind, ServicePort, SteeringCounters, SteeringProgram, SteeringTables,
};

use crate::lab::*;

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn program() -> SteeringProgram {
    let tables = SteeringTables {
        local_addresses: vec![NODE.into()],
        tunnel_ports: vec![TUNNEL_PORT],
        failsafe_ports: vec![22],
        ipip: true,
        pod_prefixes: vec![(IpAddr::from(POD), 24)],
        // A prefix as wide as the whole subnet takes nothing from the node's own address.
        service_prefixes: vec![(NODE.into(), 24), (Ipv4Addr::new(10, 96, 0, 0).into(), 12)],
        service_ports: [(IpProtocol::TCP, 443), (IpProtocol::TCP, 22)]
            .map(|(protocol, port)| ServicePort {
                address: NODE.into(),
                protocol,
                port,
            })
            .to_vec(),
        node_ports: (30_000..32_768)
            .flat_map(|port| [IpProtocol::TCP, IpProtocol::UDP].map(|protocol| NodePort { protocol, port }))
            .collect(),
        vlan: None,
        snat_ports: Some(61_000..=65_535),
    };
    let mut program = SteeringProgram::load(ProgramKind::Uplink, QUEUES).unwrap();
    program.set_tables(&tables).unwrap();
    program
}

fn ping_from_node(lab: &Lab, arguments: &str) -> bool {
    let line = format!(
        "netns exec {} ping -n -q -i 0.05 -W 2 {arguments} {PEER}",
        lab.node
    );
    let status = Command::new("ip")
        .args(line.split(' '))
        .stdout(Stdio::null())
        .status();
    status.unwrap().success()
}

/// Echoes a connection's bytes at `port` of one side, called from the other.
fn talk(lab: &Lab, server: Ipv4Addr, port: u16, from: u16) -> std::io::Result<()> {
    let on = |side: bool| if side { &lab.node } else { &lab.peer };
    let is_node = server == NODE;
    let listener = inside(on(is_node), || TcpListener::bind((server, port)).unwrap());
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 1 << 16];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let client = inside(on(!is_node), || connect_from(from, (server, port)))?;
    let mut client = client;
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&vec![0xa5; 1 << 16])?;
    let mut bytes = vec![0; 1 << 16];
    client.read_exact(&mut bytes)?;
    echo.join().unwrap();
    Ok(())
}

/// Connects from a port of one's own; 0 leaves it to the kernel.
fn connect_from(port: u16, to: (Ipv4Addr, u16)) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(
        &socket,
        &std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    )?;
    connect(&socket, &std::net::SocketAddr::from(to))?;
    Ok(TcpStream::from(socket))
}

#[test]
fn the_nodes_own_traffic_is_not_taken() {
    for (wanted, mode) in MODES {
        let lab = Lab::new();
        let program = program();
        assert_eq!(attach(&lab, &program, wanted).mode, mode);

        // Called: SSH although a Service claims it, another service of the node's, and a ping with fragments.
        talk(&lab, NODE, 22, 0).unwrap();
        talk(&lab, NODE, 7000, 0).unwrap();
        assert!(lab.ping(3), "pinged in {mode} mode");

        // Calling: from ports that the kernel chooses, from the last of them, and pings of all sizes.
        for _ in 0..20 {
            talk(&lab, PEER, 7001, 0).unwrap();
        }
        talk(&lab, PEER, 443, 60_999).unwrap();
        talk(&lab, PEER, 7001, 1024).unwrap();
        assert!(ping_from_node(&lab, "-c 3"), "ping in {mode} mode");
        assert!(ping_from_node(&lab, "-c 2 -s 4000"), "large ping in {mode} mode");
        assert!(
            ping_from_node(&lab, "-c 2 -e 61000"),
            "whatever its identifier, in {mode} mode"
        );

        // The answer to a datagram that nobody wants is an ICMP error, which finds its way to the program.
        let socket = lab.on_node(|| UdpSocket::bind((NODE, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((PEER, 9)).unwrap();
        socket.send(b"anybody there?").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "in {mode} mode");

        let counters = program.counters().unwrap();
        let taken = SteeringCounters {
            passed: 0,
            failsafe_passed: 0,
            ..counters
        };
        assert_eq!(taken, SteeringCounters::default(), "in {mode} mode");
        assert!(
            counters.failsafe_passed > 0 && counters.passed > 100,
            "{counters:?}"
        );
    }
}

/// The exception: source NAT's ports are taken, and with them what a program has bound there by number.
#[test]
fn reserved_ports_are_the_exception() {
    let lab = Lab::new();
    let program = program();
    attach(&lab, &program, MODES[0].0);
    let socket = lab.on_node(|| UdpSocket::bind((NODE, 61_000)).unwrap());
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    lab.send_udp(NODE, 61_000, 3, 100);
    assert!(socket.recv(&mut [0; 8]).is_err());
    expect_counters(
        &program,
        SteeringCounters {
            dropped_no_socket: 3,
            ..SteeringCounters::default()
        },
    );
}
