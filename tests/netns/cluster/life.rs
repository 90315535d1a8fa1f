//! The daemon's life and death: the node keeps its own traffic whatever becomes of the switch, pods are cut off without
//! it and back with it, and uninstalling leaves nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millrace_tools::lab::plan::{UPLINK, VXLAN_PORT};
use millrace_tools::lab::traffic::tcp_connect;
use millrace_tools::lab::{Lab, Namespace, POD_INTERFACE, Signal, Topology};

use crate::counters::Counters;
use crate::frames::{ARP, Ear, IPV4, arp, ethernet, mac_of, send, udp_packet};
use crate::picture::Picture;
use crate::pulse::{Pings, Pulse};
use crate::rig::{
    PAIR, PATIENCE, address, alone, assert_cut_off, assert_reaches, await_reach, await_that, daemon,
    daemon_mut, finish, guest, lab, node, pair, pod, port_of, side_by_side, underlay, untouched,
};

/// The kernel's side of the host port.
const HOST_PORT: &str = "millrace0";
/// SSH's port, which the switch never takes; and another, which it just does not want.
const SERVICES: [u16; 2] = [22, 7000];
/// How many of thousands of datagrams may be lost to the client's own forgetting of its neighbour.
const FORGOTTEN_MAX: u64 = 2;
/// Answers that show that traffic goes on.
const SOME: u64 = 50;

/// The node's own traffic on its uplink, from a machine on the rack that is no node.
struct OwnTraffic {
    connections: Vec<Pulse>,
    datagrams: Pulse,
    pings: Pings,
    machine: Pulse,
}

impl OwnTraffic {
    fn start(guest: &Namespace, node: &Namespace, at: Ipv4Addr) -> Self {
        Self {
            connections: SERVICES
                .map(|port| Pulse::tcp(guest, node, SocketAddrV4::new(at, port)))
                .into(),
            datagrams: Pulse::udp(guest, node, SocketAddrV4::new(at, 7001)),
            pings: Pings::start(guest, at),
            machine: Pulse::of_machine(guest),
        }
    }

    fn await_answers(&self, when: &str) {
        for pulse in self.connections.iter().chain([&self.datagrams]) {
            pulse.await_answers(&format!("the node's own traffic while millrace {when}"), SOME);
        }
    }

    /// Nothing was lost and nothing stood still.
    fn end(self) {
        let machine = self.machine.end();
        for pulse in self.connections {
            pulse.end().assert_steady(machine, "the node's own traffic");
        }
        // A neighbour that is removed while it is asked for takes the datagram along that waits for it.
        self.datagrams
            .end()
            .assert_steady_but_for(FORGOTTEN_MAX, machine, "the node's own datagrams");
        let (sent, received) = self.pings.end();
        // The last one may have been under way when it was ended.
        assert!(
            sent - received <= 1,
            "{} of {sent} echo requests were not answered",
            sent - received
        );
    }
}

/// A connection between two pods, idle while the switch is away.
struct Idle(TcpStream, TcpStream);

impl Idle {
    fn open(lab: &Lab, from: &str, to: &str) -> Self {
        let at = SocketAddrV4::new(address(lab, to), 7002);
        let listener = pod(lab, to).within(|| TcpListener::bind(at)).unwrap().unwrap();
        let near = tcp_connect(pod(lab, from), at.into(), PATIENCE).unwrap();
        let far = listener.accept().unwrap().0;
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self(near, far)
    }

    fn talk(&mut self) {
        let said: Vec<u8> = (0..100_000u32).map(|place| (place % 251) as u8).collect();
        let mut heard = vec![0; said.len()];
        let (near, far) = (&mut self.0, &mut self.1);
        std::thread::scope(|scope| {
            scope.spawn(|| near.write_all(&said).unwrap());
            far.read_exact(&mut heard).unwrap();
        });
        assert!(heard == said, "bytes were changed on the way");
    }
}

/// How the switch goes away.
#[derive(Debug, Clone, Copy)]
enum End {
    Stopped,
    Killed,
}

/// While the switch is away, nothing of a pod reaches anyone and nobody reaches a pod, and the kernel tells no peer that
/// nobody listens.
fn assert_pods_cut_off(lab: &Lab) {
    let filter = format!(
        "net 10.244.1.0/24 or (src host {own} and (udp port {VXLAN_PORT} or icmp[icmptype] = icmp-unreach))",
        own = underlay(lab, "node-a")
    );
    let mut rack = Ear::incoming(lab.switch().namespace(), "node-a", &filter);
    let mut host = Ear::incoming(node(lab, "node-a"), HOST_PORT, "");
    let mut uplink = Ear::incoming(node(lab, "node-a"), UPLINK, &format!("udp port {VXLAN_PORT}"));
    let plan = lab.node("node-a").unwrap().plan();
    let from = pod(lab, "pod-a1");
    for to in ["pod-a2", "pod-b1"].map(|pod| address(lab, pod)) {
        assert_cut_off(from, to);
    }
    for to in [plan.tunnel_address(), plan.gateway(), plan.underlay_address()] {
        assert_cut_off(from, to);
    }
    for to in [address(lab, "pod-a1"), plan.tunnel_address()] {
        assert_cut_off(pod(lab, "pod-b1"), to);
    }
    // A pod that knows the MAC it would have to reach, and a broadcast.
    let own = mac_of(from, POD_INTERFACE);
    let broadcast = millrace_tools::lab::plan::Mac([0xff; 6]);
    let here = SocketAddrV4::new(address(lab, "pod-a1"), 9);
    let datagram = udp_packet(here, SocketAddrV4::new(plan.underlay_address(), 9), &[0; 64]);
    let question = arp(1, (own, *here.ip()), (broadcast, plan.gateway()));
    let interface = daemonless_port(lab);
    let switch_side = mac_of(node(lab, "node-a"), &interface);
    let frames = [
        ethernet(switch_side, own, IPV4, &datagram),
        ethernet(broadcast, own, IPV4, &datagram),
        ethernet(broadcast, own, ARP, &question),
    ];
    send(from, POD_INTERFACE, &frames);
    for (place, ear) in [
        ("the rack", &mut rack),
        ("the host port", &mut host),
        ("the kernel behind the uplink", &mut uplink),
    ] {
        let heard = ear.rest();
        assert!(
            heard.is_empty(),
            "{place} got {} frames, the first {:02x?}",
            heard.len(),
            heard[0]
        );
    }
}

/// The node's side of a pod's veth, with no daemon to ask.
fn daemonless_port(lab: &Lab) -> String {
    let links = node(lab, "node-a")
        .ip(&["-o", "link", "show", "type", "veth"])
        .unwrap();
    let mut names = links
        .lines()
        .filter_map(|line| line.split([':', '@']).nth(1).map(str::trim));
    names
        .find(|name| name.starts_with("mr"))
        .expect("a pod's port")
        .to_owned()
}

#[test]
fn the_nodes_own_traffic_outlives_the_switch_and_pods_do_not() {
    let _turn = alone();
    let mut lab = lab(
        "life",
        &Topology {
            pods_per_node: 2,
            ..Topology::of(&PAIR)
        },
    );
    let (client, _) = guest(&lab, "client", 100);
    let own = OwnTraffic::start(&client, node(&lab, "node-a"), underlay(&lab, "node-a"));
    let stop = AtomicBool::new(false);
    let at = underlay(&lab, "node-a").to_string();
    std::thread::scope(|scope| {
        // The client asks by ARP again and again.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Not a flush, which looks again until nothing is left, and finds the entry that a datagram waits for. There
                // may be none yet.
                let _ = client.ip(&["neighbour", "del", &at, "dev", UPLINK]);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live_through(&mut lab, &own)));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    own.end();
    drop(client);
    finish(lab);
}

/// Stops, kills and starts the switch under the node's own traffic.
fn live_through(lab: &mut Lab, own: &OwnTraffic) {
    let ports =
        |lab: &Lab| ["lab/pod-a1", "lab/pod-a2"].map(|name| port_of(daemon(lab, "node-a"), name).unwrap());
    let before = ports(lab);
    let mut far = Idle::open(lab, "pod-a1", "pod-b1");
    let mut near = Idle::open(lab, "pod-a1", "pod-a2");
    own.await_answers("runs");
    for end in [End::Stopped, End::Killed, End::Killed] {
        let daemon = daemon_mut(lab, "node-a");
        let status = match end {
            End::Stopped => daemon.stop().unwrap(),
            End::Killed => daemon.kill().unwrap(),
        };
        assert_eq!(status.success(), matches!(end, End::Stopped), "{end:?}: {status}");
        own.await_answers("is away");
        assert_pods_cut_off(lab);
        daemon_mut(lab, "node-a").start().unwrap();
        for to in ["pod-a2", "pod-b1"].map(|name| address(lab, name)) {
            await_reach(pod(lab, "pod-a1"), to);
        }
        await_reach(node(lab, "node-a"), address(lab, "pod-a1"));
        await_reach(pod(lab, "pod-b1"), address(lab, "pod-a2"));
        let after = ports(lab);
        for (before, after) in before.iter().zip(&after) {
            for key in [
                "interface",
                "mac",
                "peer_mac",
                "addresses",
                "mtu",
                "queues",
                "xdp_mode",
            ] {
                assert_eq!(before[key], after[key], "{key} of an adopted port");
            }
        }
        far.talk();
        near.talk();
        own.await_answers("is back");
        Counters::settled(crate::rig::daemon(lab, "node-a"));
    }
    // Stuck rather than dead.
    daemon_mut(lab, "node-a").signal(Signal::STOP).unwrap();
    own.await_answers("is stuck");
    assert_cut_off(pod(lab, "pod-a1"), address(lab, "pod-a2"));
    daemon_mut(lab, "node-a").signal(Signal::CONT).unwrap();
    await_reach(pod(lab, "pod-a1"), address(lab, "pod-b1"));
}

#[test]
fn uninstalling_leaves_the_node_as_it_was() {
    let _turn = side_by_side();
    for mode in ["native", "generic"] {
        let mut lab = untouched("uninstall", mode);
        let merging = |lab: &Lab| {
            let features = node(lab, "node-b").run("ethtool", &["-k", UPLINK]).unwrap();
            features.contains("generic-receive-offload: on")
        };
        node(&lab, "node-b")
            .run("ethtool", &["-K", UPLINK, "gro", "on"])
            .unwrap();
        assert!(merging(&lab));
        let before = Picture::of(node(&lab, "node-b"));
        daemon_mut(&mut lab, "node-b").start().unwrap();
        lab.add_pod("node-b", "first").unwrap();
        lab.add_pod("node-b", "second").unwrap();
        assert_reaches(pod(&lab, "first"), address(&lab, "second"));
        assert_reaches(node(&lab, "node-b"), address(&lab, "first"));
        let during = Picture::of(node(&lab, "node-b"));
        assert_ne!(before, during);
        // Merged frames do not fit one of the switch's, and only in generic mode would they come.
        assert_eq!(merging(&lab), mode == "native");

        let refused = daemon(&lab, "node-b");
        let config = refused.config();
        let refused = refused
            .ask(&["uninstall", "--config", config.to_str().unwrap()])
            .unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains("stop it first"), "{refused:?}");
        assert_reaches(pod(&lab, "first"), address(&lab, "second"));

        stop_and_uninstall(
            &mut lab,
            &[
                "steering program of eth1",
                "host port millrace0",
                "lab/first",
                "lab/second",
            ],
        );
        let changes = before.changes(&Picture::of(node(&lab, "node-b")));
        assert!(changes.is_empty(), "{mode}: {changes:#?}");
        assert!(
            pod(&lab, "first").ip(&["link", "show", POD_INTERFACE]).is_err(),
            "the pod's end is gone too"
        );
        let left: Vec<_> = std::fs::read_dir(daemon(&lab, "node-b").state())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");

        // With the programs gone the kernel has the tunnel's port again.
        let listener = node(&lab, "node-b").within(|| std::net::UdpSocket::bind(("0.0.0.0", VXLAN_PORT)));
        let listener = listener.unwrap().unwrap();
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = node(&lab, "node-a")
            .within(|| std::net::UdpSocket::bind("0.0.0.0:0"))
            .unwrap()
            .unwrap();
        sender
            .send_to(b"to the kernel", (underlay(&lab, "node-b"), VXLAN_PORT))
            .unwrap();
        listener.recv(&mut [0; 64]).unwrap();
        finish(lab);
    }
}

fn stop_and_uninstall(lab: &mut Lab, removed: &[&str]) {
    assert!(daemon_mut(lab, "node-b").stop().unwrap().success());
    let daemon = daemon(lab, "node-b");
    let config = daemon.config();
    let uninstall = || {
        daemon
            .ask(&["uninstall", "--config", config.to_str().unwrap()])
            .unwrap()
    };
    let done = uninstall();
    assert!(done.status.success(), "{done:?}");
    for what in removed {
        assert!(done.stdout.contains(what), "{what} is not in {}", done.stdout);
    }
    let again = uninstall();
    assert!(
        again.status.success() && again.stdout.contains("nothing"),
        "{again:?}"
    );
}

#[test]
fn a_program_left_behind_keeps_the_tunnel_closed() {
    let _turn = side_by_side();
    let mut lab = pair("orphan", 1);
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    // Even a process of the node that listens on the tunnel's port hears nothing.
    let listener = node(&lab, "node-a")
        .within(|| std::net::UdpSocket::bind(("0.0.0.0", VXLAN_PORT)))
        .unwrap()
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    let unreachable = format!(
        "icmp[icmptype] = icmp-unreach and src host {}",
        underlay(&lab, "node-a")
    );
    let mut peer = Ear::incoming(node(&lab, "node-b"), UPLINK, &unreachable);
    assert_cut_off(pod(&lab, "pod-b1"), address(&lab, "pod-a1"));
    let (here, there) = (
        lab.node("node-b").unwrap().plan(),
        lab.node("node-a").unwrap().plan(),
    );
    let plain = udp_packet(
        SocketAddrV4::new(here.underlay_address(), 9),
        SocketAddrV4::new(address(&lab, "pod-a1"), 9),
        &[1; 9],
    );
    let mut inner = Ear::incoming(pod(&lab, "pod-a1"), POD_INTERFACE, "ip");
    send(
        node(&lab, "node-b"),
        UPLINK,
        &[ethernet(there.uplink_mac(), here.uplink_mac(), IPV4, &plain)],
    );
    assert!(
        peer.rest().is_empty(),
        "the kernel told the peer that nobody listens"
    );
    assert!(inner.rest().is_empty());
    assert!(
        listener.recv(&mut [0; 64]).is_err(),
        "the kernel got a tunnel packet"
    );
    // The kernel has no say in what is not the tunnel's.
    assert_reaches(node(&lab, "node-b"), underlay(&lab, "node-a"));
    daemon_mut(&mut lab, "node-a").start().unwrap();
    await_that("the pod's port", || {
        port_of(daemon(&lab, "node-a"), "lab/pod-a1").is_some()
    });
    await_reach(pod(&lab, "pod-b1"), address(&lab, "pod-a1"));
    finish(lab);
}
