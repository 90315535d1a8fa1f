//! What may happen to a NIC under a running switch, and what is left when the switch is gone.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::traffic::{Ping, ping};

use crate::counters::Counters;
use crate::picture::Picture;
use crate::rig::{PATIENCE, PODS, Rig, await_that};
use crate::traffic::{sockets, talk};

/// The uplink's MTU as it is, and a smaller one, in bytes.
const MTU: u32 = 1500;
const SMALLER_MTU: u32 = 1400;
/// Answers that show that the machine's own connection lives.
const SOME: u64 = 20;
/// A port on which nobody listens in a pod (RFC 863).
const DISCARD: u16 = 9;

/// The link goes down and comes up, the cable too, its MTU changes and changes back, somebody asks for fewer queues: each time pods are
/// reached again, and the machine's own connection lives.
pub(crate) fn assert_recovers(rig: &mut Rig, queues: &[u32]) {
    let session = rig.open_session();
    session.await_answers(rig, "before anything happens", SOME);
    {
        let _step = rig.step("link down and up");
        rig.inside(&format!("ip link set {UPLINK} down"));
        await_that("the switch's word that the link is down", || {
            rig.uplink()["up"] == false
        });
        rig.assert_said(&format!("{UPLINK} was set down"));
        rig.inside(&format!("ip link set {UPLINK} up"));
        rig.await_reach();
        rig.assert_said(&format!("{UPLINK} has its link again"));
        session.await_answers(rig, "after the link came up", SOME);
        Counters::settled(&rig.node);
    }
    {
        let _step = rig.step("the cable pulled and plugged in");
        rig.node.machine().set_cable(false).unwrap();
        await_that("the switch's word that the link is down", || {
            rig.uplink()["up"] == false
        });
        rig.assert_said(&format!("{UPLINK} has no link"));
        rig.node.machine().set_cable(true).unwrap();
        rig.await_reach();
        assert_eq!(rig.uplink()["up"], true);
        session.await_answers(rig, "after the cable was plugged in", SOME);
        Counters::settled(&rig.node);
    }
    {
        let _step = rig.step("a smaller MTU and the old one");
        change_mtu(rig, SMALLER_MTU);
        assert_largest(rig, SMALLER_MTU);
        change_mtu(rig, MTU);
        assert_largest(rig, MTU);
        session.await_answers(rig, "after the MTU changed", SOME);
    }
    {
        let _step = rig.step("fewer queues are refused while sockets are on them");
        let ended = rig
            .node
            .machine()
            .complete(&["ethtool", "-L", UPLINK, "combined", "1"], PATIENCE)
            .unwrap();
        assert!(!ended.status.success(), "{ended:?}");
        rig.assert_pings();
    }
    assert_outlives_other_rings(rig);
    session.await_answers(rig, "after the rings changed", SOME);
    session.end();
    talk(rig, queues);
}

/// A switch that hangs, with more tunnel packets for it than its rings hold, takes nothing from the node: a zero-copy queue
/// receives into the switch's memory also what is the kernel's.
pub(crate) fn assert_host_outlives_a_stuck_switch(rig: &Rig, queues: &[u32]) {
    /// Far more than the receive rings of all queues have entries.
    const FLOOD: usize = 12_000;
    const SOURCES: usize = 16;
    let session = rig.open_session();
    session.await_answers(rig, "before the switch hangs", SOME);
    let before = ring_full(rig);
    {
        let _step = rig.step("the machine's own connection, the switch hanging with full rings");
        rig.inside("busybox killall -STOP millrace");
        let at = SocketAddrV4::new(rig.address(PODS[0]), DISCARD);
        let flood = || {
            let sockets: Vec<UdpSocket> = (0..SOURCES)
                .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
                .collect();
            for number in 0..FLOOD {
                // What finds no room on the way is no matter: enough arrives, as the count below shows.
                let _ = sockets[number % SOURCES].send_to(&[0; 64], at);
                if number % 64 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        };
        rig.stock_pod().0.within(flood).unwrap();
        rig.node.machine().rouse().unwrap();
        session.await_answers(rig, "while the switch hangs", SOME);
        rig.inside("busybox killall -CONT millrace");
    }
    let _step = rig.step("the same switch when it goes on");
    rig.drain();
    rig.await_reach();
    session.end();
    Counters::settled(&rig.node);
    let after = ring_full(rig);
    for (queue, (before, after)) in queues.iter().zip(before.iter().zip(&after)) {
        assert!(
            after > before,
            "queue {queue}: its ring was never full: {before} -> {after}"
        );
    }
}

/// How often the receive ring of each of the uplink's sockets was full, in the kernel's count.
fn ring_full(rig: &Rig) -> Vec<u64> {
    let stats = rig.node.json(&["stats"]).unwrap();
    let ports = stats["ports"].as_array().unwrap();
    let uplink = ports.iter().find(|port| port["name"] == UPLINK).unwrap();
    let queues = uplink["queues"].as_array().unwrap().iter();
    queues
        .map(|queue| queue["device"]["rx_ring_full"].as_u64().unwrap())
        .collect()
}

/// The driver takes other rings under the running switch, and the sockets on them live on.
fn assert_outlives_other_rings(rig: &Rig) {
    let _step = rig.step("other descriptor rings, and the old ones");
    let rings = |rx: &str| {
        rig.inside(&format!("ethtool -G {UPLINK} rx {rx}"));
        rig.await_reach();
    };
    rings("128");
    rings("256");
    Counters::settled(&rig.node);
}

/// What the device cannot be is refused with the key, the driver and what it can be.
pub(crate) fn assert_refuses_too_much(rig: &mut Rig) {
    let of = |what: &str| format!("{what}: {UPLINK} (driver virtio_net) has at most");
    rig.assert_refused("queues = 3", &format!("{} 2;", of("queues = 3")));
    rig.assert_refused(
        "rx-ring = 512",
        &format!("{} 256 descriptors", of("rx-ring = 512")),
    );
    rig.assert_refused(
        "tx-ring = 512",
        &format!("{} 256 descriptors", of("tx-ring = 512")),
    );
}

/// The device has so many transmit descriptors a queue, and puts its interrupts off, as the node file asks; uninstall puts
/// back what there was.
pub(crate) fn assert_set(rig: &Rig, count: u32) {
    let delay = rig.inside(&format!("cat /sys/class/net/{UPLINK}/napi_defer_hard_irqs"));
    assert_ne!(delay.trim(), "0");
    let told = rig.inside(&format!("ethtool -g {UPLINK}"));
    let (most, now) = told.split_once("Current hardware settings:").unwrap();
    let of = |part: &str| {
        let numbers = part.lines().filter_map(|line| line.strip_prefix("TX:"));
        numbers.map(|number| number.trim().parse::<u32>().unwrap()).next()
    };
    assert_eq!(of(now), Some(count), "{told}");
    assert!(of(most) > Some(count), "{told}");
}

/// Somebody gives the NIC more queues under the running switch: it takes them.
pub(crate) fn assert_follows_queues(rig: &Rig, queues: &[u32]) {
    let _step = rig.step("more queues under the running switch");
    rig.inside(&format!("ethtool -L {UPLINK} combined {}", queues.len()));
    await_that("a socket on each new queue", || {
        sockets(rig).keys().copied().eq(queues.iter().copied())
    });
    rig.await_reach();
    talk(rig, queues);
}

fn change_mtu(rig: &Rig, mtu: u32) {
    rig.inside(&format!("ip link set {UPLINK} mtu {mtu}"));
    await_that("the uplink's MTU in the switch", || rig.uplink()["mtu"] == mtu);
    rig.await_reach();
}

/// A packet that fills the tunnel passes both ways; one byte more is too large for it, if the pod could send it at all.
fn assert_largest(rig: &Rig, uplink_mtu: u32) {
    /// Bytes a VXLAN tunnel over IPv4 adds.
    const OVERHEAD: u32 = millrace_tools::lab::plan::VXLAN_OVERHEAD;
    /// Bytes of IPv4 and ICMP headers before an echo's payload.
    const HEADERS: u32 = 28;
    let (from, target) = (rig.stock_pod().0, rig.address(PODS[0]));
    let full = Ping {
        patience: PATIENCE,
        ..Ping::full_size(uplink_mtu - OVERHEAD)
    };
    let report = ping(from, target.into(), &full).unwrap();
    assert_eq!(report.received, report.sent, "{report:?}");
    if uplink_mtu < MTU {
        let payload = uplink_mtu - OVERHEAD - HEADERS + 1;
        let line = format!(
            "ip netns exec {} ping -n -c 1 -W 5 -M do -s {payload} {}",
            PODS[0],
            rig.stock_pod().1
        );
        let told = rig.told_inside(&line);
        assert!(
            told.contains("Frag needed") || told.contains("Message too long"),
            "{told}"
        );
    }
}

/// Uninstalls, and finds the machine as it was.
pub(crate) fn assert_uninstalls(rig: &mut Rig, before: &Picture) {
    let _step = rig.step("uninstall leaves the machine as it was");
    let told = rig
        .node
        .ask(&["uninstall", "--config", &rig.node.config()])
        .unwrap()
        .success()
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(told.contains("steering program"), "{told}");
    let changes = before.changes(&Picture::of(rig));
    assert!(changes.is_empty(), "{changes:#?}");
}
