//! The load generator on the machine's NIC, its other end on the stock node.

use millrace_dataplane::port::QueueId;
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::pktgen::settings::{Settings, setup, trial};
use millrace_tools::pktgen::{Binding, Listening, Place, Receiver, Session, Sink};
use serde_json::Value;

use crate::rig::{PATIENCE, Rig, await_that};

/// Packets each way, and how many a second: the machine is emulated.
const PACKETS: u64 = 400;
const RATE: u64 = 200;

/// Sends from the NIC in zero-copy mode by both queues, and then to it; everything is counted once.
pub(crate) fn assert_counts_exactly(rig: &Rig) {
    let before = rig.inside(&format!("ip -d link show {UPLINK}"));
    let stock = rig.lab.node("node-a").unwrap();
    let place = Place::inside(UPLINK, stock.namespace().name());
    {
        let _step = rig.step("the generator sends in zero-copy mode");
        let listening = Listening {
            place: place.clone(),
            queues: Vec::new(),
            cores: Vec::new(),
            mode: XdpMode::Auto,
            binding: Binding::Copy,
        };
        let receiver = Receiver::listen(&listening, None).unwrap();
        let to = stock.plan().uplink_mac();
        let line = format!(
            "millrace-pktgen run --json --send {UPLINK} --send-queue 0,1 --send-bind zero-copy --destination-mac {to} \
             --size 1000 --rate {RATE} --packets {PACKETS} --seconds 60"
        );
        let outcome: Value = serde_json::from_str(&rig.inside(&line)).unwrap();
        let sent = outcome.pointer("/sent/packets").and_then(Value::as_u64);
        assert_eq!(sent, Some(PACKETS), "{outcome}");
        assert!(
            outcome
                .pointer("/ends/1")
                .unwrap()
                .to_string()
                .contains("zero-copy"),
            "{outcome}"
        );
        await_that("every packet", || receiver.received().distinct == PACKETS);
        let received = receiver.stop().unwrap();
        assert_eq!(
            (received.packets, received.corrupt, received.gaps),
            (PACKETS, 0, 0),
            "{received:?}"
        );
    }
    let _step = rig.step("the generator receives in zero-copy mode");
    let line = format!(
        "millrace-pktgen run --json --receive {UPLINK} --receive-core 0,1 --receive-bind zero-copy --promiscuous --seconds 3000 \
         > /tmp/received.json"
    );
    rig.node
        .machine()
        .spawn(&["sh", "-c", &line], "/var/log/pktgen.log")
        .unwrap();
    // The program comes last: the sockets are bound by then, and in its map.
    await_that("an XDP program", || {
        rig.inside(&format!("ip -d link show {UPLINK}"))
            .contains("prog/xdp")
    });
    let before_run = redirected(rig);
    let mut settings = Settings::default();
    settings.send.interface = Some(UPLINK.to_owned());
    settings.send.netns = Some(stock.namespace().name().to_owned());
    settings.send.queues = Some(vec![QueueId(0).0]);
    settings.packets.destination_mac = rig.node.plan().uplink_mac().to_string().parse().ok();
    settings.packets.flows = Some(50);
    settings.run.packets = Some(PACKETS);
    settings.run.rate = RATE.to_string().parse().ok();
    settings.time.seconds = Some(PATIENCE.as_secs_f64());
    let mut session = Session::open(setup(&settings).unwrap().setup).unwrap();
    let outcome = session
        .run(&trial(&settings).unwrap().0, &false.into(), &mut |_| {})
        .unwrap();
    assert_eq!(outcome.sent.unwrap().packets, PACKETS);
    // What is in the rings when the generator is told to end, it still takes. Others on the rack may have said something, so
    // the count is to rest as well.
    let mut latest = before_run;
    rig.await_answer("every packet at the machine's NIC", || {
        let now = redirected(rig);
        let is_at_rest = std::mem::replace(&mut latest, now) == now;
        Ok(is_at_rest && now >= before_run + PACKETS)
    });
    rig.inside("killall -INT millrace-pktgen");
    await_that("a result", || {
        rig.inside("cat /tmp/received.json").ends_with("}\n")
    });
    let outcome: Value = serde_json::from_str(&rig.inside("cat /tmp/received.json")).unwrap();
    let number = |path: &str| outcome.pointer(path).and_then(Value::as_u64);
    assert_eq!(
        (number("/received/distinct"), number("/lost")),
        (Some(PACKETS), Some(0)),
        "{outcome}"
    );
    assert!(
        outcome
            .pointer("/ends/0")
            .unwrap()
            .to_string()
            .contains("zero-copy"),
        "{outcome}"
    );
    // The program is gone, and so is the promiscuous mode.
    let after = rig.inside(&format!("ip -d link show {UPLINK}"));
    assert_eq!(
        after.contains("xdp") || after.contains("PROMISC"),
        before.contains("xdp") || before.contains("PROMISC"),
        "{after}"
    );
}

/// How many packets the NIC's driver has given to AF_XDP sockets.
fn redirected(rig: &Rig) -> u64 {
    let told = rig.inside(&format!("ethtool -S {UPLINK}"));
    let mut counts = told
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rx_xdp_redirects: "));
    counts.next().unwrap().parse().unwrap()
}

/// What docs/pktgen.md says of the kernel's own generator, with fewer packets, a millisecond apart.
const KERNELS_OWN: &str = "\
set -e
echo 'add_device eth1' > /proc/net/pktgen/kpktgend_0
for line in 'count 300' 'clone_skb 0' 'pkt_size 60' 'dst 198.19.0.1' 'dst_mac MAC' 'udp_dst_min 9' 'udp_dst_max 9' 'burst 1' \
    'delay 1000000'; do echo \"$line\" > /proc/net/pktgen/eth1; done
echo start > /proc/net/pktgen/pgctrl
grep -q 'Result: OK' /proc/net/pktgen/eth1
echo rem_device_all > /proc/net/pktgen/kpktgend_0
";

/// The kernel's own generator is counted like anyone.
pub(crate) fn assert_counts_the_kernels_own(rig: &Rig) {
    let _step = rig.step("the kernel's pktgen");
    let stock = rig.lab.node("node-a").unwrap();
    let sink = Sink::attach(&Place::inside(UPLINK, stock.namespace().name()), XdpMode::Auto).unwrap();
    let script = KERNELS_OWN.replace("MAC", &stock.plan().uplink_mac().to_string());
    rig.node.machine().write("/tmp/pktgen.sh", &script).unwrap();
    rig.inside("sh /tmp/pktgen.sh");
    await_that("300 packets", || sink.packets().unwrap() >= 300);
}
