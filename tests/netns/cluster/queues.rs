//! Queues and workers: each queue has its worker, all of them work, in either XDP mode.

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use millrace_tools::lab::plan::{PREFIX_LENGTH, UPLINK, VNI, VXLAN_PORT};
use millrace_tools::lab::traffic::UdpEcho;
use millrace_tools::lab::{Lab, MillraceOptions, Topology, Wire};

use crate::counters::{Counters, growth, number};
use crate::frames::{IPV4, ethernet, send, udp_packet, vxlan};
use crate::rig::{
    PAIR, PATIENCE, SILENCE, address, assert_reaches, await_reach, daemon, daemon_mut, finish, lab, node,
    pod, row, rows, side_by_side, underlay,
};

const QUEUES: u32 = 4;
/// Flows, each from a port of its own: enough for every queue to have many.
const FLOWS: usize = 128;

/// Sends a datagram on every flow and hears it echoed; returns how many were.
fn echo_flows(lab: &Lab, from: &str, to: &str) -> usize {
    let target = address(lab, to);
    let echo = UdpEcho::start(pod(lab, to), target.into()).unwrap();
    let SocketAddr::V4(at) = echo.address() else {
        panic!("an IPv4 server")
    };
    let open = || {
        (0..FLOWS)
            .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
            .collect::<Vec<_>>()
    };
    let sockets = pod(lab, from).within(open).unwrap();
    let answered = sockets.iter().filter(|socket| {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"flow", at).unwrap();
        socket.recv(&mut [0; 16]).is_ok()
    });
    answered.count()
}

/// Sends a tunnel packet of node-b's on every flow, spread over the queues by the kernel as a NIC does it; returns how many
/// arrived in the pod. (What comes over the rack's bridge keeps the queue it came in by there.)
fn spread_flows(lab: &Lab, to: &str) -> usize {
    let at = SocketAddrV4::new(address(lab, to), 7100);
    let sink = pod(lab, to).within(|| UdpSocket::bind(at)).unwrap().unwrap();
    sink.set_read_timeout(Some(SILENCE)).unwrap();
    let (here, there) = (
        lab.node("node-b").unwrap().plan(),
        lab.node("node-a").unwrap().plan(),
    );
    let from = address(lab, "pod-b1");
    let frame = |flow: u16| {
        let inner = udp_packet(SocketAddrV4::new(from, 20_000 + flow), at, b"flow");
        let tunnelled = vxlan(VNI, &ethernet(there.vtep_mac(), here.vtep_mac(), IPV4, &inner));
        let outer = udp_packet(
            SocketAddrV4::new(here.underlay_address(), 40_000 + flow),
            SocketAddrV4::new(there.underlay_address(), VXLAN_PORT),
            &tunnelled,
        );
        ethernet(there.uplink_mac(), here.uplink_mac(), IPV4, &outer)
    };
    let frames: Vec<Vec<u8>> = (0..FLOWS as u16).map(frame).collect();
    send(lab.switch().namespace(), "node-a", &frames);
    std::iter::from_fn(|| sink.recv(&mut [0; 16]).ok()).count()
}

#[test]
fn four_queues_and_two_workers_in_either_mode() {
    let _turn = side_by_side();
    for mode in ["native", "generic"] {
        let lab = lab(
            "queues",
            &Topology {
                pods_per_node: 2,
                wire: Wire {
                    queues: QUEUES,
                    ..Wire::default()
                },
                millrace: MillraceOptions {
                    cores: vec![0, 1],
                    xdp_mode: mode.to_owned(),
                    ..MillraceOptions::default()
                },
                ..Topology::of(&PAIR)
            },
        );
        let daemon = daemon(&lab, "node-a");
        let uplink = row(daemon, "ports", "role", "uplink").unwrap();
        assert_eq!(
            (uplink["xdp_mode"].as_str(), number(&uplink["queues"])),
            (Some(mode), u64::from(QUEUES))
        );
        for (worker, own) in [["eth1/0", "eth1/2"], ["eth1/1", "eth1/3"]].iter().enumerate() {
            let shown = &rows(daemon, "workers")[worker];
            let queues: Vec<&str> = shown["queues"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|q| q.as_str())
                .collect();
            let on_uplink: Vec<&str> = queues
                .iter()
                .copied()
                .filter(|queue| queue.starts_with("eth1/"))
                .collect();
            assert_eq!(on_uplink, own, "{shown:#}");
            // A pod's port has a queue for every worker.
            let pods = queues
                .iter()
                .filter(|queue| queue.starts_with("mr") && queue.ends_with(&format!("/{worker}")));
            assert_eq!(pods.count(), 2, "{shown:#}");
        }
        assert_reaches(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));

        let before = Counters::settled(daemon);
        assert_eq!(
            spread_flows(&lab, "pod-a1"),
            FLOWS,
            "{mode}, flows spread over all queues"
        );
        assert_eq!(
            echo_flows(&lab, "pod-b1", "pod-a1"),
            FLOWS,
            "{mode}, flows from the wire"
        );
        assert_eq!(
            echo_flows(&lab, "pod-a1", "pod-b1"),
            FLOWS,
            "{mode}, flows to the wire"
        );
        assert_eq!(
            echo_flows(&lab, "pod-a1", "pod-a2"),
            FLOWS,
            "{mode}, flows between its pods"
        );
        let after = Counters::settled(daemon);
        assert_eq!(growth(&before.dropped(), &after.dropped()), [].into(), "{mode}");
        check_queues(&before, &after, mode);
        finish(lab);
    }
}

/// Every queue of the uplink received, every worker sent, and each counted just what its queues did.
fn check_queues(before: &Counters, after: &Counters, mode: &str) {
    let ports: BTreeSet<&str> = [UPLINK, "millrace0p", "lab/pod-a1", "lab/pod-a2"].into();
    let mut received = [0; 2];
    let mut transmitted = [0; 2];
    let mut sent_on_uplink = [0; 2];
    for port in &ports {
        for (number_of, (before, after)) in before.queues(port).iter().zip(after.queues(port)).enumerate() {
            let grown = |key: &str| number(&after[key]) - number(&before[key]);
            let [rx, tx] = ["rx_packets", "tx_packets"].map(grown);
            received[number_of % 2] += rx;
            transmitted[number_of % 2] += tx;
            if *port == UPLINK {
                // A veth whose receiving end has no NAPI hands over what it sent on queue n as from queue n - 1.
                let reached = mode == "native" || number_of + 1 < QUEUES as usize;
                assert_eq!(
                    rx > 10,
                    reached,
                    "{mode}: queue {number_of} of the uplink received {rx}"
                );
                sent_on_uplink[number_of % 2] += tx;
            }
        }
    }
    for worker in 0..2 {
        let grown =
            |key: &str| number(&after.workers()[worker][key]) - number(&before.workers()[worker][key]);
        assert_eq!(received[worker], grown("received"), "{mode}: worker {worker}");
        assert_eq!(
            transmitted[worker],
            grown("transmitted"),
            "{mode}: worker {worker}"
        );
        assert!(
            sent_on_uplink[worker] > 10,
            "{mode}: worker {worker} sent {sent_on_uplink:?}"
        );
        let batches = &after.workers()[worker]["batch_packets"];
        assert!(
            number(&batches["count"]) > 0 && number(&batches["max"]) <= 64,
            "{batches}"
        );
        assert!(number(&after.workers()[worker]["batch_ns"]["p50"]) > 0);
    }
    let steered = growth(&before.steering(UPLINK), &after.steering(UPLINK));
    let uplink: u64 = before
        .queues(UPLINK)
        .iter()
        .zip(after.queues(UPLINK))
        .map(|(before, after)| number(&after["rx_packets"]) - number(&before["rx_packets"]))
        .sum();
    assert_eq!(
        steered["to_switch_tunnel"], uplink,
        "{mode}: what was steered to the switch arrived there"
    );
}

#[test]
fn another_number_of_workers_serves_the_same_ports() {
    let _turn = side_by_side();
    let mut lab = lab(
        "workers",
        &Topology {
            pods_per_node: 2,
            ..Topology::of(&PAIR)
        },
    );
    let two = std::fs::read_to_string(daemon(&lab, "node-a").config()).unwrap();
    let one = two
        .replace("cores = [0, 1]", "cores = [1]\nbatch = 1\nframes = 4096")
        .replace("idle = \"sleep\"", "idle = \"poll\"");
    assert!(
        one.contains("idle = \"poll\"") && one.contains("cores = [1]"),
        "{one}"
    );
    for (text, workers) in [(&one, 1), (&two, 2)] {
        daemon_mut(&mut lab, "node-a").stop().unwrap();
        daemon(&lab, "node-a").write_config(text).unwrap();
        daemon_mut(&mut lab, "node-a").start().unwrap();
        let shown = rows(daemon(&lab, "node-a"), "workers");
        assert_eq!(shown.len(), workers, "{shown:#?}");
        // The pods' ports have two queues each, whoever serves them.
        let queues: usize = shown
            .iter()
            .map(|worker| worker["queues"].as_array().unwrap().len())
            .sum();
        assert_eq!(queues, 2 + 2 + 2 + workers, "{shown:#?}");
        for (from, to) in [("pod-a1", "pod-a2"), ("pod-a2", "pod-b1"), ("pod-b2", "pod-a1")] {
            await_reach(pod(&lab, from), address(&lab, to));
            assert_eq!(
                echo_flows(&lab, from, to),
                FLOWS,
                "{workers} worker(s), {from} -> {to}"
            );
        }
        await_reach(node(&lab, "node-a"), address(&lab, "pod-a1"));
        if workers == 1 {
            let sleeps = number(&rows(daemon(&lab, "node-a"), "workers")[0]["sleeps"]);
            assert_eq!(sleeps, 0, "a worker that polls does not sleep");
            let largest = Counters::read(daemon(&lab, "node-a")).workers()[0]["batch_packets"].clone();
            assert_eq!(largest["max"], 1);
        }
        Counters::settled(daemon(&lab, "node-a"));
    }
    finish(lab);
}

#[test]
fn a_driver_without_native_mode_gets_the_generic_one() {
    let _turn = side_by_side();
    let mut lab = lab(
        "fallback",
        &Topology {
            pods_per_node: 1,
            ..Topology::of(&PAIR)
        },
    );
    let (plan, prefix) = {
        let plan = lab.node("node-a").unwrap().plan();
        (plan, format!("{}/{PREFIX_LENGTH}", plan.underlay_address()))
    };
    // A macvlan device knows no native XDP. It takes the uplink's place, its MAC and its address included.
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    let config = std::fs::read_to_string(daemon(&lab, "node-a").config()).unwrap();
    let config_path = daemon(&lab, "node-a").config();
    let removed = daemon(&lab, "node-a")
        .ask(&["uninstall", "--config", config_path.to_str().unwrap()])
        .unwrap();
    assert!(removed.status.success(), "{removed:?}");
    let namespace = node(&lab, "node-a");
    namespace
        .ip(&["address", "delete", &prefix, "dev", UPLINK])
        .unwrap();
    namespace
        .ip(&["link", "set", UPLINK, "address", "02:00:00:00:00:f1"])
        .unwrap();
    let mut make = vec!["link", "add", "link", UPLINK, "name", "mac0"];
    let mac = plan.uplink_mac().to_string();
    make.extend([
        "address",
        &mac,
        "numrxqueues",
        "2",
        "numtxqueues",
        "2",
        "type",
        "macvlan",
        "mode",
        "bridge",
    ]);
    namespace.ip(&make).unwrap();
    namespace.ip(&["link", "set", "mac0", "up"]).unwrap();
    namespace.ip(&["address", "add", &prefix, "dev", "mac0"]).unwrap();
    let on =
        |interface: &str| config.replace("interface = \"eth1\"", &format!("interface = \"{interface}\""));

    // Asked for by name, native mode is refused rather than replaced.
    daemon(&lab, "node-a")
        .write_config(&on("mac0").replace("\"auto\"", "\"native\""))
        .unwrap();
    let refused = daemon_mut(&mut lab, "node-a").start().unwrap_err().to_string();
    assert!(
        refused.contains("native") && refused.contains("mac0"),
        "{refused}"
    );

    daemon(&lab, "node-a").write_config(&on("mac0")).unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    let uplink = row(daemon(&lab, "node-a"), "ports", "role", "uplink").unwrap();
    let mode = uplink["xdp_mode"].as_str().unwrap();
    assert!(mode.starts_with("generic (native refused: "), "{mode}");
    let log = daemon(&lab, "node-a").log_end();
    assert!(log.contains("refuses native XDP"), "{log}");
    lab.add_pod("node-a", "late").unwrap();
    await_reach(pod(&lab, "late"), address(&lab, "pod-b1"));
    assert_reaches(node(&lab, "node-b"), underlay(&lab, "node-a"));
    finish(lab);
}
