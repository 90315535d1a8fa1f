//! A node between the two ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use millrace_dataplane::frame::Holder;
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{Port, QueueId};
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::pktgen::example::{Between, LEFT, RIGHT, Stage};
use millrace_tools::pktgen::settings::Kind;
use millrace_tools::pktgen::{Confession, Faults, Faulty, Place, Steering};

use super::{eventually, own_losses, run, settings};

/// Carries packets from the node's left interface to its right one, badly. Dropping it ends that.
struct Bad {
    stop: Arc<AtomicBool>,
    /// Packets that its own sockets lost.
    lost: Arc<AtomicU64>,
    confession: Confession,
    thread: Option<thread::JoinHandle<()>>,
    _steering: Steering,
}

impl Bad {
    fn start(stage: &Stage, faults: Faults) -> Self {
        let node = stage.node().unwrap().name();
        let place = Place::inside(LEFT, node);
        let (umem, mut pool) = place.within(|| Umem::new(8192)).unwrap().unwrap();
        let bind = |name: &str, holder| {
            let fill = FillPolicy {
                base: 2048,
                max: 2048,
            };
            place
                .within(|| XskPort::bind(&umem, name, QueueId(0), Holder::port(holder), fill))
                .unwrap()
                .unwrap()
        };
        let (mut left, right) = (bind(LEFT, 0), bind(RIGHT, 1));
        left.settle(&mut pool);
        let steering =
            Steering::attach(&place, place.facts().unwrap(), XdpMode::Auto, &[left.socket()]).unwrap();
        let (mut right, confession) = Faulty::new(right, faults);
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, losing) = (Arc::clone(&stop), Arc::clone(&lost));
        let thread = thread::spawn(move || {
            let mut frames = Vec::new();
            while !told.load(Ordering::Relaxed) {
                if left.receive(&mut pool, &mut frames, 64) == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
                for frame in frames.drain(..) {
                    if let Err(frame) = right.send(&mut pool, frame) {
                        pool.give(frame);
                        losing.fetch_add(1, Ordering::Relaxed);
                    }
                }
                right.flush();
                left.settle(&mut pool);
                right.settle(&mut pool);
            }
            let (left, right) = (
                left.device_statistics().unwrap(),
                right.device_statistics().unwrap(),
            );
            losing.fetch_add(
                left.rx_dropped + left.rx_ring_full + right.tx_dropped,
                Ordering::Relaxed,
            );
        });
        Self {
            stop,
            lost,
            confession,
            thread: Some(thread),
            _steering: steering,
        }
    }

    /// Ends it; answers what its own sockets lost.
    fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn whatever_a_node_does_wrong_is_counted_exactly() {
    let rows = [
        Faults {
            drop: 10,
            ..Faults::default()
        },
        Faults {
            duplicate: 9,
            ..Faults::default()
        },
        Faults {
            delay: 40,
            delay_by: 5,
            ..Faults::default()
        },
        Faults {
            corrupt: 4,
            ..Faults::default()
        },
        Faults {
            drop: 31,
            duplicate: 37,
            delay: 41,
            delay_by: 20,
            corrupt: 0,
        },
    ];
    for faults in rows {
        let stage = Stage::bring_up("pg-bad", Between::Kernel).unwrap();
        let mut bad = Bad::start(&stage, faults);
        let outcome = run(&settings(&stage, 4000));
        let sent = outcome.sent.unwrap();
        let did = bad.confession.read();
        let bad_lost = bad.end();
        let received = outcome.received.unwrap();
        let more = bad_lost + own_losses(&outcome);
        assert!(did.packets + more >= sent.packets, "{did:?}, {sent:?}");
        let found = (received.duplicates, received.reordered, received.corrupt);
        if more == 0 {
            assert_eq!(
                found,
                (did.duplicated, did.delayed, did.corrupted),
                "{faults:?}: {received:?}"
            );
        }
        assert_eq!(
            outcome.lost.unwrap(),
            did.dropped + more,
            "{faults:?}: {received:?}, {did:?}"
        );
        assert!(
            did.dropped + did.duplicated + did.delayed + did.corrupted >= 50,
            "{did:?}"
        );
    }
}

#[test]
fn packets_survive_nat_and_what_a_firewall_drops_is_what_is_lost() {
    let stage = Stage::bring_up("pg-nat", Between::Kernel).unwrap();
    let node = stage.node().unwrap();
    let rules = "add table ip t; \
        add counter ip t dropped; \
        add chain ip t forward { type filter hook forward priority 0; }; \
        add rule ip t forward udp sport 1024-1123 counter name dropped drop; \
        add chain ip t post { type nat hook postrouting priority 100; }; \
        add rule ip t post oifname right masquerade";
    node.run("nft", &[rules]).unwrap();
    let mut settings = settings(&stage, 4000);
    settings.packets.flows = Some(1000);
    let outcome = run(&settings);
    let counters = node.run("nft", &["-j", "list", "counters"]).unwrap();
    let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
    let rows = counters.pointer("/nftables").unwrap().as_array().unwrap();
    let dropped = rows
        .iter()
        .find_map(|row| row.pointer("/counter/packets")?.as_u64())
        .unwrap();
    assert!(dropped > 300, "{dropped}");
    assert_eq!(outcome.lost.unwrap(), dropped + own_losses(&outcome));
    let received = outcome.received.unwrap();
    assert_eq!(
        (received.corrupt, received.duplicates, received.strangers),
        (0, 0, 0),
        "{received:?}"
    );
    let entries = node
        .run("sh", &["-c", "cat /proc/net/nf_conntrack 2>/dev/null | wc -l"])
        .unwrap();
    eventually("a connection", || !entries.trim().is_empty());
}

#[test]
fn packets_are_found_in_the_kernels_vxlan() {
    let stage = Stage::bring_up("pg-vxlan", Between::Kernel).unwrap();
    let node = stage.node().unwrap();
    let device = [
        "link",
        "add",
        "wrap",
        "type",
        "vxlan",
        "id",
        "7",
        "remote",
        "198.19.255.1",
        "dstport",
        "4789",
        "dev",
        RIGHT,
    ];
    node.ip(&device).unwrap();
    node.set("ipv6/conf/wrap/disable_ipv6", "1").unwrap();
    node.ip(&["address", "add", "203.0.113.1/24", "dev", "wrap"])
        .unwrap();
    node.ip(&["link", "set", "wrap", "up"]).unwrap();
    node.ip(&[
        "neighbour",
        "add",
        "203.0.113.9",
        "lladdr",
        "02:00:00:00:00:09",
        "dev",
        "wrap",
        "nud",
        "permanent",
    ])
    .unwrap();
    let mut settings = settings(&stage, 2000);
    settings.packets.destination = "203.0.113.9".parse().ok();
    settings.packets.protocol = Some(Kind::Tcp);
    let outcome = run(&settings);
    let received = outcome.received.unwrap();
    assert_eq!(outcome.lost.unwrap(), own_losses(&outcome), "{received:?}");
    assert_eq!(
        (received.vxlan, received.corrupt),
        (received.packets, 0),
        "{received:?}"
    );
}
