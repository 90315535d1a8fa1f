//! Ports that come and go under traffic: no frame is lost, and the others notice nothing.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use millrace::admin::client::Client;
use millrace::admin::protocol::{Attach, Request};
use millrace_tools::lab::plan::{PREFIX_LENGTH, UPLINK};
use millrace_tools::lab::{Daemon, Lab, Namespace, Topology, WireEnd};

use crate::counters::{Counters, FRAMES};
use crate::pulse::{Beats, Pings, Pulse};
use crate::rig::{
    PAIR, address, alone, assert_cut_off, assert_reaches, await_reach, await_that, daemon, daemon_mut,
    finish, lab, node, pair, pod, port_of, rows, side_by_side, underlay,
};

/// How often a pod is attached and detached in all.
const ROUNDS: usize = 1000;
/// How many pods come and go side by side.
const AT_ONCE: usize = 4;
/// Frames that the uplink and the host port hold for each of their queues are a multiple of this (`FillPolicy::WIDE`).
const WIDE_BASE: u64 = 1024;

/// The host number of the first pod that comes and goes.
const FIRST_PASSER: u8 = 100;

/// What the daemon says when the kernel, or it itself, could not keep up.
const BUSY: [&str; 2] = ["no answer from the kernel within", "the daemon was too busy"];

/// A pod that comes and goes: its namespace stays, its port does not.
struct Passer {
    namespace: Namespace,
    name: String,
    address: Ipv4Addr,
}

impl Passer {
    fn new(lab: &Lab, number: usize) -> Self {
        let name = format!("passer-{number}");
        let address = Ipv4Addr::new(10, 244, 1, FIRST_PASSER + number as u8);
        Self {
            namespace: lab.namespace(&name).unwrap(),
            name: format!("lab/{name}"),
            address,
        }
    }

    fn attach(&self) -> Request {
        Request::Attach(Attach {
            pod: self.name.clone(),
            netns: self.namespace.path(),
            addresses: vec![self.address.into()],
            interface: "eth0".to_owned(),
            ..Attach::default()
        })
    }

    fn detach(&self) -> Request {
        Request::Detach {
            pod: self.name.clone(),
        }
    }

    /// Datagrams to another pod, far more than the port's rings have finished with when it goes.
    fn send_to(&self, to: Ipv4Addr) {
        let socket = self
            .namespace
            .within(|| UdpSocket::bind("0.0.0.0:0"))
            .unwrap()
            .unwrap();
        for _ in 0..64 {
            // The first wait for ARP, and may find no room to wait in.
            let _ = socket.send_to(&[0xa5; 1000], (to, 9));
        }
    }

    /// Comes and goes as often as there are rounds left.
    fn pass(&self, socket: &Path, rounds: &AtomicUsize, to: Ipv4Addr) {
        let mut client = Client::connect(socket).unwrap();
        while rounds.fetch_add(1, Ordering::Relaxed) < ROUNDS {
            self.ask(&mut client, &self.attach());
            self.send_to(to);
            self.ask(&mut client, &self.detach());
        }
    }

    /// Asks as whoever runs pods does: again, if the machine was too busy.
    fn ask(&self, client: &mut Client, request: &Request) {
        for _ in 0..10 {
            match client.request(request) {
                Ok(_) => return,
                Err(failure) if BUSY.iter().any(|words| failure.message.contains(words)) => {
                    // What was asked for may have been done all the same.
                    let _ = client.request(&self.detach());
                }
                Err(failure) => panic!("{request:?}: {failure:?}"),
            }
        }
        panic!("{request:?}: the daemon is busy without end");
    }
}

/// All that is not with the uplink and the host port is free, and they hold what they always hold.
fn assert_whole(daemon: &Daemon) {
    await_that("every frame back", || {
        let counters = Counters::settled(daemon);
        let workers = counters.workers().len() as u64;
        let queues: u64 = rows(daemon, "ports")
            .iter()
            .map(|port| port["queues"].as_u64().unwrap())
            .sum();
        let each = queues / workers;
        counters
            .workers()
            .iter()
            .zip(counters.frames_in_ports())
            .all(|(worker, in_ports)| {
                let frames = &worker["frames"];
                let whole = frames["free"].as_u64().unwrap() + in_ports == FRAMES && frames["in_tokens"] == 0;
                whole
                    && in_ports % WIDE_BASE == 0
                    && (each * WIDE_BASE..=each * 2 * WIDE_BASE).contains(&in_ports)
            })
    });
}

/// Only the node's own ports are left, on the daemon and in the kernel.
fn assert_no_pod_ports(lab: &Lab) {
    let roles: Vec<_> = rows(daemon(lab, "node-a"), "ports")
        .into_iter()
        .map(|row| row["role"].clone())
        .collect();
    assert_eq!(roles, ["host", "uplink"]);
    let links = node(lab, "node-a")
        .ip(&["-o", "link", "show", "type", "veth"])
        .unwrap();
    assert_eq!(links.lines().count(), 3, "{links}");
}

#[test]
fn a_thousand_pods_come_and_go_under_traffic() {
    let _turn = alone();
    let mut lab = lab(
        "passers",
        &Topology {
            pods_per_node: 2,
            ..Topology::of(&PAIR)
        },
    );
    let passers: Vec<Passer> = (0..AT_ONCE).map(|number| Passer::new(&lab, number)).collect();
    let far = SocketAddrV4::new(address(&lab, "pod-b2"), 7000);
    let near = SocketAddrV4::new(address(&lab, "pod-a2"), 7000);
    let machine = Pulse::of_machine(pod(&lab, "pod-a2"));
    let pulses = [
        Pulse::tcp(pod(&lab, "pod-a2"), pod(&lab, "pod-b2"), far),
        Pulse::udp(pod(&lab, "pod-a1"), pod(&lab, "pod-a2"), near),
    ];
    let socket = daemon(&lab, "node-a").socket();
    let (rounds, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let to = address(&lab, "pod-b1");
    std::thread::scope(|scope| {
        // Traffic towards those that come and go, so that it is under way to each that goes.
        scope.spawn(|| {
            let sender = pod(&lab, "pod-b1")
                .within(|| UdpSocket::bind("0.0.0.0:0"))
                .unwrap()
                .unwrap();
            while !stop.load(Ordering::Relaxed) {
                for passer in &passers {
                    let _ = sender.send_to(&[0x5a; 1000], (passer.address, 9));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let passing: Vec<_> = passers
            .iter()
            .map(|passer| scope.spawn(|| passer.pass(&socket, &rounds, to)))
            .collect();
        let ended: Vec<_> = passing
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        for result in ended {
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let machine = machine.end();
    for pulse in pulses {
        pulse.end().assert_steady(machine, "traffic between other pods");
    }
    let counters = Counters::settled(daemon(&lab, "node-a"));
    assert!(
        counters.total("received") > (ROUNDS * 10) as u64,
        "there was traffic: {counters:?}"
    );
    lab.remove_pod("pod-a1").unwrap();
    lab.remove_pod("pod-a2").unwrap();
    assert_no_pod_ports(&lab);
    assert_whole(daemon(&lab, "node-a"));
    // And it goes on.
    lab.add_pod("node-a", "after").unwrap();
    assert_reaches(pod(&lab, "after"), address(&lab, "pod-b1"));
    drop(passers);
    finish(lab);
}

#[test]
fn a_namespace_that_vanishes_takes_its_port_with_it() {
    let _turn = side_by_side();
    let mut lab = pair("vanish", 1);
    let at = SocketAddrV4::new(address(&lab, "pod-b1"), 7000);
    let bystander = Pulse::udp(pod(&lab, "pod-a1"), pod(&lab, "pod-b1"), at);
    for _ in 0..5 {
        let passer = Passer::new(&lab, 0);
        let mut client = Client::connect(&daemon(&lab, "node-a").socket()).unwrap();
        client.request(&passer.attach()).unwrap();
        assert_reaches(&passer.namespace, address(&lab, "pod-b1"));
        // A process inside and a sender outside keep packets under way to and from it, to the last.
        let inside = Pings::start(&passer.namespace, address(&lab, "pod-b1"));
        let outside = pod(&lab, "pod-b1")
            .within(|| UdpSocket::bind("0.0.0.0:0"))
            .unwrap()
            .unwrap();
        let (name, to) = (passer.name.clone(), passer.address);
        while_sending(&outside, to, || {
            std::thread::sleep(Duration::from_millis(50));
            drop(passer);
            await_that("the port to go", || {
                port_of(daemon(&lab, "node-a"), &name).is_none()
            });
        });
        drop(inside);
    }
    let Beats { answered, lost, .. } = bystander.end();
    assert_eq!(lost, 0, "of {answered}");
    lab.remove_pod("pod-a1").unwrap();
    assert_no_pod_ports(&lab);
    assert_whole(daemon(&lab, "node-a"));
    finish(lab);
}

#[test]
fn what_vanishes_while_nobody_looks_is_missed_at_the_next_start() {
    let _turn = side_by_side();
    let mut lab = pair("missed", 2);
    let passer = Passer::new(&lab, 0);
    let mut client = Client::connect(&daemon(&lab, "node-a").socket()).unwrap();
    client.request(&passer.attach()).unwrap();
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    let name = passer.name.clone();
    drop(passer);
    daemon_mut(&mut lab, "node-a").start().unwrap();
    let log = std::fs::read_to_string(daemon(&lab, "node-a").log()).unwrap();
    let told = |line: &str| line.contains("gone meanwhile") && line.contains(&name);
    assert!(log.lines().any(told), "{log}");
    assert!(port_of(daemon(&lab, "node-a"), &name).is_none());
    await_reach(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));

    // The host port is what the switch's memory hangs on: without it there is no going on, and a restart mends it.
    node(&lab, "node-a").ip(&["link", "delete", "millrace0"]).unwrap();
    await_that("the daemon to end", || {
        !daemon_mut(&mut lab, "node-a").is_running().unwrap()
    });
    let log = daemon(&lab, "node-a").log_end();
    assert!(
        log.contains("millrace: the host port millrace0p is gone"),
        "{log}"
    );
    assert_cut_off(pod(&lab, "pod-a1"), address(&lab, "pod-a2"));
    assert_reaches(node(&lab, "node-b"), underlay(&lab, "node-a"));
    daemon_mut(&mut lab, "node-a").start().unwrap();
    await_reach(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    await_reach(node(&lab, "node-a"), address(&lab, "pod-a2"));
    finish(lab);
}

#[test]
fn the_uplink_goes_and_comes_back() {
    let _turn = side_by_side();
    let mut lab = pair("uplink", 2);
    let (from, near, far) = ("pod-a1", address(&lab, "pod-a2"), address(&lab, "pod-b1"));
    let plan = lab.node("node-a").unwrap().plan();
    let prefix = format!("{}/{PREFIX_LENGTH}", plan.underlay_address());
    for _ in 0..2 {
        node(&lab, "node-a").ip(&["link", "set", UPLINK, "down"]).unwrap();
        await_that("the port shown down", || {
            uplink(&lab).is_some_and(|port| port["up"] == false)
        });
        assert_cut_off(pod(&lab, from), far);
        assert_reaches(pod(&lab, from), near);
        node(&lab, "node-a").ip(&["link", "set", UPLINK, "up"]).unwrap();
        await_reach(pod(&lab, from), far);
        await_reach(pod(&lab, "pod-b1"), address(&lab, from));
    }

    node(&lab, "node-a").ip(&["link", "delete", UPLINK]).unwrap();
    await_that("the port to go", || uplink(&lab).is_none());
    assert_cut_off(pod(&lab, from), far);
    assert_reaches(pod(&lab, from), near);
    let end = WireEnd {
        namespace: node(&lab, "node-a"),
        interface: UPLINK,
        mac: Some(plan.uplink_mac()),
    };
    lab.switch().join("node-a", end).unwrap();
    node(&lab, "node-a")
        .ip(&["address", "add", &prefix, "dev", UPLINK])
        .unwrap();
    await_reach(pod(&lab, from), far);
    await_reach(pod(&lab, "pod-b1"), address(&lab, from));
    assert_reaches(node(&lab, "node-b"), underlay(&lab, "node-a"));

    // A second pod can be made on the new one, and all frames are where they should be.
    lab.add_pod("node-a", "after").unwrap();
    assert_reaches(pod(&lab, "after"), far);
    for name in ["after", "pod-a1", "pod-a2"] {
        lab.remove_pod(name).unwrap();
    }
    assert_whole(daemon(&lab, "node-a"));
    finish(lab);
}

/// Does `work` while datagrams go out without a pause.
fn while_sending(socket: &UdpSocket, to: Ipv4Addr, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.send_to(&[1; 500], (to, 9));
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn uplink(lab: &Lab) -> Option<serde_json::Value> {
    crate::rig::row(daemon(lab, "node-a"), "ports", "role", "uplink")
}
