//! A NIC that stops sending, and one whose driver is taken off and given back.

use millrace_tools::lab::plan::UPLINK;
use serde_json::Value;

use crate::counters::Counters;
use crate::rig::{PODS, Rig, await_that};
use crate::traffic::talk;

/// Answers that show that the machine's own connection lives.
const SOME: u64 = 20;
/// How a full transmit ring is named among the reasons for drops.
const RING_FULL: &str = "transmit_ring_full";
/// What the switch says of a queue that stops, and of one that goes on.
const STOPPED: &str = "frames wait in its transmit ring";
const RESUMED: &str = "sends again, after";
/// The setting of a namespace by which it answers no echo request.
const IGNORE_ECHO: &str = "ipv4/icmp_echo_ignore_all";

/// All that is below, on a switch that carries traffic.
pub(crate) fn assert_outlives_all(rig: &Rig, queues: &[u32]) {
    assert_outlives_stalled_ring(rig);
    assert_outlives_driver(rig, queues);
}

/// The wire takes nothing more, so the device's descriptors are used up, and then the socket's ring is full. What comes on top
/// of that is dropped by its name, the switch says which queue it is, pods reach each other meanwhile, and when the wire takes
/// packets again all is as before.
pub(crate) fn assert_outlives_stalled_ring(rig: &Rig) {
    /// What a queue takes at the most that does not send: entries of its socket's transmit ring (`[uplink] socket-ring`) and of
    /// its completion ring, without a place in which the kernel takes no packet out of the first.
    const TAKEN_MAX: u64 = 1024 + 2048;
    let session = rig.open_session();
    session.await_answers(rig, "before the wire stands still", SOME);
    let (stopped, resumed) = (said(rig, STOPPED), said(rig, RESUMED));
    {
        let _step = rig.step("a transmit ring that stands still");
        let before = Counters::settled(&rig.node);
        hold(rig);
        let stalled = flood(rig, &before);
        let taken = stalled.uplink_growth(&before);
        assert!(taken.iter().all(|(_, sent)| *sent <= TAKEN_MAX), "{taken:?}");
        await_that("the switch's word that a queue has stopped", || {
            said(rig, STOPPED) > stopped
        });
        assert!(!stalled_queues(rig).is_empty(), "{:#}", rig.uplink());
        rig.assert_pods_reach_each_other();
    }
    let _step = rig.step("the same ring when the wire takes packets again");
    release(rig);
    await_that("the switch's word that it sends again", || {
        said(rig, RESUMED) > resumed && stalled_queues(rig).is_empty()
    });
    rig.await_reach();
    session.await_answers(rig, "after the wire stood still", SOME);
    session.end();
    Counters::settled(&rig.node);
}

/// Has the wire to the stock node take nothing more. Its pod does not answer what it gets until all is over: a thousand
/// answers at once would be a flood of their own, and not what this is about.
fn hold(rig: &Rig) {
    rig.stock_pod().0.set(IGNORE_ECHO, "1").unwrap();
    rig.lab.switch().hold(&rig.lab.nodes()[0].name()).unwrap();
}

/// Has the wire take packets again, and waits until all that waited for it has left.
fn release(rig: &Rig) {
    rig.lab.switch().release(&rig.lab.nodes()[0].name()).unwrap();
    await_that("an empty transmit ring", || {
        Counters::settled(&rig.node).uplink_under_way() == 0
    });
    rig.stock_pod().0.set(IGNORE_ECHO, "0").unwrap();
}

/// Sends echo requests until one is dropped for a full ring: how many that takes depends on how busy the machine is.
fn flood(rig: &Rig, before: &Counters) -> Counters {
    /// Far more packets than a socket's transmit ring and the device's descriptors have entries together.
    const FLOOD: u64 = 6000;
    let outside = rig.stock_pod().1;
    let mut stalled = before.clone();
    await_that("a drop for a full transmit ring", || {
        rig.told_inside(&format!(
            "ip netns exec {} ping -n -q -c {FLOOD} -l {FLOOD} -w 2 {outside}",
            PODS[0]
        ));
        stalled = Counters::settled(&rig.node);
        stalled.dropped_for(RING_FULL) > before.dropped_for(RING_FULL)
    });
    stalled
}

/// How often the switch's log has these words.
fn said(rig: &Rig, words: &str) -> usize {
    rig.node.log().unwrap().matches(words).count()
}

/// The uplink's queues that have frames to send and do not, in `show ports`.
fn stalled_queues(rig: &Rig) -> Vec<Value> {
    let row = rig.uplink();
    let queues = row["per_queue"].as_array().unwrap().iter();
    let stalled = queues.filter(|queue| queue["stalled_ms"].as_u64().unwrap() > 0);
    stalled.map(|queue| queue["queue"].clone()).collect()
}

/// The NIC's driver is taken off under the running switch, which says that the uplink is gone; it is given back, which
/// resets the device, and the switch has sockets on all queues of the new interface.
pub(crate) fn assert_outlives_driver(rig: &Rig, queues: &[u32]) {
    let session = rig.open_session();
    session.await_answers(rig, "before the driver goes", SOME);
    let device = {
        let _step = rig.step("the driver is taken off");
        let device = rig.node.unbind_driver().unwrap();
        await_that("the switch's word that the uplink is gone", || {
            rig.find_uplink().is_none()
        });
        rig.assert_said(&format!("{UPLINK} is gone"));
        rig.assert_pods_reach_each_other();
        Counters::settled(&rig.node);
        device
    };
    {
        let _step = rig.step("the driver is given back");
        rig.node.bind_driver(&device).unwrap();
        await_that("the uplink among the switch's ports", || {
            rig.find_uplink().is_some()
        });
        rig.assert_said(&format!("{UPLINK} is back"));
        rig.await_reach();
        session.await_answers(rig, "after the driver came back", SOME);
        session.end();
    }
    talk(rig, queues);
}
