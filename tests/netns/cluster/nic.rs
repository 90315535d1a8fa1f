//! The uplink as a device with queues: as many as there are workers or not, changed under the switch, polled; and what
//! uninstalling puts back. (What a veth is not, zero-copy and an indirection table, is tested in a virtual machine.)

use std::net::{SocketAddr, UdpSocket};

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::traffic::UdpEcho;
use millrace_tools::lab::{Lab, MillraceOptions, Topology, Wire};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

use crate::counters::{Counters, number};
use crate::picture::Picture;
use crate::rig::{
    PAIR, PATIENCE, address, assert_reaches, await_reach, await_that, daemon, daemon_mut, finish, lab, node,
    pod, row, side_by_side, underlay, untouched,
};

/// Flows, each from a port of its own: enough for every queue and worker to have some.
const FLOWS: usize = 64;

/// A pair whose wires have so many queues, with two workers.
fn wired(name: &str, queues: u32, pods_per_node: usize) -> Lab {
    lab(
        name,
        &Topology {
            pods_per_node,
            wire: Wire {
                queues,
                ..Wire::default()
            },
            millrace: MillraceOptions {
                cores: vec![0, 1],
                ..MillraceOptions::default()
            },
            ..Topology::of(&PAIR)
        },
    )
}

/// Datagrams of a flow that are on their way at once.
const BURST: u8 = 4;

/// Sends datagrams on every flow, and hears each echoed in order; returns what was heard on the flows where it is not so.
fn echo_flows(lab: &Lab, from: &str, to: &str) -> Vec<(usize, Vec<u8>)> {
    let echo = UdpEcho::start(pod(lab, to), address(lab, to).into()).unwrap();
    let SocketAddr::V4(at) = echo.address() else {
        panic!("an IPv4 server")
    };
    let open = || -> Vec<UdpSocket> {
        (0..FLOWS)
            .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
            .collect()
    };
    let sockets = pod(lab, from).within(open).unwrap();
    let heard = |socket: &UdpSocket| -> Vec<u8> {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for number in 0..BURST {
            socket.send_to(&[number], at).unwrap();
        }
        let mut bytes = [0; 16];
        let next = |_| socket.recv(&mut bytes).is_ok().then_some(bytes[0]);
        (0..BURST).map_while(next).collect()
    };
    let all = sockets.iter().map(heard).enumerate();
    all.filter(|(_, heard)| !heard.iter().copied().eq(0..BURST))
        .collect()
}

/// Runs what sends on one core: a stock kernel queues what comes through a veth per core (`netif_rx`), and a thread that is
/// moved between two datagrams may so overtake itself on a node that is not ours.
fn on_one_core<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            let mut core = CpuSet::new();
            core.set(0);
            sched_setaffinity(None, &core).unwrap();
            work()
        });
        pinned.join().unwrap()
    })
}

fn assert_flows(lab: &Lab, pairs: &[(&str, &str)], when: &str) {
    for (from, to) in pairs {
        let wrong = on_one_core(|| echo_flows(lab, from, to));
        let dropped = |node: &str| {
            let daemon = lab.node(node).unwrap().daemon();
            daemon.map(|daemon| Counters::settled(daemon).dropped())
        };
        assert!(
            wrong.is_empty(),
            "{when}: {from} -> {to}: flows and what was heard: {wrong:?}; dropped here and there: {:?}",
            ["node-a", "node-b"].map(dropped)
        );
    }
}

fn uplink(lab: &Lab) -> Value {
    row(daemon(lab, "node-a"), "ports", "role", "uplink").unwrap()
}

/// What the workers handed over, and took over.
fn handed(counters: &Counters) -> [(u64, u64); 2] {
    [0, 1].map(|worker| {
        let worker = &counters.workers()[worker];
        (number(&worker["handed_over"]), number(&worker["taken_over"]))
    })
}

/// Writes the node file of node-a with more lines under `[uplink]`, and starts the switch anew.
fn restart_with(lab: &mut Lab, good: &str, lines: &str) {
    daemon_mut(lab, "node-a").stop().unwrap();
    let text = good.replacen("[uplink]", &format!("[uplink]\n{lines}"), 1);
    daemon(lab, "node-a").write_config(&text).unwrap();
    daemon_mut(lab, "node-a").start().unwrap();
}

fn node_file(lab: &Lab) -> String {
    std::fs::read_to_string(daemon(lab, "node-a").config()).unwrap()
}

#[test]
fn a_single_queue_serves_two_workers() {
    let _turn = side_by_side();
    let lab = wired("single", 1, 2);
    let row = uplink(&lab);
    assert_eq!(number(&row["queues"]), 1, "{row:#}");
    assert_eq!(row["bind_mode"], "copy", "a veth knows no zero-copy: {row:#}");
    assert_eq!(row["per_queue"][0]["worker"], 0, "{row:#}");
    let log = daemon(&lab, "node-a").log_end();
    assert!(log.contains("no zero-copy here") && log.contains("veth"), "{log}");
    assert_flows(
        &lab,
        &[("pod-a1", "pod-b1"), ("pod-b1", "pod-a2"), ("pod-a1", "pod-a2")],
        "one queue",
    );
    assert_reaches(node(&lab, "node-a"), address(&lab, "pod-a1"));
    let counters = Counters::settled(daemon(&lab, "node-a"));
    let [(first, taken), (second, none)] = handed(&counters);
    assert!(second > 0, "the second worker has no queue of its own to send by");
    assert_eq!((taken, first, none), (second, 0, 0), "the first sends for it");
    assert_eq!(counters.dropped(), [].into());
    finish(lab);
}

/// All that comes through the tunnel comes in by one queue; the worker that has none walks its share of it, each flow in order.
#[test]
fn tunnel_packets_of_a_single_queue_are_shared() {
    let _turn = side_by_side();
    let mut lab = wired("shared", 1, 1);
    let good = node_file(&lab);
    let text = good.replacen("[workers]", "[workers]\nspread = \"always\"", 1);
    assert_ne!(text, good);
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    daemon(&lab, "node-a").write_config(&text).unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    await_reach(pod(&lab, "pod-b1"), address(&lab, "pod-a1"));
    assert_flows(
        &lab,
        &[("pod-b1", "pod-a1"), ("pod-a1", "pod-b1")],
        "shared by two workers",
    );
    let counters = Counters::settled(daemon(&lab, "node-a"));
    let of = |worker: usize, field: &str| number(&counters.workers()[worker][field]);
    let given = of(0, "spread_out");
    assert!(given > FLOWS as u64, "{given} packets were shared");
    assert_eq!((of(0, "handed_over"), of(1, "spread_in")), (given, given));
    assert_eq!((of(0, "spread_in"), of(1, "spread_out")), (0, 0));
    assert_eq!(counters.dropped(), [].into());
    finish(lab);
}

/// A pod's port made for one worker has one queue; two workers serve it all the same.
#[test]
fn a_port_made_for_one_worker_serves_two() {
    let _turn = side_by_side();
    let mut lab = wired("onequeue", 2, 0);
    let two = node_file(&lab);
    let one = two.replacen("cores = [0, 1]", "cores = [0]", 1);
    assert_ne!(one, two);
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    daemon(&lab, "node-a").write_config(&one).unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    lab.add_pod("node-a", "pod-a1").unwrap();
    lab.add_pod("node-b", "pod-b1").unwrap();
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    daemon(&lab, "node-a").write_config(&two).unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    lab.add_pod("node-a", "pod-a2").unwrap();
    await_reach(pod(&lab, "pod-a2"), address(&lab, "pod-a1"));
    let before = Counters::settled(daemon(&lab, "node-a"));
    assert_flows(
        &lab,
        &[("pod-b1", "pod-a1"), ("pod-a2", "pod-a1"), ("pod-a1", "pod-b1")],
        "one queue of a pod",
    );
    let after = Counters::settled(daemon(&lab, "node-a"));
    assert!(handed(&after)[1].0 > handed(&before)[1].0, "{after:?}");
    assert_eq!(after.dropped(), before.dropped());
    finish(lab);
}

/// The node file sets the number of queues, somebody adds to them, uninstalling puts the first number back.
#[test]
fn queues_are_set_grow_under_the_switch_and_are_put_back() {
    let _turn = side_by_side();
    let mut lab = wired("channels", 4, 1);
    // The wire's other end sends by no more queues than ours may come to have.
    let rack = lab.switch().namespace();
    rack.run("ethtool", &["-L", "node-a", "tx", "2"]).unwrap();
    let channels = |lab: &Lab| {
        let told = node(lab, "node-a").run("ethtool", &["-l", UPLINK]).unwrap();
        let (_, now) = told.split_once("Current hardware settings").unwrap();
        now.lines()
            .filter_map(|line| line.strip_prefix("RX:").or(line.strip_prefix("TX:")))
            .map(|count| count.trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(channels(&lab), ["4", "4"]);
    let good = node_file(&lab);
    restart_with(&mut lab, &good, "queues = 2");
    assert_eq!(channels(&lab), ["2", "2"]);
    assert_eq!(number(&uplink(&lab)["queues"]), 2);
    await_reach(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));

    // Fewer than there are sockets is what the kernel refuses; more are taken back, since the node file says two.
    let fewer = ["-L", UPLINK, "rx", "1", "tx", "1"];
    let more = ["-L", UPLINK, "rx", "4", "tx", "4"];
    assert!(node(&lab, "node-a").run("ethtool", &fewer).is_err());
    node(&lab, "node-a").run("ethtool", &more).unwrap();
    await_that("two queues again", || channels(&lab) == ["2", "2"]);
    await_reach(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));

    // Where it says nothing, as many are served as there come to be.
    restart_with(&mut lab, &good, "");
    assert_eq!(channels(&lab), ["2", "2"]);
    let before = Counters::settled(daemon(&lab, "node-a"));
    node(&lab, "node-a").run("ethtool", &more).unwrap();
    await_that("a socket on each of four queues", || {
        let row = row(daemon(&lab, "node-a"), "ports", "role", "uplink");
        row.is_some_and(|row| number(&row["queues"]) == 4)
    });
    let workers: Vec<Value> = (0..4)
        .map(|queue| uplink(&lab)["per_queue"][queue]["worker"].clone())
        .collect();
    assert_eq!(workers, [0, 1, 0, 1].map(|worker| json!(worker)));
    await_reach(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    assert_flows(&lab, &[("pod-a1", "pod-b1"), ("pod-b1", "pod-a1")], "four queues");
    let after = Counters::settled(daemon(&lab, "node-a"));
    let total = |counters: &Counters| -> u64 {
        let frames = counters.workers().iter().map(|worker| worker["frames"].clone());
        frames
            .map(|frames| number(&frames["free"]) + number(&frames["in_ports"]))
            .sum()
    };
    assert_eq!(
        total(&before),
        total(&after),
        "no frame went with the old sockets"
    );
    assert_reaches(node(&lab, "node-b"), underlay(&lab, "node-a"));

    // A restart sets two again; uninstalling puts back what was there before the first start.
    restart_with(&mut lab, &good, "queues = 2");
    assert_eq!(channels(&lab), ["2", "2"]);
    let config = daemon(&lab, "node-a").config();
    let done = daemon(&lab, "node-a")
        .ask(&["uninstall", "--stop", "--config", config.to_str().unwrap()])
        .unwrap();
    assert!(
        done.status.success() && done.stdout.contains("queues of eth1"),
        "{done:?}"
    );
    assert_eq!(channels(&lab), ["4", "4"]);
    finish(lab);
}

/// With a running switch, uninstalling takes its program off the uplink before it closes the sockets; nothing is left, and
/// the device's interrupts are as they were.
#[test]
fn a_polled_uplink_is_uninstalled_while_it_runs() {
    let _turn = side_by_side();
    let mut lab = untouched("polled", "native");
    let before = Picture::of(node(&lab, "node-b"));
    let switch = daemon(&lab, "node-b");
    let text = std::fs::read_to_string(switch.config()).unwrap();
    let polled = "[uplink]\nbusy-poll = true\nbusy-poll-usecs = 300\ndefer-hard-irqs = 3";
    switch
        .write_config(&text.replacen("[uplink]", polled, 1))
        .unwrap();
    daemon_mut(&mut lab, "node-b").start().unwrap();
    lab.add_pod("node-b", "first").unwrap();
    lab.add_pod("node-a", "second").unwrap();
    await_reach(pod(&lab, "first"), address(&lab, "second"));
    assert_flows(&lab, &[("first", "second"), ("second", "first")], "polled");
    for (name, value) in [("napi_defer_hard_irqs", "3"), ("gro_flush_timeout", "300000")] {
        let path = format!("/sys/class/net/{UPLINK}/{name}");
        assert_eq!(
            node(&lab, "node-b").run("cat", &[&path]).unwrap().trim(),
            value,
            "{name}"
        );
    }
    let switch = daemon(&lab, "node-b");
    let config = switch.config();
    let uninstall = ["uninstall", "--config", config.to_str().unwrap()];
    let refused = switch.ask(&uninstall).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--stop"), "{refused:?}");
    assert_reaches(pod(&lab, "first"), address(&lab, "second"));
    let done = switch.ask(&[&uninstall[..], &["--stop"]].concat()).unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(done.stdout.contains("interrupts of eth1"), "{done:?}");
    let log = switch.log_end();
    assert!(log.contains("the uplink's program is off"), "{log}");
    assert!(!daemon_mut(&mut lab, "node-b").is_running().unwrap());
    let changes = before.changes(&Picture::of(node(&lab, "node-b")));
    assert!(changes.is_empty(), "{changes:#?}");
    assert_reaches(node(&lab, "node-a"), underlay(&lab, "node-b"));
    finish(lab);
}
