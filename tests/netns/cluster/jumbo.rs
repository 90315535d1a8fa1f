//! Links that take 9000 bytes: packets of every length between pods of one node, through Services, and through tunnels to a
//! stock node's and another Millrace node's.

use std::fs;
use std::net::{IpAddr, SocketAddrV4};
use std::path::Path;

use millrace_tools::lab::traffic::{
    Amount, Ping, TcpTransfer, UdpEcho, UdpExchange, ping, tcp_transfer, udp_exchange,
};
use millrace_tools::lab::{Lab, NodeKind, POD_INTERFACE, Topology, Wire};
use serde_json::json;

use crate::counters::{Counters, number};
use crate::rig::{
    PAIR, PATIENCE, address, await_reach, await_that, daemon, daemon_mut, finish, lab, node, pod, port_of,
    row, side_by_side,
};
use crate::services::{await_endpoints, declare, udp_socket};

const LINK_MTU: u32 = 9000;
/// What a VXLAN tunnel leaves of it.
const VXLAN_MTU: u32 = LINK_MTU - 50;
/// What IP in IP leaves of it.
const IPIP_MTU: u32 = LINK_MTU - 20;
/// The longest packet that lies in one buffer of the switch's, less its Ethernet header, and in several less the tunnel.
const ONE_BUFFER: u32 = 1792 - 14;
/// Bytes sent over TCP, in segments as large as packets can be; iperf3 counts those that came before it was told of the end.
const BYTES: u64 = 20_000_000;
/// So many flows reach every queue of a port, with so many packets each.
const FLOWS_TOO_LONG: usize = 8;
const PACKETS_TOO_LONG: usize = 300;
const SERVICE: [u8; 4] = [10, 96, 0, 90];

fn topology(pods_per_node: usize, nodes: &[NodeKind]) -> Topology {
    Topology {
        pods_per_node,
        wire: Wire {
            mtu: LINK_MTU,
            ..Wire::default()
        },
        ..Topology::of(nodes)
    }
}

/// Pings and datagrams of every length up to `mtu`, none of which is lost.
fn assert_carries(lab: &Lab, from: &str, to: &str, mtu: u32) {
    let target = address(lab, to);
    await_reach(pod(lab, from), target);
    for length in [
        84,
        ONE_BUFFER - 51,
        ONE_BUFFER - 50,
        ONE_BUFFER,
        ONE_BUFFER + 1,
        2 * ONE_BUFFER,
        mtu - 1,
        mtu,
    ] {
        let report = ping(pod(lab, from), target.into(), &Ping::full_size(length)).unwrap();
        assert_eq!(
            report.received, report.sent,
            "{from} -> {to}, {length} bytes: {report:?}"
        );
    }
    let echo = UdpEcho::start(pod(lab, to), target.into()).unwrap();
    let report = udp_exchange(pod(lab, from), echo.address(), &UdpExchange::up_to(mtu)).unwrap();
    assert!(report.is_whole(), "{from} -> {to}: {report:?}");
}

/// Nothing was dropped, by the switch or before it.
fn assert_lost_nothing(lab: &Lab, node: &str) {
    let counters = Counters::settled(daemon(lab, node));
    assert_eq!(counters.dropped(), [].into(), "{node}");
    for port in counters.port_names() {
        for queue in counters.queues(&port) {
            for counter in [
                "rx_dropped",
                "rx_ring_full",
                "rx_no_run",
                "rx_too_long",
                "tx_dropped",
            ] {
                assert_eq!(
                    number(&queue["device"][counter]),
                    0,
                    "{node}, {port}, {counter}: {queue:#}"
                );
            }
        }
    }
}

/// A TCP connection that fills segments, and loses what overtaxes receivers as any does.
fn assert_flows(lab: &Lab, from: &str, to: &str) {
    let transfer = TcpTransfer {
        from: pod(lab, from),
        to: pod(lab, to),
        address: address(lab, to).into(),
        amount: Amount::Bytes(BYTES),
        timeout: PATIENCE,
    };
    let report = tcp_transfer(&transfer).unwrap();
    assert!(report.received_bytes > BYTES / 2, "{from} -> {to}: {report:?}");
}

/// Datagrams of every length to a Service, whose endpoint is a pod of another node or of this one.
fn assert_serves(lab: &Lab, from: &str, to: &str, mtu: u32) {
    let name = format!("behind-{to}");
    let address = address(lab, to);
    let echo = UdpEcho::start(pod(lab, to), address.into()).unwrap();
    let port = echo.address().port();
    let cluster_ip = IpAddr::from(SERVICE);
    let node = lab.pod(to).unwrap().name().replace("pod-", "node-");
    let node = node.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         clusterIP: {cluster_ip}\n  clusterIPs: [{cluster_ip}]\n  ports:\n  \
         - {{name: udp, protocol: UDP, port: 80, targetPort: {port}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports:\n- {{name: udp, protocol: UDP, port: {port}}}\nendpoints:\n\
         - {{addresses: [{address}], nodeName: {node}, conditions: {{ready: true}}}}\n"
    );
    declare(lab, &name, &text);
    await_endpoints(lab, &name, 1);
    let what = UdpExchange::up_to(mtu);
    let report = udp_exchange(pod(lab, from), (cluster_ip, 80).into(), &what).unwrap();
    assert!(report.is_whole(), "{from} -> {cluster_ip} -> {to}: {report:?}");
    for node in lab.nodes() {
        if let Some(daemon) = node.daemon() {
            daemon.remove_manifest(&format!("{name}.yaml")).unwrap();
        }
    }
}

#[test]
fn packets_of_nine_thousand_bytes_are_carried() {
    let _turn = side_by_side();
    let lab = lab("jumbo", &topology(2, &PAIR));
    let uplink = row(daemon(&lab, "node-a"), "ports", "role", "uplink").unwrap();
    assert_eq!(uplink["mtu"], json!(LINK_MTU), "{uplink:#}");
    let ways = [("pod-a1", "pod-a2"), ("pod-a1", "pod-b1"), ("pod-b1", "pod-a2")];
    for (from, to) in ways {
        assert_carries(&lab, from, to, VXLAN_MTU);
    }
    for to in ["pod-a2", "pod-b1"] {
        assert_serves(&lab, "pod-a1", to, VXLAN_MTU);
    }
    assert_lost_nothing(&lab, "node-a");
    for (from, to) in ways {
        assert_flows(&lab, from, to);
    }
    assert_too_long_is_counted(&lab);
    finish(lab);
}

/// Packets that no run has room for: more of them than fill rings have frames, so that a queue which forgot to fill its own
/// again would hear nothing any more.
fn assert_too_long_is_counted(lab: &Lab) {
    let port = port_of(daemon(lab, "node-a"), "lab/pod-a1").unwrap();
    let ends = [
        (node(lab, "node-a"), port["interface"].as_str().unwrap()),
        (pod(lab, "pod-a1"), POD_INTERFACE),
    ];
    for (namespace, interface) in ends {
        let mtu = (2 * LINK_MTU).to_string();
        namespace
            .ip(&["link", "set", interface, "mtu", mtu.as_str()])
            .unwrap();
    }
    let target = SocketAddrV4::new(address(lab, "pod-a2"), 9);
    let payload = vec![0; (2 * LINK_MTU - 28) as usize];
    for _ in 0..FLOWS_TOO_LONG {
        let socket = udp_socket(pod(lab, "pod-a1"), target);
        for _ in 0..PACKETS_TOO_LONG {
            socket.send(&payload).unwrap();
        }
    }
    let too_long = || {
        let queues = Counters::settled(daemon(lab, "node-a")).queues("lab/pod-a1");
        let counts = queues.iter().map(|queue| number(&queue["device"]["rx_too_long"]));
        counts.sum::<u64>()
    };
    await_that("packets that are too long", || too_long() > 0);
    assert_carries(lab, "pod-a1", "pod-a2", VXLAN_MTU);
}

/// Millrace nodes without pods, whose node files and manifests are what `edit` makes of them.
fn millraces(name: &str, count: usize, edit: impl Fn(&str) -> String) -> Lab {
    let mut lab = lab(name, &topology(0, &[]));
    let names: Vec<String> = (0..count)
        .map(|_| lab.add_idle_node(NodeKind::Millrace).unwrap().name())
        .collect();
    for name in &names {
        let daemon = daemon_mut(&mut lab, name);
        let read = |path: &Path| edit(&fs::read_to_string(path).unwrap());
        daemon.write_config(&read(&daemon.config())).unwrap();
        for other in &names {
            let manifest = format!("{other}.yaml");
            let text = read(&daemon.manifests().join(&manifest));
            daemon.write_manifest(&manifest, &text).unwrap();
        }
        daemon.start().unwrap();
    }
    lab
}

#[test]
fn packets_of_nine_thousand_bytes_are_carried_in_ip() {
    let _turn = side_by_side();
    let mut lab = millraces("jumbo-ipip", 2, |text| {
        let mut text = text.replace("backend-type: vxlan", "backend-type: ipip");
        // One node by native XDP, the other by generic.
        if text.contains("name = \"node-b\"") {
            text = text.replace("xdp-mode = \"auto\"", "xdp-mode = \"generic\"");
        }
        match text.split_once("[overlay]") {
            Some((before, _)) => format!("{before}[overlay]\nkind = \"ipip\"\n"),
            None => text,
        }
    });
    for (node, name) in [("node-a", "pod-a1"), ("node-a", "pod-a2"), ("node-b", "pod-b1")] {
        lab.add_pod(node, name).unwrap();
    }
    for (from, to) in [("pod-a1", "pod-a2"), ("pod-a1", "pod-b1"), ("pod-b1", "pod-a2")] {
        assert_carries(&lab, from, to, IPIP_MTU);
    }
    assert_serves(&lab, "pod-a1", "pod-b1", IPIP_MTU);
    for node in ["node-a", "node-b"] {
        assert_lost_nothing(&lab, node);
    }
    assert_flows(&lab, "pod-a1", "pod-b1");
    finish(lab);
}

#[test]
fn packets_in_pieces_can_be_switched_off() {
    let _turn = side_by_side();
    let mut lab = millraces("jumbo-off", 1, |text| {
        text.replace("[workers]\n", "[workers]\njumbo = \"off\"\n")
    });
    for name in ["pod-a1", "pod-a2"] {
        lab.add_pod("node-a", name).unwrap();
    }
    let uplink = row(daemon(&lab, "node-a"), "ports", "role", "uplink").unwrap();
    assert_eq!(uplink["mtu"], json!(ONE_BUFFER), "{uplink:#}");
    let target = address(&lab, "pod-a2");
    await_reach(pod(&lab, "pod-a1"), target);
    let full = Ping::full_size(ONE_BUFFER - 50);
    let report = ping(pod(&lab, "pod-a1"), target.into(), &full).unwrap();
    assert_eq!(report.received, report.sent, "{report:?}");
    finish(lab);
}
